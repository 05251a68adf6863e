"""What decode_to_tensor takes from a stream: matrix, range, siting, rotation, size."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels.video import VideoError, decode_to_tensor
from aimills_kernels.video.io import decode
from tests.test_video_decode import encoded, for_users, plain, taken, which


def colourful(index: int, into: list[Tensor]) -> None:
    into[0].fill_(120)
    into[1].copy_(torch.arange(into[1].shape[1]) * 5 + 40)
    into[2].fill_(200)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"colorspace": 1, "color_range": 1}, ("bt709", "limited")),
        ({"colorspace": 5, "color_range": 2}, ("bt601", "full")),
        ({"colorspace": 6}, ("bt601", "limited")),
    ],
)
def test_matrix_and_range(tags: dict[str, int], expected: tuple[str, str]) -> None:
    data = encoded(count=2, tags=tags, paint=colourful)
    got = decode_to_tensor(data, plain(), indices=[0])
    meta = got["video_metadata"]
    assert (meta["color_space"], meta["color_range"]) == expected
    frame = decode(data)[0]
    assert (frame.color_space, frame.color_range) == expected
    by_hand = plain()(
        [frame.y[None], frame.uv[None]], color_space=expected[0], color_range=expected[1]
    )
    assert torch.equal(got["pixel_values"], by_hand["pixel_values"])


@pytest.mark.parametrize(("number", "expected"), [(0, "left"), (1, "center"), (2, "topleft")])
def test_chroma_location(number: int, expected: str) -> None:
    data = encoded(count=2, options={"x264-params": f"chromaloc={number}"})
    assert taken(data)["chroma_location"] == expected
    assert taken(data, chroma_location="left")["chroma_location"] == "left"


def test_chroma_location_that_is_not_there() -> None:
    data = encoded(count=2, options={"x264-params": "chromaloc=3"})
    with pytest.raises(VideoError, match="chroma samples at top, and"):
        taken(data)
    assert taken(data, chroma_location="left")["chroma_location"] == "left"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), "bt601"), ((1280, 64), "bt709"), ((64, 578), "bt709"), ((64, 576), "bt601")],
)
def test_matrix_that_is_not_said(size: tuple[int, int], expected: str) -> None:
    data = encoded(count=1, size=size, tags={})
    with pytest.warns(
        UserWarning, match=f"doesn't say its colour matrix; {expected} is taken"
    ) as seen:
        assert (
            decode_to_tensor(data, plain(), indices=[0])["video_metadata"]["color_space"]
            == expected
        )
    assert [one.filename for one in for_users(seen)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert taken(data, color_space="bt709")["color_space"] == "bt709"


def corner(index: int, into: list[Tensor]) -> None:
    """Bright at the top on the left."""
    into[0].fill_(30)
    into[0][:16, :16] = 220


def place_of_the_corner(data: bytes, **options: Any) -> tuple[int, int]:
    """Of the bright corner: the row and the column, 0 or -1."""
    picture = decode_to_tensor(data, plain(), indices=[0], **options)["pixel_values"][0, 0]
    corners = {(r, c): float(picture[r, c]) for r in (0, -1) for c in (0, -1)}
    assert sorted(picture.shape) == [48, 64]
    return max(corners, key=corners.__getitem__)


# After `degrees` counter-clockwise and what is mirrored then, the corner is there.
TURNS = [
    ({"degrees": 0}, (0, 0), (0, False)), ({"degrees": 90}, (-1, 0), (270, False)),
    ({"degrees": 180}, (-1, -1), (180, False)), ({"degrees": -90}, (0, -1), (90, False)),
    ({"degrees": 0, "hflip": True}, (0, -1), (0, True)),
    ({"degrees": 0, "vflip": True}, (-1, 0), (180, True)),
    ({"degrees": 90, "hflip": True}, (-1, -1), (90, True)),
    ({"degrees": 90, "vflip": True}, (0, 0), (270, True)),
]  # fmt: skip


@pytest.mark.parametrize(("matrix", "bright", "expected"), TURNS)
def test_rotation(matrix: dict[str, Any], bright: Any, expected: tuple[int, bool]) -> None:
    data = encoded(
        count=1, paint=corner, prepare=lambda stream: stream.set_display_rotation(**matrix)
    )
    meta = taken(data)
    assert (meta["rotate"], meta["flip"]) == expected
    assert place_of_the_corner(data) == bright
    assert place_of_the_corner(data, rotate=0, flip=False) == (0, 0)


def test_slanted() -> None:
    data = encoded(count=1, prepare=lambda s: s.set_display_rotation(30))
    with pytest.raises(VideoError, match="a display matrix that is no quarter turn"):
        taken(data)
    assert taken(data, rotate=90, flip=False)["rotate"] == 90


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9"])
def test_odd_sizes(codec: str) -> None:
    data = encoded(codec, "matroska", count=3, size=(75, 65))
    got = decode_to_tensor(data, plain(), indices=[0, 2])
    assert got["pixel_values"].shape == (2, 3, 65, 75)
    assert which(got) == [0, 2]


def warned(data: bytes, **options: Any) -> tuple[dict[str, Any], list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        meta = decode_to_tensor(data, plain(), **options)["video_metadata"]
    assert all(one.filename == __file__ for one in for_users(seen))
    return meta, [str(one.message) for one in for_users(seen)]


INTERLACED = [
    ("libx264", "mp4", {"flags": "+ilme+ildct"}), ("libx264", "matroska", {"x264-params": "tff=1"}),
    ("mpeg2video", "mpegts", {"flags": "+ilme+ildct", "b": "1M"}),
    ("libx265", "mp4", {"x265-params": "log-level=0:interlace=1"}),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "form", "options"), INTERLACED)
def test_interlaced_streams(codec: str, form: str, options: dict[str, str]) -> None:
    """Taken as they are, which is told once for all frames."""
    meta, told = warned(encoded(codec, form, count=4, options=options), indices=[1, 3])
    assert meta["interlaced"] is True
    assert len(told) == 1
    assert "is interlaced (frame 1, by its marks); the two fields are taken as one" in told[0]


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "h264"])
def test_pixels_that_are_not_square(form: str) -> None:
    def prepare(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    meta, told = warned(encoded(form=form, count=4, prepare=prepare))
    assert (meta["width"], meta["sample_aspect_ratio"]) == (64, (16, 11))
    assert len(told) == 1
    assert "has pixels of 16:11, width to height; they are taken as square" in told[0]


def test_nothing_is_told_of_progressive_frames_of_square_pixels() -> None:
    meta, told = warned(encoded(count=4))
    assert not told
    assert (meta["sample_aspect_ratio"], meta["interlaced"]) == ((1, 1), False)
