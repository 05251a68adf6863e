"""The statistics of a comparison: against brute force, and proved by seeded simulation."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import Counter
from typing import Any

import pytest

from aimills_kernels.harness import _stats, timing
from aimills_kernels.harness.compare import AMBIGUOUS, SAME, SLOWER, compare_records
from tests import records

TRIALS = 200


def draws(rng: random.Random, n: int, noise: float, at: float = 100.0) -> list[float]:
    return [at * (1 + rng.gauss(0, noise)) for _ in range(n)]


def verdict(base: list[float], new: list[float]) -> str:
    sides = [records.record([records.row("triton", taken)]) for taken in (base, new)]
    (found,) = compare_records(*sides).verdicts
    return found.verdict


def verdicts(n: int, noise: float, change: float, run_noise: float = 0.0) -> Counter[str]:
    """Of `TRIALS` comparisons; `run_noise` shifts each run as a whole."""
    rng = random.Random(f"{n} {noise} {change} {run_noise}")
    found: Counter[str] = Counter()
    for _ in range(TRIALS):
        offsets = [1 + rng.gauss(0, run_noise) for _ in range(2)]
        base = draws(rng, n, noise, 100 * offsets[0])
        found[verdict(base, draws(rng, n, noise, 100 * (1 + change) * offsets[1]))] += 1
    return found


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.2])
@pytest.mark.parametrize("n", [10, 30, 100])
def test_equal_distributions_are_slower_once_in_a_hundred_at_most(n: int, noise: float) -> None:
    assert verdicts(n, noise, 0.0)[SLOWER] <= 0.01 * TRIALS


@pytest.mark.parametrize("n", [10, 30, 100])
def test_a_shift_of_a_tenth_is_found_in_noise_of_three_percent(n: int) -> None:
    assert verdicts(n, 0.03, 0.10)[SLOWER] >= 0.95 * TRIALS


@pytest.mark.parametrize("run_noise", [0.0, 0.005, 0.01])
def test_runs_of_the_same_that_differ_as_on_a_gpu_are_same(run_noise: float) -> None:
    """Medians within 2 % of each other nearly always, and never SLOWER."""
    found = verdicts(50, 0.005, 0.0, run_noise)
    assert found[SAME] >= 0.95 * TRIALS
    assert found[SLOWER] == 0


class Noisy(timing.Timer):
    """Calls of 100 us with noise, by a seed."""

    clock = "monotonic"
    cache_bytes = 0

    def __init__(self, rng: random.Random, noise: float):
        self._rng, self._noise = rng, noise

    def flush(self) -> None: ...

    def sample(self, call: Any, repeats: int = 1) -> float:
        return draws(self._rng, 1, self._noise)[0]


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_two_runs_of_the_harness_one_after_the_other_agree(noise: float) -> None:
    """With warm-up and the rule that ends a run: medians within 2 %, and SAME."""
    rng = random.Random(f"runs {noise}")
    found, apart = Counter[str](), 0.0
    for _ in range(TRIALS // 4):
        runs = [
            timing.time_interleaved(
                {"same": int}, "cpu", budget_s=1e9, timer=Noisy(rng, noise), warm=False
            )["same"]
            for _ in range(2)
        ]
        a, b = (run for run in runs if isinstance(run, timing.Timing))
        apart = max(apart, abs(a.median_us / b.median_us - 1))
        found[verdict(a.samples_us, b.samples_us)] += 1
    assert apart < 0.02
    assert found[SAME] >= 0.95 * (TRIALS // 4)
    assert found[SLOWER] == 0


def test_what_drifts_within_a_run_is_not_held_against_the_kernel() -> None:
    """A walk of the clock: two runs of the same end some percent apart."""
    rng, found = random.Random(5), Counter[str]()
    for _ in range(TRIALS):
        sides = []
        for _ in range(2):
            steps = itertools.accumulate(rng.gauss(0, 0.01) for _ in range(100))
            sides.append([100 * math.exp(s) * (1 + rng.gauss(0, 0.005)) for s in steps])
        found[verdict(*sides)] += 1
    assert found[SLOWER] <= 0.05 * TRIALS
    assert found[AMBIGUOUS] >= 0.5 * TRIALS


def test_one_false_verdict_among_all_rows_of_a_hundred_records_at_most() -> None:
    rng, false = random.Random(11), 0
    for _ in range(100):
        sides = [
            records.record(
                [records.row("triton", draws(rng, 12, 0.2), case=f"c{i}") for i in range(40)]
            )
            for _ in range(2)
        ]
        false += bool(compare_records(*sides).counts.get(SLOWER))
    assert false <= 1


def test_p_is_that_of_all_permutations() -> None:
    rng = random.Random(3)
    for change in (0.0, 0.02, 0.05):
        a, b = draws(rng, 6, 0.03), draws(rng, 6, 0.03, 100 * (1 + change))
        pooled = a + b

        def u(chosen: tuple[int, ...], pooled: list[float] = pooled) -> float:
            rest = [x for i, x in enumerate(pooled) if i not in chosen]
            return sum(pooled[i] > x for i in chosen for x in rest)

        seen = u(tuple(range(6, 12)))
        every = [u(c) for c in itertools.combinations(range(12), 6)]
        above, below = sum(x >= seen for x in every), sum(x <= seen for x in every)
        exact = min(1, 2 * min(above, below) / len(every))
        assert _stats.shift(a, b).p == pytest.approx(exact, abs=0.02)


def test_ties_alone_show_nothing() -> None:
    found = _stats.shift([2.0] * 20, [2.0] * 20)
    assert (found.ratio, found.low, found.high, found.p) == (1, 1, 1, 1)
    assert _stats.shift([2.0] * 20, [3.0] * 20).p < 1e-6


def test_the_ratio_is_the_median_of_all_and_its_interval_holds_the_true_one() -> None:
    rng, inside = random.Random(7), 0
    for _ in range(TRIALS):
        a, b = draws(rng, 25, 0.05), draws(rng, 35, 0.05, 110.0)
        found = _stats.shift(a, b)
        every = statistics.median(math.log(y / x) for x in a for y in b)
        assert found.ratio == pytest.approx(math.exp(every))
        inside += found.low <= 1.1 <= found.high
    assert 0.9 * TRIALS <= inside < TRIALS


def test_a_floor_takes_away_what_it_covers() -> None:
    rng = random.Random(9)
    a, b = draws(rng, 60, 0.01), draws(rng, 60, 0.01, 104.0)
    assert _stats.shift(a, b).p < 1e-6
    assert _stats.shift(a, b, floor=0.08).p > 0.9
    assert _stats.shift(b, a, floor=0.08).p > 0.9


def test_long_runs_are_thinned_and_say_the_same() -> None:
    rng = random.Random(13)
    a, b = draws(rng, 5000, 0.03), draws(rng, 3000, 0.03, 110.0)
    found = _stats.shift(a, b)
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(1.1, rel=0.003)
    assert found.high / found.low < 1.005


def test_holm_against_its_definition() -> None:
    assert _stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert _stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert _stats.holm([]) == []


def test_drift_sees_a_walk_and_no_noise() -> None:
    rng = random.Random(17)
    noise = [_stats.drift(draws(rng, 40, 0.03)) for _ in range(TRIALS)]
    assert sum(d > 0 for d in noise) <= 0.15 * TRIALS
    ramp = [100 * (1 + 0.002 * i) * (1 + rng.gauss(0, 0.005)) for i in range(40)]
    assert _stats.drift(ramp) == pytest.approx(0.025, abs=0.01)
    assert _stats.drift([100.0, 200.0] * 5) == 0


def test_between_runs() -> None:
    assert _stats.between([100.0, 110.0]) == 0
    assert _stats.between([99.0, 100.0, 101.0]) == pytest.approx(0.0287, abs=1e-3)
