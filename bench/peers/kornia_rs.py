"""kornia_rs on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter

from ._video import normalize, plain_nv12


def kornia_rs(*args: Any) -> Tensor:
    """kornia_rs's NV12 to RGB (one matrix, whatever the clip says) and its u8 resize."""
    import numpy as np
    from kornia_rs import imgproc

    a = plain_nv12(args)
    y, uv = a.planes
    if a.antialias and a.interpolation == "bilinear":
        raise NotImplementedError("kornia_rs has no antialias for bilinear")
    H, W = y.shape[1:]
    if H % 2 or W % 2:
        raise NotImplementedError("kornia_rs takes NV12 of an even height and width only")
    frames = []
    for luma, chroma in zip(y, uv, strict=True):
        nv12 = np.concatenate([luma.numpy().reshape(-1), chroma.numpy().reshape(-1)])
        rgb = imgproc.rgb_from_nv12(nv12, W, H)
        frames.append(imgproc.resize(rgb, (a.height, a.width), a.interpolation, a.antialias))
    return normalize(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), args)


ADAPTER = Adapter("kornia_rs", {"video_to_tensor": kornia_rs}, needs={"kornia_rs": "kornia_rs"})
