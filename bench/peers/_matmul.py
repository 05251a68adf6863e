"""Matmuls of 8-bit codes by PyTorch's own ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Prepared
from aimills_kernels.kernels.matmul.activations import finish
from aimills_kernels.kernels.matmul.config import in_blocks


def scaled_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> Tensor:  # fmt: skip
    """F.scaled_mm, which makes its own output; activation and residual by PyTorch behind it."""
    if batch_invariant:
        raise NotImplementedError("F.scaled_mm picks kernels by M")
    N = b.shape[0]
    if in_blocks(scale_a, scale_b, N):
        if a.device.type != "cuda" or a.shape[1] % 512:
            raise NotImplementedError("F.scaled_mm takes blocks on a GPU, K a multiple of 512")
        kind_a = F.ScalingType.BlockWise1x128
        kind_b = kind_a if scale_b.shape[0] == N else F.ScalingType.BlockWise128x128
    elif (scale_a.dim() == 2) != (scale_b.dim() == 2):
        raise NotImplementedError("F.scaled_mm takes a scale for each row of both or of neither")
    else:
        rows = scale_a.dim() == 2
        kind_a = kind_b = F.ScalingType.RowWise if rows else F.ScalingType.TensorWise
    across = scale_b.T if scale_b.dim() == 2 else scale_b
    if kind_b == F.ScalingType.BlockWise1x128:  # [N, K / 128], unlike all others
        across = scale_b
    out = F.scaled_mm(
        a, b.T, scale_a, kind_a, across, kind_b, bias=bias, output_dtype=out_dtype,
        use_fast_accum=accum == "fast",
    )  # fmt: skip
    return finish(out, None, activation, residual, out_dtype)


def _promise(invariant: bool) -> None:
    if invariant:
        raise NotImplementedError("F.linear picks kernels by M")


def _weight(b: Tensor, scale_b: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple:
    weight = (b.float() * scale_b.reshape(-1, 1)).to(dtype)
    return weight, None if bias is None else bias.to(dtype)


def _linear(
    made: tuple[Tensor, Tensor | None], x: Tensor, b: Tensor, scale_b: Tensor,
    bias: Tensor | None, residual: Tensor | None, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """The matmul of the weight in x's dtype: twice the bytes, and each weight rounded."""
    _promise(batch_invariant)
    return finish(F.linear(x, *made), None, activation, residual, x.dtype)


def _ahead_of_int8(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, *rest: object,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    if out_dtype == torch.float32:
        raise NotImplementedError("the 16-bit matmul gives 16 bits")
    codes = a.float() if zero_a is None else a.float() - zero_a.reshape(-1, 1)
    x = (codes * scale_a.reshape(-1, 1)).to(out_dtype)
    return x, *_weight(b, scale_b, bias, out_dtype)


def _linear_int8(
    made: tuple[Tensor, Tensor, Tensor | None], a: Tensor, b: Tensor, scale_a: Tensor,
    scale_b: Tensor, zero_a: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype,
    residual: Tensor | None, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """The matmul of both in the output's dtype: twice the bytes, and each operand rounded."""
    _promise(batch_invariant)
    return finish(F.linear(*made), None, activation, residual, out_dtype)


dequantized_w8 = Prepared(lambda x, b, s, bias, *_: _weight(b, s, bias, x.dtype), _linear)
dequantized_int8 = Prepared(_ahead_of_int8, _linear_int8)
