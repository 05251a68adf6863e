"""fp8 matmul of groups of rows, each with a weight of its own (MoE), in Triton, from sm_80.

    out[row] = activation((a[row] * scale_a[row]) @ (b[e] * scale_b[e]).T + bias[e]) + residual[row]
                                                                                row of group e

One program makes one tile of the output, whose rows are of one group (`segment_of`). The grid
follows from the number of rows and groups alone, so that one CUDA graph serves all lengths. Within
a tile it is the walk of `triton_fp8` or `triton_fp8_block`, and what follows the sums is that of
`epilogue`. Rows of no group are set to 0.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul import chosen
from aimills_kernels.kernels.matmul.activations import GATED
from aimills_kernels.kernels.matmul.config import (
    BLOCK,
    Config,
    Shape,
    in_blocks,
)
from aimills_kernels.kernels.matmul.epilogue import End, weight_rows
from aimills_kernels.kernels.matmul.segments import (
    ends_or_counts,
    finish_group,
    segment_of,
    slots,
    tiles_of_rows,
)
from aimills_kernels.kernels.matmul.tiles import (
    load_each,
    options,
    strides_of,
    tile_among,
    walk,
)
from aimills_kernels.kernels.matmul.triton_fp8 import add_codes, operands, promoted
from aimills_kernels.kernels.matmul.triton_fp8_block import (
    add_gated_block,
    add_scaled_block,
    first_scales_of_b,
)


@triton.jit(do_not_specialize=["stride_cg", "stride_cn", "M", "E", "tiles_m"])
def _grouped_matmul_fp8_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, a_ptr, b_ptr, scale_a_ptr, scale_b_ptr,
    lengths_ptr, stride_og, stride_cg, stride_cn, stride_biasg, stride_bias, stride_rg, stride_rm,
    stride_rn, stride_ag, stride_am, stride_ak, stride_bg, stride_bn, stride_bk,
    stride_sag, stride_sam, stride_sak, stride_sbg, stride_sbn, stride_sbk, stride_lengths,
    M, N, K, E, tiles_m,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    SLOTS: tl.constexpr, BLOCKS: tl.constexpr, ROWS_B: tl.constexpr, ACTIVATION: tl.constexpr,
    E5M2: tl.constexpr, ENCODE: tl.constexpr, WHOLE_GATES: tl.constexpr,
    A_E5M2: tl.constexpr, B_E5M2: tl.constexpr, DECODE: tl.constexpr, PROMOTE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_among(tiles_m, tl.cdiv(N, BLOCK_N), tl.program_id(0), GROUP_M)
    group, first, own, end = segment_of(
        tile_m, lengths_ptr, stride_lengths, M, E, BLOCK_M, SLOTS
    )  # fmt: skip
    group = group.to(tl.int64)
    offs_m = first.to(tl.int64) + tl.arange(0, BLOCK_M)
    rows = tl.where(offs_m < own, offs_m, 0)
    PAIRED: tl.constexpr = ACTIVATION == "swiglu"
    offs_n = weight_rows(tile_n, N, BLOCK_N, PAIRED)
    cols = tl.where(offs_n < N, offs_n, 0)
    depth = tl.where(first < own, K, 0)  # nothing to multiply where no row is a group's
    a_ptr += group * stride_ag
    b_ptr += group * stride_bg
    scale_a_ptr += group * stride_sag
    scale_b_ptr += group * stride_sbg
    out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if BLOCKS and WHOLE_GATES:
        half = N // 2
        gates = tile_n.to(tl.int64) * (BLOCK_N // 2)
        out = walk(
            add_gated_block, out, a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn,
            stride_bk, depth, BLOCK_K,
            (scale_a_ptr + rows * stride_sam, scale_b_ptr + gates // ROWS_B * stride_sbn,
             scale_b_ptr + (half + gates) // ROWS_B * stride_sbn, stride_sak, stride_sbk,
             A_E5M2, B_E5M2, DECODE),
        )  # fmt: skip
    elif BLOCKS:
        ONE_B: tl.constexpr = BLOCK_N <= ROWS_B and not PAIRED  # gates have scales of their own
        scale_b_ptrs = first_scales_of_b(
            scale_b_ptr, tile_n, cols, stride_sbn, BLOCK_N, ROWS_B, ONE_B
        )
        out = walk(
            add_scaled_block, out, a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn,
            stride_bk, depth, BLOCK_K,
            (scale_a_ptr + rows * stride_sam, scale_b_ptrs, stride_sak, stride_sbk, ONE_B,
             A_E5M2, B_E5M2, DECODE),
        )  # fmt: skip
    else:
        out = walk(
            add_codes, out, a_ptr, rows, stride_am, stride_ak, b_ptr, cols, stride_bn, stride_bk,
            depth, BLOCK_K, (A_E5M2, B_E5M2, DECODE, PROMOTE),
        )  # fmt: skip
        scale_a = load_each(scale_a_ptr, offs_m, own, stride_sam)
        scale_b = load_each(scale_b_ptr, offs_n, N, stride_sbn)
        out = out * scale_a[:, None] * scale_b[None, :]
    finish_group(
        out, out_ptr + group * stride_og, codes_scale_ptr, bias_ptr, residual_ptr, group,
        stride_cg, stride_cn, stride_biasg, stride_bias, stride_rg, stride_rm, stride_rn,
        offs_m, offs_n, tile_n, own, end, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    offsets: torch.Tensor | None, masked_m: torch.Tensor | None, bias: torch.Tensor | None,
    out_dtype: torch.dtype, batch_invariant: bool, residual: torch.Tensor | None, activation: str,
) -> None:  # fmt: skip
    (out,) = outs
    if out.numel() == 0:
        return
    if len(b) == 0:
        out.zero_()
        return
    found = chosen.for_groups(a, b, scale_a, scale_b, out_dtype, batch_invariant, activation)
    multiply(
        a, b, scale_a, scale_b, offsets, masked_m, found.shape, promoted("promoted", found.sm),
        _configs.config(found.config()), End(out, bias, activation, residual),
    )  # fmt: skip


def multiply(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    offsets: torch.Tensor | None, masked_m: torch.Tensor | None, shape: Shape, promote: bool,
    config: Config, end: End,
) -> None:  # fmt: skip
    """The sums, and what becomes of them. Of at least one group."""
    E, N, K = b.shape
    a, b, formats = operands(a, b, shape.decode)
    masked = masked_m is not None
    lengths = ends_or_counts(offsets, masked_m, E)
    tiles_m = tiles_of_rows(a, masked, E, config.block_m)
    rows_b = 1 if scale_b.dim() < 3 or scale_b.shape[1] == N else BLOCK
    gates = config.block_n // 2  # of a tile: in one block of 128 rows of b, as those beside them
    whole = end.activation == GATED and rows_b % gates == 0 and N // 2 % gates == 0
    _grouped_matmul_fp8_kernel[(tiles_m * triton.cdiv(N, config.block_n),)](
        *end.tensors, a, b, scale_a, scale_b, lengths, *end.strides_of_groups(masked),
        a.stride(0) if masked else 0, *a.stride()[-2:], *b.stride(), *strides_of(scale_a),
        *strides_of(scale_b), lengths.stride(0), a.shape[-2], N, K, E, tiles_m,
        SLOTS=slots(masked, E), BLOCKS=in_blocks(scale_a, scale_b, N),
        ROWS_B=rows_b, WHOLE_GATES=whole, PROMOTE=promote, **end.options, **formats,
        **options(config),
    )  # fmt: skip
