"""Frame sampling and smart resize against the functions of Transformers and of qwen-vl-utils."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from aimills_kernels.video import Sampling, sample_frames, smart_resize, smart_resize_video
from aimills_kernels.video.sampling import STRATEGIES
from aimills_kernels.video.sizes import MaxPatches, ShortestEdge, SmartResize, SmartResizeVideo
from tests.hf_functions import function

QWEN2 = "models/qwen2_vl/video_processing_qwen2_vl.py"
QWEN3 = "models/qwen3_vl/video_processing_qwen3_vl.py"
INTERNVL = "models/internvl/video_processing_internvl.py"
SIGLIP2 = "models/siglip2/image_processing_pil_siglip2.py"
ROUNDS = 240


def theirs(strategy: str, total: int, rate: float, **options: Any) -> list[int]:
    """What Transformers samples."""
    meta = SimpleNamespace(total_num_frames=total, fps=rate)
    if strategy == "uniform":
        made = function("video_utils.py", "default_sample_indices_fn")(meta, **options)
        return made.tolist()
    file, name = {
        "qwen2-vl": (QWEN2, "Qwen2VLVideoProcessor"),
        "qwen3-vl": (QWEN3, "Qwen3VLVideoProcessor"),
        "internvl": (INTERNVL, "InternVLVideoProcessor"),
    }[strategy]
    own = SimpleNamespace(
        num_frames=None, fps=None, temporal_patch_size=2, initial_shift=True,
        min_frames=options.pop("min_frames", 4), max_frames=options.pop("max_frames", 768),
    )  # fmt: skip
    return function(file, "sample_frames", name)(own, meta, **options).tolist()


@pytest.mark.parametrize("strategy", ["uniform", "qwen2-vl", "qwen3-vl", "internvl"])
def test_samples_as_transformers(strategy: str, seed: int) -> None:
    rng = random.Random(seed)
    compared = beyond = 0
    for _ in range(ROUNDS):
        total = rng.choice([rng.randint(1, 12), rng.randint(1, 400), rng.randint(1, 200_000)])
        fps = rng.choice([24.0, 25.0, 30.0, 30000 / 1001, 59.94, rng.uniform(0.5, 240)])
        ours: dict[str, Any] = {}
        hf: dict[str, Any] = {}
        if rng.random() < 0.5:
            ours["num_frames"] = hf["num_frames"] = rng.randint(1, min(total + 2, 900))
        else:
            ours["target_fps"] = hf["fps"] = rng.choice([1, 2, 2.0, 4, rng.uniform(0.1, 30)])
        if strategy.startswith("qwen"):
            for name, most in (("min_frames", 16), ("max_frames", 900)):
                ours[name] = hf[name] = rng.randint(1, most)
        try:
            expected = theirs(strategy, total, fps, **hf)
        except (ValueError, ZeroDivisionError):
            expected = []
        if expected and expected[-1] == total:  # no frame has this index: indexing fails there
            beyond += 1
            expected.pop()
        if not expected:
            with pytest.raises(ValueError, match="frame"):
                sample_frames(total, fps, strategy=strategy, **ours)
        else:
            got = sample_frames(total, fps, strategy=strategy, **ours)
            assert got == expected, (strategy, total, fps, ours)
            compared += 1
    assert compared > ROUNDS // 3
    # Of qwen2-vl 2.3 % of these draws have one; a tenth is passed once in 10**9 seeds.
    assert beyond <= ROUNDS // 10 if strategy in ("qwen2-vl", "internvl") else not beyond


# (total, fps, options of qwen-vl-utils' `ele`, frames it takes, and the first and last of them):
# smart_nframes and the linspace of qwen-vl-utils 0.0.14, worked by hand.
QWEN_UTILS = [
    (300, 30.0, {}, 20, [0, 16, 31, 47], 299),  # 10 s at 2 a second; steps of 299 / 19
    (301, 30.0, {}, 20, [0, 16, 32, 47], 300),  # 20.07, floored to an even number
    (30, 30.0, {}, 4, [0, 10, 19, 29], 29),  # 2 frames of 1 s, but 4 at least
    (5, 25.0, {}, 4, [0, 1, 3, 4], 4),
    (4, 25.0, {}, 4, [0, 1, 2, 3], 3),
    (3, 25.0, {}, 2, [0, 2], 2),
    (2, 25.0, {}, 2, [0, 1], 1),
    (90000, 30.0, {}, 768, [0, 117, 235, 352], 89999),  # 6000, but 768 at most
    (300, 30.0, {"target_fps": 1.0}, 10, [0, 33, 66, 100], 299),
    (300, 30.0, {"num_frames": 7}, 8, [0, 43, 85, 128], 299),  # 3.5 pairs round to 4
    (300, 30.0, {"num_frames": 5}, 4, [0, 100, 199, 299], 299),  # 2.5 pairs round to 2
    (300, 30.0, {"min_frames": 31}, 32, [0, 10, 19, 29], 299),  # bounds go to even numbers
    (300, 30.0, {"max_frames": 9}, 8, [0, 43, 85, 128], 299),
]


@pytest.mark.parametrize(("total", "fps", "options", "count", "first", "last"), QWEN_UTILS)
def test_samples_as_qwen_vl_utils(
    total: int, fps: float, options: dict[str, Any], count: int, first: list[int], last: int
) -> None:
    got = sample_frames(total, fps, strategy="qwen-vl-utils", **options)
    assert (len(got), got[: len(first)], got[-1]) == (count, first, last)


def test_strategies_differ_where_their_sources_do() -> None:
    made = {
        s: tuple(sample_frames(100, 25, strategy=s, num_frames=4))
        for s in ("uniform", "qwen2-vl", "qwen3-vl", "internvl", "qwen-vl-utils")
    }
    assert made["uniform"] == made["qwen2-vl"] == (0, 25, 50, 75)
    assert made["qwen3-vl"] == made["qwen-vl-utils"] == (0, 33, 66, 99)
    assert made["internvl"] == (12, 37, 62, 87)


def test_strategy_fps_takes_the_frame_on_show() -> None:
    assert sample_frames(10, 30, strategy="fps", target_fps=10) == [0, 3, 6, 9]
    assert sample_frames(10, 25, strategy="fps", target_fps=10) == [0, 2, 5, 7]
    assert sample_frames(3, 10, strategy="fps", target_fps=20) == [0, 0, 1, 1, 2, 2]
    # In floats the product of step and count falls short of a frame here and there.
    rate = Fraction(30000, 1001)
    got = sample_frames(300, rate, strategy="fps", target_fps=rate)
    assert got == list(range(300))


def test_without_a_count_all_frames_are_taken() -> None:
    for strategy in ("uniform", "qwen2-vl", "internvl"):
        assert sample_frames(5, strategy=strategy) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("args", "options", "says"),
    [
        ((0, 25), {}, "total must be a whole number from 1"),
        ((True, 25), {}, "total must be"),
        ((5.0, 25), {}, "total must be"),
        ((5, 0), {}, "fps must be a number"),
        ((5, float("nan")), {}, "fps must be a number"),
        ((5, "25"), {}, "fps must be a number"),
        ((5, 25), {"strategy": "random"}, "strategy must be uniform or fps"),
        ((5, 25), {"num_frames": 0}, "num_frames must be"),
        ((5, 25), {"num_frames": 2, "target_fps": 1.0}, "exclude each other"),
        ((5, 25), {"target_fps": -1}, "the fps to sample at must be"),
        ((5, 25), {"strategy": "fps"}, "needs the fps to sample at"),
        ((5, None), {"target_fps": 1}, "fps, the video's own rate, is needed"),
        ((5, None), {"strategy": "qwen-vl-utils"}, "fps, the video's own rate, is needed"),
        ((5, 25), {"num_frames": 6}, "6 frames are asked for, and the video has only 5"),
        ((1, 25), {"strategy": "qwen2-vl", "target_fps": 2}, "no frame would be sampled"),
        ((1, 25), {"strategy": "qwen-vl-utils"}, "no frame would be sampled"),
        ((5, 25), {"min_frames": "4"}, "min_frames must be"),
        ((5, 25), {"multiple": 0}, "multiple must be"),
        ((1 << 30, 1e-6), {"strategy": "fps", "target_fps": 1e6}, "number of frames sampled"),
        ((5, 25), {"strategy": ["fps"]}, r"strategy must be uniform or .*, got \['fps'\]"),
        ((60, 30), {"strategy": "fps", "target_fps": 1e6}, "2000000 frames would be sampled from"),
        ((60, 30), {"strategy": "qwen3-vl", "num_frames": 1 << 31}, "1048576 at most; num_frames"),
    ],
)
def test_sampling_that_is_refused(args: tuple, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sample_frames(*args, **options)


def test_a_choice_goes_before_all_frames() -> None:
    """So that `dataclasses.replace` changes what a preset such as internvl takes."""
    for strategy in STRATEGIES:
        every = Sampling(strategy, all_frames=True)
        assert every.indices(10, 5.0) == list(range(10))
        counted = [{"num_frames": 4}] if strategy != "fps" else []
        for options in (*counted, {"fps": 2.0}):
            chosen = Sampling(strategy, **options)
            found = replace(every, **options)
            assert found.indices(10, 5.0) == chosen.indices(10, 5.0) != list(range(10))
            assert str(found) == str(chosen)
    with pytest.raises(ValueError, match="the strategy fps needs the fps to sample at"):
        Sampling("fps", num_frames=4, all_frames=True)


def test_every_strategy_gives_frames_of_the_video(seed: int) -> None:
    rng = random.Random(seed)
    for strategy in STRATEGIES:
        for _ in range(20):
            total = rng.randint(2, 20_000)
            rule = Sampling(strategy, fps=rng.uniform(0.5, 4))
            try:
                got = rule.indices(total, rng.uniform(5, 60))
            except ValueError:
                continue
            assert got == sorted(got)
            assert 0 <= got[0] <= got[-1] < total


# ---- sizes


def side(rng: random.Random) -> int:
    return rng.choice([rng.randint(1, 60), rng.randint(1, 700), rng.randint(1, 8000)])


def same(ours: Any, hf: Any) -> bool:
    """Compares two calls; both may refuse. Returns whether they gave a size."""
    try:
        expected = hf()
    except ValueError:
        with pytest.raises(ValueError, match=r"ratio|frames"):
            ours()
        return False
    assert ours() == tuple(expected)
    return True


def test_smart_resize_as_transformers(seed: int) -> None:
    rng, hf = random.Random(seed), function(QWEN2, "smart_resize")
    given = 0
    for _ in range(ROUNDS):
        h, w, factor = side(rng), side(rng), rng.choice([28, 32, 14, 7])
        least = rng.randint(1, 200_000)
        bounds = {"min_pixels": least, "max_pixels": least + rng.randint(0, 3_000_000)}
        given += same(
            lambda h=h, w=w, f=factor, b=bounds: smart_resize(h, w, factor=f, **b),
            lambda h=h, w=w, f=factor, b=bounds: hf(h, w, factor=f, **b),
        )
    assert given > ROUNDS // 2


def test_smart_resize_of_all_frames_as_transformers(seed: int) -> None:
    rng, hf = random.Random(seed), function(QWEN3, "smart_resize")
    given = 0
    for _ in range(ROUNDS):
        t, h, w, factor = rng.randint(1, 800), side(rng), side(rng), rng.choice([28, 32])
        least = rng.randint(1, 200_000)
        bounds = {"min_pixels": least, "max_pixels": least + rng.randint(0, 30_000_000)}
        given += same(
            lambda t=t, h=h, w=w, f=factor, b=bounds: smart_resize_video(t, h, w, factor=f, **b),
            lambda t=t, h=h, w=w, f=factor, b=bounds: hf(t, h, w, factor=f, **b),
        )
    assert given > ROUNDS // 2


class Asked(Exception):
    """Carries the size for which a processor of Transformers asks."""


def asked(file: str, name: str, frames: int, h: int, w: int, **own: Any) -> tuple[int, int]:
    """The size that a processor's `resize` hands on."""
    resize = function(file, "resize", name)

    def catch(image: Any, size: Any, resample: Any) -> None:
        raise Asked(size)

    space = resize.__globals__
    space["smart_resize"] = function(file, "smart_resize")
    space["SizeDict"] = lambda height, width: (height, width)
    space["super"] = lambda: SimpleNamespace(resize=catch)
    size = SimpleNamespace(shortest_edge=own["min_pixels"], longest_edge=own["max_pixels"])
    videos = SimpleNamespace(shape=(1, frames, 3, h, w))
    try:
        resize(
            SimpleNamespace(max_video_tokens=own["max_tokens"]), videos, size, None,
            own["factor"], 2, cap_pixels_per_frame=own["cap"],
        )  # fmt: skip
    except Asked as found:
        return found.args[0]
    raise AssertionError


@pytest.mark.parametrize(
    ("file", "name", "rule", "tokens"),
    [
        (QWEN2, "Qwen2VLVideoProcessor", SmartResize, 128000),
        (QWEN3, "Qwen3VLVideoProcessor", SmartResizeVideo, 768),
    ],
)
def test_size_rules_as_transformers(
    file: str, name: str, rule: Any, tokens: int, seed: int
) -> None:
    rng = random.Random(seed)
    given = 0
    for _ in range(ROUNDS // 3):
        frames, h, w = rng.randint(2, 800), side(rng), side(rng)
        least = rng.randint(1, 200_000)
        own = {
            "factor": rng.choice([28, 32]), "min_pixels": least, "cap": rng.random() < 0.7,
            "max_pixels": least + rng.randint(0, 30_000_000),
            "max_tokens": rng.choice([tokens, rng.randint(1, 20_000)]),
        }  # fmt: skip
        given += same(
            lambda f=frames, h=h, w=w, o=own: rule(**o).size(f, h, w),
            lambda f=frames, h=h, w=w, o=own: asked(file, name, f, h, w, **o),
        )
    assert given > ROUNDS // 6


def test_naflex_size_as_transformers(seed: int) -> None:
    rng, hf = random.Random(seed), function(SIGLIP2, "get_image_size_for_max_num_patches")
    for _ in range(ROUNDS // 3):
        h, w = rng.randint(1, 4000), rng.randint(1, 4000)
        patch, count = rng.choice([14, 16]), rng.choice([256, 576, 729, 1024])
        assert MaxPatches(patch, count).size(1, h, w) == tuple(hf(h, w, patch, count))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1080, 1920, (224, 398)),
        (1920, 1080, (398, 224)),
        (224, 224, (224, 224)),
        (3, 7, (224, 522)),
    ],
)
def test_shortest_edge(height: int, width: int, expected: tuple[int, int]) -> None:
    assert ShortestEdge(224).size(1, height, width) == expected


def test_qwen25_at_1080p() -> None:
    pixels = {"min_pixels": 128 * 28 * 28, "max_pixels": 768 * 28 * 28}
    assert smart_resize(1080, 1920, factor=28, **pixels) == (560, 1008)


def test_ratio_of_a_small_video_is_told_by_its_own_size() -> None:
    """Which Transformers enlarges first."""
    with pytest.raises(ValueError, match="within a ratio of 200, got 2 x 4000 pixels"):
        smart_resize_video(2, 2, 4000, min_pixels=4096, max_pixels=1 << 24)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"height": 0}, "height must be a whole number from 1"),
        ({"width": 2.5}, "width must be"),
        ({"factor": 0}, "factor must be"),
        ({"min_pixels": 0}, "min_pixels must be"),
        ({"max_pixels": "9"}, "max_pixels must be"),
        ({"min_pixels": 5, "max_pixels": 4}, r"min_pixels \(5\) must be at most max_pixels \(4\)"),
        ({"height": 1, "width": 201}, "within a ratio of 200, got 1 x 201"),
    ],
)
def test_size_that_is_refused(options: dict[str, Any], says: str) -> None:
    given = {
        "height": 20,
        "width": 30,
        "factor": 28,
        "min_pixels": 4,
        "max_pixels": 5000,
        **options,
    }
    with pytest.raises(ValueError, match=says):
        smart_resize(given.pop("height"), given.pop("width"), **given)


def test_too_few_frames_for_a_temporal_patch() -> None:
    with pytest.raises(ValueError, match="frames must be at least 2"):
        smart_resize_video(1, 20, 30, min_pixels=1, max_pixels=9)


def test_naflex_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit 4 patches"):
        MaxPatches(16, 4).size(1, 100_000_000, 16)
