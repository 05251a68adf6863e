"""Matmuls in each arithmetic: sustained rates on random data, rows held against float64."""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels.accept.context import Context
from aimills_kernels.accept.stages._tools import is_gpu, option, reason, stopped
from aimills_kernels.harness import gemm
from aimills_kernels.harness.ceilings import sustained_us
from aimills_kernels.harness.timing import timer_for

_GPU_N = 8192
_CPU_N = {"f32": 1024, "f16": 256, "bf16": 256, "fp8": 256, "int8": 512}
_ROWS = 16  # that are held against float64
_DEVIATIONS = 8  # of a sum of independent roundings
_LEAST_SM = {"tf32": 80, "bf16": 80, "fp8": 89, "int8": 75}

# Roundings: of the inputs before they are multiplied, of the result, and of the running sum in
# one step of it. TF32 keeps 10 bits; fast fp8 sums keep some 13 bits in steps of 32 products.
_INPUT = {"tf32": 2.0**-10}
_OUTPUT = {"f32": 2.0**-24, "tf32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "fp8": 2.0**-8}
_STEP = {"fp8": 2.0**-18}
_SUM = 2.0**-23


def run(ctx: Context) -> str:
    rates = {}
    with ctx.progress("matmuls", len(gemm.KINDS)) as step:
        for kind in gemm.KINDS:
            if stopped(ctx):
                ctx.not_run(f"gemm.{kind}", f"{kind} matmul", "the run was stopped")
                continue
            step(kind)
            if why := _lacks(ctx, kind):
                ctx.not_run(f"gemm.{kind}", f"{kind} matmul", why, gap=False)
                continue
            try:
                rates[kind] = _one(ctx, kind, ctx.seconds / len(gemm.KINDS))
            except (RuntimeError, TypeError, ValueError, MemoryError) as error:
                ctx.not_run(f"gemm.{kind}", f"{kind} matmul", reason(error), gap=is_gpu(ctx))
    return ", ".join(f"{kind} {rate / 1e12:.4g} TFLOP/s" for kind, rate in rates.items())


def _lacks(ctx: Context, kind: str) -> str | None:
    if not is_gpu(ctx):
        return "a CPU has no TF32" if kind == "tf32" else None
    major, minor = torch.cuda.get_device_capability(ctx.device)
    least = _LEAST_SM.get(kind, 0)
    have = 10 * major + minor
    return f"{kind} begins at sm_{least} and this is sm_{have}" if have < least else None


def _one(ctx: Context, kind: str, seconds: float) -> float:
    n = option(ctx, "n", _GPU_N if is_gpu(ctx) else _CPU_N[kind])
    a, b = gemm.operands(kind, n, ctx.device, ctx.seed)
    call = gemm.call(kind, a, b)
    with gemm.precision(kind):
        samples = sustained_us(timer_for(ctx.device), call, seconds)
        product = call()
    late = samples[len(samples) // 2 :]  # by then a power limit shows
    rate = 2 * n**3 / (sum(late) / len(late)) * 1e6
    ctx.measure(f"gemm.{kind}", rate, n=n, samples=len(samples))
    _check(ctx, kind, a, b, product)
    return rate


def _check(ctx: Context, kind: str, a: Tensor, b: Tensor, product: Tensor) -> None:
    """Hold some rows against float64. Stated is how many elements are further off than roundings
    can explain; NaN is."""
    n = a.shape[0]
    generator = torch.Generator().manual_seed(ctx.seed)
    rows = torch.randperm(n, generator=generator)[:_ROWS].to(a.device)
    left, right = a.to(torch.float32)[rows].double(), b.to(torch.float32).double()
    expected = left @ right
    got = product[rows].double()
    allowed = bound(kind, n, expected, (left.square() @ right.square()).sqrt())
    off = (got - expected).abs()
    wrong = ~(off <= allowed)
    count = int(wrong.sum())
    used = float((off / allowed.clamp_min(1e-300)).nan_to_num(nan=0.0).max())
    ctx.measure(
        "gemm.wrong", count, kind=kind, n=n, elements=got.numel(), error_over_bound=min(used, 1e9)
    )
    if count:
        row, column = (int(x) for x in wrong.nonzero()[0])
        text = f"{kind}: an element of the product is off by more than roundings explain"
        want, have = (str(float(t[row, column])) for t in (expected, got))  # JSON has no NaN
        place = {"row": int(rows[row]), "column": column}
        ctx.event("gemm", text, kind=kind, **place, expected=want, got=have)


def bound(kind: str, n: int, expected: Tensor, norm: Tensor) -> Tensor:
    """What roundings can explain. `norm` is the root of the sum of squared products: independent
    errors of the inputs add up in its measure, and a running sum is seldom larger. A truncating
    adder errs in one direction, so its steps are counted in full. Integers are exact."""
    if kind == "int8":
        return torch.zeros_like(expected)
    inputs = _INPUT.get(kind, 0.0)
    steps = n * _STEP.get(kind, _SUM)
    return norm * (_DEVIATIONS * inputs + steps) + expected.abs() * (2 * inputs + _OUTPUT[kind])
