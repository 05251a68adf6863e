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
import threading
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
_LOG = threading.Lock()  # the level of FFmpeg's log is the process's


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
    if frame.format.is_rgb:
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
    """RGB is taken as full, whatever its stream says, as FFmpeg takes it."""
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        return "full"
    return _RANGES.get(int(frame.color_range))


class TagReader:
    """What the decoded frames of a stream say. What is `given` by the caller isn't asked."""

    def __init__(self, name: str, given: dict[str, Any]):
        self._name, self._given, self._places = name, given, _ChromaPlaces(name)

    def of(self, frame: Any) -> Tags:
        name, given = self._name, self._given
        turn = _turn(name, frame) if None in (given["rotate"], given["flip"]) else (0, False)
        space = given["color_space"] or matrix(name, frame)
        transfer = given["transfer"] or _transfer(name, frame)
        if transfer != "sdr" and space not in (None, "bt2020") and not frame.format.is_rgb:
            raise VideoError(
                f"{name} is HDR ({transfer.upper()}) with the colour matrix {space}, and there is "
                "BT.2020; color_space= or transfer= says which to take all the same"
            )
        range_ = given["color_range"] or levels(frame)
        if frame.format.is_rgb and range_ == "limited":
            range_ = "full"  # as the op takes RGB
        return Tags(
            color_space=space,
            color_range=range_,
            chroma_location=given["chroma_location"] or self._places.of(frame),
            transfer=transfer,
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


class _ChromaPlaces:
    """PyAV has no attribute for it, but FFmpeg's filter `showinfo` writes it into the log."""

    def __init__(self, name: str):
        self._name = name
        self._kind: tuple[int, int, str] | None = None
        self._graph: Any = None

    def of(self, frame: Any) -> str | None:
        found = re.search(r"\bcl:(\w+)", self._logged(frame))
        if found is None:
            raise VideoError(
                f"the chroma location of {self._name} can't be read, as FFmpeg's log is turned off "
                "meanwhile; chroma_location= says it"
            )
        if found[1] == "unspecified":
            return None
        if found[1] not in ("left", "center", "topleft"):
            raise VideoError(
                f"{self._name} has its chroma samples at {found[1]}, and there are left, center "
                "and topleft; chroma_location= says which to take all the same"
            )
        return found[1]

    def _logged(self, frame: Any) -> str:
        import av

        kind = (frame.width, frame.height, frame.format.name)
        if self._kind != kind:
            self._kind, self._graph = kind, _showinfo(frame)
        with _LOG:
            before = av.logging.get_level()
            av.logging.set_level(av.logging.INFO)
            try:
                with av.logging.Capture() as lines:
                    self._graph.push(frame)
                    self._graph.pull()
            finally:
                av.logging.set_level(before)
        return " ".join(text for _, _, text in lines)


def _showinfo(frame: Any) -> Any:
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
    return graph


# Of a display matrix, x' = a x + c y and y' = b x + d y with y downwards: the signs of a, b, c, d.
_TURNS = {
    (1, 0, 0, 1): (0, False), (0, 1, -1, 0): (90, False),
    (-1, 0, 0, -1): (180, False), (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True), (0, -1, -1, 0): (90, True),
    (1, 0, 0, -1): (180, True), (0, 1, 1, 0): (270, True),
}  # fmt: skip


def _turn(name: str, frame: Any) -> tuple[int, bool]:
    """Degrees clockwise, and whether the picture is mirrored before."""
    from av.sidedata.sidedata import SideDataContainer

    # The one that a frame keeps keeps the frame: its memory waits for the garbage collector.
    data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
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
