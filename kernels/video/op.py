"""Decoded frames to a normalised tensor: colour, resize, mean and std, layout."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels._op import Op, Problem, Provider
from aimills_kernels._tolerance import EPS32, Levels
from aimills_kernels.kernels.video import config
from aimills_kernels.kernels.video.cases import CASES, ERRORS, inputs
from aimills_kernels.kernels.video.check import check
from aimills_kernels.kernels.video.colour import exact_levels
from aimills_kernels.kernels.video.cost import cost
from aimills_kernels.kernels.video.fast import fast_between, fast_levels
from aimills_kernels.kernels.video.layouts import arrange
from aimills_kernels.kernels.video.problem import Arguments, extension_error
from aimills_kernels.kernels.video.resize import resize, resize_pil
from aimills_kernels.kernels.video.tone import jittered, sdr_levels, spread_by

DTYPE_E4M3 = torch.float8_e4m3fn
_E4M3_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def reference(
    planes: list[Tensor],
    format: str,
    color_space: str,
    color_range: str,
    chroma_location: str,
    chroma_upsampling: str,
    transfer: str,
    height: int,
    width: int,
    crop: list[int],
    window: list[int],
    pad: list[int],
    pad_level: int,
    flip: bool,
    rotate: int,
    jitter: list[float],
    interpolation: str,
    antialias: bool,
    resize_mode: str,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    layout: str,
    clip: int,
    patch: list[int],
) -> Tensor:
    """In f32, for f64, u8 and e4m3 in f64, with levels rounded as torchvision does.

    planes  those of `format` (formats.py), any strides
    1. RGB by ITU-R BT.601-7, BT.709-6 or BT.2020-2; of HDR, SDR by ITU-R BT.2446-1 (tone.py);
       with a `jitter`, an affine change; rounded half to even to levels 0..255
    2. crop to (top, left, height, width), resize, rounded to levels again; in the modes "pil" and
       "pil13" as Pillow does it; in the mode "fast" Y, U and V are cropped and resized, each in its
       own size, before they become RGB, which is rounded once (fast.py)
    3. flip, rotate, cut (top, left, height, width) of `window`, pad with `pad_level`
    4. (level / 255 - mean) / std, rounded to `dtype` (u8: the level), laid out
    """
    a = Arguments(
        planes, format, color_space, color_range, chroma_location, chroma_upsampling, transfer,
        height, width, crop, window, pad, pad_level, flip, rotate, jitter, interpolation, antialias,
        resize_mode, mean, std, dtype, layout, clip, patch,
    )  # fmt: skip
    narrow = dtype in (torch.float32, torch.float16, torch.bfloat16)
    wide = torch.float32 if narrow else torch.float64
    if a.by_planes:
        levels = fast_levels(a, wide).round().clamp(0, 255)
    else:
        levels = _resized(a, _graded(a, _cropped(a, wide)).round().clamp(0, 255))
    out = _finished(a, levels)
    return (out.clamp(-_E4M3_LARGEST, _E4M3_LARGEST) if dtype == DTYPE_E4M3 else out).to(dtype)


def _cropped(a: Arguments, wide: torch.dtype) -> Tensor:
    """What the colour matrix makes of the crop, in levels."""
    top, left, height, width = a.box
    whole = exact_levels(
        a.planes, a.format, a.color_space, a.color_range, a.chroma_location, a.chroma_upsampling,
        wide,
    )  # fmt: skip
    return whole[:, :, top : top + height, left : left + width]


def _graded(a: Arguments, levels: Tensor) -> Tensor:
    """RGB levels before they are rounded."""
    if a.transfer != "sdr":
        levels = sdr_levels(levels, a.transfer)
    return jittered(levels, a.jitter) if a.jitter else levels


def _resized(a: Arguments, levels: Tensor) -> Tensor:
    """Levels to levels."""
    if a.resize_mode in ("pil", "pil13"):
        return resize_pil(levels, *a.resized, a.interpolation, a.resize_mode)
    for dim, size in zip((2, 3), a.resized, strict=True):
        levels = resize(levels, dim, size, a.interpolation, a.antialias)
    return levels.round().clamp(0, 255)


def _finished(a: Arguments, levels: Tensor) -> Tensor:
    """What follows the resize, not yet rounded to the dtype."""
    if a.flip:
        levels = levels.flip(3)
    if a.rotate:
        levels = torch.rot90(levels, -a.rotate // 90, (2, 3))
    if a.window:
        first_row, first_col, height, width = a.window
        levels = levels[:, :, first_row : first_row + height, first_col : first_col + width]
    if a.pad:
        top, left, bottom, right = a.pad
        levels = F.pad(levels, (left, right, top, bottom), value=float(a.pad_level))
    if a.dtype != torch.uint8:
        mean, std = (levels.new_tensor(v).view(3, 1, 1) for v in (a.mean, a.std))
        levels = (levels / 255 - mean) / std
    return arrange(levels, a.layout, a.patch, a.clip)


def fake(*args: object) -> Tensor:
    a = Arguments(*args)  # type: ignore[arg-type]
    check(a)
    return a.planes[0].new_empty(a.placed.shape, dtype=a.dtype)


fake.__signature__ = inspect.signature(reference)  # type: ignore[attr-defined]


# ---- what may differ from the oracle


# Of the colour matrix, in levels: twice what float32 was seen to lose, 5.1e-5, in the order of the
# kernels, with FMA and without, and in that of the reference.
_COLOR_DOUBT = 1024 * EPS32
# Of the way from HDR to SDR, likewise: in levels, and where it is steep in light and in the knee's
# own units.
_TONE_DOUBT, _TONE_NUDGE = 0.01, 6e-7


def _level_size(args: tuple) -> Tensor:
    a = Arguments(*args)
    std = a.planes[0].new_tensor(a.std, dtype=torch.float64).view(3, 1, 1)
    size = 1 / (255 * std.abs()) if a.dtype != torch.uint8 else torch.ones_like(std)
    frames = a.form.size(a.planes)[0]
    return arrange(size.expand(frames, 3, *a.canvas), a.layout, a.patch, a.clip)


def _between(args: tuple) -> tuple[Tensor, Tensor]:
    """The least and the greatest output that arithmetic in float32 may come to, in float64.

    Where the exact value lies near a tie, each of the two roundings to levels may fall either way.
    """
    a = Arguments(*args)
    if a.by_planes:
        exact, doubt = fast_between(a)
        found = (exact - doubt).round(), (exact + doubt).round()
    else:
        rgb, doubt = _graded_between(a, _cropped(a, torch.float64))
        low, high = (end.round().clamp(0, 255) for end in (rgb - doubt, rgb + doubt))
        found = _filtered_between(a, low, high)
    ends = [_finished(a, levels.clamp(0, 255)) for levels in found]
    if a.dtype == DTYPE_E4M3:
        ends = [end.clamp(-_E4M3_LARGEST, _E4M3_LARGEST) for end in ends]
    return torch.minimum(*ends), torch.maximum(*ends)


def _graded_between(a: Arguments, matrixed: Tensor) -> tuple[Tensor, Tensor]:
    """RGB levels before they are rounded, and how far arithmetic in float32 may be off."""
    rgb, doubt = matrixed, torch.zeros_like(matrixed)
    if not a.form.rgb or a.form.bits > 8:
        doubt += _COLOR_DOUBT
    if a.transfer != "sdr":
        rgb = sdr_levels(matrixed, a.transfer)
        doubt += _TONE_DOUBT
        for nudge in (-_TONE_NUDGE, _TONE_NUDGE):
            other = sdr_levels(matrixed, a.transfer, nudge)
            doubt = torch.maximum(doubt, (other - rgb).abs() + _TONE_DOUBT)
    if a.jitter:
        rgb, doubt = jittered(rgb, a.jitter), spread_by(doubt, a.jitter) + _COLOR_DOUBT
    return rgb, doubt


def _filtered_between(a: Arguments, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Levels after the resize, from the least and the greatest before it."""
    middle, doubt = (low + high) / 2, (high - low) / 2
    single = middle.float()
    for dim, size in zip((2, 3), a.resized, strict=True):
        filter_ = (dim, size, a.interpolation, a.antialias)
        if a.resize_mode in ("torch", "fast"):
            middle, single = resize(middle, *filter_), resize(single, *filter_)
        doubt = resize(doubt, *filter_, magnitudes=True)
    if a.resize_mode in ("pil", "pil13"):  # exact, save where a level before it is in doubt
        level = resize_pil(low, *a.resized, a.interpolation, a.resize_mode)
        spread = torch.where(doubt > 0, (2 * doubt).ceil() + 1, 0)
        return level - spread, level + spread
    doubt = doubt + 2 * (single - middle).abs().max() + 16 * EPS32 * 255
    return (middle - doubt).round(), (middle + doubt).round()


# ---- the declaration


def _cpu_rejects(p: Problem) -> str | None:
    return extension_error()


def _cuda_rejects(p: Problem) -> str | None:
    from aimills_kernels.kernels.video import cuda

    return cuda.missing(p.sm)


def _nvrtc_rejects(p: Problem) -> str | None:
    from aimills_kernels.kernels.video import nvrtc

    return nvrtc.missing(p.sm)


def without_mode(p: Problem) -> str | None:
    if p.resize_mode != "torch":
        return f"the Triton kernel has mode torch alone, and mode is {p.resize_mode}"
    return None


def too_many_programs(a: Arguments) -> str | None:
    count = config.programs(a)
    if count > config.MOST_PROGRAMS:
        return f"it would take {count} programs, and a launch has {config.MOST_PROGRAMS} at most"
    return None


def _triton_rejects(p: Problem) -> str | None:
    return without_mode(p) or too_many_programs(Arguments(*p.args))


_SOURCES = (
    "csrc/include/aimills/hd.h",
    "csrc/include/aimills/convert.h",
    "csrc/video/params.h",
    "csrc/video/tone.h",
    "csrc/video/pixel.h",
    "csrc/video/weights.h",
    "csrc/video/pil.h",
    "csrc/video/pil_table.h",
    "csrc/video/pil_table.cpp",
    "csrc/video/tile.h",
    "csrc/video/kernel.h",
    "csrc/video/sm80_video_to_tensor.cu",
    "csrc/bindings/video.cpp",
    "kernels/video/formats.py",
    "kernels/video/layouts.py",
    "kernels/video/pil.py",
    "kernels/video/problem.py",
    "kernels/video/resize.py",
)

_TRITON_SOURCES = (
    "kernels/video/config.py",
    "kernels/video/device_tone.py",
    "kernels/video/device_weights.py",
    "kernels/video/formats.py",
    "kernels/video/layouts.py",
    "kernels/video/problem.py",
)

PROVIDERS = (
    Provider(
        "cuda", "aimills_kernels.kernels.video.cuda:launch", sm=(80, 90, 100, 120),
        rejects=_cuda_rejects, sources=_SOURCES,
    ),
    Provider(
        "nvrtc", "aimills_kernels.kernels.video.nvrtc:launch", rejects=_nvrtc_rejects,
        needs=("cupy",), sources=_SOURCES,
    ),
    Provider.triton(
        "triton", "aimills_kernels.kernels.video.triton_video:launch", rejects=_triton_rejects,
        sources=_TRITON_SOURCES,
    ),
    Provider(
        "cpu", "aimills_kernels.kernels.video.cpu:launch", devices=("cpu",), rejects=_cpu_rejects
    ),
)  # fmt: skip

video_to_tensor = Op(
    name="video_to_tensor",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Levels(size=_level_size, between=_between),),
    errors=ERRORS,
    providers=PROVIDERS,
)
