"""Where an output lies: pictures, clips, or the patches of a vision transformer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LAYOUTS = ("NCHW", "NHWC", "NTCHW", "NCTHW", "patches")
NO_PATCH = 1 << 30  # longer than any axis: positions lie in one patch


class Patch(NamedTuple):
    """Frames, pixels along each side, and patches along each side of a group whose patches are
    neighbours in the sequence, as a model merges them."""

    frames: int
    side: int
    merge: int


class Axis(NamedTuple):
    """Strides of pixels, of patches in a group and of groups, in elements."""

    pixel: int
    patch: int = 0
    group: int = 0
    pixels: int = NO_PATCH
    patches: int = 1


class Layout(NamedTuple):
    shape: list[int]
    clip: int  # frames of a clip
    filled: int  # with the copies of the last frame
    clip_stride: int
    channel: int
    time: Axis
    rows: Axis
    cols: Axis


def layout_of(
    layout: str, patch: list[int], frames: int, clip: int, height: int, width: int
) -> Layout:
    """The shape of an output and its strides; `clip` 0 stands for all frames."""
    if layout in ("NCHW", "NHWC"):
        clip = 1
    clip = clip or max(frames, 1)
    clips = frames // clip
    if layout != "patches":
        return _pictures(layout, clips, clip, height, width)
    tall, side, merge = patch
    across, down, steps = width // side, height // side, -(-clip // tall)
    token = 3 * tall * side * side
    step = down * across * token
    area = merge * merge * token
    return Layout(
        [clips * steps * down * across, token], clip, steps * tall, steps * step,
        tall * side * side, Axis(side * side, 0, step, tall),
        Axis(side, merge * token, across // merge * area, side, merge),
        Axis(1, token, area, side, merge),
    )  # fmt: skip


def _pictures(layout: str, clips: int, clip: int, height: int, width: int) -> Layout:
    area = height * width
    if layout == "NHWC":
        frame, channel, row, col = 3 * area, 1, 3 * width, 3
    elif layout == "NCTHW":
        frame, channel, row, col = area, clip * area, width, 1
    else:
        frame, channel, row, col = 3 * area, area, width, 1
    shape = {
        "NCHW": [clips, 3, height, width],
        "NHWC": [clips, height, width, 3],
        "NTCHW": [clips, clip, 3, height, width],
        "NCTHW": [clips, 3, clip, height, width],
    }[layout]
    return Layout(shape, clip, clip, 3 * clip * area, channel, Axis(frame), Axis(row), Axis(col))


def arrange(pictures: Tensor, layout: str, patch: list[int], clip: int) -> Tensor:
    """[frames, 3, height, width] as the layout has it, by torch's own views and copies."""
    frames, _, height, width = pictures.shape
    if layout == "NCHW":
        return pictures.contiguous()
    if layout == "NHWC":
        return pictures.permute(0, 2, 3, 1).contiguous()
    clip = clip or max(frames, 1)
    clips = pictures.reshape(frames // clip, clip, 3, height, width)
    if layout == "NTCHW":
        return clips.contiguous()
    if layout == "NCTHW":
        return clips.transpose(1, 2).contiguous()
    tall, side, merge = patch
    last = clips[:, -1:].expand(-1, -clip % tall, -1, -1, -1)
    clips = torch.cat([clips, last], 1)
    down, across, steps = height // side, width // side, clips.shape[1] // tall
    cut = clips.reshape(
        len(clips), steps, tall, 3, down // merge, merge, side, across // merge, merge, side
    )
    tokens = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return tokens.reshape(len(clips) * steps * down * across, 3 * tall * side * side)
