"""PyTorch's int8 matmul, `torch._int_mm`: cuBLASLt. The int32 sums go to memory; zero points,
scales and what follows are applied to them in steps of their own.

Not on a CPU: oneDNN adds pairs of products in 16 bits, saturated, on one that has no VNNI.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._op import Problem
from aimills_kernels.kernels.matmul.activations import finish
from aimills_kernels.kernels.matmul.config_int8 import deepest


def launch(
    outs: tuple[Tensor],
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, residual: Tensor | None, activation: str,
    batch_invariant: bool,
) -> None:  # fmt: skip
    sums = torch._int_mm(a, b.T)
    if zero_a is not None:
        sums = sums - zero_a.long().reshape(-1, 1) * b.sum(1)
    scaled = sums.float().mul_(scale_a.reshape(-1, 1)).mul_(scale_b.reshape(1, -1))
    # In the sums' own dtype, as the copy rounds: a result of its own would be one pass more.
    outs[0].copy_(finish(scaled, bias, activation, residual, scaled.dtype))


def rejects(p: Problem) -> str | None:
    """What it can't do, by PyTorch's conditions, which it checks at the call."""
    (M, K), N = p.a.shape, p.b.shape[0]
    if 0 in (M, N, K):
        return "the problem is empty"
    if p.batch_invariant:
        return "it takes more than 16 rows only, so that M decides who rounds a row's end"
    if (most := deepest(zero=False)) < K:
        return f"its int32 sums hold K up to {most}, here {K}"
    if M <= 16:
        return f"it takes more than 16 rows, here {M}"
    if K % 8 or N % 8:
        return f"K and N must be multiples of 8, here {K} and {N}"
    for name, t in (("a", p.a), ("b", p.b)):
        if t.stride(1) != 1 or t.stride(0) % 16 or t.stride(0) < K or t.data_ptr() % 16:
            return f"{name} must have contiguous rows that start at multiples of 16 bytes"
    return None
