"""The CUDA kernel in the extension: csrc/video/sm80_video_to_tensor.cu."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video.problem import extension, extension_error, packed
from aimills_kernels.kernels.video.ragged import needs_table, packed_clips, table


@cache
def missing(sm: int | None) -> str | None:
    """Why the extension can't run on this compute capability; None where it can."""
    if error := extension_error():
        return error
    archs = extension().archs
    if not archs:
        return "the extension was built without CUDA"
    # Machine code runs on its own major version from its own minor version on.
    if sm is not None and not any(a // 10 == sm // 10 and a <= sm for a in archs):
        return f"the extension was built for {', '.join(f'sm_{a}' for a in archs)}, not for sm_{sm}"
    return None


@lru_cache(maxsize=1)
def _entry() -> tuple[Any, Any]:
    module = extension()
    return module.VideoParams, module.video_to_tensor_cuda


def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
    params, run = _entry()
    stream = torch._C._cuda_getCurrentRawStream(outs[0].device.index)
    held: list[Tensor] = []
    run(params(packed(outs, args, held)), stream)


def launch_ragged(outs: tuple[Tensor, ...], *args: Any) -> None:
    held: list[Tensor] = []
    found, module = packed_clips(outs, args, held), extension()
    clips, address = b"".join(struct for struct, _ in found), 0
    if needs_table(len(found), outs[0].device):
        held.append(table(module.video_first_blocks(clips), clips, outs[0].device))
        address = held[-1].data_ptr()
    stream = torch._C._cuda_getCurrentRawStream(outs[0].device.index)
    module.video_to_tensor_ragged_cuda(clips, address, stream)
