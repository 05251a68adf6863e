"""PyTorch's grouped scaled matmul, `torch._scaled_grouped_mm`: CUTLASS on sm_90, sums promoted.

It takes no `out` and leaves rows of no group undefined, so its result is copied in one pass more,
which puts zeros there. `F.scaled_grouped_mm` runs the same kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._op import Problem
from aimills_kernels.kernels.matmul.formats import E4M3

_MOST_GROUPS = 1023  # one thread each, of one block


def launch(
    outs: tuple[Tensor],
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor, masked_m: None,
    bias: None, out_dtype: torch.dtype, batch_invariant: bool, residual: None, activation: str,
) -> None:  # fmt: skip
    ends = offsets[len(offsets) - len(b) :]
    made = torch._scaled_grouped_mm(
        a, b.mT, scale_a[:, 0], scale_b[..., 0], offs=ends, out_dtype=out_dtype,
        use_fast_accum=False,
    )  # fmt: skip
    row = torch.arange(len(a), dtype=torch.int32, device=a.device)
    own = (row < ends[-1:])[:, None]  # each group begins where the one before it ends
    torch.where(own, made, made.new_zeros(()), out=outs[0])


def rejects(p: Problem) -> str | None:
    """What it can't do, by PyTorch's conditions, which it checks at the call."""
    E, N, K = p.b.shape
    if p.offsets is None:
        return "it takes rows by offsets, not masked ones"
    if 0 in (len(p.a), E, N, K):
        return "the problem is empty"
    if p.batch_invariant:
        return "a row's bits depend on M: it picks tiles by M"
    if p.bias is not None or p.activation != "none" or p.residual is not None:
        return "it takes no bias, no activation and no residual"
    if p.a.dtype != E4M3 or p.b.dtype != E4M3:
        return "it takes e4m3 for both"
    if p.out_dtype != torch.bfloat16:
        return "it gives bf16 only"
    if p.scale_a.shape != (len(p.a), 1) or p.scale_b.shape != (E, N, 1):
        return "it takes one scale for each row of both"
    if E > _MOST_GROUPS:
        return f"it takes up to {_MOST_GROUPS} groups, here {E}"
    return _layout_rejected(p)


def _layout_rejected(p: Problem) -> str | None:
    _, N, K = p.b.shape
    if K % 16 or N % 16:
        return f"K and N must be multiples of 16, here {K} and {N}"
    for name, t in (("scale_a", p.scale_a), ("scale_b", p.scale_b), ("offsets", p.offsets)):
        if not t.is_contiguous():
            return f"{name} must be contiguous"
    for name, t in (("a", p.a), ("b", p.b)):
        *pitches, step = t.stride()
        odd = any(pitch % 16 for pitch in pitches) or t.data_ptr() % 16
        if step != 1 or odd or t.stride(-2) < K:
            return f"{name} must have contiguous rows that start at multiples of 16 bytes"
    return None
