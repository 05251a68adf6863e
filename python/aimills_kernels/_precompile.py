"""Kernels compiled ahead of their first launch, into a folder that serving may only read.

A launch finds a kernel by its sources, signature, alignment, options and target; all of them
follow from the problem, so meta tensors do, and no GPU is needed. Triton also compiles a small C
launcher for each signature and a module for its driver; with a C compiler those are made too.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.nvidia import driver as nvidia
from triton.runtime import build
from triton.runtime.cache import FileCacheManager

from aimills_kernels import _aot, _tuned
from aimills_kernels._op import Case, Op, Problem

_TOKENS = {"attention": ("M", "N")}  # dims that count what no tensor has in its last dim but one
_EACH = 64  # rows up to which tiles and splits of K change from one number to the next
Progress = Callable[..., None]


@dataclass
class Report:
    """What was done: kernels and launchers that were compiled, and those that were there."""

    compiled: int = 0
    found: int = 0
    launchers: int = 0
    left: list[str] = field(default_factory=list)  # why something was not compiled


def variants(op: Op, case: Case, sm: int | None = None) -> list[Case]:
    """Cases that between them launch every kernel that a serving process does: of the case, of any
    fewer rows, and of odd lengths, as a kernel is compiled anew for a length that 16 does not
    divide, and for 1. Of groups those of odd lengths alone. With
    `sm`, also what a tuned table has others launch there."""
    if op.name.startswith("grouped_"):
        masked = case.get("masked", False)
        others = [] if masked else [_changed(case, counts=_odd_in_all(case.counts))]
    elif op.rows:
        others = _of_fewer_rows(op, case, sm)
    else:
        long = {n: case.dims[n] for n in _TOKENS.get(op.name, ())}
        odd = {n: size - 1 for n, size in long.items() if size > 16 and size % 16 == 0}
        others = [_changed(case, **odd)]
    return [case, *(other for other in others if other.dims != case.dims)]


def _changed(case: Case, **dims: Any) -> Case:
    """What is drawn matters to no kernel, and some fills want rows of their own."""
    if all(case.dims[name] == value for name, value in dims.items()):
        return case
    kept = {name: value for name, value in case.dims.items() if name != "fill"}
    return Case(case.name, **(kept | dims))


def _of_fewer_rows(op: Op, case: Case, sm: int | None) -> list[Case]:
    """Beyond `_EACH` the tiles of more rows are never smaller, so the ends of octaves have all."""
    rows = _rows(op, case)
    change = rows and _change_of_rows(op, case, rows)
    if not rows or not change:
        return []
    ends = {2**i - odd for i in range(rows.bit_length()) for odd in (0, 1)}
    wanted = {*range(1, _EACH + 1), *ends, rows // 16 * 16, rows - 1}
    for n in _tuned.firsts(op, Problem(op, op.meta_inputs(case), "cuda", sm)):
        wanted |= {n - 2, n - 1, (n - 1) // 16 * 16, n, n + 1, -(-n // 16) * 16}
    return [change(n) for n in sorted(wanted) if 0 < n < rows]


def _rows(op: Op, case: Case) -> int | None:
    t = op.meta_inputs(case)[op.params.index(op.rows[0])]
    return t.shape[-2] if t.dim() > 1 else None


def _change_of_rows(op: Op, case: Case, rows: int) -> Callable[[int], Case] | None:
    """Gives the case with other rows. In which of its dims they are `op.rows` tells: of dims as
    large as those, the one with which they change."""

    def change(name: str, n: int) -> Case:
        value = case.dims[name]
        inner = isinstance(value, tuple)
        return _changed(case, **{name: (*value[:-2], n, value[-1]) if inner else n})

    for name, value in case.dims.items():
        here = value[-2] if isinstance(value, tuple) and len(value) > 1 else value
        if type(here) is int and here == rows and _rows(op, change(name, rows + 1)) == rows + 1:
            return partial(change, name)
    return None


def _odd_in_all(counts: tuple[int, ...]) -> tuple[int, ...]:
    """One row less in the largest group: with all rows together the strides of scales change."""
    if sum(counts) <= 16 or sum(counts) % 16:
        return counts
    largest = counts.index(max(counts))
    return (*counts[:largest], counts[largest] - 1, *counts[largest + 1 :])


def precompile(
    problems: Iterable[tuple[Op, Case]], sm: int, folder: Path | None, progress: Progress
) -> Report:
    """Compile what these problems and their `variants` launch on capability `sm`. Into Triton's own
    cache without a `folder`. OSError where that can't be written."""
    report = Report()
    own = object()  # nothing that this process compiled before counts, and nothing counts twice
    with _into(folder), _counting(report), _launchers(report) as launcher:
        for op, case in problems:
            progress(f"{op.name} {case.name}")
            made = [p for p in op.providers if p.interpret]
            if not made:
                _leave(report, f"{op.name}: its kernels are not Triton's, and come compiled with "
                       "the package")  # fmt: skip
                continue
            for variant in variants(op, case, sm):
                args = op.meta_inputs(variant)
                tuned = _tuned.tuned(op, Problem(op, args, "cuda", sm))
                for provider in (_tuned.configured(p, tuned) for p in made):
                    reason = _aot.compile_provider(op, args, provider, sm, launcher, own)
                    if reason:
                        _leave(report, f"{op.name} {case.name}: {provider.name}: {reason}")
    return report


def _leave(report: Report, why: str) -> None:
    report.left += [why] if why not in report.left else []


@contextlib.contextmanager
def _into(folder: Path | None) -> Iterator[None]:
    with knobs.cache.scope():
        knobs.cache.manager_class = FileCacheManager
        if folder is not None:
            knobs.cache.dir = str(folder.resolve())
        yield


@contextlib.contextmanager
def _counting(report: Report) -> Iterator[None]:
    def listen(*, cache_hit: bool, **_: Any) -> None:
        report.found += cache_hit
        report.compiled += not cache_hit

    with knobs.compilation.scope():
        knobs.compilation.listener = listen
        yield


class _Anything:
    """Stands for a module that can't be imported without a driver."""

    def __getattr__(self, name: str) -> None:
        return None


@contextlib.contextmanager
def _launchers(report: Report) -> Iterator[Callable[[Any], None]]:
    """Makes the launcher of each kernel by Triton's own code, which links with the driver's library
    and imports what it has built: here with an empty library, and without the import."""
    if not (shutil.which("gcc") or shutil.which("clang")):
        report.left.append("launchers: there is no C compiler, so serving needs one at first use")
        yield lambda kernel: None
        return
    before = build._build, build._load_module_from_path, nvidia.library_dirs, nvidia.PyCUtensorMap

    def built(*args: Any) -> str:
        report.launchers += 1
        return before[0](*args)

    with tempfile.TemporaryDirectory() as stub:
        _empty_library(Path(stub, "libcuda.so.1"))
        build._build, build._load_module_from_path = built, lambda *_: _Anything()
        nvidia.library_dirs = lambda: [nvidia.libdevice_dir, stub]
        try:
            object.__new__(nvidia.CudaUtils).__init__()
            yield lambda kernel: nvidia.CudaLauncher(kernel.src, kernel.metadata) and None
        finally:
            build._build, build._load_module_from_path = before[:2]
            nvidia.library_dirs, nvidia.PyCUtensorMap = before[2:]


def _empty_library(path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    source = path.with_suffix(".c")
    source.touch()
    command = [str(compiler), "-shared", f"-Wl,-soname,{path.name}", "-o", str(path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
