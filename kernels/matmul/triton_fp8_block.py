"""fp8 matmul with a scale for each block of 128 of K, in Triton, for any GPU from sm_80.

    out = sum over blocks of scale_a[:, k] * scale_b[:, k] * (a[:, k] @ b[:, k].T) + bias

As `triton_fp8`, but the sum of each block of K leaves the tensor cores, is multiplied by the
product of its scales and added in float32: having to be scaled is what promotes it. A scale of b
may be that of 128 rows; then a tile of up to 128 columns has one. Scales are read by their strides;
one that is the same for all rows, or along K, has a stride of 0 there.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul import chosen
from aimills_kernels.kernels.matmul.config import (
    BLOCK,
    Config,
    Shape,
    per_split,
)
from aimills_kernels.kernels.matmul.epilogue import (
    End,
    add_splits,
    finish_tile,
    split_of,
    weight_rows,
)
from aimills_kernels.kernels.matmul.tiles import (
    grid_of,
    load_codes,
    options,
    places_of,
    strides_of,
    tile_of,
)
from aimills_kernels.kernels.matmul.triton_fp8 import operands
from aimills_kernels.kernels.triton_common import INTERPRET

SCALED = tl.constexpr(BLOCK)


@triton.jit
def _product(a, b):
    """a @ b of one block, from zero."""
    if INTERPRET:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _add_block(acc, a_ptrs, b_ptrs, offs_k, left, scale_a_ptrs, scale_b_ptrs, TAIL: tl.constexpr,
               A_E5M2: tl.constexpr, B_E5M2: tl.constexpr, DECODE: tl.constexpr,
               ONE_B: tl.constexpr):  # fmt: skip
    a = load_codes(a_ptrs, offs_k[None, :] < left, A_E5M2, TAIL, DECODE)
    b = load_codes(b_ptrs, offs_k[:, None] < left, B_E5M2, TAIL, DECODE)
    scale_a = tl.load(scale_a_ptrs)
    scale_b = tl.load(scale_b_ptrs)
    if ONE_B:
        return acc + _product(a, b) * (scale_a * scale_b)[:, None]
    else:  # noqa: RET505 (without it Triton would compile both)
        return acc + _product(a, b) * (scale_a[:, None] * scale_b[None, :])


@triton.jit
def add_scaled_block(acc, a_ptrs, b_ptrs, step, offs_k, left, TAIL: tl.constexpr, more):
    """For `walk`. more: scale_a_ptrs and scale_b_ptrs where K begins, how far it is from block to
    block in both, ONE_B, A_E5M2, B_E5M2, DECODE."""
    block = step // SCALED
    return _add_block(
        acc,
        a_ptrs,
        b_ptrs,
        offs_k,
        left,
        more[0] + block * more[2],
        more[1] + block * more[3],
        TAIL,
        more[5],
        more[6],
        more[7],
        more[4],
    )


@triton.jit
def add_gated_block(acc, a_ptrs, b_ptrs, step, offs_k, left, TAIL: tl.constexpr, more):
    """As `add_scaled_block`, where all gates of a tile, its even columns, have one scale and the
    others another: a scale for each column is 64 addresses a thread on sm_100. more: scale_a_ptrs
    and both scales of b where K begins, from block to block, A_E5M2, B_E5M2, DECODE."""
    block = step // SCALED
    a = load_codes(a_ptrs, offs_k[None, :] < left, more[5], TAIL, more[7])
    b = load_codes(b_ptrs, offs_k[:, None] < left, more[6], TAIL, more[7])
    scale_a = tl.load(more[0] + block * more[3])
    gate = tl.load(more[1] + block * more[4])
    up = tl.load(more[2] + block * more[4])
    scale_b = tl.where(tl.arange(0, acc.shape[1]) % 2 == 0, gate, up)
    return acc + _product(a, b) * (scale_a[:, None] * scale_b[None, :])


@triton.jit
def _matmul_fp8_block_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr,
    stride_bias, stride_rm, stride_rn, stride_am, stride_ak, stride_bn, stride_bk, stride_sam,
    stride_sak, stride_sbn, stride_sbk, M, N, K, per_split,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    SPLIT: tl.constexpr, ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
    ROWS_B: tl.constexpr, A_E5M2: tl.constexpr, B_E5M2: tl.constexpr, DECODE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m, rows = places_of(tile_m, M, BLOCK_M)
    PAIRED: tl.constexpr = ACTIVATION == "swiglu"
    offs_n = weight_rows(tile_n, N, BLOCK_N, PAIRED)
    cols = tl.where(offs_n < N, offs_n, 0)
    if SPLIT:
        begin, in_a, in_b, K = split_of(K, per_split, stride_ak, stride_bk)
        a_ptr += in_a
        b_ptr += in_b
        scale_a_ptr += begin // SCALED * stride_sak
        scale_b_ptr += begin // SCALED * stride_sbk
        out_ptr += tl.program_id(1).to(tl.int64) * M * N
    # As `walk`, but for what is computed first: of 128x64 tiles on sm_80 that spilled 32 bytes.
    offs_k = tl.arange(0, BLOCK_K)
    deep = offs_k.to(tl.int64)
    a_tile = a_ptr + rows[:, None] * stride_am + deep[None, :] * stride_ak
    b_tile = b_ptr + cols[None, :] * stride_bn + deep[:, None] * stride_bk
    scale_a_tile = scale_a_ptr + rows * stride_sam
    ONE_B: tl.constexpr = BLOCK_N <= ROWS_B and not PAIRED  # a gate's rows have scales of their own
    scale_b_tile = first_scales_of_b(scale_b_ptr, tile_n, cols, stride_sbn, BLOCK_N, ROWS_B, ONE_B)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    whole = K // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        step = tl.cast(start, tl.int64)
        block = step // SCALED
        acc = _add_block(
            acc, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, BLOCK_K,
            scale_a_tile + block * stride_sak, scale_b_tile + block * stride_sbk,
            False, A_E5M2, B_E5M2, DECODE, ONE_B,
        )  # fmt: skip
    if whole < K:
        step = tl.cast(whole, tl.int64)
        block = step // SCALED
        acc = _add_block(
            acc, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, K - whole,
            scale_a_tile + block * stride_sak, scale_b_tile + block * stride_sbk,
            True, A_E5M2, B_E5M2, DECODE, ONE_B,
        )  # fmt: skip

    finish_tile(
        acc, out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn,
        offs_m, offs_n, tile_n, M, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


@triton.jit
def first_scales_of_b(scale_b_ptr, tile_n, cols, stride_sbn, BLOCK_N: tl.constexpr,
                      ROWS_B: tl.constexpr, ONE_B: tl.constexpr):  # fmt: skip
    """Where the scales of a tile's columns are: of each, or the one that all of them share."""
    if ONE_B:
        return scale_b_ptr + tile_n.to(tl.int64) * BLOCK_N // ROWS_B * stride_sbn
    else:  # noqa: RET505 (without it Triton would compile both)
        return scale_b_ptr + cols // ROWS_B * stride_sbn


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    bias: torch.Tensor | None, out_dtype: torch.dtype, accum: str, batch_invariant: bool,
    residual: torch.Tensor | None, activation: str,
) -> None:  # fmt: skip
    out, work = outs
    if out.numel() == 0:
        return
    found = chosen.for_rows(a, b, scale_a, scale_b, out_dtype, accum, batch_invariant, activation)
    config, end = _configs.config(found.config()), End(out, bias, activation, residual)
    multiply(a, b, scale_a, scale_b, found.shape, config, work, end)


def multiply(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, shape: Shape,
    config: Config, work: torch.Tensor, end: End,
) -> None:  # fmt: skip
    """As `triton_fp8.multiply`."""
    (M, K), N = a.shape, b.shape[0]
    a, b, formats = operands(a, b, shape.decode)
    now = end if config.splits == 1 else End(work)
    _matmul_fp8_block_kernel[(*grid_of(config, M, N), config.splits)](
        *now.tensors, a, b, scale_a, scale_b, *now.strides, *a.stride(), *b.stride(),
        *strides_of(scale_a)[1:], *strides_of(scale_b)[1:], M, N, K, per_split(config, K),
        ROWS_B=1 if scale_b.dim() < 2 or scale_b.shape[0] == N else BLOCK,
        SPLIT=config.splits > 1, **now.options, **formats, **options(config),
    )  # fmt: skip
    if config.splits > 1:
        add_splits(work, config.splits, M, N, end)
