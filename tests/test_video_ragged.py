"""Clips of several sizes in one call: against a call for each, and what the function takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video import nvrtc
from aimills_kernels.kernels.video.op_ragged import video_to_tensor_ragged as op
from aimills_kernels.kernels.video.ragged import RaggedArguments, public_arguments
from aimills_kernels.ops._run import run
from aimills_kernels.video import VideoPreprocessor

Planes = tuple[Tensor, Tensor]


def clip(frames: int, height: int, width: int, seed: int = 0) -> Planes:
    drawn = torch.Generator().manual_seed(seed)
    rows, cols = -(-height // 2), -(-width // 2)
    return (
        torch.randint(0, 256, (frames, height, width), dtype=torch.uint8, generator=drawn),
        torch.randint(0, 256, (frames, rows, cols, 2), dtype=torch.uint8, generator=drawn),
    )


CLIPS = [clip(1, 30, 50), clip(3, 45, 31, 1), clip(2, 16, 90, 2)]
SIZES = [(28, 28), (56, 28), (28, 56)]


def test_tokens_are_those_of_single_calls() -> None:
    options: dict[str, Any] = {"layout": "patches", "patch": (2, 14, 2), "mean": [0.5] * 3}
    crops = [(1, 2, 25, 40), (0, 0, 45, 31), (3, 4, 5, 6)]
    flips = [True, False, True]
    got = ak.video_to_tensor_ragged(CLIPS, sizes=SIZES, crops=crops, flips=flips, **options)
    want = [
        ak.video_to_tensor(planes, size=size, crop=crop, flip=flip, **options)
        for planes, size, crop, flip in zip(CLIPS, SIZES, crops, flips, strict=True)
    ]
    assert torch.equal(got, torch.cat(want))
    out = torch.empty_like(got)
    again = ak.video_to_tensor_ragged(
        CLIPS, sizes=SIZES, crops=crops, flips=flips, out=out, **options
    )
    assert again is out
    assert torch.equal(out, got)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NTCHW", "NCTHW"])
def test_pictures_are_those_of_single_calls(layout: str) -> None:
    clips = [clip(2, 30, 50), clip(2, 7, 9, 1)]
    got = ak.video_to_tensor_ragged(clips, sizes=(11, 8), layout=layout, rotate=90)
    want = [ak.video_to_tensor(c, size=(11, 8), layout=layout, rotate=90) for c in clips]
    assert torch.equal(got, torch.cat(want))


def test_many_clips_by_several_threads() -> None:
    clips = [clip(1, 5 + i % 7, 9 + i % 5, i) for i in range(150)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        got = ak.video_to_tensor_ragged(clips, sizes=(4, 5), dtype=torch.uint8)
    finally:
        torch.set_num_threads(before)
    want = [ak.video_to_tensor(c, size=(4, 5), dtype=torch.uint8) for c in clips]
    assert torch.equal(got, torch.cat(want))


def test_a_launch_for_each_64_clips() -> None:
    """The blocks of a clip are those between its number and the next one."""
    clips = [clip(i % 3, 5, 9, i) for i in range(100)]
    args = tuple(RaggedArguments(
        [p for c in clips for p in c], "nv12", "bt709", "limited", "left", "linear", "sdr",
        [40, 70] * 100, [], [], 0, [], 0, [], "bicubic", True, "torch", [0.0] * 3, [1.0] * 3,
        torch.uint8, "NCHW", [],
    ))  # fmt: skip
    out = op.fake(*args)
    launches = list(nvrtc.batches((out,), args, []))
    assert [loader for loader, _, _ in launches] == ["Yuv420"] * 2
    frames = sum(i % 3 for i in range(100))
    assert sum(blocks for _, _, blocks in launches) == frames * 3 * 3
    header = (nvrtc.sources() / "video/batch.h").read_text()
    assert f"constexpr int kClips = {nvrtc.CLIPS};" in header
    (first, _), *_ = [
        (int.from_bytes(batch[:4], "little"), blocks) for _, batch, blocks in launches
    ]
    assert first == 64
    assert {len(batch) for _, batch, _ in launches} == {8 + 8 * 65 + 64 * 480}


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "clips must be a list of planes, got <class 'list'>"),
    (CLIPS[0], {}, r"clips\[0\] must be a tuple of tensors"),
    ([CLIPS[0], (CLIPS[0][0],)], {}, r"clips\[1\]: nv12 is 2 planes \(y, uv\), got 1"),
    (CLIPS, {"sizes": [(5, 7)]}, "sizes must be a list of 3, one a clip"),
    (CLIPS, {"sizes": [(5, 7), (5, 7), (5, 0)]}, "size must be .height, width."),
    (CLIPS, {"crops": [(0, 0, 5, 5)]}, "crops must be a list of 3, one a clip"),
    (CLIPS, {"flips": [True]}, "flips must be 1 values for each of 3 clips, got 1"),
    (CLIPS, {"flips": [1, 0, 0]}, "flips must be True or False, got 1"),
    (CLIPS, {"jitters": [[1.0] * 3] * 3}, "jitter must be twelve numbers"),
    (CLIPS, {"sizes": SIZES}, "clip 1 would be .3, 56, 28. a piece in layout NCHW and clip 0"),
    (CLIPS, {"seed": 3}, "seed and clip_ids are for augment"),
]


@pytest.mark.parametrize(("clips", "options", "says"), BAD)
def test_what_is_refused(clips: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ak.video_to_tensor_ragged(clips, **{"sizes": (5, 7), **options})


def test_preprocessor_makes_one_call_of_several_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    from aimills_kernels.video import preprocess

    calls = []
    right = preprocess.video_to_tensor_ragged

    def counted(*args: Any, **options: Any) -> Tensor:
        calls.append(len(args[0]))
        return right(*args, **options)

    monkeypatch.setattr(preprocess, "video_to_tensor_ragged", counted)
    clips = [clip(4, 90, 160), clip(6, 200, 120, 1), clip(5, 96, 96, 2)]
    model = VideoPreprocessor.from_preset("qwen2.5-vl")
    got = model(clips, flip=True)
    alone = [model([c], flip=True) for c in clips]
    for name in ("pixel_values_videos", "video_grid_thw"):
        assert torch.equal(got[name], torch.cat([a[name] for a in alone]))
    squares = VideoPreprocessor.from_preset("siglip")
    assert torch.equal(
        squares(clips)["pixel_values"],
        torch.cat([squares([c])["pixel_values"] for c in clips]),
    )
    assert calls == [3, 3]


def test_public_arguments_are_the_flat_ones() -> None:
    for case in op.cases[:7]:
        args = op.make_inputs(case, "cpu", 0)
        given = public_arguments(dict(zip(op.params, args, strict=True)))
        assert torch.equal(
            ak.video_to_tensor_ragged(**given).view(torch.uint8),
            run("video_to_tensor_ragged", args).view(torch.uint8),
        )
