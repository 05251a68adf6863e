"""The resizes of video_to_tensor: torch's without antialias, and Pillow's bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import packed
from aimills_kernels.kernels.video.resize import resize, vertical_first
from tools.video_oracles import pillow_across_first, pillow_resize

SIZES = [(35, 40, 12, 16), (17, 31, 40, 55), (20, 21, 33, 8), (9, 9, 1, 1), (1, 1, 4, 5)]
FILTERS = ["nearest", "area", "bilinear", "bicubic", "lanczos"]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_without_antialias_as_torch(size, interpolation):
    """Before rounding, in float64."""
    H, W, h, w = size
    levels = torch.randint(0, 256, (1, 3, H, W)).double()
    mode = "nearest-exact" if interpolation == "nearest" else interpolation
    want = F.interpolate(levels, size=(h, w), mode=mode)
    got = resize(levels, 2, h, interpolation, False)
    got = resize(got, 3, w, interpolation, False)
    assert float((got - want).abs().max()) < 1e-9


@pytest.mark.parametrize("interpolation", ["area", "lanczos"])
@pytest.mark.parametrize("size", [(35, 40, 13, 17), (17, 31, 41, 55), (9, 9, 1, 1)], ids=str)
def test_with_antialias_as_pillow_in_floats(size, interpolation):
    """Pillow's mode "F", which filters in float64 and stores float32. To an even side some samples
    lie on the edge of a box, on one side or the other by Pillow's rounding."""
    image = pytest.importorskip("PIL.Image")
    np = pytest.importorskip("numpy")
    H, W, h, w = size
    levels = torch.randint(0, 256, (1, 1, H, W)).double()
    method = image.Resampling.BOX if interpolation == "area" else image.Resampling.LANCZOS
    picture = image.fromarray(levels[0, 0].float().numpy()).resize((w, h), method)
    got = resize(resize(levels, 2, h, interpolation, True), 3, w, interpolation, True)
    assert float((got[0, 0] - torch.from_numpy(np.array(picture))).abs().max()) < 1e-3


# ---- Pillow


def geometries(count: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Source and target, among them lines, single pixels and identities along an axis."""
    rng = random.Random(seed)

    def side() -> int:
        return rng.choice([rng.randint(1, 9), rng.randint(1, 60), rng.randint(1, 200)])

    found = []
    for i in range(count):
        H, W, h, w = (side() for _ in range(4))
        found.append((H, W, H if i % 7 == 3 else h, W if i % 7 == 5 else w))
    return found


def ours(rgb: Tensor, height: int, width: int, interpolation: str, mode: str) -> Tensor:
    options: dict[str, Any] = {"format": "rgbp", "dtype": torch.uint8}
    return ak.video_to_tensor(
        (rgb.unsqueeze(0),), size=(height, width), interpolation=interpolation, mode=mode, **options
    )[0]


def by(provider: str) -> Callable[..., Tensor]:
    def call(*args: Any) -> Tensor:
        with ak.use_provider("video_to_tensor", provider):
            return ours(*args)

    return call


def emulated(rgb: Tensor, height: int, width: int, interpolation: str, mode: str) -> Tensor:
    """The CUDA kernel's phases on the host, by five blocks."""
    extension = pytest.importorskip("aimills_kernels._C")
    args = (
        [rgb.unsqueeze(0)], "rgbp", "bt709", "limited", "left", "linear", "sdr", height, width,
        [], [], [], 0, False, 0, [], interpolation, True, mode, [0.0] * 3, [1.0] * 3, torch.uint8,
        "NCHW", 0, [],
    )  # fmt: skip
    out, held = op.fake(*args), list[Tensor]()
    extension.video_to_tensor_emulated(extension.VideoParams(packed((out,), args, held)), 5)
    return out[0]


PROVIDERS = {"cpu": by("cpu"), "reference": by("reference"), "CUDA kernel": emulated}


def check_pillow(interpolation: str, count: int, seed: int) -> None:
    """The installed Pillow in its own mode; in the other where the two orders are the same, and
    where they differ one axis after the other, each of which is a resize of Pillow's own."""
    pil = pytest.importorskip("PIL")
    pytest.importorskip("numpy")
    new = int(pil.__version__.partition(".")[0]) >= 13
    for H, W, h, w in geometries(count, seed):
        rgb = torch.randint(0, 256, (3, H, W), dtype=torch.uint8)
        across_first = pillow_across_first(rgb, (h, w), interpolation)
        down_first = pillow_resize(pillow_resize(rgb, (h, W), interpolation), (h, w), interpolation)
        turned = vertical_first("pil13", (H, W), (h, w))
        for provider, call in PROVIDERS.items():
            found = {m: call(rgb, h, w, interpolation, m) for m in ("pil", "pil13")}
            where = f"{H} x {W} to {h} x {w} by {provider}"
            assert torch.equal(found["pil"], across_first), where
            assert torch.equal(found["pil13"], down_first if turned else across_first), where
            whole = found["pil13" if new else "pil"]
            assert torch.equal(whole, pillow_resize(rgb, (h, w), interpolation)), where


@pytest.mark.parametrize("interpolation", FILTERS)
def test_bits_are_those_of_pillow(interpolation):
    check_pillow(interpolation, 10, 1)


@pytest.mark.full
@pytest.mark.parametrize("interpolation", FILTERS)
def test_bits_are_those_of_pillow_on_many_sizes(interpolation):
    check_pillow(interpolation, 200, 2)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_pillow_of_large_ratios(interpolation):
    """A window of thousands of samples; 32 bits hold the sums as Pillow's do."""
    pytest.importorskip("PIL")
    rgb = torch.full((3, 4000, 3), 255, dtype=torch.uint8)
    want = pillow_resize(rgb, (2, 3), interpolation)
    for provider, call in PROVIDERS.items():
        assert torch.equal(call(rgb, 2, 3, interpolation, "pil"), want), provider


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"antialias": False}, "antialias must be True in mode pil, got False"),
        ({"mode": "pil12"}, "mode must be torch, pil, pil13 or fast, got 'pil12'"),
    ],
)
def test_what_pillow_has_not(option, says):
    rgb = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"video_to_tensor: {says}"):
        ak.video_to_tensor((rgb,), format="rgb24", **{"mode": "pil", **option})


@pytest.mark.parametrize("interpolation", ["area", "lanczos"])
def test_filters_without_a_narrow_form(interpolation):
    rgb = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"antialias must be True for {interpolation}, got False"):
        ak.video_to_tensor((rgb,), format="rgb24", interpolation=interpolation, antialias=False)
