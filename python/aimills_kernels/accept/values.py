"""Measured values as text. Needs no torch."""

from __future__ import annotations

from typing import Any

from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.accept.units import show
from aimills_kernels.report.words import NONE


def quantity(value: Any, unit: str | None, metric: str | None = None) -> str:
    """A value with its unit, to three digits; a share of the burn in percent."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " or ".join(show(v, unit) for v in value)
    return show(value, unit, share=is_share(metric))


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
