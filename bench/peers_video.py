"""Other people's ways from NV12 to a normalised tensor, measured beside `video_to_tensor`.

Each takes the op's flat arguments and returns the finished tensor, so that its error can be
reported next to its time. None takes every option: OpenCV converts BT.601 limited range with
nearest chroma only, whatever the clip says, and that shows in its error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.kernels.video.op import rgb_levels


def opencv_torch(*args: Any) -> Tensor:
    """OpenCV's NV12 to RGB (BT.601, limited range, nearest chroma), torch's u8 resize."""
    rgb = torch.stack([torch.from_numpy(frame) for frame in _opencv_rgb(args)])
    height, width, interpolation = args[5:8]
    resized = F.interpolate(
        rgb.permute(0, 3, 1, 2), size=(height, width), mode=interpolation, antialias=True
    )
    return _normalize(resized, args)


def torch_float(*args: Any) -> Tensor:
    """The same steps in float32 torch ops, the way of torchvision on a GPU."""
    (y, uv), space, range_, location, upsampling, height, width, interpolation = args[:8]
    rgb = rgb_levels(y, uv, space, range_, location, upsampling, torch.float32)
    resized = F.interpolate(rgb, size=(height, width), mode=interpolation, antialias=True)
    return _normalize(resized.round_().clamp_(0, 255), args)


def pillow(*args: Any) -> Tensor:
    """OpenCV's NV12 to RGB (BT.601, limited range, nearest chroma), Pillow's resize."""
    import numpy as np
    from PIL import Image

    height, width, interpolation = args[5:8]
    filter_ = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    frames = [
        np.asarray(Image.fromarray(frame).resize((width, height), filter_))
        for frame in _opencv_rgb(args)
    ]
    return _normalize(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), args)


def _opencv_rgb(args: tuple) -> list[Any]:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    y, uv = args[0]
    return [
        cv2.cvtColorTwoPlane(luma.numpy(), chroma.numpy(), cv2.COLOR_YUV2RGB_NV12)
        for luma, chroma in zip(y, uv, strict=True)
    ]


def _normalize(levels: Tensor, args: tuple) -> Tensor:
    mean, std, dtype = args[9:]
    scale = 1 / (255 * torch.tensor(std))
    shift = -torch.tensor(mean) / torch.tensor(std)
    out = levels.contiguous().to(torch.float32)
    return out.mul_(scale.view(3, 1, 1)).add_(shift.view(3, 1, 1)).to(dtype)


PEERS: dict[str, Callable[[tuple], Tensor]] = {
    "opencv+torch": opencv_torch,
    "torch float": torch_float,
    "pillow": pillow,
}
