"""Taking times.

A GPU is timed by events, a CPU by the monotonic clock. All contestants are timed in one run, in
rounds of shuffled order, so that a drift of clocks or of the machine's load meets all of them.
Nothing is dropped as an outlier: a sample with a flaw is flagged, and two modes are what throttling
looks like.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from aimills_kernels._validate import NO_MEMORY
from aimills_kernels.harness import _clocks, _guard, _stopping
from aimills_kernels.harness._timers import LAUNCH, CpuTimer, CudaTimer, Mode, Timer, timer_for
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.nvml import Counters, Watch

__all__ = ["CpuTimer", "CudaTimer", "DeviceLost", "NoTime", "Timer", "Timing", "no_time",
           "summarise", "time_interleaved", "timer_for"]  # fmt: skip

_now = _clocks.now
_WINDOW = 5  # samples a warm-up window
_STEADY = 0.02  # two windows whose medians, and SM clocks, are this close end the warm-up
_WARM_UP_SHARE = 0.2  # of the budget, at most
_WARM_SHARE = 0.2  # of the budget, for samples with warm caches
_MOST_WARM = 100  # samples
_GRACE_S = 1.0  # beyond twice the budget, so that quick calls get their rounds all the same
NO_TIME_PASSED = "no time passed"

Rotate = Callable[[str, int], None]


class ClockError(RuntimeError):
    """A clock that can't be trusted."""


@dataclass(frozen=True)
class NoTime:
    """Why a contestant has no time. It is a `gap` where that is not its own fault; `ran` where it
    was called as often as any and can be judged all the same."""

    why: str
    gap: bool = False
    ran: bool = False


def no_time(error: Exception) -> NoTime:
    if is_memory(error):
        return NoTime(NO_MEMORY, gap=True)
    if isinstance(error, ClockError):
        return NoTime(str(error), gap=True)
    return NoTime(f"{type(error).__name__}: {first_line(error)}")


def is_memory(error: Exception) -> bool:
    """Whether it says that memory ran out; PyTorch's allocator for a CPU has no class for it."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error)


class DeviceLost(RuntimeError):
    """The device can't be used any more; `name` is the contestant that was running."""

    def __init__(self, name: str, why: str):
        super().__init__(why)
        self.name, self.why = name, why


@dataclass(frozen=True)
class Spread:
    """Statistics of samples. `noise` is the interquartile range over the median; `low_us` and
    `high_us` bound a 95 % interval of the median; `flags` names the flaws of samples by index."""

    n: int
    median_us: float
    q1_us: float
    q3_us: float
    low_us: float | None
    high_us: float | None
    min_us: float
    noise: float
    samples_us: list[float]
    flags: dict[str, list[int]]
    modes: list[dict[str, Any]]


@dataclass(frozen=True)
class Timing(Spread):
    """`cold` says that the caches were flushed before each call, `warm` is the spread without;
    `settled` that the warm-up ended by itself and not by its bound."""

    clock: Literal["events", "monotonic"]
    cold: bool
    mode: Mode = "stream"
    warm: Spread | None = None
    host_us: float | None = None
    warmup_calls: int = 0
    settled: bool = True
    telemetry: dict[str, Any] | None = None
    spent_s: float = 0.0  # from the warm-up to the last sample, those with warm caches aside
    timed_s: float = 0.0  # of it, what the clock ran for
    flushed_s: float = 0.0  # of it

    @property
    def exposed(self) -> int:
        """Samples on a GPU in which the launch came too late, so that they hold host time too."""
        return len(self.flags.get(LAUNCH, ()))


def spread(samples: Sequence[float], flags: Mapping[str, list[int]] | None = None) -> Spread:
    if not samples:
        raise ValueError("no samples to summarise")
    q1, median, q3 = (
        statistics.quantiles(samples, n=4, method="inclusive")
        if len(samples) > 1
        else list(samples) * 3
    )
    low, high = _stopping.interval(samples) or (None, None)
    noise = (q3 - q1) / median if median > 0 else 0.0
    return Spread(
        len(samples), median, q1, q3, low, high, min(samples), noise, list(samples),
        {k: list(v) for k, v in (flags or {}).items()}, _stopping.modes(samples),
    )  # fmt: skip


def summarise(
    samples: Sequence[float],
    *,
    clock: Literal["events", "monotonic"],
    cold: bool,
    flags: Mapping[str, list[int]] | None = None,
    **more: Any,
) -> Timing:
    return Timing(**vars(spread(samples, flags)), clock=clock, cold=cold, **more)


@dataclass
class _Lane:
    """One contestant within a run."""

    name: str
    call: Callable[[], Any]
    watch: Watch | None
    warm_watch: Watch | None
    at: Callable[[str], None]
    samples: list[float] = field(default_factory=list)
    flags: dict[str, list[int]] = field(default_factory=dict)
    host: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    warm_flags: dict[str, list[int]] = field(default_factory=dict)
    broken: NoTime | None = None
    repeats: int = 1
    warmup_calls: int = 0
    settled: bool = False
    spent_s: float = 0.0
    warm_spent_s: float = 0.0
    flushed_s: float = 0.0
    timed_s: float = 0.0


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    device: str | torch.device,
    *,
    budget_s: float,
    min_rounds: int = 5,
    max_rounds: int = 300,
    least: int = 1,
    rotate: Rotate | None = None,
    seed: int = 0,
    timer: Timer | None = None,
    target: float | None = _stopping.TARGET,
    counters: Counters | None = None,
    warm: bool = True,
    at: Callable[[str], None] | None = None,
) -> dict[str, Timing | NoTime]:
    """Time every contestant, all in one run, in rounds of shuffled order.

    `rotate(name, round)` runs before each sample, outside of the time taken: there a contestant
    goes on to its next inputs. One is done when its median is known to `target` (half a 95 %
    interval over the median). The budget is shared: a contestant that used its part sits out once
    it has `min_rounds` samples. A second after twice the budget the run ends, after `least` rounds
    all the same. `at(name)` is called before each step of a contestant. With `warm`, samples
    without a flush follow, in a share of the budget.

    In place of a Timing, NoTime says why there is none. Raises DeviceLost where nothing more
    can be timed.
    """
    timer = timer or timer_for(device)
    begin = _now()
    lanes = [
        _Lane(name, call, *_watches(counters), at or (lambda name: None))
        for name, call in contestants.items()
    ]
    share = budget_s / max(len(lanes), 1)
    for lane in lanes:
        _guarded(timer, lane, _warm_up, _WARM_UP_SHARE * share)
    order = random.Random(seed)
    cold_share = (1 - _WARM_SHARE) * share
    for round_ in range(max_rounds):
        over = _since(begin) >= 2 * budget_s + _GRACE_S
        turn = [x for x in lanes if _goes_on(x, cold_share, min_rounds, target)]
        if not turn or (over and round_ >= least):
            break
        order.shuffle(turn)
        for lane in turn:
            _guarded(timer, lane, _take, round_, rotate)
    _share_out(lanes, _since(begin))
    if warm:
        _warm_rounds(timer, lanes, share, begin + int(2e9 * budget_s), rotate, order, target)
    return {x.name: x.broken or _result(timer, x) for x in lanes}


def _watches(counters: Counters | None) -> tuple[Watch | None, Watch | None]:
    return (Watch(counters), Watch(counters)) if counters else (None, None)


def _since(begin: int) -> float:
    return (_now() - begin) / 1e9


def _share_out(lanes: Sequence[_Lane], whole_s: float) -> None:
    """What was spent between the steps is everybody's, so that the sum is what passed."""
    between_s = whole_s - sum(lane.spent_s for lane in lanes)
    for lane in lanes:
        lane.spent_s += max(between_s, 0.0) / len(lanes)


def _goes_on(lane: _Lane, share: float, min_rounds: int, target: float | None) -> bool:
    if lane.broken or (target is not None and _stopping.quiet(lane.samples, target)):
        return False
    return lane.spent_s < share or len(lane.samples) < min_rounds


def _guarded(timer: Timer, lane: _Lane, step: Callable[..., None], *more: Any) -> None:
    """What goes wrong with one contestant ends that one, and no other."""
    if lane.broken:
        return
    lane.at(lane.name)
    try:
        step(timer, lane, *more)
    except Exception as error:
        lane.broken = no_time(error)
        if not timer.usable():
            raise DeviceLost(lane.name, lane.broken.why) from error
    begin = _now()
    if replaced := _guard.restore():
        lane.broken = NoTime(replaced)
    lane.spent_s += _since(begin)


def _take(timer: Timer, lane: _Lane, round_: int, rotate: Rotate | None) -> None:
    begin = _now()
    if rotate is not None:
        rotate(lane.name, round_)
    before_flush = _now()
    timer.flush()
    lane.flushed_s += max(_since(before_flush), timer.flush_us / 1e6)
    time_us = _watched(timer, lane.watch, lane.call, lane.repeats)
    _enter(timer, time_us, lane.samples, lane.flags)
    lane.timed_s += time_us * lane.repeats / 1e6
    if timer.host_us is not None:
        lane.host.append(timer.host_us)
    lane.spent_s += _since(begin)


def _watched(timer: Timer, watch: Watch | None, call: Callable[[], Any], repeats: int) -> float:
    timer.meanwhile = watch.look if watch else None
    try:
        return _sample(timer, call, repeats)
    finally:
        timer.meanwhile = None


def _enter(timer: Timer, time_us: float, samples: list[float], flags: dict[str, list[int]]) -> None:
    for flaw in [*timer.flaws, *([NO_TIME_PASSED] if time_us == 0 else [])]:
        flags.setdefault(flaw, []).append(len(samples))
    samples.append(time_us)


def _sample(timer: Timer, call: Callable[[], Any], repeats: int = 1) -> float:
    time_us = timer.sample(call, repeats)
    if time_us < 0:
        raise ClockError(f"the clock went backwards, by {-time_us:.3g} us a call")
    return time_us


def _warm_up(timer: Timer, lane: _Lane, bound_s: float) -> None:
    """Call until the medians of two windows agree, and the SM clocks, or the time is up; one call
    at the least."""
    begin, last, window = _now(), (0.0, 0.0), []
    while True:
        window.append(_sample(timer, lane.call))
        lane.timed_s += window[-1] / 1e6
        lane.warmup_calls += 1
        late = _since(begin) >= bound_s
        if len(window) < _WINDOW and not late:
            continue
        median, sm = statistics.median(window), (lane.watch.sm_mhz() if lane.watch else None) or 0.0
        lane.settled = _close(median, last[0]) and (not sm or _close(sm, last[1]))
        if late or lane.settled:
            break
        last, window = (median, sm), []
    lane.repeats = timer.repeats(median)
    lane.spent_s = _since(begin)


def _close(value: float, last: float) -> bool:
    return last > 0 and abs(value / last - 1) <= _STEADY


def _warm_rounds(
    timer: Timer,
    lanes: Sequence[_Lane],
    share: float,
    end: int,
    rotate: Rotate | None,
    order: random.Random,
    target: float | None,
) -> None:
    """Samples without a flush, of those whose samples so far were taken with one."""
    due = [x for x in lanes if not x.broken and x.samples and _is_cold(timer, x)]
    for round_ in range(_MOST_WARM):
        turn = [
            x for x in due
            if not x.broken and x.warm_spent_s < _WARM_SHARE * share
            and not (target is not None and _stopping.quiet(x.warm, target))
        ]  # fmt: skip
        if not turn or _now() >= end:
            return
        order.shuffle(turn)
        for lane in turn:
            _guarded(timer, lane, _take_warm, round_, rotate)


def _take_warm(timer: Timer, lane: _Lane, round_: int, rotate: Rotate | None) -> None:
    """One call brings the data into the caches; then the outputs are poisoned once more."""
    begin = _now()
    for is_timed in (False, True):
        if rotate is not None:
            rotate(lane.name, round_)
        if not is_timed:
            lane.call()
    repeats = timer.warm_repeats(statistics.median(lane.samples))
    time_us = _watched(timer, lane.warm_watch, lane.call, repeats)
    _enter(timer, time_us, lane.warm, lane.warm_flags)
    lane.warm_spent_s += _since(begin)


def _is_cold(timer: Timer, lane: _Lane) -> bool:
    return lane.repeats == 1 and timer.mode != "host"


def _result(timer: Timer, lane: _Lane) -> Timing | NoTime:
    if not lane.samples:
        return NoTime("the time budget ended before its first sample", gap=True)
    if statistics.median(lane.samples) == 0:
        return NoTime("its time is below what the clock can tell", gap=True, ran=True)
    watch, warm_watch = lane.watch, lane.warm_watch
    warm_flags = lane.warm_flags | (warm_watch.flags() if warm_watch else {})
    return summarise(
        lane.samples,
        clock=timer.clock,
        cold=_is_cold(timer, lane),
        flags=lane.flags | (watch.flags() if watch else {}),
        mode=timer.mode,
        warm=spread(lane.warm, warm_flags) if lane.warm else None,
        host_us=statistics.median(lane.host) if lane.host else None,
        warmup_calls=lane.warmup_calls,
        settled=lane.settled,
        telemetry=watch.telemetry() if watch else None,
        timed_s=lane.timed_s,
        flushed_s=lane.flushed_s,
        spent_s=lane.spent_s,
    )


_guard.keep(sys.modules[__name__])
