"""Pillow's weights as the GPU kernels read them: tables that stay on the device from call to call.

They come out of float64 and of the C library's sine, which no GPU has bit for bit.
"""

from __future__ import annotations

import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from aimills_kernels.kernels.video.resize import RADIUS, pil_windows

MOST_BYTES = 1 << 26  # that are kept; an axis of 1080 samples takes some 40 KB
_FILTERS = tuple(RADIUS)  # in the order of the enum in csrc/video/params.h


@dataclass
class _Kept:
    table: Tensor
    stream: int  # that it was made on


_KEPT: dict[tuple, _Kept] = {}  # the one that was used last comes last
_CAPTURED: dict[int, Tensor] = {}  # a CUDA graph may be replayed as long as the process lives
_LOCK = threading.Lock()


def table(size: int, out: int, interpolation: str, device: torch.device) -> Tensor:
    """Of one axis, as csrc/video/pil.h says it."""
    key = (device, size, out, interpolation)
    stream, capturing = _stream(device)
    with _LOCK:
        kept = _KEPT.pop(key, None)
        if kept is None:
            if capturing:
                raise RuntimeError(
                    f"video_to_tensor: Pillow's weights of {size} samples to {out} are not on "
                    f"{device} yet, and a CUDA graph can't capture their copy: make the call once "
                    "before the capture"
                )
            lines = bytearray(lines_of(size, out, interpolation))
            with ThreadPoolExecutor(1) as thread:
                kept = _KEPT[key] = thread.submit(_copied, lines, device).result()
            _forget()
        _KEPT[key] = kept
        if capturing:
            _CAPTURED[kept.table.data_ptr()] = kept.table
        elif stream != kept.stream:
            kept.table.record_stream(torch.cuda.current_stream(device))
    return kept.table


def _copied(lines: bytearray, device: torch.device) -> _Kept:
    """In a thread of its own: in the caller's allocations may go to the pool of a CUDA graph, as
    while `torch.compile(mode="reduce-overhead")` warms up, and what the graph doesn't know there is
    given to others. It is on the GPU when this returns."""
    copy = torch.frombuffer(lines, dtype=torch.int32).to(device)
    return _Kept(copy, _stream(device)[0])


def _stream(device: torch.device) -> tuple[int, bool]:
    """The current one, and whether a graph captures what is launched on it."""
    if device.type != "cuda":
        return 0, False
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    return stream, torch.cuda.is_current_stream_capturing()


def _forget() -> None:
    """Of tables beyond MOST_BYTES those that were not used for longest, but never the last one."""
    total = sum(kept.table.nbytes for kept in _KEPT.values())
    for key in list(_KEPT)[:-1]:
        if total <= MOST_BYTES:
            break
        total -= _KEPT.pop(key).table.nbytes


def lines_of(size: int, out: int, interpolation: str) -> bytes:
    """By the extension, or the same in Python, which takes a hundred times as long."""
    try:
        from aimills_kernels import _C
    except ImportError:
        return lines_in_python(size, out, interpolation)
    return _C.video_pil_lines(size, out, _FILTERS.index(interpolation))


def lines_in_python(size: int, out: int, interpolation: str) -> bytes:
    windows = pil_windows(size, out, interpolation)
    longest = max(len(weights) for _, weights in windows)
    words = array("i", [longest + 2])
    for begin, weights in windows:
        words.extend([begin, begin + len(weights), *weights])
        words.extend([0] * (longest - len(weights)))
    return words.tobytes()
