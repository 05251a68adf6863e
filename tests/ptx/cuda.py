"""CUDA C++ kernels of the project, compiled by NVRTC to PTX and run on the executor."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from aimills_kernels.kernels.video import nvrtc
from aimills_kernels.kernels.video.problem import packed
from tests.ptx import launch
from tests.ptx.parse import Kernel, Module, parse

OPTIONS: dict[str, Any] = {}  # what launch.run takes: seed, budget, check
RESULTS: list[launch.Result] = []


def compiled(code: str, *options: str) -> Module:
    from cupy.cuda import nvrtc as compiler

    program = compiler.createProgram(code, "kernel.cu", [], [])
    try:
        compiler.compileProgram(program, (*options, "-arch=compute_90a"))
        text = compiler.getPTX(program)
    except compiler.NVRTCError:
        raise AssertionError(compiler.getProgramLog(program)) from None
    finally:
        compiler.destroyProgram(program)
    return parse(text.decode() if isinstance(text, bytes) else text)


@cache
def video_kernel() -> Kernel:
    code = (nvrtc.sources() / nvrtc.SOURCE).read_text()
    return compiled(code, *nvrtc.options()).kernel(nvrtc.KERNEL)


def video_to_tensor(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The launch of kernels/video/nvrtc.py, with its own struct, grid and block."""
    if outs[0].numel() == 0:
        return
    result = launch.run(
        video_kernel(), [packed(outs, args)], [nvrtc._blocks(outs[0])], [nvrtc._THREADS],
        tensors=[*args[0], outs[0]], **OPTIONS,
    )  # fmt: skip
    RESULTS.append(result)
