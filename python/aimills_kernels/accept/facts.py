"""What the journals of a pod say, put in the order of the report. Needs no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from aimills_kernels.accept import journal
from aimills_kernels.accept.evidence import Pod, Rank
from aimills_kernels.accept.judging.view import View
from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.accept.values import number
from aimills_kernels.report.parts import flat

Row = dict[str, Any]

POD, CPU, SIMULATED, UNKNOWN = "pod", "cpu", "simulated", "unknown"
BENCHES = 8  # devices whose records of times the report holds; the journals hold all
# From the worst on: what a stage of several devices is called.
_STATES = ("failed", "wrong", "cut", "not run", "excluded", "passed")


def where(rank: Rank) -> str:
    """As findings name a device: "node-3 cuda:5"."""
    return rank.where


def hardware(pod: Pod) -> str:
    """What the evidence is of. One simulated device or CPU makes all of it no pod's; a rank that
    died before it said what it is says nothing of the others."""
    ranks = [r for r in pod.ranks if r.begin]
    if any(r.simulated for r in ranks):
        return SIMULATED
    if any(r.device == "cpu" for r in ranks):
        return CPU
    return POD if ranks and all(r.device.startswith("cuda") for r in ranks) else UNKNOWN


# ---- devices and what was measured on them


def devices(pod: Pod) -> list[Row]:
    return [
        {
            "where": where(rank),
            "node": rank.node,
            "rank": rank.rank,
            "device": rank.device,
            "uuid": text_or_none(rank.begin.get("uuid")),
            "sku": rank.sku,
            "ended": rank.ended,
            "journal": rank.path.name if rank.path else None,
            "entries": len(rank.entries),
            "head": journal.head_of(list(rank.entries)),
            "measures": measures(rank),
        }
        for rank in pod.ranks
    ]


def measures(rank: Rank) -> dict[str, Row]:
    """By metric the value that is judged, with its detail, and how often it was measured."""
    view, found = View(rank), {}
    for metric, entries in view.measures.items():
        value = view.value(metric)
        entry = next((e for e in reversed(entries) if e["value"] == value), entries[-1])
        found[metric] = {
            "value": value, "unit": entry["unit"], "n": len(entries),
            "detail": entry.get("detail") or {},
        }  # fmt: skip
    return found


def comparison(found: Sequence[Row]) -> dict[str, Row]:
    """By metric: median, median absolute deviation, and the ends. Of devices, two at the least."""
    measured: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for device in found:
        for metric, row in device["measures"].items():
            if (value := number(row["value"])) is not None:
                measured[metric].append((value, device["where"]))
    made = {}
    for metric in sorted(measured, key=_declared):
        known = sorted(measured[metric])
        if len(known) < 2:
            continue
        middle = median(v for v, _ in known)
        made[metric] = {
            "unit": METRICS[metric].unit if metric in METRICS else "1",
            "n": len(known),
            "median": middle,
            "mad": median(abs(v - middle) for v, _ in known),
            "low": {"value": known[0][0], "where": known[0][1]},
            "high": {"value": known[-1][0], "where": known[-1][1]},
        }
    return made


def _declared(metric: str) -> tuple[int, str]:
    order = list(METRICS)
    return (order.index(metric) if metric in METRICS else len(order), metric)


# ---- what ran, and what did not


def stages(pod: Pod) -> list[Row]:
    """A row for each stage of the pod: the worst outcome and the longest time of its devices."""
    found: dict[str, list[tuple[Rank, Row]]] = defaultdict(list)
    for rank in pod.ranks:
        for name, entry in rank.stages().items():
            found[name].append((rank, entry))
    return [_stage(name, entries, len(pod.ranks)) for name, entries in found.items()]


def _stage(name: str, entries: list[tuple[Rank, Row]], ranks: int) -> Row:
    state = min((str(e["status"]) for _, e in entries), key=_badness)
    failures = _told((r, e["failure"]) for r, e in entries if e.get("failure"))
    cut = [where(r) for r, e in entries if e["status"] == "cut"]
    if cut:
        failures.append(f"began and did not end on {listed(cut)}")
    summaries = list(dict.fromkeys(str(e["summary"]) for _, e in entries if e.get("summary")))
    more = f" (and {len(summaries) - 1} other answers)" if len(summaries) > 1 else ""
    return {
        "name": name,
        "title": entries[0][1].get("title") or name,
        "status": state,
        "seconds": max((float(e.get("seconds") or 0.0) for _, e in entries), default=0.0),
        "summary": summaries[0] + more if summaries else "",
        "failure": "; ".join(failures) or None,
        "devices": len(entries),
        "of": ranks,
    }


def _badness(status: str) -> int:
    return _STATES.index(status) if status in _STATES else -1


def _told(found: Iterable[tuple[Rank, Any]]) -> list[str]:
    """Each sentence once, with the devices that said it."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for rank, text in found:
        by_text[str(text)].append(where(rank))
    alone = len(by_text) == 1 and len(next(iter(by_text.values()))) == 1
    return [t if alone else f"{t} ({listed(names)})" for t, names in by_text.items()]


def not_run(pod: Pod) -> list[Row]:
    """Equal entries are counted as one, whatever their device."""
    found: dict[tuple, Row] = {}
    places: dict[tuple, list[str]] = defaultdict(list)
    for rank in pod.ranks:
        for entry in rank.now("not_run"):
            row = {k: entry.get(k, d) for k, d in (("name", ""), ("what", ""), ("reason", ""))}
            row["gap"] = bool(entry.get("gap", False))
            key = tuple(row.values())
            found.setdefault(key, row | {"device": "", "count": 0})["count"] += entry.get(
                "count", 1
            )
            device = str(entry.get("device") or rank.device)
            places[key].append(device if len(pod.ranks) == 1 else where(rank))
    for key, row in found.items():
        row["device"] = listed(dict.fromkeys(places[key]))
    return list(found.values())


def checks(pod: Pod) -> list[Row]:
    """Wrong ones each; of equal ones of several devices that are right, or did not run, the one
    nearest to its tolerance, with the number of devices."""
    found: dict[tuple, Row] = {}
    for rank in pod.ranks:
        seen: Counter[tuple] = Counter()
        for entry in rank.of("check"):
            row = data_of(entry) | {"devices": 1}
            if len(pod.ranks) > 1:
                row["device"] = where(rank)
            what = tuple(str(row.get(k)) for k in _SAME)
            seen[what] += 1
            key = (*what, seen[what], where(rank) if row.get("status") == "wrong" else "")
            known = found.setdefault(key, row)
            if known is not row:
                worse = (row.get("used") or 0.0) > (known.get("used") or 0.0)
                found[key] = (row if worse else known) | {"devices": known["devices"] + 1}
    return list(found.values())


_SAME = ("stage", "op", "case", "dims", "provider", "status", "skipped")


def benches(pod: Pod) -> tuple[list[Row], int]:
    """Records of times of the first devices, and how many records are left to the journals."""
    kept = [e["record"] for r in pod.ranks[:BENCHES] for e in r.of("bench")]
    return kept, sum(1 for r in pod.ranks[BENCHES:] for _ in r.of("bench"))


def checksums(pod: Pod) -> list[Row]:
    """By name: the digests, and the devices that made each."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for rank in pod.ranks:
        for entry in rank.of("checksum"):
            digests = found.setdefault((str(entry.get("stage", "")), entry["name"]), {})
            digests.setdefault(entry["digest"], []).append(where(rank))
    return [
        {"stage": stage, "name": name,
         "digests": [{"digest": d, "devices": len(set(w)), "where": listed(dict.fromkeys(w))}
                     for d, w in digests.items()]}
        for (stage, name), digests in found.items()
    ]  # fmt: skip


_SHOWN_ELSEWHERE = frozenset({"picture", "clip", "not checked"})


def events(pod: Pod) -> list[Row]:
    """What happened, in the order of time: told by the ranks, and what their silence tells."""
    found = []
    for rank in pod.ranks:
        told = [e for e in rank.of("event") if e["name"] not in _SHOWN_ELSEWHERE]
        found += [_event(rank, e, e["name"], str(e.get("text", ""))) for e in told]
        begins = [] if any(e["name"] == "resumed" for e in told) else list(rank.of("begin"))
        found += [_event(rank, e, "resumed", "the run was gone on with") for e in begins[1:]]
        if rank.ended is None and rank.entries:
            text = "its journal has no end: the process crashed, hung or was killed"
            found.append(_event(rank, rank.entries[-1], "no end", text))
    found.sort(key=lambda e: e["time"])
    silent = [
        {"time": "", "where": f"rank {n}", "stage": None, "name": "no journal",
         "text": f"rank {n} of {pod.world} left no journal"}
        for n in pod.missing
    ]  # fmt: skip
    return found + silent


def _event(rank: Rank, entry: Row, name: str, text: str) -> Row:
    return {"time": entry["time"], "where": where(rank), "stage": entry.get("stage"),
            "name": name, "text": text}  # fmt: skip


def first_event(pod: Pod, name: str) -> Row | None:
    return next((e for r in pod.ranks for e in r.of("event") if e["name"] == name), None)


def differing(pod: Pod) -> list[Row]:
    """Facts of the environment that are not the same on all nodes."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for node, ranks in pod.by_node().items():
        for fact, value in flat(ranks[0].begin.get("environment") or {}):
            found[fact][value].append(node)
    nodes = len(pod.by_node())
    return [
        {"fact": fact, "values": {v: listed(names) for v, names in values.items()}}
        for fact, values in found.items()
        if len(values) > 1 or sum(map(len, values.values())) < nodes
    ]


def data_of(entry: Row) -> Row:
    """An entry without what the journal adds."""
    return {k: v for k, v in entry.items() if k not in ("n", "prev", "time", "clock", "kind")}


def listed(names: Iterable[str], most: int = 3) -> str:
    found = list(names)
    if len(found) <= most:
        return ", ".join(found)
    return f"{', '.join(found[:most])} and {len(found) - most} more"


def text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def criteria_named(criteria: Row | None) -> str:
    if not criteria:
        return "no criteria for this device"
    digest = f" (sha256 {criteria['digest'][:12]}…)" if criteria["digest"] else ""
    whose = "" if criteria["from"] == "package" else " from a file of the operator's"
    return f"criteria {criteria['name']} {criteria['version'] or ''}".rstrip() + whose + digest
