"""Matmuls by PyTorch in each arithmetic, on normal random data: what a device's rates are taken
with. Zeros, or ones, would draw less power and run faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

KINDS = ("f32", "tf32", "f16", "bf16", "fp8", "int8")
_INT8_SPREAD = 40  # levels a standard deviation, so that few are clamped


def operands(kind: str, n: int, place: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two matrices [n, n]; the second is column-major where the arithmetic asks for it."""
    generator = torch.Generator(device=place).manual_seed(seed)
    a, b = (torch.randn(n, n, generator=generator, device=place) for _ in range(2))
    if kind in ("f16", "bf16"):
        dtype = torch.float16 if kind == "f16" else torch.bfloat16
        return a.to(dtype), b.to(dtype)
    if kind == "fp8":
        return a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    if kind == "int8":
        a, b = ((_INT8_SPREAD * t).round().clamp(-127, 127) for t in (a, b))
        return a.to(torch.int8), b.to(torch.int8).t()
    return a, b


def call(kind: str, a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """`a @ b` to be called. Both kinds of f32 need their `precision` around the calls."""
    if kind == "int8":
        return lambda: torch._int_mm(a, b)
    if kind == "fp8":
        one = torch.ones((), device=a.device)
        return lambda: torch._scaled_mm(
            a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    return lambda: a @ b


@contextlib.contextmanager
def precision(kind: str) -> Iterator[None]:
    """TF32 where it is asked for and nowhere else."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
