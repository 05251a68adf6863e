"""Attention forward in Triton, for any GPU from sm_80.

    out = softmax(scale * q k^T + mask) v        lse = log(sum(exp(scale * q k^T + mask)))

One program holds BLOCK_M queries of one head and walks the keys in tiles of BLOCK_N, with the
running row maximum and sum of the online softmax (Milakov & Gimelshein, arXiv:1805.02867; Dao et
al., arXiv:2205.14135), in base 2. Tiles that every query sees in full come first and need no mask;
the ragged end and the diagonal follow with one. Programs with the most keys start first.
Layout: q [B, M, H, D], k [B, N, G, D], v [B, N, G, Dv]; query head h reads key head h // (H / G).
"""

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.attention.config import select_config
from aimills_kernels.kernels.triton_common import dot, round_to

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _attend(
    acc, row_sum, row_max, q, k_ptrs, v_ptrs, start, offs_m, offs_n, offs_d, offs_dv, scale, M, N,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: scores, new maximum, weights, and their values added to `acc`."""
    keys = start + offs_n
    k_mask = (offs_d < D)[:, None] & (keys < N)[None, :]
    v_mask = (keys < N)[:, None] & (offs_dv < DV)[None, :]
    if MASKED:
        k = tl.load(k_ptrs, mask=k_mask, other=0.0)  # [BLOCK_D, BLOCK_N]
    elif D != BLOCK_D:
        k = tl.load(k_ptrs, mask=(offs_d < D)[:, None], other=0.0)
    else:
        k = tl.load(k_ptrs)
    scores = dot(q, k, tl.zeros([q.shape[0], k.shape[1]], tl.float32)) * scale
    if MASKED:
        visible = (keys < N)[None, :]
        if CAUSAL:
            visible = visible & (keys[None, :] <= offs_m[:, None] + (N - M))
        scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen no key yet has -inf as its maximum; subtracting it would give NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores - base[:, None])
    keep = tl.exp2(row_max - base)
    row_sum = row_sum * keep + tl.sum(weights, 1)
    acc = acc * keep[:, None]
    if MASKED:
        v = tl.load(v_ptrs, mask=v_mask, other=0.0)  # [BLOCK_N, BLOCK_DV]
    elif DV != BLOCK_DV:
        v = tl.load(v_ptrs, mask=(offs_dv < DV)[None, :], other=0.0)
    else:
        v = tl.load(v_ptrs)
    return dot(round_to(weights, v.dtype), v, acc), row_sum, new_max


@triton.jit
def _attention_fwd_kernel(
    out_ptr, lse_ptr, q_ptr, k_ptr, v_ptr,
    stride_qb, stride_qm, stride_qh, stride_qd,
    stride_kb, stride_kn, stride_kg, stride_kd,
    stride_vb, stride_vn, stride_vg, stride_vd,
    scale, M, N, H, GROUP,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tiles_m - 1 - tl.program_id(0) % tiles_m  # the last queries see the most keys
    head = tl.program_id(0) // tiles_m
    b = (head // H).to(tl.int64)
    h = (head % H).to(tl.int64)
    offs_m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    rows = offs_m.to(tl.int64)
    cols = offs_n.to(tl.int64)
    deep = offs_d.to(tl.int64)
    deep_v = offs_dv.to(tl.int64)

    q_ptrs = (
        q_ptr
        + b * stride_qb
        + h * stride_qh
        + rows[:, None] * stride_qm
        + deep[None, :] * stride_qd
    )
    k_base = k_ptr + b * stride_kb + (h // GROUP) * stride_kg
    v_base = v_ptr + b * stride_vb + (h // GROUP) * stride_vg
    k_tile = k_base + deep[:, None] * stride_kd + cols[None, :] * stride_kn
    v_tile = v_base + cols[:, None] * stride_vn + deep_v[None, :] * stride_vd
    q = tl.load(q_ptrs, mask=(offs_m < M)[:, None] & (offs_d < D)[None, :], other=0.0)

    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if CAUSAL:
        seen_by_first = tl.minimum(tl.maximum(tile * BLOCK_M + N - M + 1, 0), N)
        seen_by_last = tl.minimum(tl.maximum(tile * BLOCK_M + BLOCK_M + N - M, 0), N)
    else:
        seen_by_first = N
        seen_by_last = N
    full = seen_by_first // BLOCK_N * BLOCK_N
    for start in range(0, full, BLOCK_N):
        step = tl.cast(start, tl.int64)
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q, k_tile + step * stride_kn, v_tile + step * stride_vn, start,
            offs_m, offs_n, offs_d, offs_dv, scale * LOG2_E, M, N,
            D, DV, BLOCK_D, BLOCK_DV, CAUSAL, MASKED=False,
        )  # fmt: skip
    for start in range(full, seen_by_last, BLOCK_N):
        step = tl.cast(start, tl.int64)
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q, k_tile + step * stride_kn, v_tile + step * stride_vn, start,
            offs_m, offs_n, offs_d, offs_dv, scale * LOG2_E, M, N,
            D, DV, BLOCK_D, BLOCK_DV, CAUSAL, MASKED=True,
        )  # fmt: skip

    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    row = (b * M + rows) * H + h
    tl.store(
        out_ptr + row[:, None] * DV + offs_dv[None, :],
        round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[:, None] & (offs_dv < DV)[None, :],
    )
    if LSE:
        log_sum = tl.log2(tl.where(row_sum == 0.0, 1.0, row_sum))
        tl.store(lse_ptr + (b * H + h) * M + rows, (row_max + log_sum) * LN_2, mask=offs_m < M)


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    causal: bool, scale: float, return_lse: bool,
) -> None:  # fmt: skip
    out, lse = outs
    B, M, H, D = q.shape
    N, G, Dv = k.shape[1], k.shape[2], v.shape[3]
    if out.numel() == 0:
        return
    block_d, block_dv = max(16, triton.next_power_of_2(D)), max(16, triton.next_power_of_2(Dv))
    config = select_config(
        M, max(block_d, block_dv), q.element_size(), sm_of(q.device) or 90,
        aligned=all(_aligned(t) for t in (q, k, v)),
    )  # fmt: skip
    _attention_fwd_kernel[(triton.cdiv(M, config.block_m) * B * H,)](
        out, lse, q, k, v, *q.stride(), *k.stride(), *v.stride(),
        scale, M, N, H, H // G,
        D=D, DV=Dv, BLOCK_D=block_d, BLOCK_DV=block_dv,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, CAUSAL=causal, LSE=return_lse,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def _aligned(t: torch.Tensor) -> bool:
    """Whether Triton sees that each row starts at a multiple of 16 bytes: it knows of an address or
    a stride only whether 16 divides it."""
    *rows, last = t.stride()
    return last == 1 and t.data_ptr() % 16 == 0 and all(step % 16 == 0 for step in rows)
