"""YCbCr and RGB planes to RGB levels, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aimills_kernels.kernels.video.formats import FORMATS, KR_KB, Format, scaling


def rgb_levels(
    planes: Sequence[Tensor],
    format: str,
    space: str,
    range_: str,
    location: str,
    upsampling: str,
    wide: torch.dtype,
) -> Tensor:
    """[F, 3, H, W], whole levels 0..255."""
    exact = exact_levels(planes, format, space, range_, location, upsampling, wide)
    return exact.round().clamp(0, 255)


def exact_levels(
    planes: Sequence[Tensor],
    format: str,
    space: str,
    range_: str,
    location: str,
    upsampling: str,
    wide: torch.dtype,
) -> Tensor:
    """Levels before they are rounded."""
    form = FORMATS[format]
    if form.rgb:
        scale = scaling(form.bits, "full").luma_scale
        return torch.stack([codes(view, form, wide) * scale for view in form.views(planes)], 1)
    luma, u, v = (codes(view, form, wide) for view in form.views(planes))
    height, width = luma.shape[1:]
    places = chroma_places(location)
    down, across = form.halved
    for dim, size, halved, place in ((1, height, down, places[0]), (2, width, across, places[1])):
        if halved:
            u, v = (_upsample(c, dim, size, place, upsampling) for c in (u, v))
    return matrixed(luma, u, v, form, space, range_)


def matrixed(luma: Tensor, u: Tensor, v: Tensor, form: Format, space: str, range_: str) -> Tensor:
    """Exact levels of codes, each [F, H, W]."""
    s = scaling(form.bits, range_)
    kr, kb = KR_KB[space]
    luma = (luma - s.black) * s.luma_scale
    u, v = ((c - s.zero) * s.chroma_scale for c in (u, v))
    red = luma + 2 * (1 - kr) * v
    blue = luma + 2 * (1 - kb) * u
    green = luma - (2 * kb * (1 - kb) * u + 2 * kr * (1 - kr) * v) / (1 - kr - kb)
    return torch.stack([red, green, blue], 1)


def chroma_places(location: str) -> tuple[bool, bool]:
    """Whether a chroma sample lies on an even row, and on an even column; else between two."""
    return location == "topleft", location in ("left", "topleft")


def codes(samples: Tensor, form: Format, wide: torch.dtype) -> Tensor:
    stored = samples.to(wide)
    return (stored / 2**form.shift).floor() if form.shift else stored


def _upsample(chroma: Tensor, dim: int, size: int, cosited: bool, upsampling: str) -> Tensor:
    """Along one axis, to `size` samples; every weight is a multiple of a quarter."""
    at = torch.arange(size, device=chroma.device)
    near = at // 2
    if upsampling == "nearest":
        return chroma.index_select(dim, near)
    far = torch.where(at % 2 == 0, near - 1, near + 1).clamp(0, chroma.shape[dim] - 1)
    weights = (0.0, 0.5) if cosited else (0.25, 0.25)
    shape = [-1 if i == dim else 1 for i in range(chroma.dim())]
    w = torch.where(at % 2 == 0, *(at.new_tensor(x, dtype=chroma.dtype) for x in weights))
    w = w.view(shape)
    return chroma.index_select(dim, near) * (1 - w) + chroma.index_select(dim, far) * w
