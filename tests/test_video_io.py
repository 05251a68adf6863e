"""Video in and out: what is cut short or no video is refused, and arguments are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels.accept.picture import moving_picture
from aimills_kernels.video import io as video_io

av = pytest.importorskip("av")
COUNT, HEIGHT, WIDTH = 30, 90, 160


def muxed(form: str, *, live: bool = False, varying: bool = False) -> bytes:
    out = io.BytesIO()
    options = {"live": "1"} if live else {}
    with av.open(out, "w", format=form, options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        tick = stream.codec_context.time_base = Fraction(1, 1000 if varying else 25)
        for index, planes in enumerate(moving_picture(COUNT, HEIGHT, WIDTH)):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            for plane, values in zip(frame.planes, planes, strict=True):
                video_io._plane(plane).copy_(values)
            # In ms ever slower, else one a tick.
            frame.pts = 40 * index + 7 * index * index if varying else index
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


MATROSKA: dict[str, dict[str, Any]] = {
    "plain": {}, "live": {"live": True}, "varying rate": {"varying": True},
}  # fmt: skip


@pytest.fixture(scope="module", params=MATROSKA)
def matroska(request: pytest.FixtureRequest) -> bytes:
    return muxed("matroska", **MATROSKA[request.param])


def test_whole_matroska_is_read(matroska: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(matroska)
    assert len(video_io.decode(matroska)) == len(video_io.decode(path)) == COUNT
    assert len(video_io.decode(matroska + b"\0" * 99)) == COUNT


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.999])
def test_truncated_matroska(matroska: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(matroska[: int(share * len(matroska))])
    for source in (path, path.read_bytes()):
        with pytest.raises(video_io.VideoError, match=r"is truncated|is it truncated\?"):
            video_io.decode(source)


@pytest.mark.parametrize("form", ["mp4", "avi", "flv", "nut"])
def test_other_containers(form: str) -> None:
    data = muxed(form)
    assert len(video_io.decode(data)) == COUNT
    with pytest.raises(video_io.VideoError, match="truncated"):
        video_io.decode(data[: len(data) // 2])


# ---- arguments


@pytest.mark.parametrize("source", [None, 7, bytearray(b"x"), io.StringIO("x")], ids=type)
def test_source_of_the_wrong_type(source: Any) -> None:
    with pytest.raises(ValueError, match=f"source must be .* got {type(source).__name__}"):
        video_io.decode(source)


@pytest.mark.parametrize(
    "options", [{"limit": "2"}, {"limit": -1}, {"limit": 1.5}, {"limit": True},
                {"expect": "8"}, {"expect": 0}, {"expect": -3}], ids=str,
)  # fmt: skip
def test_count_of_the_wrong_kind(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} must be .* got {value!r}"):
        video_io.decode(b"x", **options)


def planes(height: int = 16, width: int = 32) -> list[torch.Tensor]:
    shapes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    return [torch.zeros(shape, dtype=torch.uint8) for shape in shapes]


Change = Callable[[list[torch.Tensor]], Any]
BAD_FRAMES: dict[str, Change] = {
    "two planes": lambda p: p[:2],
    "a number": lambda p: 7,
    "no tensor": lambda p: [p[0], p[1], None],
    "floats": lambda p: [t.float() for t in p],
    "three dims": lambda p: [t.unsqueeze(0) for t in p],
    "an odd height": lambda p: [torch.zeros(15, 32, dtype=torch.uint8), p[1], p[2]],
    "an odd line": lambda p: [torch.zeros(16, 33, dtype=torch.uint8), p[1], p[2]],
    "narrower than the width": lambda p: planes(16, 14),
    "chroma of another size": lambda p: [p[0], p[1], p[2][:-1]],
}


@pytest.mark.parametrize("what", BAD_FRAMES)
def test_frames_that_cannot_be_encoded(what: str) -> None:
    with pytest.raises(ValueError, match=r"frames\[0\] must"):
        video_io.encode_h264([BAD_FRAMES[what](planes())], 16)


def test_frames_of_two_sizes() -> None:
    with pytest.raises(ValueError, match=r"frames\[1\] must be .*32 x 16"):
        video_io.encode_h264([planes(), planes(32, 32)], 16)


@pytest.mark.parametrize("width", [15, 0, -2, 16.0, "16", None, True])
def test_width_that_is_no_even_number(width: Any) -> None:
    with pytest.raises(ValueError, match="width must be an even number"):
        video_io.encode_h264([planes()], width)


@pytest.mark.parametrize("rate", [0, -1, "25", None])
def test_rate_that_is_none(rate: Any) -> None:
    with pytest.raises(ValueError, match="rate must be"):
        video_io.encode_h264([planes()], 16, rate=rate)


def test_frames_that_are_none() -> None:
    with pytest.raises(ValueError, match="frames must be"):
        video_io.encode_h264(None, 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no frame to encode"):
        video_io.encode_h264([], 16)
