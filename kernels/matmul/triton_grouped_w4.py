"""Matmul of groups of rows, each with a 4-bit weight of its own (MoE), in Triton, from sm_80.

    out[row] = activation(x[row] @ weight[e].T + bias[e]) + residual[row]       row of group e

The tiles and the grid of `triton_grouped_fp8`, the steps of `triton_w4`, without splits of K:
groups give programs enough. Rows of no group are set to 0.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul.config_w4 import grouped_config_of
from aimills_kernels.kernels.matmul.epilogue import End, weight_rows
from aimills_kernels.kernels.matmul.layout_w4 import SIZES
from aimills_kernels.kernels.matmul.segments import (
    ends_or_counts,
    finish_group,
    segment_of,
    slots,
    tiles_of_rows,
)
from aimills_kernels.kernels.matmul.tiles import tile_among
from aimills_kernels.kernels.matmul.triton_w4 import sum_of_steps


@triton.jit(do_not_specialize=["M", "E", "G", "tiles_m"])
def _grouped_matmul_w4_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, x_ptr, codes_ptr, scales_ptr, zeros_ptr,
    perm_ptr, group_ptr, lengths_ptr, stride_og, stride_cg, stride_cn, stride_biasg, stride_bias,
    stride_rg, stride_rm, stride_rn, stride_xg, stride_xm, stride_xk, stride_lengths,
    M, N, K, E, G, width, offset, tiles_m,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
    TALL: tl.constexpr, SLOTS: tl.constexpr, ACTIVATION: tl.constexpr, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    tile_n, tile_m = tile_among(tl.cdiv(N, BLOCK_N), tiles_m, tl.program_id(0), TALL)
    e, first, own, end = segment_of(tile_m, lengths_ptr, stride_lengths, M, E, BLOCK_M, SLOTS)
    e = e.to(tl.int64)
    offs_m = first.to(tl.int64) + tl.arange(0, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, ACTIVATION == "swiglu")
    channels = tl.where(offs_n < N, offs_n, 0)
    zeros = None
    perm = None
    group_of = None
    if zeros_ptr is not None:
        zeros = zeros_ptr + e * G * N
    if perm_ptr is not None:
        perm = perm_ptr + e * width * 4
    if group_ptr is not None:
        group_of = group_ptr + e * (width // 8)
    steps = tl.where(first < own, tl.cdiv(width, STEP), 0)  # none where no row is a group's
    sums = sum_of_steps(
        0, steps, x_ptr + e * stride_xg, codes_ptr + e * N * width, scales_ptr + e * G * N, zeros,
        perm, group_of, channels, offs_m, stride_xm, stride_xk, own, N, K, G, width, offset,
        BLOCK_N, BLOCK_M, STEP, GROUP,
    )  # fmt: skip
    finish_group(
        tl.trans(sums), out_ptr + e * stride_og, codes_scale_ptr, bias_ptr, residual_ptr, e,
        stride_cg, stride_cn, stride_biasg, stride_bias, stride_rg, stride_rm, stride_rn,
        offs_m, offs_n, tile_n, own, end, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor],
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None,
    perm: torch.Tensor | None, group_of: torch.Tensor | None, offsets: torch.Tensor | None,
    masked_m: torch.Tensor | None, bias: torch.Tensor | None, residual: torch.Tensor | None,
    group_size: int, offset: int, activation: str, batch_invariant: bool,
) -> None:  # fmt: skip
    (out,) = outs
    (E, N, width), K = codes.shape, x.shape[-1]
    if out.numel() == 0:
        return
    if E == 0:
        out.zero_()
        return
    masked = masked_m is not None
    config = _configs.config(
        grouped_config_of(x, codes, perm, group_of, group_size, offset, batch_invariant)
    )
    lengths = ends_or_counts(offsets, masked_m, E)
    tiles_m = tiles_of_rows(x, masked, E, config.block_m)
    end = End(out, bias, activation, residual)
    _grouped_matmul_w4_kernel[(tiles_m * triton.cdiv(N, config.block_n),)](
        *end.tensors, x, codes, scales, zeros, perm, group_of, lengths,
        *end.strides_of_groups(masked), x.stride(0) if masked else 0, *x.stride()[-2:],
        lengths.stride(0), x.shape[-2], N, K, E, scales.shape[1], width, offset, tiles_m,
        BLOCK_N=config.block_n, BLOCK_M=config.block_m, STEP=config.step,
        GROUP=32 if group_of is not None else group_size if group_size in SIZES else 0, TALL=8,
        SLOTS=slots(masked, E), num_warps=config.num_warps, num_stages=config.num_stages,
        **end.options,
    )  # fmt: skip
