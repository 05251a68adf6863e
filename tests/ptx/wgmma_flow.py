"""What a kernel's text tells of the registers of wgmma: which lack a wgmma.fence, and where others
may be touched while they are in flight.

Both go through the text until nothing changes, with what may hold on some path as the bits of an
integer. A missing fence is believed; a touch only says where to look at run time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.ptx import flow
from tests.ptx.parse import Imm, Instr, Kernel, Vec


def is_wgmma(instr: Instr) -> bool:
    return instr.parts[:2] == ("wgmma", "mma_async")


def accumulators(instr: Instr) -> frozenset[str]:
    return frozenset(r.name for r in flow.registers(instr.args[0]))


def left(instr: Instr) -> frozenset[str]:
    """The registers of A, where it comes from registers."""
    operand = instr.args[1]
    return frozenset(r.name for r in flow.registers(operand) if isinstance(operand, Vec))


def _held(instr: Instr) -> frozenset[str]:
    return accumulators(instr) | left(instr)


def is_copy(instr: Instr) -> bool:
    return instr.parts[0] == "mov"


def read_by(instr: Instr) -> frozenset[str]:
    return frozenset(r.name for r in flow.reads(instr))


def written_by(instr: Instr) -> frozenset[str]:
    return frozenset(r.name for r in flow.writes(instr))


def shape(instr: Instr) -> str:
    """In a chain of products of one shape the accumulators need no fence and no wait."""
    return ".".join(p for p in instr.parts[4:6] if p != "satfinite")


def waits_for(instr: Instr) -> int | None:
    """The N of wait_group N."""
    if instr.parts[:2] != ("wgmma", "wait_group"):
        return None
    return instr.args[0].value if isinstance(instr.args[0], Imm) else 0


@dataclass
class Findings:
    missing: dict[int, str] = field(default_factory=dict)  # pc of a wgmma: why it needs a fence
    touching: dict[int, frozenset[str]] = field(default_factory=dict)  # pc: registers to look at


@dataclass
class _Use:
    """What one instruction does to the registers that some wgmma has, and to copies of them."""

    reads: int = 0
    writes: int = 0
    wgmma: Instr | None = None
    copies: bool = False  # it only moves what it reads
    always: bool = True  # it has no guard


class _Text:
    """Bits: for each register, touched by others since the last fence: read, written; for each
    register and shape, used as its accumulator."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.products = [i for i in kernel.code if is_wgmma(i)]
        names = sorted(self._copied(set().union(*map(_held, self.products))))
        self.names = names
        self.index = {name: k for k, name in enumerate(names)}
        self.shapes = sorted({shape(i) for i in self.products})
        self.wide = len(names)
        self.uses = [self._use(i) for i in kernel.code]

    def _copied(self, names: set[str]) -> set[str]:
        """And what moves may copy them to."""
        moves = [i for i in self.kernel.code if is_copy(i)]
        grew = True
        while grew:
            more = {
                w.name for i in moves if not names.isdisjoint(read_by(i)) for w in flow.writes(i)
            }
            grew = not more <= names
            names = names | more
        return names

    def bits(self, names: frozenset[str]) -> int:
        return sum(1 << self.index[n] for n in names if n in self.index)

    def named(self, bits: int) -> frozenset[str]:
        return frozenset(n for k, n in enumerate(self.names) if bits >> k & 1)

    def _use(self, instr: Instr) -> _Use:
        if is_wgmma(instr):
            return _Use(wgmma=instr)
        if instr.parts[0] == "wgmma":
            return _Use()
        read, written = self.bits(read_by(instr)), self.bits(written_by(instr))
        return _Use(read, written, None, is_copy(instr), instr.guard is None)

    def fixpoint(self, start: tuple, step: Callable[[int, tuple], tuple]) -> list[tuple | None]:
        """The state before each instruction: tuples of bits, joined where paths meet."""
        before: list[tuple | None] = [None] * (len(self.kernel.code) + 1)
        before[0] = start
        work = [0]
        while work:
            pc = work.pop()
            if pc >= len(self.kernel.code):
                continue
            after = step(pc, before[pc])  # type: ignore[arg-type]
            for to in flow.successors(self.kernel, pc):
                known = before[to]
                met = after if known is None else tuple(map(int.__or__, known, after))
                if met != known:
                    before[to] = met
                    work.append(to)
        return before


@functools.lru_cache(flow.KERNELS)
def check(kernel: Kernel) -> Findings:
    text = _Text(kernel)
    found = Findings()
    if text.products:
        _fences(text, found)
        _in_flight(text, found)
    return found


def _fences(text: _Text, found: Findings) -> None:
    """PTX ISA, wgmma.fence: before the first wgmma of a kernel, and between any other access to a
    register and a wgmma's to it as an accumulator, or as A. State: (no fence at all, read,
    written, accumulator of each shape)."""

    def step(pc: int, state: tuple) -> tuple:
        instr, use = text.kernel.code[pc], text.uses[pc]
        if instr.parts[:2] == ("wgmma", "fence") and instr.guard is None:
            return (0,) * len(state)
        if use.wgmma is not None:
            at = 3 + text.shapes.index(shape(instr))
            more = state[at] | text.bits(accumulators(instr))
            return (*state[:at], more, *state[at + 1 :])
        return (state[0], state[1] | use.reads, state[2] | use.writes, *state[3:])

    start = (1, *(0,) * (2 + len(text.shapes)))
    for pc, state in enumerate(text.fixpoint(start, step)):
        if state is None or pc >= len(text.uses) or text.uses[pc].wgmma is None:
            continue
        instr = text.kernel.code[pc]
        own, fragments = text.bits(accumulators(instr)), text.bits(left(instr))
        same = text.shapes.index(shape(instr))
        other = _any(bits for k, bits in enumerate(state[3:]) if k != same)
        bad = own & (state[1] | state[2] | other)
        bad |= fragments & (state[2] | other | state[3 + same] | own)
        if state[0]:
            found.missing[pc] = "no wgmma.fence comes before it"
        elif bad:
            names = ", ".join(sorted(text.named(bad))[:4])
            found.missing[pc] = f"no wgmma.fence since other instructions touched {names}"


def _in_flight(text: _Text, found: Findings) -> None:
    """State: for each age in commits, from 0 up to one that every wait covers, the registers of A,
    and the accumulators of each shape, of a wgmma that may be under way; then, in the same order,
    the copies of them."""
    waits = [waits_for(i) for i in text.kernel.code]
    ages = max((w for w in waits if w is not None), default=0) + 2
    half = 1 + len(text.shapes)
    kinds = 2 * half

    def step(pc: int, state: tuple) -> tuple:
        instr = text.kernel.code[pc]
        if text.uses[pc].wgmma is not None:
            new = list(state)
            new[0] |= text.bits(left(instr))
            new[1 + text.shapes.index(shape(instr))] |= text.bits(accumulators(instr))
            return tuple(new)
        if instr.parts[:2] == ("wgmma", "commit_group"):
            last = tuple(map(int.__or__, state[-kinds:], state[-2 * kinds : -kinds]))
            return (*(0,) * kinds, *state[: -2 * kinds], *last)
        wait = waits[pc]
        if wait is not None and instr.guard is None:
            kept = (wait + 1) * kinds
            return (*state[:kept], *(0,) * (len(state) - kept))
        return _moved(state, text.uses[pc], half) if any(state) else state

    for pc, state in enumerate(text.fixpoint((0,) * (ages * kinds), step)):
        if state is None or pc >= len(text.uses) or not any(state):
            continue
        use = text.uses[pc]
        if use.wgmma is None:
            hit = (use.reads | use.writes) & _any(state)
        else:
            same = 1 + text.shapes.index(shape(use.wgmma))
            hit = text.bits(accumulators(use.wgmma)) & _any(
                bits for k, bits in enumerate(state) if k % half != same
            )
            hit |= text.bits(left(use.wgmma)) & _any(
                bits for k, bits in enumerate(state) if k % half
            )
        if hit:
            found.touching[pc] = text.named(hit)


def _moved(state: tuple, use: _Use, half: int) -> tuple:
    """The state after an instruction that is no wgmma: which copies there are."""
    if not use.writes:
        return state
    new = list(state)
    for k in range(len(state)):
        if k // half % 2 == 0:
            continue
        if use.copies and use.reads & (state[k] | state[k - half]):
            new[k] |= use.writes
        elif use.always:
            new[k] &= ~use.writes
    return tuple(new)


def _any(bits: Iterable[int]) -> int:
    return functools.reduce(int.__or__, bits, 0)
