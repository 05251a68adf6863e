"""The CUDA kernel compiled on the machine it runs on, by CuPy's NVRTC.

It serves a GPU for which the extension has no machine code, and an installation without one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video import cuda
from aimills_kernels.kernels.video.problem import Arguments, loader_of, packed
from aimills_kernels.kernels.video.ragged import CLIPS, needs_table, packed_clips, table

KERNELS = ("video_to_tensor_kernel", "video_to_tensor_ragged_kernel")
SOURCE, KERNEL = "video/sm80_video_to_tensor.cu", KERNELS[0]
_BATCH = struct.Struct(f"<2i Q {CLIPS + 1}q")
_THREADS = 256  # kThreads in csrc/video/tile.h
_TILE_ROWS, _TILE_COLS = 16, 32


def missing(sm: int | None) -> str | None:
    """Why it does not serve: where the extension can, that one does."""
    if sm is not None and sm < 80:
        return f"the kernel needs sm_80 or newer, this GPU is sm_{sm}"
    if cuda.missing(sm) is None:
        return "the extension has this kernel for this GPU"
    try:
        sources()
    except FileNotFoundError as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def sources() -> Path:
    """The folder `csrc`, which the package carries."""
    import aimills_kernels

    for root in aimills_kernels.__path__:
        if (Path(root) / "csrc" / SOURCE).is_file():
            return Path(root) / "csrc"
    raise FileNotFoundError(f"the kernel's source csrc/{SOURCE} is not in the package")


def code(kernel: str) -> str:
    return (sources() / f"video/sm80_{kernel.removesuffix('_kernel')}.cu").read_text()


def options(loader: str) -> tuple[str, ...]:
    """Compiler options, without the architecture, for the kernel with one of its loaders."""
    folders = (f"-I{sources()}", f"-I{sources() / 'include'}")
    return ("--std=c++17", *folders, f"-DAIMILLS_LOADER={loader}")


@cache
def _kernel(device: int, loader: str, name: str) -> Any:
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=code(name), options=options(loader))
        return module.get_function(name)


def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
    if outs[0].numel():
        loader, held = loader_of(Arguments(*args)), list[Tensor]()
        params = packed(outs, args, held)
        _launch(outs[0].device.index, loader, KERNELS[0], params, _blocks(args))


def launch_ragged(outs: tuple[Tensor, ...], *args: Any) -> None:
    held: list[Tensor] = []
    for loader, batch, blocks in batches(outs, args, held):
        _launch(outs[0].device.index, loader, KERNELS[1], batch, blocks)


def batches(
    outs: tuple[Tensor, ...], args: tuple, held: list[Tensor]
) -> Iterator[tuple[str, bytes, int]]:
    """The loader, the `Batch` struct and the grid of each launch; `held` as `packed` takes it."""
    clips, device = packed_clips(outs, args, held), outs[0].device
    whole = needs_table(len(clips), device)
    step = len(clips) if whole else CLIPS
    for first in range(0, len(clips), step):
        part = clips[first : first + step]
        starts, structs = [0], b"".join(params for params, _ in part)
        for _, clip in part:
            starts.append(starts[-1] + min(_blocks(clip), (2**31 - 1) // len(part)))
        size, end, address = len(part[0][0]), starts[-1], 0
        if whole:
            held.append(table(struct.pack(f"<{len(starts)}q", *starts), structs, device))
            address, starts, structs = held[-1].data_ptr(), [], b""
        starts += [end] * (CLIPS + 1 - len(starts))
        batch = _BATCH.pack(len(part), 0, address, *starts) + structs.ljust(CLIPS * size, b"\0")
        yield loader_of(Arguments(*part[0][1])), batch, end


def _launch(device: int, loader: str, kernel: str, packed_: bytes, blocks: int) -> None:
    import cupy
    import numpy as np

    params = np.frombuffer(packed_, dtype=[("params", np.uint8, (len(packed_),))])
    stream = torch._C._cuda_getCurrentRawStream(device)
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream, device):
        _kernel(device, loader, kernel)((blocks,), (_THREADS,), (params,))


def _blocks(args: tuple) -> int:
    """One per full-width tile; with narrower tiles each block takes several in turn."""
    a = Arguments(*args)
    frames, (height, width) = a.form.size(a.planes)[0], (end - begin for begin, end in a.stored)
    return min(frames * -(-height // _TILE_ROWS) * -(-width // _TILE_COLS), 2**31 - 1)
