"""HDR levels to SDR ones, and jittered colours, in plain PyTorch.

An HDR signal is display light of up to 1000 cd/m2 by Recommendation ITU-R BT.2100: PQ by its EOTF,
clipped there; HLG by its inverse OETF and its OOTF with a gamma of 1.2. Method A of Report ITU-R
BT.2446-1 maps it to SDR of 100 cd/m2 with a gamma of 2.4. From BT.2020 to BT.709 it goes in linear
light by the matrix and the clipping of Report ITU-R BT.2407; the matrix is that of the primaries
and of D65, so that grey stays grey.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aimills_kernels.kernels.video.formats import KR_KB

_KR, _KB = KR_KB["bt2020"]
_KG = 1 - _KR - _KB
# x and y of red, green and blue: Recommendations ITU-R BT.2020 and BT.709.
_WIDE = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
_NARROW = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_D65 = (0.3127, 0.3290)
_GAMMA = 2.4


def sdr_levels(levels: Tensor, transfer: str, nudge: float = 0.0) -> Tensor:
    """Exact levels [F, 3, H, W] of the signal to exact levels of SDR. `nudge` is added at the two
    places where a rounding matters most: before the knee, and before light becomes a signal."""
    mapped = _tone_mapped(_hdr_gamma((levels / 255).clamp(0, 1), transfer), nudge)
    light = mapped.clamp(0, 1) ** _GAMMA
    to_709 = torch.linalg.solve(_to_xyz(_NARROW), _to_xyz(_WIDE)).to(light)
    narrow = _mixed(light, to_709) + nudge
    return 255 * narrow.clamp(0, 1) ** (1 / _GAMMA)


def jittered(levels: Tensor, jitter: list[float]) -> Tensor:
    """Levels by an affine change: three rows of three factors and an offset in units of 0..1."""
    m = torch.tensor(jitter, dtype=torch.float64).view(3, 4)
    return _mixed(levels, m[:, :3].to(levels)) + 255 * m[:, 3].to(levels).view(3, 1, 1)


def spread_by(doubt: Tensor, jitter: list[float]) -> Tensor:
    """How far jittered levels may move where each level may move by `doubt`."""
    m = torch.tensor(jitter, dtype=torch.float64).view(3, 4)
    return _mixed(doubt, m[:, :3].abs().to(doubt))


def _mixed(channels: Tensor, matrix: Tensor) -> Tensor:
    """A sum over channels: a matmul would follow autocast and TF32 settings."""
    return sum(matrix[:, i].view(3, 1, 1) * channels[:, i : i + 1] for i in range(3))  # type: ignore[return-value]


def _luma(x: Tensor) -> Tensor:
    return _KR * x[:, :1] + _KG * x[:, 1:2] + _KB * x[:, 2:]


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> Tensor:
    """RGB of these primaries, white being D65, to XYZ."""
    each = torch.tensor(
        [[x / y, 1.0, (1 - x - y) / y] for x, y in (*primaries, _D65)], dtype=torch.float64
    )
    return each[:3].T * torch.linalg.solve(each[:3].T, each[3])


# ---- the signal, 0..1, to light over 1000 cd/m2 to the power of 1 / 2.4


def _hdr_gamma(signal: Tensor, transfer: str) -> Tensor:
    if transfer == "pq":
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        n = signal ** (1 / m2)
        nits = 10000 * ((n - c1).clamp(min=0) / (c2 - c3 * n)) ** (1 / m1)
        return (nits / 1000).clamp(max=1) ** (1 / _GAMMA)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    scene = torch.where(signal <= 0.5, signal**2 / 3, (((signal - c) / a).exp() + b) / 12)
    return (_luma(scene) ** (1.2 - 1) * scene) ** (1 / _GAMMA)


# ---- BT.2446-1, method A


def _tone_mapped(x: Tensor, nudge: float) -> Tensor:
    bright, dim = (1 + 32 * (nits / 10000) ** (1 / _GAMMA) for nits in (1000, 100))
    luma = _luma(x)
    level = (1 + (bright - 1) * luma).log() / math.log(bright) + nudge
    curve = torch.where(
        level < 0.9909, (-1.1510 * level + 2.7811) * level - 0.6302, 0.5 * level + 0.5
    )
    curve = torch.where(level <= 0.7399, 1.0770 * level, curve)
    sdr = (dim**curve - 1) / (dim - 1)
    gain = sdr / (1.1 * luma.clamp(min=1e-9))
    red, blue = gain * (x[:, :1] - luma), gain * (x[:, 2:] - luma)
    base = sdr - (0.1 * red / (2 * (1 - _KR))).clamp(min=0)
    return torch.cat([base + red, base - (_KR * red + _KB * blue) / _KG, base + blue], 1)
