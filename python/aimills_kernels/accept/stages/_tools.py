"""What the stages share: options, the device's counters, the request to stop, checks of bits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from aimills_kernels._dispatch import on_device
from aimills_kernels.accept.context import Context
from aimills_kernels.accept.telemetry import Telemetry, Window, telemetry_of
from aimills_kernels.harness.energy import WINDOW_S
from aimills_kernels.harness.env import first_line

T = TypeVar("T")
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def on_its_device(work: Callable[[Context], str]) -> Callable[[Context], str]:
    """Kernels, events and random numbers are those of the current GPU."""

    @wraps(work)
    def inside(ctx: Context) -> str:
        with on_device(ctx.device):
            return work(ctx)

    return inside


def option(ctx: Context, name: str, default: T) -> T:
    """A size or the like that whoever runs the stage may set as "<stage>.<name>"."""
    return ctx.options.get(f"{ctx.stage}.{name}", default)


def counters(ctx: Context) -> Telemetry:
    return ctx.telemetry or telemetry_of(ctx.device)


def joules_in(ctx: Context, window: Window) -> float | str:
    """The energy of a window, or why it isn't known."""
    joules = window.joules()
    if joules is None:
        return counters(ctx).why("energy_mj")
    if window.seconds < WINDOW_S:
        return f"{window.seconds:.1f} s are shorter than the {WINDOW_S:g} s that a counter needs"
    return joules


def stopped(ctx: Context) -> bool:
    """Whether the run was asked to end: the option "stop" is a threading.Event."""
    stop = ctx.options.get("stop")
    return stop is not None and stop.is_set()


def over(ctx: Context, end: float) -> bool:
    return stopped(ctx) or time.monotonic() >= end


def is_gpu(ctx: Context) -> bool:
    return ctx.device.type == "cuda"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_counter(ctx: Context, metric: str, name: str, factor: float = 1.0) -> None:
    """A counter of NVML under a metric's name, or the reason why there is none. That is no gap by
    itself: the criteria say which metrics a model needs."""
    value = counters(ctx).read(name)
    if value is None:
        ctx.not_run(metric, metric, counters(ctx).why(name), gap=False)
    else:
        ctx.measure(metric, value * factor if factor != 1.0 else value)


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


# ---- bits


def bits(t: Tensor) -> Tensor:
    """The tensor as integers of the width of its elements, so that NaN equals the same NaN."""
    return t.contiguous().view(_WORDS[t.element_size()])


def digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for t in tensors:
        found.update(bits(t.detach()).cpu().numpy().tobytes())
    return found.hexdigest()


def first_difference(expected: Tensor, got: Tensor) -> dict[str, Any] | None:
    """How many elements differ in a bit, and the first that does; None where none does."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return {"shape": f"{tuple(got.shape)} {got.dtype}"}
    a, b = bits(expected).reshape(-1), bits(got).reshape(-1)
    differs = a != b
    count = int(differs.sum())
    if not count:
        return None
    at = int(differs.to(torch.uint8).argmax())
    width = 8 * expected.element_size()
    x, y = (int(t[at]) & ((1 << width) - 1) for t in (a, b))
    return {
        "elements": count,
        "index": at,
        "expected": f"{x:#0{width // 4 + 2}x}",
        "got": f"{y:#0{width // 4 + 2}x}",
        "bits": [i for i in range(width) if (x ^ y) >> i & 1],
    }


def percentile(values: list[float], share: float) -> float:
    """Of the sorted values the one at this share, the nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
