"""Whether a file is whole, by its container: FFmpeg takes a Matroska file, or an MP4 in fragments,
that breaks off for one that ends, and goes on behind damage without a word."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Boxes of MP4 that are in no other one: ISO/IEC 14496-12, table 1.
_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"ssix", b"free", b"skip",
          b"meta", b"emsg", b"prft", b"uuid", b"wide", b"pdin"}  # fmt: skip
_HEADER = 0x1A45DFA3  # RFC 8794, section 11.2.1
_SEGMENT = 0x18538067  # RFC 9559, section 5.1: all but the file's header
_CLUSTER = 0x1F43B675  # section 5.1.3: frames


def cut_short(data: BinaryIO | str) -> bool:
    """Whether it is a Matroska file that ends within an element, or an MP4 that ends within a box.
    Live recordings have elements of unknown size; what these hold is looked at instead."""
    with _read(data) as file:
        end = file.seek(0, io.SEEK_END)
        if _is_mp4(file):
            return _boxes_end(file, end) > end
        return _elements_end(file, end) > end


def _boxes_end(file: BinaryIO, end: int) -> int:
    """Where the last box that is known ends; beyond `end` too where a header breaks off, or where a
    fragment's index has no samples behind it."""
    at, kind = 0, b""
    while at < end:
        file.seek(at)
        head = file.read(16)
        long = head[:4] == b"\0\0\0\1"  # the size is behind the name
        if len(head) < (16 if long else 8) and any(box.startswith(head[4:8]) for box in _BOXES):
            return end + 1
        size = int.from_bytes(head[8:16] if long else head[:4])
        if head[4:8] not in _BOXES or size < 8:  # 0: up to the end of the file
            break
        at, kind = at + size, head[4:8]
    return max(at, end + 1) if kind == b"moof" else at


def _elements_end(file: BinaryIO, end: int) -> int:
    """Where the segment ends, or what breaks off before it; 0 for what is no Matroska."""
    at = 0
    file.seek(at)
    if _vint(file, marked=True) != _HEADER:
        return 0
    while at < end:
        file.seek(at)
        name = _vint(file, marked=True)
        size = _vint(file)
        if name is None or size is None:
            return end + (file.tell() >= end)
        at = file.tell() + max(size, 0)
        if name == _SEGMENT and size >= 0:
            break  # anything may follow
    return at


def _vint(file: BinaryIO, *, marked: bool = False) -> int | None:
    """RFC 8794, section 4: leading zeros tell the length, and a one follows, which belongs to an
    element's name. -1 for a size that isn't known; None where there is none."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    rest = 8 - first[0].bit_length()
    data = first + file.read(rest)
    if len(data) <= rest:
        return None
    value, marker = int.from_bytes(data), 1 << 7 * (rest + 1)
    if marked:
        return value
    return -1 if value == 2 * marker - 1 else value - marker


def breaks_at(data: BinaryIO | str) -> int | None:
    """The first byte of a Matroska file, or of an MP4 in fragments, at which elements don't follow
    one another, as where some bytes are wrong, too many or missing: FFmpeg goes on behind, or ends,
    and frames are lost. None where there is none; what follows an element of unknown size is not
    looked at, nor zeros behind the last box."""
    with _read(data) as file:
        end = file.seek(0, io.SEEK_END)
        if _is_mp4(file):
            return _unknown_box(file, end)
        file.seek(0)
        if _vint(file, marked=True) != _HEADER:
            return None
        return _untiled(file, 0, end, (_SEGMENT, _CLUSTER))


def _is_mp4(file: BinaryIO) -> bool:
    file.seek(4)
    return file.read(4) in (b"ftyp", b"styp")


def _unknown_box(file: BinaryIO, end: int) -> int | None:
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\1" else head[:4])
        if not any(head[:4]):  # up to the end of the file, or padding
            return None
        known = head[4:8] in _BOXES or (head[4:8].isalnum() and at + size <= end)
        if not known or size < 8:
            return at
        at += size
    return None


def _untiled(file: BinaryIO, at: int, stop: int, inside: tuple[int, ...]) -> int | None:
    while at < stop:
        file.seek(at)
        name, size = _vint(file, marked=True), _vint(file)
        if name is None or size is None:
            return at
        if size < 0:
            return None
        begin = file.tell()
        if begin + size > stop:
            return at
        if name in inside:
            found = _untiled(file, begin, begin + size, inside[1:])
            if found is not None or name == _SEGMENT:
                return found  # anything may follow a segment
        at = begin + size
    return None


@contextlib.contextmanager
def _read(data: BinaryIO | str) -> Iterator[BinaryIO]:
    if isinstance(data, str):
        with Path(data).open("rb") as file:
            yield file
    else:
        yield data
