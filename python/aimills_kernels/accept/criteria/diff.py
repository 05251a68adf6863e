"""What changed from one criteria file to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from aimills_kernels.accept.criteria.model import Criteria, Outliers, Rule
from aimills_kernels.accept.metrics import PROFILES


def diff(a: Criteria, b: Criteria) -> list[tuple[str, str, str]]:
    """(key, in a, in b) of all that differs; "-" where one of them says nothing."""
    return [(key, x or "-", y or "-") for key, x, y in _pairs(a, b) if x != y]


def _pairs(a: Criteria, b: Criteria) -> Iterator[tuple[str, str, str]]:
    for key in ("name", "version", "title", "type", "spec"):
        yield key, str(getattr(a, key)), str(getattr(b, key))
    yield "devices", ", ".join(a.devices), ", ".join(b.devices)
    yield from _named("rules", {r.id: rule(r) for r in a.rules}, {r.id: rule(r) for r in b.rules})
    yield from _named(
        "outliers", {o.id: outliers(o) for o in a.outliers}, {o.id: outliers(o) for o in b.outliers}
    )
    yield from _named("unknown", dict(a.unknown), dict(b.unknown))


def _named(head: str, a: dict[str, str], b: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted({*a, *b}):
        yield f"{head}.{name}", a.get(name, ""), b.get(name, "")


def rule(rule: Rule) -> str:
    """All of a rule on one line."""
    parts = [f"{rule.metric} {rule.text()}"]
    for what, bounds in (("GPUs", rule.gpus), ("nodes", rule.nodes)):
        if bounds:
            low, high = bounds
            parts.append(f"with {low}{'' if high == low else ' or more'} {what}")
    if rule.since != PROFILES[0]:
        parts.append(f"since {rule.since}")
    if rule.severity != "fail":
        parts.append("a warning only")
    return "; ".join([*parts, rule.source])


def outliers(rule: Outliers) -> str:
    return "; ".join(f"{f.name} {getattr(rule, f.name)}" for f in fields(rule) if f.name != "id")
