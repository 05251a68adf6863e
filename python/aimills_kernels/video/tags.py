"""What a stream says of its pictures: matrix, range, chroma location, transfer, rotation.

| the stream says nothing of | taken is | for |
|---|---|---|
| matrix, HDR | BT.2020 | BT.2100 has PQ and HLG with no other; a guess |
| matrix, else | BT.709 from 1280 columns or 577 lines on, else BT.601 | what mpv does; a guess |
| range | limited | what H.264, HEVC and AV1 say that it means |
| chroma location | left | what H.264 and HEVC say that it means |
| transfer | SDR | what video was before there was another; so are its near kin, such as sRGB |
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

MATRICES = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}  # ITU-T H.273, table 4
_NOT_SAID = (2, 3)
_NAMES = {0: "RGB", 4: "FCC", 7: "SMPTE 240M", 8: "YCgCo", 10: "BT.2020 constant",
          14: "ICtCp"}  # fmt: skip
_RANGES = {1: "limited", 2: "full"}  # FFmpeg's AVColorRange
_HDR = {16: "pq", 18: "hlg"}  # ITU-T H.273, table 3
_NOT_SDR = {8: "linear", 9: "logarithmic (100 to 1)", 10: "logarithmic (316 to 1)",
            17: "SMPTE ST 428-1"}  # fmt: skip
_PRIMARIES = {1: "BT.709", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # table 2
TICK = Fraction(1, 25)


class VideoError(ValueError):
    """A video that can't be used; the text says which and why."""


@dataclass(frozen=True)
class Tags:
    """None where nothing is said. `flip`, then `rotate`, make a picture upright."""

    color_space: str | None
    color_range: str | None
    chroma_location: str | None
    transfer: str
    rotate: int
    flip: bool


def guessed_space(width: int, height: int, transfer: str = "sdr") -> str:
    if transfer != "sdr":
        return "bt2020"
    return "bt709" if width >= 1280 or height > 576 else "bt601"


def matrix(name: str, frame: Any) -> str | None:
    """None where the stream doesn't say it; VideoError for one that isn't there."""
    if frame.format.name in ("rgb24", "bgr24"):
        return "bt709"  # without meaning
    code = int(frame.colorspace)
    if code not in MATRICES and code not in _NOT_SAID:
        what = _NAMES.get(code, f"number {code}")
        raise VideoError(
            f"{name} has the colour matrix {what}, and there are BT.601, 709 and 2020; "
            "color_space= says which to take all the same"
        )
    return MATRICES.get(code)


def levels(frame: Any) -> str | None:
    if frame.format.name.startswith("yuvj"):
        return "full"
    return _RANGES.get(int(frame.color_range))


def tags_of(name: str, frame: Any, given: dict[str, Any]) -> Tags:
    """Of a decoded frame. What is `given` by the caller isn't asked of the stream."""
    turn = _turn(name, frame) if None in (given["rotate"], given["flip"]) else (0, False)
    return Tags(
        color_space=given["color_space"] or matrix(name, frame),
        color_range=given["color_range"] or levels(frame),
        chroma_location=given["chroma_location"] or _chroma_location(name, frame),
        transfer=given["transfer"] or _transfer(name, frame),
        rotate=turn[0] if given["rotate"] is None else given["rotate"],
        flip=turn[1] if given["flip"] is None else given["flip"],
    )


def _transfer(name: str, frame: Any) -> str:
    code = int(frame.color_trc)
    if code in _NOT_SDR or code > max(_HDR):
        what = _NOT_SDR.get(code, f"number {code}")
        raise VideoError(
            f"{name} has the transfer {what}, and there are SDR, PQ and HLG; transfer= says which "
            "to take all the same"
        )
    if (transfer := _HDR.get(code)) is None:
        return "sdr"
    primaries = int(frame.color_primaries)
    if primaries not in (9, *_NOT_SAID):
        what = _PRIMARIES.get(primaries, f"number {primaries}")
        raise VideoError(
            f"{name} is HDR ({transfer.upper()}) with the primaries {what}, and there is BT.2020; "
            "transfer= says what to take all the same"
        )
    return transfer


def _chroma_location(name: str, frame: Any) -> str | None:
    """PyAV has no attribute for it, but FFmpeg's filter `showinfo` writes it into the log."""
    import av

    graph = av.filter.Graph()
    chain = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=TICK
        ),
        graph.add("showinfo", "checksum=0"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*chain).configure()
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as lines:
            graph.push(frame)
            graph.pull()
    finally:
        av.logging.set_level(before)
    found = re.search(r"\bcl:(\w+)", " ".join(text for _, _, text in lines))
    if found is None or found[1] == "unspecified":
        return None
    if found[1] not in ("left", "center", "topleft"):
        raise VideoError(
            f"{name} has its chroma samples at {found[1]}, and there are left, center and topleft; "
            "chroma_location= says which to take all the same"
        )
    return found[1]


# Of a display matrix, x' = a x + c y and y' = b x + d y with y downwards: the signs of a, b, c, d.
_TURNS = {
    (1, 0, 0, 1): (0, False), (0, 1, -1, 0): (90, False),
    (-1, 0, 0, -1): (180, False), (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True), (0, -1, -1, 0): (90, True),
    (1, 0, 0, -1): (180, True), (0, 1, 1, 0): (270, True),
}  # fmt: skip


def _turn(name: str, frame: Any) -> tuple[int, bool]:
    """Degrees clockwise, and whether the picture is mirrored before."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = struct.unpack("<5i", bytes(data)[:20])
    least = max(map(abs, (a, b, c, d))) // 1000  # what rounding leaves of a zero
    signs = tuple((v > least) - (v < -least) for v in (a, b, c, d))
    if signs not in _TURNS:
        raise VideoError(
            f"{name} has a display matrix that is no quarter turn; rotate= and flip= say what to "
            "do all the same"
        )
    return _TURNS[signs]
