"""Public int8 quantisation and matmuls."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.matmul import Activation


def quantize_int8(
    x: Tensor,
    granularity: Literal["tensor", "row"] = "tensor",
    *,
    symmetric: bool = True,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Quantise to int8, so that x ~ (x_q - zero) * scale; without zero where symmetric.

    Shapes and dtypes:
        x      [..., K]   f16 | bf16 | f32
        x_q    [..., K]   i8, contiguous
        scale  f32        [] for "tensor", [..., 1] for "row"
        zero   i32        the shape of scale

    Any lengths, empty ones too, and any strides.

    Args:
        granularity: one scale for the whole "tensor", or for each "row" (of the last dim).
        symmetric: codes from -127 to 127 and no zero point; else codes from -128 to 127 over what
            x reaches, with 0 always among its values, and a zero point, the code of 0.

    Returns:
        (x_q, scale) if symmetric, else (x_q, scale, zero), as matmul_int8 takes them.
        scale = max|x| / 127, or max(x, 0) / 255 - min(x, 0) / 255, in float32, at least the
        smallest normal float32, and 1 where all of x is 0; zero = -128 - round(min(x, 0) / scale);
        x_q = round(x / scale) + zero, to nearest-even. Where x has a NaN or an infinity the scale
        over it is not finite, so that no value under it is finite either, and codes and zero point
        are 0.

    Raises:
        ValueError: a dtype, a granularity or a number of dims that does not fit; the message names
            the argument.

    Carries no gradient: rounding has none. torch.autocast changes nothing. Formulas: Jacob et al.,
    arXiv:1712.05877, 2.1; rows of activations: Yao et al., ZeroQuant, arXiv:2206.01861.
    """
    if type(symmetric) is not bool:
        check_bools("quantize_int8", symmetric=symmetric)
    x_q, scale, zero = run("quantize_int8", (x, granularity, symmetric))
    return (x_q, scale) if symmetric else (x_q, scale, zero)


def matmul_int8(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    *,
    zero_a: Tensor | None = None,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul of int8 codes: activation(((a - zero_a) @ b.T) * scale_a * scale_b + bias) + residual,
    rounded once.

    Shapes and dtypes:
        a        [M, K]   i8
        b        [N, K]   i8; the weight of an nn.Linear
        scale_a  [M, 1]   f32; for each row, [] or [1] for the tensor
        scale_b  [N, 1]   f32; likewise
        zero_a   [M, 1]   i32; likewise
        bias     [N]      bf16 | f16 | f32
        residual [M, N]   bf16 | f16 | f32
        out      [M, N]   out_dtype; with activation="swiglu" it is [M, N / 2], as is residual

    Any M, N and K, empty ones too (K = 0 gives the bias), and any strides and offsets.

    Args:
        zero_a: the code of 0 in a, as quantize_int8 gives it with symmetric=False; -128 to
            127.
        bias: added in float32, before the activation.
        activation, residual: as in matmul_fp8.
        out_dtype: torch.bfloat16, torch.float16 or torch.float32.
        batch_invariant: the bits of a row of out do not depend on M, nor on the other rows of a.
            Sums of integers are exact in any order, so in one path they never do; but our kernel
            and PyTorch's, which takes more than 16 rows only, round a bias and an activation
            differently: with it PyTorch's serves no M, and on a CPU no path serves an activation
            with exponentials. Not checked on a GPU yet.
        out: written and returned in place of a new tensor.

    Returns:
        out. The sums are exact: our kernel's are int32, which hold K up to 131071, and up to 65793
        with a zero point; what is longer goes to another path, at last to the PyTorch reference,
        which sums in float64. Scales and bias are applied to the sums in float32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, no path promises batch_invariant here, a
            scale is NaN, infinite or 0, or a zero point is beyond its range (both checked on a CPU,
            on a GPU with AIMILLS_CHECK=1, where our kernel's row is NaN for such a zero point); the
            message names the argument.

    Zero points by sums of rows of b: Jacob et al., arXiv:1712.05877, 2.3. Gradients of scale_a,
    scale_b, bias and residual are those of the PyTorch reference, which is run again for them;
    codes have none. torch.autocast changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("matmul_int8", batch_invariant=batch_invariant)
    act = "none" if activation is None else activation
    args = (a, b, scale_a, scale_b, zero_a, bias, out_dtype, residual, act, batch_invariant)
    return run("matmul_int8", args, out)


def matmul_w8(
    x: Tensor,
    b: Tensor,
    scale_b: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul with int8 weights: activation((x @ b.T) * scale_b + bias) + residual, rounded once.

    Shapes and dtypes:
        x        [M, K]   f16 | bf16
        b        [N, K]   i8; the weight of an nn.Linear
        scale_b  [N, 1]   f32; for each channel, [] or [1] for the tensor
        bias     [N]      bf16 | f16 | f32
        residual [M, N]   bf16 | f16 | f32
        out      [M, N]   dtype of x; with activation="swiglu" it is [M, N / 2], as is residual

    Any M, N and K, empty ones too (K = 0 gives the bias), and any strides and offsets.

    Args:
        bias: added in float32, before the activation.
        activation, residual: as in matmul_fp8.
        batch_invariant: the bits of a row of out do not depend on M, nor on the other rows of x;
            one choice of tiles serves every M. No path on a CPU promises that. Not checked on a GPU
            yet.
        out: written and returned in place of a new tensor.

    Returns:
        out. A NaN in x makes its row NaN.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, no path promises batch_invariant here, or
            a scale is NaN, infinite or 0 (checked on a CPU, on a GPU with AIMILLS_CHECK=1); the
            message names the argument.

    Codes are exact in the dtype of x and the sums are scaled in float32, so no weight is rounded
    (weights by channel: Dettmers et al., LLM.int8(), arXiv:2208.07339). Gradients of x, scale_b,
    bias and residual are those of the PyTorch reference, which is run again for them; codes have
    none. torch.autocast changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("matmul_w8", batch_invariant=batch_invariant)
    act = "none" if activation is None else activation
    return run("matmul_w8", (x, b, scale_b, bias, residual, act, batch_invariant), out)
