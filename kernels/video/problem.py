"""The flat arguments of video_to_tensor as the compiled kernels take them."""

from __future__ import annotations

import struct
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Positions are the values of the enums in csrc/video/params.h.
OPTIONS = {
    "color_space": ("bt601", "bt709"),
    "color_range": ("limited", "full"),
    "chroma_location": ("left", "center"),
    "chroma_upsampling": ("linear", "nearest"),
    "interpolation": ("bilinear", "bicubic"),
}
_CODES = {name: i for names in OPTIONS.values() for i, name in enumerate(names)}
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_LAYOUT = struct.Struct("<3Q 5q 4q 6i 9f")


def fast_strides(planes: list[Tensor]) -> bool:
    """Whether the bytes of each row are next to each other; frames and rows may lie anywhere."""
    y, uv = planes
    luma = y.stride(2) == 1 or y.shape[2] == 1
    chroma = uv.stride(3) == 1 and (uv.stride(2) == 2 or uv.shape[2] == 1)
    return luma and chroma


def fields(outs: tuple[Tensor, ...], args: tuple) -> tuple:
    """The arguments of `_C.VideoParams`."""
    (y, uv), space, range_, location, upsampling, height, width, interpolation = args[:8]
    _, mean, std, dtype = args[8:]
    frames, rows, cols = y.shape
    frame, row, _ = y.stride()
    uv_frame, uv_row, _, _ = uv.stride()
    codes = [_CODES[v] for v in (space, range_, location, upsampling, interpolation)]
    return (
        y.data_ptr(), uv.data_ptr(), outs[0].data_ptr(),
        (frames, rows, cols, height, width),
        (frame, row, uv_frame, uv_row),
        (*codes, _DTYPES[dtype]),
        mean, std,
    )  # fmt: skip


def packed(outs: tuple[Tensor, ...], args: tuple) -> bytes:
    """The `Params` struct of csrc/video/params.h, for a kernel compiled at run time."""
    y, uv, out, sizes, strides, options, mean, std = fields(outs, args)
    high = [_f32(255.0 * m) for m in mean]
    low = [255.0 * m - h for m, h in zip(mean, high, strict=True)]
    scale = [1.0 / (255.0 * s) for s in std]
    body = _LAYOUT.pack(y, uv, out, *sizes, *strides, *options, *high, *low, *scale)
    return body.ljust(160, b"\0")


def _f32(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


def extension() -> Any:
    from aimills_kernels import _C

    return _C


@lru_cache(maxsize=1)
def extension_error() -> str | None:
    """Why the extension can't be used, with a warning; None where it can."""
    try:
        extension()
    except ImportError as error:
        reason = f"the extension can't be imported: {error}"
        warnings.warn(f"video_to_tensor: {reason}; what serves is far slower", stacklevel=2)
        return reason
    return None
