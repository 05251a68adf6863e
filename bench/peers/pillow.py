"""Pillow's resize behind OpenCV's colours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter

from ._video import normalize, opencv_rgb, plain_nv12


def pillow(*args: Any) -> Tensor:
    """OpenCV's NV12 to RGB (BT.601, limited range, nearest chroma), Pillow's resize."""
    import numpy as np
    from PIL import Image

    a = plain_nv12(args, "pil", "pil13")
    if not a.antialias:
        raise NotImplementedError("Pillow's resize always has an antialias filter")
    filter_ = getattr(Image.Resampling, a.interpolation.upper())
    frames = [
        np.asarray(Image.fromarray(frame).resize((a.width, a.height), filter_))
        for frame in opencv_rgb(a).numpy()
    ]
    return normalize(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), args)


ADAPTER = Adapter(
    "pillow",
    {"video_to_tensor": pillow},
    needs={"PIL": "pillow", "cv2": "opencv-python-headless"},
)
