"""The rows of a tile that packs queries and query heads, and the keys that they see, in Triton.

Row r of key head g is query r // R and head g * R + r % R, with R = H / G, so that a key is read
once for all heads that share it.
"""

import triton
import triton.language as tl

from aimills_kernels.kernels.attention.triton_fwd import LOG2_E, sequence_of

SIZES = ["B", "M", "T", "tiles", "capacity", "splits", "share"]  # a kernel serves all of them


@triton.jit
def place(
    slot, cu_ptr, lens_ptr, stride_cu, stride_lens, B, M, T, tiles, capacity,
    R: tl.constexpr, BLOCK_M: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Sequence, tile in it, first token, queries, keys, and whether that number of keys can't be.
    Without `lens_ptr` a sequence has all keys that it can have. The tokens behind the last sequence
    are one more without keys."""
    if VARLEN:
        b = sequence_of(cu_ptr, stride_cu, slot, B, R, BLOCK_M)
        first = tl.minimum(tl.maximum(tl.load(cu_ptr + b * stride_cu), 0), T)
        M = tl.load(cu_ptr + (b + 1) * stride_cu, mask=b < B, other=T)
        M = tl.minimum(M, T) - first
        tile = slot - (first * R // BLOCK_M + b)
        token = first.to(tl.int64)
    else:
        b = slot // tiles
        tile = tiles - 1 - slot % tiles  # the last queries see the most keys
        token = b.to(tl.int64) * M
    length = tl.where(b < B, capacity, 0)
    if lens_ptr is not None:
        length = tl.load(lens_ptr + b.to(tl.int64) * stride_lens, mask=b < B, other=0)
    n = tl.minimum(tl.maximum(length, 0), capacity)
    return b, tile, token, M, n, length != n


@triton.jit
def row_of_keys(begins_ptr, stride_begins, b, n, B, capacity):
    """Where a sequence's keys begin among `capacity` packed ones, and how many of n it has."""
    begin = tl.load(begins_ptr + b.to(tl.int64) * stride_begins)
    begin = tl.minimum(tl.maximum(begin, 0), capacity)
    end = tl.load(begins_ptr + (b + 1).to(tl.int64) * stride_begins, mask=b < B, other=0)
    own = tl.maximum(tl.minimum(end, capacity) - begin, 0)
    return begin.to(tl.int64), tl.minimum(n, own)


@triton.jit
def keys_of(
    tile, M, n, left, right, R: tl.constexpr, BLOCK_M: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
):  # fmt: skip
    """The keys that some row of the tile sees, and those that all rows see."""
    first = tile * BLOCK_M // R + n - M
    last = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // R, M - 1) + n - M
    begin, end, full_begin, full_end = 0, n, 0, n
    if RIGHT:
        end = tl.minimum(tl.maximum(last + right + 1, 0), n)
        full_end = tl.minimum(tl.maximum(first + right + 1, 0), n)
    if LEFT:
        begin = tl.minimum(tl.maximum(first - left, 0), end)
        full_begin = tl.maximum(last - left, 0)
    return begin, end, full_begin, full_end


@triton.jit
def load_rows(
    q_ptr, slopes_ptr, b, tile, token, g, M, n, B, stride_qb, stride_qm, stride_qh, stride_qd,
    stride_slope_b, stride_slope_h,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, R: tl.constexpr,
    VARLEN: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Queries [BLOCK_M, BLOCK_D] and, by row: whether it exists, its query, its head, the query's
    position among the keys, and its slope in base 2."""
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    there = rows < M * R
    query = (rows // R).to(tl.int64)
    heads = (g * R + rows % R).to(tl.int64)
    positions = rows // R + (n - M)
    if VARLEN:
        q_ptr += token * stride_qm
    else:
        q_ptr += b.to(tl.int64) * stride_qb
    q_ptrs = q_ptr + (query * stride_qm + heads * stride_qh)[:, None]
    q_ptrs += offs_d.to(tl.int64)[None, :] * stride_qd
    q = tl.load(q_ptrs, mask=there[:, None] & (offs_d < D)[None, :], other=0.0)
    slope = 0.0
    if ALIBI:
        slope_ptrs = slopes_ptr + b.to(tl.int64) * stride_slope_b + heads * stride_slope_h
        slope = (tl.load(slope_ptrs, mask=there & (b < B), other=0.0) * LOG2_E)[:, None]
    return q, there, query, heads, positions, slope


@triton.jit
def store_part(
    work_ptr, acc, row_sum, row_max, row, there, split, splits, all_rows,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """What one split of the keys gives to rows `row` of `all_rows`: behind the sums of values of
    all splits stand the maxima, and behind those the sums of weights."""
    offs_dv = tl.arange(0, BLOCK_DV)
    at = split * all_rows + row
    mask = there[:, None] & (offs_dv < DV)[None, :]
    tl.store(work_ptr + at[:, None] * DV + offs_dv[None, :], acc, mask=mask)
    sums = work_ptr + splits * all_rows * DV
    tl.store(sums + at, row_max, mask=there)
    tl.store(sums + splits * all_rows + at, row_sum, mask=there)


@triton.jit
def place_of_lse(b, heads, token, query, M, T, H, VARLEN: tl.constexpr):
    """In [H, T] of packed queries, else in [B, H, M]."""
    if VARLEN:
        at = heads * T + token + query
    else:
        at = (b.to(tl.int64) * H + heads) * M + query
    return at
