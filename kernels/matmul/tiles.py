"""What the matmul kernels share: a program's tile of the output, the walk over K, the store."""

from typing import Any

import torch
import triton
import triton.language as tl

from aimills_kernels.kernels.triton_common import decode_fp8, round_to


@triton.jit
def tile_of(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """The tile of [M, N] that is this program's."""
    return tile_among(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), tl.program_id(0), GROUP_M)


@triton.jit
def tile_among(tiles_m, tiles_n, program, GROUP_M: tl.constexpr):
    """Neighbouring programs share tiles: they go down GROUP_M tiles, then one to the right."""
    group = program // (GROUP_M * tiles_n)
    within = program % (GROUP_M * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + within % height, within // height


@triton.jit
def places(tile_m, tile_n, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The rows and columns of a tile, and which to read for them: the first for those beyond."""
    offs_m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    return offs_m, offs_n, tl.where(offs_m < M, offs_m, 0), tl.where(offs_n < N, offs_n, 0)


@triton.jit
def places_of(tile, size, BLOCK: tl.constexpr):
    """Those of one side alone."""
    offs = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offs, tl.where(offs < size, offs, 0)


@triton.jit
def walk(multiply: tl.constexpr, acc, a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn,
         stride_bk, K, BLOCK_K: tl.constexpr, more):  # fmt: skip
    """`acc` after every block of K: whole ones first, then the ragged end, which alone is masked.

    `multiply(acc, a_ptrs, b_ptrs, step, offs_k, left, TAIL, more)` adds [rows, BLOCK_K] of a times
    [BLOCK_K, cols] of b, the block that begins at `step`, of which `left` are within K.
    """
    offs_k = tl.arange(0, BLOCK_K)
    deep = offs_k.to(tl.int64)
    a_tile = a_ptr + rows[:, None] * stride_am + deep[None, :] * stride_ak
    b_tile = b_ptr + cols[None, :] * stride_bn + deep[:, None] * stride_bk
    whole = K // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        step = tl.cast(start, tl.int64)
        acc = multiply(acc, a_tile + step * stride_ak, b_tile + step * stride_bk, step, offs_k,
                       BLOCK_K, False, more)  # fmt: skip
    if whole < K:
        step = tl.cast(whole, tl.int64)
        acc = multiply(acc, a_tile + step * stride_ak, b_tile + step * stride_bk, step, offs_k,
                       K - whole, True, more)  # fmt: skip
    return acc


@triton.jit
def load_block(ptrs, inside, TAIL: tl.constexpr, ZERO: tl.constexpr):
    """A block of an operand; ZERO where it is not inside."""
    if TAIL:
        return tl.load(ptrs, mask=inside, other=ZERO)
    else:  # noqa: RET505 (without it Triton would compile both)
        return tl.load(ptrs)


@triton.jit
def load_codes(ptrs, inside, E5M2: tl.constexpr, TAIL: tl.constexpr, DECODE: tl.constexpr):
    """Codes, or the float16 that they are. Masked codes are 0, which is the value 0."""
    codes = load_block(ptrs, inside, TAIL, 0 if DECODE else 0.0)
    if DECODE:
        return decode_fp8(codes, E5M2)
    else:  # noqa: RET505 (without it Triton would compile both)
        return codes


@triton.jit
def load_each(ptr, offs, size, stride):
    """One element for each place of a tile: a scale, a zero point, a bias; 0 beyond the end."""
    return tl.load(ptr + offs * stride, mask=offs < size, other=0)


@triton.jit
def store_tile(out_ptr, out, offs_m, offs_n, M, N):
    """The places within [M, N] of a tile [rows, columns]."""
    tl.store(
        out_ptr + offs_m[:, None] * N + offs_n[None, :], round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[:, None] & (offs_n < N)[None, :],
    )  # fmt: skip


def grid_of(config: Any, M: int, N: int) -> tuple[int]:
    return (triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n),)


def options(config: Any) -> dict[str, int]:
    """How a kernel is launched with this `config.Config`."""
    return dict(
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        GROUP_M=config.group_m, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def row_stride(column: torch.Tensor | None) -> int:
    """0 repeats the one element of a tensor for every row."""
    return column.stride(0) if column is not None and column.dim() == 2 else 0


def strides_of(scale: torch.Tensor) -> tuple[int, int, int]:
    """From group to group, from row to row and from block to block; 0 repeats a scale."""
    if scale.dim() < 2:
        return 0, 0, 0
    group, row = (0, *scale.stride()[:-1])[-2:]
    one = scale.dim() == 3 and scale.shape[1] == 1
    return group, 0 if one else row, scale.stride(-1) if scale.shape[-1] > 1 else 0


def bias_stride(bias: torch.Tensor | None) -> int:
    return 0 if bias is None else bias.stride(0)
