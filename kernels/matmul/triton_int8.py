"""int8 matmul in Triton, for any GPU from sm_80.

    out = ((a - zero_a) @ b.T) * scale_a * scale_b + bias        a [M, K], b [N, K], int8

One program makes one tile of the output; it walks K in blocks, whole ones first, and masks only
the ragged end. Rows beyond the edge of a tile read row 0 and are not stored. Tensor cores sum the
codes in int32, exactly. A zero point takes itself times the sum of a row of b away, which the
program adds up as it goes; either may wrap, their difference can't (`deepest`).
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.config_int8 import select_int8_config, shape_of
from aimills_kernels.kernels.matmul.tiles import tile_of
from aimills_kernels.kernels.triton_common import round_to, widen


@triton.jit
def _multiply(acc, sums, a_ptrs, b_ptrs, offs_k, left, TAIL: tl.constexpr, ZERO: tl.constexpr):
    """One block of K."""
    if TAIL:
        a = tl.load(a_ptrs, mask=offs_k[None, :] < left, other=0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < left, other=0)
    else:
        a = tl.load(a_ptrs)
        b = tl.load(b_ptrs)
    if ZERO:
        sums += tl.sum(b.to(tl.int32), 0)
    return tl.dot(a, b, acc, out_dtype=tl.int32), sums


@triton.jit
def _matmul_int8_kernel(
    out_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, zero_ptr, bias_ptr,
    stride_am, stride_ak, stride_bn, stride_bk, stride_sa, stride_sb, stride_zero, stride_bias,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ZERO: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    rows = tl.where(offs_m < M, offs_m, 0)
    cols = tl.where(offs_n < N, offs_n, 0)
    deep = offs_k.to(tl.int64)
    a_tile = a_ptr + rows[:, None] * stride_am + deep[None, :] * stride_ak
    b_tile = b_ptr + cols[None, :] * stride_bn + deep[:, None] * stride_bk

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    sums = tl.zeros([BLOCK_N], tl.int32)
    whole = K // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        step = tl.cast(start, tl.int64)
        acc, sums = _multiply(
            acc, sums, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, BLOCK_K,
            False, ZERO,
        )  # fmt: skip
    if whole < K:
        step = tl.cast(whole, tl.int64)
        acc, sums = _multiply(
            acc, sums, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, K - whole,
            True, ZERO,
        )  # fmt: skip

    scale_a = tl.load(scale_a_ptr + offs_m * stride_sa, mask=offs_m < M, other=0.0)
    if ZERO:
        zero = tl.load(zero_ptr + offs_m * stride_zero, mask=offs_m < M, other=0)
        acc -= zero[:, None] * sums[None, :]
        # A number out of range would pass the int32: it shows.
        scale_a = tl.where((zero >= -128) & (zero <= 127), scale_a, float("nan"))
    scale_b = tl.load(scale_b_ptr + offs_n * stride_sb, mask=offs_n < N, other=0.0)
    out = acc.to(tl.float32) * scale_a[:, None] * scale_b[None, :]
    if BIAS:
        bias = tl.load(bias_ptr + offs_n * stride_bias, mask=offs_n < N, other=0.0)
        out += widen(bias)[None, :]
    tl.store(
        out_ptr + offs_m[:, None] * N + offs_n[None, :],
        round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[:, None] & (offs_n < N)[None, :],
    )


def launch(
    outs: tuple[torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    zero_a: torch.Tensor | None, bias: torch.Tensor | None, out_dtype: torch.dtype,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = a.shape, b.shape[0]
    if out.numel() == 0:
        return
    zero = zero_a is not None
    config = _configs.config(select_int8_config(shape_of(a, b), zero, sm_of(a.device) or 90))
    tiles = triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
    _matmul_int8_kernel[(tiles,)](
        out, a, b, scale_a, scale_b, zero_a, bias,
        *a.stride(), *b.stride(), row_stride(scale_a), row_stride(scale_b), row_stride(zero_a),
        0 if bias is None else bias.stride(0), M, N, K,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        GROUP_M=config.group_m, ZERO=zero, BIAS=bias is not None,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def row_stride(column: torch.Tensor | None) -> int:
    """0 repeats the one element of a tensor for every row."""
    return column.stride(0) if column is not None and column.dim() == 2 else 0
