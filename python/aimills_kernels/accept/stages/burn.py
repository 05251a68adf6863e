"""A sustained load: matmuls on random data for as long as the profile says, telemetry beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from torch import Tensor

from aimills_kernels.accept.context import Context
from aimills_kernels.accept.metrics import THROTTLES
from aimills_kernels.accept.stages._tools import (
    counters,
    first_difference,
    is_gpu,
    joules_in,
    option,
    over,
    percentile,
    stopped,
)
from aimills_kernels.accept.stages.memory import buffers, copy_rate
from aimills_kernels.accept.telemetry import CPU_SAMPLE, Window
from aimills_kernels.harness import gemm
from aimills_kernels.harness.timing import Timer, timer_for

_GPU_N, _CPU_N = 8192, 512
_BATCH_S = 0.1  # of calls between two looks at the clock
_COMPARE_S = 10.0  # between two looks at the product's bits
_LEAST_S = 0.1  # between two samples
_MOST_TOLD = 10  # differences, one by one
_HOT_SHARE, _HOT_MOST_S = 0.1, 5.0  # for the bandwidth at the end


def run(ctx: Context) -> str:
    hot = min(_HOT_SHARE * ctx.seconds, _HOT_MOST_S)
    timer = timer_for(ctx.device)
    source, target = buffers(ctx, timer)
    kind = option(ctx, "kind", "bf16" if is_gpu(ctx) else "f32")
    n = option(ctx, "n", _GPU_N if is_gpu(ctx) else _CPU_N)
    call = gemm.call(kind, *gemm.operands(kind, n, ctx.device, ctx.seed))
    seconds = ctx.seconds - hot
    every = max(min(1.0, seconds / 20), seconds / 3600, _LEAST_S)
    with (
        gemm.precision(kind),
        counters(ctx).sampling(ctx.journal, ctx.stage, every) as window,
    ):
        rates = _sustain(ctx, timer, call, 2.0 * n**3, seconds)
    # At once, while the memory is as warm as the load made it.
    at_the_end = 0.0 if stopped(ctx) else hot
    ctx.measure("memory.copy_hot", copy_rate(ctx, timer, source, target, at_the_end))
    if stopped(ctx):
        text = f"the burn was stopped after {window.seconds:.1f} of {seconds:.1f} s"
        ctx.event("stopped", text)
    flops = sum(count for _, count in rates)
    rate = flops / window.seconds
    _rate(ctx, kind, n, rate, [count / took for took, count in rates], window)
    _telemetry(ctx, window)
    _throttles(ctx, window)
    _energy(ctx, flops, window)
    return f"{rate / 1e12:.4g} TFLOP/s of {kind} matmul over {window.seconds:.0f} s"


def _sustain(
    ctx: Context, timer: Timer, call: Callable[[], Tensor], flops: float, seconds: float
) -> list[tuple[float, float]]:
    """Seconds and operations of each batch. From time to time the product's bits are held against
    the first's."""
    first = call().clone()
    repeats = max(1, int(_BATCH_S * 1e6 / max(timer.sample(call), 1.0)))
    begin = time.monotonic()
    end, due = begin + seconds, begin + min(_COMPARE_S, seconds / 4)
    batches: list[tuple[float, float]] = []
    compared = differing = 0
    while not batches or not over(ctx, end):
        batches.append((timer.sample(call, repeats) * repeats / 1e6, flops * repeats))
        if time.monotonic() < due:
            continue
        due = time.monotonic() + min(_COMPARE_S, seconds / 4)
        compared += 1
        if difference := first_difference(first, call()):
            differing += 1
            if differing <= _MOST_TOLD:
                ctx.event("sdc", "the burn's product differs from its first in a bit", **difference)
    ctx.measure("sdc.repeats", compared, kernel="matmul in the burn")
    ctx.measure("sdc.differing", differing, kernel="matmul in the burn")
    return batches


def _rate(ctx: Context, kind: str, n: int, rate: float, rates: list[float], window: Window) -> None:
    ctx.measure(
        "burn.rate", rate, kind=kind, n=n, seconds=window.seconds, batches=len(rates),
        p5=percentile(rates, 0.05), p50=percentile(rates, 0.5), p95=percentile(rates, 0.95),
    )  # fmt: skip


def _telemetry(ctx: Context, window: Window) -> None:
    for metric, name in (
        ("burn.temperature", "temperature_c"),
        ("burn.temperature_memory", "memory_temperature_c"),
    ):
        if values := window.values(name):
            ctx.measure(metric, percentile(values, 0.95), samples=len(values), most=max(values))
        else:
            ctx.not_run(metric, metric, _why(ctx, name), gap=False)
    for metric, name, factor in (
        ("burn.clock", "sm_mhz", 1e6),
        ("burn.power", "power_w", 1.0),
    ):
        if values := [factor * value for value in window.values(name)]:
            ctx.measure(
                metric, statistics.fmean(values), samples=len(values), p5=percentile(values, 0.05),
                p50=percentile(values, 0.5), p95=percentile(values, 0.95),
            )  # fmt: skip
        else:
            ctx.not_run(metric, metric, _why(ctx, name), gap=False)
    if window.xids is None:
        ctx.not_run("burn.xid", "burn.xid", _why(ctx, "xid"), gap=False)
    else:
        ctx.measure("burn.xid", len(window.xids), xids=window.xids)


def _why(ctx: Context, name: str) -> str:
    asked = is_gpu(ctx) or name in CPU_SAMPLE
    return counters(ctx).why(name) if asked else "the device under test is a CPU"


def _throttles(ctx: Context, window: Window) -> None:
    for name in THROTTLES:
        found = window.slowed(name) if is_gpu(ctx) else None
        if found is not None:
            ctx.measure(f"throttle.{name}", found[0], source=found[1])
            continue
        ctx.not_run(f"throttle.{name}", f"throttle.{name}", _why(ctx, "reasons"), gap=False)


def _energy(ctx: Context, flops: float, window: Window) -> None:
    joules = joules_in(ctx, window)
    if isinstance(joules, str):
        ctx.not_run("energy.gemm", "matmul per joule", joules, gap=False)
    else:
        ctx.measure("energy.gemm", flops / joules, joules=joules, watts=joules / window.seconds)
