"""torchao's fp8 path: its matmul of codes and its quantisation."""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter
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
    {"matmul_fp8": matmul_fp8, "quantize_fp8": quantize_fp8},
    needs={"torchao": "torchao"},
)
