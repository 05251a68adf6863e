"""The resize of video_to_tensor in plain PyTorch: in floats, and as Pillow does it in integers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# Half the length of each filter.
RADIUS = {"nearest": 0.5, "area": 0.5, "bilinear": 1, "bicubic": 2, "lanczos": 3}
_PIL_BITS = 22


class Grid(NamedTuple):
    """Where outputs lie among samples: output i at ((2 i + 1) span + shift) / (2 step), but not
    beyond the last sample; sample j at j + 1/2."""

    samples: int
    span: int
    step: int
    shift: int = 0


def chroma_grid(first: int, size: int, out: int, cosited: bool) -> Grid:
    """Of `out` outputs that cover luma samples [first, first + size), among the chroma samples that
    stand for these. Two luma samples share one, which lies on the first or between the two."""
    begin, end = first // 2, (first + size + 1) // 2
    shift = 2 * out * (first - 2 * begin) + out * cosited
    return Grid(end - begin, size, 2 * out, shift)


def span(grid: Grid, outs: tuple[int, int], interpolation: str, antialias: bool) -> tuple[int, int]:
    """The first sample that the filters of outputs [outs[0], outs[1]) read, and the one behind the
    last, as `filter_taps` has them."""
    samples, size, step, shift = grid
    low, high = (
        min((2 * i + 1) * size + shift, 2 * step * samples - 1) for i in (outs[0], outs[1] - 1)
    )
    if interpolation == "nearest":
        return low // (2 * step), high // (2 * step) + 1
    support = int(2 * RADIUS[interpolation]) * (max(size, step) if antialias else step)
    first, behind = (low - support + step) // (2 * step), (high + support + step) // (2 * step)
    return max(first, 0), min(behind, samples)


def filter_taps(
    size: int, out: int, interpolation: str, antialias: bool, wide: torch.dtype,
    device: torch.device, grid: Grid | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Source positions and weights, both [taps, out].

    With antialias Pillow's `precompute_coeffs`, the positions as whole multiples of 1 / (2 unit).
    Without, the filter is as wide as a sample of the source, and what lies beyond the border is the
    sample at it. Without a `grid` outputs cover all samples.
    """
    count, span, step, shift = grid or Grid(size, size, out)
    i = torch.arange(out, device=device)
    center = ((2 * i + 1) * span + shift).clamp(max=2 * step * count - 1)
    if interpolation == "nearest":
        return (center // (2 * step)).unsqueeze(0), torch.ones(1, out, dtype=wide, device=device)
    unit = max(span, step) if antialias else step
    support = int(2 * RADIUS[interpolation]) * unit
    begin, end = ((center + s + step) // (2 * step) for s in (-support, support))
    if antialias:
        begin, end = begin.clamp(min=0), end.clamp(max=count)
    at = begin + torch.arange(int((end - begin).max()), device=device).unsqueeze(1)
    distance = (2 * at + 1) * step - center
    if interpolation == "area":
        weights = ((distance > -unit) & (distance <= unit)).to(wide)
    else:
        x = distance.to(wide).abs() / (2 * unit)
        weights = _filter(x, interpolation, antialias)
    weights = torch.where(at < end, weights, 0.0)
    return at.clamp(0, count - 1), weights / weights.sum(0)


def _filter(x: Tensor, interpolation: str, antialias: bool) -> Tensor:
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    if interpolation == "lanczos":
        return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
    a = -0.5 if antialias else -0.75  # as torch has it, and Pillow the first
    inner = (1 - x) * (1 + x * (1 - (a + 2) * x))
    outer = a * (x - 1) * (x - 2) * (x - 2)
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def resize(
    levels: Tensor, dim: int, out: int, interpolation: str, antialias: bool, *,
    magnitudes: bool = False, grid: Grid | None = None,
) -> Tensor:  # fmt: skip
    """A sum over taps: a matmul would follow autocast and TF32 settings. With `magnitudes` of the
    weights it says how far a sum may move where each level may move so far."""
    size = levels.shape[dim]
    if grid is None and size == out:
        return levels  # the weights of the identity are exactly 0 and 1
    at, weights = filter_taps(
        size, out, interpolation, antialias, levels.dtype, levels.device, grid
    )
    return _weighted(levels, dim, at, weights.abs() if magnitudes else weights)


def _weighted(levels: Tensor, dim: int, at: Tensor, weights: Tensor) -> Tensor:
    shape = [1, 1, -1, 1] if dim == 2 else [1, 1, 1, -1]
    total = levels.index_select(dim, at[0]) * weights[0].view(shape)
    for tap in range(1, len(at)):
        total.addcmul_(levels.index_select(dim, at[tap]), weights[tap].view(shape))
    return total


# ---- as Pillow does it


def vertical_first(mode: str, source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Pillow 13 filters along the rows' axis first where that takes away far more; before it never
    did. Its rule was found by trying sizes, and holds on all that were tried."""
    down, across = (a - b for a, b in zip(source, target, strict=True))
    return mode == "pil13" and down > 0 and down > 2 * across


def resize_pil(levels: Tensor, height: int, width: int, interpolation: str, mode: str) -> Tensor:
    """Levels [F, 3, H, W] to levels, bit for bit those of Pillow's `Image.resize` for 8 bits."""
    steps = [(3, width), (2, height)]
    if vertical_first(mode, (levels.shape[2], levels.shape[3]), (height, width)):
        steps.reverse()
    found = levels.to(torch.int32)
    for dim, out in steps:
        size = found.shape[dim]
        if size != out:
            at, weights = (
                torch.tensor(t, dtype=kind, device=levels.device)
                for t, kind in zip(pil_taps(size, out, interpolation),
                                   (torch.int64, torch.int32), strict=True)
            )  # fmt: skip
            total = _weighted(found, dim, at, weights) + (1 << (_PIL_BITS - 1))
            found = (total >> _PIL_BITS).clamp_(0, 255)
    return found.to(levels.dtype)


@lru_cache(maxsize=64)
def pil_taps(size: int, out: int, interpolation: str) -> tuple[list[list[int]], list[list[int]]]:
    """Positions and whole weights in 2^-22, both [taps][out], by the same float64 operations in the
    same order as Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`."""
    windows = pil_windows(size, out, interpolation)
    taps = max(len(weights) for _, weights in windows)
    at = [[min(begin + t, size - 1) for begin, _ in windows] for t in range(taps)]
    weights = [[w[t] if t < len(w) else 0 for _, w in windows] for t in range(taps)]
    return at, weights


def pil_windows(size: int, out: int, interpolation: str) -> list[tuple[int, list[int]]]:
    """Of each output where its window begins, and its whole weights."""
    if interpolation == "nearest":
        return _nearest(size, out)
    return [_window(size, out, interpolation, i) for i in range(out)]


def pil_span(size: int, out: int, outs: tuple[int, int], interpolation: str) -> tuple[int, int]:
    """As `span`, of Pillow's windows: float64 may round one to begin a sample earlier."""
    if interpolation == "nearest":
        first, last = (_nearest(size, out)[i] for i in (outs[0], outs[1] - 1))
    else:
        first, last = (_window(size, out, interpolation, i) for i in (outs[0], outs[1] - 1))
    return first[0], last[0] + len(last[1])


def _nearest(size: int, out: int) -> list[tuple[int, list[int]]]:
    """Pillow adds up the scale from one output to the next."""
    scale, at, windows = size / out, 0.5 * (size / out), []
    for _ in range(out):
        windows.append((min(int(at), size - 1), [1 << _PIL_BITS]))
        at += scale
    return windows


def _window(size: int, out: int, interpolation: str, i: int) -> tuple[int, list[int]]:
    scale = size / out
    wide = max(scale, 1.0)
    support, center, narrow = RADIUS[interpolation] * wide, (i + 0.5) * scale, 1.0 / wide
    begin = max(int(center - support + 0.5), 0)
    end = min(int(center + support + 0.5), size)
    weights = [_PIL[interpolation]((j - center + 0.5) * narrow) for j in range(begin, end)]
    total = 0.0
    for w in weights:
        total += w
    if total != 0.0:
        weights = [w / total for w in weights]
    one = 1 << _PIL_BITS
    return begin, [int((-0.5 if w < 0 else 0.5) + w * one) for w in weights]


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    x *= math.pi
    return math.sin(x) / x if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_PIL = {"area": _box, "bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos}
