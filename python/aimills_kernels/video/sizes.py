"""The size to which a model's frames are resized, by the rules of its reference implementation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aimills_kernels.video.sampling import check_count

MAX_RATIO = 200  # of the sides, in the Qwen family


def smart_resize(
    height: int, width: int, *, factor: int = 28, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width), multiples of `factor`, of about the same aspect ratio and with the pixels of
    a frame between the bounds where that is possible.

    As `smart_resize` of Qwen2-VL and Qwen2.5-VL in Transformers: rounding is half to even.
    """
    _check(height, width, factor, min_pixels, max_pixels)
    _check_ratio((height, width), (height, width))
    pixels = height * width
    rounded = tuple(round(side / factor) * factor for side in (height, width))
    area = rounded[0] * rounded[1]
    return _within(area, pixels, (height, width), rounded, factor, min_pixels, max_pixels)


def smart_resize_video(
    frames: int,
    height: int,
    width: int,
    *,
    factor: int = 32,
    temporal: int = 2,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """The same with bounds on the pixels of all frames together, as `smart_resize` of Qwen3-VL."""
    _check(height, width, factor, min_pixels, max_pixels)
    check_count("frames", frames)
    check_count("temporal", temporal)
    if frames < temporal:
        raise ValueError(f"frames must be at least {temporal}, one temporal patch, got {frames}")
    given = (height, width)
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_ratio((height, width), given)
    rounded = tuple(round(side / factor) * factor for side in (height, width))
    volume = round(frames / temporal) * temporal * rounded[0] * rounded[1]
    pixels = frames * height * width
    return _within(volume, pixels, (height, width), rounded, factor, min_pixels, max_pixels)


def _within(
    rounded_pixels: int,
    pixels: int,
    sides: tuple[int, int],
    rounded: tuple[int, ...],
    factor: int,
    least: int,
    most: int,
) -> tuple[int, int]:
    if rounded_pixels > most:
        beta = math.sqrt(pixels / most)
        made = [max(factor, math.floor(side / beta / factor) * factor) for side in sides]
    elif rounded_pixels < least:
        beta = math.sqrt(least / pixels)
        made = [math.ceil(side * beta / factor) * factor for side in sides]
    else:
        made = list(rounded)
    return made[0], made[1]


def _check(height: int, width: int, factor: int, least: int, most: int) -> None:
    for name, value in (("height", height), ("width", width), ("factor", factor)):
        check_count(name, value)
    check_pixels(least, most)


def check_pixels(least: object, most: object) -> None:
    for name, value in (("min_pixels", least), ("max_pixels", most)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**62:
            raise ValueError(f"{name} must be a whole number from 1 to 2^62, got {value!r}")
    if least > most:  # type: ignore[operator]
        raise ValueError(f"min_pixels ({least}) must be at most max_pixels ({most})")


def _check_ratio(sides: tuple[int, int], given: tuple[int, int]) -> None:
    """`given`: before small frames were enlarged."""
    if max(sides) / min(sides) > MAX_RATIO:
        raise ValueError(
            f"height and width must be within a ratio of {MAX_RATIO}, got {given[0]} x {given[1]} "
            "pixels"
        )


# ---- the rules as values; each has `size(frames, height, width) -> (height, width)`


@dataclass(frozen=True)
class Keep:
    """Frames keep their size."""

    def __str__(self) -> str:
        return "as it is"

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        return height, width


@dataclass(frozen=True)
class Fixed:
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"

    def __post_init__(self) -> None:
        check_count("height", self.height)
        check_count("width", self.width)

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class ShortestEdge:
    """The shorter side gets `edge` pixels, the other keeps the aspect ratio, rounded down."""

    edge: int

    def __str__(self) -> str:
        return f"{self.edge} pixels on the shorter side"

    def __post_init__(self) -> None:
        check_count("edge", self.edge)

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        long = int(self.edge * max(height, width) / min(height, width))
        return (long, self.edge) if width <= height else (self.edge, long)


@dataclass(frozen=True)
class _Bounds:
    """Sides are multiples of `factor`, and pixels lie between bounds."""

    factor: int
    min_pixels: int
    max_pixels: int
    temporal: int = 2
    cap: bool = False
    max_tokens: int = 128000

    def __post_init__(self) -> None:
        for name in ("factor", "temporal", "max_tokens"):
            check_count(name, getattr(self, name))
        check_pixels(self.min_pixels, self.max_pixels)


@dataclass(frozen=True)
class SmartResize(_Bounds):
    """Bounds on the pixels of a frame (Qwen2-VL, Qwen2.5-VL).

    With `cap`, the frames together get no more than 90 % of `max_tokens` tokens, as in
    qwen-vl-utils and in Transformers with `cap_pixels_per_frame=True`; `max_tokens` is theirs of
    the same meaning.
    """

    def __str__(self) -> str:
        capped = f", 90 % of {self.max_tokens} tokens in all" if self.cap else ""
        bounds = f"{self.min_pixels} to {self.max_pixels} pixels a frame"
        return f"multiples of {self.factor}, {bounds}{capped}"

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        most = self.max_pixels
        if self.cap:
            all_frames = int(self.max_tokens * self.factor * self.factor * 0.9)
            share = all_frames * self.temporal // frames
            most = max(min(most, share), int(self.min_pixels * 1.05))
        return smart_resize(
            height, width, factor=self.factor, min_pixels=self.min_pixels, max_pixels=most
        )


@dataclass(frozen=True)
class SmartResizeVideo(_Bounds):
    """Bounds on the pixels of all frames together (Qwen3-VL).

    With `cap`, a frame gets no more than `max_tokens` tokens and its even share, as in Transformers
    with `cap_pixels_per_frame=True`.
    """

    max_tokens: int = 768

    def __str__(self) -> str:
        capped = f", {self.max_tokens} tokens a frame" if self.cap else ""
        bounds = f"{self.min_pixels} to {self.max_pixels} pixels in all frames"
        return f"multiples of {self.factor}, {bounds}{capped}"

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        most = self.max_pixels
        if self.cap:
            token = self.factor * self.factor
            of_frame = min(self.max_tokens * token, most // frames)
            most = max(of_frame, int(self.min_pixels * 1.05)) * frames
        return smart_resize_video(
            frames, height, width, factor=self.factor, temporal=self.temporal,
            min_pixels=self.min_pixels, max_pixels=most,
        )  # fmt: skip


@dataclass(frozen=True)
class MaxPatches:
    """The largest size of about the same aspect ratio with at most `count` patches (SigLIP 2's
    NaFlex): the search of `get_image_size_for_max_num_patches` in Transformers."""

    patch: int
    count: int

    def __str__(self) -> str:
        return f"multiples of {self.patch}, {self.count} patches at most"

    def __post_init__(self) -> None:
        check_count("patch", self.patch)
        check_count("count", self.count)

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            scale = (low + high) / 2
            rows, cols = (self._patches(scale, side) for side in (height, width))
            low, high = (scale, high) if rows * cols <= self.count else (low, scale)
        rows, cols = (self._patches(low, side) for side in (height, width))
        if rows * cols > self.count:
            raise ValueError(
                f"frames of {height} x {width} do not fit {self.count} patches of {self.patch}"
            )
        return rows * self.patch, cols * self.patch

    def _patches(self, scale: float, side: int) -> int:
        return max(1, math.ceil(side * scale / self.patch))


SizeRule = Keep | Fixed | ShortestEdge | SmartResize | SmartResizeVideo | MaxPatches
