"""Stage: the main job on real input, through the public function.

A 1080p H.264 clip is encoded, decoded and given to `video_to_tensor` in the decoder's own memory,
lines padded as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import aimills_kernels
from aimills_kernels._dispatch import on_device
from aimills_kernels._explain import flat_arguments
from aimills_kernels._op import Case, Op, as_tuple, to_device
from aimills_kernels.accept.calls import check_calls
from aimills_kernels.accept.picture import moving_picture
from aimills_kernels.accept.session import VIDEO, Excluded, NotRun, Session
from aimills_kernels.kernels.video.cases import CLIP_MEAN, CLIP_STD
from aimills_kernels.video import io as video_io

_OP = "video_to_tensor"
_FRAMES = 2
_SIZE = (1080, 1920)
_CODED_WIDTH = 1984  # the decoder keeps these columns, so that its lines are padded
_SIZES = ((224, 224), (560, 1008))  # CLIP; Qwen2.5-VL's budget for 16:9
# On this clip a mean distance of 0.001 was seen. Chroma centred between columns gives 0.095, the
# nearest chroma sample 0.12, a bilinear filter 0.13, BT.601 for BT.709 3.2.
_SWSCALE_LEVELS = 0.03


def run(session: Session) -> str:
    settings = session.settings
    op = next((op for op in settings.ops if op.name == _OP), None)
    if VIDEO in settings.exclude or (op is not None and settings.leaves_out(op)):
        session.exclude(VIDEO if VIDEO in settings.exclude else _OP)
        raise Excluded
    if op is None:
        session.skip(NotRun(VIDEO, VIDEO, f"there is no op {_OP!r}", "all", gap=True))
        return f"video-decode not run: there is no op {_OP!r}"
    if reason := video_io.missing():
        session.skip(NotRun(VIDEO, VIDEO, reason, "cpu", gap=True))
        return f"video-decode not run: {reason}"
    steps = 1 + len(settings.devices) * 2 * len(_SIZES)
    with session.progress("real input", steps) as step:
        step("encode and decode a clip")
        frames = _clip(session)
        for device in settings.devices:
            for size in _SIZES:
                expected: list[tuple] = []
                for planes in _views(frames):
                    step(f"{len(planes[0])} frames to {size[0]} x {size[1]} on {device}")
                    _video_check(session, op, frames[-1], planes, size, device, expected)
    return (
        f"{len(frames)} frames of {frames[0].y.shape[1]} x {frames[0].y.shape[0]} H.264 decoded, "
        f"lines of {frames[0].pitch} bytes"
    )


def _clip(session: Session) -> list[video_io.Frame]:
    path = session.settings.video
    if path is not None:
        frames = video_io.decode(path, limit=_FRAMES)
        data_bytes, source = path.stat().st_size, path.name
    else:
        height, width = _SIZE
        data = video_io.encode_h264(moving_picture(_FRAMES, height, _CODED_WIDTH), width)
        frames = video_io.decode(data, expect=_FRAMES)
        data_bytes, source = len(data), "made here by libx264"
    first = frames[0]
    session.clip = {
        "source": source,
        "bytes": data_bytes,
        "frames": len(frames),
        "height": first.y.shape[0],
        "width": first.y.shape[1],
        "pitch": first.pitch,
        "color_space": first.color_space,
        "color_range": first.color_range,
    }
    return frames


def _views(frames: list[video_io.Frame]) -> list[tuple[Tensor, Tensor]]:
    """The clip as one batch with the decoder's line pitch, and its last frame where it was left."""
    last = frames[-1]
    return [
        (_stack([f.y for f in frames]), _stack([f.uv for f in frames])),
        (last.y.unsqueeze(0), last.uv.unsqueeze(0)),
    ]


def _stack(planes: list[Tensor]) -> Tensor:
    height, pitch = planes[0].shape[0], planes[0].stride(0)
    surface = torch.zeros(len(planes) * height * pitch, dtype=torch.uint8)
    strides = (height * pitch, *planes[0].stride())
    return surface.as_strided((len(planes), *planes[0].shape), strides).copy_(torch.stack(planes))


def _video_check(
    session: Session,
    op: Op,
    frame: video_io.Frame,
    planes: tuple[Tensor, Tensor],
    size: tuple[int, int],
    device: torch.device,
    known: list[tuple],
) -> None:
    """`known` is handed from the first view to the next: what the oracle makes of the clip."""
    moved = tuple(to_device(list(planes), device))
    options: dict[str, Any] = {
        "color_space": frame.color_space, "color_range": frame.color_range, "size": size,
        "mean": CLIP_MEAN, "std": CLIP_STD, "dtype": torch.bfloat16,
    }  # fmt: skip
    count, height, width = planes[0].shape
    name = f"{count} decoded frame{'s' * (count > 1)} to {size[0]} x {size[1]}"
    case = Case(name, F=count, H=height, W=width, pitch=planes[0].stride(1), h=size[0], w=size[1])
    with on_device(device):
        args = flat_arguments(_OP, moved, **options)
        before = [t.clone() for t in moved]

    def call() -> tuple[Tensor, ...]:
        out = torch.full_like(as_tuple(op.fake(*args))[0], float("nan"))
        return (getattr(aimills_kernels, _OP)(moved, **options, out=out),)

    def expected() -> tuple[tuple, tuple]:
        if not known:
            known.extend([op.oracle(args), as_tuple(op.reference(*args))])
        oracle, rounded = ((outs[0][-count:],) for outs in known)
        return oracle, rounded

    def extra(row: dict[str, Any], got: tuple[Tensor, ...]) -> None:
        if any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True)):
            row["failures"].append("an input was written to")
            for a, b in zip(before, moved, strict=True):
                b.copy_(a)
        if count == 1:
            session.pictures.append((f"{name}; provider: {row['provider']}", _levels(got[0][0])))
            if session.settings.video is None:
                _against_swscale(row, frame, got[0], size)

    check_calls(session, op, case, device, args, call, expected, extra, stage="real input")


def _levels(out: Tensor) -> Tensor:
    """[H, W, 3] u8 of a normalised picture."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    levels = (out.double().cpu() * std + mean) * 255
    return levels.nan_to_num().round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def _against_swscale(
    row: dict[str, Any], frame: video_io.Frame, got: Tensor, size: tuple[int, int]
) -> None:
    """A check that shares nothing with the reference: FFmpeg's own RGB, torch's own resize. On
    average, as each of the three rounds to levels by itself."""
    distance = swscale_distance(frame, got[0], size)
    row["swscale_levels"] = distance
    if not distance <= _SWSCALE_LEVELS:
        row["failures"].append(
            f"{distance:.3f} levels from FFmpeg's swscale and torch's resize on average, "
            f"{_SWSCALE_LEVELS} at most"
        )


def swscale_distance(frame: video_io.Frame, got: Tensor, size: tuple[int, int]) -> float:
    """Mean distance in levels."""
    rgb = video_io.rgb24(frame).permute(2, 0, 1).unsqueeze(0).float()
    resized = torch.nn.functional.interpolate(rgb, size=size, mode="bicubic", antialias=True)
    other = resized[0].round().clamp(0, 255).permute(1, 2, 0)
    return float((_levels(got).float() - other).abs().mean())
