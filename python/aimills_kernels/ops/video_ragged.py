"""Video of several clips in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.ops import video
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.augment import Augment, Geometry, drawn_for


def video_to_tensor_ragged(
    clips: Sequence[Sequence[Tensor]],
    *,
    sizes: Sequence[tuple[int, int]] | tuple[int, int],
    format: str = "nv12",
    color_space: str = "bt709",
    color_range: str = "limited",
    chroma_location: str = "left",
    chroma_upsampling: str = "linear",
    transfer: str = "sdr",
    crops: Sequence[tuple[int, int, int, int]] | None = None,
    windows: Sequence[tuple[int, int, int, int]] | None = None,
    pad: tuple[int, int, int, int] | None = None,
    pad_level: int = 0,
    flips: Sequence[bool] | None = None,
    rotate: int = 0,
    jitters: Sequence[Sequence[float]] | None = None,
    interpolation: str = "bicubic",
    antialias: bool = True,
    mode: str = "torch",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "NCHW",
    patch: tuple[int, int, int] | None = None,
    augment: Augment | bool | None = None,
    seed: int | None = None,
    clip_ids: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`video_to_tensor` of clips of any sizes, lengths and strides, in one launch on a GPU. Up
    to 64 clips are described in the launch's own parameters, so that nothing is copied or allocated
    for them; of more a table of 504 bytes a clip is copied to the GPU, from pinned memory and in
    the order of the stream. A CUDA graph captures parameters alone: of more clips it holds a launch
    for each 64.

    Shapes and dtypes:
        clips   [clips]                        a list of the planes of each clip, all of one format;
                                               `video_to_tensor` describes them
        out     [F, 3, h, w]                   layout "NCHW", the frames of all clips
        out     [F, h, w, 3]                   "NHWC"
        out     [clips, T, 3, h, w]            "NTCHW", clips of T frames each
        out     [clips, 3, T, h, w]            "NCTHW"
        out     [tokens, 3 * frames * side^2]  "patches": the tokens of the first clip, of the
                                               second, ...; only here pictures differ in size

    Args:
        sizes: (height, width) of each clip's pictures, or one for all.
        crops: (top, left, height, width) of each clip.
        windows: (top, left, height, width) of what is kept of each clip's pictures after the
            rotation: a crop behind the resize.
        flips: whether each clip is mirrored left and right.
        jitters: the twelve numbers of each clip's change of colours.
        format, color_space, color_range, chroma_location, chroma_upsampling, transfer, pad,
            pad_level, rotate, interpolation, antialias, mode, mean, std, dtype, layout, patch: as
            `video_to_tensor` has them, for all clips.
        augment: an `aimills_kernels.video.Augment`, or True for its defaults: a random resized
            crop, within what `crops` names, a flip and colours for each clip, which is its
            documentation. Drawn on the host; the launch is the same one.
        seed: of what is drawn, with the clip's id: the same two draw the same.
        clip_ids: a number for each clip; by default its place in the list.
        out: written and returned in place of a new tensor.

    Returns:
        out

    Raises:
        ValueError: as `video_to_tensor`, with the number of the clip; or results that don't fit
            behind one another.

    Source of the formulas: `video_to_tensor`.
    """
    planes = _planes(clips, format)
    count = len(clips)
    if type(antialias) is not bool:
        check_bools("video_to_tensor_ragged", antialias=antialias)
    crops_, flips_ = _each("crops", crops, count, _crop), _each("flips", flips, count, _flip)
    drawn = Geometry(crops_, flips_, _each("jitters", jitters, count, video._jitter))
    if augment is not None and augment is not False:
        boxes = [crops_[i : i + 4] for i in range(0, len(crops_), 4)] or _wholes(clips, format)
        drawn = drawn_for(augment, seed, clip_ids, boxes, drawn)
    elif seed is not None or clip_ids is not None:
        raise ValueError("video_to_tensor_ragged: seed and clip_ids are for augment, got None")
    args: tuple[Any, ...] = (
        planes, format, color_space, color_range, chroma_location, chroma_upsampling, transfer,
        _sizes(sizes, count), drawn.crops, _each("windows", windows, count, _window),
        [] if pad is None else video._whole_numbers("pad", pad, 4),
        video._whole_number("pad_level", pad_level), drawn.flips,
        video._whole_number("rotate", rotate), drawn.jitters,
        interpolation, antialias, mode, video._three("mean", mean, 0.0),
        video._three("std", std, 1.0), dtype, layout,
        [] if patch is None else video._whole_numbers("patch", patch, 3),
    )  # fmt: skip
    return run("video_to_tensor_ragged", args, out)


def _planes(clips: Any, format: Any) -> list[Tensor]:
    if not isinstance(clips, (tuple, list)) or not clips:
        raise ValueError(
            f"video_to_tensor_ragged: clips must be a list of planes, got {shown(type(clips))}"
        )
    form = FORMATS.get(format) if isinstance(format, str) else None
    for i, planes in enumerate(clips):
        if not isinstance(planes, (tuple, list)) or not all(isinstance(p, Tensor) for p in planes):
            raise ValueError(
                f"video_to_tensor_ragged: clips[{i}] must be a tuple of tensors, (y, uv) for nv12"
            )
        if form is not None and len(planes) != len(form.planes):
            names = ", ".join(name for name, _ in form.planes)
            raise ValueError(
                f"video_to_tensor_ragged: clips[{i}]: {format} is {len(form.planes)} planes "
                f"({names}), got {len(planes)}"
            )
    return [plane for planes in clips for plane in planes]


def _wholes(clips: Sequence[Sequence[Tensor]], format: str) -> list[list[int]]:
    """The whole frames, as boxes, where the planes fit the format."""
    form, boxes = FORMATS.get(format), []
    for planes in clips:
        fits = form is not None and planes[0].dim() == form.dims(0).count(",") + 1
        sides = form.size(planes)[1:] if fits and form is not None else (1, 1)
        boxes.append([0, 0, *(max(side, 1) for side in sides)])
    return boxes


def _sizes(sizes: Any, count: int) -> list[int]:
    if isinstance(sizes, (tuple, list)) and len(sizes) == 2 and type(sizes[0]) is int:
        return list(video._two(sizes)) * count
    return _each("sizes", sizes, count, video._two)


def _crop(box: Any) -> list[int]:
    return video._whole_numbers("crops", box, 4)


def _window(box: Any) -> list[int]:
    return video._whole_numbers("windows", box, 4)


def _flip(flip: Any) -> list[bool]:
    if type(flip) is not bool:
        check_bools("video_to_tensor_ragged", flips=flip)
    return [flip]


def _each(name: str, values: Any, count: int, read: Any) -> list[Any]:
    if values is None:
        return []
    if not isinstance(values, (tuple, list)) or len(values) != count:
        raise ValueError(
            f"video_to_tensor_ragged: {name} must be a list of {count}, one a clip, "
            f"got {shown(values)}"
        )
    return [number for value in values for number in read(value)]
