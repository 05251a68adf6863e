"""CUDA C++ kernels of the project, compiled by NVRTC to PTX and run on the executor."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.video import nvrtc
from aimills_kernels.kernels.video.problem import LOADERS, Arguments, loader_of, packed
from tests.aot import TOOLS
from tests.ptx import launch
from tests.ptx.parse import Kernel, Module, parse


@dataclass(frozen=True)
class _Inside:
    """How launches run, and where their results go."""

    done: list[launch.Result]
    edit: Callable[[str], str] | None
    options: dict[str, Any]


_inside: ContextVar[_Inside] = ContextVar("tests.ptx.cuda")


@contextlib.contextmanager
def executing(
    done: list[launch.Result] | None = None,
    *,
    edit: Callable[[str], str] | None = None,
    **options: Any,
) -> Iterator[list[launch.Result]]:
    """Inside, the project's CUDA kernels run here, each with the options of launch.run.

    done: where to append the results, yielded too. edit: changes a kernel's PTX before it runs.
    """
    found: list[launch.Result] = [] if done is None else done
    token = _inside.set(_Inside(found, edit, options))
    try:
        yield found
    finally:
        _inside.reset(token)


def compiled(code: str, *options: str) -> Module:
    return parse(ptx(code, *options))


def ptx(code: str, *options: str) -> str:
    from cupy.cuda import nvrtc as compiler

    program = compiler.createProgram(code, "kernel.cu", [], [])
    try:
        compiler.compileProgram(program, (*options, "-arch=compute_90a"))
        text = compiler.getPTX(program)
    except compiler.NVRTCError:
        raise AssertionError(compiler.getProgramLog(program)) from None
    finally:
        compiler.destroyProgram(program)
    return text.decode() if isinstance(text, bytes) else text


def assembled(text: str) -> bytes:
    """The machine code of PTX, by the ptxas in Triton's wheel, whose other tools read nothing that
    is newer. It may know an older version of PTX than the text is of, which changes nothing about
    the instructions of this GPU."""
    text = re.sub(r"\.version\s+(?:8\.[89]|9\.\d)", ".version 8.7", text, count=1)
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        done = subprocess.run(
            [TOOLS / "ptxas", "-arch=sm_90a", str(source), "-o", str(made)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return made.read_bytes()


@cache
def _video_ptx(loader: str, name: str) -> str:
    return ptx(nvrtc.code(name), *nvrtc.options(loader))


@cache
def video_kernel(loader: str = LOADERS[0], name: str = nvrtc.KERNEL) -> Kernel:
    return parse(_video_ptx(loader, name)).kernel(name)


@cache
def video_cubin(loader: str = LOADERS[0], name: str = nvrtc.KERNEL) -> bytes:
    return assembled(_video_ptx(loader, name))


def video_to_tensor(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The launch of kernels/video/nvrtc.py, with its own struct, grid and block."""
    if outs[0].numel():
        loader, held = loader_of(Arguments(*args)), list[Tensor]()
        struct = packed(outs, args, held)
        tensors = [*args[0], *held, outs[0]]
        _run(loader, nvrtc.KERNELS[0], struct, nvrtc._blocks(args), tensors)


def video_to_tensor_ragged(outs: tuple[Tensor, ...], *args: Any) -> None:
    held: list[Tensor] = []
    for loader, batch, blocks in nvrtc.batches(outs, args, held):
        tables = [t for t in held if t.dtype == torch.uint8]  # of clips; Pillow's are of integers
        _run(loader, nvrtc.KERNELS[1], batch, blocks, [*args[0], *held, outs[0]], tables)


def _run(
    loader: str, name: str, struct: bytes, blocks: int, tensors: list[Tensor],
    tables: list[Tensor] | tuple[()] = (),
) -> None:  # fmt: skip
    inside = _inside.get(None)
    if inside is None:
        raise RuntimeError(f"{name} runs on the executor inside `with executing(...)` only")
    kernel = video_kernel(loader, name)
    if inside.edit is not None:
        kernel = parse(inside.edit(_video_ptx(loader, name))).kernel(name)
    result = launch.run(
        kernel, [struct], [blocks], [nvrtc._THREADS],
        tensors=[t for t in tensors if t.numel()], tables=tables, **inside.options,
    )  # fmt: skip
    if result.counters is not None:  # somebody wants to know what it costs
        result.cubin = video_cubin(loader, name)
    inside.done.append(result)
