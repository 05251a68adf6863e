"""int8 quantisation in Triton, for any GPU from sm_80.

    scale = max|x| / 127                       x_q = round(x / scale)              symmetric
    scale = (max(x, 0) - min(x, 0)) / 255      x_q = round(x / scale) + zero       asymmetric

Tiles and maxima are those of fp8 quantisation (`triton_quantize.py`): taken over the bits as
integers, in which NaN wins. What is below 0 has a maximum of its own where there is a zero point.
For the whole tensor the workspace holds the former of all tiles, then the latter.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels.kernels.matmul.config import (
    MAX_LEADING,
    leading_dims,
    select_quantize_config,
)
from aimills_kernels.kernels.matmul.triton_quantize import (
    INF_BITS,
    TINY,
    TOPS,
    TOPS_WARPS,
    _magnitude_bits,
    _row_offsets,
    _tile,
    _top_of,
)
from aimills_kernels.kernels.triton_common import widen

# Added to a float32 below 2^22 it leaves the nearest integer, of two the even one, in the low bits.
ROUND = tl.constexpr(1.5 * 2.0**23)


@triton.jit
def _rint(x):
    return (x + ROUND) - ROUND


@triton.jit
def _tops(x, ZERO: tl.constexpr):
    """Magnitude bits above 0, or of all without a zero point; and those below 0."""
    bits = _magnitude_bits(x)
    if ZERO:
        below = widen(x).to(tl.int32, bitcast=True) < 0
        return tl.where(below, 0, bits), tl.where(below, bits, 0)
    else:  # noqa: RET505 (without it Triton would compile both)
        return bits, bits


@triton.jit
def _form(high_bits, low_bits, ZERO: tl.constexpr):
    """Scale, zero point (a float32) and whether all is finite, of two maxima."""
    top = tl.maximum(high_bits, low_bits)
    high = high_bits.to(tl.float32, bitcast=True)
    if ZERO:
        low = low_bits.to(tl.float32, bitcast=True)
        steps = 255.0 + tl.zeros_like(high)
        scale = tl.div_rn(high, steps) + tl.div_rn(low, steps)
    else:
        scale = tl.div_rn(high, 127.0 + tl.zeros_like(high))
    scale = tl.where(scale < TINY, TINY, scale)  # not tl.maximum, which drops a NaN
    scale = tl.where(top == 0, 1.0, scale)
    finite = top < INF_BITS
    zero = tl.zeros_like(high)
    if ZERO:
        zero = tl.div_rn(low, tl.where(finite, scale, 1.0))
        zero = tl.where(finite, _rint(tl.minimum(zero, 256.0)) - 128.0, 0.0)
        zero = tl.minimum(zero, 127.0)
    return scale, zero, finite


@triton.jit
def _store_codes(ptrs, mask, x, scale, zero, finite, ZERO: tl.constexpr):
    LEAST: tl.constexpr = -128.0 if ZERO else -127.0
    value = widen(x)
    value = tl.div_rn(value, tl.zeros_like(value) + tl.where(finite, scale, 1.0))
    value = tl.where(value > 256.0, 256.0, tl.where(value < -256.0, -256.0, value))
    value = _rint(value) + zero
    value = tl.where(value > 127.0, 127.0, tl.where(value < LEAST, LEAST, value))
    tl.store(ptrs, tl.where(finite, value, 0.0).to(tl.int8), mask=mask)


@triton.jit
def _quantize_int8_rows_kernel(
    codes_ptr, scale_ptr, zero_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ONE_PASS: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    deep = tl.arange(0, BLOCK_K).to(tl.int64)
    inside = (row < rows)[:, None]
    x_rows = x_ptr + _row_offsets(row, n1, n2, stride_0, stride_1, stride_2)[:, None]
    code_rows = codes_ptr + row[:, None] * K
    if ONE_PASS:
        mask = inside & (deep < K)[None, :]
        x = tl.load(x_rows + deep[None, :] * stride_k, mask=mask, other=0.0)
        above, below = _tops(x, ZERO)
        scale, zero, finite = _form(tl.max(above, 1), tl.max(below, 1), ZERO)
        _store_codes(code_rows + deep[None, :], mask, x, scale[:, None], zero[:, None],
                     finite[:, None], ZERO)  # fmt: skip
    else:
        above = tl.zeros([BLOCK_R, BLOCK_K], tl.int32)
        below = above
        for start in range(0, K, BLOCK_K):
            cols = tl.cast(start, tl.int64) + deep
            mask = inside & (cols < K)[None, :]
            x = tl.load(x_rows + cols[None, :] * stride_k, mask=mask, other=0.0)
            more_above, more_below = _tops(x, ZERO)
            above = tl.maximum(above, more_above)
            below = tl.maximum(below, more_below)
        scale, zero, finite = _form(tl.max(above, 1), tl.max(below, 1), ZERO)
        for start in range(0, K, BLOCK_K):
            cols = tl.cast(start, tl.int64) + deep
            mask = inside & (cols < K)[None, :]
            x = tl.load(x_rows + cols[None, :] * stride_k, mask=mask, other=0.0)
            _store_codes(code_rows + cols[None, :], mask, x, scale[:, None], zero[:, None],
                         finite[:, None], ZERO)  # fmt: skip
    tl.store(scale_ptr + row, scale, mask=row < rows)
    if ZERO:
        tl.store(zero_ptr + row, zero.to(tl.int32), mask=row < rows)


@triton.jit(do_not_specialize=["tiles"])
def _tensor_tops_kernel(
    tops_ptr, tiles, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    at, _, mask = _tile(rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k, BLOCK_R, BLOCK_K)
    above, below = _tops(tl.load(x_ptr + at, mask=mask, other=0.0), ZERO)
    mine = tops_ptr + tl.program_id(0).to(tl.int64)
    tl.store(mine, tl.max(tl.max(above, 1), 0))
    if ZERO:
        tl.store(mine + tl.cast(tiles, tl.int64), tl.max(tl.max(below, 1), 0))


@triton.jit(do_not_specialize=["tiles"])
def _tensor_form_kernel(
    scale_ptr, zero_ptr, tops_ptr, tiles, BLOCK: tl.constexpr, ZERO: tl.constexpr
):
    high = _top_of(tops_ptr, tiles, BLOCK)
    low = _top_of(tops_ptr + tl.cast(tiles, tl.int64), tiles, BLOCK) if ZERO else high
    scale, zero, _ = _form(high, low, ZERO)
    tl.store(scale_ptr, scale)
    if ZERO:
        tl.store(zero_ptr, zero.to(tl.int32))


@triton.jit
def _tensor_int8_codes_kernel(
    codes_ptr, scale_ptr, zero_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    at, code_at, mask = _tile(
        rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k, BLOCK_R, BLOCK_K
    )
    scale = tl.load(scale_ptr)
    zero = 0.0
    if ZERO:
        zero = tl.load(zero_ptr).to(tl.float32)
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    finite = _magnitude_bits(scale) < INF_BITS
    _store_codes(codes_ptr + code_at, mask, x, scale, zero, finite, ZERO)


def launch(
    outs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    x: torch.Tensor, granularity: str, symmetric: bool,
) -> None:  # fmt: skip
    codes, scale, zero, work = outs
    if x.numel() == 0:
        scale.fill_(1.0)
        zero.fill_(-128)
        return
    K = x.shape[-1]
    sizes, strides = leading_dims(x.shape, x.stride())
    missing = MAX_LEADING - len(sizes)
    sizes, strides = [1] * missing + sizes, [0] * missing + strides
    rows = x.numel() // K
    layout = (rows, K, *sizes[1:], *strides, x.stride(-1))
    by_row = granularity == "row"
    config = select_quantize_config(K, by_row=by_row)
    blocks = dict(BLOCK_R=config.block_r, BLOCK_K=config.block_k, num_warps=config.num_warps)
    if by_row:
        _quantize_int8_rows_kernel[(triton.cdiv(rows, config.block_r),)](
            codes, scale, zero, x, *layout, ONE_PASS=config.block_k >= K, ZERO=not symmetric,
            **blocks,
        )  # fmt: skip
        return
    blocks["num_warps"] = 8  # with 4, as for fp8, 32 elements of a strided float32 row spilled
    grid = (triton.cdiv(rows, config.block_r) * triton.cdiv(K, config.block_k),)
    tops, form = work.view(torch.int32), dict(ZERO=not symmetric)
    _tensor_tops_kernel[grid](tops, *grid, x, *layout, **form, **blocks)
    _tensor_form_kernel[(1,)](scale, zero, tops, *grid, BLOCK=TOPS, num_warps=TOPS_WARPS, **form)
    _tensor_int8_codes_kernel[grid](codes, scale, zero, x, *layout, **form, **blocks)
