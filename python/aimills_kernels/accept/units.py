"""Quantities as people write them, "2.9 TB/s", and as acceptance holds them: in SI, no prefixes."""

from __future__ import annotations

import math
import re

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SCALED = ("B/s", "FLOP/s", "FLOP/J", "Hz", "W", "J", "B")
_PLAIN = {"s": "s", "degC": "degC", "°C": "degC", "1/s": "1/s", "1/J": "1/J"}
_SHOWN = {"degC": " °C", "1/s": "/s", "1/J": "/J"}
_WRITTEN = re.compile(r"([-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?) *(\S+)")

UNITS: dict[str, tuple[float, str]] = {
    **{prefix + unit: (factor, unit) for unit in _SCALED for prefix, factor in _PREFIXES.items()},
    **{prefix + "B": (factor, "B") for prefix, factor in _BINARY.items()},
    **{written: (1.0, unit) for written, unit in _PLAIN.items()},
    "%": (0.01, "1"),
}


def parse(text: str) -> tuple[float, str]:
    """(value, unit) in SI of "2.9 TB/s" or "5 %". ValueError: a clause that says what is wrong."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a number with its unit, as "2.9 TB/s"')
    number, unit = match.groups()
    if unit not in UNITS:
        raise ValueError(f"{text!r} has the unknown unit {unit!r}")
    factor, base = UNITS[unit]
    value = float(number) * factor
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value, base


def show(value: object, unit: str | None, *, share: bool = False) -> str:
    """With the prefix that a person would choose: 3.92e12 B/s is "3.92 TB/s"."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or unit == "text":
        return str(value)
    if not math.isfinite(value):
        return f"{value}"
    if share:
        return f"{_digits(100 * value)} %"
    if unit in _SCALED:
        size = abs(value)
        prefix = next((p for p, f in reversed(_PREFIXES.items()) if size >= f), "")
        return f"{_digits(value / _PREFIXES[prefix])} {prefix}{unit}"
    if unit in (None, "1"):
        return _digits(value)
    return _digits(value) + _SHOWN.get(unit, f" {unit}")


def _digits(value: float) -> str:
    """Three significant digits, more of what is whole, and no exponent."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value)}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    text = f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"
    return text.rstrip("0") if abs(value) < 1 else text
