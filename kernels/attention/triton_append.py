"""New keys and values into a paged cache in Triton, for any GPU from sm_80.

One program takes one token's heads of one tensor, finds the token's sequence (with packed tokens by
bisection) and its place, and writes them there; for e4m3 caches divided by their scale, within
+-448 and rounded to nearest-even. A token beyond the table's room, or of a page out of range, is
not written.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import interpreting, sm_of
from aimills_kernels.kernels.triton_common import encode_fp8, widen

MAX_E4M3 = tl.constexpr(448.0)


@triton.jit
def _sequence_of_token(cu_ptr, stride, token, B):
    """The last sequence that begins at the token or before it; B for those behind all of them."""
    low = 0
    high = B
    while low < high:
        middle = (low + high + 1) // 2
        begins = tl.load(cu_ptr + middle * stride) <= token
        low = tl.where(begins, middle, low)
        high = tl.where(begins, high, middle - 1)
    return low


@triton.jit(do_not_specialize=["B", "M", "listed", "pages", "stride_tb"])
def _append_kernel(
    cache_ptr, x_ptr, table_ptr, lens_ptr, cu_ptr, scale_ptr,
    stride_xb, stride_xm, stride_xg, stride_xd, stride_cp, stride_cn, stride_cg, stride_cd,
    stride_tb, stride_tp, stride_lens, stride_cu, stride_scale,
    B, M, listed, pages,
    G: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
    FP8: tl.constexpr, ENCODE: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    if VARLEN:
        b = _sequence_of_token(cu_ptr, stride_cu, token, B)
        if b >= B:
            return
        i = token - tl.load(cu_ptr + b * stride_cu)
        x_ptr += token.to(tl.int64) * stride_xm
    else:
        b = token // M
        i = token % M
        x_ptr += b.to(tl.int64) * stride_xb + i.to(tl.int64) * stride_xm
    at = tl.load(lens_ptr + b * stride_lens) + i
    if (at < 0) | (at // PAGE >= listed):
        return
    row = table_ptr + b.to(tl.int64) * stride_tb
    page = tl.load(row + (at // PAGE).to(tl.int64) * stride_tp).to(tl.int64)
    if (page < 0) | (page >= pages):
        return
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < G * D
    g = (cols // D).to(tl.int64)
    d = (cols % D).to(tl.int64)
    x = tl.load(x_ptr + g * stride_xg + d * stride_xd, mask=inside, other=0.0)
    into = cache_ptr + page * stride_cp + (at % PAGE).to(tl.int64) * stride_cn
    into += g * stride_cg + d * stride_cd
    if FP8:
        value = widen(x)
        if scale_ptr is not None:
            value = tl.div_rn(value, tl.load(scale_ptr + g * stride_scale, mask=inside, other=1.0))
        value = tl.where(value > MAX_E4M3, MAX_E4M3, value)  # not tl.minimum, which drops a NaN
        value = tl.where(value < -MAX_E4M3, -MAX_E4M3, value)
        if ENCODE:
            tl.store(into, encode_fp8(value, False), mask=inside)
        else:
            tl.store(into, value.to(tl.float8e4nv), mask=inside)
    else:
        tl.store(into, x, mask=inside)


def launch(
    outs: tuple[()],
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor,
    page_table: torch.Tensor, cache_seqlens: torch.Tensor, cu: torch.Tensor | None,
    k_scale: torch.Tensor | None, v_scale: torch.Tensor | None,
) -> None:  # fmt: skip
    fp8 = k_cache.dtype == torch.float8_e4m3fn
    encode = fp8 and ((sm_of(k.device) or 90) < 89 or interpreting())
    B, (pages, page, G, _) = page_table.shape[0], k_cache.shape
    tokens = k.shape[0] * (k.shape[1] if cu is None else 1)
    for x, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        if x.numel() == 0 or cache.numel() == 0:
            continue
        D = x.shape[-1]
        block = min(1024, max(128, triton.next_power_of_2(G * D)))
        _append_kernel[(tokens, triton.cdiv(G * D, block))](
            cache.view(torch.uint8) if encode else cache, x, page_table, cache_seqlens, cu, scale,
            *(x.stride() if cu is None else (0, *x.stride())), *cache.stride(),
            *page_table.stride(), cache_seqlens.stride(0), 0 if cu is None else cu.stride(0),
            0 if scale is None or scale.dim() == 0 else scale.stride(0),
            B, k.shape[1] if cu is None else 0, page_table.shape[1], pages,
            G=G, D=D, PAGE=page, BLOCK=block, FP8=fp8, ENCODE=encode, VARLEN=cu is not None,
            num_warps=4 if block >= 512 else 1,
        )  # fmt: skip
