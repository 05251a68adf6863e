"""Each rule of the criteria on each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from aimills_kernels.accept.criteria import Criteria, Rule
from aimills_kernels.accept.criteria.model import CEILING, EQUAL, FLOOR, ONE_OF, SAME
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import FAIL, HAS_TO_BE, PASS, UNKNOWN, WARN, Finding
from aimills_kernels.accept.judging.view import Entry, View, is_number
from aimills_kernels.accept.metrics import HIGHER, METRICS, PROFILES, is_collective_rate
from aimills_kernels.accept.units import show
from aimills_kernels.harness import specs

_ALL_REDUCE = "collective.all_reduce"
_OVER = 1.1  # of a peak: data sheets state it at a boost clock that some GPUs pass


def judge(pod: Pod, views: list[View], criteria: Criteria) -> Iterator[Finding]:
    """On devices of the model that the criteria judge; those without a model take all of it."""
    judged = [
        v for v in views
        if not criteria.devices or criteria.judges(v.rank.sku, v.rank.device)
    ]  # fmt: skip
    sizes = Counter(v.rank.node for v in views)
    for rule in criteria.rules:
        if rule.test == SAME:
            yield from _same(rule, judged)
            continue
        for view in judged:
            entries = _counting(rule, view, pod, sizes)
            if entries or _due(rule, view, pod, sizes):
                yield _one(rule, view, entries)
    yield from _without_rule(pod, criteria, len(sizes))
    for view in views:
        yield from _impossible(view, specs.peaks(view.rank.sku))


def _due(rule: Rule, view: View, pod: Pod, sizes: Counter[str]) -> bool:
    """Whether this profile, with so many GPUs, has to measure it."""
    profile = view.rank.begin.get("profile")
    place = PROFILES.index(profile) if profile in PROFILES else len(PROFILES)
    if place < PROFILES.index(rule.since):
        return False
    together = rule.metric.startswith("collective.")
    return rule.spans(len(sizes)) and rule.applies_to(
        pod.world if together else sizes[view.rank.node]
    )


def _counting(rule: Rule, view: View, pod: Pod, sizes: Counter[str]) -> list[Entry]:
    """The measures that the rule speaks of: those with so many GPUs, on so many nodes."""
    entries = view.measures.get(rule.metric, [])
    if rule.unit != "B/s":
        return entries
    together = rule.metric.startswith("collective.")
    found = []
    for entry in entries:
        detail = entry.get("detail") or {}
        ranks = int(detail.get("ranks", pod.world if together else sizes[view.rank.node]))
        nodes = len(sizes) if ranks >= pod.world else 1
        if rule.spans(nodes) and rule.applies_to(ranks):
            value = (
                rule.rate(entry, view.rank.device.startswith("cuda"))
                if together
                else entry["value"]
            )
            found += [] if value is None else [{**entry, "value": value}]
    return found


def _without_rule(pod: Pod, criteria: Criteria, nodes: int) -> Iterator[Finding]:
    """No floor of the all-reduce for so many GPUs and nodes: what no file can know, as the network
    between nodes, or no public figure tells, is for the operator to say, and is no pass before."""
    rules = [r for r in criteria.rules if r.metric == _ALL_REDUCE]
    together = pod.world > 1 and criteria.type != "cpu"
    if together and not any(r.spans(nodes) and r.applies_to(pod.world) for r in rules):
        text = (
            f"no rule says what {METRICS[_ALL_REDUCE].title}, has to be with {pod.world} GPUs on "
            f"{nodes} node{'s' * (nodes > 1)}: state it in a criteria file, with "
            f"gpus = {pod.world} and nodes = {nodes}"
        )
        yield Finding(f"{_ALL_REDUCE}.rule", UNKNOWN, "pod", text, _ALL_REDUCE, unit="B/s")


def _one(rule: Rule, view: View, entries: list[Entry]) -> Finding:
    value = view.value(rule.metric, entries)
    title = METRICS[rule.metric].title
    if value is None:
        text = f"{view.where}: nobody measured {title}, which has to be {rule.text()}"
        return _finding(rule, UNKNOWN, view.where, text, None, None)
    if METRICS[rule.metric].unit != "text" and not is_number(value):
        text = f"{view.where}: {title} is {value!r}, which is no finite number"
        return _finding(rule, FAIL, view.where, text, value, None)
    reference = None
    if isinstance(rule.of, str):
        reference = view.value(rule.of)
        if not is_number(reference):
            text = f"{view.where}: nobody measured {METRICS[rule.of].title}, which {title} needs"
            return _finding(rule, UNKNOWN, view.where, text, value, None)
    status = _status(rule, value, reference)
    said = f"{view.where}: {title} is {rule.shown(value)}"
    if isinstance(rule.of, str):
        said += f" after {rule.shown(reference)}"
    verb = f"as it {HAS_TO_BE}" if status == PASS else f"and {HAS_TO_BE}"
    return _finding(rule, status, view.where, f"{said}, {verb}{rule.text()}", value,
                    _threshold(rule, status, reference))  # fmt: skip


def _status(rule: Rule, value: Any, reference: Any) -> str:
    bad = FAIL if rule.severity == "fail" else WARN
    if rule.test == EQUAL:
        return PASS if value == rule.limit else bad
    if rule.test == ONE_OF:
        return PASS if value in rule.limit else bad
    sign = 1 if rule.test == FLOOR else -1
    if sign * value < sign * rule.absolute(rule.limit, reference):
        return bad
    if rule.warn is not None and sign * value < sign * rule.absolute(rule.warn, reference):
        return WARN
    return PASS


def _threshold(rule: Rule, status: str, reference: Any) -> Any:
    if rule.test not in (FLOOR, CEILING):
        return list(rule.limit) if rule.test == ONE_OF else rule.limit
    milder = status == WARN and rule.warn is not None
    return rule.absolute(rule.warn if milder else rule.limit, reference)


def _finding(
    rule: Rule, status: str, where: str, text: str, measured: Any, threshold: Any
) -> Finding:
    return Finding(rule.id, status, where, text, rule.metric, measured, threshold, rule.unit,
                   rule.source)  # fmt: skip


def _same(rule: Rule, views: list[View]) -> Iterator[Finding]:
    """One value on all devices; the fewer that differ are named."""
    title = METRICS[rule.metric].title
    values = {view.where: view.value(rule.metric) for view in views}
    for where, value in values.items():
        if value is None:
            text = f"{where}: nobody measured {title}, which has to be the same on all"
            yield _finding(rule, UNKNOWN, where, text, None, None)
    counts = Counter(v for v in values.values() if v is not None)
    if not counts:
        return
    usual, _ = counts.most_common(1)[0]
    if len(counts) == 1:
        text = f"{title} is {rule.shown(usual)} on all {sum(counts.values())} devices"
        yield _finding(rule, PASS, "pod", text, usual, usual)
    bad = FAIL if rule.severity == "fail" else WARN
    for where, value in values.items():
        if value is not None and value != usual:
            text = f"{where}: {title} is {rule.shown(value)}; on most of the pod it is "
            yield _finding(rule, bad, where, text + rule.shown(usual), value, usual)


def _impossible(view: View, peaks: dict[str, float]) -> Iterator[Finding]:
    """A rate of nothing, or beyond physics, says that the measurement is wrong."""
    for metric, entries in view.measures.items():
        known = METRICS.get(metric)
        if known is None or known.better != HIGHER:
            continue
        peak = peaks.get(metric)
        for value in (v for entry in entries for v in _rates(metric, entry)):
            if not is_number(value):
                text = f"{view.where}: {known.title} is {value!r}, which is no finite number"
                yield Finding("physics.finite", FAIL, view.where, text, metric, value)
            elif value <= 0 and known.unit != "1":
                text = f"{view.where}: {known.title} is {value:g}: no work was done"
                yield Finding("physics.work", FAIL, view.where, text, metric, value, 0, known.unit)
            elif peak and value > _OVER * peak:
                yield _beyond(view, metric, value, peak)


def _rates(metric: str, entry: Entry) -> list[Any]:
    """The value, and of a collective those of other sizes, as a rule may speak of each."""
    by_size = (entry.get("detail") or {}).get("by_size") or {}
    others = by_size.values() if is_collective_rate(metric) else ()
    return [entry["value"], *(v for v in others if v != entry["value"])]


def _beyond(view: View, metric: str, value: float, peak: float) -> Finding:
    known = METRICS[metric]
    text = (
        f"{view.where}: {known.title} is {show(value, known.unit)}, beyond the physical peak of "
        f"{show(peak, known.unit)}: the measurement is wrong"
    )
    return Finding("physics.peak", UNKNOWN, view.where, text, metric, value, peak, known.unit)
