"""A criteria file against physics: an error of units shows here and not in an accepted pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aimills_kernels.accept import units
from aimills_kernels.accept.criteria.model import CEILING, EQUAL, FLOOR, ONE_OF, Criteria, Rule
from aimills_kernels.accept.criteria.reading import CriteriaError, load
from aimills_kernels.accept.message_sizes import IN_ALL
from aimills_kernels.accept.metrics import HIGHER, LOWER, METRICS, THROTTLES
from aimills_kernels.harness import specs

LEAST = 0.3  # of the peak: a floor below it would pass a device that is broken
_HIGH = ("collective.", "energy.")  # peaks that are about twice what a good device reaches
LEAST_TOGETHER = LEAST / 2  # of those
_CLOCKS = (1e8, 4e9)  # Hz: no GPU's SM clock is outside
_MOST_BELOW = 0.5  # the median of the pod
# What a GPU that is built can state; a link has 16 lanes, and generation 7 is the last one defined.
_STATED = {"pcie.generation": (1, 7), "pcie.width": (1, 16), "ecc.enabled": (0, 1),
           "mig.enabled": (0, 1)}  # fmt: skip
_EXACT = (*(name for name in METRICS if name.endswith(".wrong")), "sdc.differing")
_SLOWED = tuple(f"throttle.{name}" for name in THROTTLES if name != "sw_power_cap")
_WORK = ("B/s", "FLOP/s", "FLOP/J", "1/s", "1/J")


def lint(criteria: Criteria) -> list[str]:
    """What is wrong, one sentence each; empty for a good file."""
    peaks = specs.peaks(criteria.spec)
    found = [said for rule in criteria.rules for said in _of(rule, peaks)]
    found += [said for rule in criteria.rules for said in _vacuous(rule)]
    found += [
        f"outliers.{o.id}.always: {units.show(o.always, '1', share=True)} is too far below the "
        f"median; {100 * _MOST_BELOW:g} % at the most"
        for o in criteria.outliers
        if o.always > _MOST_BELOW
    ]
    if criteria.type == "gpu" and not criteria.rules:
        found.append("rules: there are none, so everything would pass")
    if criteria.type == "gpu" and criteria.devices and not peaks:
        found.append(f"spec: no physical peaks are known of {criteria.spec!r}, so none was checked")
    return [f"{criteria.name}: {said}" for said in found]


def sound(name: str | Path) -> Criteria:
    """To judge by: criteria that can't be right are an error here, and not a pass later."""
    criteria = load(name)
    if found := lint(criteria):
        raise CriteriaError(f"{'; '.join(found)} (criteria lint {name})")
    return criteria


def _of(rule: Rule, peaks: dict[str, float]) -> Iterator[str]:
    peak = peaks.get(rule.metric)
    figures = {"warn": rule.warn, rule.test: rule.limit} if rule.test in (FLOOR, CEILING) else {}
    for key, limit in figures.items():
        if limit is None:
            continue
        if isinstance(rule.of, str):
            if not _is_share(rule, limit, 2):
                yield f"rules.{rule.id}.{key}: {limit:g} is no share of {rule.of}"
            continue
        value = rule.absolute(limit)
        if rule.of is not None and not _is_share(rule, limit, 1):
            yield f"rules.{rule.id}.{key}: {limit:g} is no share of its reference"
        elif value < 0:
            yield f"rules.{rule.id}.{key}: {rule.shown(value)} is below 0"
        elif rule.metric.startswith("throttle.") and value > 1:
            yield f"rules.{rule.id}.{key}: {rule.shown(value)} is more than all of the time"
        elif peak:
            yield from _against(rule, key, value, peak)
        elif METRICS[rule.metric].unit == "degC" and not 20 <= value <= 150:
            yield f"rules.{rule.id}.{key}: {rule.shown(value)} is no temperature of a working GPU"
        elif METRICS[rule.metric].unit == "Hz" and not _CLOCKS[0] <= value <= _CLOCKS[1]:
            yield f"rules.{rule.id}.{key}: {rule.shown(value)} is no clock of a working GPU"
    if rule.test in (EQUAL, ONE_OF) and peak:
        for limit in rule.limit if rule.test == ONE_OF else (rule.limit,):
            yield from _against(rule, rule.test, limit, peak)
    if isinstance(rule.of, float) and peak:
        yield from _against(rule, "of", rule.of, peak)


def _is_share(rule: Rule, limit: float, most: float) -> bool:
    """A floor of 0.9 % where 90 % was meant is none."""
    return (LEAST if rule.test == FLOOR else 0) <= limit <= most and limit > 0


def _vacuous(rule: Rule) -> Iterator[str]:
    """What no device could fail, or only a good one."""
    at, known = f"rules.{rule.id}.{rule.test}", METRICS[rule.metric]
    limit = rule.limit
    if rule.test == FLOOR and known.better == LOWER:
        yield f"{at}: of {known.title} less is better, so a floor passes the bad ones"
    elif rule.test == CEILING and known.better == HIGHER and known.unit in (*_WORK, "1"):
        yield f"{at}: of {known.title} more is better, so a ceiling passes the bad ones"
    elif rule.test == FLOOR and limit == 0 and rule.of is None:
        yield f"{at}: everything reaches 0"
    elif rule.test == CEILING and limit > 0 and rule.metric in _EXACT:
        yield f"{at}: {rule.shown(limit)} would pass wrong results; it should be 0"
    elif rule.test == CEILING and limit == 1 and rule.metric in _SLOWED:
        yield f"{at}: no device is slowed for longer than all of the time"
    if rule.metric in _STATED and rule.test in (FLOOR, CEILING, EQUAL, ONE_OF):
        low, high = _STATED[rule.metric]
        for value in limit if rule.test == ONE_OF else (limit,):
            if rule.of is None and not low <= value <= high:
                yield f"{at}: {rule.shown(value)} is not from {low} to {high}, as any GPU's is"


def _against(rule: Rule, key: str, value: float, peak: float) -> Iterator[str]:
    at = f"rules.{rule.id}.{key}: {rule.shown(value)} is"
    of = f"the physical peak of {rule.shown(peak)}"
    share, least = units.show(value / peak, "1", share=True), _least(rule)
    word = {FLOOR: "floor", CEILING: "ceiling"}.get(rule.test, "value")
    if value > peak:
        yield f"{at} beyond {of}"
    elif value < least * peak:
        yield f"{at} {share} of {of}; a {word} is {100 * least:g}% of it at the least"


def _least(rule: Rule) -> float:
    """What links nodes may be far slower than what links the GPUs of one, and small buffers take
    as long as their latency, by no factor of 1000."""
    if (rule.nodes or (1, 1))[0] > 1 or (rule.size or IN_ALL) < IN_ALL:
        return 0.001
    if rule.metric == "power.idle":
        return 0.01
    return LEAST_TOGETHER if rule.metric.startswith(_HIGH) else LEAST
