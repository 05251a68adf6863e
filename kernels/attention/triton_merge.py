"""Merging of two states of attention in Triton, for any GPU from sm_80: one program a few rows."""

import torch
import triton
import triton.language as tl

from aimills_kernels.kernels.triton_common import round_to, widen


@triton.jit(do_not_specialize=["M", "rows"])
def _merge_kernel(
    out_ptr, lse_ptr, a_ptr, lse_a_ptr, b_ptr, lse_b_ptr,
    stride_ab, stride_am, stride_ah, stride_ad, stride_lab, stride_lah, stride_lam,
    stride_bb, stride_bm, stride_bh, stride_bd, stride_lbb, stride_lbh, stride_lbm,
    M, H, rows, DV: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    h = row % H
    m = row // H % M
    b = row // H // M
    there = row < rows
    lse_a = tl.load(
        lse_a_ptr + b * stride_lab + h * stride_lah + m * stride_lam, mask=there, other=0.0
    )
    lse_b = tl.load(
        lse_b_ptr + b * stride_lbb + h * stride_lbh + m * stride_lbm, mask=there, other=0.0
    )
    top = tl.where(lse_a > lse_b, lse_a, lse_b)
    base = tl.where(top == float("-inf"), 0.0, top)
    weight_a = tl.exp(lse_a - base)
    weight_b = tl.exp(lse_b - base)
    total = weight_a + weight_b
    none = total == 0.0
    total = tl.where(none, 1.0, total)
    weight_a /= total
    weight_b /= total
    d = tl.arange(0, BLOCK_DV)
    deep = d.to(tl.int64)[None, :]
    mask = there[:, None] & (d < DV)[None, :]
    a_rows = a_ptr + b * stride_ab + m * stride_am + h * stride_ah
    b_rows = b_ptr + b * stride_bb + m * stride_bm + h * stride_bh
    a = widen(tl.load(a_rows[:, None] + deep * stride_ad, mask=mask, other=0.0))
    o = widen(tl.load(b_rows[:, None] + deep * stride_bd, mask=mask, other=0.0))
    # A state without weight may hold anything, and 0 times NaN is NaN.
    a = tl.where((weight_a == 0.0)[:, None], 0.0, a * weight_a[:, None])
    o = tl.where((weight_b == 0.0)[:, None], 0.0, o * weight_b[:, None])
    tl.store(
        out_ptr + row[:, None] * DV + deep, round_to(a + o, out_ptr.dtype.element_ty), mask=mask
    )
    lse = tl.where(none, float("-inf"), base + tl.log(total))
    tl.store(lse_ptr + (b * H + h) * M + m, lse, mask=there)


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    out_a: torch.Tensor, lse_a: torch.Tensor, out_b: torch.Tensor, lse_b: torch.Tensor,
) -> None:  # fmt: skip
    out, lse = outs
    if out.numel() == 0:
        return
    M, H, Dv = out_a.shape[-3:]
    rows = out.numel() // Dv
    block_dv = triton.next_power_of_2(Dv)
    block_r = max(1, min(16, 2048 // block_dv))
    strides = [(0, *t.stride())[-n:] for t, n in ((out_a, 4), (lse_a, 3), (out_b, 4), (lse_b, 3))]
    _merge_kernel[(triton.cdiv(rows, block_r),)](
        out, lse, out_a, lse_a, out_b, lse_b, *(s for each in strides for s in each), M, H, rows,
        DV=Dv, BLOCK_R=block_r, BLOCK_DV=block_dv, num_warps=4,
    )  # fmt: skip
