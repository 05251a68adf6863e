"""What can be told from the text alone: which registers an instruction reads and writes, and where
a read may come before every write. A kernel is launched again and again, so that is kept."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tests.ptx.parse import Imm, Instr, Kernel, Mem, Not, Operand, Pair, Reg, Sym, Vec

# Instructions whose first operand is read, like all others.
_NO_RESULT = (
    "st", "red", "bra", "brx", "ret", "exit", "trap", "brkpt", "bar", "barrier", "fence", "membar",
    "cp", "prefetch", "prefetchu", "discard", "applypriority", "setmaxnreg", "griddepcontrol",
    "nanosleep",
    "stmatrix", "tensormap", "pmevent", "multimem.red",
)  # fmt: skip
KERNELS = 8  # whose facts are kept
_KEPT = 1 << 15  # instructions
_NO_RESULT_MBARRIER = ("init", "inval", "expect_tx", "complete_tx")


def registers(operand: Operand) -> Iterator[Reg]:
    if isinstance(operand, Reg):
        yield operand
    elif isinstance(operand, Vec):
        for item in operand.items:
            yield from registers(item)
    elif isinstance(operand, Mem):
        yield from registers(operand.base)
        if operand.coords is not None:
            yield from registers(operand.coords)
    elif isinstance(operand, Pair):
        yield from registers(operand.first)
        yield from registers(operand.second)
    elif isinstance(operand, Not):
        yield from registers(operand.reg)


def has_result(instr: Instr) -> bool:
    if instr.parts[0] == "mbarrier":
        return instr.parts[1] not in _NO_RESULT_MBARRIER
    if instr.parts[0] == "wgmma":
        return instr.parts[1] == "mma_async"
    if instr.parts[0] in ("bar", "barrier"):
        return instr.parts[1:2] == ("red",) or instr.has("red")
    return instr.parts[0] not in _NO_RESULT


@functools.lru_cache(_KEPT)
def writes(instr: Instr) -> tuple[Reg, ...]:
    return tuple(registers(instr.args[0])) if instr.args and has_result(instr) else ()


@functools.lru_cache(_KEPT)
def reads(instr: Instr) -> tuple[Reg, ...]:
    sources = instr.args[1:] if has_result(instr) and not _accumulates(instr) else instr.args
    found = [reg for operand in sources for reg in registers(operand)]
    return (*found, instr.guard[0]) if instr.guard else tuple(found)


def _accumulates(instr: Instr) -> bool:
    """A wgmma reads its result's registers too, unless scale-d is 0."""
    return instr.parts[:2] == ("wgmma", "mma_async") and immediate(instr.args[3]) != 0


def successors(kernel: Kernel, pc: int) -> list[int]:
    instr = kernel.code[pc]
    if instr.parts[0] in ("ret", "exit", "trap"):
        return [pc + 1] if instr.guard else []
    if instr.parts[0] == "bra":
        label = instr.args[0]
        assert isinstance(label, Sym)
        to = [kernel.labels[label.name]]
        return [*to, pc + 1] if instr.guard else to
    if instr.parts[0] == "brx":
        table = instr.args[1]
        assert isinstance(table, Sym)
        to = [kernel.labels[name] for name in kernel.tables[table.name]]
        return [*to, pc + 1] if instr.guard else to
    return [pc + 1]


@functools.lru_cache(KERNELS)
def doubtful(kernel: Kernel) -> frozenset[tuple[int, str]]:
    """(pc, register) for each read that some path reaches without a write. Forward data flow over
    bit sets: what is written on every path."""
    bit = {name: 1 << i for i, name in enumerate(kernel.registers)}
    everything = (1 << len(bit)) - 1
    made = [0 if i.guard else sum({bit[r.name] for r in writes(i)}) for i in kernel.code]
    before = [everything] * (len(kernel.code) + 1)
    before[0] = 0
    work = [0]
    seen = set()
    while work:
        pc = work.pop()
        if pc >= len(kernel.code):
            continue
        after = before[pc] | made[pc]
        for to in successors(kernel, pc):
            met = before[to] & after
            if met != before[to] or to not in seen:
                seen.add(to)
                before[to] = met
                work.append(to)
    return frozenset(
        (pc, reg.name)
        for pc, instr in enumerate(kernel.code)
        for reg in reads(instr)
        if not before[pc] & bit[reg.name]
    )


def immediate(operand: Operand) -> int | None:
    return operand.value if isinstance(operand, Imm) else None
