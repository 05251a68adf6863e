"""Clocks and the device's queue, as they were when this module was imported.

A provider that replaces them later changes no time, and `_guard` finds it out.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from typing import Any

import torch

from aimills_kernels.harness.env import first_line

now = time.perf_counter_ns

_Event, _CUDAGraph, _graph = torch.cuda.Event, torch.cuda.CUDAGraph, torch.cuda.graph
_sleep, _synchronize = torch.cuda._sleep, torch.cuda.synchronize
_record, _query, _wait, _elapsed = (
    getattr(_Event, name) for name in ("record", "query", "synchronize", "elapsed_time")
)
_replay = _CUDAGraph.replay


class Cuda:
    """The queue of one GPU: the stream that is current, its events and its graphs."""

    def __init__(self, device: torch.device):
        self.device = device
        self._forget = _persisting_reset()

    def cache_bytes(self) -> int:
        return getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0)

    def event(self) -> Any:
        return _Event(enable_timing=True)

    def record(self, event: Any) -> None:
        _record(event)

    def reached(self, event: Any) -> bool:
        return bool(_query(event))

    def wait(self, event: Any) -> None:
        _wait(event)

    def between_us(self, begin: Any, end: Any) -> float:
        return 1e3 * _elapsed(begin, end)

    def spin(self, cycles: int) -> None:
        _sleep(cycles)

    def synchronize(self) -> None:
        _synchronize(self.device)

    def usable(self) -> bool:
        return alive(self.device)

    def forget_persisting(self) -> None:
        """Lines that a kernel asked to be kept in the L2 cache outlive a flush."""
        self._forget()

    def capture(self, call: Callable[[], Any]) -> Callable[[], None]:
        """One call as a CUDA graph; RuntimeError with a sentence where it can't be one."""
        graph = _CUDAGraph()
        try:
            with _graph(graph):
                call()
        except Exception as error:
            said = first_line(error)
            raise RuntimeError(f"it can't be captured in a CUDA graph: {said}") from error
        return lambda: _replay(graph)


def alive(device: torch.device) -> bool:
    """After an illegal access every later call on that GPU fails too."""
    try:
        if device.type == "cuda":
            _synchronize(device)
    except Exception:
        return False
    return True


def _persisting_reset() -> Callable[[], Any]:
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL("libcuda.so.1").cuCtxResetPersistingL2Cache
    return lambda: None
