"""The mode "fast" of video_to_tensor: planes are filtered, then converted."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import LOADERS, Arguments, loader_of
from aimills_kernels.kernels.video.resize import chroma_grid, filter_taps
from tools.video_errors import smooth, yuv
from tools.video_modes import TARGETS, times

PLACES = ("left", "center", "topleft")


@pytest.mark.parametrize("format", ["nv12", "i420", "p010", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("place", PLACES)
def test_agrees_with_swscale(format: str, place: str) -> None:
    """FFmpeg's swscale filters planes and converts too: at most a level apart, and few of
    them."""
    pytest.importorskip("av")
    from tools.video_oracles import swscale_whole

    for H, W, h, w in ((96, 160, 28, 56), (66, 90, 60, 84)):
        planes = yuv(format, "limited", H, W, "smooth")
        want = swscale_whole(planes, format, "bt709", "limited", (h, w), place)
        got = ak.video_to_tensor(
            planes, format=format, size=(h, w), chroma_location=place, mode="fast",
            dtype=torch.uint8,
        )  # fmt: skip
        apart = (got[0].int() - want.int()).abs()
        assert int(apart.max()) <= 1
        assert float(apart.float().mean()) < 0.07


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("provider", ["reference", "cpu"])
def test_a_slope_stays_a_slope(place: str, provider: str) -> None:
    """Chroma that grows by 2 a sample, where chroma lies by its definition, grows by 1 a luma
    sample: so after a resize outputs follow from their own places, whatever the crop. Away from
    the edges, whose samples repeat."""
    at = 0.0 if place != "center" else 0.5  # of chroma sample 0, in luma samples
    y = torch.full((1, 8, 120), 126, dtype=torch.uint8)
    u = (60 + 2 * torch.arange(60)).to(torch.uint8).expand(1, 4, 60)
    v = torch.full((1, 4, 60), 128, dtype=torch.uint8)
    for left, width, w in ((0, 120, 40), (7, 101, 57), (30, 60, 133)):
        with ak.use_provider("video_to_tensor", provider):
            out = ak.video_to_tensor(
                (y, u.contiguous(), v), format="i420", crop=(0, left, 8, width), size=(3, w),
                chroma_location=place, interpolation="bilinear", antialias=False,
                dtype=torch.float32, mode="fast",
            )  # fmt: skip
        luma_at = left + (torch.arange(w) + 0.5) * width / w - 0.5
        chroma = 60 + (luma_at - at)
        blue = (126 - 16) * 255 / 219 + 2 * (1 - 0.0722) * (chroma - 128) * 255 / 224
        inside = slice(w // 8, -(w // 8))
        want = blue[inside].clamp(0, 255) / 255
        assert float((out[0, 2, 1, inside] - want).abs().max()) < 0.51 / 255 + 1e-5


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("cosited", [False, True])
def test_places_by_exact_fractions(first: int, size: int, cosited: bool) -> None:
    """ "nearest" takes the chroma sample whose extent, two luma samples around its place, holds the
    output's centre, but none that stands for no luma sample of the crop."""
    for out in (1, 2, 3, 7):
        grid = chroma_grid(first, size, out, cosited)
        (at,), _ = filter_taps(size, out, "nearest", True, torch.float64, torch.device("cpu"), grid)
        for i in range(out):
            center = first + (i + Fraction(1, 2)) * size / out  # luma sample j covers j to j + 1
            place = center + Fraction(1, 2) if cosited else center
            want = min(math.floor(place / 2), (first + size + 1) // 2 - 1)
            assert first // 2 + int(at[i]) == want


def test_constant_planes_have_the_colour_of_the_exact_mode() -> None:
    """Whatever is filtered, crop and filter included."""
    planes = [torch.full((1, 20, 30), 90, dtype=torch.uint8),
              torch.full((1, 10, 15, 2), 140, dtype=torch.uint8)]  # fmt: skip
    for interpolation in ("nearest", "area", "bilinear", "bicubic", "lanczos"):
        found = {
            mode: ak.video_to_tensor(
                planes, size=(7, 41), crop=(3, 1, 14, 27), interpolation=interpolation, mode=mode,
                dtype=torch.uint8,
            )
            for mode in ("torch", "fast")
        }  # fmt: skip
        assert torch.equal(found["torch"], found["fast"])


def test_rgb_is_the_exact_mode() -> None:
    rgb = smooth(30, 44)[None]
    for more in ({}, {"jitter": [0.5, 0.2, 0, 0.1, 0, 0.9, 0, 0, 0.1, 0, 1.1, -0.1]}):
        fast, exact = (
            ak.video_to_tensor((rgb,), format="rgbp", size=(13, 50), mode=mode, **more)
            for mode in ("fast", "torch")
        )
        assert torch.equal(fast, exact)


def test_jitter_is_folded_into_the_matrix() -> None:
    """What the matrix takes beyond white and black comes back: nothing is clipped in between."""
    white = [torch.full((1, 4, 4), 255, dtype=torch.uint8),
             torch.full((1, 2, 2, 2), 128, dtype=torch.uint8)]  # fmt: skip
    half = [0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0]
    for provider in ("reference", "cpu"):
        with ak.use_provider("video_to_tensor", provider):
            out = ak.video_to_tensor(
                white, size=(3, 3), mode="fast", jitter=half, dtype=torch.uint8
            )
        assert out.unique().tolist() == [round((255 - 16) * 255 / 219 / 2)]


def test_loaders() -> None:
    """One for NV12 and its like, one for the rest; RGB takes those of the exact mode."""
    wanted = {"nv12": "Planes420", "i420": "Planes420", "p010": "PlanesAny",
              "yuv444p": "PlanesAny", "rgb24": "General"}  # fmt: skip
    for format, loader in wanted.items():
        case = Case("l", F=1, H=8, W=8, h=4, w=4, format=format, mode="fast")
        args = Arguments(*op.make_inputs(case, "cpu", 0))
        assert loader_of(args) == loader
        assert loader in LOADERS


def test_hdr_is_refused() -> None:
    planes = [torch.zeros(1, 4, 4, dtype=torch.uint16), torch.zeros(1, 2, 2, 2, dtype=torch.uint16)]
    with pytest.raises(ValueError, match=r"transfer must be sdr in mode fast, .* got hlg"):
        ak.video_to_tensor(planes, format="p010", color_space="bt2020", transfer="hlg", mode="fast")


def test_modes_are_timed_in_turns() -> None:
    for target in TARGETS:
        found = times("nv12", 6, 8, target, ["torch", "fast"], 3)
        assert {mode: len(each) for mode, each in found.items()} == {"torch": 3, "fast": 3}
        assert min(min(each) for each in found.values()) >= 0
