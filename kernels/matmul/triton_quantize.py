"""fp8 quantisation in Triton, for any GPU from sm_80.

    scale = max|x| / largest code, of the tensor, a row or a block        x_q = fp8(x / scale)

A tile holds BLOCK_R rows; a row of up to BLOCK_K elements is read once, a longer one twice. Blocks
of 1x128 and 128x128 are read once; a program makes 16 rows of the former or one of the latter. The
largest magnitude is taken over the bits as integers: without the sign they have the order of the
values, and NaN stands above infinity, so it wins. For one scale of the whole tensor each tile
leaves its maximum in the workspace, one program makes the scale of them, and then every tile is
quantised by it: no atomics.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import interpreting, sm_of
from aimills_kernels.kernels.matmul.config import (
    MAX_LEADING,
    leading_dims,
    select_quantize_block_config,
    select_quantize_config,
)
from aimills_kernels.kernels.triton_common import encode_fp8, widen

TOPS, TOPS_WARPS = 4096, 8  # maxima of tiles that one program reads at once
INF_BITS = tl.constexpr(0x7F800000)
TINY = tl.constexpr(2.0**-126)  # the smallest normal float32


@triton.jit
def _row_offsets(rows, n1, n2, stride_0, stride_1, stride_2):
    outer = rows // n2
    return (outer // n1) * stride_0 + (outer % n1) * stride_1 + (rows % n2) * stride_2


@triton.jit
def _magnitude_bits(x):
    return widen(x).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _largest(E5M2: tl.constexpr):
    """The largest code's value."""
    return 57344.0 if E5M2 else 448.0


@triton.jit
def _scale(amax_bits, E5M2: tl.constexpr):
    """The scale of a maximum; 1 where everything is 0, NaN or infinity where there is one."""
    amax = amax_bits.to(tl.float32, bitcast=True)
    scale = tl.div_rn(amax, _largest(E5M2) + tl.zeros_like(amax))
    scale = tl.where(scale < TINY, TINY, scale)  # not tl.maximum, which drops a NaN
    return tl.where(amax_bits == 0, 1.0, scale)


@triton.jit
def _store_codes(ptrs, mask, x, scale, finite, E5M2: tl.constexpr, ENCODE: tl.constexpr):
    value = widen(x)
    value = tl.div_rn(value, tl.zeros_like(value) + tl.where(finite, scale, 1.0))
    top = _largest(E5M2)
    value = tl.where(value > top, top, tl.where(value < -top, -top, value))
    value = tl.where(finite, value, float("nan"))
    if ENCODE:
        tl.store(ptrs, encode_fp8(value, E5M2), mask=mask)
    elif E5M2:
        tl.store(ptrs, value.to(tl.float8e5), mask=mask)
    else:
        tl.store(ptrs, value.to(tl.float8e4nv), mask=mask)


@triton.jit
def _quantize_rows_kernel(
    codes_ptr, scale_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, ONE_PASS: tl.constexpr, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    deep = tl.arange(0, BLOCK_K).to(tl.int64)
    inside = (row < rows)[:, None]
    x_rows = x_ptr + _row_offsets(row, n1, n2, stride_0, stride_1, stride_2)[:, None]
    code_rows = codes_ptr + row[:, None] * K
    if ONE_PASS:
        mask = inside & (deep < K)[None, :]
        x = tl.load(x_rows + deep[None, :] * stride_k, mask=mask, other=0.0)
        top = tl.max(_magnitude_bits(x), 1)
        scale = _scale(top, E5M2)
        _store_codes(code_rows + deep[None, :], mask, x, scale[:, None],
                     (top < INF_BITS)[:, None], E5M2, ENCODE)  # fmt: skip
    else:
        tops = tl.zeros([BLOCK_R, BLOCK_K], tl.int32)
        for start in range(0, K, BLOCK_K):
            cols = tl.cast(start, tl.int64) + deep
            mask = inside & (cols < K)[None, :]
            x = tl.load(x_rows + cols[None, :] * stride_k, mask=mask, other=0.0)
            tops = tl.maximum(tops, _magnitude_bits(x))
        top = tl.max(tops, 1)
        scale = _scale(top, E5M2)
        for start in range(0, K, BLOCK_K):
            cols = tl.cast(start, tl.int64) + deep
            mask = inside & (cols < K)[None, :]
            x = tl.load(x_rows + cols[None, :] * stride_k, mask=mask, other=0.0)
            _store_codes(code_rows + cols[None, :], mask, x, scale[:, None],
                         (top < INF_BITS)[:, None], E5M2, ENCODE)  # fmt: skip
    tl.store(scale_ptr + row, scale, mask=row < rows)


@triton.jit
def _tile(rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
          BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Offsets of this program's tile in x and in the codes, and its mask."""
    tiles_k = tl.cdiv(K, BLOCK_K)
    row = (tl.program_id(0) // tiles_k).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    col = (tl.program_id(0) % tiles_k).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    at = _row_offsets(row, n1, n2, stride_0, stride_1, stride_2)[:, None] + col[None, :] * stride_k
    return at, row[:, None] * K + col[None, :], (row < rows)[:, None] & (col < K)[None, :]


@triton.jit
def _tensor_max_kernel(
    tops_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    at, _, mask = _tile(rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k, BLOCK_R, BLOCK_K)
    bits = _magnitude_bits(tl.load(x_ptr + at, mask=mask, other=0.0))
    tl.store(tops_ptr + tl.program_id(0).to(tl.int64), tl.max(tl.max(bits, 1), 0))


@triton.jit
def _top_of(tops_ptr, count, BLOCK: tl.constexpr):
    """The largest of the maxima of all tiles."""
    each = tl.arange(0, BLOCK).to(tl.int64)
    top = tl.zeros([BLOCK], tl.int32)
    for start in range(0, count, BLOCK):
        at = start + each
        top = tl.maximum(top, tl.load(tops_ptr + at, mask=at < count, other=0))
    return tl.max(top, 0)


@triton.jit(do_not_specialize=["count"])
def _tensor_scale_kernel(scale_ptr, tops_ptr, count, BLOCK: tl.constexpr, E5M2: tl.constexpr):
    tl.store(scale_ptr, _scale(_top_of(tops_ptr, count, BLOCK), E5M2))


@triton.jit
def _tensor_codes_kernel(
    codes_ptr, scale_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    at, code_at, mask = _tile(
        rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k, BLOCK_R, BLOCK_K
    )
    scale = tl.load(scale_ptr)
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    finite = _magnitude_bits(scale) < INF_BITS
    _store_codes(codes_ptr + code_at, mask, x, scale, finite, E5M2, ENCODE)


@triton.jit
def _quantize_blocks_kernel(
    codes_ptr, scale_ptr, x_ptr, rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BY_ROW: tl.constexpr, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    """A tile is BLOCK_R blocks of one row, whose scales stand side by side, or a single block."""
    at, code_at, mask = _tile(
        rows, K, n1, n2, stride_0, stride_1, stride_2, stride_k, BLOCK_R, BLOCK_K
    )
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    top = tl.max(_magnitude_bits(x), 1)
    if BY_ROW:
        scale = _scale(top, E5M2)
        tiles_k = tl.cdiv(K, BLOCK_K)
        row = (tl.program_id(0) // tiles_k).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
        block = (tl.program_id(0) % tiles_k).to(tl.int64)
        tl.store(scale_ptr + block * rows + row, scale, mask=row < rows)
        _store_codes(codes_ptr + code_at, mask, x, scale[:, None], (top < INF_BITS)[:, None],
                     E5M2, ENCODE)  # fmt: skip
    else:
        whole = tl.max(top, 0)
        scale = _scale(whole, E5M2)
        tl.store(scale_ptr + tl.program_id(0).to(tl.int64), scale)
        _store_codes(codes_ptr + code_at, mask, x, scale, whole < INF_BITS, E5M2, ENCODE)


def launch(
    outs: tuple[torch.Tensor, ...], x: torch.Tensor, granularity: str, dtype: torch.dtype
) -> None:
    """outs: codes, scale and, for one scale of the tensor, the workspace."""
    codes, scale, *work = outs
    if x.numel() == 0:
        scale.fill_(1.0)
        return
    sm = sm_of(x.device) or 90
    encode = sm < 89 or interpreting()
    if encode:
        codes = codes.view(torch.uint8)
    K = x.shape[-1]
    sizes, strides = leading_dims(x.shape, x.stride())
    missing = MAX_LEADING - len(sizes)
    sizes, strides = [1] * missing + sizes, [0] * missing + strides
    rows = x.numel() // K
    layout = (rows, K, *sizes[1:], *strides, x.stride(-1))
    form = dict(E5M2=dtype == torch.float8_e5m2, ENCODE=encode)
    if granularity == "row":
        config = select_quantize_config(K, by_row=True)
        _quantize_rows_kernel[(triton.cdiv(rows, config.block_r),)](
            codes, scale, x, *layout,
            BLOCK_R=config.block_r, BLOCK_K=config.block_k, ONE_PASS=config.block_k >= K,
            num_warps=config.num_warps, **form,
        )  # fmt: skip
        return
    by_row = granularity == "1x128"
    in_blocks = by_row or granularity == "128x128"
    config = (
        select_quantize_block_config(rows, by_row)
        if in_blocks
        else select_quantize_config(K, by_row=False)
    )
    grid = (triton.cdiv(rows, config.block_r) * triton.cdiv(K, config.block_k),)
    blocks = dict(BLOCK_R=config.block_r, BLOCK_K=config.block_k, num_warps=config.num_warps)
    if in_blocks:
        _quantize_blocks_kernel[grid](codes, scale, x, *layout, BY_ROW=by_row, **blocks, **form)
        return
    tops = work[0].view(torch.int32)
    _tensor_max_kernel[grid](tops, x, *layout, **blocks)
    _tensor_scale_kernel[(1,)](
        scale, tops, *grid, BLOCK=TOPS, E5M2=form["E5M2"], num_warps=TOPS_WARPS
    )
    _tensor_codes_kernel[grid](codes, scale, x, *layout, **blocks, **form)
