"""setmaxnreg: the registers of a CTA, which its warpgroups share out."""

from __future__ import annotations

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault
from tests.ptx.machine import REGISTERS, STOP, Active, Handler, Machine, fault
from tests.ptx.ops import handles
from tests.ptx.ops_sync import only
from tests.ptx.parse import Imm, Instr

_FILE = 1 << 16  # registers of an SM
_MOST = 256  # of a thread


class Registers:
    """The registers of each thread, and each CTA's pool of those that nobody has.

    Without .maxnreg the machine code decides what a launch begins with. A kernel that uses
    setmaxnreg is compiled for all that its CTA may have, so that is taken; only whether the first
    `inc` of a warp raises its count is not known then. Triton also asks for what a warp has.
    """

    def __init__(self, m: Machine):
        self.m = m
        threads = m.shape.warps * 32
        self.first = -(-(m.kernel.max_registers or 0) // 8) * 8
        self.known = np.full(m.warps, bool(self.first))  # of which warps the count is certain
        self.first = self.first or min(_MOST, _FILE // threads // 8 * 8)
        self.of = np.full(m.warps, self.first)  # a thread
        self.cta = m.rank_of * m.n + m.group_of
        self.pool = np.zeros(m.n * m.shape.cluster_size, np.int64)
        self.wanted: dict[int, tuple[int, int]] = {}  # by warp that waits: its count, and where
        self.group = self.cta * 8 + m.warp_of // 4
        self.changes: dict[int, list[str]] = {}  # of each warpgroup, in order
        self.made = np.zeros(m.warps, np.int64)  # of them by each warp
        m.exits.append(self.leave)
        m.reasons.append(self.report)

    def lower(self, s: Active, count: int) -> None:
        warps = s.warps
        self._possible(warps, self.of[warps] < count, f"dec to {count}")
        self._set(warps, count, f"dec to {count}")
        self.m.wake(REGISTERS)

    def higher(self, s: Active, pc: int, count: int) -> int | None:
        """Warps get theirs one after the other, and those for which there is too little wait."""
        warps = s.warps
        self._possible(warps, self.known[warps] & (self.of[warps] > count), f"inc to {count}")
        late = np.zeros_like(s.mask)
        for warp in warps:
            if 32 * (count - self.of[warp]) > self.pool[self.cta[warp]]:
                late[warp - s.lo] = s.mask[warp - s.lo]
                self.wanted[int(warp)] = count, pc
                continue
            self._set(np.array([warp]), count, f"inc to {count}")
        if not late.any():
            return None
        self.m.block(Active(s.lo, s.hi, late), pc, REGISTERS)
        self.m.move(s.only(~late), pc + 1)
        return STOP

    def _set(self, warps: np.ndarray, count: int, what: str) -> None:
        for warp in warps.tolist():
            self._same(warp, what)
            self.wanted.pop(warp, None)
        np.add.at(self.pool, self.cta[warps], 32 * (self.of[warps] - count))
        self.of[warps], self.known[warps] = count, True

    def _same(self, warp: int, what: str) -> None:
        """All warps of a warpgroup make the same changes. Gluon's stand at several lines."""
        changes = self.changes.setdefault(int(self.group[warp]), [])
        if self.made[warp] == len(changes):
            changes.append(what)
        elif changes[self.made[warp]] != what:
            text = f"setmaxnreg.{what}, but another warp of its warpgroup: "
            raise fault(Fault, self.m, text + changes[self.made[warp]], warp, 0)
        self.made[warp] += 1

    def _possible(self, warps: np.ndarray, bad: np.ndarray, what: str) -> None:
        if bad.any():
            warp = int(warps[np.argmax(bad)])
            text = f"setmaxnreg.{what} of a thread that has {self.of[warp]} registers"
            raise fault(Fault, self.m, text, warp, 0)

    def leave(self, s: Active) -> None:
        """All warps of a warpgroup have exited: each made its changes."""
        for group in np.unique(self.group[s.warps]):
            mine = self.group == group
            changes = self.changes.get(int(group), [])
            few = mine & (self.made < len(changes)) & (self.m.warp_of < self.m.shape.warps)
            if few.any() and not self.m.alive[mine].any():
                warp = int(np.argmax(few))
                text = f"setmaxnreg.{changes[self.made[warp]]} by some warps of a warpgroup only"
                raise Fault(f"{text}, not by {self.m.who(warp)}")

    def report(self) -> str | None:
        found = [
            f"{self.m.who(warp)} waits for {count} registers a thread at line "
            f"{self.m.kernel.code[pc].line} and has {self.of[warp]}: it lacks "
            f"{32 * (count - self.of[warp])}, and its CTA has {self.pool[self.cta[warp]]}"
            for warp, (count, pc) in self.wanted.items()
        ]
        return "; ".join(found[:4]) or None


@handles("setmaxnreg")
def _setmaxnreg(i: Instr, b: Binder) -> Handler:
    only(i, b, "setmaxnreg", "inc", "dec", "sync", "aligned", "u32")
    count = i.args[0].value if isinstance(i.args[0], Imm) else 0
    if count % 8 or not 24 <= count <= _MOST:
        raise b.unknown(f"setmaxnreg takes a multiple of 8 from 24 to 256, not {count}")
    if not hasattr(b.m, "shares"):
        b.m.shares = Registers(b.m)  # type: ignore[attr-defined]
    shares: Registers = b.m.shares  # type: ignore[attr-defined]
    pc = b.pc
    if i.has("dec"):
        return lambda s: shares.lower(s, count)
    return lambda s: shares.higher(s, pc, count)
