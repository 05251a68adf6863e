"""Public video functions."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.check import MAX_SIZE
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.augment import Augment


def video_to_tensor(
    planes: Sequence[Tensor],
    *,
    format: str = "nv12",
    color_space: str = "bt709",
    color_range: str = "limited",
    chroma_location: str = "left",
    chroma_upsampling: str = "linear",
    transfer: str = "sdr",
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    window: tuple[int, int, int, int] | None = None,
    pad: tuple[int, int, int, int] | None = None,
    pad_level: int = 0,
    flip: bool = False,
    rotate: int = 0,
    jitter: Sequence[float] | None = None,
    interpolation: str = "bicubic",
    antialias: bool = True,
    mode: str = "torch",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCHW",
    clip: int | None = None,
    patch: tuple[int, int, int] | None = None,
    augment: Augment | bool | None = None,
    seed: int | None = None,
    clip_ids: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Decoded frames to a normalised RGB tensor, in one pass: colour, crop, resize, flip, rotation,
    window, padding, mean and std, and the layout that a model reads.

    Shapes and dtypes:
        planes  by `format`, each of F frames of H x W, any H and W from 1, any
                strides by which rows do not overlap in part
        y       [F, H, W]                      luma, u8 or u16
        uv      [F, ceil(H/2), ceil(W/2), 2]   U and V in turn: "nv12" u8; "p010", "p012" and "p016"
                                               u16, the 10, 12 or 16 bits at the top of the word;
                                               V and U in turn: "nv21"
        u, v    [F, ceil(H/2), ceil(W/2)]      "i420" u8, "yuv420p10" and "yuv420p12" 10 and 12
                                               bits of a u16
        u, v    [F, H, ceil(W/2)]              "yuv422p" u8, "yuv422p10", "yuv422p12" likewise
        u, v    [F, H, W]                      "yuv444p" u8, "yuv444p10", "yuv444p12" likewise
        rgb     [F, H, W, 3]                   "rgb24" and "bgr24" u8, "rgb48" and "bgr48" u16
        rgb     [F, 3, H, W]                   "rgbp" and "bgrp" u8, "rgbp16" and "bgrp16" u16
        g, b, r [F, H, W]                      "gbrp" u8, "gbrp10", "gbrp12" and "gbrp16" that many
                                               bits of a u16
        out     [F, 3, h, w]                   layout "NCHW", dtype; h x w is `size`, or that
                                               of `window`, with `pad`
        out     [F, h, w, 3]                   "NHWC"
        out     [F / clip, clip, 3, h, w]      "NTCHW"
        out     [F / clip, 3, clip, h, w]      "NCTHW"
        out     [tokens, 3 * frames * side^2]  "patches", for patch=(frames, side, merge)

    The tokens of a clip come by time, then by groups of merge x merge neighbours, rows first; in a
    token by channel, frame, row, column. So Qwen2-VL has it with patch (2, 14, 2), a plain ViT with
    (1, side, 1), VideoMAE's tubelets with (2, 16, 1). Copies of a clip's last frame fill up its
    last tokens.

    The steps, and where they round: YCbCr becomes RGB in float32, rounded to levels 0..255; the
    resize filters in float32 and rounds to levels again (half to even), as torchvision does for u8
    images; then (level / 255 - mean) / std is rounded once to `dtype`.

    Args:
        color_space: "bt601", "bt709" or "bt2020": the matrix of ITU-R BT.601-7, BT.709-6 or
            BT.2020-2 (non-constant luminance). Without meaning for RGB, as are the next three.
        color_range: "limited" (luma 16..235, chroma 16..240) or "full" (0..255), times a power of
            two for more bits.
        chroma_location: "left" (H.264's and HEVC's default: between rows, on even columns),
            "center" (between rows and columns) or "topleft" (on even rows and columns, the default
            of BT.2020); without meaning for "nearest", and along an axis that is not subsampled.
        chroma_upsampling: "linear", or "nearest" (each chroma sample repeated).
        transfer: "sdr"; or for HDR "pq" or "hlg", by Recommendation ITU-R BT.2100, of BT.2020
            primaries: mapped to SDR and BT.709 by method A of Report ITU-R BT.2446-1 from 1000 to
            100 cd/m2 (brighter light is clipped) and the linear matrix of Report ITU-R BT.2407,
            before the levels are rounded, so before the resize.
        size: (height, width) of the pictures after the rotation; by default what they have.
        crop: (top, left, height, width) of what is taken of the frame, before all else.
        window: (top, left, height, width) of what is kept of the pictures after the rotation: a
            crop behind the resize, such as the middle of a shorter side resized to 224. Only it is
            computed, with the bits that it has in the whole pictures.
        pad: (top, left, bottom, right): rows and columns added around the pictures at the end.
        pad_level: their level, 0..255, in all three channels; normalised like any other.
        flip: mirror left and right, before the rotation.
        rotate: 0, 90, 180 or 270 degrees clockwise.
        jitter: twelve numbers, rows of three factors and an offset: an affine change of RGB in
            units of 0..1, between the colour matrix (and HDR's mapping) and the first rounding. The
            two are as one matrix: nothing is clipped between them.
        interpolation: "bicubic" (a = -0.5), "bilinear", "lanczos" (three lobes), "area" (Pillow's
            BOX: the mean of the samples whose centres an output covers) or "nearest" (the sample
            at the output's centre: torch's "nearest-exact").
        antialias: widen the filter when shrinking, as Pillow and torchvision do. False, which
            "area" and "lanczos" don't have, is torch's own (bicubic: a = -0.75).
        mode: "torch", as above; "pil": bit for bit Pillow's resize up to version 12 (integer
            weights, rounded to levels between the passes); "pil13": as Pillow 13 does it, which
            filters along the other axis first where that takes away far more rows than columns;
            "fast": luma and chroma are filtered, each in its own size, before the colour matrix,
            and levels are rounded once. It takes a fraction of the work and is a level off where
            no colour leaves RGB's range; for RGB formats it is "torch", and HDR it refuses.
        mean: three values in units of 0..1, subtracted; zeros by default.
        std: three values to divide by; ones by default.
        dtype: torch.bfloat16, float16, float32, float8_e4m3fn (saturating at 448), or uint8: the
            levels themselves, without mean and std.
        clip: frames of a clip, for layouts that have clips; by default all frames are one.
        augment: an `aimills_kernels.video.Augment`, or True for its defaults: a random resized
            crop, within what `crop` names, a flip and colours, the same for all frames of a clip.
        seed: of what is drawn, with the clip's id: the same two draw the same.
        clip_ids: a number for each clip; by default its place among the clips.
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
        raise ValueError("video_to_tensor: planes must be a tuple of tensors, (y, uv) for nv12")
    if type(antialias) is not bool or type(flip) is not bool:
        check_bools("video_to_tensor", antialias=antialias, flip=flip)
    box = [] if crop is None else _whole_numbers("crop", crop, 4)
    if size is None:
        height, width = _own_size(planes, format, box, rotate)
    else:
        height, width = _two(size)
    if augment is not None and augment is not False:
        return _augmented(
            planes, format, (height, width), clip, out, augment=augment, seed=seed,
            clip_ids=clip_ids, color_space=color_space, color_range=color_range,
            chroma_location=chroma_location, chroma_upsampling=chroma_upsampling,
            transfer=transfer, crop=crop, window=window, pad=pad, pad_level=pad_level, flip=flip,
            rotate=rotate, jitter=jitter, interpolation=interpolation, antialias=antialias,
            mode=mode, mean=mean, std=std, dtype=dtype, layout=layout, patch=patch,
        )  # fmt: skip
    if seed is not None or clip_ids is not None:
        raise ValueError("video_to_tensor: seed and clip_ids are for augment, got None")
    args: tuple[Any, ...] = (
        list(planes), format, color_space, color_range, chroma_location, chroma_upsampling,
        transfer, height, width, box,
        [] if window is None else _whole_numbers("window", window, 4),
        [] if pad is None else _whole_numbers("pad", pad, 4),
        _whole_number("pad_level", pad_level), flip, _whole_number("rotate", rotate),
        _jitter(jitter), interpolation, antialias, mode, _three("mean", mean, 0.0),
        _three("std", std, 1.0), dtype, layout, 0 if clip is None else _frames(clip),
        [] if patch is None else _whole_numbers("patch", patch, 3),
    )  # fmt: skip
    return run("video_to_tensor", args, out)


def _augmented(
    planes: Sequence[Tensor], format: str, size: tuple[int, int], clip: int | None,
    out: Tensor | None, **options: Any,
) -> Tensor:  # fmt: skip
    """By `video_to_tensor_ragged`, where clips differ."""
    from aimills_kernels.ops.video_ragged import video_to_tensor_ragged

    frames = len(planes[0]) if planes[0].dim() else 0
    length = frames if clip is None else _frames(clip)
    if frames % max(length, 1) or (clip is not None and options["layout"] in ("NCHW", "NHWC")):
        raise ValueError(
            f"video_to_tensor: clip must divide the {frames} frames and is for layouts of clips, "
            f"got {clip} with {options['layout']}"
        )
    starts = range(0, frames, length) if frames else (0,)
    clips = [[p[i : i + length] for p in planes] for i in starts]
    for one, each in (
        ("crop", "crops"),
        ("window", "windows"),
        ("flip", "flips"),
        ("jitter", "jitters"),
    ):
        value = options.pop(one)
        options[each] = None if value is None else [value] * len(clips)
    return video_to_tensor_ragged(clips, sizes=size, format=format, out=out, **options)


def _own_size(planes: Sequence[Tensor], format: str, box: list[int], rotate: Any) -> list[int]:
    """What the frames or their crop have, or anything where these do not fit the format."""
    first, form = planes[0], FORMATS.get(format) if isinstance(format, str) else None
    if box:
        size = box[2:]
    elif form is None or first.is_nested or first.dim() != form.dims(0).count(",") + 1:
        size = [1, 1]
    else:
        size = list(form.size(planes)[1:])
    return size[::-1] if rotate in (90, 270) else size


def _frames(clip: Any) -> int:
    if (count := _whole_number("clip", clip)) < 1:
        raise ValueError(f"video_to_tensor: clip must be 1 or more, got {count}")
    return count


def _whole_number(name: str, value: Any) -> int:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            if -(2**63) <= (whole := operator.index(value)) < 2**63:
                return whole
            raise ValueError(
                f"video_to_tensor: {name} must be an integer of 64 bits, got {shown(value)}"
            )
    raise ValueError(f"video_to_tensor: {name} must be an integer, got {shown(value)}")


def _whole_numbers(name: str, values: Any, count: int) -> list[int]:
    if isinstance(values, (tuple, list)) and len(values) == count:
        with contextlib.suppress(ValueError):
            return [_whole_number(name, v) for v in values]
    raise ValueError(
        f"video_to_tensor: {name} must be {count} integers of 64 bits, got {shown(values)}"
    )


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


def _jitter(values: Sequence[float] | None) -> list[float]:
    if values is None:
        return []
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if len(values) == 12 and not isinstance(values, (str, bytes, Mapping, Set)):
            return [float(v) for v in values]
    raise ValueError(f"video_to_tensor: jitter must be twelve numbers, got {shown(values)}")


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
