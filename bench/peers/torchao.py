"""torchao's matmuls of fp8 and int8 codes and of int8 weights, and its quantisation to fp8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Adapter, Prepared
from aimills_kernels.kernels.matmul.activations import finish
from aimills_kernels.kernels.matmul.config import in_blocks


def matmul_fp8(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> Tensor:  # fmt: skip
    """torchao: addmm_float8_unwrapped_inference."""
    from torchao.float8.inference import addmm_float8_unwrapped_inference

    if in_blocks(scale_a, scale_b, b.shape[0]) or (scale_a.dim() == 2) != (scale_b.dim() == 2):
        raise NotImplementedError("torchao takes a scale for each row of both or of neither")
    if batch_invariant:
        raise NotImplementedError("torchao picks kernels by M")
    if activation != "none" or residual is not None:
        raise NotImplementedError("torchao takes no activation and no residual")
    across = scale_b.T if scale_b.dim() == 2 else scale_b
    return addmm_float8_unwrapped_inference(
        a, scale_a, b.T, across, out_dtype, bias=bias, use_fast_accum=accum == "fast"
    )


def matmul_int8(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, residual: Tensor | None, activation: str,
    batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """torchao: int_scaled_matmul, the scales of b and what follows by PyTorch behind it."""
    from torchao.kernel.intmm import int_scaled_matmul

    if batch_invariant:
        raise NotImplementedError("torchao picks kernels by M")
    if zero_a is not None:
        raise NotImplementedError("torchao takes zero points where it quantises a itself")
    sums = int_scaled_matmul(a, b.T, scale_a.reshape(-1, 1).contiguous())
    return finish(sums * scale_b.reshape(-1), bias, activation, residual, out_dtype)


def _weight_of(x: Tensor, b: Tensor, scale_b: Tensor, *_: object) -> tuple[Tensor]:
    """As torchao stores it, of our codes and scales."""
    from torchao.quantization import Int8Tensor

    scale = scale_b.reshape(-1, 1).expand(b.shape[0], 1).contiguous()
    return (Int8Tensor(b, scale, [1, b.shape[1]], x.dtype),)


def _linear(
    made: tuple[Tensor], x: Tensor, b: Tensor, scale_b: Tensor, bias: Tensor | None,
    residual: Tensor | None, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """torchao: F.linear of an Int8Tensor, whose sums and scales are rounded to x's dtype."""
    if batch_invariant:
        raise NotImplementedError("torchao picks kernels by M")
    own = None if bias is None else bias.to(x.dtype)
    return finish(F.linear(x, made[0], own), None, activation, residual, x.dtype)


def matmul_w4(*args: object) -> Tensor:
    """Nothing of torchao's own."""
    raise NotImplementedError(
        "torchao multiplies 4-bit weights by _weight_int4pack_mm, the peer int4pack, or by mslk"
    )


def quantize_fp8(x: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """torchao: Float8Tensor.from_hp."""
    from torchao.quantization import Float8Tensor, PerRow, PerTensor

    kinds = {"row": PerRow, "tensor": PerTensor}
    if granularity not in kinds:
        raise NotImplementedError(f"this adapter of torchao has no granularity {granularity!r}")
    found = Float8Tensor.from_hp(x, float8_dtype=dtype, granularity=kinds[granularity]())
    scale = found.scale if granularity == "row" else found.scale.reshape(())
    return found.qdata, scale


ADAPTER = Adapter(
    "torchao",
    {
        "matmul_fp8": matmul_fp8,
        "matmul_int8": matmul_int8,
        "matmul_w8": Prepared(_weight_of, _linear),
        "matmul_w4": matmul_w4,
        "quantize_fp8": quantize_fp8,
    },
    needs={"torchao": "torchao"},
)
