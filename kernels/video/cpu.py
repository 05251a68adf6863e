"""The C++ CPU path: csrc/video/cpu_video.cpp."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video.problem import extension, packed
from aimills_kernels.kernels.video.ragged import packed_clips


@lru_cache(maxsize=1)
def _entry() -> tuple[Any, Any]:
    module = extension()
    return module.VideoParams, module.video_to_tensor_cpu


def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
    params, run = _entry()
    run(params(packed(outs, args)), torch.get_num_threads())


def launch_ragged(outs: tuple[Tensor, ...], *args: Any) -> None:
    clips = b"".join(struct for struct, _ in packed_clips(outs, args))
    extension().video_to_tensor_ragged_cpu(clips, torch.get_num_threads())
