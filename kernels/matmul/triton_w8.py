"""Matmul with int8 weights in Triton, for any GPU from sm_80.

    out = activation((x @ b.T) * scale_b + bias) + residual   x [M, K] f16 or bf16, b [N, K] int8

Weights stand on the wide side: a tile is [channels, rows of x]. Codes are exact in f16 and bf16;
the tensor cores multiply them by x and sum in float32, and the sum is scaled once: no weight is
ever rounded. One program makes one tile; it walks K in blocks and masks only the ragged end.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.config_int8 import select_w8_config, w8_shape_of
from aimills_kernels.kernels.matmul.epilogue import End, finish_tile, weight_rows
from aimills_kernels.kernels.matmul.tiles import (
    grid_of,
    load_block,
    load_each,
    options,
    places_of,
    row_stride,
    tile_of,
    walk,
)
from aimills_kernels.kernels.triton_common import INTERPRET, dot


@triton.jit
def _multiply(acc, b_ptrs, x_ptrs, step, offs_k, left, TAIL: tl.constexpr, more):
    """One block of K."""
    w = load_block(b_ptrs, offs_k[None, :] < left, TAIL, 0)
    x = load_block(x_ptrs, offs_k[:, None] < left, TAIL, 0.0)
    if INTERPRET:
        w = w.to(tl.float32)
    else:
        w = w.to(x.dtype)
    return dot(w, x, acc)


@triton.jit
def _matmul_w8_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, x_ptr, b_ptr, scale_ptr,
    stride_bias, stride_rm, stride_rn, stride_xm, stride_xk, stride_bn, stride_bk, stride_scale,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m, rows = places_of(tile_m, M, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, ACTIVATION == "swiglu")
    channels = tl.where(offs_n < N, offs_n, 0)
    acc = walk(
        _multiply, tl.zeros([BLOCK_N, BLOCK_M], tl.float32),
        b_ptr, channels, stride_bn, stride_bk, x_ptr, rows, stride_xm, stride_xk, K, BLOCK_K, None,
    )  # fmt: skip

    out = acc * load_each(scale_ptr, offs_n, N, stride_scale)[:, None]
    finish_tile(
        tl.trans(out), out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm,
        stride_rn, offs_m, offs_n, tile_n, M, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor],
    x: torch.Tensor, b: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None,
    residual: torch.Tensor | None, activation: str, batch_invariant: bool,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = x.shape, b.shape[0]
    if out.numel() == 0:
        return
    shape = w8_shape_of(x, b, batch_invariant)
    config = _configs.config(select_w8_config(*shape, sm_of(x.device) or 90))
    end = End(out, bias, activation, residual)
    _matmul_w8_kernel[grid_of(config, M, N)](
        *end.tensors, x, b, scale_b, *end.strides, *x.stride(), *b.stride(), row_stride(scale_b),
        M, N, K, **end.options, **options(config),
    )  # fmt: skip
