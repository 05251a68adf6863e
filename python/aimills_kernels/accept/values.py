"""Measured values as text. Needs no torch."""

from __future__ import annotations

from typing import Any

from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.report.words import NONE, scaled, three

_PREFIXES = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"))
_PREFIXED = {"B", "B/s", "FLOP", "FLOP/s", "FLOP/J", "W", "J", "Hz"}
_PLAIN = {"degC": " °C", "1/s": "/s", "1/J": "/J", "1": "", "text": ""}


def quantity(value: Any, unit: str | None, metric: str | None = None) -> str:
    """A value with its unit, to three digits; a share of the burn in percent."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if is_share(metric):
        return f"{100 * value:.3g} %"
    if unit in _PREFIXED:
        return scaled(value, [(size, prefix + unit) for size, prefix in _PREFIXES])
    if isinstance(value, int) and unit == "1":
        return str(value)
    return three(value) + _PLAIN.get(unit or "1", f" {unit}")


def is_share(metric: str | None) -> bool:
    return metric is not None and metric.startswith("throttle.")


def number(value: Any) -> float | None:
    """What can be compared and drawn; a flag and a name can't."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def title(metric: str) -> str:
    """As the metric's declaration words it; one that is not declared here keeps its name."""
    return METRICS[metric].title if metric in METRICS else metric
