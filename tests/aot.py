"""Compile what a Triton provider would launch, for GPUs that are not here.

`compiling_for(sm)` puts a driver in Triton's place that only names its target, and turns every
launch into a compile. So nothing about a kernel's signature, constants or tiles is stated again:
`launch` is called on meta tensors and says it all.
"""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Problem, Provider, as_tuple

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
MMA = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma.sync": "mma.sync"}


@dataclass(frozen=True)
class Compiled:
    """One kernel as it would be launched."""

    name: str
    sm: int
    registers: int
    spilled: int  # bytes of stack a thread
    shared: int
    warps: int
    mma: str
    ptx: str

    def resources(self) -> dict[str, int | str]:
        return {
            "registers": self.registers,
            "spilled": self.spilled,
            "shared": self.shared,
            "warps": self.warps,
            "mma": self.mma,
        }


class _Target:
    """Just enough of a Triton driver to compile."""

    def __init__(self, sm: int):
        self.sm = sm

    def get_current_device(self) -> int:
        return self.sm  # keys the kernels' caches, so that no architecture sees another's

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.sm, 32)


@contextlib.contextmanager
def compiling_for(sm: int) -> Iterator[list[Compiled]]:
    found: list[Compiled] = []
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **kw: object):
        kernel = launch(self, *args, grid=grid, warmup=True, **kw)
        found.append(_facts(kernel, sm))
        return kernel

    before = driver._active
    JITFunction.run = compile_only
    driver.set_active(_Target(sm))
    try:
        with _dispatch.assume_sm(sm):
            yield found
    finally:
        JITFunction.run = launch
        driver._active = before


def compile_provider(op: Op, case: Case, provider: Provider, sm: int) -> list[Compiled] | None:
    """The kernels that `provider` launches for `case` on `sm`; None where it rejects it."""
    args = op.make_inputs(case, "meta", 0)
    with compiling_for(sm) as found:
        if _dispatch.why_not(provider, Problem(op, args, "cuda", sm)) is not None:
            return None
        _dispatch.load(provider)(as_tuple(op.fake(*args)), *args)
    return found


def _facts(kernel: object, sm: int) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    ptx = kernel.asm["ptx"]
    mma = next((name for name, text in MMA.items() if text in ptx), "none")
    meta = kernel.metadata
    return Compiled(meta.name, sm, registers, stack, meta.shared, meta.num_warps, mma, ptx)


@functools.cache
def toolchain() -> str:
    """Triton and its ptxas: other versions allocate registers otherwise."""
    text = subprocess.run(
        [TOOLS / "ptxas", "--version"], capture_output=True, text=True, check=True
    )
    version = re.search(r"V([\d.]+)", text.stdout)
    return f"triton {triton.__version__}, ptxas {version[1] if version else 'unknown'}"
