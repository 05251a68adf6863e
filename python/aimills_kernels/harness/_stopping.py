"""When there are samples enough, and whether they have one mode or two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

TARGET = 0.005  # half the width of the median's interval, over the median
QUICK_TARGET = 0.02
FEWEST = 10  # samples, before which no noise is judged
_LEVEL = 0.95
_FEWEST_FOR_MODES = 30
_TRIMMED = 0.08  # of the samples at each end, which are not asked about modes
_SHARE = 0.12  # of all samples, which a mode has at the least
_APART = 0.02  # of their medians, over the smaller
_EXPLAINED = 0.88  # of the variance of logarithms, by the split; a uniform one has 0.75


def interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the median by ranks, whatever the distribution; None of fewer than six
    samples, whose extremes do not make one."""
    n = len(samples)
    outside = (1 - _LEVEL) / 2
    below = _ranks_below(n, outside)
    if below is None:
        return None
    ordered = sorted(samples)
    return ordered[below], ordered[n - 1 - below]


def _ranks_below(n: int, outside: float) -> int | None:
    """The largest k with P(fewer than k+1 of n fall below the median) within `outside`."""
    total, found, weight = 0.0, None, 0.5**n if n < 1000 else 0.0
    if not weight:
        return math.floor(n / 2 - statistics.NormalDist().inv_cdf(1 - outside) * math.sqrt(n) / 2)
    for k in range(n // 2):
        total += weight
        if total > outside:
            break
        found, weight = k, weight * (n - k) / (k + 1)
    return found


def quiet(samples: Sequence[float], target: float = TARGET) -> bool:
    """Whether the median is known well enough to stop."""
    if len(samples) < FEWEST or (found := interval(samples)) is None:
        return False
    low, high = found
    return (high - low) / 2 <= target * statistics.median(samples)


def modes(samples: Sequence[float]) -> list[dict[str, Any]]:
    """The two modes, the faster first; empty where there is one.

    The samples, 8 % at each end aside, are split in two where that takes away the most variance
    of their logarithms. They are two modes where it takes 88 %, each has 12 % of all samples,
    and the medians are 2 % apart: a normal distribution loses 64 % and a uniform one 75 %, so that
    width, skew and a few outliers pass for one mode.
    """
    n = len(samples)
    if n < _FEWEST_FOR_MODES or min(samples) <= 0:
        return []
    ordered = sorted(samples)
    cut = int(_TRIMMED * n)
    middle = [math.log(t) for t in ordered[cut : n - cut]]
    split, explained = _best_split(middle, max(1, math.ceil(_SHARE * n) - cut))
    if explained < _EXPLAINED:
        return []
    fast, slow = ordered[: cut + split], ordered[cut + split :]
    if statistics.median(slow) < (1 + _APART) * statistics.median(fast):
        return []
    return [{"median_us": statistics.median(s), "share": len(s) / n} for s in (fast, slow)]


def _best_split(ordered: Sequence[float], least: int) -> tuple[int, float]:
    """Where to split, with `least` on each side, and the share of the variance that it explains."""
    n, mean = len(ordered), statistics.fmean(ordered)
    whole = math.fsum((x - mean) ** 2 for x in ordered)
    best, gained, left = 0, 0.0, 0.0
    for i in range(1, n):
        left += ordered[i - 1] - mean
        gain = left * left * n / (i * (n - i))
        if least <= i <= n - least and gain > gained:
            best, gained = i, gain
    return best, gained / whole if whole > 0 else 0.0
