"""When a benchmark stops, and what it says of two modes."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from aimills_kernels.harness import _stopping

SHAPES: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda r: r.gauss(100, 3),
    "uniform": lambda r: r.uniform(90, 110),
    "exponential": lambda r: 100 + r.expovariate(0.1),
    "log-normal": lambda r: 100 * r.lognormvariate(0, 0.3),
    "outliers": lambda r: r.gauss(100, 1) * (10 if r.random() < 0.04 else 1),
    "ticks": lambda r: 100 + 0.5 * r.randrange(2),  # the resolution of a clock
}


def drawn(shape: Callable[[random.Random], float], n: int, seed: int = 0) -> list[float]:
    made = random.Random(seed)
    return [shape(made) for _ in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [30, 60, 300])
def test_one_mode_is_not_called_two(shape: str, n: int) -> None:
    wrong = sum(bool(_stopping.modes(drawn(SHAPES[shape], n, s))) for s in range(200))
    assert wrong <= 8  # of 200


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("outliers", [0.0, 0.03])
def test_two_modes_are_found(share: float, outliers: float) -> None:
    def shape(r: random.Random) -> float:
        time = r.gauss(100, 0.5) if r.random() < share else r.gauss(108, 0.5)
        return time * (10 if r.random() < outliers else 1)

    found = [m for seed in range(100) if (m := _stopping.modes(drawn(shape, 100, seed)))]
    assert len(found) > 90
    for fast, slow in found:
        assert fast["median_us"] == pytest.approx(100, rel=0.01)
        assert slow["median_us"] == pytest.approx(108, rel=0.01)
        assert fast["share"] + slow["share"] == pytest.approx(1)
        assert fast["share"] == pytest.approx(share, abs=0.2)


def test_a_few_slow_samples_are_no_mode() -> None:
    assert _stopping.modes([100.0] * 95 + [200.0] * 5) == []
    assert len(_stopping.modes([100.0] * 80 + [200.0] * 20)) == 2
    assert _stopping.modes([1.0, 2.0] * 14) == []  # too few to say
    assert _stopping.modes([0.0] * 50 + [1.0] * 50) == []  # no logarithm


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    for n in (6, 15, 40, 300):
        held = 0
        for seed in range(400):
            low, high = _stopping.interval(drawn(SHAPES["exponential"], n, seed)) or (0, 0)
            held += low <= 100 + 10 * 0.6931 <= high
        assert held >= 0.92 * 400


def test_the_interval_of_known_ranks() -> None:
    assert _stopping.interval([1.0] * 5) is None
    assert _stopping.interval([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == (1.0, 6.0)
    assert _stopping.interval([float(i) for i in range(20)]) == (5.0, 14.0)  # the tables' 6 and 15
    low, high = _stopping.interval([float(i) for i in range(2000)]) or (0, 0)
    assert (low + high) / 2 == pytest.approx(999.5)
    assert 80 < high - low < 96  # 2 * 1.96 * sqrt(2000) / 2 ranks


def test_noise_decides_when_to_stop() -> None:
    assert not _stopping.quiet([1.0] * 9)
    assert _stopping.quiet([1.0] * 10)
    noisy = drawn(SHAPES["normal"], 20)
    assert not _stopping.quiet(noisy)
    assert _stopping.quiet(noisy, 0.05)
    assert _stopping.quiet(drawn(SHAPES["normal"], 2000))
    assert statistics.median(noisy) > 0
