"""Layouts that the op doesn't make, and the way back from those that models take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Patch(NamedTuple):
    """Frames of a temporal patch, pixels of its sides, and sides of a block of merged tokens."""

    temporal: int
    spatial: int
    merge: int


Grid = tuple[int, int, int]  # patches in time, height and width


def grid_of(frames: int, height: int, width: int, patch: Patch) -> Grid:
    block = patch.spatial * patch.merge
    if height % block or width % block:
        raise ValueError(f"the sides must be multiples of {block}, got {height} x {width}")
    return -(-frames // patch.temporal), height // patch.spatial, width // patch.spatial


def from_patches(tokens: Tensor, grid: Grid, patch: Patch) -> Tensor:
    """Frames from the op's layout "patches", with those that fill up the last token."""
    (t, h, w), (count, p, m) = grid, patch
    view = tokens.view(t, h // m, w // m, m, m, -1, count, p, p)
    frames = view.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return frames.reshape(t * count, -1, h * p, w * p)


def to_padded_patches(frames: Tensor, side: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """As SigLIP 2: tokens [F, count, side * side * 3] of each frame, rows of zeros behind
    them; which rows are tokens [F, count]; and patches in height and width [F, 2]."""
    number, channels, height, width = frames.shape
    h, w = height // side, width // side
    view = frames.view(number, channels, h, side, w, side).permute(0, 2, 4, 3, 5, 1)
    tokens = frames.new_zeros(number, count, side * side * channels)
    tokens[:, : h * w] = view.reshape(number, h * w, -1)
    mask = torch.zeros(number, count, dtype=torch.int32, device=frames.device)
    mask[:, : h * w] = 1
    shapes = torch.tensor([[h, w]] * number, dtype=torch.int64, device=frames.device)
    return tokens, mask, shapes


def from_padded_patches(tokens: Tensor, shape: tuple[int, int], side: int) -> Tensor:
    """One frame [3, H, W] from its tokens [count, side * side * 3]."""
    h, w = shape
    view = tokens[: h * w].view(h, w, side, side, -1).permute(4, 0, 2, 1, 3)
    return view.reshape(-1, h * side, w * side)


def middle(
    rows: int, cols: int, height: int, width: int
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """The op's `window` and `pad` that make height x width of rows x cols: the middle, padded where
    it is more. As Transformers: what can't be halved is cut off, or added, at the bottom and on the
    right."""
    (top, tall, above, below), (left, wide, before, behind) = (
        _middle(rows, height), _middle(cols, width)
    )  # fmt: skip
    return (top, left, tall, wide), (above, before, below, behind)


def _middle(size: int, wanted: int) -> tuple[int, int, int, int]:
    """Where the middle begins, how much of it there is, and what is added before and behind."""
    if wanted <= size:
        return (size - wanted) // 2, wanted, 0, 0
    before = (wanted - size) // 2
    return 0, size, before, wanted - size - before
