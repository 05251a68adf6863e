"""The layouts of video_to_tensor's output: by their definition, and as Transformers has them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak


def pictures(frames: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8)


def token_at(t: int, c: int, y: int, x: int, sizes: tuple, patch: tuple) -> tuple[int, int]:
    """Row and column of a pixel of one clip, as Qwen2-VL's patches are ordered."""
    (height, width), (tall, P, m) = sizes, patch
    gh, gw = height // P, width // P
    by, my, py = y // (P * m), y // P % m, y % P
    bx, mx, px = x // (P * m), x // P % m, x % P
    row = t // tall * gh * gw + ((by * (gw // m) + bx) * m + my) * m + mx
    return row, ((c * tall + t % tall) * P + py) * P + px


@pytest.mark.parametrize("patch", [(2, 3, 2), (1, 2, 1), (3, 2, 1), (1, 1, 2), (2, 6, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_patches_are_where_they_are_defined(patch, dtype):
    frames, clip, size = 8, 4, (12, 18)
    rgb = pictures(frames, *size)
    options = {"format": "rgb24", "dtype": dtype}
    flat = ak.video_to_tensor((rgb,), **options)
    got = ak.video_to_tensor((rgb,), layout="patches", patch=patch, clip=clip, **options)
    filled = -(-clip // patch[0]) * patch[0]
    tokens = got.view(frames // clip, -1, got.shape[1])
    want = torch.empty_like(tokens)
    for t, c, y, x in itertools.product(range(filled), range(3), range(size[0]), range(size[1])):
        row, col = token_at(t, c, y, x, size, patch)
        for n in range(frames // clip):
            want[n, row, col] = flat[n * clip + min(t, clip - 1), c, y, x]
    assert torch.equal(tokens, want)


@pytest.mark.parametrize("layout", ["NHWC", "NTCHW", "NCTHW"])
def test_pictures_are_where_they_are_defined(layout):
    rgb = pictures(6, 5, 7)
    flat = ak.video_to_tensor((rgb,), format="rgb24", dtype=torch.uint8)
    clip = None if layout == "NHWC" else 3
    got = ak.video_to_tensor((rgb,), format="rgb24", dtype=torch.uint8, layout=layout, clip=clip)
    for f, c, y, x in itertools.product(range(6), range(3), range(5), range(7)):
        place = {
            "NHWC": (f, y, x, c),
            "NTCHW": (f // 3, f % 3, c, y, x),
            "NCTHW": (f // 3, c, f % 3, y, x),
        }[layout]
        assert got[place] == flat[f, c, y, x]


@pytest.mark.full
@pytest.mark.parametrize("size", [(56, 84), (112, 56)])
def test_patches_are_those_of_transformers(size):
    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    processor = transformers.Qwen2VLImageProcessorPil(
        do_resize=False, do_rescale=False, do_normalize=False
    )
    rgb = pictures(1, *size)
    found = processor(images=[image.fromarray(rgb[0].numpy())], return_tensors="pt")
    got = ak.video_to_tensor(
        (rgb,), format="rgb24", dtype=torch.uint8, layout="patches", patch=(2, 14, 2)
    )
    assert torch.equal(got.float(), found["pixel_values"].float())


def test_tubelets_are_those_of_a_convolution():
    """VideoMAE's embedding is a Conv3d whose kernel and stride are (2, side, side)."""
    rgb = pictures(4, 8, 12)
    clips = ak.video_to_tensor((rgb,), format="rgb24", dtype=torch.float32, layout="NCTHW")
    tokens = ak.video_to_tensor(
        (rgb,), format="rgb24", dtype=torch.float32, layout="patches", patch=(2, 4, 1)
    )
    weight = torch.randn(5, 3, 2, 4, 4)
    want = torch.nn.functional.conv3d(clips, weight, stride=(2, 4, 4))[0].flatten(1).T
    # Sums of 96 terms in float32, in another order; a value in the wrong place is off by some 0.1.
    assert torch.allclose(tokens @ weight.flatten(1).T, want, atol=1e-4)


def test_e4m3_rounds_and_saturates_as_torch_does():
    """Every level through an affine step that spreads them over e4m3, its ends included."""
    rgb = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    for std in (1e-3, 0.05, 1.0, 300.0):
        options = {"format": "rgb24", "mean": [0.5] * 3, "std": [std] * 3}
        exact = ak.video_to_tensor((rgb,), dtype=torch.float32, **options)
        got = ak.video_to_tensor((rgb,), dtype=torch.float8_e4m3fn, **options)
        want = exact.clamp(-448, 448).to(torch.float8_e4m3fn)
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
