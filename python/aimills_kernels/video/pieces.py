"""A long video's tensors piece by piece, so that the planes of a few frames are held at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.video import sizes
from aimills_kernels.video.preprocess import VideoPreprocessor

HELD = 1 << 26  # bytes of planes; of 1080p in 8 bits 21 frames


class Pieces:
    """Takes frames one by one, and gives what the preprocessor makes of all of them together: a
    frame's values depend on no other frame. Each piece takes one call, and so one launch."""

    def __init__(self, preprocessor: VideoPreprocessor, device: torch.device | str):
        self._make, self._device = preprocessor, device
        self._result: dict[str, Tensor] = {}

    def start(self, planes: Sequence[Tensor], frames: int, options: Mapping[str, Any]) -> None:
        """With the first frame's planes: `frames` such will come, copies counted."""
        self._frames, self._options, self._made, self._count = frames, options, 0, 0
        tokens = self._make.layout == "patches" and self._make.patch
        self._together = together = tokens.temporal if tokens else 1
        most = HELD // sum(p.numel() * p.element_size() for p in planes)
        self._size = min(max(most // together, 1) * together, frames)
        self._stacks = [p.new_empty((self._size, *p.shape)) for p in planes]
        if self._size < frames:
            self._make = self._of_all(planes)

    def _of_all(self, planes: Sequence[Tensor]) -> VideoPreprocessor:
        """With the size that all frames together get; that of padded patches goes by a frame."""
        if self._make.layout == "padded patches":
            return self._make
        _, rows, cols = FORMATS[self._options["format"]].size([p[None] for p in planes])
        if self._options["rotate"] in (90, 270):
            rows, cols = cols, rows
        size = self._make.size.size(self._frames, rows, cols)
        return replace(self._make, size=sizes.Fixed(*size))

    def add(self, planes: Sequence[Tensor], copies: int) -> None:
        for _ in range(copies):
            for stack, plane in zip(self._stacks, planes, strict=True):
                stack[self._count] = plane
            self._count += 1
            if self._count == self._size:
                self._flush()

    def finish(self) -> dict[str, Tensor]:
        if self._count:
            self._flush()
        return self._result

    def _flush(self) -> None:
        part = self._make(
            [s[: self._count].to(self._device) for s in self._stacks], **self._options
        )
        first, self._made, self._count = self._made, self._made + self._count, 0
        if self._made == self._frames and not first:
            self._result = part
            return
        grid = part.pop("video_grid_thw", None)
        for name, values in part.items():
            self._place(name, values, first)
        if grid is not None:
            whole = self._result.setdefault("video_grid_thw", grid)
            whole[:, 0] += grid[:, 0] if first else 0

    def _place(self, name: str, values: Tensor, first: int) -> None:
        """Behind what is there, along the axis of frames or of their tokens."""
        axis = 1 if self._make.layout == "NTCHW" else 0
        together = self._together
        each = values.shape[axis] // -(-(self._made - first) // together)
        if name not in self._result:
            shape = list(values.shape)
            shape[axis] = -(-self._frames // together) * each
            self._result[name] = values.new_empty(shape)
        at = first // together * each
        self._result[name].narrow(axis, at, values.shape[axis]).copy_(values)
