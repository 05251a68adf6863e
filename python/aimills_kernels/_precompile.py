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
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.nvidia import driver as nvidia
from triton.runtime import build
from triton.runtime.cache import FileCacheManager

from aimills_kernels import _aot, _tuned
from aimills_kernels._op import Case, Op, Problem

_LENGTHS = {  # dims that count tokens
    "attention": ("M", "N"),
    "matmul_fp8": ("M",),
    "matmul_quantize_fp8": ("M",),
    "matmul_int8": ("M",),
    "matmul_w8": ("M",),
}
_OF_ROWS = ("quantize_fp8", "quantize_int8", "rmsnorm_quantize_fp8", "swiglu_quantize_fp8")
Progress = Callable[..., None]


@dataclass
class Report:
    """What was done: kernels and launchers that were compiled, and those that were there."""

    compiled: int = 0
    found: int = 0
    launchers: int = 0
    left: list[str] = field(default_factory=list)  # why something was not compiled


def variants(op: Op, case: Case) -> list[Case]:
    """The case, and the same of odd lengths: a kernel is compiled anew for a length that 16 does
    not divide, and most lengths of a serving process are such."""
    odd = dict(case.dims)
    for name in _LENGTHS.get(op.name, ()):
        if odd[name] > 16 and odd[name] % 16 == 0:
            odd[name] -= 1
    if op.name in _OF_ROWS and case.shape[0] > 16:
        odd["shape"] = (case.shape[0] - 1, *case.shape[1:])
    if op.name.startswith("grouped_") and not case.get("masked", False):
        odd["counts"] = _odd_in_all(case.counts)
    return [case] if odd == case.dims else [case, Case(f"{case.name}, odd", **odd)]


def _odd_in_all(counts: tuple[int, ...]) -> tuple[int, ...]:
    """One row less in the largest group: with all rows together the strides of scales change."""
    if sum(counts) <= 16 or sum(counts) % 16:
        return counts
    largest = counts.index(max(counts))
    return (*counts[:largest], counts[largest] - 1, *counts[largest + 1 :])


def precompile(
    problems: Iterable[tuple[Op, Case]], sm: int, folder: Path | None, progress: Progress
) -> Report:
    """Compile what these problems launch on capability `sm`. Into Triton's own cache without a
    `folder`. OSError where that can't be written."""
    report = Report()
    with _into(folder), _counting(report), _launchers(report) as launcher:
        for op, case in problems:
            progress(f"{op.name} {case.name}")
            args = op.meta_inputs(case)
            made = [p for p in op.providers if p.interpret]
            if not made:
                why = f"{op.name}: its kernels are not Triton's, and come compiled with the package"
                report.left += [why] if why not in report.left else []
            tuned = _tuned.tuned(op, Problem(op, args, "cuda", sm))
            for provider in (_tuned.configured(p, tuned) for p in made):
                own = object()  # nothing that this process compiled before counts
                reason = _aot.compile_provider(op, args, provider, sm, launcher, own)
                if reason:
                    report.left.append(f"{op.name} {case.name}: {provider.name}: {reason}")
    return report


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
