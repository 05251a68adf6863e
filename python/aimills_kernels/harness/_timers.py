"""Timers: how one sample is taken, on each kind of device and in each mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from aimills_kernels.harness import _clocks
from aimills_kernels.harness.env import last_level_cache

Mode = Literal["stream", "graph", "host"]
LAUNCH = "launch time"
AFTER_ITS_END = "work after its end"

_now = _clocks.now
_SHORT_US = 20.0  # on a CPU, a shorter call is repeated within one sample
_CACHE_GUESS = 64 << 20  # where the system doesn't tell the size of its cache
_MAX_LEAD_US = 20_000.0
_TAIL_US, _TAIL_SHARE = 50.0, 0.1  # what the device may still do when the call's end was reached
_WARM_US, _MOST_WARM_CALLS = 200.0, 50  # of a warm sample on a GPU
_HOST_CALLS = 5


class Timer:
    """Takes one sample at a time. `timer_for` gives the one for a device."""

    mode: Mode = "stream"
    clock: Literal["events", "monotonic"]
    cache_bytes: int
    flushed_bytes = 0
    flush_us = 0.0  # of the device, where the host does not wait for it
    # Of the last sample:
    flaws: Sequence[str] = ()
    host_us: float | None = None
    # Called while the device works and the host would wait for it.
    meanwhile: Callable[[], None] | None = None

    def flush(self) -> None:
        """Put other data into the caches: twice the size of the last level is written."""
        raise NotImplementedError

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        """Microseconds a call."""
        raise NotImplementedError

    def repeats(self, median_us: float) -> int:
        """How many calls one sample needs, given the time of one."""
        return 1

    def warm_repeats(self, median_us: float) -> int:
        """The same for calls back to back, which nothing is flushed between."""
        return self.repeats(median_us)

    def hold(self) -> None:
        """Keep the device busy for a while, so that what is queued next waits."""

    def synchronize(self) -> None:
        """Wait until the device, all of its streams, has nothing left to do."""

    def usable(self) -> bool:
        return True


class CpuTimer(Timer):
    clock = "monotonic"

    def __init__(self) -> None:
        self.cache_bytes = last_level_cache() or _CACHE_GUESS
        self._other = torch.zeros(2 * self.cache_bytes // 4, dtype=torch.int32)
        self.flushed_bytes = self._other.numel() * self._other.element_size()

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

    clock: Literal["events", "monotonic"] = "events"

    def __init__(self, cuda: _clocks.Cuda, mode: Mode = "stream") -> None:
        self.mode, self.cuda = mode, cuda
        self.cache_bytes = cuda.cache_bytes() or _CACHE_GUESS
        self._other = torch.zeros(2 * self.cache_bytes // 4, dtype=torch.int32, device=cuda.device)
        self.flushed_bytes = self._other.numel() * self._other.element_size()
        self._begin, self._end = cuda.event(), cuda.event()
        self._lead_us = 50.0
        self._cycles_per_us = self._calibrate()
        self.flush_us = self._time_of_flush()

    def _calibrate(self) -> float:
        cycles, took_us = 2_000_000, 0.0
        for _ in range(2):  # the first loads the kernel
            self.cuda.record(self._begin)
            self.cuda.spin(cycles)
            self.cuda.record(self._end)
            self.cuda.synchronize()
            took_us = self.cuda.between_us(self._begin, self._end)
        return cycles / max(took_us, 1.0)

    def flush(self) -> None:
        self.cuda.forget_persisting()
        self._other.zero_()

    def _time_of_flush(self) -> float:
        self.flush()
        self.cuda.record(self._begin)
        self.flush()
        self.cuda.record(self._end)
        self.cuda.synchronize()
        return self.cuda.between_us(self._begin, self._end)

    def hold(self) -> None:
        self.cuda.spin(int(self._lead_us * self._cycles_per_us))

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        self.hold()
        self.cuda.record(self._begin)
        queued = _now()
        for _ in range(repeats):
            call()
        host_us = (_now() - queued) / 1e3
        self.cuda.record(self._end)
        exposed = self.cuda.reached(self._begin)  # before the call was queued
        if self.meanwhile is not None:
            self.meanwhile()
        self.cuda.wait(self._end)
        ended = _now()
        self.cuda.synchronize()
        tail_us = (_now() - ended) / 1e3
        if exposed:
            self._lead_us = min(max(2 * host_us, 2 * self._lead_us), _MAX_LEAD_US)
        time_us = self.cuda.between_us(self._begin, self._end)
        late = tail_us > max(_TAIL_US, _TAIL_SHARE * time_us)
        self.flaws = [LAUNCH] * exposed + [AFTER_ITS_END] * late
        self.host_us = host_us / repeats
        return time_us / repeats

    def warm_repeats(self, median_us: float) -> int:
        return min(int(_WARM_US / max(median_us, 1.0)) + 1, _MOST_WARM_CALLS)

    def synchronize(self) -> None:
        self.cuda.synchronize()

    def usable(self) -> bool:
        return self.cuda.usable()


class HostTimer(CudaTimer):
    """What the host spends on a call, with an idle GPU behind it."""

    clock = "monotonic"

    def __init__(self, cuda: _clocks.Cuda) -> None:
        super().__init__(cuda, "host")
        self.flushed_bytes = 0

    def flush(self) -> None:
        """The GPU's caches don't matter to the host."""

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        self.cuda.synchronize()
        begin = _now()
        for _ in range(repeats):
            call()
        self.host_us = (_now() - begin) / 1e3 / repeats
        if self.meanwhile is not None:
            self.meanwhile()
        self.cuda.synchronize()
        return self.host_us

    def repeats(self, median_us: float) -> int:
        return _HOST_CALLS


def timer_for(device: str | torch.device, mode: Mode = "stream") -> Timer:
    """ValueError for a device or a mode that it does not have."""
    place = torch.device(device)
    if place.type == "cpu":
        if mode != "stream":
            raise ValueError(f"mode {mode!r} is for a GPU: a call on a CPU has no queue behind it")
        return CpuTimer()
    if place.type == "cuda":
        cuda = _clocks.Cuda(place)
        return HostTimer(cuda) if mode == "host" else CudaTimer(cuda, mode)
    raise ValueError(f"no timer for device {str(device)!r}; there are cpu and cuda")
