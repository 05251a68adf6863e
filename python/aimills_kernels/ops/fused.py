"""Public functions that quantise what a norm or an activation gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aimills_kernels.ops._run import run


def rmsnorm_quantize_fp8(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    granularity: Literal["row", "1x128"] = "row",
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[Tensor, ...]:
    """RMSNorm of x, or of x + residual, quantised to fp8 in one pass.

    Shapes and dtypes:
        x         [..., K]   f16 | bf16 | f32
        weight    [K]        f16 | bf16 | f32
        residual  [..., K]   x's dtype
        x_q       [..., K]   dtype, contiguous
        scale     f32        [..., 1] for "row", [..., ceil(K / 128)] for "1x128"

    Any lengths, empty ones too, and any strides.

    Args:
        eps: added to the mean of the squares, at least 0.
        residual: added to x first; the sum is then returned too.
        granularity: one scale for each "row" or for each "1x128" block of it.
        dtype: of x_q; torch.float8_e4m3fn or torch.float8_e5m2.

    Returns:
        (x_q, scale), and with a residual (x_q, scale, x + residual in x's dtype). x_q * scale ~
        h / sqrt(mean(h^2) + eps) * weight with h = x + residual, everything in float32: neither h
        nor its norm is rounded before it is quantised. Scales and codes follow the rules of
        quantize_fp8, and the scales lie in memory as there.

    Raises:
        ValueError: a shape, dtype, eps or granularity that does not fit; the message names the
            argument.

    Carries no gradient. torch.autocast changes nothing. Zhang and Sennrich, arXiv:1910.07467.
    """
    eps = float(eps) if isinstance(eps, int) else eps
    args = (x, weight, residual, eps, granularity, dtype)
    x_q, scale, total = run("rmsnorm_quantize_fp8", args)
    return (x_q, scale) if residual is None else (x_q, scale, total)


def swiglu_quantize_fp8(
    gate_up: Tensor,
    granularity: Literal["row", "1x128"] = "row",
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[Tensor, Tensor]:
    """SwiGLU, quantised to fp8 in one pass.

    Shapes and dtypes:
        gate_up  [..., 2 K]  f16 | bf16 | f32; the first half of the last dim is the gate
        x_q      [..., K]    dtype, contiguous
        scale    f32         [..., 1] for "row", [..., ceil(K / 128)] for "1x128"

    Any lengths, empty ones too, and any strides.

    Args:
        granularity: one scale for each "row" or for each "1x128" block of it.
        dtype: of x_q; torch.float8_e4m3fn or torch.float8_e5m2.

    Returns:
        (x_q, scale): x_q * scale ~ gate / (1 + exp(-gate)) * up, everything in float32. Scales and
        codes follow the rules of quantize_fp8, and the scales lie in memory as there.

    Raises:
        ValueError: a shape, dtype or granularity that does not fit; the message names the argument.

    Carries no gradient. torch.autocast changes nothing. Shazeer, arXiv:2002.05202.
    """
    return run("swiglu_quantize_fp8", (gate_up, granularity, dtype))
