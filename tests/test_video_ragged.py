"""Clips of several sizes in one call: against a call for each, and what the function takes."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video import cuda, nvrtc, ragged
from aimills_kernels.kernels.video.op_ragged import video_to_tensor_ragged as op
from aimills_kernels.kernels.video.ragged import (
    RaggedArguments,
    needs_table,
    packed_clips,
    public_arguments,
)
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


def hundred() -> tuple[tuple, Tensor]:
    """The arguments of 100 clips, of which 66 have frames, and their output."""
    clips = [clip(i % 3, 5, 9, i) for i in range(100)]
    args = tuple(RaggedArguments(
        [p for c in clips for p in c], "nv12", "bt709", "limited", "left", "linear", "sdr",
        [40, 70] * 100, [], [], [], 0, [], 0, [], "bicubic", True, "torch", [0.0] * 3, [1.0] * 3,
        torch.uint8, "NCHW", [],
    ))  # fmt: skip
    return args, op.fake(*args)


FRAMES = [i % 3 for i in range(100) if i % 3]
STARTS = [9 * sum(FRAMES[:i]) for i in range(len(FRAMES) + 1)]  # a frame has 3 x 3 tiles


def table_of(structs: list[bytes]) -> bytes:
    return struct.pack(f"<{len(STARTS)}q", *STARTS) + b"".join(structs)


def test_clips_beyond_64_are_one_launch_with_a_table() -> None:
    """The blocks of a clip are those between its number and the next one."""
    args, out = hundred()
    held: list[Tensor] = []
    ((loader, batch, blocks),) = nvrtc.batches((out,), args, held)
    assert (loader, blocks) == ("Yuv420", STARTS[-1])
    assert len(batch) == 16 + 8 * 65 + 64 * 496
    count, _, address = struct.unpack_from("<2iQ", batch)
    assert (count, address) == (66, held[0].data_ptr())
    structs = [params for params, _ in packed_clips((out,), args)]
    assert held[0].numpy().tobytes() == table_of(structs)
    header = (nvrtc.sources() / "video/batch.h").read_text()
    assert f"constexpr int kClips = {ragged.CLIPS};" in header


def test_a_graph_keeps_clips_in_the_parameters_of_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for capturing in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        assert not needs_table(ragged.CLIPS, gpu)
        assert needs_table(ragged.CLIPS + 1, gpu) is not capturing
    monkeypatch.setattr(nvrtc, "needs_table", lambda clips, device: False)
    args, out = hundred()
    held: list[Tensor] = []
    launches = list(nvrtc.batches((out,), args, held))
    heads = [struct.unpack_from("<2iQ", batch) for _, batch, _ in launches]
    assert (held, heads) == ([], [(64, 0, 0), (2, 0, 0)])
    assert [blocks for _, _, blocks in launches] == [STARTS[64], STARTS[66] - STARTS[64]]
    structs = [params for params, _ in packed_clips((out,), args)]
    assert b"".join(batch[16 + 8 * 65 :] for _, batch, _ in launches) == (
        b"".join(structs).ljust(2 * 64 * 496, b"\0")
    )


@pytest.mark.parametrize("tabled", [True, False])
def test_the_extension_gets_the_address_of_the_table(
    tabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = pytest.importorskip("aimills_kernels._C")
    args, out = hundred()
    structs, seen = [params for params, _ in packed_clips((out,), args)], []

    class Extension:
        video_first_blocks = staticmethod(extension.video_first_blocks)

        @staticmethod
        def video_to_tensor_ragged_cuda(clips: bytes, address: int, stream: int) -> None:
            want = table_of(structs)
            seen.append((clips, ctypes.string_at(address, len(want)) if address else None, stream))

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    monkeypatch.setattr(cuda, "extension", lambda: Extension)
    monkeypatch.setattr(cuda, "needs_table", lambda clips, device: tabled and clips == 66)
    cuda.launch_ragged((out,), *args)
    assert seen == [(b"".join(structs), table_of(structs) if tabled else None, 7)]


def test_blocks_of_many_clips_stay_within_a_launch() -> None:
    extension = pytest.importorskip("aimills_kernels._C")
    args, out = hundred()
    (large, _), *_ = packed_clips((out,), args)
    at = struct.calcsize("<Q24s Q24s Q24s Q")
    frames = struct.pack("<q", 2**40)
    starts = extension.video_first_blocks((large[:at] + frames + large[at + 8 :]) * 1000)
    step = (2**31 - 1) // 1000
    assert struct.unpack("<1001q", starts) == tuple(step * i for i in range(1001))


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "clips must be a list of planes, got <class 'list'>"),
    (CLIPS[0], {}, r"clips\[0\] must be a tuple of tensors"),
    ([CLIPS[0], (CLIPS[0][0],)], {}, r"clips\[1\]: nv12 is 2 planes \(y, uv\), got 1"),
    (CLIPS, {"sizes": [(5, 7)]}, "sizes must be a list of 3, one a clip"),
    (CLIPS, {"sizes": [(5, 7), (5, 7), (5, 0)]}, "size must be .height, width."),
    (CLIPS, {"crops": [(0, 0, 5, 5)]}, "crops must be a list of 3, one a clip"),
    (CLIPS, {"flips": [True]}, r"flips must be a list of 3, one a clip, got \[True\]"),
    (CLIPS, {"flips": True}, "flips must be a list of 3, one a clip, got True"),
    (CLIPS, {"flips": [1, 0, 0]}, "flips must be True or False, got 1"),
    (CLIPS, {"jitters": [[1.0] * 3] * 3}, "jitter must be twelve numbers"),
    (CLIPS, {"sizes": SIZES}, "clip 1 would be .3, 56, 28. a piece in layout NCHW and clip 0"),
    (CLIPS, {"seed": 3}, "seed and clip_ids are for augment"),
]


@pytest.mark.parametrize(("clips", "options", "says"), BAD)
def test_what_is_refused(clips: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ak.video_to_tensor_ragged(clips, **{"sizes": (5, 7), **options})


def ragged_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips of each call that preprocessors make from now on."""
    from aimills_kernels.video import preprocess

    calls = []
    right = preprocess.video_to_tensor_ragged

    def counted(*args: Any, **options: Any) -> Tensor:
        calls.append(len(args[0]))
        return right(*args, **options)

    monkeypatch.setattr(preprocess, "video_to_tensor_ragged", counted)
    return calls


def test_preprocessor_makes_one_call_of_several_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ragged_calls(monkeypatch)
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
