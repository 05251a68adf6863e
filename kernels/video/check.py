"""What video_to_tensor takes: each argument by itself, and what goes with what."""

from __future__ import annotations

import math

import torch

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.kernels.video.problem import DTYPES, OPTIONS, Arguments

MAX_SIZE = 1 << 24  # of a side: positions on both axes stay within 64-bit integers


def check(a: Arguments) -> None:
    """ValueError for the first argument that does not fit."""
    for name, allowed in OPTIONS.items():
        if (value := getattr(a, name)) not in allowed:
            *others, last = allowed
            public = name.removeprefix("resize_")
            raise error(f"{public} must be {', '.join(others)} or {last}, got {shown(value)}")
    _check_planes(a)
    _check_geometry(a)
    _check_colour(a)
    _check_filter(a)
    _check_values(a)
    _check_layout(a)


def error(text: str) -> ValueError:
    return ValueError(f"video_to_tensor: {text}")


def _check_planes(a: Arguments) -> None:
    form, names = a.form, [name for name, _ in a.form.planes]
    wanted = f"{a.format} is {len(names)} plane{'s' * (len(names) > 1)} ({', '.join(names)})"
    if len(a.planes) != len(names):
        raise error(f"{wanted}, got {len(a.planes)}")
    for i, (name, plane) in enumerate(zip(names, a.planes, strict=True)):
        dims = form.dims(i)
        if plane.dim() != dims.count(",") + 1:
            raise error(f"the {name} plane of {a.format} must be {dims}, got {describe(plane)}")
        if plane.dtype != form.dtype:
            kind = describe(form.dtype)
            raise error(f"the {name} plane of {a.format} must be {kind}, got {describe(plane)}")
    size = form.size(a.planes)
    if not all(1 <= side <= MAX_SIZE for side in size[1:]):
        raise error(
            f"the {names[0]} plane must have sides of 1 to {MAX_SIZE}, got {describe(a.planes[0])}"
        )
    for i, (name, plane) in enumerate(zip(names, a.planes, strict=True)):
        shape = form.shape(i, *size)
        if list(plane.shape) != shape:
            first = f" for {names[0]} {list(a.planes[0].shape)}" if i else ""
            raise error(
                f"the {name} plane of {a.format} must be {shape}{first}, got {list(plane.shape)}"
            )
        if _overlap(plane.shape[1:], plane.stride()[1:]):
            raise error(
                f"the {name} plane of {a.format} must have a pitch that passes a row, got strides "
                f"of {tuple(plane.stride())} for {list(plane.shape)}"
            )


def _overlap(shape: torch.Size, strides: tuple[int, ...]) -> bool:
    """Whether samples of a frame may share memory, other than by a stride of 0, which repeats what
    is there. A layout whose strides interleave counts too."""
    reach = 0
    for stride, n in sorted(zip(strides, shape, strict=True)):
        if n > 1 and 0 < stride <= reach:
            return True
        reach += (n - 1) * stride
    return False


def _check_geometry(a: Arguments) -> None:
    for name, side in (("height", a.height), ("width", a.width)):
        if not 1 <= side <= MAX_SIZE:
            raise error(f"{name} must be 1 to {MAX_SIZE}, got {side}")
    _, H, W = a.form.size(a.planes)
    if a.crop:
        if len(a.crop) != 4:
            raise error(f"crop must be top, left, height and width, got {a.crop}")
        top, left, height, width = a.crop
        if min(top, left) < 0 or min(height, width) < 1 or top + height > H or left + width > W:
            raise error(f"crop must lie in the frame of {H} x {W}, got {a.crop}")
    if a.window:
        if len(a.window) != 4:
            raise error(f"window must be top, left, height and width, got {a.window}")
        top, left, height, width = a.window
        inside = top + height <= a.height and left + width <= a.width
        if min(top, left) < 0 or min(height, width) < 1 or not inside:
            raise error(
                f"window must lie in the resized picture of {a.height} x {a.width}, got {a.window}"
            )
    if a.pad and (len(a.pad) != 4 or min(a.pad) < 0):
        raise error(f"pad must be top, left, bottom and right, none negative, got {a.pad}")
    if max(a.canvas) > MAX_SIZE:
        raise error(f"pad must leave sides of {MAX_SIZE} at most, got {a.pad}")
    if not 0 <= a.pad_level <= 255:
        raise error(f"pad_level must be 0 to 255, got {a.pad_level}")
    if a.rotate not in (0, 90, 180, 270):
        raise error(f"rotate must be 0, 90, 180 or 270, got {a.rotate}")


def _check_colour(a: Arguments) -> None:
    if a.transfer != "sdr" and a.color_space != "bt2020" and not a.form.rgb:
        raise error(
            f"color_space must be bt2020 for transfer {a.transfer}, got {shown(a.color_space)}"
        )
    if a.jitter and len(a.jitter) != 12:
        raise error(f"jitter must have 12 values, got {len(a.jitter)}")
    if not all(math.isfinite(v) and abs(v) < 1e6 for v in a.jitter):
        raise error(f"jitter must be finite and below 1e6, got {list(a.jitter)}")


def _check_filter(a: Arguments) -> None:
    if not a.antialias and a.interpolation in ("area", "lanczos"):
        raise error(f"antialias must be True for {a.interpolation}, got False")
    if not a.antialias and a.resize_mode in ("pil", "pil13"):
        raise error(f"antialias must be True in mode {a.resize_mode}, got False")
    if a.transfer != "sdr" and a.resize_mode == "fast":
        raise error(
            f"transfer must be sdr in mode fast, which filters before light is mapped, "
            f"got {a.transfer}"
        )


def _check_values(a: Arguments) -> None:
    for name, values in (("mean", a.mean), ("std", a.std)):
        if len(values) != 3:
            raise error(f"{name} must have 3 values, one per channel, got {len(values)}")
        if not all(math.isfinite(v) and abs(v) < 1e30 for v in values):
            raise error(f"{name} must be finite and below 1e30, got {list(values)}")
    if not all(abs(v) > 1e-30 for v in a.std):
        raise error(f"std must not be zero or below 1e-30, got {list(a.std)}")
    if a.dtype not in DTYPES.values():
        *others, last = DTYPES
        raise error(f"dtype must be {', '.join(others)} or {last}, got {describe(a.dtype)}")
    if a.dtype == torch.uint8 and (list(a.mean), list(a.std)) != ([0.0] * 3, [1.0] * 3):
        raise error(f"uint8 is levels, without mean and std, got mean {a.mean} and std {a.std}")


def _check_layout(a: Arguments) -> None:
    frames = a.form.size(a.planes)[0]
    if a.clip and a.layout in ("NCHW", "NHWC"):
        raise error(f"clip is for layouts of clips, got {a.clip} with {a.layout}")
    if not 0 <= a.clip <= MAX_SIZE or (a.clip and frames % a.clip):
        raise error(f"clip must divide the {frames} frames, got {a.clip}")
    if a.layout != "patches":
        if a.patch:
            raise error(f"patch is for layout patches, got {a.patch} with {a.layout}")
        return
    if len(a.patch) != 3 or not 1 <= min(a.patch) <= max(a.patch) <= MAX_SIZE:
        raise error(f"patch must be frames, pixels and merge, each 1 or more, got {a.patch}")
    unit = a.patch[1] * a.patch[2]
    for name, side in zip(("height", "width"), a.canvas, strict=True):
        if side % unit:
            raise error(
                f"the {name} of the output must be a multiple of {unit} (patch {a.patch[1]} times "
                f"merge {a.patch[2]}), got {side}"
            )
