"""decode_to_tensor on real streams, made here: what is decoded, what is taken from the stream, and
what is refused."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aimills_kernels.kernels.video.formats import FORMATS as OP_FORMATS
from aimills_kernels.video import (
    Sampling,
    VideoError,
    VideoPreprocessor,
    decode_to_tensor,
    sizes,
)
from aimills_kernels.video import io as video_io
from aimills_kernels.video.decode import _check_same_tags
from aimills_kernels.video.io import FORMATS, _plane, decode, planes
from aimills_kernels.video.tags import Tags

av = pytest.importorskip("av")
decoding = sys.modules[decode_to_tensor.__module__]
COUNT, RATE = 60, 10
TAGGED = {"colorspace": 1, "color_range": 1, "color_trc": 1, "color_primaries": 1}


def luma(index: int) -> int:
    """Tells which frame a picture is; 3 levels apart."""
    return 20 + 3 * index


def encoded(
    codec: str = "libx264",
    form: str = "mp4",
    *,
    count: int = COUNT,
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
    gop: int = 10,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    first: int = 0,
    prepare: Callable[[Any], None] = lambda stream: None,
    paint: Callable[[int, list[Tensor]], None] | None = None,
    ready: list[Any] | None = None,
) -> bytes:
    """Frames of one grey each, in H.264 as good as without loss. Of a single frame x265 leaves the
    decoding time open, which the MP4 may refuse."""
    out = io.BytesIO()
    plain = {
        "libx264": {"crf": "4", "preset": "veryfast"},
        "libx265": {"x265-params": "log-level=0"},
        "libsvtav1": {"crf": "10", "preset": "10", "svtav1-params": "tune=0"},
        "libvpx-vp9": {"crf": "4", "deadline": "realtime", "cpu-used": "8"},
    }.get(codec, {})
    with av.open(out, "w", format=form, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options={**plain, **(options or {})})
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        stream.gop_size = gop
        for name, value in (TAGGED if tags is None else tags).items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        for index in range(count):
            frame = ready[index] if ready else av.VideoFrame(*size, pixels)
            if ready is None:
                for i, plane in enumerate(frame.planes):
                    if pixels == "yuv420p":
                        _plane(plane).fill_(128 if i else luma(index))
                    else:
                        plane.update(bytes(plane.buffer_size))
            if paint:
                paint(index, [_plane(p) for p in frame.planes])
            frame.pts = first + index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.fixture(scope="module")
def clip() -> bytes:
    return encoded()


def plain(**changes: Any) -> VideoPreprocessor:
    """Frames in their own size, levels 0 to 1, in float32."""
    made = VideoPreprocessor.from_preset("clip", dtype=torch.float32)
    whole = {"size": sizes.Keep(), "crop": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return replace(made, **{**whole, **changes})


def which(result: dict[str, Any]) -> list[int]:
    """The number of each frame, from its grey (limited range)."""
    greys = result["pixel_values"].mean((1, 2, 3)) * 219 + 16
    return [round((float(grey) - 20) / 3) for grey in greys]


def for_users(seen: Any) -> list[Any]:
    """Of the warnings, those for users: one of a file left open by another test comes when
    the garbage collector runs."""
    return [one for one in seen if issubclass(one.category, UserWarning)]


def taken(data: bytes, **options: Any) -> dict[str, Any]:
    return decode_to_tensor(data, plain(), indices=[0], **options)["video_metadata"]


# ---- which frames


CONTAINERS = [("libx264", "mp4"), ("libx264", "matroska"), ("libx264", "mpegts"),
              ("libx264", "avi"), ("libx264", "flv"), ("libx264", "h264"),
              ("libsvtav1", "mp4"), ("libvpx-vp9", "webm")]  # fmt: skip


@pytest.mark.parametrize(("codec", "form"), CONTAINERS)
def test_frames_are_those_asked_for(codec: str, form: str) -> None:
    data = encoded(codec, form)
    for indices in ([0], [59], [3, 4, 27], [9, 10, 11], list(range(60)), [5, 5, 40]):
        got = decode_to_tensor(data, plain(), indices=indices)
        assert which(got) == indices
        assert got["video_metadata"]["frames_indices"] == indices
        assert got["video_metadata"]["total_num_frames"] == COUNT


OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}


@pytest.mark.parametrize("form", ["matroska", "mpegts"])
def test_open_groups_of_pictures(form: str) -> None:
    """B frames before a key frame in display and behind it in the stream need the one before."""
    data = encoded(form=form, options=OPEN_GOP, count=40)
    for at in range(40):
        assert which(decode_to_tensor(data, plain(), indices=[at])) == [at]


def cut_out(whole: bytes, form: str) -> bytes:
    """From the second key frame on, as recorders do."""
    out = io.BytesIO()
    with av.open(io.BytesIO(whole)) as source, av.open(out, "w", format=form) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if packet.size and keys > 1:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("form", ["matroska", "mpegts"])
def test_video_that_starts_with_frames_that_cannot_be_shown(form: str) -> None:
    """B frames before the first key frame in display, and behind it in the stream."""
    options = {"x265-params": "log-level=0:open-gop=1:bframes=3:b-adapt=0:scenecut=0:qp=4"}
    data = cut_out(encoded("libx265", "matroska", options=options), form)
    first = which(decode_to_tensor(data, plain(), indices=[0]))[0]
    assert first > 5
    for at in (1, 5, 30, 59 - first):
        got = decode_to_tensor(data, plain(), indices=[at])
        assert which(got) == [first + at]
        assert got["video_metadata"]["total_num_frames"] == 60 - first


def test_open_group_of_pictures_at_the_start_of_h264() -> None:
    """Its decoder can't tell what lies before the cut from what is damaged."""
    data = cut_out(encoded(form="matroska", options=OPEN_GOP), "matroska")
    with pytest.raises(VideoError, match="damaged or truncated near frame 7"):
        decode_to_tensor(data, plain(), indices=[7])


def test_frames_that_an_edit_list_leaves_out() -> None:
    muxer = {"avoid_negative_ts": "disabled", "movflags": "+negative_cts_offsets"}
    data = encoded(count=30, first=-5, options={"bf": "0"}, muxer=muxer)
    for indices in ([0], [4], [5, 24]):
        got = decode_to_tensor(data, plain(), indices=indices)
        assert which(got) == [i + 5 for i in indices]
        assert got["video_metadata"]["total_num_frames"] == 25


@pytest.mark.parametrize("form", ["matroska", "mpegts"])
def test_seek_that_ends_behind_its_aim(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(form=form)

    class Container:
        """Goes on from the third second, unless asked for the start."""

        def __init__(self, container: Any):
            self.container = container

        def seek(self, to: int, stream: Any) -> None:
            start = stream.start_time or 0
            late = start + int(3 / stream.time_base)
            self.container.seek(to if to <= start else max(to, late), stream=stream)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.container, name)

    @contextlib.contextmanager
    def opened(name: str, source: Any) -> Iterator[tuple[Any, Any]]:
        with strict(name, source) as (container, stream):
            yield Container(container), stream

    strict = video_io.opened
    monkeypatch.setattr(video_io, "opened", opened)
    assert which(decode_to_tensor(data, plain(), indices=[25, 45])) == [25, 45]


def test_frames_at_uneven_times() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 8
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(40):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for i, plane in enumerate(frame.planes):
                _plane(plane).fill_(128 if i else luma(index))
            frame.pts, frame.time_base = 40 * index + 7 * index * index, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    wanted = [0, 7, 8, 21, 39]
    got = decode_to_tensor(out.getvalue(), plain(), indices=wanted, color_space="bt601")
    assert which(got) == [0, 7, 8, 21, 39]


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_only_what_is_needed_is_decoded(form: str) -> None:
    """From the key frame before on."""
    data = encoded(form=form, count=70, gop=10)
    for indices, needed in (([40], 1), ([61], 2), ([35], 6), ([0, 30, 60], 3), ([22, 27], 8)):
        got = decode_to_tensor(data, plain(), indices=indices)
        assert which(got) == indices
        assert got["video_metadata"]["frames_decoded"] == needed


def test_frames_that_are_sampled(clip: bytes) -> None:
    assert which(decode_to_tensor(clip, plain())) == list(range(COUNT))
    assert which(decode_to_tensor(clip, plain(), num_frames=4)) == [0, 15, 30, 45]
    every = plain(sampling=Sampling(all_frames=True))
    assert which(decode_to_tensor(clip, every)) == list(range(60))
    assert which(decode_to_tensor(clip, every, num_frames=4)) == [0, 15, 30, 45]
    assert which(decode_to_tensor(clip, plain(), fps=1)) == [0, 10, 20, 30, 40, 50]
    got = decode_to_tensor(clip, "qwen2.5-vl")
    assert got["video_metadata"]["frames_indices"] == list(range(0, 60, 5))
    assert got["video_grid_thw"][0, 0] == 6


def test_metadata(clip: bytes) -> None:
    got = decode_to_tensor(clip, plain(), indices=[3])["video_metadata"]
    assert got.pop("frames_decoded") > 0
    assert got == {
        "total_num_frames": 60, "fps": 10.0, "duration": 6.0, "width": 64, "height": 48,
        "frames_indices": [3], "video_backend": "pyav", "format": "i420", "flip": False,
        "color_space": "bt709",
        "color_range": "limited", "chroma_location": "left", "transfer": "sdr", "rotate": 0,
        "sample_aspect_ratio": (1, 1), "interlaced": False,
    }  # fmt: skip


def test_sources(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    for source in (path, str(path), clip, io.BytesIO(clip)):
        assert which(decode_to_tensor(source, plain(), indices=[7, 33])) == [7, 33]
    with path.open("rb") as file:
        file.seek(99)
        assert which(decode_to_tensor(file, plain(), indices=[7, 33])) == [7, 33]


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_indices_of_an_array(clip: bytes, array: Any) -> None:
    got = decode_to_tensor(clip, plain(), indices=array([7, 33]))
    assert which(got) == [7, 33]
    assert [type(i) for i in got["video_metadata"]["frames_indices"]] == [int, int]


def test_progress(clip: bytes) -> None:
    told: list[tuple] = []
    decode_to_tensor(clip, plain(), num_frames=3, progress=lambda *step: told.append(step))
    assert told == [("decoded", i, 3) for i in (1, 2, 3)]


def test_progress_as_a_bar(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    bar = contextlib.nullcontext(lambda *step: told.append(step))
    monkeypatch.setattr("aimills_kernels.cli._ui.progress", lambda title: bar)
    decode_to_tensor(clip, plain(), num_frames=3, progress=False)
    assert told == []
    decode_to_tensor(clip, plain(), num_frames=3, progress=True)
    assert told == [("decoded", i + 1, 3) for i in range(3)]
    with pytest.raises(ValueError, match="progress must be a function, True or None, got 'bar'"):
        decode_to_tensor(clip, plain(), progress="bar")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_progress_of_reading_a_long_file(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, told = encoded(form=form), []
    monkeypatch.setattr(decoding, "_READ_STEP", 500)
    decode_to_tensor(data, plain(), num_frames=2, progress=lambda *step: told.append(step))
    assert told[-2:] == [("decoded", 1, 2), ("decoded", 2, 2)]
    at = [done for what, done, of in told[:-2] if (what, of) == ("read", len(data))]
    assert len(at) == len(told) - 2 > 1
    assert all(b - a >= 500 for a, b in itertools.pairwise(at))
    assert at[-1] <= len(data)


def test_no_more_frames_are_held_than_are_looked_at(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sampled is copied as it comes; a decoder's memory is not kept for all of it."""
    right, held, most = video_io.planes, [], 0

    def counted(name: str, frame: Any) -> list[Tensor]:
        nonlocal most
        made = right(name, frame)
        held.extend(map(weakref.ref, made))
        most = max(most, sum(one() is not None for one in held))
        return made

    monkeypatch.setattr(video_io, "planes", counted)
    got = decode_to_tensor(clip, plain(), indices=[*range(40), 39])
    assert which(got) == [*range(40), 39]
    assert len(held) == 3 * 40
    assert most <= 2 * 3


def test_planes_are_those_of_the_whole_decoding(clip: bytes) -> None:
    frames = decode(clip)
    made = plain()
    for at in (0, 17, 59):
        expected = made([frames[at].y[None], frames[at].uv[None]])
        got = decode_to_tensor(clip, made, indices=[at])
        assert torch.equal(got["pixel_values"], expected["pixel_values"])


# ---- what is refused


def ramp(index: int, frame: Any) -> None:
    """Values that use all bits, other ones in each plane and row."""
    form = FORMATS[frame.format.name]
    for i, plane in enumerate(frame.planes):
        bits = OP_FORMATS[form].bits
        kind = np.uint16 if bits > 8 else np.uint8
        values = np.arange(plane.buffer_size // kind().itemsize) * (3 + i) + 97 * index
        plane.update((values % 2**bits).astype(kind).tobytes())


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le",
     "yuv422p12le", "yuv444p12le", "gbrp10le", "gbrp12le", "gbrp16le", "rgb48le", "bgr48le"],
)  # fmt: skip
def test_formats_without_loss(pixels: str) -> None:
    """FFV1 keeps every bit, and so do raw frames: what arrives is what was encoded."""
    size = (64, 48)
    frames = [av.VideoFrame(*size, pixels) for _ in range(3)]
    for index, frame in enumerate(frames):
        ramp(index, frame)
    expected = [planes("sent", frame) for frame in frames]
    codec = ("rawvideo", "nut") if "48" in pixels else ("ffv1", "matroska")
    data = encoded(*codec, count=3, pixels=pixels, ready=frames)
    got = decode_to_tensor(data, plain(), indices=[0, 2])
    assert got["video_metadata"]["format"] == FORMATS[pixels]
    given = [torch.stack(plane) for plane in zip(expected[0], expected[2], strict=True)]
    by_hand = plain()(given, format=FORMATS[pixels])
    assert torch.equal(got["pixel_values"], by_hand["pixel_values"])


def test_rgb_of_h264() -> None:
    """Screen recordings: FFmpeg decodes H.264 of RGB to planes of G, B and R."""

    frames = [av.VideoFrame(64, 48, "rgb24") for _ in range(3)]
    for frame in frames:
        plane = frame.planes[0]
        plane.update(bytes((200, 90, 30)) * (plane.buffer_size // 3))
    assert plane.line_size == 3 * 64
    data = encoded("libx264rgb", "matroska", count=3, pixels="rgb24", tags={}, ready=frames,
                   options={"qp": "0"})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = decode_to_tensor(data, plain(), indices=[1])
    assert got["video_metadata"]["format"] == "gbrp"
    levels = (got["pixel_values"][0] * 255).round()
    want = torch.tensor([200.0, 90.0, 30.0]).view(3, 1, 1)
    assert torch.equal(levels, want.expand(3, 48, 64))


def test_hevc_10_bit_bt2020() -> None:
    data = encoded(
        "libx265", count=12, pixels="yuv420p10le", tags={**TAGGED, "colorspace": 9, "color_trc": 14}
    )
    got = decode_to_tensor(data, plain(), indices=[2, 11])
    meta = got["video_metadata"]
    assert (meta["format"], meta["color_space"]) == ("yuv420p10", "bt2020")
    assert got["pixel_values"].shape == (2, 3, 48, 64)
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    frame = [p[None] for p in planes("read", frames[11])]
    by_hand = plain()(frame, format="yuv420p10", color_space="bt2020")
    assert torch.equal(got["pixel_values"][1:], by_hand["pixel_values"])


@pytest.mark.parametrize(("number", "transfer"), [(16, "pq"), (18, "hlg")])
def test_hdr(number: int, transfer: str) -> None:
    """HEVC of 10 bits through the whole chain; tests/test_video_hdr.py has the formula."""
    tags = {**TAGGED, "colorspace": 9, "color_trc": number, "color_primaries": 9}
    data = encoded("libx265", count=3, pixels="yuv420p10le", tags=tags)
    got = decode_to_tensor(data, plain(), indices=[2])
    meta = got["video_metadata"]
    assert (meta["transfer"], meta["color_space"]) == (transfer, "bt2020")
    with av.open(io.BytesIO(data)) as container:
        frame = [p[None] for p in planes("read", list(container.decode(video=0))[2])]
    options = {"format": "yuv420p10", "color_space": "bt2020"}
    by_hand = plain()(frame, transfer=transfer, **options)["pixel_values"]
    assert torch.equal(got["pixel_values"], by_hand)
    as_it_is = decode_to_tensor(data, plain(), indices=[2], transfer="sdr")["pixel_values"]
    assert torch.equal(as_it_is, plain()(frame, **options)["pixel_values"])
    assert not torch.equal(as_it_is, by_hand)


def test_hdr_that_does_not_say_its_matrix() -> None:
    data = encoded("libx265", count=3, tags={"color_trc": 16})
    with pytest.warns(UserWarning, match="bt2020 is taken, as for HDR usual"):
        got = decode_to_tensor(data, plain())
    assert got["video_metadata"]["color_space"] == "bt2020"


def test_hdr_of_other_primaries() -> None:
    tags = {"colorspace": 9, "color_trc": 16, "color_primaries": 12}
    data = encoded("libx265", count=3, tags=tags)
    with pytest.raises(VideoError, match=r"is HDR \(PQ\) with the primaries Display P3"):
        decode_to_tensor(data, plain())
    assert taken(data, transfer="pq")["transfer"] == "pq"


def test_hdr_of_another_matrix() -> None:
    """Told by the file's name and before anything is made of it."""
    tags = {"colorspace": 1, "color_trc": 18, "color_primaries": 9}
    data = encoded("libx265", count=3, tags=tags)
    with pytest.raises(VideoError, match=r"is HDR \(HLG\) with the colour matrix bt709, and there"):
        decode_to_tensor(data, plain())
    assert taken(data, color_space="bt2020")["transfer"] == "hlg"
    assert taken(data, transfer="sdr")["color_space"] == "bt709"


def test_matrix_that_is_not_there() -> None:
    data = encoded(count=2, tags={"colorspace": 7})
    for read in (decode, lambda data: decode_to_tensor(data, plain())):
        with pytest.raises(VideoError, match="the colour matrix SMPTE 240M, and there are"):
            read(data)
    assert taken(data, color_space="bt709")["color_space"] == "bt709"


@pytest.mark.parametrize(
    ("number", "says"), [(8, "linear"), (9, "logarithmic"), (10, "logarithmic"), (17, "SMPTE ST")]
)
def test_transfer_that_is_not_there(number: int, says: str) -> None:
    data = encoded(count=1, tags={**TAGGED, "color_trc": number})
    with pytest.raises(VideoError, match=f"has the transfer {says}.*there are SDR, PQ and HLG"):
        decode_to_tensor(data, plain())
    assert taken(data, transfer="sdr")["transfer"] == "sdr"


@pytest.mark.parametrize("number", [2, 4, 6, 13, 14])
def test_transfers_that_are_sdr(number: int) -> None:
    assert taken(encoded(count=1, tags={**TAGGED, "color_trc": number}))["transfer"] == "sdr"


def test_pixel_format_that_is_not_there() -> None:
    data = encoded("ffv1", "matroska", count=2, pixels="yuv411p")
    with pytest.raises(VideoError, match="pixel format yuv411p; supported are yuv420p"):
        decode_to_tensor(data, plain())


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated(form: str, share: float) -> None:
    # The MP4 has its index at the start.
    data = encoded(form=form, muxer={"moov_size": "9000"} if form == "mp4" else {})
    cut = data[: int(share * len(data))]
    if form == "mpegts" and share > 0.1:  # it states no length: what is there is the video
        got = decode_to_tensor(cut, plain(), indices=[0])
        assert got["video_metadata"]["total_num_frames"] < COUNT
        return
    said = "of its 60 frames" if form == "mp4" and share > 0.1 else "truncated|is empty|no video"
    with pytest.raises(VideoError, match=said):
        decode_to_tensor(cut, plain(), indices=[0])


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize("muxer", [FRAGMENTED, {"movflags": "frag_keyframe+empty_moov+faststart"}])
def test_truncated_in_fragments(muxer: dict[str, str]) -> None:
    """It states no number of frames, but each fragment its size."""
    data = encoded(muxer=muxer)
    whole = decode_to_tensor(data, plain(), indices=[0, 59])
    assert whole["video_metadata"]["total_num_frames"] == COUNT
    for share in (0.3, 0.5, 0.7, 0.95, 0.999):
        cut = data[: int(share * len(data))]
        for read in (decode, lambda data: decode_to_tensor(data, plain(), indices=[0])):
            with pytest.raises(VideoError, match="truncated"):
                read(cut)


def boxes(data: bytes) -> list[tuple[bytes, int]]:
    """The name of each box, and where it begins."""
    found, at = [], 0
    while at < len(data):
        found.append((data[at + 4 : at + 8], at))
        at += int.from_bytes(data[at : at + 4])
    return found


def test_fragments_that_are_cut_within_a_header_or_before_their_samples() -> None:
    data = encoded(count=30, muxer=FRAGMENTED)
    (_, moof), (_, mdat) = [box for box in boxes(data) if box[0] in (b"moof", b"mdat")][2:4]
    wide = data[:mdat] + b"\0\0\0\1mdat" + (4000).to_bytes(8) + bytes(3984)
    cuts = [data[: moof + left] for left in range(1, 16)]
    cuts += [data[: mdat + left] for left in range(16)]
    cuts += [wide[: mdat + left] for left in range(8, 17)]
    for cut in cuts:
        with pytest.raises(VideoError, match="is truncated: its last part"):
            taken(cut)
    assert taken(data[:moof])["total_num_frames"] == 10  # between two fragments


@pytest.mark.filterwarnings("ignore:.*is damaged near byte")
@pytest.mark.parametrize("behind", [bytes(99), b"\1" * 99, b"\0\0\0\x08free", b"\1" * 7, bytes(5)])
def test_what_lies_behind_fragments(behind: bytes) -> None:
    data = encoded(count=20, muxer=FRAGMENTED) + behind
    assert which(decode_to_tensor(data, plain(), indices=[0, 19])) == [0, 19]


def test_mp4_that_is_cut_behind_its_video() -> None:
    """It says how many frames there are, and all are."""
    data = encoded(muxer={"moov_size": "9000"}) + b"\0\1\0\0free"
    assert which(decode_to_tensor(data, plain(), indices=[0, 59])) == [0, 59]


def broken(data: bytes, at: int) -> bytes:
    """The payload of frame `at` in display order overwritten."""
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    found = sorted(packets, key=lambda p: p.pts)[at]
    start = found.pos + 6
    return data[:start] + b"\xff" * (found.size - 6) + data[start + found.size - 6 :]


def noise(index: int, into: list[Tensor]) -> None:
    made = torch.Generator().manual_seed(index)
    into[0].copy_(torch.randint(16, 236, into[0].shape, generator=made))


def test_corrupt_packet_in_the_middle() -> None:
    data = broken(encoded(paint=noise, options={"bf": "0", "x264-params": "scenecut=0"}), 35)
    with pytest.raises(VideoError, match="damaged or truncated near frame 3"):
        decode_to_tensor(data, plain(), indices=[38])
    with pytest.raises(VideoError, match="damaged or truncated near frame 35"):
        decode_to_tensor(data, plain(), indices=list(range(60)))
    got = decode_to_tensor(data, plain(), indices=[12, 55])  # other groups of pictures
    assert got["video_metadata"]["frames_indices"] == [12, 55]


CORRUPT = {
    "H.264 in Matroska": ("libx264", "matroska", {"bf": "0", "x264-params": "scenecut=0"}),
    "HEVC in MP4": ("libx265", "mp4", {"x265-params": "log-level=0:bframes=0:scenecut=0"}),
    "AV1 in MP4": ("libsvtav1", "mp4", {}),
    "VP9 in WebM": ("libvpx-vp9", "webm", {}),
}


@pytest.mark.full
@pytest.mark.parametrize("what", CORRUPT)
def test_corrupt_packet_of_other_codecs(what: str) -> None:
    codec, form, options = CORRUPT[what]
    data = broken(encoded(codec, form, count=40, paint=noise, options=options), 35)
    with pytest.raises(VideoError, match="damaged or truncated near frame 38"):
        decode_to_tensor(data, plain(), indices=[38])
    assert decode_to_tensor(data, plain(), indices=[5])["video_metadata"]["frames_indices"] == [5]


def test_packets_that_a_transport_stream_lost() -> None:
    """H.264's decoder goes on with another picture for the one that is missing."""
    whole = encoded(form="mpegts", paint=noise, options={"bf": "0", "x264-params": "scenecut=0"})
    with av.open(io.BytesIO(whole)) as container:
        begin, end = [p.pos for p in container.demux(video=0) if p.size][35:37]
    data = whole[:begin] + whole[end:]
    with pytest.warns(UserWarning, match=r"has lost packets near frame 3[345], as its") as seen:
        got = decode_to_tensor(data, plain(), indices=[12, 29])
    assert [one.filename for one in for_users(seen)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = decode_to_tensor(whole, plain(), indices=[12, 29])
    assert torch.equal(got["pixel_values"], want["pixel_values"])


OTHER = {
    "size": dict(size=(80, 48)), "subsampling": dict(pixels="yuv422p"),
    "bits": dict(pixels="yuv420p10le"),
}  # fmt: skip


STREAMS = [
    ("libx264", "h264"),
    pytest.param("libx264", "mpegts", marks=pytest.mark.filterwarnings("ignore:.*lost packets")),
    pytest.param("libx265", "hevc", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("codec", "form"), STREAMS)
@pytest.mark.parametrize("what", OTHER)
def test_stream_that_changes(what: str, codec: str, form: str) -> None:
    """In the middle: frames on one side of it alone are taken."""
    data = encoded(codec, form, count=10) + encoded(codec, form, count=10, **OTHER[what])
    width, pixels = OTHER[what].get("size", (64, 48))[0], OTHER[what].get("pixels", "yuv420p")
    with pytest.raises(
        VideoError, match=f"changes from 64 x 48 yuv420p to {width} x 48 {pixels} at frame 10"
    ):
        decode_to_tensor(data, plain())
    if form == "h264":
        assert which(decode_to_tensor(data, plain(), indices=[0, 9])) == [0, 9]


BT2020 = {**TAGGED, "colorspace": 9, "color_primaries": 9}
COLOURS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str, str]]] = {
    "matrix": ({}, {"tags": {**TAGGED, "colorspace": 6}}, ("color_space", "bt709", "bt601")),
    "range": ({}, {"tags": {**TAGGED, "color_range": 2}}, ("color_range", "limited", "full")),
    "transfer": (
        {"tags": BT2020}, {"tags": {**BT2020, "color_trc": 16}}, ("transfer", "sdr", "pq")
    ),
    "chroma": (
        {}, {"options": {"x264-params": "chromaloc=2"}}, ("chroma_location", "left", "topleft")
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COLOURS)
def test_stream_whose_colours_change(what: str) -> None:
    """In the middle: the tags of one side would make other colours of the other."""
    first, second, (name, old, new) = COLOURS[what]
    data = encoded(form="h264", count=4, **first) + encoded(form="h264", count=4, **second)
    says = f"changes its {name} from {old} to {new} at frame 4; {name}= says which to take"
    with pytest.raises(VideoError, match=says):
        decode_to_tensor(data, plain())
    assert which(decode_to_tensor(data, plain(), indices=[1, 3])) == [1, 3]
    given = decode_to_tensor(data, plain(), **{name: new})["video_metadata"]
    assert (given[name], given["total_num_frames"]) == (new, 8)


def test_stream_that_says_later_what_was_taken() -> None:
    frame = SimpleNamespace(width=64, height=48)
    silent = Tags(None, None, None, "sdr", 0, False)
    spoken = Tags("bt601", "limited", "left", "sdr", 0, False)
    _check_same_tags("it", 7, frame, silent, spoken)
    with pytest.raises(VideoError, match="it changes its rotate from 0 to 90 at frame 7"):
        _check_same_tags("it", 7, frame, silent, replace(spoken, rotate=90))


def test_chroma_locations_read_by_several_threads() -> None:
    """They are read from FFmpeg's log, whose level is that of the process."""
    level = av.logging.get_level()
    cases = {
        place: encoded(count=2, options={"x264-params": f"chromaloc={number}"})
        for number, place in ((1, "center"), (2, "topleft"))
    }
    found: list[tuple[str, str]] = []

    def read(place: str) -> None:
        for _ in range(12):
            found.append((place, taken(cases[place])["chroma_location"]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, list(cases) * 4))
    assert len(found) == 96
    assert all(place == got for place, got in found)
    assert av.logging.get_level() == level


def test_log_that_another_thread_turns_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is known of the place, and a guess would be silent."""
    data = encoded(count=2, options={"x264-params": "chromaloc=2"})
    monkeypatch.setattr(av.logging, "set_level", lambda level: None)
    with pytest.raises(VideoError, match="chroma_location= says it"):
        taken(data)
    assert taken(data, chroma_location="topleft")["chroma_location"] == "topleft"


def test_two_pictures_of_one_time_are_no_two_frames(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fields and damaged streams give them: one too many does not stand for one that is lost."""
    whole = decoding._Reader._decode
    lost: list[int] = []

    def doubled(reader: Any, *args: Any) -> Iterator[Any]:
        for frame in whole(reader, *args):
            if frame.pts not in lost:
                yield frame
                yield frame

    monkeypatch.setattr(decoding._Reader, "_decode", doubled)
    assert which(decode_to_tensor(clip, plain(), indices=[3, 4])) == [3, 4]
    with av.open(io.BytesIO(clip)) as container:
        lost.append(list(container.decode(video=0))[4].pts)
    with pytest.raises(VideoError, match="frame 4 is missing"):
        decode_to_tensor(clip, plain(), indices=[3, 4])


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("mp4", "holds no video stream"), ("matroska", "can't be decoded: end of file"),
        ("avi", r"holds no (complete )?frame; is it truncated\?"),
    ],
)  # fmt: skip
def test_stream_without_frames(form: str, says: str) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert out.getvalue()
    for read in (decode, lambda data: decode_to_tensor(data, plain())):
        with pytest.raises(VideoError, match=says):
            read(out.getvalue())


def test_no_video() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(1600))
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="holds no video stream"):
        decode_to_tensor(out.getvalue(), plain())
    with pytest.raises(VideoError, match="can't be decoded: invalid data"):
        decode_to_tensor(b"no video at all" * 99, plain())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preprocessor": "qwen9"}, "unknown preset 'qwen9'"),
        ({"preprocessor": None}, "preprocessor must be"),
        ({"num_frames": 61}, "61 frames are asked for, and the video has only 60"),
        ({"num_frames": 2, "fps": 1.0}, "exclude each other"),
        ({"num_frames": 2, "indices": [1]}, "indices excludes"),
        ({"indices": []}, "indices must be"),
        ({"indices": [3, 1]}, "indices must be"),
        ({"indices": [-1]}, "indices must be"),
        ({"indices": "12"}, "indices must be"),
        ({"indices": 7}, "indices must be"),
        ({"indices": torch.tensor(7)}, "indices must be"),
        ({"indices": [0, True]}, "indices must be"),
        ({"indices": np.array([0.0, 1.0])}, "indices must be"),
        ({"device": "tpu"}, "device 'tpu' can't be used: "),
        ({"device": "cuda:99"}, "device 'cuda:99' can't be used: "),
        ({"device": 1.5}, "device 1.5 can't be used: "),
        ({"indices": [60]}, "indices has 60, and the video has 60 frames"),
        ({"color_space": "rec709"}, "color_space must be"),
        ({"rotate": 45}, "rotate must be"),
        ({"source": None}, "source must be a path"),
        ({"source": ""}, "source must be a path, .* got an empty path"),
        ({"source": io.StringIO("x")}, "source must be a path"),
        ({"source": "/no/such/file"}, "can't be read: No such file"),
    ],
)
def test_arguments(clip: bytes, options: dict[str, Any], says: str) -> None:
    given = {"source": clip, "preprocessor": plain(), **options}
    with pytest.raises(ValueError, match=says):
        decode_to_tensor(given.pop("source"), given.pop("preprocessor"), **given)


def test_without_pyav(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_io, "missing", lambda: video_io.NOT_INSTALLED)
    with pytest.raises(VideoError, match=r"PyAV is not installed \(pip install"):
        decode_to_tensor(clip, plain())
