"""Figures as both reports word them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from aimills_kernels.harness._reading import ENOUGH, ahead, fastest_peer

Row = dict[str, Any]
NONE = "–"
_RUN = 4  # equal numbers, from which on they are counted


def three(value: float) -> str:
    """Three significant digits; an exponent only below 0.0001 and from 10^6."""
    text = f"{value:.3g}"
    if "e+" in text and abs(value) < 999_500:
        return f"{value:,.0f}".replace(",", "\u202f")
    return text


def scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which it is 1 or more once rounded, else in the smallest."""
    for size, unit in reversed(units):
        if float(f"{value / size:.3g}") >= 1:
            return f"{three(value / size)} {unit}"
    return f"{three(value / units[0][0])} {units[0][1]}"


def time_text(us: float) -> str:
    return scaled(us, ((1, "µs"), (1e3, "ms"), (1e6, "s")))


def range_text(low_us: float, high_us: float) -> str:
    """Two times, the unit said once where it is the same."""
    low, high = time_text(low_us), time_text(high_us)
    (figure, unit), other = low.rsplit(" ", 1), high.rsplit(" ", 1)[1]
    return f"{figure if unit == other else low} to {high}"


def energy_text(joules: float) -> str:
    return scaled(joules, ((1e-6, "µJ"), (1e-3, "mJ"), (1, "J"), (1e3, "kJ")))


def rate_text(row: Row) -> str:
    """In the terms of what bounds the op."""
    if row["sol_bound"] == "flops" and row["tflops"] is not None:
        return flops_text(row["tflops"], row["unit"])
    return NONE if row["gbps"] is None else bytes_text(row["gbps"])


def flops_text(tflops: float, unit: str) -> str:
    kind = "OP/s" if unit == "int8" else "FLOP/s"
    return scaled(tflops, ((1e-6, f"M{kind}"), (1e-3, f"G{kind}"), (1, f"T{kind}")))


def short_rate(tflops: float) -> str:
    """For an axis whose title has the rest of the unit."""
    return scaled(tflops, ((1e-9, "k"), (1e-6, "M"), (1e-3, "G"), (1, "T"), (1e3, "P")))


def bytes_text(gbps: float) -> str:
    return scaled(gbps, ((1e-3, "MB/s"), (1, "GB/s"), (1e3, "TB/s")))


def percent(share: float | None) -> str:
    """Rounded towards 0, so that 100 % is said only of 100 %."""
    if share is None:
        return NONE
    return "< 1 %" if 0 < share < 0.01 else f"{math.floor(100 * share + 1e-9)} %"


def bound_text(row: Row) -> str:
    return {"bytes": "memory", "flops": "arithmetic"}.get(row["sol_bound"], "")


def kind(row: Row) -> str:
    """ours, peer or reference: the colour."""
    if row["provider"] == "reference":
        return "reference"
    return "peer" if row["peer"] else "own"


def other_result(row: Row) -> str:
    """Most values beyond their dtype's rounding are no matter of exactness."""
    return "another result" if (row["differing"] or 0) > 0.5 else "less exact"


def apart_text(row: Row) -> str:
    """How far a peer's result is from the reference's, as measured."""
    what = "computes something else" if other_result(row) == "another result" else "is less exact"
    about = f" It is {row['about']}" if row["about"] else ""
    return (
        f"{row['provider']} {what}: {percent(row['differing'])} of the values differ from the "
        f"reference's; {row['apart']}.{about}"
    )


def dims_text(dims: dict[str, Any], scaled: dict[str, Any]) -> str:
    """`scaled` holds the declared values of those that were made smaller."""
    return "  ".join(_dim_text(k, v, scaled.get(k)) for k, v in dims.items())


def _dim_text(name: str, value: Any, full: Any) -> str:
    text = f"{name} {_value_text(value)}"
    return text if full is None else f"{text} of {_value_text(full)}{_factor(value, full)}"


def _value_text(value: Any) -> str:
    """A run of equal numbers in a list is told once: a batch has dozens of one length."""
    if not isinstance(value, list | tuple):
        return str(value)
    runs = [(item, len(list(run))) for item, run in itertools.groupby(value)]
    found = [[f"{n} × {item}"] if n >= _RUN else [str(item)] * n for item, n in runs]
    return f"[{', '.join(itertools.chain(*found))}]"


def _factor(value: Any, full: Any) -> str:
    numbers = isinstance(value, int) and isinstance(full, int) and value > 0
    return f" (1/{full / value:.3g})" if numbers else ""


def best_ratio(rows: Sequence[Row]) -> tuple[str, str] | None:
    """The most that one of ours is ahead of the fastest peer, said with its case."""
    best = max(
        (r for r in rows if not r["peer"] and r["config"] is None and ahead(r, rows)),
        key=lambda row: ahead(row, rows) or 0.0,
        default=None,
    )
    if best is None or (peer := fastest_peer(best, rows)) is None:
        return None
    least = min(best["n"], peer["n"])
    name = peer["provider"]
    than = name if peer["validated"] else f"{name}, {other_result(peer)}"
    text = f"the fastest peer ({than}) at best: {best['op']} {best['case']}, n\u00a0=\u00a0{least}"
    return f"× {ahead(best, rows):.3g}", text


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def median_text(row: Row) -> str:
    text = f"{row['case']}, {row['provider']}: {time_text(row['median_us'])}"
    return f"{text}. {row['suspect']}" if row["suspect"] else text


def flawed(row: Row) -> bool:
    """A time to be read with care."""
    return bool(row["suspect"]) or row["n"] < ENOUGH


def interval(row: Row) -> tuple[float, float]:
    """95 % of the median; where there is none, the median twice."""
    low, high = row["low_us"], row["high_us"]
    if row["n"] < ENOUGH or low is None or high is None:
        return row["median_us"], row["median_us"]
    return low, high
