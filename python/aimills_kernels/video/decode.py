"""From a video file to a model's input: only what the sampling needs is decoded."""

from __future__ import annotations

import contextlib
import operator
import warnings
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, BinaryIO

import torch

from aimills_kernels._words import shown
from aimills_kernels.video import io
from aimills_kernels.video.containers import breaks_at
from aimills_kernels.video.pieces import Pieces
from aimills_kernels.video.preprocess import VideoPreprocessor
from aimills_kernels.video.sampling import Sampling
from aimills_kernels.video.tags import TagReader, Tags, VideoError, guessed_space

Progress = Callable[[str, int, int], None]
_READ_STEP = 1 << 24  # bytes between two reports
# Of these containers the packets carry the times at which frames are shown.
_TIMED = ("mp4", "matroska", "mpegts")


@dataclass(frozen=True)
class Index:
    """What a look at all packets tells, without decoding one.

    `times` has that of each frame in the order of display; None where packets don't tell it, and
    then frames are counted from the first on. `keys` has, of the frames that need no other, the
    time and what to seek to, in that order.
    """

    frames: int
    rate: Fraction | None
    times: list[int] | None
    keys: list[tuple[int, int]]


@dataclass(frozen=True)
class Decoded:
    """The model's input from a file, and what the stream says of the sampled frames."""

    result: dict[str, torch.Tensor]
    options: dict[str, Any]  # format, colours, rotate and flip, as the preprocessor took them
    size: tuple[int, int]  # width and height
    indices: list[int]
    index: Index
    tags: Tags
    decoded: int  # frames that the decoder gave
    pixel: Fraction  # how wide a pixel is shown, of its height
    interlaced: int | None  # the first sampled frame that is marked so


def decode_to_tensor(
    source: io.Source,
    preprocessor: VideoPreprocessor | str,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    indices: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    color_space: str | None = None,
    color_range: str | None = None,
    chroma_location: str | None = None,
    transfer: str | None = None,
    rotate: int | None = None,
    flip: bool | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """The model's input from a video file, by a preset's name or a `VideoPreprocessor`.

    All packets are read once, which tells how many frames there are and where; then the decoder
    starts at the key frame before each sampled frame. Containers other than MP4, Matroska (WebM)
    and MPEG-TS are decoded from the first frame to the last sampled one.

    MPEG-TS says neither how many frames it has nor where one is missing: what is there is the
    video, with a warning where packets are marked as damaged, which is not so for every loss.

    Args:
        source: a path, the file as bytes, or a binary file that can seek.
        preprocessor: a `VideoPreprocessor`, or the name of a preset.
        num_frames, fps: how many frames, or how many of a second, in place of what the
            preprocessor says.
        indices: the frames to take, in ascending order, in place of sampling.
        device: where the planes are taken and the input is made.
        color_space, color_range, chroma_location, transfer, rotate, flip: as `video_to_tensor` and
            `VideoPreprocessor` take them, in place of what the stream says. Where neither says it:
            limited range and chroma at "left", as the codecs' standards have it; SDR; BT.2020 for
            HDR, else BT.709 from 1280 columns or 577 lines on, else BT.601, with a warning, since
            that is a guess.
        progress: called with (what is done, how far, of how many): "decoded" and frames; before
            that, of a long file, "read" and bytes. True: a bar, where stderr is a terminal and rich
            is installed.

    Returns:
        The preprocessor's result and `video_metadata`, a dict: total_num_frames, fps, duration,
        width, height (as decoded), frames_indices, video_backend, frames_decoded,
        sample_aspect_ratio, interlaced (a sampled frame is marked so; for either there is a
        warning, as frames are taken as they are, of square pixels), and the format, color_space,
        color_range, chroma_location, transfer, rotate and flip taken.

    Raises:
        VideoError: the video is empty, truncated or damaged where it is needed, changes its size,
            format or colours among the sampled frames, or is in a format, matrix or transfer that
            isn't there.
        ValueError: an argument is wrong; VideoError is one too.
    """
    if isinstance(preprocessor, str):
        preprocessor = VideoPreprocessor.from_preset(preprocessor)
    if not isinstance(preprocessor, VideoPreprocessor):
        raise ValueError(
            f"preprocessor must be a VideoPreprocessor or a preset, got {shown(preprocessor)}"
        )
    choose = _choice(preprocessor.sampling, num_frames, fps, indices)
    given = {
        "color_space": color_space, "color_range": color_range,
        "chroma_location": chroma_location, "transfer": transfer, "rotate": rotate, "flip": flip,
    }  # fmt: skip
    device, shown_progress = _device(device), _progress(progress)
    name, data = io.open_source(source)
    try:
        pieces = Pieces(preprocessor, device)
        with shown_progress as step:
            made = _read(name, data, choose, given, pieces, step)
    except io.errors() as error:
        raise VideoError(f"{name} can't be decoded: {io.said(error)}; is it truncated?") from error
    width, height = made.size
    if made.tags.color_space is None:
        _tell_of_a_guess(name, made.options["color_space"], made.tags, width, height)
    for told in _not_as_shown(name, made):
        warnings.warn(told, stacklevel=2)
    result: dict[str, Any] = {**made.result}
    rate = float(made.index.rate) if made.index.rate else None
    result["video_metadata"] = {
        "total_num_frames": made.index.frames,
        "fps": rate,
        "duration": made.index.frames / rate if rate else None,
        "width": width,
        "height": height,
        "frames_indices": made.indices,
        "video_backend": "pyav",
        "frames_decoded": made.decoded,
        "sample_aspect_ratio": made.pixel.as_integer_ratio(),
        "interlaced": made.interlaced is not None,
        **made.options,
    }
    return result


def _device(given: Any) -> torch.device:
    """Before anything is decoded. What torch raises is of many kinds."""
    try:
        found = torch.device(given)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"device {shown(given)} can't be used: {said}") from None
    return found


def _progress(given: Any) -> contextlib.AbstractContextManager[Any]:
    if given is True:
        from aimills_kernels.cli import _ui

        return _ui.progress("video")
    if given is not None and given is not False and not callable(given):
        raise ValueError(f"progress must be a function, True or None, got {shown(given)}")
    return contextlib.nullcontext(given or (lambda *_: None))


def _choice(
    rule: Sampling, num_frames: int | None, fps: float | None, indices: Sequence[int] | None
) -> Callable[[Index], list[int]]:
    if indices is None:
        if num_frames is not None or fps is not None:
            rule = replace(rule, num_frames=num_frames, fps=fps)
        return lambda index: rule.indices(index.frames, index.rate)
    if num_frames is not None or fps is not None:
        raise ValueError("indices excludes num_frames and fps")
    chosen = _whole(indices)
    if not chosen or chosen != sorted(chosen) or chosen[0] < 0:
        raise ValueError(f"indices must be frame numbers in ascending order, got {shown(indices)}")

    def check(index: Index) -> list[int]:
        if chosen[-1] >= index.frames:
            raise ValueError(f"indices has {chosen[-1]}, and the video has {index.frames} frames")
        return chosen

    return check


def _whole(numbers: Any) -> list[int]:
    """As Python's, also those of an array; none where one is no whole number."""
    if not isinstance(numbers, Iterable) or isinstance(numbers, (str, bytes)):
        return []
    try:
        given = list(numbers)
        return [] if bool in map(type, given) else [operator.index(i) for i in given]
    except TypeError:  # also of an array without an axis
        return []


def _taken(tags: Tags, width: int, height: int) -> dict[str, Any]:
    """Of frames of this size, by what is usual where the stream says nothing."""
    return {
        "color_space": tags.color_space or guessed_space(width, height, tags.transfer),
        "color_range": tags.color_range or "limited",
        "chroma_location": tags.chroma_location or "left",
        "transfer": tags.transfer,
        "rotate": tags.rotate,
        "flip": tags.flip,
    }


def _tell_of_a_guess(name: str, space: str, tags: Tags, width: int, height: int) -> None:
    usual = f"its size of {width} x {height}" if tags.transfer == "sdr" else "HDR"
    warnings.warn(
        f"{name} doesn't say its colour matrix; {space} is taken, as for {usual} usual; "
        "color_space= says which it is",
        stacklevel=3,
    )


def _not_as_shown(name: str, made: Decoded) -> Iterator[str]:
    """What a player would do and is not done here."""
    if made.interlaced is not None:
        yield (
            f"{name} is interlaced (frame {made.interlaced}, by its marks); the two fields are "
            "taken as one picture, so what moves has combed edges, and chroma is taken between "
            "rows of both"
        )
    if made.pixel != 1:
        wide, high = made.pixel.as_integer_ratio()
        yield (
            f"{name} has pixels of {wide}:{high}, width to height; they are taken as square, so "
            "pictures are narrower or wider than a player shows them"
        )


# ---- reading


def _read(
    name: str,
    data: BinaryIO | str,
    choose: Callable[[Index], list[int]],
    given: dict[str, Any],
    pieces: Pieces,
    progress: Progress,
) -> Decoded:
    with io.opened(name, data) as (container, stream):
        index = _look(name, container, stream, progress)
        counted = stream.frames > 0
    if not counted and (broken := breaks_at(data)) is not None:
        warnings.warn(
            f"{name} is damaged near byte {broken}, where its elements don't follow one another; "
            "frames may be missing there, and are not counted",
            stacklevel=3,
        )
    if not index.frames:
        raise VideoError(f"{name} holds no frame; is it truncated?")
    chosen = choose(index)
    wanted = sorted(set(chosen))
    first: Any = None
    done, interlaced = 0, None
    with io.opened(name, data) as (container, stream):
        pixel = Fraction(stream.sample_aspect_ratio or 1)
        reader, said = _Reader(name, container, stream, index), TagReader(name, given)
        for at, frame in reader.frames(wanted):
            found = said.of(frame)
            if first is None:
                first, tags, size = frame, found, (frame.width, frame.height)
            _check_same(name, at, first, frame)
            _check_same_tags(name, at, frame, tags, found)
            if frame.interlaced_frame and interlaced is None:
                interlaced = at
            planes = io.planes(name, frame)
            if not done:
                options = {"format": io.FORMATS[frame.format.name], **_taken(tags, *size)}
                pieces.start(planes, len(chosen), options)
            pieces.add(planes, bisect_right(chosen, at) - bisect_left(chosen, at))
            done += 1
            progress("decoded", done, len(wanted))
    made = pieces.finish()
    return Decoded(made, options, size, chosen, index, tags, reader.decoded, pixel, interlaced)


def _look(name: str, container: Any, stream: Any, progress: Progress) -> Index:
    form = container.format.name.split(",")
    by_dts = "mpegts" in form  # FFmpeg searches these by dts, and the others by pts
    times: list[int | None] = []
    keys: list[tuple[int, int]] = []
    read, marked, told = 0, None, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt and marked is None:
            marked = read
        read += 1
        if packet.pos is not None and packet.pos - told >= _READ_STEP:
            told = packet.pos
            progress("read", told, container.size)
        if not packet.is_discard:  # an MP4's edit list has some that are decoded and not shown
            times.append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            keys.append((packet.pts, packet.dts if by_dts else packet.pts))
    if stream.frames > read:
        raise VideoError(f"{name} is truncated: {read} of its {stream.frames} frames are there")
    if marked is not None:  # no error: streams that were put together are marked where they meet
        warnings.warn(
            f"{name} has lost packets near frame {marked}, as its container marks them; pictures "
            "from there to the next key frame may be wrong",
            stacklevel=4,
        )
    timed = any(name in form for name in _TIMED)
    known = sorted(t for t in times if t is not None)
    unique = len(set(known)) == len(times)
    rate = stream.average_rate if timed else stream.guessed_rate or stream.average_rate
    keys.sort()
    if timed and unique and keys and known:
        known = known[bisect_left(known, keys[0][0]) :]  # the decoder drops those before a key
        return Index(len(known), rate, known, keys)
    return Index(len(times), rate, None, [])


def _check_same(name: str, at: int, first: Any, frame: Any) -> None:
    one, other = (f"{f.width} x {f.height} {f.format.name}" for f in (first, frame))
    if one != other:
        raise VideoError(f"{name} changes from {one} to {other} at frame {at}")


def _check_same_tags(name: str, at: int, frame: Any, first: Tags, tags: Tags) -> None:
    """What the first frame says is taken for all."""
    if first == tags:
        return
    one, other = (_taken(t, frame.width, frame.height) for t in (first, tags))
    for what, value in other.items():
        if value != one[what]:
            raise VideoError(
                f"{name} changes its {what} from {one[what]} to {value} at frame {at}; {what}= "
                "says which to take for all"
            )


class _Reader:
    """Gives frames by their number, and counts what the decoder had to give for that."""

    def __init__(self, name: str, container: Any, stream: Any, index: Index):
        self.name, self.container, self.stream, self.index = name, container, stream, index
        self.decoded = 0

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """`wanted` ascends."""
        if self.index.times is None:
            yield from self._counted(wanted)
            return
        starts = [pts for pts, _ in self.index.keys]
        groups: dict[int, list[int]] = {}
        for at in wanted:
            key = bisect_right(starts, self.index.times[at]) - 1
            groups.setdefault(key, []).append(at)
        for key, members in groups.items():
            yield from self._behind(key, members)

    def _counted(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        left = set(wanted)
        for at, frame in enumerate(self._decode(wanted[0])):
            if at in left:
                left.remove(at)
                yield at, frame
            if not left:
                return
        raise VideoError(f"{self.name} is truncated: there is no frame {min(left)}")

    def _behind(self, key: int, members: list[int]) -> Iterator[tuple[int, Any]]:
        """Frames that follow a key frame. A seek may end behind it, and in an open group of
        pictures H.264's decoder may ask for what lies before it: then from the key frame before,
        and at last from the first."""
        left = deque(members)
        for start in dict.fromkeys((key, max(key - 1, 0), 0)):
            early: dict[int, Any] = {}  # found before one that goes first
            try:
                for at, frame in self._from(start, list(left)):
                    early.setdefault(at, frame)
                    while left and left[0] in early:
                        yield left[0], early.pop(left.popleft())
            except VideoError:
                if start == 0:
                    raise
                continue
            if not left:
                return
        raise VideoError(f"{self.name} is damaged or truncated: frame {left[0]} is missing")

    def _from(self, start: int, members: list[int]) -> Iterator[tuple[int, Any]]:
        """In the decoder's order. Of pictures with one time, as of fields, the first is taken."""
        times = self.index.times
        assert times is not None
        at_time = {times[at]: at for at in members}
        for frame in self._decode(members[0], self.index.keys[start][1]):
            if frame.pts in at_time:
                yield at_time.pop(frame.pts), frame
            if frame.pts is None or frame.pts >= times[members[-1]]:
                return

    def _decode(self, near: int, start: int | None = None) -> Iterator[Any]:
        try:
            if start is not None:
                self.container.seek(start, stream=self.stream)
            for frame in self.container.decode(self.stream):
                self.decoded += 1
                if frame.is_corrupt:
                    raise VideoError(f"{self.name} is damaged or truncated near frame {near}")
                yield frame
        except io.errors() as error:
            raise VideoError(
                f"{self.name} is damaged or truncated near frame {near}: {io.said(error)}"
            ) from error
