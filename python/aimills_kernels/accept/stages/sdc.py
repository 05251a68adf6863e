"""Silent errors: the same bits from every repeat on one device, and from every equal device.

Inputs are drawn on the CPU as sums of integers, so that they are the same everywhere, and copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import aimills_kernels
from aimills_kernels.accept.context import Context
from aimills_kernels.accept.stages._tools import (
    digest,
    first_difference,
    is_gpu,
    option,
    over,
    reason,
    stopped,
)
from aimills_kernels.harness import gemm

Kernel = tuple[Callable[[], tuple[Tensor, ...]], str]  # the call, and what shape it works on

_GPU_N, _CPU_N = 2048, 128
_MOST_TOLD = 10  # differences of a kernel, one by one


def run(ctx: Context) -> str:
    n = option(ctx, "n", _GPU_N if is_gpu(ctx) else _CPU_N)
    made = kernels(ctx.device, n, ctx.seed)
    repeats = differing = 0
    with ctx.progress("repeats", len(made)) as step:
        for name, (call, shape) in made.items():
            if stopped(ctx):
                ctx.not_run(f"sdc/{name}", f"{name}, repeated", "the run was stopped")
                continue
            step(name)
            try:
                compared, wrong = _repeat(ctx, name, call, shape, ctx.seconds / len(made))
            except (RuntimeError, ValueError, MemoryError) as error:
                ctx.not_run(f"sdc/{name}", f"{name}, repeated", reason(error))
                continue
            repeats, differing = repeats + compared, differing + wrong
    return f"{differing} of {repeats} repeats differ, {len(made)} kernels"


def _repeat(
    ctx: Context, name: str, call: Callable[[], tuple[Tensor, ...]], shape: str, seconds: float
) -> tuple[int, int]:
    first = tuple(t.clone() for t in call())
    ctx.checksum(f"{name} {shape} seed {ctx.seed}", digest(*first), kernel=name)
    end = time.monotonic() + seconds
    compared = differing = 0
    while not compared or not over(ctx, end):
        compared += 1
        found = [first_difference(a, b) for a, b in zip(first, call(), strict=True)]
        for output, difference in enumerate(found):
            if difference is None:
                continue
            differing += 1
            if differing <= _MOST_TOLD:
                text = f"{name}: repeat {compared} differs from the first in a bit"
                ctx.event("sdc", text, kernel=name, repeat=compared, output=output, **difference)
            break
    ctx.measure("sdc.repeats", compared, kernel=name)
    ctx.measure("sdc.differing", differing, kernel=name)
    return compared, differing


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """About normal, exact in f32: the sum of four uniform integers, so that no logarithm or cosine
    of this or that CPU takes part."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(-128, 128, (4, *shape), generator=generator, dtype=torch.int16)
    return parts.sum(0).float() / 128


def kernels(device: torch.device, n: int, seed: int) -> dict[str, Kernel]:
    """Of different kinds: matmul pipes, reductions, special functions, integers; PyTorch's and the
    library's own."""
    heads, width = 4, 64
    low = torch.bfloat16

    def put(t: Tensor) -> Tensor:
        return t.to(device)

    x = put(drawn((n, n), seed))
    y = put(drawn((n, n), seed + 1))
    q, k, v = (put(drawn((1, n, heads, width), seed + 2 + i)).to(low) for i in range(3))
    codes, scales = aimills_kernels.quantize_fp8(x.to(low), "row")
    small, small_scales, *_ = aimills_kernels.quantize_int8(x.to(low), "row")
    luma = (drawn((2, n // 2, n // 2), seed + 5) * 32 + 128).clamp(0, 255).to(torch.uint8)
    planes = (put(luma), put(luma[:, ::2, ::2, None].expand(-1, -1, -1, 2).contiguous()))
    bf = (x.to(low), y.to(low))

    def f32() -> tuple[Tensor, ...]:
        with gemm.precision("f32"):
            return (x @ y,)

    square, tokens = f"{n}x{n}", f"{n}x{heads}x{width}"
    return {
        "matmul f32": (f32, square),
        "matmul bf16": (lambda: (bf[0] @ bf[1],), square),
        "sum f32": (lambda: (x.sum(0), x.sum(1)), square),
        "softmax f32": (lambda: (F.softmax(x, -1),), square),
        "gelu and cumsum f32": (lambda: (F.gelu(x), x.cumsum(-1)), square),
        "sort of integers": (lambda: (x.to(torch.int32).sort(-1).values,), square),
        "attention bf16": (
            lambda: (aimills_kernels.attention(q, k, v, causal=True, deterministic=True),),
            tokens,
        ),
        "quantize_fp8": (lambda: aimills_kernels.quantize_fp8(bf[0], "row"), square),
        "matmul_fp8": (
            lambda: (aimills_kernels.matmul_fp8(codes, codes, scales, scales),), square
        ),
        "matmul_int8": (
            lambda: (aimills_kernels.matmul_int8(small, small, small_scales, small_scales),),
            square,
        ),
        "video_to_tensor": (
            lambda: (aimills_kernels.video_to_tensor(planes, size=(n // 4, n // 4)),),
            f"2x{n // 2}x{n // 2}",
        ),
    }  # fmt: skip
