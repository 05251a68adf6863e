"""The least that video_to_tensor reads, computes and writes."""

from __future__ import annotations

from typing import NamedTuple

from aimills_kernels._op import Case, Cost
from aimills_kernels.kernels.video.cases import case_options
from aimills_kernels.kernels.video.colour import chroma_places
from aimills_kernels.kernels.video.problem import PILLOW, Arguments
from aimills_kernels.kernels.video.resize import RADIUS, Grid, chroma_grid, pil_span, span

Span = tuple[int, int]  # the first, and the one behind the last


class _Axis(NamedTuple):
    """Of rows or columns: outputs that are stored, samples that their filters read, and how many
    samples lie between two outputs; the latter two of chroma too."""

    stored: int
    luma: int
    chroma: int
    scales: tuple[float, float]


def cost(case: Case) -> Cost:
    """Each source byte from the first to the last row and column that a stored output's filter
    reaches is read once and each output written once; the multiply-adds of a separable filter in
    the cheaper order, and of the colour matrix. The mode "fast" filters chroma in its own size, and
    converts what it stores."""
    a = case_options(case)
    down, across = (_axis(a, axis) for axis in (0, 1))
    form, pixels = a.form, down.luma * across.luma
    samples = 3 * pixels if form.rgb else pixels + 2 * down.chroma * across.chroma
    stored = a.placed.clip_stride // a.placed.clip  # of a frame
    moved = samples * form.dtype.itemsize + stored * a.dtype.itemsize
    planes = ("luma", "chroma", "chroma") if a.by_planes else ("luma",) * 3
    filtered = sum(_filtered(a, plane, down, across) for plane in planes)
    colour = 0 if form.rgb else 5 * (down.stored * across.stored if a.by_planes else pixels)
    return Cost(2 * case.F * (filtered + colour), case.F * moved, "f32")


def _axis(a: Arguments, axis: int) -> _Axis:
    first, size = a.box[axis], a.box[2 + axis]
    out, (begin, end) = a.resized[axis], a.stored[axis]
    grid = Grid(size, size, out)
    low, high = (begin, end) if size == out else _reach(a, grid, (begin, end))
    halved, cosited = a.form.halved[axis], chroma_places(a.chroma_location)[axis]
    linear = a.chroma_upsampling == "linear"
    if not halved:
        chroma, own = (low, high), grid
    elif a.by_planes:
        own = chroma_grid(first, size, out, linear and cosited)
        chroma = _reach(a, own, (begin, end))
    else:
        whole = a.form.chroma_size(*a.form.size(a.planes)[1:])[axis]
        own, chroma = grid, _chroma((first + low, first + high), whole, linear, cosited)
    scales = tuple(g.span / g.step for g in (grid, own))
    return _Axis(end - begin, high - low, chroma[1] - chroma[0], (scales[0], scales[1]))


def _reach(a: Arguments, grid: Grid, outs: Span) -> Span:
    if a.resize_mode in PILLOW:
        return pil_span(grid.samples, grid.step, outs, a.interpolation)
    return span(grid, outs, a.interpolation, a.antialias)


def _chroma(luma: Span, whole: int, linear: bool, cosited: bool) -> Span:
    """Of an axis with `whole` samples: those from which chroma of these luma samples is blended."""
    low, last = luma[0], luma[1] - 1
    first = low // 2 - (linear and not cosited and low % 2 == 0)
    behind = last // 2 + 1 + (linear and last % 2 == 1)
    return max(first, 0), min(behind, whole)


def _filtered(a: Arguments, plane: str, down: _Axis, across: _Axis) -> float:
    """Multiply-adds of one plane."""
    rows, cols = getattr(down, plane), getattr(across, plane)
    tall, wide = (
        1 if a.interpolation == "nearest" else
        2 * RADIUS[a.interpolation] * (max(scale, 1.0) if a.antialias else 1.0)
        for scale in (axis.scales[plane == "chroma"] for axis in (down, across))
    )  # fmt: skip
    h, w = down.stored, across.stored
    return min(h * cols * tall + h * w * wide, rows * w * wide + h * w * tall)
