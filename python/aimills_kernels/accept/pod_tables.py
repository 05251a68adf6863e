"""Tables of the pod: rules, devices, energy, events. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aimills_kernels.accept.facts import listed
from aimills_kernels.accept.findings import FAIL, HAS_TO_BE, PASS, UNKNOWN, WARN
from aimills_kernels.accept.values import number, quantity, title
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.parts import status, table
from aimills_kernels.report.words import NONE

Row = dict[str, Any]

_ORDER = (FAIL, UNKNOWN, WARN, PASS)
_MOST = 3000  # rows of a folded table; report.json has all
_PAPER = 200  # a longer one is left out of print, which says so
_HASH = 64  # digits of a SHA-256


def rules(findings: Sequence[Row]) -> Html:
    """A row for each rule and outcome, the worst outcome first."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for f in findings:
        groups.setdefault((_ORDER.index(f["status"]), f["rule"]), []).append(f)
    numbers = _numbers(findings)
    rows = [_rule(groups[key], numbers) for key in sorted(groups, key=lambda key: key[0])]
    return table(
        ("outcome", "rule", "where", ">measured", ">held against", "source"), rows, "rules"
    )


def _numbers(findings: Sequence[Row]) -> dict[str, int]:
    """Sources by the order in which the table of rules names them."""
    found = sorted(findings, key=lambda f: _ORDER.index(f["status"]))
    named = dict.fromkeys(f["source"] for f in found if f["source"])
    return {source: number for number, source in enumerate(named, 1)}


def sources(findings: Sequence[Row]) -> Html:
    """Written out once, since many rules have the same."""
    named = _numbers(findings)
    if not named:
        return Html("")
    items = [el("li", source, id=f"source-{number}") for source, number in named.items()]
    return el("div", el("h4", "Sources"), el("ol", *items, cls="sources"), cls="block")


def _rule(found: Sequence[Row], numbers: dict[str, int]) -> tuple:
    first = found[0]
    about = title(first["metric"]) if first["metric"] else ""
    due = first["text"].partition(HAS_TO_BE)[2]
    held = ": ".join(part for part in (about, due) if part)
    what = first["text"] if first["status"] != PASS else held
    if len(found) > 1 and first["status"] != PASS:
        what += f" (and {len(found) - 1} more)"
    return (
        status(first["status"]),
        join([first["rule"], el("small", what)] if what else [first["rule"]]),
        _places(found),
        _range([f["measured"] for f in found], first),
        _range([f["threshold"] for f in found], first),
        _link(numbers.get(first["source"])),
    )


def _link(number: int | None) -> Any:
    return NONE if number is None else el("a", f"[{number}]", href=f"#source-{number}")


def _places(found: Sequence[Row]) -> str:
    names = list(dict.fromkeys(f["where"] for f in found))
    return listed(names) if len(names) <= 3 else f"{len(names)} devices"


def _range(values: Sequence[Any], found: Row) -> str:
    """One value, or the least and the largest."""
    unit, metric = found["unit"], found["metric"]
    numbers = [v for v in map(number, values) if v is not None]
    if len(numbers) == len(values) and numbers:
        ends = dict.fromkeys(quantity(v, unit, metric) for v in (min(values), max(values)))
    else:
        ends = dict.fromkeys(quantity(v, unit, metric) for v in values)
        return listed([_short(e) for e in ends])
    return " to ".join(ends)


def _short(text: str) -> str:
    """A hash by its beginning: whole, one is wider than the table."""
    return text if len(text) < _HASH else f"{text[:12]}..."


def bad(found: Sequence[Row]) -> Html:
    """What is no pass, each device by itself, where the table of rules joins several."""
    rows = [f for f in found if f["status"] != PASS]
    if len({f["rule"] for f in rows}) == len(rows):
        return Html("")
    return findings(rows, "Broken, not asked or in warning")


def findings(found: Sequence[Row], head: str = "Every finding") -> Html:
    """One a row, folded."""
    rows = [
        (status(f["status"]), f["rule"], f["where"], _value(f, "measured"), _value(f, "threshold"),
         f["text"])
        for f in sorted(found, key=lambda f: _ORDER.index(f["status"]))
    ]  # fmt: skip
    columns = ("outcome", "rule", "where", ">measured", ">held against", "in words")
    return folded(f"{head}: {len(rows)}", columns, rows, "each")


def _value(found: Row, key: str) -> str:
    return quantity(found[key], found["unit"], found["metric"])


def folded(head: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], cls: str = "") -> Html:
    left = len(rows) - _MOST
    more = el("p", f"{left} further rows are in report.json.", cls="apart") if left > 0 else ""
    long = "long" if len(rows) > _PAPER else None
    return el("details", el("summary", head), table(columns, rows[:_MOST], cls), more, cls=long)


def values(data: Row) -> Html:
    """Every value that is judged beside the pod's median, folded."""
    rows = []
    for device in data["devices"]:
        for metric, row in device["measures"].items():
            middle = data["comparison"].get(metric, {}).get("median")
            rows.append((
                device["where"], title(metric), quantity(row["value"], row["unit"], metric),
                _against(number(row["value"]), middle), str(row["n"]),
            ))  # fmt: skip
    columns = ("device", "what", ">value", ">of the median", ">times measured")
    return folded(f"Every value: {len(rows)}", columns, rows)


def _against(value: float | None, middle: float | None) -> str:
    return NONE if value is None or not middle else f"{100 * value / middle:.1f} %"


def devices(data: Row) -> Html:
    rows = [
        (
            d["where"], d["sku"], el("small", d["uuid"] or "no UUID", cls="hash uuid"),
            status(d["ended"] or "no end"), str(d["entries"]), el("small", d["head"], cls="hash"),
        )
        for d in data["devices"]
    ]  # fmt: skip
    columns = ("device", "model", "UUID", "ended", ">entries", "hash of the journal's last entry")
    return table(columns, rows, "wide-last")


def energy(data: Row) -> Html:
    found = data["energy"]
    rows = [_power(d["where"], d) for d in found["devices"]]
    if len(rows) > 1:
        rows.append(_power(el("b", "the pod"), found["pod"]))
    columns = ("device", ">idle", ">load", ">limit", ">the burn", ">the run", "per joule")
    return table(columns, rows)


def sweep(found: Sequence[Row]) -> Html:
    rows = [
        (
            s["where"], quantity(s["limit_w"], "W"), quantity(s["rate"], "FLOP/s"),
            quantity(s["per_joule"], "FLOP/J"),
        )
        for s in found
    ]  # fmt: skip
    return table(("device", ">power limit", ">matmul", ">matmul per joule"), rows)


def _power(name: Any, row: Row) -> tuple:
    watts = (quantity(row[k], "W") for k in ("idle_w", "load_w", "limit_w"))
    joules = (quantity(row[k], "J") for k in ("burn_joules", "run_joules"))
    per = "; ".join(_per_joule(m, v) for m, v in row.get("per_joule", {}).items())
    return (name, *watts, *joules, per)


def _per_joule(metric: str, value: float) -> str:
    unit = "FLOP/J" if metric == "energy.gemm" else "1/J"
    return f"{quantity(value, unit)} {title(metric).removesuffix(' per joule')}".replace(
        " matmul per joule in the burn", ""
    )


def eu(data: Row) -> Html:
    rows = [
        (
            join([f["field"] or NONE, el("small", f["point"])]), f["title"], status(f["measured"]),
            NONE if f["value"] is None else f"{f['value']:.6g} {f['unit']}", f["note"],
        )
        for f in data["eu_2024_1364"]
    ]  # fmt: skip
    head = "Delegated Regulation (EU) 2024/1364: its fields, and what is measured of them"
    return folded(head, ("field", "what", "measured", ">value", "which, and what not"), rows,
                  "wide-last")  # fmt: skip


def events(found: Iterable[Row]) -> Html:
    rows = [
        (
            e["time"][:19].replace("T", " ") or NONE, e["where"], e["stage"] or "", e["name"],
            e["text"],
        )
        for e in found
    ]  # fmt: skip
    return table(("time (UTC)", "where", "stage", "event", "what"), rows, "wide-last")


def checksums(found: Sequence[Row]) -> Html:
    rows = []
    for row in found:
        same = len(row["digests"]) == 1
        for digest in sorted(row["digests"], key=lambda d: -d["devices"]):
            mark = status("same" if same else "differs")
            short = el("small", digest["digest"][:16], cls="hash")
            rows.append((f"{row['stage']} {row['name']}", mark, short, str(digest["devices"]),
                         digest["where"]))  # fmt: skip
    return table(("result", "over the devices", "digest", ">devices", "which"), rows)


def differing(found: Sequence[Row]) -> Html:
    rows = [
        (f["fact"], "; ".join(f"{v} ({where})" for v, where in f["values"].items())) for f in found
    ]
    return table(("fact", "values and their nodes"), rows, "facts")
