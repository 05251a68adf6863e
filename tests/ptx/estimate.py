"""What bounds a kernel on an H200, from the executor's counts: a floor per unit, and no more.

Each row is the least number of cycles that one unit needs for what the launch did, the work spread
evenly over all SMs. The largest is the bound of the design; latencies and dependences come on top.
The counts are of PTX: ptxas merges some instructions and drops others, moves above all. Peaks:
NVIDIA H100 white paper (the H200 has the same SMs) and the arithmetic throughput table of the CUDA
programming guide for compute capability 9.0.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable

from tests.aot import TOOLS
from tests.ptx import counters
from tests.ptx.elements import FP8
from tests.ptx.launch import Result
from tests.ptx.parse import Instr

SMS = 132
CLOCK_GHZ = 1.83  # at which 132 SMs make the 989 dense bf16 TFLOP/s of the data sheet
HBM_GBPS = 4800.0
_ISSUE = 4  # warp instructions a cycle and SM
_LANES = {"special": 16, "float": 128, "integer": 64, "convert": 64, "move": 64}  # a cycle and SM
_SHARED = 128  # bytes a cycle and SM
# Fused multiply-adds of the tensor cores, a cycle and SM, dense.
_FMA = {
    "f16": 2048, "bf16": 2048, "tf32": 1024, "e4m3": 4096, "e5m2": 4096, "s8": 4096, "u8": 4096,
    "f64": 128,
}  # fmt: skip


def shape_of(instr: Instr) -> tuple[int, int, int] | None:
    """(M, N, K) of a matrix instruction."""
    found = re.search(r"\.m(\d+)n(\d+)k(\d+)", instr.op)
    return tuple(map(int, found.groups())) if found else None  # type: ignore[return-value]


def tensor_cycles(instr: Instr, warps: int) -> float:
    """Cycles of one SM's tensor cores for an instruction that `warps` warps issued."""
    shape = shape_of(instr)
    if shape is None:
        return 0.0
    m, n, k = shape
    together = 4 if instr.parts[0] == "wgmma" else 1
    type_ = instr.types[1]  # they are of D, A, B and C
    if together == 1 and type_ in FP8:
        type_ = "f16"  # ptxas makes it of HMMA: only wgmma has FP8
    return m * n * k * warps / together / _FMA[type_]


def operand_bytes(instr: Instr, warps: int) -> float:
    """Bytes of shared memory that a wgmma reads; A from registers costs none."""
    shape = shape_of(instr)
    if shape is None or instr.parts[0] != "wgmma":
        return 0.0
    m, n, k = shape
    size = {"f16": 2, "bf16": 2, "tf32": 4}.get(instr.types[1], 1)
    from_registers = type(instr.args[1]).__name__ == "Vec"
    return ((0 if from_registers else m) + n) * k * size * warps / 4


def cycles(results: Iterable[Result], sms: int = SMS) -> dict[str, float]:
    """Least cycles by unit, most first. The results need counters (`count=True`)."""
    total: dict[str, float] = dict.fromkeys(("tensor", "shared", "issue", "device"), 0.0)
    total |= dict.fromkeys(_LANES, 0.0)
    for result in results:
        assert result.counters is not None, "run with count=True"
        for instr, warps in zip(result.kernel.code, result.executed, strict=True):
            total["tensor"] += tensor_cycles(instr, int(warps)) / sms
            total["shared"] += operand_bytes(instr, int(warps)) / _SHARED / sms
        for name, warps in counters.by_class(result.kernel, result.executed).items():
            if name in _LANES:
                total[name] += 32 * warps / _LANES[name] / sms
        total["issue"] += int(result.executed.sum()) / _ISSUE / sms
        total["shared"] += result.counters.shared_cycles / sms
        # What is loaded more often than it is long comes out of a cache.
        moved = sum(
            min(a.loaded, a.size) + min(a.stored, a.size) for a in result.memory.allocations
        )
        total["device"] += moved / (HBM_GBPS / CLOCK_GHZ)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def text(results: list[Result]) -> str:
    """The estimate for a person, largest first: of the launches, and of one CTA on its SM."""
    found, tiles = cycles(results), max(sum(r.ctas for r in results), 1)
    whole = max(found.values()) or 1.0
    rows = [f"  {'unit':8} {'all CTAs':>12} {'one CTA':>12}"]
    rows += [
        f"  {name:8} {value:12.1f} {value * SMS / tiles:12.1f} {value / whole:6.0%}"
        for name, value in found.items()
        if value
    ]
    least = whole / CLOCK_GHZ / 1000
    head = (
        f"least cycles by unit on {SMS} SMs, work spread evenly: {least:.3g} us at {CLOCK_GHZ} GHz"
    )
    return "\n".join([head, *rows])


def machine_code(cubin: bytes) -> str:
    """Registers and stack of the compiled kernel, and its instructions by opcode, most first."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("-sass", file.name)
    registers, stack = (re.findall(rf"{key}:(\d+)", usage)[0] for key in ("REG", "STACK"))
    found = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?(\w+)", sass))
    most = ", ".join(f"{name} {count}" for name, count in found.most_common(8))
    count = sum(found.values())
    return f"{registers} registers, {stack} bytes of stack, {count} instructions ({most})"


def _cuobjdump(option: str, file: str) -> str:
    return subprocess.run(
        [TOOLS / "cuobjdump", option, file], capture_output=True, text=True, check=True
    ).stdout
