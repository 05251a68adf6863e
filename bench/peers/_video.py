"""Steps that several ways from NV12 to a normalised tensor share.

None of the libraries takes every option: what one does is the first line of its function's
docstring, and what it leaves out shows in its error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def opencv_rgb(args: tuple) -> list[Any]:
    """[H, W, 3] arrays by OpenCV, whatever the clip says: BT.601, limited range, nearest chroma."""
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    y, uv = args[0]
    return [
        cv2.cvtColorTwoPlane(luma.numpy(), chroma.numpy(), cv2.COLOR_YUV2RGB_NV12)
        for luma, chroma in zip(y, uv, strict=True)
    ]


def normalize(levels: Tensor, args: tuple) -> Tensor:
    mean, std, dtype = args[9:]
    scale = 1 / (255 * torch.tensor(std, device=levels.device))
    shift = -torch.tensor(mean) / torch.tensor(std)
    out = levels.contiguous().to(torch.float32)
    out = out.mul_(scale.view(3, 1, 1)).add_(shift.to(levels.device).view(3, 1, 1))
    return out.to(dtype)
