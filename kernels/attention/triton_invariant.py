"""Attention whose bits for a sequence depend on nothing else in Triton, sm_80 on: keys in pages, in
a batch or packed.

The rows of a tile are those of `rows`, its keys those of `triton_paged`. Without pages, PAGE
is 0 and the keys of a sequence stand in one row; the table then holds where that of each begins, or
is None for k [B, N, G, D]. What differs makes decode, any chunks of a prompt, any batch and all
three layouts agree bit by bit:

- Tiles, warps and the split of keys follow from head dims and dtypes alone. A split begins at a
  multiple of SPAN keys, wherever the queries stand.
- Each split is computed from nothing, and added to the sum of those left of it by `_fold`: in
  registers by a program that does all splits of a tile, or from the workspace by a second kernel.
  A split, or a tile of keys, that a row does not see leaves its sums as they are.
- Every tile of keys is masked, so that a score is made by the same instructions whatever else the
  tile holds, and no product is fused with a sum but inside a matrix instruction: the compiler might
  fuse in one kernel and not in the other.
- A result of 0 is +0.

It rests on a matrix instruction that gives a row the same bits wherever in the tile it stands.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from aimills_kernels.kernels.attention.config_paged import invariant_plan, whole_plan
from aimills_kernels.kernels.attention.rows import (
    SIZES,
    keys_of,
    load_rows,
    place,
    place_of_lse,
    row_of_keys,
    store_part,
)
from aimills_kernels.kernels.attention.triton_fwd import LN_2, LOG2_E
from aimills_kernels.kernels.attention.triton_paged import (
    Keys,
    launch_pages,
    launch_with,
    step,
    with_sink,
)
from aimills_kernels.kernels.triton_common import round_to, widen


@triton.jit
def _fold(acc, row_sum, row_max, part, part_sum, part_max):
    """A split's sums added to those of all keys left of it."""
    new_max = tl.maximum(row_max, part_max)
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    keep = tl.exp2(row_max - base)
    new = tl.exp2(part_max - base)
    return acc * keep[:, None] + part * new[:, None], row_sum * keep + part_sum * new, new_max


@triton.jit
def _spans(low, high, SPAN: tl.constexpr):
    """The first split that has some of the keys, and the first behind them."""
    return low // SPAN, tl.maximum(tl.cdiv(high, SPAN), low // SPAN + 1)


@triton.jit
def _finish(
    acc, row_sum, row_max, rows, heads, lses, there, g, out_ptr, lse_ptr, v_scale_ptr, sinks_ptr,
    stride_vs, stride_sink, DV: tl.constexpr, BLOCK_DV: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """Outputs of rows [rows, BLOCK_DV]; `lses`: where their lse stands."""
    offs_dv = tl.arange(0, BLOCK_DV)
    sink = tl.full(row_max.shape, float("-inf"), tl.float32)
    if sinks_ptr is not None:
        sink = widen(tl.load(sinks_ptr + heads * stride_sink, mask=there, other=0.0)) * LOG2_E
    factor, lse = with_sink(row_sum, row_max, sink)
    if v_scale_ptr is not None:
        factor *= tl.load(v_scale_ptr + g * stride_vs)
    out = acc * factor[:, None]
    tl.store(
        out_ptr + rows[:, None] * DV + offs_dv[None, :],
        round_to(tl.where(out == 0.0, 0.0, out), out_ptr.dtype.element_ty),
        mask=there[:, None] & (offs_dv < DV)[None, :],
    )
    if LSE:
        tl.store(lse_ptr + lses, lse * LN_2, mask=there)


@triton.jit(do_not_specialize=[*SIZES, "pages", "stride_tb"])
def _invariant_kernel(
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
    g = tl.program_id(0) % G
    split = tl.program_id(0) // G % splits
    slot = tl.program_id(0) // G // splits
    b, tile, token, M, n, wrong_length = place(
        slot, cu_ptr, lens_ptr, stride_cu, stride_lens, B, M, T, tiles, capacity, R, BLOCK_M, VARLEN
    )
    if tile * BLOCK_M >= M * R:
        return
    k_base = k_ptr + g.to(tl.int64) * stride_kg
    v_base = v_ptr + g.to(tl.int64) * stride_vg
    table = table_ptr
    if PAGE:
        table += b.to(tl.int64) * stride_tb
    elif table_ptr is not None:
        behind, n = row_of_keys(table_ptr, stride_tb, b, n, B, capacity)
        k_base += behind * stride_kn
        v_base += behind * stride_vn
    else:
        k_base += b.to(tl.int64) * stride_kp
        v_base += b.to(tl.int64) * stride_vp
    low, high, _, _ = keys_of(tile, M, n, left, right, R, BLOCK_M, LEFT, RIGHT)
    first, last = _spans(low, high, LEAST)
    if SPLIT:
        if split >= last - first:
            return
        first += split
        last = first + 1

    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    q, there, query, heads, positions, slope = load_rows(
        q_ptr, slopes_ptr, b, tile, token, g, M, n, B, stride_qb, stride_qm, stride_qh, stride_qd,
        stride_slope_b, stride_slope_h, D, BLOCK_D, BLOCK_M, R, VARLEN, ALIBI,
    )  # fmt: skip
    if k_scale_ptr is not None:
        scale *= tl.load(k_scale_ptr + g * stride_ks)

    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    wrong = tl.zeros([BLOCK_N], tl.int1) | wrong_length
    for span in range(first, last):
        part = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
        part_sum = tl.zeros([BLOCK_M], tl.float32)
        part_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
        begin = tl.maximum(span * LEAST, low // BLOCK_N * BLOCK_N)
        for start in range(begin, tl.minimum(span * LEAST + LEAST, high), BLOCK_N):
            part, part_sum, part_max, wrong = step(
                part, part_sum, part_max, wrong, q, k_base, v_base, table, start, positions, offs_d,
                offs_dv, scale, cap, slope, low, n, left, right, pages, stride_tp, stride_kp,
                stride_kn, stride_kd, stride_vp, stride_vn, stride_vd, D, DV, BLOCK_D, BLOCK_DV,
                BLOCK_N, PAGE, FP8, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=True,
            )  # fmt: skip
        if SPLIT:
            acc, row_sum, row_max = part, part_sum, part_max
        else:
            acc, row_sum, row_max = _fold(acc, row_sum, row_max, part, part_sum, part_max)
    row_sum = tl.where(tl.max(wrong.to(tl.int32), 0) != 0, float("nan"), row_sum)

    row = (token + query) * H + heads
    if SPLIT:
        store_part(
            work_ptr, acc, row_sum, row_max, row, there, split, splits, T.to(tl.int64) * H, DV,
            BLOCK_DV,
        )  # fmt: skip
    else:
        lses = place_of_lse(b, heads, token, query, M, T, H, VARLEN)
        _finish(
            acc, row_sum, row_max, row, heads, lses, there, g, out_ptr, lse_ptr, v_scale_ptr,
            sinks_ptr, stride_vs, stride_sink, DV, BLOCK_DV, LSE,
        )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, "rows"])
def _fold_splits_kernel(
    out_ptr, lse_ptr, work_ptr, lens_ptr, cu_ptr, v_scale_ptr, sinks_ptr,
    stride_lens, stride_cu, stride_vs, stride_sink,
    B, M, T, tiles, capacity, splits, share, rows, H, left, right,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_S: tl.constexpr, STEP: tl.constexpr, R: tl.constexpr,
    LEAST: tl.constexpr, VARLEN: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    LSE: tl.constexpr,
):  # fmt: skip
    """One row of a tile: its splits, from left to right."""
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
    first, last = _spans(low, high, LEAST)
    one = tl.arange(0, 1)
    heads = (g * R + r % R + one).to(tl.int64)
    query = r // R
    row = (token + query) * H + heads
    all_rows = T.to(tl.int64) * H
    maxima = work_ptr + splits * all_rows * DV + row
    offs_dv = tl.arange(0, BLOCK_DV)
    acc = tl.zeros([1, BLOCK_DV], tl.float32)
    row_sum = tl.zeros([1], tl.float32)
    row_max = tl.full([1], float("-inf"), tl.float32)
    for split in range(last - first):
        part = tl.load(
            work_ptr + (split * all_rows + row)[:, None] * DV + offs_dv[None, :],
            mask=(offs_dv < DV)[None, :], other=0.0,
        )  # fmt: skip
        part_max = tl.load(maxima + split * all_rows)
        part_sum = tl.load(maxima + (splits + split) * all_rows)
        acc, row_sum, row_max = _fold(acc, row_sum, row_max, part, part_sum, part_max)
    lses = place_of_lse(b, heads, token, query, M, T, H, VARLEN)
    _finish(
        acc, row_sum, row_max, row, heads, lses, one == 0, g, out_ptr, lse_ptr, v_scale_ptr,
        sinks_ptr, stride_vs, stride_sink, DV, BLOCK_DV, LSE,
    )  # fmt: skip


def launch(outs: tuple[torch.Tensor, ...], *args: Any) -> None:
    launch_pages(
        _invariant_kernel, _fold_splits_kernel, invariant_plan, outs, *args, enable_fp_fusion=False
    )


def launch_batch(
    outs: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    sinks: torch.Tensor | None, slopes: torch.Tensor | None, used: torch.Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    keys = Keys(k, v, B=q.shape[0], capacity=k.shape[1], page=0, table=None, lens=used)
    _launch_rows(outs, q, keys, None, sinks, slopes, *rest)


def launch_varlen(
    outs: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    cu_q: torch.Tensor, cu_k: torch.Tensor, sinks: torch.Tensor | None,
    slopes: torch.Tensor | None, used: torch.Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    B, capacity = cu_q.shape[0] - 1, k.shape[0]
    keys = Keys(k, v, B, capacity, page=0, table=cu_k, lens=used)
    _launch_rows(outs, q, keys, cu_q, sinks, slopes, *rest)


def _launch_rows(
    outs: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, keys: Keys, cu: torch.Tensor | None,
    sinks: torch.Tensor | None, slopes: torch.Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    *scalars, _deterministic, invariant = rest
    launch_with(
        _invariant_kernel, None, whole_plan, (*outs, None), q, keys, cu, None, None, sinks, slopes,
        *scalars, invariant, enable_fp_fusion=False,
    )  # fmt: skip
