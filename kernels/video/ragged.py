"""The flat arguments of video_to_tensor_ragged: a call of video_to_tensor for each clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.check import check
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.kernels.video.problem import OPTIONS, Arguments, packed_at

CLIPS = 64  # kClips in csrc/video/batch.h: as many as the parameters of a launch hold


class RaggedArguments(NamedTuple):
    """The flat arguments by name. Each clip has its planes, 2 numbers of `sizes`, and none or 4 of
    `crops` and of `windows`, none or 1 of `flips`, none or 12 of `jitters`."""

    planes: list[Tensor]
    format: str
    color_space: str
    color_range: str
    chroma_location: str
    chroma_upsampling: str
    transfer: str
    sizes: list[int]
    crops: list[int]
    windows: list[int]
    pad: list[int]
    pad_level: int
    flips: list[bool]
    rotate: int
    jitters: list[float]
    interpolation: str
    antialias: bool
    resize_mode: str
    mean: list[float]
    std: list[float]
    dtype: torch.dtype
    layout: str
    patch: list[int]

    @property
    def clips(self) -> int:
        return len(self.planes) // len(FORMATS[self.format].planes)

    def each(self) -> list[tuple]:
        """The flat arguments of video_to_tensor, clip after clip."""
        n, count = len(FORMATS[self.format].planes), self.clips
        before, after = self[1:7], self[15:22]
        flips = self.flips or [False] * count
        return [
            (
                self.planes[n * i : n * i + n], *before, *self.sizes[2 * i : 2 * i + 2],
                self.crops[4 * i : 4 * i + 4], self.windows[4 * i : 4 * i + 4], self.pad,
                self.pad_level, flips[i], self.rotate, self.jitters[12 * i : 12 * i + 12], *after,
                0, self.patch,
            )
            for i in range(count)
        ]  # fmt: skip


def check_ragged(b: RaggedArguments) -> list[Arguments]:
    """The clips; ValueError for the first argument that does not fit."""
    if b.format not in FORMATS:
        *others, last = OPTIONS["format"]
        raise _error(f"format must be {', '.join(others)} or {last}, got {shown(b.format)}")
    form = FORMATS[b.format]
    names = ", ".join(name for name, _ in form.planes)
    if not b.planes or len(b.planes) % len(form.planes):
        raise _error(f"each clip of {b.format} is {len(form.planes)} planes ({names})")
    for name, wanted, optional in (
        ("sizes", 2, False), ("crops", 4, True), ("windows", 4, True), ("flips", 1, True),
        ("jitters", 12, True),
    ):  # fmt: skip
        got = len(getattr(b, name))
        if got != wanted * b.clips and (got or not optional):
            raise _error(f"{name} must be {wanted} values for each of {b.clips} clips, got {got}")
    clips = []
    for i, args in enumerate(b.each()):
        clips.append(a := Arguments(*args))
        try:
            check(a)
        except ValueError as error:
            text = str(error).removeprefix("video_to_tensor: ")
            raise _error(f"clip {i}: {text}") from None
    shapes = [tuple(a.placed.shape[1:]) for a in clips]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise _error(
                f"clip {i} would be {list(shape)} a piece in layout {b.layout} and clip 0 "
                f"{list(shapes[0])}: they must be equal, or patches"
            )
    return clips


def _error(text: str) -> ValueError:
    return ValueError(f"video_to_tensor_ragged: {text}")


def packed_clips(
    outs: tuple[Tensor, ...], args: tuple, held: list[Tensor] | None = None
) -> list[tuple[bytes, tuple]]:
    """The `Params` struct and the flat arguments of each clip that has an output; `held` as
    `packed` takes it."""
    address, found = outs[0].data_ptr(), []
    for clip in RaggedArguments(*args).each():
        packed, size = packed_at(address, clip, held)
        address += size
        if size:
            found.append((packed, clip))
    return found


def needs_table(clips: int, device: torch.device) -> bool:
    """Whether the clips go to the GPU's memory. A launch that is captured finds them in its
    parameters: the copy would read, at each replay, what is no longer there."""
    if clips <= CLIPS:
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def table(first_blocks: bytes, clips: bytes, device: torch.device) -> Tensor:
    """What csrc/video/batch.h says of it, copied in the order of the current stream. Pinned memory
    that it comes from is kept by torch until it has been copied."""
    host = torch.frombuffer(bytearray(first_blocks + clips), dtype=torch.uint8)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def public_arguments(named: dict[str, Any]) -> dict[str, Any]:
    """What the public function takes in place of the flat arguments."""
    n = len(FORMATS[named["format"]].planes)
    clips = _groups(named.pop("planes"), n)
    for name, size in (("sizes", 2), ("crops", 4), ("windows", 4), ("jitters", 12)):
        named[name] = _groups(named[name], size) or None
    named |= {"mode": named.pop("resize_mode"), "flips": named["flips"] or None}
    named |= {name: named[name] or None for name in ("pad", "patch")}
    return {"clips": clips, **named}


def _groups(values: Sequence[Any], size: int) -> list[Any]:
    return [tuple(values[i : i + size]) for i in range(0, len(values), size)]


def total_shape(clips: list[Arguments]) -> list[int]:
    shapes = [a.placed.shape for a in clips]
    return [sum(s[0] for s in shapes), *shapes[0][1:]]
