"""PQ and HLG to SDR: the standards' formulas in float64 by NumPy, and what holds of any map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video.tone import sdr_levels

np = pytest.importorskip("numpy")


# ---- an independent way: light in cd/m2, in the order in which the reports describe it


def light_of_pq(signal: Any) -> Any:
    """BT.2100-2, table 4: the EOTF, cd/m2."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = np.power(signal, 1 / m2)
    return 10000 * np.power(np.maximum(root - c1, 0) / (c2 - c3 * root), 1 / m1)


def light_of_hlg(signal: Any) -> Any:
    """BT.2100-2, table 5: the inverse OETF and the OOTF of a display of 1000 cd/m2 and no black."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return 1000 * luminance[..., None] ** 0.2 * scene


def method_a(light: Any) -> Any:
    """BT.2446-1, 4.2: display light of at most 1000 cd/m2 to R'G'B' of 100 cd/m2, BT.2020."""
    prime = np.clip(light / 1000, 0, 1) ** (1 / 2.4)
    y = prime @ np.array([0.2627, 0.6780, 0.0593])
    rho_hdr, rho_sdr = (1 + 32 * (peak / 10000) ** (1 / 2.4) for peak in (1000, 100))
    y_p = np.log(1 + (rho_hdr - 1) * y) / np.log(rho_hdr)
    y_c = np.select(
        [y_p <= 0.7399, y_p < 0.9909],
        [1.0770 * y_p, -1.1510 * y_p**2 + 2.7811 * y_p - 0.6302],
        0.5000 * y_p + 0.5000,
    )
    y_sdr = (rho_sdr**y_c - 1) / (rho_sdr - 1)
    f = np.divide(y_sdr, 1.1 * y, out=np.zeros_like(y), where=y > 0)
    cb, cr = f * (prime[..., 2] - y) / 1.8814, f * (prime[..., 0] - y) / 1.4746
    y_tmo = y_sdr - np.maximum(0.1 * cr, 0)
    r, b = y_tmo + 1.4746 * cr, y_tmo + 1.8814 * cb
    g = y_tmo - (0.2627 * 1.4746 * cr + 0.0593 * 1.8814 * cb) / 0.6780
    return np.stack([r, g, b], -1)


# BT.2087-0: XYZ of BT.2020, and the inverse of that of BT.709, to the digits printed there.
TO_XYZ = [[0.6370, 0.1446, 0.1689], [0.2627, 0.6780, 0.0593], [0.0000, 0.0281, 1.0610]]
FROM_XYZ = [[3.2410, -1.5374, -0.4986], [-0.9692, 1.8760, 0.0416], [0.0556, -0.2040, 1.0570]]


def bt709(prime: Any) -> Any:
    light = np.clip(prime, 0, 1) ** 2.4
    matrix = np.array(FROM_XYZ) @ np.array(TO_XYZ)
    return np.clip(light @ matrix.T, 0, 1) ** (1 / 2.4)


def levels_by_the_reports(signal: Any, transfer: str) -> Any:
    light = (light_of_pq if transfer == "pq" else light_of_hlg)(signal)
    return 255 * bt709(method_a(light))


def drawn(count: int) -> Tensor:
    """[1, 3, 1, count] levels of a signal: noise, greys and pure colours."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.rand(3, count - 256, generator=generator, dtype=torch.float64)
    grey = torch.linspace(0, 1, 64, dtype=torch.float64)
    pure = torch.cat([grey * torch.eye(3, dtype=torch.float64)[i].view(3, 1) for i in range(3)], 1)
    return 255 * torch.cat([noise, grey.expand(3, 64), pure], 1).view(1, 3, 1, count)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_reference_agrees_with_the_reports(transfer: str) -> None:
    """To the four digits of their matrices, which are steep next to black: so in light there."""
    signal = drawn(4096)
    got = sdr_levels(signal, transfer)[0, :, 0].T.numpy()
    want = levels_by_the_reports(signal[0, :, 0].T.numpy() / 255, transfer)
    light = np.abs((got / 255) ** 2.4 - (want / 255) ** 2.4)
    assert light.max() < 4e-4
    assert np.abs(got - want)[want > 32].max() < 0.5


def test_known_values() -> None:
    """Of BT.2100 and BT.2408: PQ of 1000 cd/m2 and HLG of a full signal are white; 58 % PQ and 75 %
    HLG, which are the same white paper, come out alike; black is black."""

    def level(transfer: str, signal: float) -> float:
        grey = torch.full((1, 3, 1, 1), 255 * signal, dtype=torch.float64)
        found = sdr_levels(grey, transfer).flatten()
        assert float(found.max() - found.min()) < 1e-9  # grey stays grey
        return float(found[0])

    assert level("pq", 0.7518271) == pytest.approx(255, abs=1e-3)
    assert level("pq", 1.0) == level("hlg", 1.0) == pytest.approx(255, abs=1e-9)
    assert level("pq", 0.0) == level("hlg", 0.0) == 0
    assert level("pq", 0.5806) == pytest.approx(level("hlg", 0.75), abs=1)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_brighter_stays_brighter(transfer: str) -> None:
    """But for the small step back that method A itself has at its second knee."""
    grey = torch.linspace(0, 255, 1025, dtype=torch.float64).expand(1, 3, 1, 1025)
    steps = sdr_levels(grey, transfer)[0, 0, 0].diff()
    assert float(steps.min()) > -0.05


# ---- the op


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_op_agrees_with_the_reports(transfer: str) -> None:
    """Of every combination of 17 codes for each of Y, Cb, Cr: the levels of the reports."""
    codes = torch.linspace(64, 940, 17).int()
    y, u, v = (t.reshape(1, 17, 289).to(torch.uint16) for t in torch.meshgrid(
        codes, codes, codes, indexing="ij"
    ))  # fmt: skip
    got = ak.video_to_tensor(
        (y, u, v), format="yuv444p10", color_space="bt2020", transfer=transfer, dtype=torch.uint8
    )
    luma = (y.double() - 64) / 876
    blue, red = ((c.double() - 512) / 896 for c in (u, v))
    r, b = luma + 1.4746 * red, luma + 1.8814 * blue
    g = (luma - 0.2627 * r - 0.0593 * b) / 0.6780
    signal = torch.stack([r, g, b], -1).clamp(0, 1).numpy()
    want = levels_by_the_reports(signal, transfer)
    off = np.abs(got.permute(0, 2, 3, 1).double().numpy() - want)
    assert np.mean(off > 0.52) < 0.02
    assert off[want > 32].max() < 1.02


def test_resize_follows_the_map() -> None:
    """Two pixels are mapped and then mixed, not mixed and then mapped."""
    rgb = torch.tensor([[[[0] * 3, [190] * 3]]], dtype=torch.uint8)
    options = {"format": "rgb24", "transfer": "pq", "dtype": torch.uint8}
    black, white = (int(v) for v in ak.video_to_tensor((rgb,), **options)[0, 0, 0])
    mixed = ak.video_to_tensor((rgb,), size=(1, 1), interpolation="area", **options)
    assert abs(int(mixed[0, 0, 0, 0]) - (black + white) / 2) <= 0.5
