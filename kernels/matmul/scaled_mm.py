"""PyTorch's scaled matmul: cuBLASLt or CUTLASS, oneDNN on a CPU.

`torch._scaled_mm` and not `F.scaled_mm`, which runs the same kernels but takes no `out`: copying
its result would cost twice what writing it costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._op import Problem
from aimills_kernels.kernels.matmul.config import BLOCK, blocks_of, in_blocks
from aimills_kernels.kernels.matmul.formats import E5M2


def launch(
    outs: tuple[Tensor],
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> None:  # fmt: skip
    across = scale_b
    if scale_b.dim() == 2:
        across = scale_b.T
        if scale_b.shape[1] == 1:  # of one element any strides are contiguous, but not to PyTorch
            across = scale_b.as_strided((1, len(scale_b)), (len(scale_b), 1))
    if scale_a.dim() == 2 and scale_a.shape[1] == 1:
        scale_a = scale_a.as_strided(scale_a.shape, (1, 1))
    torch._scaled_mm(
        a, b.T, scale_a, across, bias=bias, out_dtype=out_dtype, use_fast_accum=accum == "fast",
        out=outs[0],
    )  # fmt: skip


def rejects(p: Problem) -> str | None:
    """What it can't do; on a GPU by cuBLASLt's conditions, which PyTorch checks at the call."""
    (M, K), N = p.a.shape, p.b.shape[0]
    if 0 in (M, N, K):
        return "the problem is empty"
    if p.batch_invariant:
        return "a row's bits depend on M: it picks kernels by M"
    if p.activation != "none" or p.residual is not None:
        return "it takes no activation and no residual"
    if p.bias is not None and not p.bias.is_contiguous():
        return "bias must be contiguous"
    if in_blocks(p.scale_a, p.scale_b, N):
        return _blocks_rejected(p)
    rows = p.scale_a.dim() == 2
    if rows != (p.scale_b.dim() == 2):
        return "it takes one scale for both tensors or one for each row of both, not a mix"
    for name, t in (("scale_a", p.scale_a), ("scale_b", p.scale_b)):
        if not t.is_contiguous():
            return f"{name} must be contiguous"
    if p.device == "cpu":
        # Of 4328 draws of `split-magnitudes` 280 were beyond twice the reference's error.
        exact = p.out_dtype == torch.float32 and p.accum != "fast"
        return "on a CPU its float32 sums are less exact than promoted ones" if exact else None
    if p.sm is not None and p.sm < 89:
        return f"sm_{p.sm} has no fp8 tensor cores"
    return _operands_rejected(p) or (_rows_rejected(p) if rows else None)


def _rows_rejected(p: Problem) -> str | None:
    if p.out_dtype != torch.bfloat16:
        return "with a scale for each row it gives bf16 only"
    if p.b.dtype == E5M2 and p.sm is not None and p.sm // 10 != 9:
        return "with a scale for each row it takes an e5m2 b on sm_90 only"
    return None


def _blocks_rejected(p: Problem) -> str | None:
    """It takes the scales of blocks in one layout each, as cuBLASLt of CUDA 12.9 reads them."""
    (M, K), N = p.a.shape, p.b.shape[0]
    blocks = blocks_of(K)
    if p.device == "cpu" or (p.sm is not None and p.sm // 10 != 9):
        return "it takes scales of blocks on sm_90 only"
    if p.out_dtype != torch.bfloat16:
        return "with a scale for each block it gives bf16 only"
    if p.accum == "fast":
        return "with a scale for each block it has no fast accumulation"
    if K % BLOCK:
        return f"with scales of blocks K must be a multiple of 128, here {K}"
    if p.scale_a.shape != (M, blocks) or p.scale_b.shape not in (
        (N, blocks),
        (blocks_of(N), blocks),
    ):
        return "it takes scales of blocks for both tensors, not a mix"
    for name, t, rows in (("scale_a", p.scale_a, M), ("scale_b", p.scale_b, N)):
        if t.shape[0] != rows:
            continue
        if t.stride() != (1, rows):
            return f"{name} must have strides (1, {rows}), as quantize_fp8 makes it"
        if rows % 4 or t.data_ptr() % 16:
            return f"the blocks of {name} must start at multiples of 16 bytes"
    if p.scale_b.shape[0] != N:
        if blocks % 4:  # it would read rows of 4 more scales than there are
            return f"with scales of 128x128 K must be a multiple of 512, here {K}"
        if not p.scale_b.is_contiguous() or p.scale_b.data_ptr() % 16:
            return "scale_b must be contiguous and start at a multiple of 16 bytes"
    return _operands_rejected(p)


def _operands_rejected(p: Problem) -> str | None:
    K, N = p.a.shape[1], p.b.shape[0]
    if p.a.dtype == p.b.dtype == E5M2:
        return "it does not take e5m2 for both"
    if p.out_dtype == torch.float32 and p.accum != "fast":
        return "fp8 tensor cores sum in about 14 bits, too coarse for a float32 output"
    if p.bias is not None and p.bias.dtype != p.out_dtype:
        return "the bias must have the dtype of the output"
    if K % 16 or N % 16:
        return f"K and N must be multiples of 16, here {K} and {N}"
    for name, t in (("a", p.a), ("b", p.b)):
        if t.stride(1) != 1 or t.stride(0) % 16 or t.stride(0) < K or t.data_ptr() % 16:
            return f"{name} must have contiguous rows that start at multiples of 16 bytes"
    if p.bias is not None and p.bias.data_ptr() % 16:
        return "the bias must start at a multiple of 16 bytes"
    return None
