"""Random crops, flips and colours for training, the same for all frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aimills_kernels._words import shown
from aimills_kernels.ops._philox import two_uniforms

Matrix = tuple[tuple[float, ...], ...]  # three rows of four
_LUMA = (0.299, 0.587, 0.114)  # of BT.601, as torchvision's greys
_ATTEMPTS = 10
# The numbers of a clip's stream.
_AREA, _PLACE, _FLIP, _LIGHT, _COLOR = 0, _ATTEMPTS, 2 * _ATTEMPTS, 100, 101


class Drawn(NamedTuple):
    """crop: top, left, height, width, within what it was drawn for. jitter: twelve numbers, or
    none where colours stay."""

    crop: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[float, ...]


@dataclass(frozen=True)
class Augment:
    """What is drawn for each clip, by Philox4x32-10 of (seed, clip id): no other clip, no batch, no
    device and no version of a library has a say.

    Fields:
        scale, ratio: bounds on the crop's share of the frame's area and on its width over its
            height, as torchvision's `RandomResizedCrop` takes them: the area is uniform, and so is
            the ratio's logarithm; after ten crops that don't fit, the largest one in the middle
            with a ratio within the bounds. scale=None: no crop.
        flip: the probability of a mirrored clip.
        brightness, contrast, saturation: a factor from max(0, 1 - x) to 1 + x each, uniform, as
            torchvision's `ColorJitter` has it.
        hue: a turn from -x to x of a full one, uniform, at most 0.5.

    The changes of colour are linear, so that they are folded into one matrix; they come in the
    order of the fields and nothing is clipped between them. Brightness multiplies; contrast moves
    from or to a grey of 0.5 (torchvision: the picture's own mean, which a single pass can't know),
    saturation from or to the pixel's own luma (BT.601); hue turns blue minus luma against red minus
    luma, in their proportions of analogue television, and keeps luma (torchvision: in HSV, which is
    not linear).
    """

    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, pair, most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if pair is not None and not (
                isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_number, pair))
                and 0 < pair[0] <= pair[1] <= most
            ):  # fmt: skip
                bound = " and at most 1" if most == 1 else ""
                raise ValueError(
                    f"augment: {name} must be (least, most), above 0{bound}, got {shown(pair)}"
                )
        for name, most in (("flip", 1.0), ("hue", 0.5)):
            if not (_number(x := getattr(self, name)) and 0 <= x <= most):
                raise ValueError(f"augment: {name} must be 0 to {most:g}, got {shown(x)}")
        for name in ("brightness", "contrast", "saturation"):
            if not (_number(x := getattr(self, name)) and 0 <= x < 1e3):
                raise ValueError(f"augment: {name} must be 0 or more, got {shown(x)}")

    def draw(self, seed: int, clip_id: int, height: int, width: int) -> Drawn:
        """Of a clip of this size. `seed` and `clip_id` are whole numbers of 64 bits."""
        for name, value in (("seed", seed), ("clip_ids", clip_id)):
            if type(value) is not int or not -(2**63) <= value < 2**64:
                raise ValueError(
                    f"augment: {name} must be a whole number of 64 bits, got {shown(value)}"
                )
        flip = two_uniforms(seed, clip_id, _FLIP)[0] < self.flip
        crop = (0, 0, height, width)
        if self.scale is not None:
            crop = self._crop(seed, clip_id, height, width)
        return Drawn(crop, flip, self._jitter(seed, clip_id))

    def _crop(self, seed: int, clip: int, height: int, width: int) -> tuple[int, int, int, int]:
        assert self.scale is not None
        low, high = map(math.log, self.ratio)
        for attempt in range(_ATTEMPTS):
            of_area, of_ratio = two_uniforms(seed, clip, _AREA + attempt)
            area = height * width * _between(*self.scale, of_area)
            ratio = math.exp(_between(low, high, of_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                down, across = two_uniforms(seed, clip, _PLACE + attempt)
                return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = max(round(width / self.ratio[0]), 1)
        elif width / height > self.ratio[1]:
            w = max(round(height * self.ratio[1]), 1)
        return (height - h) // 2, (width - w) // 2, h, w

    def _jitter(self, seed: int, clip: int) -> tuple[float, ...]:
        if not any((self.brightness, self.contrast, self.saturation, self.hue)):
            return ()
        light, contrast = two_uniforms(seed, clip, _LIGHT)
        saturation, hue = two_uniforms(seed, clip, _COLOR)
        return color_jitter(
            _between(max(0.0, 1 - self.brightness), 1 + self.brightness, light),
            _between(max(0.0, 1 - self.contrast), 1 + self.contrast, contrast),
            _between(max(0.0, 1 - self.saturation), 1 + self.saturation, saturation),
            _between(-self.hue, self.hue, hue),
        )


class Geometry(NamedTuple):
    """Of each clip of a batch what it is changed by; `jitters` may be empty."""

    crops: list[int]
    flips: list[bool]
    jitters: list[float]


def drawn_for(
    augment: Any, seed: Any, clip_ids: Any, boxes: Sequence[Sequence[int]], given: Geometry
) -> Geometry:
    """What is drawn for each clip on top of what is given; `boxes` are the parts that crops are
    drawn in."""
    if augment is True:
        augment = Augment()
    if not isinstance(augment, Augment):
        raise ValueError(f"augment must be an Augment, True or None, got {shown(augment)}")
    if seed is None:
        raise ValueError("augment needs a seed, and got None")
    ids = range(len(boxes)) if clip_ids is None else clip_ids
    if not isinstance(ids, (tuple, list, range)) or len(ids) != len(boxes):
        raise ValueError(f"clip_ids must be a list of {len(boxes)}, one a clip, got {shown(ids)}")
    crops, flips, jitters = [], [], []
    for i, (clip_id, (top, left, height, width)) in enumerate(zip(ids, boxes, strict=True)):
        drawn = augment.draw(seed, clip_id, height, width)
        crops += [top + drawn.crop[0], left + drawn.crop[1], *drawn.crop[2:]]
        flips.append(drawn.flip != (given.flips[i] if given.flips else False))
        own = given.jitters[12 * i : 12 * i + 12]
        if own and drawn.jitter:
            jitters += [v for row in _then(_rows(own), _rows(drawn.jitter)) for v in row]
        else:
            jitters += own or drawn.jitter
    return Geometry(crops, flips, jitters)


def _rows(values: Sequence[float]) -> Matrix:
    return tuple(tuple(values[i : i + 4]) for i in (0, 4, 8))


def color_jitter(
    brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> tuple[float, ...]:
    """The twelve numbers of `video_to_tensor`'s `jitter` for these factors, and for a turn of the
    hue in parts of a full one; `Augment` says what they mean."""
    whole = _then(_scaled(brightness), _scaled(contrast, 0.5 * (1 - contrast)))
    whole = _then(whole, _chroma(saturation, 0.0))
    whole = _then(whole, _chroma(1.0, hue))
    return tuple(v for row in whole for v in row)


def _scaled(factor: float, offset: float = 0.0) -> Matrix:
    return tuple((*(factor if i == j else 0.0 for j in range(3)), offset) for i in range(3))


def _chroma(gain: float, turn: float) -> Matrix:
    """U and V of analogue television, times `gain` and turned, with luma as it was."""
    u, v = 0.492, 0.877
    cos, sin = gain * math.cos(2 * math.pi * turn), gain * math.sin(2 * math.pi * turn)
    blue = [(j == 2) - _LUMA[j] for j in range(3)]
    red = [(j == 0) - _LUMA[j] for j in range(3)]
    new_blue = [cos * b - sin * v / u * r for b, r in zip(blue, red, strict=True)]
    new_red = [sin * u / v * b + cos * r for b, r in zip(blue, red, strict=True)]
    green = [
        -(_LUMA[0] * r + _LUMA[2] * b) / _LUMA[1] for b, r in zip(new_blue, new_red, strict=True)
    ]
    rows = (new_red, green, new_blue)
    return tuple((*(y + c for y, c in zip(_LUMA, row, strict=True)), 0.0) for row in rows)


def _then(first: Matrix, second: Matrix) -> Matrix:
    # Written out: `sum` adds floats in another way from Python 3.12 on, and is slower.
    p, q, r = first
    return tuple(
        (
            x * p[0] + y * q[0] + z * r[0], x * p[1] + y * q[1] + z * r[1],
            x * p[2] + y * q[2] + z * r[2], x * p[3] + y * q[3] + z * r[3] + offset,
        )
        for x, y, z, offset in second
    )  # fmt: skip


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
