"""The CUDA kernel compiled on the machine it runs on, by CuPy's NVRTC.

It serves a GPU for which the extension has no machine code, and an installation without one.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video import cuda
from aimills_kernels.kernels.video.problem import Arguments, loader_of, packed

SOURCE = "video/sm80_video_to_tensor.cu"
KERNEL = "video_to_tensor_kernel"
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


def options(loader: str) -> tuple[str, ...]:
    """Compiler options, without the architecture, for the kernel with one of its loaders."""
    folders = (f"-I{sources()}", f"-I{sources() / 'include'}")
    return ("--std=c++17", *folders, f"-DAIMILLS_LOADER={loader}")


@cache
def _kernel(device: int, loader: str) -> Any:
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=(sources() / SOURCE).read_text(), options=options(loader))
        return module.get_function(KERNEL)


def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
    import cupy
    import numpy as np

    out = outs[0]
    if out.numel() == 0:
        return
    device, struct = out.device.index, packed(outs, args)
    params = np.frombuffer(struct, dtype=[("params", np.uint8, (len(struct),))])
    loader = loader_of(Arguments(*args))
    stream = torch._C._cuda_getCurrentRawStream(device)
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream, device):
        _kernel(device, loader)((_blocks(args),), (_THREADS,), (params,))


def _blocks(args: tuple) -> int:
    """One per full-width tile; with narrower tiles each block takes several in turn."""
    a = Arguments(*args)
    frames, (height, width) = a.form.size(a.planes)[0], a.resized
    return min(frames * -(-height // _TILE_ROWS) * -(-width // _TILE_COLS), 2**31 - 1)
