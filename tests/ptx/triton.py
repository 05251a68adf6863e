"""Triton's launches, compiled for a GPU that is not here and run on the executor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from aimills_kernels import _dispatch
from aimills_kernels._aot import Target
from tests.ptx import cuda, launch, tma
from tests.ptx.errors import about
from tests.ptx.parse import Kernel, parse

_parsed: dict[str, Kernel] = {}


@contextlib.contextmanager
def executing(sm: int = 90, **options: Any) -> Iterator[list[launch.Result]]:
    """Inside, `kernel[grid](...)` on CPU tensors compiles for `sm` and runs its PTX here. So do
    the project's CUDA kernels, with the same options.

    options: what `run` takes (edit) and launch.run (seed, budget, check). Yields the results, a
    launch each.
    """
    done: list[launch.Result] = []
    original = JITFunction.run

    def execute(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kw: Any) -> Any:
        compiled = original(self, *args, grid=grid, warmup=True, **kw)
        bound = _bound(self, args, kw)
        shape = grid(bound) if callable(grid) else grid
        if math.prod(shape):  # of an empty grid Triton launches nothing
            done.append(run(compiled, bound, shape, **options))
        return compiled

    before = driver._active
    JITFunction.run = execute
    driver.set_active(Target(sm))
    try:
        with _dispatch.assume_sm(sm), cuda.executing(done, **options):
            yield done
    finally:
        JITFunction.run = original
        driver._active = before


def _bound(function: JITFunction, args: tuple, kw: dict[str, Any]) -> dict[str, Any]:
    names = function.arg_names
    bound = dict(zip(names, args, strict=False))
    bound.update({k: v for k, v in kw.items() if k in names})
    for param in function.params:
        if param.name not in bound and param.has_default:
            bound[param.name] = param.default
    return bound


def run(
    compiled: Any,
    bound: dict[str, Any],
    grid: Any,
    *,
    edit: Callable[[str], str] | None = None,
    **options: Any,
) -> launch.Result:
    """Runs a compiled Triton kernel with its arguments by name. edit: changes its PTX before."""
    ptx = compiled.asm["ptx"] if edit is None else edit(compiled.asm["ptx"])
    kernel = _parsed.get(ptx)
    if kernel is None:
        kernel = _parsed[ptx] = parse(ptx).kernel(compiled.metadata.name)
    ctas = compiled.metadata.num_ctas  # of a program: Triton's launcher makes a cluster of them
    with about(kernel.place):
        args = _arguments(compiled, bound, grid, kernel)
    result = launch.run(
        kernel, args, (grid[0] * ctas, *grid[1:]),
        cluster=(ctas, 1, 1), shared=compiled.metadata.shared, **options,
    )  # fmt: skip
    result.cubin = compiled.asm["cubin"]
    return result


def _arguments(compiled: Any, bound: dict[str, Any], grid: Any, kernel: Kernel) -> list[Any]:
    """What Triton's launcher passes: the kernel's, and scratch memory in global memory."""
    maps = iter(compiled.metadata.tensordesc_meta or ())
    args: list[Any] = []
    for name, type_ in compiled.src.signature.items():
        if type_.startswith("tensordesc"):
            args += tma.of_triton(bound[name], next(maps))
        elif type_ != "constexpr":
            args.append(bound[name])
    scratch = compiled.metadata.global_scratch_size * math.prod(grid) * compiled.metadata.num_ctas
    return [*args, _aligned(scratch), *[None] * (len(kernel.params) - len(args) - 1)]


def _aligned(size: int) -> np.ndarray | None:
    """Zeros at an address that is a multiple of 256; None for none."""
    if not size:
        return None
    raw = np.zeros(size + 256, np.uint8)
    first = -raw.ctypes.data % 256
    return raw[first : first + size]
