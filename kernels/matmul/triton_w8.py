"""Matmul with int8 weights in Triton, for any GPU from sm_80.

    out = (x @ b.T) * scale_b + bias        x [M, K] f16 or bf16, b [N, K] int8

Weights stand on the wide side: a tile is [channels, rows of x]. Codes are exact in f16 and bf16;
the tensor cores multiply them by x and sum in float32, and the sum is scaled once: no weight is
ever rounded. One program makes one tile; it walks K in blocks and masks only the ragged end.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.matmul.config import _aligned
from aimills_kernels.kernels.matmul.config_int8 import select_w8_config
from aimills_kernels.kernels.matmul.tiles import tile_of
from aimills_kernels.kernels.triton_common import INTERPRET, dot, round_to, widen


@triton.jit
def _multiply(acc, b_ptrs, x_ptrs, offs_k, left, TAIL: tl.constexpr):
    """One block of K."""
    if TAIL:
        w = tl.load(b_ptrs, mask=offs_k[None, :] < left, other=0)
        x = tl.load(x_ptrs, mask=offs_k[:, None] < left, other=0.0)
    else:
        w = tl.load(b_ptrs)
        x = tl.load(x_ptrs)
    if INTERPRET:
        w = w.to(tl.float32)
    else:
        w = w.to(x.dtype)
    return dot(w, x, acc)


@triton.jit
def _matmul_w8_kernel(
    out_ptr, x_ptr, b_ptr, scale_ptr, bias_ptr,
    stride_xm, stride_xk, stride_bn, stride_bk, stride_scale, stride_bias,
    M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    offs_m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    rows = tl.where(offs_m < M, offs_m, 0)
    channels = tl.where(offs_n < N, offs_n, 0)
    deep = offs_k.to(tl.int64)
    b_tile = b_ptr + channels[:, None] * stride_bn + deep[None, :] * stride_bk
    x_tile = x_ptr + rows[None, :] * stride_xm + deep[:, None] * stride_xk

    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    whole = K // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        step = tl.cast(start, tl.int64)
        acc = _multiply(
            acc, b_tile + step * stride_bk, x_tile + step * stride_xk, offs_k, BLOCK_K, False
        )
    if whole < K:
        step = tl.cast(whole, tl.int64)
        acc = _multiply(
            acc, b_tile + step * stride_bk, x_tile + step * stride_xk, offs_k, K - whole, True
        )

    scale = tl.load(scale_ptr + offs_n * stride_scale, mask=offs_n < N, other=0.0)
    out = acc * scale[:, None]
    if BIAS:
        bias = tl.load(bias_ptr + offs_n * stride_bias, mask=offs_n < N, other=0.0)
        out += widen(bias)[:, None]
    tl.store(
        out_ptr + offs_m[None, :] * N + offs_n[:, None],
        round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[None, :] & (offs_n < N)[:, None],
    )


def launch(
    outs: tuple[torch.Tensor],
    x: torch.Tensor, b: torch.Tensor, scale_b: torch.Tensor, bias: torch.Tensor | None,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = x.shape, b.shape[0]
    if out.numel() == 0:
        return
    aligned = _aligned(x) and _aligned(b)
    config = select_w8_config(M, N, aligned, sm_of(x.device) or 90)
    tiles = triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
    _matmul_w8_kernel[(tiles,)](
        out, x, b, scale_b, bias,
        *x.stride(), *b.stride(), scale_b.stride(0) if scale_b.dim() == 2 else 0,
        0 if bias is None else bias.stride(0), M, N, K,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        GROUP_M=config.group_m, BIAS=bias is not None,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
