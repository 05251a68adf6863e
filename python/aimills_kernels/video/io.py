"""Video in and out through PyAV: a decoder's planes as tensors, without a copy of the luma.

PyAV is optional (`pip install aimills-kernels[video]`); nothing else in the package needs it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from aimills_kernels.kernels.video.formats import FORMATS as OP_FORMATS
from aimills_kernels.video.containers import cut_short
from aimills_kernels.video.tags import TICK, VideoError, guessed_space, levels, matrix

Source = Path | str | bytes | BinaryIO
_SOURCES = "a path, the video itself as bytes, or a binary file that can seek"
NOT_INSTALLED = "PyAV is not installed (pip install aimills-kernels[video])"
OLDEST = (17, 1)  # 16's frames have no color_trc, and 17.0 ends the process as it opens some
# FFmpeg's name of a pixel format, and that of `video_to_tensor`.
FORMATS = {
    "yuv420p": "i420", "yuvj420p": "i420", "yuv422p": "yuv422p", "yuvj422p": "yuv422p",
    "yuv444p": "yuv444p", "yuvj444p": "yuv444p", "yuv420p10le": "yuv420p10",
    "yuv422p10le": "yuv422p10", "yuv444p10le": "yuv444p10", "yuv420p12le": "yuv420p12",
    "yuv422p12le": "yuv422p12", "yuv444p12le": "yuv444p12", "nv12": "nv12", "nv21": "nv21",
    "p010le": "p010", "p012le": "p012", "p016le": "p016", "rgb24": "rgb24", "bgr24": "bgr24",
    "gbrp": "gbrp", "rgb48le": "rgb48", "bgr48le": "bgr48", "gbrp10le": "gbrp10",
    "gbrp12le": "gbrp12", "gbrp16le": "gbrp16",
}  # fmt: skip
# Checksums too, where a stream has any: HEVC's of pictures, Matroska's of elements.
STRICT = "explode+crccheck+bitstream+buffer"
_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_MOST_OF_JPEG = 65500  # of a side, by libjpeg and FFmpeg
_ACCURATE = (
    "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp:out_range=pc"
    ":in_h_chr_pos=0:in_v_chr_pos=128"  # in 1/256 of a luma sample, from the first one
)


@dataclass(frozen=True)
class Frame:
    """One decoded frame as NV12: y [H, W] in the decoder's own memory and with its line pitch; uv
    [ceil(H/2), ceil(W/2), 2], interleaved, with the pitch kept. `source` is PyAV's frame."""

    y: Tensor
    uv: Tensor
    color_space: str
    color_range: str
    source: Any

    @property
    def pitch(self) -> int:
        """Bytes from one line to the next."""
        return self.y.stride(0)


def missing() -> str | None:
    """Why no video can be read or written here; None where it can."""
    if importlib.util.find_spec("av") is None:
        return NOT_INSTALLED
    try:
        there = metadata.version("av")
        old = tuple(int(part) for part in there.split(".")[:2]) < OLDEST
    except (metadata.PackageNotFoundError, ValueError):  # one's own build may say nothing of it
        return None
    if old:
        least = ".".join(map(str, OLDEST))
        return f"PyAV {there} is older than {least} (pip install 'av>={least}')"
    return None


def _av() -> Any:
    if reason := missing():
        raise VideoError(reason)
    import av

    return av


# ---- decoding


def decode(source: Source, *, limit: int | None = None, expect: int | None = None) -> list[Frame]:
    """The frames of a video file, or of one in memory; the first `limit` of them.

    VideoError for what is empty, truncated, damaged or no 8-bit 4:2:0 video: the whole of it is
    decoded, whatever the limit. `expect` is the number of frames where the container has none: a
    stream that states no length, such as H.264 or MPEG-TS, is whole without its last frames too.
    """
    if limit is not None:
        _check_count("limit", limit, 0)
    if expect is not None:
        _check_count("expect", expect, 1)
    name, data = open_source(source)
    frames: list[Frame] = []
    seen = 0
    try:
        with opened(name, data) as (container, stream):
            announced = expect or stream.frames
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(f"{name} is damaged or truncated at frame {seen}")
                seen += 1
                if limit is None or seen <= limit:
                    frames.append(_frame(name, frame))
    except errors() as error:
        what = "can't be decoded" if not seen else f"breaks off after {seen} frames"
        raise VideoError(f"{name} {what}: {said(error)}; is it truncated?") from error
    if not seen:
        raise VideoError(f"{name} holds no complete frame; is it truncated?")
    if seen < announced:
        raise VideoError(f"{name} is truncated: {seen} of its {announced} frames are there")
    return frames


@contextlib.contextmanager
def opened(name: str, data: BinaryIO | str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its video stream, which is decoded strictly."""
    av = _av()
    cut, from_path = cut_short(data), isinstance(data, str)
    if not isinstance(data, str):
        data.seek(0)
    # Titles are not looked at, and old ones are no UTF-8.
    # A playlist names other files, and may have local ones where it is one itself, else none.
    options = {"err_detect": STRICT}
    options["protocol_whitelist"] = "file,crypto,data" if from_path else "none"
    with av.open(data, options=options, metadata_errors="replace") as container:
        stream = _first(name, container.streams.video)
        # One that says how many frames it has is held to that instead.
        if cut and not stream.frames:
            raise VideoError(f"{name} is truncated: its last part is longer than the file")
        if stream.codec_context is None:
            raise VideoError(f"{name} is in a codec that this FFmpeg can't decode")
        # Else the decoder patches what is lost and says nothing, with threads in any case.
        stream.codec_context.options = {"err_detect": STRICT}
        stream.codec_context.thread_count = 1
        yield container, stream


def _first(name: str, streams: Sequence[Any]) -> Any:
    """Which is no picture of a cover, as music has."""
    moving = [s for s in streams if not s.disposition & _COVER]
    if not moving:
        what = "but the picture of a cover" if streams else ""
        raise VideoError(f"{name} holds no video stream {what}".rstrip())
    return moving[0]


def errors() -> Any:
    """The exceptions that PyAV raises for a video that is damaged or none."""
    return (_av().error.FFmpegError, EOFError)


def said(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or "unexpected end").lower()


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")


def open_source(source: Source) -> tuple[str, BinaryIO | str]:
    """What to call it, and what FFmpeg reads. A file that is open is read from its start."""
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, str) and not source:  # as a path it is the folder that one is in
        raise ValueError(f"source must be {_SOURCES}, got an empty path")
    if not isinstance(source, (str, os.PathLike)):
        if not _is_file(source):
            raise ValueError(f"source must be {_SOURCES}, got {type(source).__name__}")
        if not source.seek(0, io.SEEK_END):
            raise VideoError("the video is empty (0 bytes)")
        return "the video", source
    path = Path(source)
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        said = getattr(error, "strerror", None) or error
        raise VideoError(f"the video {str(path)!r} can't be read: {said}") from None
    if not first:
        raise VideoError(f"the video {str(path)!r} is empty (0 bytes)")
    return f"the video {str(path)!r}", str(path)


def _is_file(source: Any) -> bool:
    """Of bytes: an empty read tells them from text."""
    try:
        return bool(source.seekable()) and source.read(0) == b""
    except (AttributeError, TypeError, ValueError, OSError):
        return False


# ---- planes


def _frame(name: str, frame: Any) -> Frame:
    y, uv = nv12(name, frame)
    space = matrix(name, frame) or guessed_space(frame.width, frame.height)
    return Frame(y, uv, space, levels(frame) or "limited", frame)


def planes(name: str, frame: Any) -> list[Tensor]:
    """What `video_to_tensor` takes of a frame of PyAV's, in the decoder's own memory."""
    if frame.format.name not in FORMATS:
        raise VideoError(
            f"{name} has the pixel format {frame.format.name}; supported are {', '.join(FORMATS)}"
        )
    form = OP_FORMATS[FORMATS[frame.format.name]]
    found = []
    for i, plane in enumerate(frame.planes):
        data = torch.frombuffer(plane, dtype=form.dtype)
        shape = form.shape(i, 1, frame.height, frame.width)[1:]
        pitch = plane.line_size // form.dtype.itemsize
        found.append(data.as_strided(shape, (pitch, *shape[2:], 1)))
    return found


def nv12(name: str, frame: Any) -> tuple[Tensor, Tensor]:
    """The two planes of a frame of PyAV's, the luma in the decoder's own memory."""
    if FORMATS.get(frame.format.name) != "i420":
        raise VideoError(f"{name} has the pixel format {frame.format.name}, not 8-bit 4:2:0")
    y, u, v = (_plane(p) for p in frame.planes)
    return y, _interleave(u, v)


def _plane(plane: Any) -> Tensor:
    """[height, width] over the decoder's memory, line size and all."""
    data = torch.frombuffer(plane, dtype=torch.uint8)
    return data.as_strided((plane.height, plane.width), (plane.line_size, 1))


def _interleave(u: Tensor, v: Tensor) -> Tensor:
    """U and V as the second plane of NV12, with the pitch that a surface of this luma has."""
    height, width = u.shape
    pitch = 2 * u.stride(0)
    surface = torch.zeros(height * pitch, dtype=torch.uint8)
    uv = surface.as_strided((height, width, 2), (pitch, 2, 1))
    uv[..., 0], uv[..., 1] = u, v
    return uv


def rgb24(frame: Frame) -> Tensor:
    """[H, W, 3] u8 as FFmpeg's swscale makes it: another implementation to compare with.

    By its accurate paths, linear in chroma that lies where H.264 has it: between rows, on even
    columns.
    """
    av = _av()
    source, graph = frame.source, av.filter.Graph()
    full = "pc" if frame.color_range == "full" else "tv"
    chain = [
        graph.add_buffer(
            width=source.width, height=source.height, format=source.format, time_base=TICK
        ),
        graph.add("scale", f"{_ACCURATE}:in_color_matrix={frame.color_space}:in_range={full}"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*chain).configure()
    graph.push(source)
    made = graph.pull()
    plane = made.planes[0]
    data = torch.frombuffer(plane, dtype=torch.uint8)
    size, strides = (made.height, made.width, 3), (plane.line_size, 3, 1)
    return data.as_strided(size, strides).clone()


# ---- encoding


def encode_h264(
    frames: Iterable[tuple[Tensor, Tensor, Tensor]], width: int, *, rate: int = 25
) -> bytes:
    """An H.264 stream (Annex B) of u8 planes y, u, v, tagged as BT.709, limited range.

    The planes may be wider than `width`, an even number: what lies to the right is cropped by the
    stream's own header. A decoder then keeps the whole line, so its pitch is longer than the width.
    Height and lines are even, and all frames have one size.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 2 or width % 2:
        raise ValueError(f"width must be an even number from 2 on, got {width!r}")
    _check_count("rate", rate, 1)
    if not isinstance(frames, Iterable):
        raise ValueError(f"frames must be an iterable of planes, got {type(frames).__name__}")
    av = _av()
    from av.bitstream import BitStreamFilterContext

    out = io.BytesIO()
    crop = stream = None
    with av.open(out, "w", format="h264") as container:
        for index, planes in enumerate(frames):
            _check_planes(f"frames[{index}]", planes, width)
            if stream is None:
                height, coded = planes[0].shape
                stream = _stream(container, coded, height, rate)
                crop = BitStreamFilterContext(f"h264_metadata=crop_right={coded - width}", stream)
            elif planes[0].shape != (height, coded):
                raise ValueError(
                    f"frames[{index}] must be as large as the first, {coded} x {height}"
                )
            frame = av.VideoFrame(coded, height, "yuv420p")
            for plane, values in zip(frame.planes, planes, strict=True):
                _plane(plane).copy_(values)
            frame.pts = index
            _mux(container, crop, stream.encode(frame))
        if stream is None:
            raise VideoError("there is no frame to encode")
        _mux(container, crop, stream.encode(None))
        _mux(container, crop, [None])
    return out.getvalue()


def jpeg(levels: Tensor) -> bytes:
    """[height, width, 3] u8 as a JPEG file (JFIF) of full chroma, at FFmpeg's finest usual step."""
    av = _av()
    from av.video.reformatter import ColorRange, Colorspace

    height, width, _ = levels.shape
    if max(height, width) > _MOST_OF_JPEG:
        raise VideoError(
            f"a JPEG has at most {_MOST_OF_JPEG} rows and columns, and the picture is {width} x "
            f"{height}; PNG holds it"
        )
    frame = av.VideoFrame(width, height, "rgb24")
    planes("the picture", frame)[0].copy_(levels)
    full = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.JPEG}  # JFIF's
    frame = frame.reformat(format="yuv444p", **full)
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv444p"
    context.color_range = ColorRange.JPEG
    context.time_base, context.sample_aspect_ratio = TICK, 1  # without the latter it is no JFIF
    context.qmin = context.qmax = 2
    return b"".join(bytes(p) for given in (frame, None) for p in context.encode(given))


def _check_planes(name: str, planes: Any, width: int) -> None:
    three = isinstance(planes, (tuple, list)) and len(planes) == 3
    if not three or any(not isinstance(p, Tensor) or p.dtype != torch.uint8 for p in planes):
        raise ValueError(f"{name} must be three uint8 tensors: y, u, v")
    y, *chroma = (tuple(p.shape) for p in planes)
    if len(y) != 2 or y[0] < 2 or y[0] % 2 or y[1] % 2 or y[1] < width:
        raise ValueError(f"{name} must have y [H, W], both even and W at least {width}, got {y}")
    half = (y[0] // 2, y[1] // 2)
    if chroma != [half, half]:
        raise ValueError(f"{name} must have u and v of shape {half}, got {chroma[0]}, {chroma[1]}")


def _stream(container: Any, width: int, height: int, rate: int) -> Any:
    stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "18"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = 1
    context.color_range = 1
    return stream


def _mux(container: Any, crop: Any, packets: Iterable[Any]) -> None:
    for packet in packets:
        for ready in crop.filter(packet):
            container.mux(ready)
