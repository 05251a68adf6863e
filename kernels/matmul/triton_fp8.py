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
from aimills_kernels.kernels.matmul.tiles import load_codes, tile_of
from aimills_kernels.kernels.triton_common import dot, promoted_dot, round_to, widen


@triton.jit
def _multiply(acc, a_ptrs, b_ptrs, offs_k, left, TAIL: tl.constexpr, A_E5M2: tl.constexpr,
              B_E5M2: tl.constexpr, DECODE: tl.constexpr, PROMOTE: tl.constexpr):  # fmt: skip
    """One block of K."""
    a = load_codes(a_ptrs, offs_k[None, :] < left, A_E5M2, TAIL, DECODE)
    b = load_codes(b_ptrs, offs_k[:, None] < left, B_E5M2, TAIL, DECODE)
    if DECODE:
        return dot(a, b, acc)
    else:  # noqa: RET505 (without it Triton would compile both)
        return promoted_dot(a, b, acc, PROMOTE)


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
    offs_m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    rows = tl.where(offs_m < M, offs_m, 0)
    cols = tl.where(offs_n < N, offs_n, 0)
    deep = offs_k.to(tl.int64)
    a_tile = a_ptr + rows[:, None] * stride_am + deep[None, :] * stride_ak
    b_tile = b_ptr + cols[None, :] * stride_bn + deep[:, None] * stride_bk

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    whole = K // BLOCK_K * BLOCK_K
    for start in range(0, whole, BLOCK_K):
        step = tl.cast(start, tl.int64)
        acc = _multiply(
            acc, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, BLOCK_K,
            False, A_E5M2, B_E5M2, DECODE, PROMOTE,
        )  # fmt: skip
    if whole < K:
        step = tl.cast(whole, tl.int64)
        acc = _multiply(
            acc, a_tile + step * stride_ak, b_tile + step * stride_bk, offs_k, K - whole,
            True, A_E5M2, B_E5M2, DECODE, PROMOTE,
        )  # fmt: skip

    scale_a = tl.load(scale_a_ptr + offs_m * stride_sa, mask=offs_m < M, other=0.0)
    scale_b = tl.load(scale_b_ptr + offs_n * stride_sb, mask=offs_n < N, other=0.0)
    out = acc * scale_a[:, None] * scale_b[None, :]
    if BIAS:
        bias = tl.load(bias_ptr + offs_n * stride_bias, mask=offs_n < N, other=0.0)
        out += widen(bias)[None, :]
    tl.store(
        out_ptr + offs_m[:, None] * N + offs_n[None, :],
        round_to(out, out_ptr.dtype.element_ty),
        mask=(offs_m < M)[:, None] & (offs_n < N)[None, :],
    )


def launch(
    outs: tuple[torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    bias: torch.Tensor | None, out_dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> None:  # fmt: skip
    (out,) = outs
    (M, K), N = a.shape, b.shape[0]
    if out.numel() == 0:
        return
    formats = dict(A_E5M2=a.dtype == torch.float8_e5m2, B_E5M2=b.dtype == torch.float8_e5m2)
    sm = sm_of(a.device) or 90
    shape = Shape.of(a, b, out_dtype, accum, batch_invariant, sm)
    if shape.decode:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    config = _configs.config(select_config(shape, sm))
    tiles = triton.cdiv(M, config.block_m) * triton.cdiv(N, config.block_n)
    _matmul_fp8_kernel[(tiles,)](
        out, a, b, scale_a, scale_b, bias,
        *a.stride(), *b.stride(), _row_stride(scale_a), _row_stride(scale_b),
        0 if bias is None else bias.stride(0), M, N, K,
        BLOCK_M=config.block_m, BLOCK_N=config.block_n, BLOCK_K=config.block_k,
        GROUP_M=config.group_m, BIAS=bias is not None, DECODE=shape.decode,
        PROMOTE=accum == "promoted" and sm // 10 != 10,  # sm_100 sums fp8 products in float32
        num_warps=config.num_warps, num_stages=config.num_stages, **formats,
    )  # fmt: skip


def _row_stride(scale: torch.Tensor) -> int:
    """0 repeats a tensor's one scale for every row."""
    return scale.stride(0) if scale.dim() == 2 else 0
