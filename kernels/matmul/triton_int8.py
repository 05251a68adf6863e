"""int8 matmul in Triton, for any GPU from sm_80.

    out = activation(((a - zero_a) @ b.T) * scale_a * scale_b + bias) + residual

a [M, K], b [N, K], int8.

One program makes one tile of the output; it walks K in blocks, whole ones first, and masks only
the ragged end. Rows beyond the edge of a tile read row 0 and are not stored. Tensor cores sum the
codes in int32, exactly. A zero point takes itself times the sum of a row of b away, which the
program adds up as it goes; either may wrap, their difference can't (`deepest`). As sums of integers
have no order, a row has the same bits in tiles of any size: `batch_invariant` changes nothing here.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.config_int8 import select_int8_config, shape_of
from aimills_kernels.kernels.matmul.epilogue import End, finish_tile, weight_rows
from aimills_kernels.kernels.matmul.tiles import (
    grid_of,
    load_block,
    load_each,
    options,
    places_of,
    row_stride,
    tile_of,
    walk,
)


@triton.jit
def _multiply(acc, a_ptrs, b_ptrs, step, offs_k, left, TAIL: tl.constexpr, ZERO: tl.constexpr):
    """One block of K: the sums of products, and those of b."""
    total, sums = acc
    a = load_block(a_ptrs, offs_k[None, :] < left, TAIL, 0)
    b = load_block(b_ptrs, offs_k[:, None] < left, TAIL, 0)
    if ZERO:
        sums += tl.sum(b.to(tl.int32), 0)
    return tl.dot(a, b, total, out_dtype=tl.int32), sums


@triton.jit
def _matmul_int8_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr,
    zero_ptr, stride_bias, stride_rm, stride_rn, stride_am, stride_ak, stride_bn, stride_bk,
    stride_sa, stride_sb, stride_zero, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ZERO: tl.constexpr, ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m, rows = places_of(tile_m, M, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, ACTIVATION == "swiglu")
    cols = tl.where(offs_n < N, offs_n, 0)
    nothing = (tl.zeros([BLOCK_M, BLOCK_N], tl.int32), tl.zeros([BLOCK_N], tl.int32))
    acc, sums = walk(
        _multiply, nothing, a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn, stride_bk,
        K, BLOCK_K, ZERO,
    )  # fmt: skip

    scale_a = load_each(scale_a_ptr, offs_m, M, stride_sa)
    if ZERO:
        zero = load_each(zero_ptr, offs_m, M, stride_zero)
        acc -= zero[:, None] * sums[None, :]
        # A number out of range would pass the int32: it shows.
        scale_a = tl.where((zero >= -128) & (zero <= 127), scale_a, float("nan"))
    scale_b = load_each(scale_b_ptr, offs_n, N, stride_sb)
    finish_tile(
        acc.to(tl.float32) * scale_a[:, None] * scale_b[None, :], out_ptr, codes_scale_ptr,
        bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn, offs_m, offs_n, tile_n, M, N,
        BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    zero_a: torch.Tensor | None, bias: torch.Tensor | None, out_dtype: torch.dtype,
    residual: torch.Tensor | None, activation: str, batch_invariant: bool,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = a.shape, b.shape[0]
    if out.numel() == 0:
        return
    zero = zero_a is not None
    config = _configs.config(select_int8_config(shape_of(a, b), zero, sm_of(a.device) or 90))
    end = End(out, bias, activation, residual)
    _matmul_int8_kernel[grid_of(config, M, N)](
        *end.tensors, a, b, scale_a, scale_b, zero_a, *end.strides, *a.stride(), *b.stride(),
        row_stride(scale_a), row_stride(scale_b), row_stride(zero_a), M, N, K, ZERO=zero,
        **end.options, **options(config),
    )  # fmt: skip
