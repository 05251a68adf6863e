"""Devices against each other: who is slower than the rest, and who computes other bits."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator

from aimills_kernels.accept import units
from aimills_kernels.accept.criteria import Criteria, Outliers
from aimills_kernels.accept.findings import FAIL, PASS, UNKNOWN, WARN, Finding
from aimills_kernels.accept.judging.view import View, is_number
from aimills_kernels.accept.metrics import METRICS

_NORMAL = 1.4826  # of a normal sample, standard deviations in a MAD
_BITS = "equal devices with equal software make equal bits"


def judge(views: list[View], criteria: Criteria) -> Iterator[Finding]:
    models: dict[str, list[View]] = defaultdict(list)
    for view in views:
        models[view.rank.sku].append(view)
    for alike in models.values():
        for rule in criteria.outliers:
            for metric in rule.metrics:
                yield from _outliers(rule, metric, alike)
    yield from _checksums(views)


# ---- slower than the rest


def _outliers(rule: Outliers, metric: str, views: list[View]) -> Iterator[Finding]:
    values = {v.where: x for v in views if is_number(x := v.value(metric))}
    if len(values) < 2:
        return
    if len(values) < rule.least:
        yield from _pair(rule, metric, values)
        return
    median = statistics.median(values.values())
    spread = _NORMAL * statistics.median(abs(x - median) for x in values.values())
    unit, title = METRICS[metric].unit, METRICS[metric].title
    for where, value in values.items():
        below = 1 - value / median if median > 0 else 0.0
        status, limit = _status(rule, below, median - value, spread)
        text = (
            f"{where}: {title} is {units.show(value, unit)}, {_apart(below)} the pod's median of "
            f"{units.show(median, unit)}"
        )
        yield Finding(f"outlier.{metric}", status, where, text, metric, value,
                      (1 - limit) * median, unit, rule.source)  # fmt: skip


def _status(rule: Outliers, below: float, apart: float, spread: float) -> tuple[str, float]:
    """The verdict, and the share below the median that it was held against."""
    if below > rule.always:
        return FAIL, rule.always
    if below > rule.fail and apart > rule.deviations * spread:
        return FAIL, rule.fail
    return (WARN if below > rule.warn else PASS), rule.warn


def _pair(rule: Outliers, metric: str, values: dict[str, float]) -> Iterator[Finding]:
    """Two can only be held to each other, and nobody knows which of them is the odd one."""
    unit, title = METRICS[metric].unit, METRICS[metric].title
    (slow, low), (fast, high) = sorted(values.items(), key=lambda item: item[1])
    below = 1 - low / high if high > 0 else 0.0
    status = FAIL if below > rule.always else WARN if below > rule.warn else PASS
    text = (
        f"{slow}: {title} is {units.show(low, unit)}, {_apart(below)} the "
        f"{units.show(high, unit)} of {fast}; with two devices nobody knows which is the odd one"
    )
    yield Finding(f"outlier.{metric}", status, f"{slow} and {fast}", text, metric, low,
                  (1 - rule.always) * high, unit, rule.source)  # fmt: skip


def _apart(below: float) -> str:
    return f"{units.show(abs(below), '1', share=True)} {'below' if below >= 0 else 'above'}"


# ---- other bits


def _checksums(views: list[View]) -> Iterator[Finding]:
    """By name of the result, among devices of one model and driver."""
    groups: dict[tuple[str, str], list[View]] = defaultdict(list)
    for view in views:
        groups[view.rank.sku, str(view.value("gpu.driver"))].append(view)
    for alike in groups.values():
        digests: dict[str, dict[str, str]] = defaultdict(dict)
        for view in alike:
            yield from _of_one(view, digests)
        for name, found in digests.items():
            yield from _compared(name, found, [v.where for v in alike])


def _of_one(view: View, digests: dict[str, dict[str, str]]) -> Iterator[Finding]:
    for entry in view.of("checksum"):
        name, digest = f"{entry['stage']} {entry['name']}", str(entry["digest"])
        known = digests[name].setdefault(view.where, digest)
        if known != digest:
            text = f"{view.where}: {name} gave other bits when it was made again"
            yield Finding("sdc.repeat", FAIL, view.where, text, None, digest, known, None, _BITS)


def _compared(name: str, found: dict[str, str], all_: list[str]) -> Iterator[Finding]:
    for where in sorted(set(all_) - set(found)):
        text = f"{where}: there is no checksum of {name}, which other devices have"
        yield Finding("sdc.checksum", UNKNOWN, where, text, source=_BITS)
    if len(found) < 2:
        return
    counts = Counter(found.values())
    usual, times = counts.most_common(1)[0]
    if times == len(found):
        text = f"{name}: {times} devices made the same bits"
        yield Finding("sdc.checksum", PASS, "pod", text, None, usual, usual, None, _BITS)
        return
    known = 2 * times > len(found)
    for where, digest in found.items():
        if known and digest == usual:
            continue
        rest = f"{times} of {len(found)} devices agree on others" if known else "no majority agrees"
        text = f"{where}: {name} has the bits {digest[:12]}; {rest}"
        yield Finding("sdc.checksum", FAIL, where, text, None, digest, usual if known else None,
                      None, _BITS)  # fmt: skip
