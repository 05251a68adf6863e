"""fp8 matmul in Triton, for any GPU from sm_80.

    out = activation((a * scale_a) @ (b * scale_b).T + bias) + residual   a [M, K], b [N, K], fp8

One program makes one tile of the output; it walks K in blocks, whole ones first, and masks only the
ragged end. Rows beyond the edge of a tile read row 0 and are not stored. Scales, and what
`epilogue` has, are applied to the float32 sum. Few rows of a leave few tiles: then K is split, the
sums of splits go to a workspace, and a second kernel adds them in their order. From sm_89 on the
tensor cores take the codes, and each block's sum is added in float32 (`promoted_dot`). sm_80 has
none for fp8, and for a float32 output their sums are too coarse: then codes become float16,
exactly, and are summed in float32 throughout. With accum="fast" the fp8 tensor cores keep the sum
over all of K, for a float32 output too.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul import chosen
from aimills_kernels.kernels.matmul.config import Config, Shape, per_split
from aimills_kernels.kernels.matmul.epilogue import (
    End,
    add_splits,
    finish_tile,
    split_of,
    weight_rows,
)
from aimills_kernels.kernels.matmul.tiles import (
    grid_of,
    load_codes,
    load_each,
    options,
    places_of,
    row_stride,
    tile_of,
    walk,
)
from aimills_kernels.kernels.triton_common import dot, promoted_dot


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
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr,
    stride_bias, stride_rm, stride_rn, stride_am, stride_ak, stride_bn, stride_bk, stride_sa,
    stride_sb, M, N, K, per_split,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    SPLIT: tl.constexpr, ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
    A_E5M2: tl.constexpr, B_E5M2: tl.constexpr, DECODE: tl.constexpr, PROMOTE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m, rows = places_of(tile_m, M, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, ACTIVATION == "swiglu")
    cols = tl.where(offs_n < N, offs_n, 0)
    if SPLIT:
        _, in_a, in_b, K = split_of(K, per_split, stride_ak, stride_bk)
        a_ptr += in_a
        b_ptr += in_b
        out_ptr += tl.program_id(1).to(tl.int64) * M * N
    acc = walk(
        add_codes, tl.zeros([BLOCK_M, BLOCK_N], tl.float32),
        a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn, stride_bk, K, BLOCK_K,
        (A_E5M2, B_E5M2, DECODE, PROMOTE),
    )  # fmt: skip

    scale_a = load_each(scale_a_ptr, offs_m, M, stride_sa)
    scale_b = load_each(scale_b_ptr, offs_n, N, stride_sb)
    finish_tile(
        acc * scale_a[:, None] * scale_b[None, :], out_ptr, codes_scale_ptr, bias_ptr,
        residual_ptr, stride_bias, stride_rm, stride_rn, offs_m, offs_n, tile_n, M, N, BLOCK_M,
        BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    bias: torch.Tensor | None, out_dtype: torch.dtype, accum: str, batch_invariant: bool,
    residual: torch.Tensor | None, activation: str,
) -> None:  # fmt: skip
    out, work = outs
    if out.numel() == 0:
        return
    found = chosen.for_rows(a, b, scale_a, scale_b, out_dtype, accum, batch_invariant, activation)
    config = _configs.config(found.config())
    multiply(a, b, scale_a, scale_b, found.shape, promoted(accum, found.sm), config, work,
             End(out, bias, activation, residual))  # fmt: skip


def multiply(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, shape: Shape,
    promote: bool, config: Config, work: torch.Tensor, end: End,
) -> None:  # fmt: skip
    """The sums, in one split of K or in several that meet in `work`, and what becomes of them."""
    (M, K), N = a.shape, b.shape[0]
    a, b, formats = operands(a, b, shape.decode)
    now = end if config.splits == 1 else End(work)
    _matmul_fp8_kernel[(*grid_of(config, M, N), config.splits)](
        *now.tensors, a, b, scale_a, scale_b, *now.strides, *a.stride(), *b.stride(),
        row_stride(scale_a), row_stride(scale_b), M, N, K, per_split(config, K),
        SPLIT=config.splits > 1, PROMOTE=promote, **now.options, **formats, **options(config),
    )  # fmt: skip
    if config.splits > 1:
        add_splits(work, config.splits, M, N, end)


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
