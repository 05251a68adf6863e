"""Steps that several ways from NV12 to a normalised tensor share.

None of the libraries takes every option: what one does is the first line of its function's
docstring, and what it leaves out shows in its error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels.kernels.video.layouts import arrange
from aimills_kernels.kernels.video.problem import Arguments


def opencv_rgb(a: Arguments) -> Tensor:
    """[F, H, W, 3] by OpenCV, whatever the clip says: BT.601, limited range, nearest chroma."""
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    y, uv = a.planes
    frames = y.new_empty((*y.shape, 3))
    for luma, chroma, into in zip(y, uv, frames, strict=True):
        cv2.cvtColorTwoPlane(luma.numpy(), chroma.numpy(), cv2.COLOR_YUV2RGB_NV12, dst=into.numpy())
    return frames


def plain_nv12(args: tuple, *modes: str) -> Arguments:
    """The arguments by name, where all that they ask for is what each of the libraries has; the
    resize is torch's or one of `modes`."""
    a = Arguments(*args)
    if a.format != "nv12" or a.crop or a.pad or a.flip or a.rotate:
        raise NotImplementedError("it is compared on whole NV12 frames")
    if a.resize_mode not in ("torch", *modes):
        raise NotImplementedError(f"it does not resize as mode {a.resize_mode} does")
    if a.transfer != "sdr" or a.jitter:
        raise NotImplementedError("it is compared on SDR without a jitter")
    if a.interpolation not in ("bilinear", "bicubic"):
        raise NotImplementedError("it is compared on bilinear and bicubic")
    return a


def normalize(levels: Tensor, args: tuple) -> Tensor:
    """Levels [F, 3, H, W], of which the window is taken, normalised and laid out."""
    a = Arguments(*args)
    top, left, height, width = a.kept
    levels = levels[:, :, top : top + height, left : left + width]
    mean, std, dtype = a.mean, a.std, a.dtype
    if dtype == torch.uint8:
        return arrange(levels.to(dtype), a.layout, a.patch, a.clip)
    scale = 1 / (255 * torch.tensor(std, device=levels.device))
    shift = -torch.tensor(mean) / torch.tensor(std)
    out = levels.contiguous().to(torch.float32)
    out = out.mul_(scale.view(3, 1, 1)).add_(shift.to(levels.device).view(3, 1, 1))
    return arrange(out.to(dtype), a.layout, a.patch, a.clip)
