"""Whether collectives of the pod are so slow that it is to be told by what. A stage judges nothing,
and the verdict follows from the journals; here it is only asked whether to look further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aimills_kernels.accept.criteria import Criteria, Rule
from aimills_kernels.accept.criteria.lint import LEAST_TOGETHER
from aimills_kernels.accept.criteria.model import FLOOR
from aimills_kernels.accept.metrics import METRICS, is_collective_rate
from aimills_kernels.accept.units import show
from aimills_kernels.harness import specs

ROUTINE = ("full", "burn-in")


@dataclass(frozen=True)
class Shortfall:
    """why: a clause for each rate that is too low; floor: whether a floor rejects one of them."""

    why: tuple[str, ...] = ()
    floor: bool = False


def of(
    criteria: Criteria, sku: str, profile: str, entries: Iterable[dict[str, Any]], ranks: int,
    nodes: int,
) -> Shortfall:  # fmt: skip
    """Rates below their floor, or where there is none and one node alone, below what any floor has
    to be. `entries` are those of measures. Of several nodes without a floor nobody knows whether
    they are slow, so a profile that has the time looks."""
    peaks, why, floor = specs.peaks(sku), [], False
    rates = [entry for entry in entries if is_collective_rate(entry["metric"])]
    for entry in rates:
        metric = entry["metric"]
        floors = [*_floors(criteria, metric, ranks, nodes)]
        held = [(r, v) for r in floors if (v := r.rate(entry, criteria.type == "gpu")) is not None]
        limits = [(r.absolute(r.limit), value, r.severity == "fail") for r, value in held]
        if not held and nodes == 1:
            limits = [(LEAST_TOGETHER * peaks.get(metric, 0.0), entry["value"], False)]
        for limit, value, rejects in limits:
            if value < limit:
                title, unit = METRICS[metric].title, METRICS[metric].unit
                why.append(f"{title} is {show(value, unit)}, below {show(limit, unit)}")
                floor |= rejects
    known = any([*_floors(criteria, e["metric"], ranks, nodes)] for e in rates)
    if rates and not known and nodes > 1 and profile in ROUTINE:
        why.append(f"no rule says what collectives over {nodes} nodes have to reach")
    return Shortfall(tuple(why), floor)


def _floors(criteria: Criteria, metric: str, ranks: int, nodes: int) -> Iterator[Rule]:
    for rule in criteria.rules:
        known = rule.metric == metric and rule.test == FLOOR and not isinstance(rule.of, str)
        if known and rule.applies_to(ranks) and rule.spans(nodes):
            yield rule
