"""setmaxnreg: the registers that warps give to their CTA's pool, and take from it."""

from __future__ import annotations

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault
from tests.ptx.machine import REGISTERS, STOP, Active, Handler, Machine, fault
from tests.ptx.ops import handles
from tests.ptx.ops_sync import only
from tests.ptx.parse import Imm, Instr, Kernel

_FILE = 64 * 1024  # registers of an SM
_MOST = 255  # of a thread, as ptxas counts them at the kernel's start


def at_entry(kernel: Kernel) -> int | None:
    """Registers of a thread at the kernel's start; None where nothing in the text says so, and
    ptxas then ignores setmaxnreg."""
    if kernel.max_registers is not None:
        return kernel.max_registers
    x, y, z = kernel.block or (kernel.max_threads or 0, 1, 1)
    if not x or not kernel.min_ctas:
        return None
    return min(_FILE // (x * y * z * kernel.min_ctas) // 8 * 8, _MOST)


class Registers:
    """What each warp has of them, and each CTA's pool, which is empty at first.

    The ISA wants one instruction for all warps of a warpgroup. Triton has several, of one text, in
    several places; so what counts is that its warps do the same ones in the same order.
    """

    def __init__(self, m: Machine, entry: int):
        self.m = m
        rows = -(-entry // 8) * 8
        if rows * m.shape.warps * 32 > _FILE:
            text = f"{m.shape.warps} warps of {rows} registers a thread; an SM has {_FILE}"
            raise fault(Fault, m, text, 0, 0)
        self.own = np.full(m.warps, rows, np.int64)
        self.cta = m.rank_of * m.n + m.group_of
        self.pool = np.zeros(m.n * m.shape.cluster_size, np.int64)
        self.wanted: dict[int, int] = {}  # warp -> what it waits for
        self.done: list[list[tuple[str, int]]] = [[] for _ in range(m.warps)]
        m.reasons.append(self.report)
        m.exits.append(self.leave)

    def lower(self, s: Active, count: int) -> None:
        warps = s.warps
        self._check(warps, self.own[warps] < count, count, "dec")
        np.add.at(self.pool, self.cta[warps], (self.own[warps] - count) * 32)
        self.own[warps] = count
        self.m.wake(REGISTERS, np.unique(self.m.group_of[warps]))

    def higher(self, s: Active, count: int, pc: int) -> int | None:
        warps = s.warps
        first = np.array([w for w in warps if int(w) not in self.wanted], np.int64)
        self._check(first, self.own[first] > count, count, "inc")
        late = np.zeros(s.mask.shape, bool)
        for warp in warps:
            needed = int(count - self.own[warp]) * 32
            if needed > self.pool[self.cta[warp]]:
                self.wanted[int(warp)] = count
                late[warp - s.lo] = s.mask[warp - s.lo]
                continue
            self.pool[self.cta[warp]] -= needed
            self.own[warp] = count
            self.wanted.pop(int(warp), None)
        if not late.any():
            return None
        ready = s.only(~late)
        self.m.block(s.only(late), pc, REGISTERS)
        self.m.move(ready, pc + 1)
        return STOP

    def _others(self, warp: int) -> list[int]:
        """The warps of its warpgroup."""
        first = int(self.m.warp_of[warp]) // 4 * 4 - int(self.m.warp_of[warp])
        near = range(first, min(first + 4, self.m.slots - int(self.m.warp_of[warp])))
        return [warp + n * self.m.n for n in near]

    def leave(self, s: Active) -> None:
        """Warps exit: all of a warpgroup have done the same."""
        for warp in s.warps.tolist():
            group = [w for w in self._others(warp) if self.m.warp_of[w] < self.m.shape.warps]
            if self.m.alive[group].any():
                continue
            for other in group:
                if len(self.done[other]) != len(self.done[warp]):
                    self._differ(warp, other, min(len(self.done[w]) for w in (warp, other)))

    def _differ(self, warp: int, other: int, at: int) -> None:
        def said(w: int) -> str:
            return (
                "setmaxnreg.{} {}".format(*self.done[w][at]) if at < len(self.done[w]) else "none"
            )

        text = f"setmaxnreg number {at + 1} of a warpgroup: {said(warp)}, but {said(other)} by "
        raise fault(Fault, self.m, text + self.m.who(other), warp, 0)

    def _check(self, warps: np.ndarray, bad: np.ndarray, count: int, action: str) -> None:
        if bad.any():
            warp = int(warps[np.argmax(bad)])
            text = f"setmaxnreg.{action} to {count} registers by a warp that has {self.own[warp]}"
            raise fault(Fault, self.m, text, warp, 0)
        for warp in warps.tolist():
            self.done[warp].append((action, count))
            at = len(self.done[warp]) - 1
            for other in self._others(warp):
                if at < len(self.done[other]) and self.done[other][at] != (action, count):
                    self._differ(warp, other, at)

    def report(self) -> str | None:
        waiting = [w for w in self.wanted if (self.m.blocked[w] == REGISTERS).any()]
        found = [
            f"{self.m.who(w)} waits in setmaxnreg.inc for {self.wanted[w]} registers a thread; it "
            f"has {self.own[w]}, and its CTA's pool {self.pool[self.cta[w]]} in all"
            for w in waiting
        ]
        return "; ".join(found[:4]) or None


@handles("setmaxnreg")
def _setmaxnreg(i: Instr, b: Binder) -> Handler:
    only(i, b, "setmaxnreg", "inc", "dec", "sync", "aligned", "u32")
    count = i.args[0].value if isinstance(i.args[0], Imm) else 0
    if count % 8 or not 24 <= count <= 256:
        raise b.unknown(f"setmaxnreg takes a multiple of 8 from 24 to 256, not {count}")
    entry, pc = at_entry(b.m.kernel), b.pc
    if entry is None:
        raise b.unknown(
            "setmaxnreg needs the kernel's .maxnreg, or .minnctapersm with .reqntid or .maxntid; "
            "ptxas ignores it without"
        )
    if not hasattr(b.m, "file"):
        b.m.file = Registers(b.m, entry)  # type: ignore[attr-defined]
    table: Registers = b.m.file  # type: ignore[attr-defined]
    if i.has("dec"):
        return lambda s: table.lower(s, count)
    return lambda s: table.higher(s, count, pc)
