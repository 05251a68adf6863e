"""Warps that go round and round: a wait for what nobody will ever do.

While nothing changes that another could see, a warp is alone with its registers. Once they are what
they were before at the same place, it comes there again and again, so it is held until somebody
changes something. Who waits for a clock is not held: the time is in a register, and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.parse import Kernel

if TYPE_CHECKING:
    from tests.ptx.machine import Active, Machine

_FIRST = 64  # turns without a change before anybody looks


@dataclass
class _Past:
    """Where all lanes stood, and what they had."""

    pc: np.ndarray
    parked: np.ndarray
    registers: dict[str, np.ndarray]


class Spins:
    def __init__(self, m: Machine):
        self.m = m
        self.held = np.zeros((m.warps, 32), bool)
        self.any = False
        self.turns, self.look = 0, _FIRST  # since the last change; when to look next
        self.past: _Past | None = None
        self.first = ""  # the register that told a warp from its past the last time

    def changed(self) -> None:
        """Something did that another warp may see."""
        self.turns, self.look, self.past = 0, _FIRST, None
        if self.any:
            self.held[:] = False
            self.any = False
            self.m.touch()

    def turn(self, s: Active) -> None:
        """These lanes ran."""
        self.turns += 1
        if self.turns >= self.look:  # later and later, to be past whatever led into the loops
            self.look = 2 * self.turns
            m = self.m
            registers = {name: array.copy() for name, array in m.registers.items()}
            self.past = _Past(m.pc.copy(), m.parked.copy(), registers)
        elif self.past is not None:
            self._compare(s, self.past)

    def _compare(self, s: Active, past: _Past) -> None:
        m = self.m
        still = (m.pc[s.sl] == past.pc[s.sl]) & (m.parked[s.sl] == past.parked[s.sl])
        back = s.mask.any(axis=1) & (still | ~m.alive[s.sl]).all(axis=1)
        if not back.any():
            return
        names = [self.first, *m.registers] if self.first in m.registers else [*m.registers]
        for name in names:
            old = past.registers.get(name)
            if old is None:  # nobody had used it yet
                return
            now = m.registers[name][s.sl]
            back &= (_bits(now) == _bits(old[s.sl])).all(axis=1)
            if not back.any():
                self.first = name
                return
        self.held[s.sl] |= s.mask & back[:, None] & (m.blocked[s.sl] == 0) & ~m.parked[s.sl]
        self.any = bool(self.held.any())
        m.touch(s.lo, s.hi)


def _bits(array: np.ndarray) -> np.ndarray:
    """[warps, bytes]"""
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)


def longest_loop(kernel: Kernel, executed: np.ndarray) -> str:
    """The jump back that most warps took."""
    found = [
        (int(executed[pc]), pc, to)
        for pc, instr in enumerate(kernel.code)
        if instr.parts[0] == "bra"
        for to in [kernel.labels.get(getattr(instr.args[0], "name", ""), pc + 1)]
        if to <= pc
    ]
    if not found:
        return ""
    count, pc, to = max(found)
    first, last = kernel.code[to].line, kernel.code[pc].line
    return f"; the loop of lines {first} to {last} was run {count} times"
