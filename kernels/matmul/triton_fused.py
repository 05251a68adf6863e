"""RMSNorm and SwiGLU fused with fp8 quantisation, in Triton, for any GPU from sm_80.

One program makes one row: it is read once, stays in registers as [blocks, 128], and is quantised by
its largest magnitude or by that of each block, in float32 throughout.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import interpreting, sm_of
from aimills_kernels.kernels.matmul.config import BLOCK, blocks_of, fused_blocks, row_stride
from aimills_kernels.kernels.matmul.triton_quantize import (
    INF_BITS,
    _magnitude_bits,
    _scale,
    _store_codes,
)
from aimills_kernels.kernels.triton_common import round_to, widen

WIDTH = tl.constexpr(BLOCK)


@triton.jit
def _columns(K, BLOCKS: tl.constexpr):
    """Of a whole row, as [BLOCKS, 128]; and which there are."""
    at = tl.arange(0, BLOCKS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return at.to(tl.int64), at < K


@triton.jit
def _emit(codes_ptr, scale_ptr, row, rows, K, y, at, inside, BLOCKS: tl.constexpr,
          BY_BLOCK: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr):  # fmt: skip
    codes_ptrs = codes_ptr + row * K + at
    top = tl.max(_magnitude_bits(y), 1)
    if BY_BLOCK:
        scale = _scale(top, E5M2)
        block = tl.arange(0, BLOCKS)
        tl.store(scale_ptr + block.to(tl.int64) * rows + row, scale, mask=block * WIDTH < K)
        _store_codes(codes_ptrs, inside, y, scale[:, None], (top < INF_BITS)[:, None], E5M2, ENCODE)
    else:
        whole = tl.max(top, 0)
        scale = _scale(whole, E5M2)
        tl.store(scale_ptr + row, scale)
        _store_codes(codes_ptrs, inside, y, scale, whole < INF_BITS, E5M2, ENCODE)


@triton.jit
def _rmsnorm_quantize_kernel(
    codes_ptr, scale_ptr, sum_ptr, x_ptr, weight_ptr, residual_ptr, eps,
    stride_xr, stride_xk, stride_w, stride_rr, stride_rk, rows, K,
    BLOCKS: tl.constexpr, RESIDUAL: tl.constexpr, BY_BLOCK: tl.constexpr, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at, inside = _columns(K, BLOCKS)
    h = widen(tl.load(x_ptr + row * stride_xr + at * stride_xk, mask=inside, other=0.0))
    if RESIDUAL:
        other = tl.load(residual_ptr + row * stride_rr + at * stride_rk, mask=inside, other=0.0)
        h += widen(other)
        tl.store(sum_ptr + row * K + at, round_to(h, sum_ptr.dtype.element_ty), mask=inside)
    weight = widen(tl.load(weight_ptr + at * stride_w, mask=inside, other=0.0))
    mean = tl.sum(tl.sum(h * h, 1), 0) / K
    y = h * tl.rsqrt(mean + eps) * weight
    y = tl.where(inside, y, 0.0)  # 0 times infinity would be NaN
    _emit(codes_ptr, scale_ptr, row, rows, K, y, at, inside, BLOCKS, BY_BLOCK, E5M2, ENCODE)


@triton.jit
def _swiglu_quantize_kernel(
    codes_ptr, scale_ptr, x_ptr, stride_xr, stride_xk, rows, K,
    BLOCKS: tl.constexpr, BY_BLOCK: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at, inside = _columns(K, BLOCKS)
    gates = x_ptr + row * stride_xr + at * stride_xk
    gate = widen(tl.load(gates, mask=inside, other=0.0))
    up = widen(tl.load(gates + tl.cast(K, tl.int64) * stride_xk, mask=inside, other=0.0))
    y = gate / (1.0 + tl.exp(-gate)) * up
    _emit(codes_ptr, scale_ptr, row, rows, K, y, at, inside, BLOCKS, BY_BLOCK, E5M2, ENCODE)


def launch_rmsnorm(
    outs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, eps: float,
    granularity: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    codes, scale, total = outs
    if x.numel() == 0:
        scale.fill_(1.0)
        return
    K = x.shape[-1]
    codes, options = _options(codes, K, granularity, dtype)
    rows = x.numel() // K
    _rmsnorm_quantize_kernel[(rows,)](
        codes, scale, total, x, weight, residual, eps,
        row_stride(x), x.stride(-1), weight.stride(0),
        *((0, 0) if residual is None else (row_stride(residual), residual.stride(-1))),
        rows, K, RESIDUAL=residual is not None, **options,
    )  # fmt: skip


def launch_swiglu(
    outs: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor, granularity: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    codes, scale = outs
    if codes.numel() == 0:
        scale.fill_(1.0)
        return
    K = codes.shape[-1]
    rows = codes.numel() // K
    codes, options = _options(codes, K, granularity, dtype)
    _swiglu_quantize_kernel[(rows,)](
        codes, scale, x, row_stride(x), x.stride(-1), rows, K, **options
    )


def _options(
    codes: torch.Tensor, K: int, granularity: str, dtype: torch.dtype
) -> tuple[torch.Tensor, dict]:
    encode = (sm_of(codes.device) or 90) < 89 or interpreting()
    blocks, warps = fused_blocks(blocks_of(K))
    return codes.view(torch.uint8) if encode else codes, dict(
        BLOCKS=blocks, BY_BLOCK=granularity == "1x128", E5M2=dtype == torch.float8_e5m2,
        ENCODE=encode, num_warps=warps,
    )  # fmt: skip
