"""The mbarrier objects of shared memory: counts, phases, and the lanes that wait for them."""

from __future__ import annotations

import itertools

import numpy as np

from tests.ptx.errors import Fault, MissingFence, Uninitialised
from tests.ptx.machine import PHASE, Active, fault
from tests.ptx.memory import Memory

LIMIT = (1 << 20) - 1  # of an arrival count, and of a tx-count either way
_EARLY = 0.05  # how often a try_wait gives up, as hardware may after its time limit


def waves(keys: np.ndarray, rng: np.random.Generator | None) -> list[np.ndarray]:
    """Indices into `keys`, in groups that hold every key once at most: what happens one after the
    other where lanes meet at one place. The lanes' order is random."""
    order = np.arange(len(keys)) if rng is None else rng.permutation(len(keys))
    order = order[np.argsort(keys[order], kind="stable")]
    same = keys[order]
    first = np.concatenate([[True], same[1:] != same[:-1]])
    place = np.arange(len(keys))
    turn = place - np.maximum.accumulate(np.where(first, place, 0))
    if not turn.any():
        return [order]
    order = order[np.argsort(turn, kind="stable")]
    ends = np.cumsum(np.bincount(turn)).tolist()
    return [order[a:b] for a, b in itertools.pairwise([0, *ends])]


class Mbarriers:
    """By cell: the index in Memory.shared of the object's 8 bytes, over 8."""

    def __init__(self, memory: Memory):
        self.memory, self.m = memory, memory.m
        cells = len(memory.shared) // 8
        self.live = np.zeros(cells, bool)
        self.count, self.pending, self.tx, self.phase, self.owner = np.zeros((5, cells), np.int64)
        self.fenced = np.zeros(cells, bool)  # other CTAs may use it: see `fence`
        self.fresh: list[np.ndarray] = []  # cells of which `fenced` is not yet set
        self.told: list[np.ndarray] = []  # cells that a fence.mbarrier_init has released
        self.waiting = np.full(
            (self.m.warps, 32), -1, np.int64
        )  # the cell a blocked lane waits for
        self.expired = np.zeros((self.m.warps, 32), bool)
        self.idle_states: set[int] = set()
        memory.opaque = np.zeros(len(memory.shared), bool)
        self.m.reasons.append(self.report)
        self.m.idle.append(self.time_out)

    # ---- which

    def cells(self, address: np.ndarray, lanes: tuple) -> np.ndarray:
        return self.memory.shared_index(address, 8, lanes, "an mbarrier") // 8

    def known(self, address: np.ndarray, lanes: tuple) -> np.ndarray:
        """The cells of mbarriers that the lanes, or engines that they start, are about to use."""
        cells = self.cells(address, lanes)
        self.usable(cells, lanes)
        return cells

    def usable(self, cells: np.ndarray, lanes: tuple) -> None:
        dead = ~self.live[cells]
        if dead.any():
            at = int(np.argmax(dead))
            text = f"there is no mbarrier at {self.offset(cells[at])}: none was initialised"
            raise fault(Uninitialised, self.m, text, lanes[0][at], lanes[1][at])
        far = ~self.fenced[cells] & (self.cta(cells) != self.memory.cta_of_warp(lanes[0]))
        if far.any():
            at = int(np.argmax(far))
            text = (
                f"the mbarrier at {self.offset(cells[at])} of another CTA is used, and no "
                "fence.mbarrier_init, fence.proxy.async or barrier.cluster.arrive.release "
                "followed its init"
            )
            raise fault(MissingFence, self.m, text, lanes[0][at], lanes[1][at])
        if self.memory.shadow is not None:
            self.memory.shadow.read(cells * 8, 8, lanes)

    def offset(self, cell: int) -> int:
        """The address in its CTA."""
        return int(cell) * 8 % self.memory.row

    def cta(self, cells: np.ndarray) -> np.ndarray:
        return cells * 8 // self.memory.row

    # ---- life

    def init(self, cells: np.ndarray, count: np.ndarray, lanes: tuple) -> None:
        wrong = (count < 1) | (count > LIMIT)
        if wrong.any():
            at = int(np.argmax(wrong))
            text = f"an mbarrier for {count[at]} arrivals; it takes 1 to {LIMIT}"
            raise fault(Fault, self.m, text, lanes[0][at], lanes[1][at])
        order = np.unique(cells, return_index=True)[1]
        again = self.live[cells]
        again[np.setdiff1d(np.arange(len(cells)), order)] = True
        if again.any():
            at = int(np.argmax(again))
            text = f"the mbarrier at {self.offset(cells[at])} is initialised, and it still lives"
            raise fault(Fault, self.m, text, lanes[0][at], lanes[1][at])
        if self.memory.shadow is not None:
            self.memory.shadow.write(cells * 8, 8, lanes)
        self.m.changed()
        self.live[cells], self.fenced[cells] = True, False
        self.count[cells] = self.pending[cells] = count
        self.tx[cells] = self.phase[cells] = 0
        self.owner[cells] = lanes[0]
        self.fresh.append(cells)
        self.memory.opaque.reshape(-1, 8)[cells] = True
        self.memory.written.reshape(-1, 8)[cells] = False

    def inval(self, cells: np.ndarray, lanes: tuple) -> None:
        waited = np.isin(cells, self.waiting[self.m.alive & (self.m.blocked == PHASE)])
        if waited.any():
            at = int(np.argmax(waited))
            text = f"the mbarrier at {self.offset(cells[at])} is invalidated while threads wait"
            raise fault(Fault, self.m, text, lanes[0][at], lanes[1][at])
        if self.memory.shadow is not None:
            self.memory.shadow.write(cells * 8, 8, lanes)
        self.m.changed()
        self.live[cells] = False
        self.memory.opaque.reshape(-1, 8)[cells] = False

    def fence(self, warps: np.ndarray, *, init: bool = False) -> None:
        """What these warps have initialised, others of the cluster may use once they know of it.
        init: a fence.mbarrier_init, after which a relaxed barrier.cluster tells them."""
        if not self.fresh:
            return
        cells = np.unique(np.concatenate(self.fresh))
        own = np.isin(self.owner[cells], warps)
        self.fenced[cells[own]] = True
        self.fresh = [cells[~own]] if not own.all() else []
        if init:
            self.told.append(cells[own])

    def cluster_met(self, group: int) -> None:
        """The cluster's barrier opened."""
        if not self.told or self.memory.shadow is None:
            return
        cells = np.concatenate(self.told)
        mine = self.cta(cells) // self.m.shape.cluster_size == group
        for half in (0, 4):
            self.memory.shadow.known_to_all(cells[mine] * 8 + half)
        self.told = [cells[~mine]]

    # ---- counts

    def arrive(
        self,
        cells: np.ndarray,
        count: np.ndarray,
        bytes_: np.ndarray,
        lanes: tuple,
        *,
        drop: bool = False,
        release: bool = True,
        complete: bool = True,
    ) -> np.ndarray:
        """expect-tx, then arrive-on. Returns each lane's state from before."""
        wrong = (count < 1) | (count > LIMIT)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise fault(Fault, self.m, f"{count[at]} arrivals", lanes[0][at], lanes[1][at])
        states = np.zeros(len(cells), np.uint64)
        told: set[int] = set()
        for some in waves(cells, self.m.rng if self.m.shuffled else None):
            if release:
                self._release(cells, lanes, some, told)
            here, who = cells[some], (lanes[0][some], lanes[1][some])
            self._add(here, bytes_[some], who)
            states[some] = self.state(here)
            self._arrive(here, count[some], who, drop)
            flipped = self.settle(here)
            told.difference_update(int(c) for c in flipped)
            if len(flipped) and not complete:
                raise fault(Fault, self.m, "an arrive.noComplete that completes the phase",
                            who[0][0], who[1][0])  # fmt: skip
        return states

    def _release(self, cells: np.ndarray, lanes: tuple, some: np.ndarray, told: set[int]) -> None:
        shadow = self.memory.shadow
        if shadow is None:
            return
        for cell in cells[some]:
            if int(cell) not in told:
                told.add(int(cell))
                shadow.release(int(cell) * 8, np.unique(lanes[0][cells == cell]))

    def _arrive(self, cells: np.ndarray, count: np.ndarray, who: tuple, drop: bool) -> None:
        if drop:
            self.count[cells] -= count
        few = (count > self.pending[cells]) | (self.count[cells] < 0)
        if few.any():
            at = int(np.argmax(few))
            text = (
                f"{count[at]} arrivals at the mbarrier at {self.offset(cells[at])}, which "
                f"waits for {self.pending[cells[at]]}"
            )
            raise fault(Fault, self.m, text, who[0][at], who[1][at])
        self.pending[cells] -= count

    def expect(self, cells: np.ndarray, bytes_: np.ndarray, lanes: tuple) -> None:
        for some in waves(cells, None):
            self._add(cells[some], bytes_[some], (lanes[0][some], lanes[1][some]))
            self.settle(cells[some])  # the bytes may have come before, and after the last arrival

    def _add(self, cells: np.ndarray, bytes_: np.ndarray, who: tuple) -> None:
        self.m.changed()
        self.tx[cells] += bytes_
        over = (np.abs(self.tx[cells]) > LIMIT) | (np.abs(bytes_) > LIMIT)
        if over.any():
            at = int(np.argmax(over))
            text = (
                f"{bytes_[at]} bytes make the tx-count of the mbarrier at "
                f"{self.offset(cells[at])} {self.tx[cells[at]]}, and it ends at {LIMIT}"
            )
            raise fault(Fault, self.m, text, who[0][at], who[1][at])

    def complete(self, cell: int, bytes_: int, warp: int, lane: int) -> None:
        """An engine, started by this thread, has moved bytes."""
        if not self.live[cell]:
            text = f"{bytes_} bytes come, and the mbarrier at {self.offset(cell)} is no more"
            raise fault(Fault, self.m, text, warp, lane)
        cells = np.array([cell])
        self._add(cells, np.array([-bytes_]), (np.array([warp]), np.array([lane])))
        self.settle(cells)

    def more(self, cells: np.ndarray, lanes: tuple) -> None:
        """One more arrival is expected in this phase, for each lane."""
        self.m.changed()
        np.add.at(self.pending, cells, 1)
        if (self.pending[cells] > LIMIT).any():
            raise fault(Fault, self.m, "more arrivals than fit", lanes[0][0], lanes[1][0])

    def settle(self, cells: np.ndarray) -> np.ndarray:
        """Completes the phases that are complete; which."""
        done = cells[(self.pending[cells] == 0) & (self.tx[cells] == 0)]
        if len(done):
            self.phase[done] += 1
            self.pending[done] = self.count[done]
            if self.memory.shadow is not None:
                for cell in done:
                    self.memory.shadow.flip(int(cell) * 8)
            groups = np.unique(self.cta(done) // self.m.shape.cluster_size)
            self.m.wake(PHASE, groups)
        return done

    # ---- waits

    def state(self, cells: np.ndarray) -> np.ndarray:
        """Opaque to the kernel: phase, place and pending arrivals."""
        place = cells % (self.memory.row // 8)
        return ((self.phase[cells] & LIMIT) << 44 | place << 20 | self.pending[cells]).astype(
            np.uint64
        )

    def passed(self, cells: np.ndarray, states: np.ndarray, lanes: tuple) -> np.ndarray:
        """Whether the phase in which these states were taken has completed."""
        states = states.astype(np.int64)
        ago = (self.phase[cells] - (states >> 44)) & LIMIT
        wrong = ((states >> 20) & 0xFFFFFF) != cells % (self.memory.row // 8)
        if (wrong | (ago > 1)).any():
            at = int(np.argmax(wrong | (ago > 1)))
            text = "of another mbarrier" if wrong[at] else f"from {ago[at]} phases ago"
            text = f"a wait at the mbarrier at {self.offset(cells[at])} with a state {text}"
            raise fault(Fault, self.m, text, lanes[0][at], lanes[1][at])
        return ago == 1

    def flipped(self, cells: np.ndarray, parity: np.ndarray, lanes: tuple) -> np.ndarray:
        """Whether the last phase of this parity has completed."""
        # Triton extends a bit's sign; ptxas shifts all but the lowest bit out.
        wrong = (parity > 1) & (parity != 0xFFFFFFFF)
        if wrong.any():
            at = int(np.argmax(wrong))
            text = f"a phase's parity is 0 or 1, not {parity[at]}"
            raise fault(Fault, self.m, text, lanes[0][at], lanes[1][at])
        return (self.phase[cells] & 1) != (parity & 1)

    def acquire(self, cells: np.ndarray, warps: np.ndarray) -> None:
        if self.memory.shadow is None:
            return
        for cell in np.unique(cells):
            self.memory.shadow.acquire(int(cell) * 8, np.unique(warps[cells == cell]))

    def wait(self, s: Active, cells: np.ndarray, done: np.ndarray, pc: int) -> Active:
        """Blocks lanes [k] that aren't done, but for those whose time is up. Who goes on."""
        expired = self.expired[s.sl]
        go = expired & s.mask
        go[s.mask] |= done
        if self.m.shuffled:
            go[s.mask] |= self.m.rng.random(len(done)) < _EARLY
        expired[s.mask] = False
        where = self.waiting[s.sl]
        where[s.mask] = cells
        where[go] = -1
        self.m.block(s.only(~go), pc, PHASE)
        return s.only(go)

    def time_out(self) -> bool:
        """Nobody can go on: those that try_wait get their False, unless that changed nothing."""
        blocked = self.m.alive & (self.m.blocked == PHASE)
        if not blocked.any():
            return False
        m = self.m
        pc = np.where(m.spins.held, -1, m.pc)  # these stand anywhere in their loops
        state = (pc, m.alive, m.blocked, self.phase, self.pending, self.tx)
        now = hash(b"".join(a.tobytes() for a in state))
        if now in self.idle_states:
            return False
        self.idle_states.add(now)
        self.expired |= blocked
        m.wake(PHASE)
        return True

    def report(self) -> str | None:
        found = []
        blocked = self.m.alive & (self.m.blocked == PHASE)
        for warp in np.nonzero(blocked.any(axis=1))[0]:
            for cell in np.unique(self.waiting[warp][blocked[warp]]):
                found.append(f"{self.m.who(warp)} waits for {self.describe(int(cell))}")
        return "; ".join(found[:8]) or None

    def describe(self, cell: int) -> str:
        missing = f"{self.pending[cell]} arrivals and {self.tx[cell]} bytes are missing"
        if self.tx[cell] < 0:
            missing = (
                f"{self.pending[cell]} arrivals are missing, and {-self.tx[cell]} bytes more "
                "came than were expected"
            )
        return f"phase {self.phase[cell]} of the mbarrier at {self.offset(cell)}: {missing}"


def mbarriers(memory: Memory) -> Mbarriers:
    if not hasattr(memory, "mbarriers"):
        memory.mbarriers = Mbarriers(memory)  # type: ignore[attr-defined]
    return memory.mbarriers  # type: ignore[attr-defined, no-any-return]
