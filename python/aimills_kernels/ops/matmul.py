"""Public quantisation and matmul functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu"]


def quantize_fp8(
    x: Tensor,
    granularity: Literal["tensor", "row", "1x128", "128x128"] = "tensor",
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[Tensor, Tensor]:
    """Quantise to fp8, so that x ~ x_q * scale, with the scale of each element's row or block.

    Shapes and dtypes:
        x      [..., K]   f16 | bf16 | f32; [N, K] for "128x128"
        x_q    [..., K]   dtype, contiguous
        scale  f32        [] for "tensor", [..., 1] for "row", [..., ceil(K / 128)] for "1x128",
                          [ceil(N / 128), ceil(K / 128)] for "128x128"

    Any lengths, empty ones too and such that end within a block, and any strides.

    Args:
        granularity: one scale for the whole "tensor", for each "row" (of the last dim), for each
            "1x128" block of a row (activations), or for each "128x128" block (weights).
        dtype: of x_q; torch.float8_e4m3fn or torch.float8_e5m2.

    Returns:
        (x_q, scale), as matmul_fp8 takes them. scale = max|x| / 448 (e4m3) or / 57344 (e5m2) in
        float32, at least the smallest normal float32, and 1 where all of x is 0; x_q = x / scale,
        to nearest-even, within the largest code. Where x has a NaN or an infinity the scale over it
        is not finite and every code under that scale is NaN. Scales of "1x128" lie in memory with
        the rows side by side, as cuBLASLt wants them: `scale` is not contiguous. Those of "128x128"
        are contiguous, as `weight_scale_inv` in DeepSeek's checkpoints.

    Raises:
        ValueError: a dtype, a granularity or a number of dims that does not fit; the message names
            the argument.

    Carries no gradient: rounding has none. torch.autocast changes nothing. Formats: Micikevicius et
    al., arXiv:2209.05433; blocks: DeepSeek-V3, arXiv:2412.19437, 3.3.
    """
    return run("quantize_fp8", (x, granularity, dtype))


def matmul_fp8(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    accum: Literal["promoted", "fast"] = "promoted",
    out_dtype: torch.dtype = torch.bfloat16,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul of fp8 codes: activation((a * scale_a) @ (b * scale_b).T + bias) + residual, rounded
    once.

    Shapes and dtypes:
        a        [M, K]              float8_e4m3fn | float8_e5m2
        b        [N, K]              float8_e4m3fn | float8_e5m2; the weight of an nn.Linear
        scale_a  [M, ceil(K / 128)]  f32; for each block of 1x128, [M, 1] for each row, [] or [1]
                                     for the tensor
        scale_b  [N, ceil(K / 128)]  f32; likewise, [N, 1], [] or [1], or for each block of 128x128
                                     [ceil(N / 128), ceil(K / 128)]
        bias     [N]                 bf16 | f16 | f32
        residual [M, N]              bf16 | f16 | f32
        out      [M, N]              out_dtype; with activation="swiglu" it is [M, N / 2], as is
                                     residual

    Any M, N and K, empty ones too (K = 0 gives the bias), and any strides and offsets, of the
    scales too. The granularity follows from the scales' shapes, which may differ between a and b;
    where two readings fit a shape they mean the same numbers.

    Args:
        bias: added in float32, before the activation.
        activation: computed in float32; "gelu" is the exact one, "gelu_tanh" its approximation.
            "swiglu" is silu(gate) * up, where the first half of b's rows makes the gate and the
            second half up, as in a weight [gate; up] and in swiglu_quantize_fp8.
        residual: added in float32 behind the activation; any strides.
        accum: "promoted" adds the sum of each block of K in float32. "fast" allows fp8 tensor
            cores to keep the sum over all of K, in some 14 bits, for a float32 out too. A kernel is
            then held to an error of (n + 16 sqrt(n)) / 8192 of the largest value of out, n = K / 32
            (3.8 % for K = 4096). With scales of blocks the sum leaves them every 128 all the same.
        out_dtype: torch.bfloat16, torch.float16 or torch.float32.
        batch_invariant: the bits of a row of out do not depend on M, nor on the other rows of a or
            its place among them, as one choice of tiles serves every M. Only our own kernels do
            that, so on a CPU, and on a GPU where they have no record, it is a ValueError. Not
            checked on a GPU yet.
        out: written and returned in place of a new tensor.

    Returns:
        out. A NaN code makes its row (of a) or column (of b) NaN.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, a scale is NaN, infinite or 0 (checked on
            a CPU, on a GPU with AIMILLS_CHECK=1), or a or b requires a gradient; the message names
            the argument.

    Sums each block of K in the tensor cores and the blocks in float32 (Liu et al., DeepSeek-V3,
    arXiv:2412.19437); for a float32 out all of it in float32. For M up to 64 K may be split; the
    sums of splits are added in their order, without atomics. SwiGLU: Shazeer, arXiv:2002.05202.
    Gradients of scale_a, scale_b, bias and residual are those of the PyTorch reference, which is
    run again for them; codes have none. torch.autocast changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("matmul_fp8", batch_invariant=batch_invariant)
    args = (
        a, b, scale_a, scale_b, bias, out_dtype, accum, batch_invariant, residual,
        "none" if activation is None else activation,
    )  # fmt: skip
    return run("matmul_fp8", args, out)


def matmul_quantize_fp8(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    granularity: Literal["row", "1x128"] = "1x128",
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
    accum: Literal["promoted", "fast"] = "promoted",
    batch_invariant: bool = False,
) -> tuple[Tensor, Tensor]:
    """matmul_fp8, quantised to fp8: what the next matmul_fp8 takes as its a and scale_a.

    Shapes and dtypes:
        a        [M, K]              float8_e4m3fn | float8_e5m2
        b        [N, K]              float8_e4m3fn | float8_e5m2
        scale_a  [M, ceil(K / 128)]  f32; or others, as in matmul_fp8
        scale_b  [N, ceil(K / 128)]  f32; or others, as in matmul_fp8
        bias     [N]                 bf16 | f16 | f32
        x_q      [M, N]              dtype; [M, N / 2] with activation="swiglu"
        scale    [M, ceil(N / 128)]  f32, of x_q's columns; [M, 1] for "row"

    Any M, N and K, empty ones too, and any strides and offsets.

    Args:
        granularity: one scale for each "row" or for each "1x128" block of it. A row takes a second
            pass over the result in float32, as no part of the kernel sees all of one.
        bias: as in matmul_fp8.
        activation: as in matmul_fp8.
        dtype: of x_q; torch.float8_e4m3fn or torch.float8_e5m2.
        accum: as in matmul_fp8.
        batch_invariant: as in matmul_fp8.

    Returns:
        (x_q, scale): x_q * scale ~ activation((a * scale_a) @ (b * scale_b).T + bias), which is in
        float32 until it becomes codes. Scales and codes follow the rules of quantize_fp8, and the
        scales lie in memory as there.

    Raises:
        ValueError: as in matmul_fp8, or a granularity or dtype that does not fit; the message names
            the argument.

    Carries no gradient. torch.autocast changes nothing. Sums are those of matmul_fp8.
    """
    if type(batch_invariant) is not bool:
        check_bools("matmul_quantize_fp8", batch_invariant=batch_invariant)
    act = "none" if activation is None else activation
    args = (
        a, b, scale_a, scale_b, bias, act, granularity, dtype, accum, batch_invariant,
    )  # fmt: skip
    return run("matmul_quantize_fp8", args)
