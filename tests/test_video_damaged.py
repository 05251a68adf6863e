"""Files with a few wrong bytes: what can be known of them is told, and no error is another's."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from aimills_kernels.video import VideoError, decode_to_tensor
from aimills_kernels.video.containers import breaks_at
from aimills_kernels.video.io import decode
from tests.test_video_decode import FRAGMENTED, boxes, encoded, for_users, noise, plain


def test_codec_that_is_not_known() -> None:
    data = encoded(count=2).replace(b"avc1", b"zzzz")
    for read in (decode, lambda data: decode_to_tensor(data, plain())):
        with pytest.raises(VideoError, match="is in a codec that this FFmpeg can't decode"):
            read(data)


@pytest.mark.parametrize("form", ["mp4", "matroska", "flv"])
def test_title_in_an_old_encoding(form: str) -> None:
    data = encoded(form=form, count=2, prepare=lambda s: s.container.metadata.update(title="Etude"))
    assert b"Etude" in data
    assert frames(data.replace(b"Etude", "\xc9tude".encode("latin-1"))) == 2


def test_playlist_in_memory_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a stranger's must not name what else is read; a path's owner may."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(encoded(count=3))
    playlist = b"ffconcat version 1.0\nfile 'clip.mp4'\n"
    (tmp_path / "list.ffconcat").write_bytes(playlist)
    for read in (decode, frames):
        with pytest.raises(VideoError, match="can't be decoded"):
            read(playlist)
    got = decode_to_tensor("list.ffconcat", plain())
    assert got["video_metadata"]["total_num_frames"] == 3


def test_path_that_no_file_has() -> None:
    with pytest.raises(VideoError, match=r"the video 'a\\x00b' can't be read: embedded null"):
        decode_to_tensor("a\0b", plain())


def test_checksums_of_pictures() -> None:
    """HEVC may have them; each of these bytes makes another picture, or none."""
    options = {"x265-params": "log-level=0:hash=1:bframes=0:qp=30"}
    data = encoded("libx265", "matroska", count=3, size=(320, 240), paint=noise, options=options)
    for share in (0.4, 0.5, 0.6, 0.7):
        at = int(share * len(data))
        wrong = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(VideoError, match="damaged or truncated near frame"):
            decode_to_tensor(wrong, plain())


def frames(data: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_to_tensor(data, plain())["video_metadata"]["total_num_frames"]


@pytest.mark.parametrize("what", ["too many bytes", "too few bytes", "a wrong size"])
def test_matroska_that_is_damaged_in_the_middle(what: str, tmp_path: Path) -> None:
    """FFmpeg looks for the next cluster, and what it leaves out is no error to it."""
    data = encoded(form="matroska", count=30, paint=noise)
    at = data.index(b"\xa3", len(data) // 2)  # a block, or a byte that looks like one
    wrong = {
        "too many bytes": data[:at] + data[at : at + 200] + data[at:],
        "too few bytes": data[:at] + data[at + 100 :] + bytes(100),
        "a wrong size": _block_of_another_size(data),
    }[what]
    path = tmp_path / "clip.mkv"
    path.write_bytes(wrong)
    for source in (wrong, path):
        with pytest.warns(UserWarning, match=r"is damaged near byte \d+, where its ele") as seen:
            decode_to_tensor(source, plain(), indices=[0])
        assert [one.filename for one in for_users(seen)] == [__file__]


def test_fragments_that_are_damaged_in_the_middle() -> None:
    """FFmpeg ends where it expects a box and finds none."""
    data = encoded(count=30, paint=noise, muxer=FRAGMENTED)
    at = dict(boxes(data))[b"mdat"] - 1000
    wrong = data[:at] + data[at + 100 :]
    with pytest.warns(UserWarning, match=r"is damaged near byte \d+, where its ele"):
        decode_to_tensor(wrong, plain(), indices=[0])
    assert frames(data) == 30
    for behind in (bytes(99), b"\0\0\0\x0cnew1more"):
        assert frames(data + behind) == 30
    assert frames(encoded(count=30, paint=noise) + b"more" * 9) == 30


def _block_of_another_size(data: bytes) -> bytes:
    """Of the first SimpleBlock of the first cluster, larger than the file."""
    at = data.index(b"\x1f\x43\xb6\x75")
    block = data.index(b"\xa3", at)
    assert data[block + 1] in (0x10, *range(0x20, 0x80))
    return data[: block + 1] + b"\x1f\xff\xff\xf0" + data[block + 5 :]


def test_matroska_that_is_whole() -> None:
    assert frames(encoded(form="matroska", count=30, paint=noise)) == 30
    assert frames(encoded(form="matroska", count=30, paint=noise) + b"more") == 30
    live = {"live": "1", "cluster_size_limit": "3000"}
    assert frames(encoded(form="matroska", count=30, paint=noise, muxer=live)) == 30
    assert frames(encoded("libvpx-vp9", "webm", count=30)) == 30
    assert breaks_at(__file__) is None
