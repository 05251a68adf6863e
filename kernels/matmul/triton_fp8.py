"""fp8 matmul in Triton, for any GPU from sm_80.

    out = (a * scale_a) @ (b * scale_b).T + bias        a [M, K], b [N, K], fp8

One program makes one tile of the output; it walks K in blocks, whole ones first, and masks only
the ragged end. Rows beyond the edge of a tile read row 0 and are not stored. Scales and bias are
applied to the float32 sum. From sm_89 on the tensor cores take the codes, and each block's sum is
added in float32 (`promoted_dot`). sm_80 has none for fp8, and for a float32 output their sums are
too coarse: then codes become float16, exactly, and are summed in float32 throughout. With
accum="fast" the fp8 tensor cores keep the sum over all of K, for a float32 output too.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.config import Shape, select_config
from aimills_kernels.kernels.matmul.tiles import (
    bias_stride,
    grid_of,
    load_codes,
    load_each,
    options,
    places,
    row_stride,
    store_tile,
    tile_of,
    walk,
)
from aimills_kernels.kernels.triton_common import dot, promoted_dot, widen


@triton.jit
def add_codes(acc, a_ptrs, b_ptrs, step, offs_k, left, TAIL: tl.constexpr, formats):
    """One block of K. formats: A_E5M2, B_E5M2, DECODE, PROMOTE."""
    a = load_codes(a_ptrs, offs_k[None, :] < left, formats[0], TAIL, formats[2])
    b = load_codes(b_ptrs, offs_k[:, None] < left, formats[1], TAIL, formats[2])
    if formats[2]:
        return dot(a, b, acc)
    else:  # noqa: RET505 (without it Triton would compile both)
        return promoted_dot(a, b, acc, formats[3])


@triton.jit
def _matmul_fp8_kernel(
    out_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr, bias_ptr,
    stride_am, stride_ak, stride_bn, stride_bk, stride_sa, stride_sb, stride_bias,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    BIAS: tl.constexpr, A_E5M2: tl.constexpr, B_E5M2: tl.constexpr, DECODE: tl.constexpr,
    PROMOTE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m, offs_n, rows, cols = places(tile_m, tile_n, M, N, BLOCK_M, BLOCK_N)
    acc = walk(
        add_codes, tl.zeros([BLOCK_M, BLOCK_N], tl.float32),
        a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn, stride_bk, K, BLOCK_K,
        (A_E5M2, B_E5M2, DECODE, PROMOTE),
    )  # fmt: skip

    scale_a = load_each(scale_a_ptr, offs_m, M, stride_sa)
    scale_b = load_each(scale_b_ptr, offs_n, N, stride_sb)
    out = acc * scale_a[:, None] * scale_b[None, :]
    if BIAS:
        out += widen(load_each(bias_ptr, offs_n, N, stride_bias))[None, :]
    store_tile(out_ptr, out, offs_m, offs_n, M, N)


def launch(
    outs: tuple[torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    bias: torch.Tensor | None, out_dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = a.shape, b.shape[0]
    if out.numel() == 0:
        return
    sm = sm_of(a.device) or 90
    shape = Shape.of(a, b, out_dtype, accum, batch_invariant, sm)
    a, b, formats = operands(a, b, shape.decode)
    config = _configs.config(select_config(shape, sm))
    _matmul_fp8_kernel[grid_of(config, M, N)](
        out, a, b, scale_a, scale_b, bias, *a.stride(), *b.stride(), row_stride(scale_a),
        row_stride(scale_b), bias_stride(bias), M, N, K, BIAS=bias is not None,
        PROMOTE=promoted(accum, sm), **formats, **options(config),
    )  # fmt: skip


def operands(
    a: torch.Tensor, b: torch.Tensor, decode: bool
) -> tuple[torch.Tensor, torch.Tensor, dict[str, bool]]:
    """a and b as a kernel reads them, and what it must know of their codes."""
    formats = dict(
        A_E5M2=a.dtype == torch.float8_e5m2, B_E5M2=b.dtype == torch.float8_e5m2, DECODE=decode
    )
    if decode:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    return a, b, formats


def promoted(accum: str, sm: int) -> bool:
    """Whether a block's sum leaves the tensor cores; sm_100 sums fp8 products in float32."""
    return accum == "promoted" and sm // 10 != 10
