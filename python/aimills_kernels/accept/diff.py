"""Two acceptance reports: what a repair changed. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aimills_kernels.accept.facts import criteria_named
from aimills_kernels.accept.metrics import HIGHER, LOWER, METRICS
from aimills_kernels.accept.values import number

Row = dict[str, Any]

_STATES = ("pass", "warn", "unknown", "fail")  # ever worse


@dataclass(frozen=True)
class Difference:
    """code: 1 where a rule is worse than before, 2 where something of A is not in B, else 0."""

    values: tuple[Row, ...]  # where, metric, unit, old, new, change (a share), better
    findings: tuple[Row, ...]  # where, rule, old, new, text, lost
    devices: tuple[str, ...]  # a sentence for each that only one report has, or that was exchanged
    notes: tuple[str, ...] = ()  # what else keeps them apart

    @property
    def code(self) -> int:
        known = [f for f in self.findings if f["old"] and f["new"]]
        if any(_STATES.index(f["new"]) > _STATES.index(f["old"]) for f in known):
            return 1
        if any(f["old"] is None and f["new"] == "fail" for f in self.findings):
            return 1
        lost = any(f["lost"] or (f["old"] is None and f["new"] == "unknown") for f in self.findings)
        return 2 if lost or any(v["new"] is None for v in self.values) else 0


def diff(old: Row, new: Row) -> Difference:
    """ValueError where the reports are of other models, or one of them is no pod's."""
    _comparable(old, new)
    devices = [{d["where"]: d for d in report["devices"]} for report in (old, new)]
    return Difference(
        tuple(_values(*devices)), tuple(_findings(old, new)), tuple(_exchanged(*devices)),
        tuple(_notes(old, new)),
    )  # fmt: skip


def _notes(old: Row, new: Row) -> list[str]:
    found = []
    if new["simulated"]:
        found.append("both are simulated: no pod was tested")
    if old["profile"] != new["profile"]:
        found.append(f"A is of the profile {old['profile']}, B of {new['profile']}")
    if _digest(old) != _digest(new):
        sides = [criteria_named(report["criteria"]) for report in (old, new)]
        found.append(f"A was judged by {sides[0]}, B by {sides[1]}")
    return found


def _digest(report: Row) -> str | None:
    return (report["criteria"] or {}).get("digest")


def _comparable(old: Row, new: Row) -> None:
    models = [sorted({d["sku"] for d in report["devices"]}) for report in (old, new)]
    if models[0] != models[1]:
        said = [", ".join(m) or "no device" for m in models]
        raise ValueError(f"A is of {said[0]} and B of {said[1]}: their figures can't be compared")
    if old["hardware"] != new["hardware"]:
        raise ValueError(
            f"A is of hardware {old['hardware']!r} and B of {new['hardware']!r}: their figures "
            "can't be compared"
        )


def _values(old: dict[str, Row], new: dict[str, Row]) -> list[Row]:
    found = []
    for where in dict.fromkeys([*old, *new]):
        sides = [side.get(where, {"measures": {}})["measures"] for side in (old, new)]
        for metric in dict.fromkeys([*sides[0], *sides[1]]):
            a, b = (side.get(metric, {}).get("value") for side in sides)
            if a == b:
                continue
            first, last = number(a), number(b)
            change = (last / first - 1) if first and last is not None else None
            found.append({
                "where": where, "metric": metric,
                "unit": METRICS[metric].unit if metric in METRICS else None,
                "old": a, "new": b, "change": change, "better": _better(metric, first, last),
            })  # fmt: skip
    return found


def _better(metric: str, old: float | None, new: float | None) -> bool | None:
    """None where neither way is the better one."""
    way = METRICS[metric].better if metric in METRICS else None
    if old is None or new is None or way not in (HIGHER, LOWER):
        return None
    return new > old if way == HIGHER else new < old


def _findings(old: Row, new: Row) -> list[Row]:
    """Rules whose outcome is another: the worst where one was asked several times of a place.
    `lost`: B says nothing of it. A crash or a wrong result is told where there was one, so that B
    is silent of what was mended; a metric that B has not, or a check that held, was not asked."""
    measured = {d["where"]: d["measures"] for d in new["devices"]}
    same = _digest(old) == _digest(new)
    sides = [_worst(old), _worst(new)]
    found = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = (side.get(key) for side in sides)
        if a is None or b is None or a["status"] != b["status"]:
            found.append({
                "where": key[0], "rule": key[1], "old": a and a["status"],
                "new": b and b["status"], "text": (b or a or {})["text"],
                "lost": b is None and _lost(a or {}, measured.get(key[0]), same),
            })  # fmt: skip
    return found


def _lost(old: Row, measured: Row | None, same_criteria: bool) -> bool:
    if not old["metric"] or (same_criteria and measured is None):
        return bool(old["status"] == "pass")
    return not same_criteria or old["metric"] not in (measured or ())


def _worst(report: Row) -> dict[tuple[str, str], Row]:
    found: dict[tuple[str, str], Row] = {}
    for f in report["findings"]:
        known = found.setdefault((f["where"], f["rule"]), f)
        if _STATES.index(f["status"]) > _STATES.index(known["status"]):
            found[f["where"], f["rule"]] = f
    return found


def _exchanged(old: dict[str, Row], new: dict[str, Row]) -> list[str]:
    found = [f"{where} is only in A" for where in old if where not in new]
    found += [f"{where} is only in B" for where in new if where not in old]
    return found + [
        f"{where} was exchanged: {old[where]['uuid']} before, {new[where]['uuid']} now"
        for where in old
        if where in new and old[where]["uuid"] != new[where]["uuid"]
    ]
