"""torchvision's resize behind our reference's colours, as it has none for NV12."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter
from aimills_kernels.kernels.video.op import rgb_levels

from ._video import normalize


def torchvision(*args: Any) -> Tensor:
    """RGB by float32 torch ops, rounded to u8, then torchvision's u8 resize."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    (y, uv), space, range_, location, upsampling, height, width, interpolation, antialias = args[:9]
    rgb = rgb_levels(y, uv, space, range_, location, upsampling, torch.float32).to(torch.uint8)
    mode = InterpolationMode(interpolation)
    return normalize(
        transforms.resize(rgb, [height, width], interpolation=mode, antialias=antialias), args
    )


ADAPTER = Adapter(
    "torchvision", {"video_to_tensor": torchvision}, needs={"torchvision": "torchvision"}
)
