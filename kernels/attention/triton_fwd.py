"""Attention forward in Triton, for any GPU from sm_80.

    out = softmax(score + mask) v        score = cap(scale * q k^T) - slope |p - j|
    lse = log(sum(exp(score + mask)))    cap(x) = softcap * tanh(x / softcap)

One program holds BLOCK_M queries of one head and walks the keys in tiles of BLOCK_N, with the
running row maximum and sum of the online softmax (Milakov & Gimelshein, arXiv:1805.02867; Dao et
al., arXiv:2205.14135), in base 2. Query i stands at p = i + n - M of the n keys in use and sees
those from p - left to p + right. Tiles that every query sees in full need no mask; those of the
window's left edge before them, and of the diagonal and the ragged end after them, have one. A sink
is a key of weight exp(sink) without a value: the sums start from it. Programs with the most keys
start first.
Layout: q [B, M, H, D], k [B, N, G, D], v [B, N, G, Dv]; query head h reads key head h // (H / G).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from aimills_kernels import _configs
from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.attention.config import (
    Config,
    Shape,
    mean_queries,
    queries_of,
    select_config,
)
from aimills_kernels.kernels.attention.mask import limits
from aimills_kernels.kernels.triton_common import dot, round_to, widen

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _tanh(x, EXACT: tl.constexpr):
    """In base 2. 1 - 2 / (e + 1) loses what is small beside 1: enough bits for 16-bit results."""
    wide = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2_E)) + 1.0)
    if not EXACT:
        return wide
    # The series to x^9, whose next term is 1e-8 of the sum at 0.25.
    square = x * x
    series = 1.0 + square * (
        -1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315 + square * (62.0 / 2835)))
    )
    return tl.where(tl.abs(x) < 0.25, x * series, wide)


@triton.jit
def _tile(map, at, start, BLOCK: tl.constexpr):
    """Keys or values [BLOCK_N, BLOCK] from `start` on, by a tensor map; `at` is the batch element,
    the first row and the head."""
    b, first, g = at
    loaded = map.load([b, first + start, g, 0])
    return loaded.reshape(loaded.shape[1], BLOCK)


@triton.jit
def _attend(
    acc, row_sum, row_max, q, k_ptrs, v_ptrs, k_map, v_map, at, start, positions, offs_n, offs_d,
    offs_dv, scale, cap, slope, n, left, right,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, ALIBI: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: scores, new maximum, weights, and their values added to `acc`."""
    keys = start + offs_n
    k_mask = (offs_d < D)[:, None] & (keys < n)[None, :]
    v_mask = (keys < n)[:, None] & (offs_dv < DV)[None, :]
    if k_map is not None:
        k = _tile(k_map, at, start, BLOCK_D).T  # what is not in use is masked in the scores
    elif MASKED:
        k = tl.load(k_ptrs, mask=k_mask, other=0.0)  # [BLOCK_D, BLOCK_N]
    elif D != BLOCK_D:
        k = tl.load(k_ptrs, mask=(offs_d < D)[:, None], other=0.0)
    else:
        k = tl.load(k_ptrs)
    products = dot(q, k, tl.zeros([q.shape[0], k.shape[1]], tl.float32))
    weights, keep, row_sum, row_max = weigh(
        products, row_sum, row_max, positions, keys, scale, cap, slope, n, left, right,
        q.dtype == tl.float32, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED,
    )  # fmt: skip
    acc = acc * keep[:, None]
    if v_map is not None:
        v = _tile(v_map, at, start, BLOCK_DV)
        if MASKED:
            v = tl.where(v_mask, v, 0.0)
    elif MASKED:
        v = tl.load(v_ptrs, mask=v_mask, other=0.0)  # [BLOCK_N, BLOCK_DV]
    elif DV != BLOCK_DV:
        v = tl.load(v_ptrs, mask=(offs_dv < DV)[None, :], other=0.0)
    else:
        v = tl.load(v_ptrs)
    return dot(round_to(weights, v.dtype), v, acc), row_sum, row_max


@triton.jit
def weigh(
    products, row_sum, row_max, positions, keys, scale, cap, slope, n, left, right,
    EXACT: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, SOFTCAP: tl.constexpr,
    ALIBI: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """From q k^T of a tile its weights, what is kept of the sums before, and the new sums."""
    scores = products * scale
    if SOFTCAP:
        scores = _tanh(scores, EXACT) * cap
    if ALIBI or MASKED:
        distance = positions[:, None] - keys[None, :]
    if ALIBI:
        scores -= slope * tl.abs(distance).to(tl.float32)
    if MASKED:
        visible = (keys < n)[None, :]
        if RIGHT:
            visible = visible & (distance >= -right)
        if LEFT:
            visible = visible & (distance <= left)
        scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen no key yet has -inf as its maximum; subtracting it would give NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores - base[:, None])
    keep = tl.exp2(row_max - base)
    row_sum = row_sum * keep + tl.sum(weights, 1)
    return weights, keep, row_sum, new_max


@triton.jit
def sequence_of(cu_ptr, stride, slot, B, ROWS: tl.constexpr, BLOCK_M: tl.constexpr):
    """The sequence that a slot belongs to, for ROWS rows a token. Sequence b has the slots from
    cu[b] * ROWS // BLOCK_M + b on, which are never fewer than its tiles, so that no length need be
    known on the host."""
    low = 0
    high = B
    while low < high:
        middle = (low + high + 1) // 2
        begins = tl.load(cu_ptr + middle * stride) * ROWS // BLOCK_M + middle
        low = tl.where(begins <= slot, middle, low)
        high = tl.where(begins <= slot, high, middle - 1)
    return low


@triton.jit
def _attention_fwd_kernel(
    out_ptr, lse_ptr, q_ptr, k_ptr, v_ptr, k_map, v_map, cu_q_ptr, cu_k_ptr, sinks_ptr, slopes_ptr,
    used_ptr,
    stride_qb, stride_qm, stride_qh, stride_qd,
    stride_kb, stride_kn, stride_kg, stride_kd,
    stride_vb, stride_vn, stride_vg, stride_vd,
    stride_sink, stride_slope_b, stride_slope_h, stride_used, stride_cu_q, stride_cu_k,
    scale, cap, B, M, N, H, GROUP, left, right,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, VARLEN: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, SOFTCAP: tl.constexpr, SINKS: tl.constexpr, ALIBI: tl.constexpr,
    USED: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    if VARLEN:
        T = M
        slots = T // BLOCK_M + B + 1
        slot = tl.program_id(0) % slots
        h = (tl.program_id(0) // slots).to(tl.int64)
        sequence = sequence_of(cu_q_ptr, stride_cu_q, slot, B, 1, BLOCK_M)
        b = sequence.to(tl.int64)
        start_q = tl.load(cu_q_ptr + b * stride_cu_q)
        M = tl.load(cu_q_ptr + (b + 1) * stride_cu_q, mask=b < B, other=T) - start_q
        start_k = tl.load(cu_k_ptr + b * stride_cu_k)
        N = tl.load(cu_k_ptr + (b + 1) * stride_cu_k, mask=b < B, other=0) - start_k
        N = tl.where(b < B, N, 0)
        tile = slot - (start_q // BLOCK_M + sequence)
        if tile * BLOCK_M >= M:
            return
        first_row = start_q.to(tl.int64)
        lse_row = h * T + first_row
        q_ptr += first_row * stride_qm
        at = (0, start_k, (h // GROUP).to(tl.int32))
        k_ptr += start_k.to(tl.int64) * stride_kn
        v_ptr += start_k.to(tl.int64) * stride_vn
    else:
        tiles_m = tl.cdiv(M, BLOCK_M)
        tile = tiles_m - 1 - tl.program_id(0) % tiles_m  # the last queries see the most keys
        head = tl.program_id(0) // tiles_m
        b = (head // H).to(tl.int64)
        h = (head % H).to(tl.int64)
        first_row = b * M
        lse_row = (b * H + h) * M
        at = (b.to(tl.int32), 0, (h // GROUP).to(tl.int32))
        q_ptr += b * stride_qb
        k_ptr += b * stride_kb
        v_ptr += b * stride_vb
    n = N
    if USED:
        n = tl.load(used_ptr + b * stride_used, mask=b < B, other=0)
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    rows = offs_m.to(tl.int64)
    cols = offs_n.to(tl.int64)
    deep = offs_d.to(tl.int64)
    deep_v = offs_dv.to(tl.int64)
    positions = offs_m + (n - M)

    q_ptrs = q_ptr + h * stride_qh + rows[:, None] * stride_qm + deep[None, :] * stride_qd
    k_base = k_ptr + (h // GROUP) * stride_kg
    v_base = v_ptr + (h // GROUP) * stride_vg
    k_tile = k_base + deep[:, None] * stride_kd + cols[None, :] * stride_kn
    v_tile = v_base + cols[:, None] * stride_vn + deep_v[None, :] * stride_vd
    q = tl.load(q_ptrs, mask=(offs_m < M)[:, None] & (offs_d < D)[None, :], other=0.0)

    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if SINKS:
        sink = widen(tl.load(sinks_ptr + h * stride_sink)) * LOG2_E
        row_max = tl.zeros([BLOCK_M], tl.float32) + sink
        row_sum += tl.where(sink == float("-inf"), 0.0, 1.0)
    slope = 0.0
    if ALIBI:
        slope_ptr = slopes_ptr + b * stride_slope_b + h * stride_slope_h
        slope = tl.load(slope_ptr, mask=b < B, other=0.0) * LOG2_E

    # The keys of the first and of the last query bound those of the tile.
    first = tile * BLOCK_M + n - M
    begin, full_begin, full_end, end = 0, 0, n, n
    if RIGHT:
        full_end = tl.minimum(tl.maximum(first + right + 1, 0), n)
        end = tl.minimum(tl.maximum(first + BLOCK_M + right, 0), n)
    full_end = full_end // BLOCK_N * BLOCK_N
    if LEFT:
        begin = tl.maximum(first - left, 0) // BLOCK_N * BLOCK_N
        full_begin = tl.cdiv(tl.maximum(first + BLOCK_M - 1 - left, 0), BLOCK_N) * BLOCK_N
        full_begin = tl.minimum(full_begin, tl.maximum(full_end, begin))
        full_end = tl.maximum(full_end, full_begin)
        for start in range(begin, tl.minimum(full_begin, end), BLOCK_N):
            step = tl.cast(start, tl.int64)
            acc, row_sum, row_max = _attend(
                acc, row_sum, row_max, q, k_tile + step * stride_kn, v_tile + step * stride_vn,
                k_map, v_map, at, start, positions, offs_n, offs_d, offs_dv, scale, cap, slope, n,
                left, right, D, DV, BLOCK_D, BLOCK_DV, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=True,
            )  # fmt: skip
    for start in range(full_begin, full_end, BLOCK_N):
        step = tl.cast(start, tl.int64)
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q, k_tile + step * stride_kn, v_tile + step * stride_vn,
            k_map, v_map, at, start, positions, offs_n, offs_d, offs_dv, scale, cap, slope, n, left,
            right, D, DV, BLOCK_D, BLOCK_DV, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=False,
        )  # fmt: skip
    for start in range(full_end, end, BLOCK_N):
        step = tl.cast(start, tl.int64)
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q, k_tile + step * stride_kn, v_tile + step * stride_vn,
            k_map, v_map, at, start, positions, offs_n, offs_d, offs_dv, scale, cap, slope, n, left,
            right, D, DV, BLOCK_D, BLOCK_DV, LEFT, RIGHT, SOFTCAP, ALIBI, MASKED=True,
        )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    row = (first_row + rows) * H + h
    tl.store(
        out_ptr + row[:, None] * DV + offs_dv[None, :],
        round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[:, None] & (offs_dv < DV)[None, :],
    )
    if LSE:
        log_sum = tl.log2(tl.where(row_sum == 0.0, 1.0, row_sum))
        tl.store(lse_ptr + lse_row + rows, (row_max + log_sum) * LN_2, mask=offs_m < M)


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any,
) -> None:  # fmt: skip
    (B, M), strides = q.shape[:2], tuple(t.stride() for t in (q, k, v))
    _launch(outs, q, k, v, None, None, B, M, k.shape[1], queries_of(q, k), strides, rest)


def launch_varlen(
    outs: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor, *rest: Any,
) -> None:  # fmt: skip
    B, T, mean = cu_seqlens_q.shape[0] - 1, q.shape[0], mean_queries(q, cu_seqlens_q)
    strides = tuple((0, *t.stride()) for t in (q, k, v))
    _launch(outs, q, k, v, cu_seqlens_q, cu_seqlens_k, B, T, k.shape[0], mean, strides, rest)


def _launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor | None,
    cu_k: torch.Tensor | None, B: int, M: int, N: int, mean: int, strides: tuple, rest: tuple,
) -> None:  # fmt: skip
    """`mean` queries a sequence pick the tiles; packed sequences have M and N in all."""
    sinks, alibi_slopes, seqused_k, causal, scale, window_left, window_right, softcap = rest[:8]
    if outs[0].numel() == 0:
        return
    (H, D), G, Dv = q.shape[-2:], k.shape[-2], v.shape[-1]
    block_d, block_dv = max(16, triton.next_power_of_2(D)), max(16, triton.next_power_of_2(Dv))
    config = _configs.config(select_config(Shape.of(q, k, v, mean), sm_of(q.device) or 90))
    left, right = limits(causal, window_left, window_right, N)
    log2_e = LOG2_E.value
    slope_strides = (0, 0)
    if alibi_slopes is not None:
        slope_strides = (0, *alibi_slopes.stride())[-2:]
    tiles = B * triton.cdiv(M, config.block_m) if cu_q is None else M // config.block_m + B + 1
    _attention_fwd_kernel[(tiles * H,)](
        *outs, q, k, v, *_maps(k, v, config), cu_q, cu_k, sinks, alibi_slopes, seqused_k,
        *(step for each in strides for step in each),
        0 if sinks is None else sinks.stride(0), *slope_strides,
        *(0 if t is None else t.stride(0) for t in (seqused_k, cu_q, cu_k)),
        scale / softcap if softcap else scale * log2_e, softcap * log2_e,
        B, M, N, H, H // G, left or 0, right or 0,
        D=D, DV=Dv, BLOCK_D=block_d, BLOCK_DV=block_dv,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, VARLEN=cu_q is not None,
        LEFT=left is not None, RIGHT=right is not None, SOFTCAP=softcap != 0,
        SINKS=sinks is not None, ALIBI=alibi_slopes is not None, USED=seqused_k is not None,
        LSE=rest[8], num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def _maps(k: torch.Tensor, v: torch.Tensor, config: Config) -> tuple:
    """Tensor maps over k and v as [batch, keys, heads, dim], made on the host: none where the tiles
    don't ask for them."""
    if not config.tma:
        return None, None
    whole = (t.unsqueeze(0) if t.dim() == 3 else t for t in (k, v))
    return tuple(
        TensorDescriptor(t, list(t.shape), list(t.stride()), [1, config.block_n, 1, t.shape[3]])
        for t in whole
    )
