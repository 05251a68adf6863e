"""torchvision's resize behind our reference's colours, as it has none for NV12."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter
from aimills_kernels.kernels.video.colour import rgb_levels

from ._video import normalize, plain_nv12


def torchvision(*args: Any) -> Tensor:
    """RGB by float32 torch ops, rounded to u8, then torchvision's u8 resize."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    a = plain_nv12(args)
    rgb = rgb_levels(*a[:6], torch.float32).to(torch.uint8)
    mode = InterpolationMode(a.interpolation)
    resized = transforms.resize(rgb, [a.height, a.width], interpolation=mode, antialias=a.antialias)
    return normalize(resized, args)


ADAPTER = Adapter(
    "torchvision", {"video_to_tensor": torchvision}, needs={"torchvision": "torchvision"}
)
