"""Attention over a paged KV cache in Triton, for any GPU from sm_80: decode and chunked prefill.

    out = softmax(score) v as in `triton_fwd`, with key j of sequence b in page table[b, j // P]

The rows of a tile are queries and query heads together: row r of key head g is query r // R and
head g * R + r % R, with R = H / G, so that a page is read once for all heads that share it. The
keys of a tile may be split over several programs. How many, and where they begin, each program
works out from the lengths on the device: the batch's keys in equal shares, so that one long
sequence among short ones is split more often. Each split writes its sum of values, maximum and sum
of weights to the workspace in float32, and a second kernel merges those that exist. A tile of one
split writes the output at once. Sinks and the scale of the values are applied where the output is
written.

A page number out of range or a length beyond the table is not followed: it makes the rows NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import interpreting, sm_of
from aimills_kernels.kernels.attention.config import is_aligned
from aimills_kernels.kernels.attention.config_paged import Plan, plan
from aimills_kernels.kernels.attention.mask import limits
from aimills_kernels.kernels.attention.rows import (
    SIZES,
    keys_of,
    load_rows,
    place,
    place_of_lse,
    store_part,
)
from aimills_kernels.kernels.attention.triton_fwd import LN_2, LOG2_E, weigh
from aimills_kernels.kernels.triton_common import decode_e4m3, dot, product, round_to, widen

_RAW, _CAST, _DECODE = 0, 1, 2  # how the cache's elements become those of q
DECODE = tl.constexpr(_DECODE)
MERGED = 8  # splits that the merging kernel reads at once


@triton.jit
def _split(
    begin, end, lens_ptr, stride_lens, B, capacity, splits, share, least,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Keys of a split, and how many splits there are: at least one."""
    total = tl.zeros([BLOCK_B], tl.int64)
    for start in range(0, B, BLOCK_B):
        b = start + tl.arange(0, BLOCK_B)
        length = tl.load(lens_ptr + b.to(tl.int64) * stride_lens, mask=b < B, other=0)
        total += tl.minimum(tl.maximum(length, 0), capacity)
    fair = tl.maximum(tl.cdiv(tl.sum(total, 0), share), least).to(tl.int32)
    blocks = tl.cdiv(end - begin, BLOCK_N)
    used = tl.minimum(tl.maximum(tl.cdiv(end - begin, fair), 1), splits)
    size = tl.maximum(tl.cdiv(blocks, used), 1)
    return size * BLOCK_N, tl.maximum(tl.cdiv(blocks, size), 1)


@triton.jit
def _pages(
    table, stride_table, start, keys, here, pages, wrong, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Page and place in it of a tile's keys. A page out of range becomes 0 and is noted."""
    if PAGE % BLOCK_N == 0:
        page = tl.load(table + tl.cast(start // PAGE, tl.int64) * stride_table)
    else:
        at = (keys // PAGE).to(tl.int64) * stride_table
        page = tl.load(table + at, mask=here, other=0)
    bad = (page < 0) | (page >= pages)
    page = tl.where(bad, 0, page)
    return page.to(tl.int64), (keys % PAGE).to(tl.int64), wrong | bad


@triton.jit
def _elements(x, dtype: tl.constexpr, FP8: tl.constexpr):
    if FP8 == DECODE:
        x = decode_e4m3(x)
    if FP8:
        x = x.to(dtype)
    return x


@triton.jit
def step(
    acc, row_sum, row_max, wrong, q, k_base, v_base, table, start, positions, offs_d, offs_dv,
    scale, cap, slope, low, n, left, right, pages,
    stride_table, stride_kp, stride_kn, stride_kd, stride_vp, stride_vn, stride_vd,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr, PAGE: tl.constexpr, FP8: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: scores, new maximum, weights, and their values added to `acc`. The keys
    stand in pages of PAGE, or in one row where that is 0."""
    keys = start + tl.arange(0, BLOCK_N)
    here = (keys >= low) & (keys < n)
    if PAGE:
        page, place, wrong = _pages(
            table, stride_table, start, keys, here, pages, wrong, PAGE, BLOCK_N
        )
        k_rows = page * stride_kp + place * stride_kn
        v_rows = page * stride_vp + place * stride_vn
    else:
        k_rows = keys.to(tl.int64) * stride_kn
        v_rows = keys.to(tl.int64) * stride_vn
    k_ptrs = k_base + k_rows[None, :] + offs_d.to(tl.int64)[:, None] * stride_kd
    if MASKED:
        k = tl.load(k_ptrs, mask=(offs_d < D)[:, None] & here[None, :], other=0.0)
    elif D != BLOCK_D:
        k = tl.load(k_ptrs, mask=(offs_d < D)[:, None], other=0.0)
    else:
        k = tl.load(k_ptrs)
    k = _elements(k, q.dtype, FP8)
    products = dot(q, k, tl.zeros([q.shape[0], BLOCK_N], tl.float32))
    weights, keep, row_sum, row_max = weigh(
        products, row_sum, row_max, positions, keys, scale, cap, slope, n, left, right,
        q.dtype == tl.float32, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED,
    )  # fmt: skip
    acc = acc * keep[:, None]
    v_ptrs = v_base + v_rows[:, None] + offs_dv.to(tl.int64)[None, :] * stride_vd
    if MASKED:
        v = tl.load(v_ptrs, mask=here[:, None] & (offs_dv < DV)[None, :], other=0.0)
    elif DV != BLOCK_DV:
        v = tl.load(v_ptrs, mask=(offs_dv < DV)[None, :], other=0.0)
    else:
        v = tl.load(v_ptrs)
    v = _elements(v, q.dtype, FP8)
    return dot(round_to(weights, v.dtype), v, acc), row_sum, row_max, wrong


@triton.jit
def with_sink(row_sum, row_max, sink):
    """What weights are to be multiplied with, and the logarithm of their sum, both in base 2."""
    top = tl.maximum(row_max, sink)
    base = tl.where(top == float("-inf"), 0.0, top)
    keep = tl.exp2(row_max - base)
    total = row_sum * keep + tl.exp2(sink - base)
    none = total == 0.0
    total = tl.where(none, 1.0, total)
    return keep / total, tl.where(none, float("-inf"), base + tl.log2(total))


@triton.jit(do_not_specialize=[*SIZES, "pages", "stride_tb"])
def _paged_kernel(
    out_ptr, lse_ptr, work_ptr, q_ptr, k_ptr, v_ptr, table_ptr, lens_ptr, cu_ptr, k_scale_ptr,
    v_scale_ptr, sinks_ptr, slopes_ptr,
    stride_qb, stride_qm, stride_qh, stride_qd,
    stride_kp, stride_kn, stride_kg, stride_kd, stride_vp, stride_vn, stride_vg, stride_vd,
    stride_tb, stride_tp, stride_lens, stride_cu, stride_ks, stride_vs, stride_sink,
    stride_slope_b, stride_slope_h,
    scale, cap, B, M, T, tiles, capacity, pages, splits, share, H, left, right,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, R: tl.constexpr,
    PAGE: tl.constexpr, LEAST: tl.constexpr, FP8: tl.constexpr, VARLEN: tl.constexpr,
    SPLIT: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    G = H // R
    g = tl.program_id(0) % G  # heads of one page stand next to each other
    split = tl.program_id(0) // G % splits
    slot = tl.program_id(0) // G // splits
    b, tile, token, M, n, wrong_length = place(
        slot, cu_ptr, lens_ptr, stride_cu, stride_lens, B, M, T, tiles, capacity, R, BLOCK_M, VARLEN
    )
    if tile * BLOCK_M >= M * R:
        return
    low, high, full_begin, full_end = keys_of(tile, M, n, left, right, R, BLOCK_M, LEFT, RIGHT)
    begin = low // BLOCK_N * BLOCK_N
    end = high
    used = 1
    if SPLIT:
        size, used = _split(
            begin, end, lens_ptr, stride_lens, B, capacity, splits, share, LEAST, BLOCK_N, BLOCK_B
        )
        if split >= used:
            return
        begin += split * size
        end = tl.minimum(begin + size, end)
    full_begin = tl.minimum(tl.maximum(tl.cdiv(full_begin, BLOCK_N) * BLOCK_N, begin), end)
    full_end = tl.minimum(tl.maximum(full_end // BLOCK_N * BLOCK_N, full_begin), end)

    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    q, there, query, heads, positions, slope = load_rows(
        q_ptr, slopes_ptr, b, tile, token, g, M, n, B, stride_qb, stride_qm, stride_qh, stride_qd,
        stride_slope_b, stride_slope_h, D, BLOCK_D, BLOCK_M, R, VARLEN, ALIBI,
    )  # fmt: skip
    if k_scale_ptr is not None:
        scale *= tl.load(k_scale_ptr + g * stride_ks)
    k_base = k_ptr + g.to(tl.int64) * stride_kg
    v_base = v_ptr + g.to(tl.int64) * stride_vg
    table = table_ptr + b.to(tl.int64) * stride_tb

    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    wrong = tl.zeros([BLOCK_N], tl.int1) | wrong_length
    if LEFT:
        for start in range(begin, full_begin, BLOCK_N):
            acc, row_sum, row_max, wrong = step(
                acc, row_sum, row_max, wrong, q, k_base, v_base, table, start, positions, offs_d,
                offs_dv, scale, cap, slope, low, n, left, right, pages, stride_tp, stride_kp,
                stride_kn, stride_kd, stride_vp, stride_vn, stride_vd, D, DV, BLOCK_D, BLOCK_DV,
                BLOCK_N, PAGE, FP8, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=True,
            )  # fmt: skip
    for start in range(full_begin, full_end, BLOCK_N):
        acc, row_sum, row_max, wrong = step(
            acc, row_sum, row_max, wrong, q, k_base, v_base, table, start, positions, offs_d,
            offs_dv, scale, cap, slope, low, n, left, right, pages, stride_tp, stride_kp,
            stride_kn, stride_kd, stride_vp, stride_vn, stride_vd, D, DV, BLOCK_D, BLOCK_DV,
            BLOCK_N, PAGE, FP8, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=False,
        )  # fmt: skip
    for start in range(full_end, end, BLOCK_N):
        acc, row_sum, row_max, wrong = step(
            acc, row_sum, row_max, wrong, q, k_base, v_base, table, start, positions, offs_d,
            offs_dv, scale, cap, slope, low, n, left, right, pages, stride_tp, stride_kp,
            stride_kn, stride_kd, stride_vp, stride_vn, stride_vd, D, DV, BLOCK_D, BLOCK_DV,
            BLOCK_N, PAGE, FP8, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=True,
        )  # fmt: skip
    row_sum = tl.where(tl.max(wrong.to(tl.int32), 0) != 0, float("nan"), row_sum)

    row = (token + query) * H + heads
    mask = there[:, None] & (offs_dv < DV)[None, :]
    if used > 1:
        store_part(
            work_ptr, acc, row_sum, row_max, row, there, split, splits, T.to(tl.int64) * H, DV,
            BLOCK_DV,
        )  # fmt: skip
    else:
        sink = tl.full([BLOCK_M], float("-inf"), tl.float32)
        if sinks_ptr is not None:
            sink = widen(tl.load(sinks_ptr + heads * stride_sink, mask=there, other=0.0)) * LOG2_E
        factor, lse = with_sink(row_sum, row_max, sink)
        if v_scale_ptr is not None:
            factor *= tl.load(v_scale_ptr + g * stride_vs)
        tl.store(
            out_ptr + row[:, None] * DV + offs_dv[None, :],
            round_to(acc * factor[:, None], out_ptr.dtype.element_ty), mask=mask,
        )  # fmt: skip
        if LSE:
            lses = place_of_lse(b, heads, token, query, M, T, H, VARLEN)
            tl.store(lse_ptr + lses, lse * LN_2, mask=there)


@triton.jit(do_not_specialize=[*SIZES, "rows"])
def _merge_splits_kernel(
    out_ptr, lse_ptr, work_ptr, lens_ptr, cu_ptr, v_scale_ptr, sinks_ptr,
    stride_lens, stride_cu, stride_vs, stride_sink,
    B, M, T, tiles, capacity, splits, share, rows, H, left, right,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_S: tl.constexpr, STEP: tl.constexpr, R: tl.constexpr,
    LEAST: tl.constexpr, VARLEN: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    LSE: tl.constexpr,
):  # fmt: skip
    """One row of a tile: its splits, as the first kernel made them, from left to right."""
    G = H // R
    g = tl.program_id(0) % G
    r = tl.program_id(0) // G % rows
    slot = tl.program_id(0) // G // rows
    b, tile, token, M, n, _ = place(
        slot, cu_ptr, lens_ptr, stride_cu, stride_lens, B, M, T, tiles, capacity, R, BLOCK_M, VARLEN
    )
    r += tile * BLOCK_M
    if r >= M * R:
        return
    low, high, _, _ = keys_of(tile, M, n, left, right, R, BLOCK_M, LEFT, RIGHT)
    _, used = _split(
        low // BLOCK_N * BLOCK_N, high, lens_ptr, stride_lens, B, capacity, splits, share, LEAST,
        BLOCK_N, BLOCK_B,
    )  # fmt: skip
    if used <= 1:
        return
    h = (g * R + r % R).to(tl.int64)
    query = r // R
    row = (token + query) * H + h
    all_rows = T.to(tl.int64) * H
    maxima = work_ptr + splits * all_rows * DV + row
    s = tl.arange(0, BLOCK_S)
    row_max = tl.load(maxima + s * all_rows, mask=s < used, other=float("-inf"))
    sums = tl.load(maxima + (splits + s) * all_rows, mask=s < used, other=0.0)
    top = tl.max(row_max, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    row_sum = tl.sum(product(sums, tl.exp2(row_max - base)), 0)
    offs_dv = tl.arange(0, BLOCK_DV)
    acc = tl.zeros([BLOCK_DV], tl.float32)
    for start in range(0, used, STEP):
        at = start + tl.arange(0, STEP)
        weight = tl.exp2(tl.load(maxima + at * all_rows, mask=at < used, other=0.0) - base)
        part = tl.load(
            work_ptr + (at * all_rows + row)[:, None] * DV + offs_dv[None, :],
            mask=(at < used)[:, None] & (offs_dv < DV)[None, :], other=0.0,
        )  # fmt: skip
        acc += tl.sum(product(part, tl.where(at < used, weight, 0.0)[:, None]), 0)
    sink = float("-inf")
    if sinks_ptr is not None:
        sink = widen(tl.load(sinks_ptr + h * stride_sink)) * LOG2_E
    factor, lse = with_sink(row_sum, base, sink)
    if v_scale_ptr is not None:
        factor *= tl.load(v_scale_ptr + g * stride_vs)
    tl.store(
        out_ptr + row * DV + offs_dv, round_to(acc * factor, out_ptr.dtype.element_ty),
        mask=offs_dv < DV,
    )  # fmt: skip
    if LSE:
        tl.store(lse_ptr + place_of_lse(b, h, token, query, M, T, H, VARLEN), lse * LN_2)


@dataclass(frozen=True)
class Keys:
    """Keys and values of B sequences, at most `capacity` each. With pages of `page` keys, k is
    [pages, page, G, D] and `table` lists them; with 0, k is [B, N, G, D], or [S, G, D] with
    `table` saying where each sequence begins. `lens`: how many are in use; None for all."""

    k: torch.Tensor
    v: torch.Tensor
    B: int
    capacity: int
    page: int
    table: torch.Tensor | None
    lens: torch.Tensor | None

    @property
    def strides(self) -> tuple[int, ...]:
        """Of k and of v, and two of the table."""
        both = ((0, *t.stride())[-4:] for t in (self.k, self.v))
        return *(s for each in both for s in each), *self._of_table

    @property
    def _of_table(self) -> tuple[int, int]:
        if self.table is None:
            return 0, 0
        steps = (*self.table.stride(), 0)
        return steps[0], steps[1]


def launch(outs: tuple[torch.Tensor, ...], *args: Any) -> None:
    launch_pages(_paged_kernel, _merge_splits_kernel, plan, outs, *args)


def launch_pages(
    kernel: Any, merge: Any, planned: Callable[..., Plan], outs: tuple[torch.Tensor, ...],
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, page_table: torch.Tensor,
    cache_seqlens: torch.Tensor, cu: torch.Tensor | None, *rest: Any, **options: Any,
) -> None:  # fmt: skip
    (B, listed), (pages, page) = page_table.shape, k_cache.shape[:2]
    capacity = listed * page if pages else 0
    keys = Keys(k_cache, v_cache, B, capacity, page, page_table, cache_seqlens)
    launch_with(kernel, merge, planned, outs, q, keys, cu, *rest, **options)


def launch_with(
    kernel: Any, merge: Any, planned: Callable[..., Plan], outs: tuple[torch.Tensor, ...],
    q: torch.Tensor, keys: Keys, cu: torch.Tensor | None, *rest: Any, **options: Any,
) -> None:  # fmt: skip
    """The launch of a kernel and of the one that merges splits, which may be None where the plan
    makes one split. options: Triton's."""
    k_scale, v_scale, sinks, slopes, causal, scale, window_left, window_right, softcap, lse, _ = (
        rest
    )
    out, lse_out, workspace = outs
    if out.numel() == 0:
        return
    k, v, B, capacity = keys.k, keys.v, keys.B, keys.capacity
    (H, D), G, Dv = q.shape[-2:], k.shape[-2], v.shape[-1]
    tokens, R = q.numel() // (H * D), H // G
    packed = cu is not None
    made = planned(q, k, v, B, capacity, packed, all(is_aligned(t) for t in (q, k, v)))
    config = made.config
    block_d, block_dv = (max(16, triton.next_power_of_2(d)) for d in (D, Dv))
    left, right = limits(causal, window_left, window_right, capacity)
    sm, fp8 = sm_of(q.device) or 90, _RAW
    if k.dtype == torch.float8_e4m3fn:
        fp8 = _DECODE if sm < 89 or interpreting() else _CAST
    if fp8 == _DECODE:
        k, v = k.view(torch.uint8), v.view(torch.uint8)
    log2_e = LOG2_E.value
    per_head = [0 if t is None or t.dim() == 0 else t.stride(0) for t in (k_scale, v_scale)]
    lens = tuple(0 if t is None else t.stride(0) for t in (keys.lens, cu))
    stride_sink = 0 if sinks is None else sinks.stride(0)
    sizes = (B, q.shape[1] if not packed else 0, tokens, made.tiles, capacity)
    same = dict(
        DV=Dv, BLOCK_DV=block_dv, BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        BLOCK_B=min(1024, triton.next_power_of_2(max(B, 1))), R=R, LEAST=made.least, VARLEN=packed,
        LEFT=left is not None, RIGHT=right is not None, LSE=lse,
    )  # fmt: skip
    kernel[(made.slots * made.splits * G,)](
        out, lse_out, workspace, q, k, v, keys.table, keys.lens, cu, k_scale, v_scale, sinks,
        slopes, *(0, *q.stride())[-4:], *keys.strides, *lens, *per_head, stride_sink,
        *((0, 0) if slopes is None else (0, *slopes.stride())[-2:]),
        scale / softcap if softcap else scale * log2_e, softcap * log2_e,
        *sizes, k.shape[0], made.splits, made.share, H, left or 0, right or 0,
        D=D, BLOCK_D=block_d, PAGE=keys.page, FP8=fp8, SPLIT=made.splits > 1, SOFTCAP=softcap != 0,
        ALIBI=slopes is not None, **same,
        num_warps=config.num_warps, num_stages=config.num_stages, **options,
    )  # fmt: skip
    if made.splits == 1:
        return
    rows = min(config.block_m, tokens * R if packed else q.shape[1] * R)
    merge[(made.slots * rows * G,)](
        out, lse_out, workspace, keys.lens, cu, v_scale, sinks, *lens, per_head[1],
        stride_sink, *sizes, made.splits, made.share, rows, H, left or 0, right or 0,
        BLOCK_S=triton.next_power_of_2(made.splits), STEP=MERGED, **same, num_warps=4, **options,
    )  # fmt: skip
