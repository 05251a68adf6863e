"""The mode "fast" of video_to_tensor in plain PyTorch: planes are filtered, then converted."""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._tolerance import EPS32
from aimills_kernels.kernels.video.colour import chroma_places, codes, matrixed
from aimills_kernels.kernels.video.problem import Arguments, code_matrix
from aimills_kernels.kernels.video.resize import chroma_grid, resize
from aimills_kernels.kernels.video.tone import jittered


def fast_levels(a: Arguments, wide: torch.dtype) -> Tensor:
    """[F, 3, h, w], levels that are resized and not yet rounded."""
    return _levels(a, _filtered(a, wide))


def fast_between(a: Arguments) -> tuple[Tensor, Tensor]:
    """Levels, and how far arithmetic in float32 may be off, in float64."""
    exact, single = _filtered(a, torch.float64), _filtered(a, torch.float32)
    top = 2.0**a.form.bits
    doubts = [
        2 * float((s - e).abs().max()) + 4 * EPS32 * top if e.numel() else 0.0
        for s, e in zip(single, exact, strict=True)
    ]
    rows = [
        sum(abs(f) * d for f, d in zip(row, doubts, strict=False)) + 4 * EPS32 * abs(row[3])
        for row in code_matrix(a)
    ]
    return _levels(a, exact), exact[0].new_tensor(rows).view(3, 1, 1)


def _levels(a: Arguments, planes: list[Tensor]) -> Tensor:
    luma, u, v = (plane[:, 0] for plane in planes)
    levels = matrixed(luma, u, v, a.form, a.color_space, a.color_range)
    return jittered(levels, a.jitter) if a.jitter else levels


def _filtered(a: Arguments, wide: torch.dtype) -> list[Tensor]:
    """Y, U and V in codes, each [F, 1, h, w]. A chroma sample that stands for no luma sample of the
    crop is not looked at; "nearest" chroma lies in the middle of what it stands for."""
    luma, *chroma = (codes(v, a.form, wide).unsqueeze(1) for v in a.form.views(a.planes))
    linear = a.chroma_upsampling == "linear"
    cosited = [linear and place for place in chroma_places(a.chroma_location)]
    top, left, height, width = a.box
    for dim, first, size, out, halved, on_sample in (
        (2, top, height, a.resized[0], a.form.halved[0], cosited[0]),
        (3, left, width, a.resized[1], a.form.halved[1], cosited[1]),
    ):
        own = chroma_grid(first, size, out, on_sample) if halved else None
        begin, count = (first // 2, own.samples) if own else (first, size)
        luma = resize(luma.narrow(dim, first, size), dim, out, a.interpolation, a.antialias)
        chroma = [
            resize(c.narrow(dim, begin, count), dim, out, a.interpolation, a.antialias, grid=own)
            for c in chroma
        ]
    return [luma, *chroma]
