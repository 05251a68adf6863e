"""PyTorch itself, where a way through it is no provider of ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Adapter
from aimills_kernels.kernels.matmul.activations import activate
from aimills_kernels.kernels.matmul.config import in_blocks
from aimills_kernels.kernels.video.colour import rgb_levels

from ._sdpa_backward import sdpa_backward, sdpa_with_forward
from ._video import normalize, plain_nv12
from ._w4 import dequantized, int4pack


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
    out = F.scaled_mm(
        a, b.T, scale_a, kind_a, across, kind_b, bias=bias, output_dtype=out_dtype,
        use_fast_accum=accum == "fast",
    )  # fmt: skip
    out = activate(out, activation)
    return out if residual is None else (out + residual).to(out_dtype)


def float_video(*args: Any) -> Tensor:
    """The same steps in float32 torch ops, the way of torchvision on a GPU."""
    a = plain_nv12(args)
    rgb = rgb_levels(*a[:6], torch.float32)
    resized = F.interpolate(
        rgb, size=(a.height, a.width), mode=a.interpolation, antialias=a.antialias
    )
    return normalize(resized.round_().clamp_(0, 255), args)


SCALED_MM = Adapter("F.scaled_mm", {"matmul_fp8": scaled_mm})
INT4PACK = Adapter("int4pack", {"matmul_w4": int4pack})
DEQUANTIZED = Adapter("16-bit matmul", {"matmul_w4": dequantized})
FLOAT_VIDEO = Adapter("torch float", {"video_to_tensor": float_video})
SDPA_BACKWARD = Adapter("sdpa backward", {"attention_backward": sdpa_backward})
SDPA_WITH_FORWARD = Adapter("sdpa with forward", {"attention_backward": sdpa_with_forward})
