"""Triton's launches, compiled for a GPU that is not here and run on the executor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from triton.runtime import driver
from triton.runtime.jit import JITFunction

from aimills_kernels import _dispatch
from tests.aot import _Target
from tests.ptx import launch
from tests.ptx.parse import Kernel, parse

_parsed: dict[str, Kernel] = {}


@contextlib.contextmanager
def executing(sm: int = 90, **options: Any) -> Iterator[list[launch.Result]]:
    """Inside, `kernel[grid](...)` on CPU tensors compiles for `sm` and runs its PTX here.

    options: what launch.run takes (seed, budget, check). Yields the results, a launch each.
    """
    done: list[launch.Result] = []
    original = JITFunction.run

    def execute(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kw: Any) -> Any:
        compiled = original(self, *args, grid=grid, warmup=True, **kw)
        done.append(run(compiled, _bound(self, args, kw), grid, **options))
        return compiled

    before = driver._active
    JITFunction.run = execute
    driver.set_active(_Target(sm))
    try:
        with _dispatch.assume_sm(sm):
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


def run(compiled: Any, bound: dict[str, Any], grid: Any, **options: Any) -> launch.Result:
    """Runs a compiled Triton kernel with its arguments by name."""
    ptx = compiled.asm["ptx"]
    kernel = _parsed.get(ptx)
    if kernel is None:
        kernel = _parsed[ptx] = parse(ptx).kernel(compiled.metadata.name)
    if callable(grid):
        grid = grid(bound)
    args = [bound[n] for n, type_ in compiled.src.signature.items() if type_ != "constexpr"]
    args += [None] * (len(kernel.params) - len(args))  # scratch memory, which these don't use
    return launch.run(
        kernel, args, grid, cluster=(compiled.metadata.num_ctas, 1, 1),
        shared=compiled.metadata.shared, **options,
    )  # fmt: skip
