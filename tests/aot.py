"""What the kernels that a Triton provider would launch need: registers, stack, instructions."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

from aimills_kernels import _aot
from aimills_kernels._op import Case, Op, Provider

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
    ttir: str
    tensor_memory: int  # columns: what passes 512 is compiled to a trap

    def resources(self) -> dict[str, int | str]:
        return {
            "registers": self.registers,
            "spilled": self.spilled,
            "shared": self.shared,
            "warps": self.warps,
            "mma": self.mma,
        }


def compile_provider(op: Op, case: Case, provider: Provider, sm: int) -> list[Compiled] | None:
    """The kernels that `provider` launches for `case` on `sm`; None where it rejects it."""
    found: list[Compiled] = []
    args = meta_args(op, case)
    rejected = _aot.compile_provider(op, args, provider, sm, lambda k: found.append(_facts(k, sm)))
    return None if rejected else found


@functools.lru_cache(maxsize=4)
def meta_args(op: Op, case: Case) -> tuple:
    return op.meta_inputs(case)


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
    return Compiled(
        meta.name,
        sm,
        registers,
        stack,
        meta.shared,
        meta.num_warps,
        mma,
        ptx,
        kernel.asm["ttir"],
        getattr(meta, "tmem_size", 0),
    )


def lopsided_sums(ptx: str) -> list[str]:
    """Instructions that add a product to what another lane sent (see `triton_common.product`)."""
    received = set(re.findall(r"shfl\.sync\.bfly\.b32\s+(%r\d+)", ptx))
    fused = re.finditer(r"fma\.\S+\s.*?(%r\d+);", ptx)
    return [found[0] for found in fused if found[1] in received]


def narrow_offsets(ttir: str) -> list[str]:
    """Lines that compute in 32 bits where something is stored: an offset that is added to an
    address, or a product of which a tensor of them is made. Outputs may pass 2^31 elements. A
    multiple of a constant is a place within a tile."""
    made = {m[1]: m[0] for m in re.finditer(r"(%[\w-]+)(?::\d+)? = .*", ttir)}
    found: dict[str, None] = {}
    seen: set[str] = set()
    todo = re.findall(r"tt\.store (%[\w-]+)", ttir)
    while todo:
        line = made.get(name := todo.pop(), "")
        if name in seen or "tt.load" in line:
            continue
        seen.add(name)
        operands = re.findall(r"%[\w-]+", line.partition(" = ")[2])
        constant = any("arith.constant" in made.get(o, "") for o in operands)
        if _NARROW_OFFSET.search(line) or (_NARROW_PRODUCT.search(line) and not constant):
            found[line.partition(" loc(")[0]] = None
        todo += operands
    return list(found)


_NARROW_OFFSET = re.compile(r"tt\.addptr .*, (tensor<\S*xi32>|i32\b)")
_NARROW_PRODUCT = re.compile(r"arith\.(muli|shli) .*tensor<\S*xi32>")


@functools.cache
def toolchain() -> str:
    """Triton and its ptxas: other versions allocate registers otherwise."""
    text = subprocess.run(
        [TOOLS / "ptxas", "--version"], capture_output=True, text=True, check=True
    )
    version = re.search(r"V([\d.]+)", text.stdout)
    return f"triton {triton.__version__}, ptxas {version[1] if version else 'unknown'}"
