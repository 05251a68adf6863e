"""What is drawn for a clip, how it is distributed, and that the pixels follow it."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.video import problem
from aimills_kernels.kernels.video.problem import Arguments
from aimills_kernels.ops._philox import philox, two_uniforms
from aimills_kernels.video import Augment, VideoPreprocessor, color_jitter

ONES = 0xFFFFFFFF
PROMISED = (12, 42, 971, 770)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_philox_has_its_known_answers(counter: Any, key: Any, words: Any) -> None:
    """Of Random123's `kat_vectors`."""
    assert philox(counter, key) == words


def kolmogorov(values: list[float]) -> float:
    """The largest distance from the uniform distribution on 0..1, times the root of the count."""
    ordered, n = sorted(values), len(values)
    return max(max(v - i / n, (i + 1) / n - v) for i, v in enumerate(ordered)) * math.sqrt(n)


def test_uniforms_are_uniform() -> None:
    """1.95 is passed by chance once in a thousand; the seed is fixed, so once and for all."""
    pairs = [two_uniforms(3, stream, index) for stream in range(200) for index in range(10)]
    for values in zip(*pairs, strict=True):
        assert kolmogorov(list(values)) < 1.95
        assert 0 <= min(values) <= max(values) < 1
    first, second = zip(*pairs, strict=True)
    assert abs(statistics.correlation(first, second)) < 0.08
    assert abs(statistics.correlation(first[:-1], first[1:])) < 0.08


# ---- crops and flips


def test_crops_are_distributed_as_torchvisions() -> None:
    """In a frame so large that every crop fits: area, the logarithm of the ratio and the place are
    uniform."""
    augment = Augment(scale=(0.1, 0.5), ratio=(0.5, 2.0))
    height, width = 4000, 4000
    drawn = [augment.draw(11, clip, height, width) for clip in range(2000)]
    area, ratio, top, left = [], [], [], []
    for (t, x, h, w), _, _ in drawn:
        assert 0 <= t <= height - h
        assert 0 <= x <= width - w
        area.append((h * w / (height * width) - 0.1) / 0.4)
        ratio.append(math.log(w / h * 2) / math.log(4))
        top.append((t + 0.5) / (height - h + 1))
        left.append((x + 0.5) / (width - w + 1))
    for values in (area, ratio, top, left):
        assert kolmogorov([min(max(v, 0.0), 1.0) for v in values]) < 1.95
    flips = sum(d.flip for d in drawn) / len(drawn)
    assert abs(flips - 0.5) < 3.3 * 0.5 / math.sqrt(len(drawn))


def test_all_places_of_a_small_frame_come_up() -> None:
    augment = Augment(scale=(0.2, 0.3), ratio=(1.0, 1.0))
    places = {augment.draw(0, clip, 4, 4).crop for clip in range(300)}
    assert places == {(top, left, 2, 2) for top in range(3) for left in range(3)}


@pytest.mark.parametrize(
    ("height", "width", "crop"),
    [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (30, 30, (0, 0, 30, 30))],
)
def test_fallback_is_the_middle(height: int, width: int, crop: Any) -> None:
    """Where no crop of the whole area fits the ratio, as torchvision: the ratio nearest by."""
    augment = Augment(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    found = {augment.draw(0, clip, height, width).crop for clip in range(20)}
    if height != width:
        assert found == {crop}
    else:
        assert crop in found


def test_no_crop_and_no_flip() -> None:
    drawn = Augment(scale=None, flip=0.0).draw(5, 6, 7, 8)
    assert drawn == ((0, 0, 7, 8), False, ())
    assert Augment(flip=1.0).draw(5, 6, 7, 8).flip


def test_draws_are_a_function_of_seed_and_clip() -> None:
    """These values are a promise: a training run is repeated on another version."""
    augment = Augment(brightness=0.4, hue=0.1)
    again = [augment.draw(1, 2, 1080, 1920) for _ in range(2)]
    assert again[0] == again[1]
    assert augment.draw(1, 2, 1080, 1920).crop == PROMISED
    others = {augment.draw(s, c, 1080, 1920) for s, c in ((1, 2), (2, 1), (1, 3), (2, 2), (-1, 2))}
    assert len(others) == 5
    assert augment.draw(1, 2, 1080, 1920).flip == Augment().draw(1, 2, 1080, 1920).flip


# ---- colours


def by_steps(rgb: Tensor, b: float, c: float, s: float, h: float) -> Tensor:
    """[3, N] in 0..1, one change after the other."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    rgb = b * rgb
    rgb = c * rgb + (1 - c) * 0.5
    rgb = s * rgb + (1 - s) * (luma @ rgb)
    y = luma @ rgb
    u, v = 0.492 * (rgb[2] - y), 0.877 * (rgb[0] - y)
    turned = torch.complex(u, v) * torch.exp(torch.tensor(2j * math.pi * h))
    red, blue = y + turned.imag / 0.877, y + turned.real / 0.492
    return torch.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue])


def test_jitter_is_its_four_steps() -> None:
    rgb = torch.rand(3, 100, dtype=torch.float64)
    each = ((1.2, 1, 1, 0), (1, 0.7, 1, 0), (1, 1, 1.4, 0), (1, 1, 1, 0.1))
    for factors in (*each, (0.8, 1.3, 0.5, -0.3)):
        m = torch.tensor(color_jitter(*factors), dtype=torch.float64).view(3, 4)
        got = m[:, :3] @ rgb + m[:, 3:]
        assert float((got - by_steps(rgb, *factors)).abs().max()) < 1e-6  # of complex64's turn
    # Sums of a few rounded products in float64.
    still = torch.tensor(color_jitter(), dtype=torch.float64).view(3, 4)
    assert float((still - torch.eye(3, 4)).abs().max()) < 1e-15


def test_factors_are_distributed() -> None:
    augment = Augment(scale=None, brightness=0.4)
    factors = [augment.draw(0, clip, 9, 9).jitter[0] for clip in range(1000)]
    assert kolmogorov([(f - 0.6) / 0.8 for f in factors]) < 1.95
    strong = [Augment(scale=None, contrast=3.0).draw(0, c, 9, 9).jitter[0] for c in range(1000)]
    assert kolmogorov([f / 4 for f in strong]) < 1.95
    turns = [Augment(scale=None, hue=0.5).draw(0, clip, 9, 9).jitter for clip in range(200)]
    for t in turns:
        lumas = [0.299 * t[i] + 0.587 * t[4 + i] + 0.114 * t[8 + i] for i in range(3)]
        assert lumas == pytest.approx([0.299, 0.587, 0.114], abs=1e-12)


# ---- the op


def planes(frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(frames)
    return (
        torch.randint(40, 200, (frames, height, width), dtype=torch.uint8, generator=drawn),
        torch.randint(90, 160, (frames, height // 2, width // 2, 2), dtype=torch.uint8,
                      generator=drawn),
    )  # fmt: skip


ALL = Augment(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


def test_pixels_follow_what_is_drawn() -> None:
    clips = [planes(3, 40, 64), planes(2, 90, 50)]
    options: dict[str, Any] = {"layout": "NCHW", "dtype": torch.uint8}
    got = ak.video_to_tensor_ragged(
        clips, sizes=(16, 20), augment=ALL, seed=9, clip_ids=[70, 7], **options
    )
    want = []
    for clip_id, clip in zip((70, 7), clips, strict=True):
        crop, flip, jitter = ALL.draw(9, clip_id, *clip[0].shape[1:])
        want.append(ak.video_to_tensor(
            clip, size=(16, 20), crop=crop, flip=flip, jitter=jitter, **options
        ))  # fmt: skip
    assert torch.equal(got, torch.cat(want))
    # The clip's id counts and not its place.
    swapped = ak.video_to_tensor_ragged(
        clips[::-1], sizes=(16, 20), augment=ALL, seed=9, clip_ids=[7, 70], **options
    )
    assert torch.equal(swapped, torch.cat(want[::-1]))


def test_frames_of_a_clip_are_changed_alike() -> None:
    y, uv = planes(1, 40, 64)
    still = y.expand(6, -1, -1), uv.expand(6, -1, -1, -1)
    got = ak.video_to_tensor(still, size=(8, 8), layout="NTCHW", clip=3, augment=ALL, seed=4)
    assert got.shape == (2, 3, 3, 8, 8)
    assert torch.equal(got, got[:, :1].expand_as(got))
    assert not torch.equal(got[0], got[1])
    one = ak.video_to_tensor(still, size=(8, 8), layout="NTCHW", augment=ALL, seed=4, clip_ids=[1])
    assert torch.equal(one[0, :3], got[1])
    plain = ak.video_to_tensor(still, size=(8, 8), augment=True, seed=4)
    assert plain.shape == (6, 3, 8, 8)


def test_what_is_given_comes_first() -> None:
    clip = planes(2, 40, 64)
    augment = Augment(brightness=0.5, flip=1.0)
    drawn = augment.draw(3, 0, 20, 30)
    got = ak.video_to_tensor(
        clip, size=(9, 9), crop=(10, 11, 20, 30), flip=True, jitter=color_jitter(contrast=0.5),
        augment=augment, seed=3, dtype=torch.uint8,
    )  # fmt: skip
    top, left, height, width = drawn.crop
    m = torch.tensor([*color_jitter(contrast=0.5)]).view(3, 4).double() * drawn.jitter[0]
    want = ak.video_to_tensor(
        clip, size=(9, 9), crop=(10 + top, 11 + left, height, width), flip=not drawn.flip,
        jitter=m.flatten().tolist(), dtype=torch.uint8,
    )  # fmt: skip
    assert float((got.int() - want.int()).abs().max()) <= 1  # a tie may fall the other way


def test_colours_are_changed_before_they_are_clipped() -> None:
    """Codes above white come back where a clip is darkened: one matrix, not two."""
    y, uv = torch.full((1, 2, 2), 255, dtype=torch.uint8), torch.full((1, 1, 1, 2), 128)
    clip = y, uv.to(torch.uint8)
    assert int(ak.video_to_tensor(clip, dtype=torch.uint8)[0, 0, 0, 0]) == 255
    darker = ak.video_to_tensor(clip, jitter=color_jitter(0.5), dtype=torch.uint8)
    assert int(darker[0, 0, 0, 0]) == round((255 - 16) / 219 * 255 * 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": (0.0, 1.0)}, r"scale must be \(least, most\), above 0 and at most 1, got \(0"),
        ({"scale": (0.5, 0.2)}, "scale must be"),
        ({"scale": 0.5}, "scale must be"),
        ({"ratio": (2.0, 1.0)}, r"ratio must be \(least, most\), above 0, got"),
        ({"flip": 1.5}, "flip must be 0 to 1, got 1.5"),
        ({"hue": 0.6}, "hue must be 0 to 0.5, got 0.6"),
        ({"brightness": -0.1}, "brightness must be 0 or more, got -0.1"),
        ({"saturation": True}, "saturation must be 0 or more, got True"),
    ],
)
def test_wrong_augment_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"augment: {says}"):
        Augment(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"augment": 3, "seed": 0}, "augment must be an Augment, True or None, got 3"),
        ({"augment": True}, "augment needs a seed, and got None"),
        ({"augment": True, "seed": 0.5}, "augment: seed must be a whole number of 64 bits, got"),
        ({"augment": True, "seed": 1 << 64}, "augment: seed must be a whole number of 64 bits"),
        ({"augment": True, "seed": 0, "clip_ids": [1, 2]}, "clip_ids must be a list of 1, one a"),
        ({"augment": True, "seed": 0, "clip_ids": ["a"]}, "augment: clip_ids must be a whole numb"),
        ({"seed": 0}, "video_to_tensor: seed and clip_ids are for augment"),
        ({"augment": True, "seed": 0, "clip": 1}, "clip must divide the 2 frames and is for layo"),
        ({"augment": True, "seed": 0, "clip": 2, "layout": "NTCHW", "crop": (0, 0, 99, 9)},
         "crop must lie in the frame"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ak.video_to_tensor(planes(2, 8, 8), size=(4, 4), **options)


def test_preprocessor_augments() -> None:
    clips = [planes(4, 90, 160), planes(2, 120, 80)]
    tokens = VideoPreprocessor.from_preset("qwen2.5-vl", dtype=torch.float32)
    got = tokens(clips, augment=ALL, seed=2, clip_ids=[5, 6])
    assert torch.equal(got["video_grid_thw"], tokens(clips)["video_grid_thw"])
    whole = got["pixel_values_videos"]
    alone = tokens([clips[1]], augment=ALL, seed=2, clip_ids=[6])["pixel_values_videos"]
    assert torch.equal(whole[-len(alone) :], alone)
    assert not torch.equal(alone, tokens([clips[1]])["pixel_values_videos"])
    squares = VideoPreprocessor.from_preset("internvl")
    same = squares([clips[0], clips[0]], augment=ALL, seed=2, clip_ids=[3, 3])
    assert torch.equal(*same["pixel_values_videos"])
    clip = replace(VideoPreprocessor.from_preset("clip"), crop=None)
    with pytest.raises(ValueError, match="augment needs clips that get one size in the layout"):
        clip(clips, augment=True, seed=0)


@pytest.mark.parametrize("mode", ["torch", "pil13"])
def test_draws_share_what_is_worked_out_of_a_geometry(mode: str) -> None:
    """Crops and colours are packed anew, the rest is found: each time what would be worked out."""
    case = Case("drawn", F=1, H=60, W=80, h=20, w=24, mode=mode, dtype="u8")
    given = Arguments(*get_op("video_to_tensor").make_inputs(case, "cpu", 0))
    augment = Augment(scale=(0.02, 1.0), ratio=(0.2, 5.0), brightness=0.3)
    drawn = [augment.draw(1, clip, 60, 80) for clip in range(20)]
    calls = [given, *(given._replace(crop=list(d.crop), jitter=list(d.jitter)) for d in drawn)]
    alone = []
    for call in calls:
        problem._KEPT.clear()
        alone.append(problem.packed_at(64, tuple(call)))
    assert len(set(alone)) == len(calls)
    problem._KEPT.clear()
    assert [problem.packed_at(64, tuple(call)) for call in calls] == alone
    assert len(problem._KEPT) == 1
