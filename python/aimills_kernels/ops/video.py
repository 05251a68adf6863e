"""Public video functions."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.op import MAX_SIZE
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run


def video_to_tensor(
    planes: Sequence[Tensor],
    *,
    color_space: str = "bt709",
    color_range: str = "limited",
    chroma_location: str = "left",
    chroma_upsampling: str = "linear",
    size: tuple[int, int] | None = None,
    interpolation: str = "bicubic",
    antialias: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """Decoded NV12 frames to a normalised RGB tensor, in one pass: colour, resize, mean and std.

    Shapes and dtypes:
        planes  (y, uv)
        y       [F, H, W]                      u8; any H and W from 1, any strides (pitched rows)
        uv      [F, ceil(H/2), ceil(W/2), 2]   u8, U and V in turn
        out     [F, 3, size[0], size[1]]       dtype, channels R, G, B

    The steps, and where they round: YCbCr becomes RGB in float32, rounded to levels 0..255; the
    resize filters in float32 and rounds to levels again (half to even), as torchvision does for u8
    images; then (level / 255 - mean) / std is rounded once to `dtype`.

    Args:
        color_space: "bt601" or "bt709": the matrix of ITU-R BT.601-7 or BT.709-6.
        color_range: "limited" (luma 16..235, chroma 16..240) or "full" (0..255).
        chroma_location: "left" (H.264's and HEVC's default: between rows, on even columns) or
            "center" (between rows and columns); without meaning for "nearest".
        chroma_upsampling: "linear", or "nearest" (each chroma sample repeated twice each way).
        size: (height, width) of the result; the frame's own by default.
        interpolation: "bicubic" (a = -0.5) or "bilinear".
        antialias: widen the filter when shrinking, as Pillow and torchvision do. Must be True;
            False is not there yet.
        mean: three values in units of 0..1, subtracted; zeros by default.
        std: three values to divide by; ones by default.
        dtype: torch.bfloat16, float16 or float32.
        out: written and returned in place of a new tensor.

    Returns:
        out

    Raises:
        ValueError: planes, sizes, options or devices do not fit; the message names the argument.

    torch.vmap makes one call for each element of the batch; frames are the faster way.
    torch.autocast changes nothing. Filter weights: Pillow's `precompute_coeffs` (Resample.c), with
    exact integer positions.
    """
    tensors = isinstance(planes, (tuple, list)) and all(isinstance(p, Tensor) for p in planes)
    if not tensors or not planes:
        raise ValueError("video_to_tensor: planes must be a tuple of tensors, (y, uv)")
    if type(antialias) is not bool:
        check_bools("video_to_tensor", antialias=antialias)
    if size is None:
        y = planes[0]
        height, width = y.shape[-2:] if y.dim() == 3 and not y.is_nested else (1, 1)
    else:
        height, width = _two(size)
    args = (
        list(planes), color_space, color_range, chroma_location, chroma_upsampling, height, width,
        interpolation, antialias, _three("mean", mean, 0.0), _three("std", std, 1.0), dtype,
    )  # fmt: skip
    return run("video_to_tensor", args, out)


def _two(size: Sequence[int]) -> tuple[int, int]:
    if isinstance(size, (tuple, list, torch.Size)) and len(size) == 2:
        height, width = size
        if type(height) is not int or type(width) is not int:  # the rest takes 1 us
            height, width = _whole(height), _whole(width)
        if 1 <= height <= MAX_SIZE and 1 <= width <= MAX_SIZE:
            return height, width
    raise ValueError(
        f"video_to_tensor: size must be (height, width), two integers from 1 to {MAX_SIZE}, "
        f"got {shown(size)}"
    )


def _whole(side: Any) -> int:
    """0, which no side may be, for what is no integer."""
    if not isinstance(side, bool):
        with contextlib.suppress(TypeError):
            return operator.index(side)
    return 0


def _three(name: str, values: Sequence[float] | None, default: float) -> list[float]:
    if values is None:
        return [default] * 3
    try:
        found = list(values)
        if type(values) in (list, tuple) and list(map(type, found)) == [float] * 3:
            return found  # 2 us less than by the rule below
        if isinstance(values, (str, bytes, Mapping, Set)) or bool in map(type, found):
            raise TypeError
        return [float(v) for v in found]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"video_to_tensor: {name} must be three numbers, got {shown(values)}"
        ) from None
