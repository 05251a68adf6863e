"""Long videos go through the preprocessor in pieces: the same values, and little memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from aimills_kernels.video import (
    VideoError,
    VideoPreprocessor,
    configs,
    decode_to_tensor,
    pieces,
    sizes,
)
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


CLASSES = ("VJEPA2VideoProcessor", "VivitVideoProcessor", "LlavaNextVideoVideoProcessor",
           "CLIPImageProcessor", "VideoMAEVideoProcessor")  # fmt: skip


def cropped(kind: str) -> VideoPreprocessor:
    """With a crop of 40 x 40, and the shorter side as much longer than that as the class has it."""
    key = "image_processor_type" if "Image" in kind else "video_processor_type"
    edge = configs.CLASSES[kind]["size"]["shortest_edge"] * 40 // 224
    small = {"size": {"shortest_edge": edge}, "crop_size": {"height": 40, "width": 40}}
    made = VideoPreprocessor.from_hf_config({key: kind, **small}, dtype=torch.float32)
    assert made.crop == (40, 40)
    return made


PADDED = replace(cropped("CLIPImageProcessor"), size=sizes.Keep(), crop=(50, 60))


@pytest.mark.parametrize("made", [*map(cropped, CLASSES), PADDED], ids=[*CLASSES, "padded"])
def test_a_centre_crop_in_pieces(made: VideoPreprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of wide, of tall and of square frames, turned or not, mirrored or not."""
    drawn = torch.Generator().manual_seed(3)
    turns = itertools.product(((40, 66), (71, 41), (51, 51)), (0, 90), (False, True))
    for (height, width), rotate, flip in turns:
        shapes = (7, height, width), (7, -(-height // 2), -(-width // 2), 2)
        planes = [torch.randint(0, 256, s, generator=drawn, dtype=torch.uint8) for s in shapes]
        options = {"format": "nv12", "rotate": rotate, "flip": flip}
        whole = made(planes, **options)
        monkeypatch.setattr(pieces, "HELD", 3 * sum(p[0].numel() for p in planes))
        parts = pieces.Pieces(made, "cpu")
        parts.start([p[0] for p in planes], 7, options)
        for i in range(7):
            parts.add([p[i] for p in planes], 1)
        ((name, values),) = parts.finish().items()
        assert torch.equal(values, whole[name]), (height, width, options)


def test_progress_counts_frames_and_not_pieces(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "HELD", 2 * FRAME)
    calls, told = frames_of_each_call(monkeypatch), []
    decode_to_tensor(
        clip, plain(), indices=[0, 3, 3, 9, 20], progress=lambda *step: told.append(step)
    )
    assert calls == [2, 2, 1]
    assert told == [("decoded", i, 4) for i in (1, 2, 3, 4)]


def test_the_bar_ends_where_decoding_fails(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the decoder, in the preprocessor of the second piece, and by the user's Ctrl-C."""
    told: list[Any] = []

    @contextlib.contextmanager
    def bar(title: str) -> Iterator[Any]:
        try:
            yield lambda *step: told.append(step)
        finally:
            told.append("ended")

    monkeypatch.setattr("aimills_kernels.cli._ui.progress", bar)
    monkeypatch.setattr(pieces, "HELD", 2 * FRAME)
    right = VideoPreprocessor.__call__
    for error in (VideoError("damaged"), ValueError("too large"), KeyboardInterrupt()):

        def fails(made: VideoPreprocessor, planes: Any, error: Any = error, **given: Any) -> Any:
            if len(told) > 2:
                raise error
            return right(made, planes, **given)

        told.clear()
        monkeypatch.setattr(VideoPreprocessor, "__call__", fails)
        with pytest.raises(type(error)):
            decode_to_tensor(clip, plain(), indices=range(9), progress=True)
        assert told == [*(("decoded", i, 9) for i in (1, 2, 3)), "ended"]


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
