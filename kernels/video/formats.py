"""The pixel formats that video_to_tensor takes: planes, components, subsampling, bit depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Kr and Kb of ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance).
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}

# Of a plane: the luma's size, the chroma's size, or the chroma's with U and V of a sample together.
_DIMS = {
    "full": "[frames, height, width]",
    "chroma": "[frames, rows, cols]",
    "pairs": "[frames, rows, cols, 2]",
    "last": "[frames, height, width, 3]",
    "first": "[frames, 3, height, width]",
}


@dataclass(frozen=True)
class Format:
    """`planes`: (name, kind) of each, the kinds those of `_DIMS`. `components`: where Y, U, V or R,
    G, B are: (plane, index along its channel axis). `halved`: whether chroma has half the rows, and
    half the columns. A code of `bits` bits is a stored value >> `shift`."""

    planes: tuple[tuple[str, str], ...]
    components: tuple[tuple[int, int], ...]
    halved: tuple[int, int] = (0, 0)
    bits: int = 8
    shift: int = 0
    rgb: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.bits == 8 else torch.uint16

    def chroma_size(self, height: int, width: int) -> tuple[int, int]:
        down, across = self.halved
        return (height + down) >> down, (width + across) >> across

    def dims(self, plane: int) -> str:
        """How the shape of a plane is described."""
        return _DIMS[self.planes[plane][1]]

    def shape(self, plane: int, frames: int, height: int, width: int) -> list[int]:
        kind = self.planes[plane][1]
        rows, cols = self.chroma_size(height, width)
        return {
            "full": [frames, height, width],
            "chroma": [frames, rows, cols],
            "pairs": [frames, rows, cols, 2],
            "last": [frames, height, width, 3],
            "first": [frames, 3, height, width],
        }[kind]

    def size(self, planes: Sequence[Tensor]) -> tuple[int, int, int]:
        """Frames, height and width."""
        shape = planes[0].shape
        if self.planes[0][1] == "first":
            return shape[0], shape[2], shape[3]
        return shape[0], shape[1], shape[2]

    def channel_dim(self, plane: int) -> int | None:
        return {"pairs": 3, "last": 3, "first": 1}.get(self.planes[plane][1])

    def views(self, planes: Sequence[Tensor]) -> list[Tensor]:
        """Y, U, V or R, G, B, each [frames, rows, cols]."""
        found = []
        for plane, index in self.components:
            dim = self.channel_dim(plane)
            found.append(planes[plane] if dim is None else planes[plane].select(dim, index))
        return found


_SEPARATE = (("y", "full"), ("u", "chroma"), ("v", "chroma"))
_GBR = (("g", "full"), ("b", "full"), ("r", "full"))
_EACH = ((0, 0), (1, 0), (2, 0))


def _pairs(name: str, bits: int = 8, shift: int = 0) -> Format:
    first = int(name == "vu")
    components = ((0, 0), (1, first), (1, 1 - first))
    return Format((("y", "full"), (name, "pairs")), components, (1, 1), bits, shift)


def _planar(rows: int, cols: int, bits: int = 8) -> Format:
    return Format(_SEPARATE, _EACH, (rows, cols), bits)


def _rgb(kind: str, *order: int, bits: int = 8) -> Format:
    return Format((("rgb", kind),), tuple((0, i) for i in order), bits=bits, rgb=True)


def _gbr(bits: int = 8) -> Format:
    return Format(_GBR, ((2, 0), (0, 0), (1, 0)), bits=bits, rgb=True)


FORMATS = {
    "nv12": _pairs("uv"),
    "nv21": _pairs("vu"),
    "p010": _pairs("uv", 10, 6),
    "p012": _pairs("uv", 12, 4),
    "p016": _pairs("uv", 16),
    "i420": _planar(1, 1),
    "yuv420p10": _planar(1, 1, 10),
    "yuv420p12": _planar(1, 1, 12),
    "yuv422p": _planar(0, 1),
    "yuv422p10": _planar(0, 1, 10),
    "yuv422p12": _planar(0, 1, 12),
    "yuv444p": _planar(0, 0),
    "yuv444p10": _planar(0, 0, 10),
    "yuv444p12": _planar(0, 0, 12),
    "rgb24": _rgb("last", 0, 1, 2),
    "bgr24": _rgb("last", 2, 1, 0),
    "rgbp": _rgb("first", 0, 1, 2),
    "bgrp": _rgb("first", 2, 1, 0),
    "gbrp": _gbr(),
    "rgb48": _rgb("last", 0, 1, 2, bits=16),
    "bgr48": _rgb("last", 2, 1, 0, bits=16),
    "rgbp16": _rgb("first", 0, 1, 2, bits=16),
    "bgrp16": _rgb("first", 2, 1, 0, bits=16),
    "gbrp10": _gbr(10),
    "gbrp12": _gbr(12),
    "gbrp16": _gbr(16),
}


@dataclass(frozen=True)
class Scaling:
    """Levels 0..255 from codes: (luma - black) * luma_scale, (chroma - zero) * chroma_scale."""

    black: float
    luma_scale: float
    zero: float
    chroma_scale: float


def scaling(bits: int, color_range: str) -> Scaling:
    step = 2.0 ** (bits - 8)
    if color_range == "limited":
        return Scaling(16 * step, 255 / (219 * step), 128 * step, 255 / (224 * step))
    full = 255 / (2.0**bits - 1)
    return Scaling(0.0, full, 128 * step, full)
