"""OpenCV on a CPU."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Adapter

from ._video import normalize, opencv_rgb, plain_nv12


def opencv_torch(*args: Any) -> Tensor:
    """OpenCV's NV12 to RGB (BT.601, limited range, nearest chroma), torch's u8 resize."""
    a = plain_nv12(args)
    resized = F.interpolate(
        opencv_rgb(a).permute(0, 3, 1, 2), size=(a.height, a.width), mode=a.interpolation,
        antialias=a.antialias,
    )  # fmt: skip
    return normalize(resized, args)


ADAPTER = Adapter(
    "opencv+torch", {"video_to_tensor": opencv_torch}, needs={"cv2": "opencv-python-headless"}
)
