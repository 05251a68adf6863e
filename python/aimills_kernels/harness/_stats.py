"""Two samples of times: how far apart, how sure, and how much a run drifts by itself.

All of it works on logarithms, so a shift is a ratio, and on ranks, so no outlier has to go.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NORMAL = statistics.NormalDist()
_MOST = 1000  # order statistics a side, from which the pairs for an interval are made
_QUARTERS, _ENOUGH_OF_QUARTERS = 4, 16
_STUDENT = 3.18  # 95 % of what has a deviation that four values tell
_BY_CHANCE = 2.6  # a variance of four medians is beyond so many times its own once in twenty runs


@dataclass(frozen=True)
class Shift:
    """Of new times against those of the base, as a ratio.

    `ratio` is that of Hodges and Lehmann: the median of all ratios of a new time to one of the
    base; `low` and `high` are its 95 % interval by ranks. `p` is Mann and Whitney's for "no further
    apart than the noise floor", two-sided, by the normal approximation with ties and continuity.
    """

    ratio: float
    low: float
    high: float
    p: float


def shift(base: Sequence[float], new: Sequence[float], floor: float = 0.0) -> Shift:
    """`floor` is the ratio, less 1, by which two runs of the same differ. Times are above 0."""
    a, b = _logs(base), _logs(new)
    ratio, low, high = _ratio(a, b)
    step = math.log1p(floor)
    p = min(_p_above(a, b - step), _p_above(b, a - step))
    return Shift(ratio, low, high, min(1.0, 2 * p))


def _logs(times: Sequence[float]) -> Tensor:
    return torch.tensor(times, dtype=torch.float64).log().sort().values


def _ratio(a: Tensor, b: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    n, m = len(a), len(b)
    few_a, few_b = _thinned(a), _thinned(b)
    pairs = (few_b[:, None] - few_a[None, :]).flatten().sort().values
    z = _NORMAL.inv_cdf((1 + level) / 2)
    below = 0.5 - z * math.sqrt((n + m + 1) / (12 * n * m))  # share of the pairs
    end = max(0, math.floor(below * len(pairs)) - 1)
    middle = (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / 2
    return math.exp(middle), math.exp(pairs[end]), math.exp(pairs[len(pairs) - 1 - end])


def _thinned(ordered: Tensor) -> Tensor:
    if len(ordered) <= _MOST:
        return ordered
    places = torch.linspace(0, len(ordered) - 1, _MOST).round().long()
    return ordered[places]


def _p_above(a: Tensor, b: Tensor) -> float:
    """One-sided p of `b` being larger than `a`, both sorted."""
    n, m = len(a), len(b)
    under = torch.searchsorted(a, b, right=False).sum().item()
    ties_and_under = torch.searchsorted(a, b, right=True).sum().item()
    u = (under + ties_and_under) / 2
    _, counts = torch.cat([a, b]).unique(return_counts=True)
    ties = float((counts.double() ** 3 - counts).sum())
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return 1 - _NORMAL.cdf((u - n * m / 2 - 0.5) / math.sqrt(variance))


def holm(p: Sequence[float]) -> list[float]:
    """The same p after Holm: none false in the family, with the chance that is asked for."""
    found, least = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        found[index] = least
    return found


def drift(times: Sequence[float]) -> float:
    """How far the medians of a run's quarters are apart, as a standard deviation of logarithms; 0
    where their own noise explains it. What moves within a run moves between runs too."""
    if len(times) < _ENOUGH_OF_QUARTERS:
        return 0.0
    logs = [math.log(t) for t in times]
    cuts = [round(i * len(logs) / _QUARTERS) for i in range(_QUARTERS + 1)]
    quarters = [logs[i:j] for i, j in itertools.pairwise(cuts)]
    medians = [statistics.median(q) for q in quarters]
    steps = [abs(y - x) for x, y in itertools.pairwise(logs)]  # of neighbours, so without a drift
    deviation = 1.4826 * statistics.median(steps) / math.sqrt(2)
    own = math.pi / 2 * deviation**2 / (len(logs) / _QUARTERS)  # variance of a median
    seen = statistics.variance(medians)
    return math.sqrt(seen - own) if seen > _BY_CHANCE * own else 0.0


def apart(drifts: Sequence[float]) -> float:
    """By how much two runs that drift so may differ, as a ratio less 1."""
    return math.expm1(_STUDENT * math.hypot(*drifts))


def between(medians: Sequence[float]) -> float:
    """By how much two runs of the same may differ: two standard deviations of such a difference, as
    a ratio less 1; 0 of fewer than three runs."""
    if len(medians) < 3:
        return 0.0
    return math.expm1(2 * math.sqrt(2) * statistics.stdev(math.log(m) for m in medians))
