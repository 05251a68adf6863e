"""PyTorch itself, where a way through it is no provider of ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Adapter
from aimills_kernels.kernels.video.colour import rgb_levels

from ._cudnn import cudnn
from ._grouped import each, grouped_fp8, grouped_w4, scaled
from ._matmul import dequantized_int8, dequantized_w8, scaled_mm
from ._sdpa_backward import sdpa_backward, sdpa_with_forward
from ._video import normalize, plain_nv12
from ._w4 import dequantized, int4pack


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
DEQUANTIZED = Adapter(
    "16-bit matmul",
    {"matmul_w4": dequantized, "matmul_w8": dequantized_w8, "matmul_int8": dequantized_int8},
)
SCALED_MM_EACH = Adapter("F.scaled_mm, group by group", {"grouped_matmul_fp8": each})
SCALED_GROUPED_MM = Adapter("F.scaled_grouped_mm", {"grouped_matmul_fp8": scaled})
GROUPED_MM = Adapter(
    "bf16 grouped", {"grouped_matmul_fp8": grouped_fp8, "grouped_matmul_w4": grouped_w4}
)
FLOAT_VIDEO = Adapter("torch float", {"video_to_tensor": float_video})
CUDNN = Adapter("cuDNN", {"attention": cudnn})
SDPA_BACKWARD = Adapter("sdpa backward", {"attention_backward": sdpa_backward})
SDPA_WITH_FORWARD = Adapter("sdpa with forward", {"attention_backward": sdpa_with_forward})
