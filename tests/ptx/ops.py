"""Handlers by the first word of the opcode. A handler's module registers itself with `handles`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault, Malformed, PtxError, Unknown
from tests.ptx.machine import Active, Decode, Handler, Machine, fault
from tests.ptx.parse import Instr

TABLE: dict[str, Decode] = {}
STOP = -1


def handles(*names: str) -> Callable[[Decode], Decode]:
    """Registers a decoder for the opcodes that start with these words: "mbarrier", "cp.async.bulk".
    The longest match wins."""

    def keep(decode: Decode) -> Decode:
        for name in names:
            assert name not in TABLE, name
            TABLE[name] = decode
        return decode

    return keep


def find(instr: Instr) -> Decode:
    for n in range(len(instr.parts), 0, -1):
        found = TABLE.get(".".join(instr.parts[:n]))
        if found is not None:
            return found
    raise Unknown("this executor does not know the instruction", instr)


def decode(instr: Instr, b: Binder) -> Handler:
    try:
        return find(instr)(instr, b)
    except PtxError:
        raise
    except Exception as error:  # a handler takes words and operands apart as if they were right
        raise Malformed("its words and operands do not fit together", instr) from error


def link(m: Machine, b: Binder, watch: Callable[[int, Handler], Handler]) -> None:
    """Fills the machine's code with one function per instruction, and an end. `watch` may put
    checks around the one of (pc, handler)."""
    for pc, instr in enumerate(m.kernel.code):
        b.pc, b.instr = pc, instr
        run = watch(pc, decode(instr, b))
        if instr.guard is not None and instr.parts[0] != "bra":
            run = _guarded(m, b, instr, run, pc)
        wide = gate_of(instr)
        m.code.append(m.gate(run, pc, wide) if wide else run)
    m.code.append(lambda s: m.finish(s) or STOP)


def gate_of(instr: Instr) -> int:
    """How many warps have to stand at an instruction before it runs: 0 for a part of one."""
    if instr.parts[0] == "wgmma":
        return 4
    if instr.parts[0] == "bar" and instr.parts[1] != "warp":
        return 1  # as if it had .aligned
    return 1 if instr.has("aligned") or (instr.has("red") and instr.parts[0] == "barrier") else 0


def _guarded(m: Machine, b: Binder, instr: Instr, run: Handler, pc: int) -> Handler:
    assert instr.guard is not None
    reg, negated = instr.guard
    source = b.condition(reg)
    aligned = gate_of(instr) > 0

    def guarded(s: Active) -> int | None:
        wanted = source(s)
        some = s.only(~wanted if negated else wanted)
        if aligned:
            _whole(m, s, some)
        if not some.mask.any():
            return None
        after = run(some)
        if after is None:
            return None
        if after != STOP:
            m.move(some, after)
        rest = s.only(~some.mask)
        if rest.mask.any():
            m.move(rest, pc + 1)
        return STOP

    return guarded


def _whole(m: Machine, s: Active, some: Active) -> None:
    """A guard is the same for all live lanes of a warp; they are all in `s`."""
    partly = some.mask.any(axis=1) & (some.mask != s.mask).any(axis=1)
    if partly.any():
        warp = int(np.argmax(partly))
        lane = int(np.argmax(s.mask[warp] & ~some.mask[warp]))
        text = "all lanes of a warp execute an aligned instruction, and this one is passed over"
        raise fault(Fault, m, text, warp + s.lo, lane)
