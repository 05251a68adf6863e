"""Taking times.

A GPU is timed by events, a CPU by the monotonic clock. All contestants are timed in one run, in
rounds of shuffled order, so that a drift of clocks or of the machine's load meets all of them.
Nothing is dropped as an outlier: two modes in the samples are what throttling looks like.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aimills_kernels.harness.env import last_level_cache

# Kept from import time: a provider that replaces them later changes nothing here.
_now = time.perf_counter_ns
_Event = torch.cuda.Event
_synchronize = torch.cuda.synchronize

_WINDOW = 5  # samples a warm-up window
_STEADY = 0.02  # two windows whose medians are this close end the warm-up
_WARM_SHARE = 0.2  # of the budget, at most
_GRACE_S = 1.0  # beyond twice the budget, so that quick calls get their rounds all the same
_SHORT_US = 20.0  # on a CPU, a shorter call is repeated within one sample
_CACHE_GUESS = 64 << 20  # where the system doesn't tell the size of its cache
_MAX_LEAD_US = 20_000.0


@dataclass(frozen=True)
class Timing:
    """Statistics of the samples. `noise` is the interquartile range over the median; `cold` says
    that the caches were flushed before each call; `exposed` counts the samples on a GPU in which
    the launch came too late, so that they hold host time too."""

    median_us: float
    q1_us: float
    q3_us: float
    min_us: float
    n: int
    samples_us: list[float]
    warmup_calls: int
    noise: float
    cold: bool
    clock: Literal["events", "monotonic"]
    exposed: int = 0


def summarise(
    samples: list[float],
    *,
    clock: Literal["events", "monotonic"],
    cold: bool,
    warmup_calls: int = 0,
    exposed: int = 0,
) -> Timing:
    if not samples:
        raise ValueError("no samples to summarise")
    q1, median, q3 = (
        statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    )
    noise = (q3 - q1) / median if median > 0 else 0.0
    return Timing(
        median, q1, q3, min(samples), len(samples), list(samples), warmup_calls, noise, cold,
        clock, exposed,
    )  # fmt: skip


class Timer:
    """Takes one sample at a time. `timer_for` gives the one for a device."""

    clock: Literal["events", "monotonic"]
    cache_bytes: int

    def flush(self) -> None:
        """Put other data into the caches: twice the size of the last level is written."""
        raise NotImplementedError

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        """Microseconds a call."""
        raise NotImplementedError

    def repeats(self, median_us: float) -> int:
        """How many calls one sample needs, given the time of one."""
        return 1

    @property
    def exposed(self) -> bool:
        """Whether the last sample holds launch time."""
        return False


class CpuTimer(Timer):
    clock = "monotonic"

    def __init__(self) -> None:
        self.cache_bytes = last_level_cache() or _CACHE_GUESS
        self._other = torch.zeros(2 * self.cache_bytes // 4, dtype=torch.int32)

    def flush(self) -> None:
        self._other.add_(1)  # by the same threads that run the op, so their own caches go too

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        begin = _now()
        for _ in range(repeats):
            call()
        return (_now() - begin) / 1e3 / repeats

    def repeats(self, median_us: float) -> int:
        if median_us >= _SHORT_US:
            return 1
        return int(_SHORT_US / max(median_us, 0.05)) + 1


class CudaTimer(Timer):
    """Events around the call. A spinning kernel in front keeps the GPU busy until the host has
    queued the call, so that gaps between launches don't count."""

    clock = "events"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        properties = torch.cuda.get_device_properties(device)
        self.cache_bytes = getattr(properties, "L2_cache_size", 0) or _CACHE_GUESS
        self._other = torch.zeros(2 * self.cache_bytes // 4, dtype=torch.int32, device=device)
        self._lead_us, self._exposed = 50.0, False
        self._cycles_per_us = self._calibrate()

    def _calibrate(self) -> float:
        cycles = 2_000_000
        begin, end = _Event(enable_timing=True), _Event(enable_timing=True)
        for _ in range(2):  # the first loads the kernel
            begin.record()
            torch.cuda._sleep(cycles)
            end.record()
            _synchronize(self._device)
        return cycles / (1e3 * begin.elapsed_time(end))

    def flush(self) -> None:
        self._other.zero_()

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        begin, end = _Event(enable_timing=True), _Event(enable_timing=True)
        torch.cuda._sleep(int(self._lead_us * self._cycles_per_us))
        queued = _now()
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        self._exposed = begin.query()  # the GPU got there before the call was queued
        host_us = (_now() - queued) / 1e3
        _synchronize(self._device)
        if self._exposed:
            self._lead_us = min(max(2 * host_us, 2 * self._lead_us), _MAX_LEAD_US)
        return 1e3 * begin.elapsed_time(end) / repeats

    @property
    def exposed(self) -> bool:
        return self._exposed


def timer_for(device: str | torch.device) -> Timer:
    place = torch.device(device)
    if place.type == "cpu":
        return CpuTimer()
    if place.type == "cuda":
        return CudaTimer(place)
    raise ValueError(f"no timer for device {str(device)!r}; there are cpu and cuda")


@dataclass
class _Lane:
    """One contestant within a run."""

    name: str
    call: Callable[[], Any]
    samples: list[float]
    repeats: int = 1
    warmup_calls: int = 0
    exposed: int = 0
    spent_s: float = 0.0


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    device: str | torch.device,
    *,
    budget_s: float,
    min_rounds: int = 5,
    max_rounds: int = 100,
    least: int = 1,
    rotate: Callable[[str, int], None] | None = None,
    seed: int = 0,
    timer: Timer | None = None,
) -> dict[str, Timing]:
    """Time every contestant, all in one run, in rounds of shuffled order.

    `rotate(name, round)` runs before each sample, outside of the time taken: there a contestant
    goes on to its next inputs. The budget is shared: a contestant that used its part sits out once
    it has `min_rounds` samples. A second after twice the budget the run ends, after `least` rounds
    all the same.
    """
    timer = timer or timer_for(device)
    begin = _now()
    lanes = [_Lane(name, call, []) for name, call in contestants.items()]
    share = budget_s / max(len(lanes), 1)
    for lane in lanes:
        _warm_up(timer, lane, _WARM_SHARE * share)
    order = random.Random(seed)
    for round_ in range(max_rounds):
        over = (_now() - begin) / 1e9 >= 2 * budget_s + _GRACE_S
        turn = [x for x in lanes if x.spent_s < share or len(x.samples) < min_rounds]
        if not turn or (over and round_ >= least):
            break
        order.shuffle(turn)
        for lane in turn:
            _take(timer, lane, round_, rotate)
    return {x.name: _result(timer, x) for x in lanes}


def _take(
    timer: Timer, lane: _Lane, round_: int, rotate: Callable[[str, int], None] | None
) -> None:
    begin = _now()
    if rotate is not None:
        rotate(lane.name, round_)
    timer.flush()
    lane.samples.append(timer.sample(lane.call, lane.repeats))
    lane.exposed += timer.exposed
    lane.spent_s += (_now() - begin) / 1e9


def _warm_up(timer: Timer, lane: _Lane, bound_s: float) -> None:
    """Call until the medians of two windows agree or the time is up; one call at the least."""
    begin, last, window = _now(), 0.0, []
    while True:
        window.append(timer.sample(lane.call))
        lane.warmup_calls += 1
        late = (_now() - begin) / 1e9 >= bound_s
        if len(window) < _WINDOW and not late:
            continue
        median = statistics.median(window)
        if late or (last and abs(median / last - 1) <= _STEADY):
            break
        last, window = median, []
    lane.repeats = timer.repeats(median)
    lane.spent_s = (_now() - begin) / 1e9


def _result(timer: Timer, lane: _Lane) -> Timing:
    return summarise(
        lane.samples,
        clock=timer.clock,
        cold=lane.repeats == 1,
        warmup_calls=lane.warmup_calls,
        exposed=lane.exposed,
    )
