"""Long videos go through the preprocessor in pieces: the same values, and little memory."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from aimills_kernels.video import VideoPreprocessor, decode_to_tensor, pieces, sizes
from tests.test_video_decode import av, encoded, noise, plain, which

FRAME = 64 * 48 * 3 // 2  # bytes


def qwen(name: str) -> VideoPreprocessor:
    made = VideoPreprocessor.from_preset(name, dtype=torch.float32)
    assert isinstance(made.size, (sizes.SmartResize, sizes.SmartResizeVideo))
    return replace(made, size=replace(made.size, min_pixels=1, max_pixels=40000))


PRESETS = {
    "qwen2.5-vl": qwen("qwen2.5-vl"), "qwen3-vl": qwen("qwen3-vl"), "clip": plain(),
    "videomae": VideoPreprocessor.from_preset("videomae"),
    "siglip2": VideoPreprocessor.from_preset("siglip2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def clip() -> bytes:
    return encoded(count=24, paint=noise, gop=24)


def frames_of_each_call(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts, right = [], VideoPreprocessor.__call__

    def counted(made: VideoPreprocessor, planes: Any, **options: Any) -> Any:
        counts.append(len(planes[0]))
        return right(made, planes, **options)

    monkeypatch.setattr(VideoPreprocessor, "__call__", counted)
    return counts


@pytest.mark.parametrize("rotate", [0, 90])
@pytest.mark.parametrize("preset", PRESETS)
def test_values_are_those_of_one_piece(
    preset: str, rotate: int, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven frames, some of them twice: of patches in time the last one is filled up."""
    given: dict[str, Any] = {"indices": [0, 3, 3, 4, 5, 9, 10, 15, 21, 21, 23], "rotate": rotate}
    calls = frames_of_each_call(monkeypatch)
    whole = decode_to_tensor(clip, PRESETS[preset], **given)
    assert calls == [11]
    monkeypatch.setattr(pieces, "HELD", 5 * FRAME - 1)
    parts = decode_to_tensor(clip, PRESETS[preset], **given)
    assert calls == [11, 4, 4, 3]
    assert parts.keys() == whole.keys()
    for name, values in whole.items():
        same = torch.equal if isinstance(values, torch.Tensor) else lambda a, b: a == b
        assert same(parts[name], values), name


def test_pieces_hold_whole_patches_in_time(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = frames_of_each_call(monkeypatch)
    for held, expected in ((1, [2, 2, 1]), (4 * FRAME - 1, [2, 2, 1]), (4 * FRAME, [4, 1])):
        calls.clear()
        monkeypatch.setattr(pieces, "HELD", held)
        decode_to_tensor(clip, PRESETS["qwen2.5-vl"], indices=range(5))
        assert calls == expected


def test_frames_of_the_decoder_are_given_back(clip: bytes) -> None:
    """At once, and not when the garbage collector runs, though all are of one group of pictures."""
    alive: list[int] = []

    def count(*told: Any) -> None:
        alive.append(sum(type(one) is av.VideoFrame for one in gc.get_objects()))

    gc.collect()
    gc.disable()
    try:
        got = decode_to_tensor(clip, plain(), progress=count)
    finally:
        gc.enable()
    assert len(got["pixel_values"]) == len(alive) == 24
    assert max(alive) - min(alive) <= 2


def test_frames_that_come_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a decoder that knows too little of the order, they are sorted."""
    from tests.test_video_decode import decoding

    right = decoding._Reader._from

    def turned(reader: Any, *args: Any) -> Any:
        found = list(right(reader, *args))
        for at in range(0, len(found) - 1, 2):
            found[at : at + 2] = found[at + 1], found[at]
        yield from found

    monkeypatch.setattr(decoding._Reader, "_from", turned)
    assert which(decode_to_tensor(encoded(count=20), plain())) == list(range(20))
