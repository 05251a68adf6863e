"""Frames side by side in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aimills_kernels.accept.png import encode as png
from aimills_kernels.video.io import jpeg

__all__ = ["PICTURES", "contact_sheet"]
# By a file's suffix: [height, width, 3] u8 to the bytes of a picture.
PICTURES: dict[str, Callable[[Tensor], bytes]] = {".png": png, ".jpg": jpeg, ".jpeg": jpeg}
_GAP, _GREY = 4, 96
_WIDEST = 2048
_MOST_PIXELS = 1 << 24


def contact_sheet(clips: Sequence[Tensor]) -> tuple[Tensor, str]:
    """[height, width, 3] u8 with the frames [F, 3, H, W] u8 of all clips, row by row in their own
    size; and a clause that says how many. Where they are too many for a picture of 16 million
    pixels, they are taken at even distances."""
    frames = [frame.cpu() for clip in clips for frame in clip]
    tile = [max(f.shape[side] for f in frames) + _GAP for side in (1, 2)]
    fit = max(1, _MOST_PIXELS // (tile[0] * tile[1]))
    shown = frames
    if len(frames) > fit:
        shown = [frames[i * len(frames) // fit] for i in range(fit)]
    cols = min(len(shown), max(1, _WIDEST // tile[1]))
    rows = math.ceil(len(shown) / cols)
    sheet = torch.full((rows * tile[0] + _GAP, cols * tile[1] + _GAP, 3), _GREY, dtype=torch.uint8)
    for i, frame in enumerate(shown):
        top, left = _GAP + i // cols * tile[0], _GAP + i % cols * tile[1]
        _, height, width = frame.shape
        sheet[top : top + height, left : left + width] = frame.permute(1, 2, 0)
    count = f"{len(shown)} of {len(frames)}" if len(shown) < len(frames) else f"{len(frames)}"
    return sheet, f"{count} frame{'s' * (len(frames) > 1)}"
