"""Which of a file's streams is the video, and what is told of one without meaning."""

from __future__ import annotations

import importlib.metadata
import io
import struct
from types import SimpleNamespace

import pytest
import torch

from aimills_kernels.accept.png import encode
from aimills_kernels.video import VideoError, decode_to_tensor
from aimills_kernels.video.io import _first, missing
from tests.test_video_decode import encoded, plain, taken

av = pytest.importorskip("av")


def test_cover_of_music_is_no_video() -> None:
    """An MP3 with a picture in front, by ID3v2.3: FFmpeg has it as a video of one frame."""
    png = encode(torch.zeros(8, 8, 3, dtype=torch.uint8))
    body = b"\0image/png\0\x03\0" + png
    frame = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    silent = b"\xff\xfb\x90\xc4" + bytes(413)  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono
    data = b"ID3\x03\0\0" + size + frame + silent * 40
    with av.open(io.BytesIO(data)) as container:
        assert sorted(s.type for s in container.streams) == ["audio", "video"]
    with pytest.raises(VideoError, match="holds no video stream but the picture of a cover"):
        decode_to_tensor(data, plain())


def test_video_behind_a_cover() -> None:
    """No muxer here writes the cover first, but files have it so."""
    cover, video, other = (SimpleNamespace(disposition=d) for d in (0x401, 0, 1))
    assert _first("a", [cover, video, other]) is video


@pytest.mark.parametrize("tags", [{}, {"color_range": 1}])
@pytest.mark.parametrize("given", [None, "limited", "full"])
def test_rgb_is_full_whatever_is_said(tags: dict[str, int], given: str | None) -> None:
    """By the stream or by the caller, as the op takes it."""
    data = encoded("rawvideo", "nut", count=1, pixels="rgb24", tags=tags)
    assert taken(data, color_range=given)["color_range"] == "full"
    with pytest.raises(ValueError, match="color_range must be limited or full, got 'x'"):
        taken(data, color_range="x")


@pytest.mark.parametrize("version", ["14.0.0", "16.1.0", "17.0.1"])
def test_pyav_too_old(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(VideoError, match=f"PyAV {version} is older than 17.1 "):
        decode_to_tensor(b"x", plain())


@pytest.mark.parametrize("version", ["17.1.0", "17.1.0rc1", "18.0.0", "100.0", "unknown"])
def test_pyav_that_may_serve(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert missing() is None
