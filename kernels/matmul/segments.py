"""Which group of rows a program's tile lies in, found from lengths that only the GPU knows, and the
tile's end."""

import triton
import triton.language as tl
from torch import Tensor

from aimills_kernels.kernels.matmul.epilogue import finished, store_finished


@triton.jit
def _end(lengths_ptr, e, stride, there, M):
    end = tl.load(lengths_ptr + e * stride, mask=there, other=0)
    return tl.minimum(tl.maximum(end, 0), M)


@triton.jit
def segment_of(tile, lengths_ptr, stride, M, E, BLOCK_M: tl.constexpr, SLOTS: tl.constexpr):
    """For a tile of rows: its group, its first row, where the rows of the group end, and where
    those end that the tile stores.

    SLOTS is 0 where each group has M rows and `lengths` counts those that are its own. Else it is a
    power of two above E, and `lengths` says where each group among M rows ends; those behind the
    last one are a segment of their own. A tile beyond all segments stores nothing. Lengths that are
    no such ones cut the rows in some other way, and no group passes them.
    """
    if SLOTS == 0:
        tiles = tl.cdiv(M, BLOCK_M)
        group = tile // tiles
        count = tl.load(lengths_ptr + group * stride)
        return group, tile % tiles * BLOCK_M, tl.minimum(count, M), M
    else:  # noqa: RET505 (without it Triton would compile both)
        e = tl.arange(0, SLOTS)
        before = _end(lengths_ptr, e - 1, stride, (e > 0) & (e < E), M)
        size = tl.maximum(_end(lengths_ptr, e, stride, e < E, M) - before, 0).to(tl.int64)
        upto = tl.cumsum(size, 0)
        begin = tl.where(e <= E, tl.minimum(upto - size, M), M)
        end = tl.where(e < E, tl.minimum(upto, M), M)
        tiles = tl.cdiv(end - begin, BLOCK_M)
        behind = tl.cumsum(tiles, 0)
        group = tl.sum((behind <= tile).to(tl.int32), 0)
        mine = e == group
        first = tl.sum(tl.where(mine, begin + (tile - behind + tiles) * BLOCK_M, 0), 0)
        last = tl.sum(tl.where(mine, end, 0), 0)
        return tl.minimum(group, E - 1), first, tl.where(group < E, last, 0), last


@triton.jit
def finish_group(
    out, out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, group, stride_cg, stride_cn,
    stride_biasg, stride_bias, stride_rg, stride_rm, stride_rn, offs_m, offs_n, tile_n, own, end, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ACTIVATION: tl.constexpr, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    """`finish_tile` of rows up to `own`; those from there to `end` are set to 0."""
    if codes_scale_ptr is not None:
        codes_scale_ptr += group * stride_cg
    if bias_ptr is not None:
        bias_ptr += group * stride_biasg
    if residual_ptr is not None:
        residual_ptr += group * stride_rg
    out, offs_n, N = finished(
        out, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn, offs_m, offs_n, tile_n, own,
        N, BLOCK_M, BLOCK_N, ACTIVATION,
    )  # fmt: skip
    out = tl.where((offs_m < own)[:, None], out, 0.0)
    store_finished(
        out, out_ptr, codes_scale_ptr, stride_cn, offs_m, offs_n, tile_n, end, N, E5M2, ENCODE
    )


def ends_or_counts(offsets: Tensor | None, masked_m: Tensor | None, groups: int) -> Tensor:
    """The lengths that `segment_of` reads, one for each group."""
    if offsets is not None:
        return offsets[len(offsets) - groups :]
    assert masked_m is not None
    return masked_m


def tiles_of_rows(x: Tensor, masked: bool, groups: int, block_m: int) -> int:
    """So many tiles are enough for any lengths: each segment has one that is not full."""
    if masked:
        return groups * triton.cdiv(x.shape[1], block_m)
    rows = x.shape[0]
    return (rows + min(groups + 1, rows) * (block_m - 1)) // block_m


def slots(masked: bool, groups: int) -> int:
    """Few sizes, as each is compiled anew."""
    return 0 if masked else max(32, triton.next_power_of_2(groups + 1))
