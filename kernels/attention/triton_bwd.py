"""Attention backward in Triton, for any GPU from sm_80: no atomics, the same bits in every run.

    P = exp(score - lse)    delta = rowsum(dout o) - dlse    dscore = P (dout v^T - delta)
    dv = P^T dout           dq = scale dx k                  dk = scale dx^T q

where dx is dscore times the soft cap's derivative (Dao et al., arXiv:2205.14135, arXiv:2307.08691).
A first kernel makes delta. One holds BLOCK_M queries of a head and walks their keys for dq; the
next holds BLOCK_N keys of a key head and walks, for each query head that reads it, their queries
for dk and dv. So the scores are made twice, and no sum is shared between programs. Each has a
single loop, over all heads and tiles, whose mask costs less than the registers that loops with and
without one took. A last kernel adds up what the rows of a sequence give to sinks and slopes.
Layout: as in the forward; lse, dlse and delta are [B, H, M], or [H, T] of packed sequences.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.attention.config import is_aligned, select_backward_config
from aimills_kernels.kernels.attention.mask import limits
from aimills_kernels.kernels.attention.triton_fwd import (
    LOG2_E,
    _tanh,
    sequence_of,
)
from aimills_kernels.kernels.triton_common import dot, product, round_to, widen


@triton.jit
def _place(
    cu_ptr, stride_cu, cu_other_ptr, stride_other, length, other, B, HEADS, BLOCK: tl.constexpr,
    VARLEN: tl.constexpr, LAST_FIRST: tl.constexpr,
):  # fmt: skip
    """This program's tile, sequence and head, and where that sequence begins, here and on the
    other side, with its lengths there. Past the last sequence comes one more, without others."""
    if VARLEN:
        slots = length // BLOCK + B + 1
        slot = tl.program_id(0) % slots
        h = (tl.program_id(0) // slots).to(tl.int64)
        sequence = sequence_of(cu_ptr, stride_cu, slot, B, 1, BLOCK)
        b = sequence.to(tl.int64)
        begin = tl.load(cu_ptr + b * stride_cu)
        end = tl.load(cu_ptr + (b + 1) * stride_cu, mask=b < B, other=length)
        other_begin = tl.load(cu_other_ptr + b * stride_other)
        other_end = tl.load(cu_other_ptr + (b + 1) * stride_other, mask=b < B, other=0)
        tile = slot - (begin // BLOCK + sequence)
        begins = begin.to(tl.int64)
        other_begins = other_begin.to(tl.int64)
        size = end - begin
        other_size = tl.where(b < B, other_end - other_begin, 0)
    else:
        tiles = tl.cdiv(length, BLOCK)
        tile = tl.program_id(0) % tiles
        if LAST_FIRST:
            tile = tiles - 1 - tile
        head = tl.program_id(0) // tiles
        b = (head // HEADS).to(tl.int64)
        h = (head % HEADS).to(tl.int64)
        begins = tl.zeros([], tl.int64)
        other_begins = begins
        size = length
        other_size = other
    return tile, b, h, begins, size, other_begins, other_size


@triton.jit
def _attention_bwd_delta_kernel(
    delta_ptr, dout_ptr, o_ptr, dlse_ptr,
    stride_gb, stride_gm, stride_gh, stride_gd,
    stride_ob, stride_om, stride_oh, stride_od,
    stride_db, stride_dh, stride_dm, stride_rb, stride_rh, M, H,
    DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, DLSE: tl.constexpr,
):  # fmt: skip
    """A row's rowsum(dout o) - dlse, which knows of no sequence."""
    tiles = tl.cdiv(M, BLOCK_M)
    head = tl.program_id(0) // tiles
    b = (head // H).to(tl.int64)
    h = (head % H).to(tl.int64)
    offs_m = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_dv = tl.arange(0, BLOCK_DV)
    inside = offs_m < M
    rows = offs_m.to(tl.int64)
    deep = offs_dv.to(tl.int64)
    dout_ptrs = dout_ptr + b * stride_gb + h * stride_gh
    dout_ptrs += rows[:, None] * stride_gm + deep[None, :] * stride_gd
    o_ptrs = o_ptr + b * stride_ob + h * stride_oh
    o_ptrs += rows[:, None] * stride_om + deep[None, :] * stride_od
    mask = inside[:, None] & (offs_dv < DV)[None, :]
    dout = widen(tl.load(dout_ptrs, mask=mask, other=0.0))
    delta = tl.sum(product(dout, widen(tl.load(o_ptrs, mask=mask, other=0.0))), 1)
    if DLSE:
        dlse_ptrs = dlse_ptr + b * stride_db + h * stride_dh + rows * stride_dm
        delta -= tl.load(dlse_ptrs, mask=inside, other=0.0)
    tl.store(delta_ptr + b * stride_rb + h * stride_rh + rows, delta, mask=inside)


@triton.jit
def _exponent(lse):
    """lse in base 2; a row without keys gets weights of 0 whatever its scores."""
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2_E)


@triton.jit
def _scores(
    products, positions, keys, scale, cap, slope, left, right, EXACT: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Scores in base 2 of products q k^T, -inf where a limit hides the key, and the tanh of the
    soft cap. `positions` and `keys` lie along the sides of `products`, whichever way."""
    scores = products * scale
    bent = scores
    if SOFTCAP:
        bent = _tanh(scores, EXACT)
        scores = bent * cap
    if ALIBI:
        scores -= slope * tl.abs(positions - keys).to(tl.float32)
    if RIGHT:
        scores = tl.where(positions - keys >= -right, scores, float("-inf"))
    if LEFT:
        scores = tl.where(positions - keys <= left, scores, float("-inf"))
    return scores, bent


# Of one key Triton would make a constant and the loop straight code, in which LLVM sets registers
# of the sums between the fence and a `wgmma` that reads them.
@triton.jit(do_not_specialize=["N"])
def _attention_bwd_dq_kernel(
    dq_ptr, tilt_ptr, delta_ptr, dout_ptr, q_ptr, k_ptr, v_ptr, cu_q_ptr, cu_k_ptr, lse_ptr,
    slopes_ptr, used_ptr,
    stride_gb, stride_gm, stride_gh, stride_gd,
    stride_qb, stride_qm, stride_qh, stride_qd,
    stride_kb, stride_kn, stride_kg, stride_kd,
    stride_vb, stride_vn, stride_vg, stride_vd,
    stride_lb, stride_lh, stride_lm,
    stride_rb, stride_rh,
    stride_slope_b, stride_slope_h, stride_used, stride_cu_q, stride_cu_k,
    scale, cap, grad_scale, B, M, N, H, GROUP, left, right,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, VARLEN: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, USED: tl.constexpr,
    TILT: tl.constexpr,
):  # fmt: skip
    ALL = M
    tile, b, h, start_q, M, start_k, N = _place(
        cu_q_ptr, stride_cu_q, cu_k_ptr, stride_cu_k, M, N, B, H, BLOCK_M, VARLEN, True
    )
    if tile * BLOCK_M >= M:
        return
    n = N
    if USED:
        n = tl.load(used_ptr + b * stride_used, mask=b < B, other=0)
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    cols = offs_n.to(tl.int64)
    deep = offs_d.to(tl.int64)
    deep_v = offs_dv.to(tl.int64)
    inside = offs_m < M
    rows = start_q + offs_m
    positions = offs_m + (n - M)

    q_ptrs = q_ptr + b * stride_qb + h * stride_qh
    q_ptrs += rows[:, None] * stride_qm + deep[None, :] * stride_qd
    dout_ptrs = dout_ptr + b * stride_gb + h * stride_gh
    dout_ptrs += rows[:, None] * stride_gm + deep_v[None, :] * stride_gd
    g = h // GROUP
    k_tile = k_ptr + b * stride_kb + g * stride_kg + start_k * stride_kn
    k_tile += deep[:, None] * stride_kd + cols[None, :] * stride_kn
    v_tile = v_ptr + b * stride_vb + g * stride_vg + start_k * stride_vn
    v_tile += cols[:, None] * stride_vn + deep_v[None, :] * stride_vd

    row_ptrs = b * stride_rb + h * stride_rh + rows
    delta = tl.load(delta_ptr + row_ptrs, mask=inside, other=0.0)
    dout = tl.load(dout_ptrs, mask=inside[:, None] & (offs_dv < DV)[None, :], other=0.0)
    q = tl.load(q_ptrs, mask=inside[:, None] & (offs_d < D)[None, :], other=0.0)
    lse_ptrs = lse_ptr + b * stride_lb + h * stride_lh + rows * stride_lm
    lse = _exponent(tl.load(lse_ptrs, mask=inside, other=float("-inf")))
    slope = 0.0
    if ALIBI:
        slope_ptr = slopes_ptr + b * stride_slope_b + h * stride_slope_h
        slope = tl.load(slope_ptr, mask=b < B, other=0.0) * LOG2_E

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    tilt = tl.zeros([BLOCK_M], tl.float32)
    # The keys of the first and of the last query bound those of the tile.
    first = tile * BLOCK_M + n - M
    begin, end = 0, n
    if RIGHT:
        end = tl.minimum(tl.maximum(first + BLOCK_M + right, 0), n)
    if LEFT:
        begin = tl.maximum(first - left, 0) // BLOCK_N * BLOCK_N
    zeros = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(begin, end, BLOCK_N):
        step = tl.cast(start, tl.int64)
        keys = start + offs_n
        there = keys < n
        k_mask = (offs_d < D)[:, None] & there[None, :]
        v_mask = there[:, None] & (offs_dv < DV)[None, :]
        k = tl.load(k_tile + step * stride_kn, mask=k_mask, other=0.0)
        v = tl.load(v_tile + step * stride_vn, mask=v_mask, other=0.0)
        scores, bent = _scores(
            dot(q, k, zeros), positions[:, None], keys[None, :], scale, cap, slope, left, right,
            TILT or q.dtype == tl.float32, LEFT, RIGHT, SOFTCAP, ALIBI,
        )  # fmt: skip
        weights = tl.exp2(tl.where(there[None, :], scores, float("-inf")) - lse[:, None])
        dscore = weights * (dot(dout, tl.trans(v), zeros) - delta[:, None])
        if TILT:
            distance = tl.abs(positions[:, None] - keys[None, :]).to(tl.float32)
            tilt -= tl.sum(product(dscore, distance), 1)
        if SOFTCAP:
            dscore = dscore * (1.0 - bent * bent)
        acc = dot(round_to(dscore, k.dtype), tl.trans(k), acc)

    if TILT:
        tl.store(tilt_ptr + row_ptrs, tilt, mask=inside)
    row = (rows if VARLEN else b * ALL + rows) * H + h
    tl.store(
        dq_ptr + row[:, None] * D + offs_d[None, :],
        round_to(acc * grad_scale, dq_ptr.dtype.element_ty),
        mask=inside[:, None] & (offs_d < D)[None, :],
    )


@triton.jit
def _attention_bwd_dkv_kernel(
    dk_ptr, dv_ptr, delta_ptr, dout_ptr, q_ptr, k_ptr, v_ptr, cu_q_ptr, cu_k_ptr, lse_ptr,
    slopes_ptr, used_ptr,
    stride_gb, stride_gm, stride_gh, stride_gd,
    stride_qb, stride_qm, stride_qh, stride_qd,
    stride_kb, stride_kn, stride_kg, stride_kd,
    stride_vb, stride_vn, stride_vg, stride_vd,
    stride_lb, stride_lh, stride_lm,
    stride_rb, stride_rh,
    stride_slope_b, stride_slope_h, stride_used, stride_cu_q, stride_cu_k,
    scale, cap, grad_scale, B, M, N, G, GROUP, left, right,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, VARLEN: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr, USED: tl.constexpr,
):  # fmt: skip
    ALL = N
    tile, b, g, start_k, N, start_q, M = _place(
        cu_k_ptr, stride_cu_k, cu_q_ptr, stride_cu_q, N, M, B, G, BLOCK_N, VARLEN, False
    )
    if tile * BLOCK_N >= N:
        return
    n = N
    if USED:
        n = tl.load(used_ptr + b * stride_used, mask=b < B, other=0)
    elif VARLEN:
        n = tl.where(b < B, N, 0)
    offs_m = tl.arange(0, BLOCK_M)
    keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    cols = start_k + keys
    rows = start_q + offs_m
    deep = offs_d.to(tl.int64)
    deep_v = offs_dv.to(tl.int64)
    in_use = (keys < n)[:, None]
    shift = n - M

    k_ptrs = k_ptr + b * stride_kb + g * stride_kg
    k_ptrs += cols[:, None] * stride_kn + deep[None, :] * stride_kd
    v_ptrs = v_ptr + b * stride_vb + g * stride_vg
    v_ptrs += cols[:, None] * stride_vn + deep_v[None, :] * stride_vd
    k = tl.load(k_ptrs, mask=in_use & (offs_d < D)[None, :], other=0.0)
    v = tl.load(v_ptrs, mask=in_use & (offs_dv < DV)[None, :], other=0.0)
    q_tile = q_ptr + b * stride_qb + deep[:, None] * stride_qd + rows[None, :] * stride_qm
    dout_tile = dout_ptr + b * stride_gb + rows[:, None] * stride_gm + deep_v[None, :] * stride_gd
    lse_tile = lse_ptr + b * stride_lb + rows * stride_lm
    delta_tile = delta_ptr + b * stride_rb + rows

    # The queries that see the first and the last key bound those of the tile.
    first = tile * BLOCK_N - shift
    begin, end = 0, M
    if RIGHT:
        begin = tl.maximum(first - right, 0) // BLOCK_M * BLOCK_M
    if LEFT:
        end = tl.minimum(tl.maximum(first + BLOCK_N + left, 0), M)
    tiles_m = tl.where(tile * BLOCK_N < n, tl.cdiv(tl.maximum(end - begin, 0), BLOCK_M), 0)

    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    zeros = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    slope = 0.0
    for i in range(tiles_m * GROUP):
        h = g * GROUP + i // tiles_m
        start = begin + i % tiles_m * BLOCK_M
        step = tl.cast(start, tl.int64)
        queries = start + offs_m
        inside = queries < M
        q = tl.load(
            q_tile + (h * stride_qh + step * stride_qm),
            mask=(offs_d < D)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        lse = tl.load(
            lse_tile + (h * stride_lh + step * stride_lm), mask=inside, other=float("-inf")
        )
        if ALIBI:
            slope_ptr = slopes_ptr + b * stride_slope_b + h * stride_slope_h
            slope = tl.load(slope_ptr, mask=b < B, other=0.0) * LOG2_E
        # A key that is not in use has scores like others; its sums are left out at the end.
        scores, bent = _scores(
            dot(k, q, zeros), (queries + shift)[None, :], keys[:, None], scale, cap, slope, left,
            right, q.dtype == tl.float32, LEFT, RIGHT, SOFTCAP, ALIBI,
        )  # fmt: skip
        weights = tl.exp2(scores - _exponent(lse)[None, :])
        dout = tl.load(
            dout_tile + (h * stride_gh + step * stride_gm),
            mask=inside[:, None] & (offs_dv < DV)[None, :], other=0.0,
        )  # fmt: skip
        dv = dot(round_to(weights, dout.dtype), dout, dv)
        delta = tl.load(delta_tile + (h * stride_rh + step), mask=inside, other=0.0)
        dscore = weights * (dot(v, tl.trans(dout), zeros) - delta[None, :])
        if SOFTCAP:
            dscore = dscore * (1.0 - bent * bent)
        dk = dot(round_to(dscore, q.dtype), tl.trans(q), dk)

    row = (cols if VARLEN else b * ALL + cols) * G + g
    inside = (keys < N)[:, None]
    dk = tl.where(in_use, dk * grad_scale, 0.0)
    tl.store(
        dk_ptr + row[:, None] * D + offs_d[None, :],
        round_to(dk, dk_ptr.dtype.element_ty),
        mask=inside & (offs_d < D)[None, :],
    )
    tl.store(
        dv_ptr + row[:, None] * DV + offs_dv[None, :],
        round_to(tl.where(in_use, dv, 0.0), dv_ptr.dtype.element_ty),
        mask=inside & (offs_dv < DV)[None, :],
    )


@triton.jit
def _attention_bwd_sums_kernel(
    sink_sums_ptr, tilt_sums_ptr, delta_ptr, tilt_ptr, lse_ptr, sinks_ptr, cu_q_ptr,
    stride_lb, stride_lh, stride_lm, stride_rb, stride_rh, stride_sink, stride_cu_q, B, M, H,
    BLOCK: tl.constexpr, VARLEN: tl.constexpr, SINKS: tl.constexpr, TILT: tl.constexpr,
):  # fmt: skip
    """What the rows of one sequence and head give to its sink and its slope."""
    b = (tl.program_id(0) // H).to(tl.int64)
    h = (tl.program_id(0) % H).to(tl.int64)
    begin = tl.zeros([], tl.int64)
    end = M
    if VARLEN:
        begin = tl.load(cu_q_ptr + b * stride_cu_q).to(tl.int64)
        end = tl.load(cu_q_ptr + (b + 1) * stride_cu_q, mask=b < B, other=M)
    sink_sum = tl.zeros([BLOCK], tl.float32)
    tilt_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        rows = tl.cast(start, tl.int64) + tl.arange(0, BLOCK)
        inside = rows < end
        at = b * stride_rb + h * stride_rh + rows
        if SINKS:
            sink = widen(tl.load(sinks_ptr + h * stride_sink)) * LOG2_E
            lse_ptrs = lse_ptr + b * stride_lb + h * stride_lh + rows * stride_lm
            lse = _exponent(tl.load(lse_ptrs, mask=inside, other=float("-inf")))
            sink_sum -= tl.exp2(sink - lse) * tl.load(delta_ptr + at, mask=inside, other=0.0)
        if TILT:
            tilt_sum += tl.load(tilt_ptr + at, mask=inside, other=0.0)
    if SINKS:
        tl.store(sink_sums_ptr + b * H + h, tl.sum(sink_sum, 0))
    if TILT:
        tl.store(tilt_sums_ptr + b * H + h, tl.sum(tilt_sum, 0))


def launch(
    outs: tuple[torch.Tensor, ...], dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor,
    v: torch.Tensor, o: torch.Tensor, lse: torch.Tensor, dlse: torch.Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    B, M = q.shape[:2]
    strides = [t.stride() for t in (dout, q, k, v, o)]
    rows = [(0, 0, 0) if t is None else t.stride() for t in (lse, dlse)]
    tensors = dout, q, k, v, None, None, o, lse, dlse
    _launch(outs, tensors, B, M, k.shape[1], strides, rows, rest)


def launch_varlen(
    outs: tuple[torch.Tensor, ...], dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor,
    v: torch.Tensor, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, o: torch.Tensor,
    lse: torch.Tensor, dlse: torch.Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    B = cu_seqlens_q.shape[0] - 1
    strides = [(0, *t.stride()) for t in (dout, q, k, v, o)]
    rows = [(0, 0, 0) if t is None else (0, *t.stride()) for t in (lse, dlse)]
    tensors = dout, q, k, v, cu_seqlens_q, cu_seqlens_k, o, lse, dlse
    _launch(outs, tensors, B, q.shape[0], k.shape[0], strides, rows, rest)


def _launch(
    outs: tuple[torch.Tensor, ...], tensors: tuple, B: int, M: int, N: int, strides: list,
    row_strides: list, rest: tuple,
) -> None:  # fmt: skip
    """Packed sequences have M queries and N keys in all."""
    dq, dk, dv, dsinks, dslopes = outs
    dout, q, k, v, cu_q, cu_k, o, lse, dlse = tensors
    sinks, slopes, used, causal, scale, window_left, window_right, softcap, tilted, _ = rest
    varlen = cu_q is not None
    (H, D), G, Dv = q.shape[-2:], k.shape[-2], v.shape[-1]
    block_d, block_dv = max(16, triton.next_power_of_2(D)), max(16, triton.next_power_of_2(Dv))
    for_dq, for_dkv = select_backward_config(
        max(block_d, block_dv), q.element_size(), sm_of(q.device) or 90,
        crowded=softcap != 0 or (D, Dv) != (block_d, block_dv),
        aligned=all(is_aligned(t) for t in (dout, q, k, v)),
    )  # fmt: skip
    left, right = limits(causal, window_left, window_right, N)
    # Two numbers a row are kept between the kernels: delta, and its part of the slope.
    shape = (H, M) if varlen else (B, H, M)
    delta = q.new_empty(shape, dtype=torch.float32)
    tilt = torch.empty_like(delta) if tilted else None
    delta_strides = (0, *delta.stride())[-3:-1]
    slope_strides = (0, 0) if slopes is None else (0, *slopes.stride())[-2:]
    extra_strides = (
        *slope_strides, *(0 if t is None else t.stride(0) for t in (used, cu_q, cu_k)),
    )  # fmt: skip
    log2_e = LOG2_E.value
    scalars = (scale / softcap if softcap else scale * log2_e, softcap * log2_e, scale, B, M, N)
    options: dict[str, Any] = dict(
        D=D, DV=Dv, BLOCK_D=block_d, BLOCK_DV=block_dv, VARLEN=varlen, LEFT=left is not None,
        RIGHT=right is not None, SOFTCAP=softcap != 0, ALIBI=slopes is not None,
        USED=used is not None,
    )  # fmt: skip
    of_dout, of_q, of_k, of_v, of_o = strides
    if dq.numel():
        block = max(4096 // block_dv, 16)
        _attention_bwd_delta_kernel[(delta.numel() // M * triton.cdiv(M, block),)](
            delta, dout, o, dlse, *of_dout, *of_o, *row_strides[1], *delta_strides, M, H,
            DV=Dv, BLOCK_DV=block_dv, BLOCK_M=block, DLSE=dlse is not None, num_warps=4,
        )  # fmt: skip
        tiles = _tiles(M, for_dq.block_m, B, varlen)
        _attention_bwd_dq_kernel[(tiles * H,)](
            dq, tilt, delta, dout, q, k, v, cu_q, cu_k, lse, slopes, used,
            *of_dout, *of_q, *of_k, *of_v, *row_strides[0], *delta_strides, *extra_strides,
            *scalars, H, H // G, left or 0, right or 0, **options, **for_dq.options(), TILT=tilted,
        )  # fmt: skip
    if dk.numel():
        tiles = _tiles(N, for_dkv.block_n, B, varlen)
        _attention_bwd_dkv_kernel[(tiles * G,)](
            dk, dv, delta, dout, q, k, v, cu_q, cu_k, lse, slopes, used,
            *of_dout, *of_q, *of_k, *of_v, *row_strides[0], *delta_strides, *extra_strides,
            *scalars, G, H // G, left or 0, right or 0, **options, **for_dkv.options(),
        )  # fmt: skip
    if sinks is not None or tilted:
        parts = q.new_empty((2, B + varlen, H), dtype=torch.float32)
        if parts.numel():
            _attention_bwd_sums_kernel[((B + varlen) * H,)](
                parts[0], parts[1], delta, tilt, lse, sinks, cu_q, *row_strides[0],
                *delta_strides, 0 if sinks is None else sinks.stride(0),
                0 if cu_q is None else cu_q.stride(0), B, M, H,
                BLOCK=1024, VARLEN=varlen, SINKS=sinks is not None, TILT=tilted, num_warps=4,
            )  # fmt: skip
        if sinks is not None:
            dsinks.copy_(parts[0].sum(0))
        if tilted:
            dslopes.copy_(parts[1, :B] if slopes.dim() == 2 else parts[1, :B].sum(0))


def _tiles(length: int, block: int, B: int, varlen: bool) -> int:
    return length // block + B + 1 if varlen else B * triton.cdiv(length, block)
