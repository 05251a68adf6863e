"""Who wrote and who read each byte of shared memory last, and what is ordered before what."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.errors import MissingFence, Race
from tests.ptx.lanes import Lanes
from tests.ptx.parse import WIDTH, Imm, Instr, Kernel

if TYPE_CHECKING:
    from tests.ptx.machine import Active, Shape
    from tests.ptx.memory import Memory

_NEVER = 1 << 30  # from here on: the numbers of transfers that are under way
_ALWAYS = _NEVER - 1
_SLOTS = 16  # columns that are added at once
_STRONG = ("relaxed", "acquire", "release", "acq_rel", "volatile", "mmio", "atom", "red")
_BARS = ("bar", "barrier")  # in which .cta is a part of the name
_DONE = {"write": "written", "read": "read"}


@dataclass
class Transfer:
    """An asynchronous read or write of shared memory that is under way."""

    at: np.ndarray  # granules of shared memory
    warp: int | np.ndarray  # that issued it; of a write perhaps one for each granule
    write: bool
    proxy: str  # "generic" (cp.async) or "async" (bulk copies, wgmma)
    what: str  # for reports
    pc: int = 0
    number: int = 0
    left: int = 0  # granules under way
    lane: int | np.ndarray | None = None  # that issued it; None: the whole warp


class Shadow:
    """Happens-before over the warps of each cluster, by vector clocks, and over the lanes of each
    warp by Lanes.

    Time is the number of the access: every call that accesses memory takes the next one. A warp's
    clock says for every entity up to which time that one's accesses are ordered before what the
    warp does next; its second clock says up to which time they also passed a proxy fence. Entities
    are the warps of the cluster, the engines that read for its warpgroups, and the mbarriers, in
    whose name engines write. A granule, the smallest access in the kernel's text, keeps the time
    and the entity of its last write, and the time of each one's last read. What an engine has under
    way stands there with a time that is later than all clocks, its issuer's too.

    Stores of one value do not race with each other: compilers let several warps store what they all
    have. Nor do strong accesses (atom, red, volatile, .relaxed, .acquire, .release). A strong read
    that acquires, or is followed by a fence, is ordered after what any strong write to its address
    that releases, or follows a fence, is ordered after; which of the writes it read is not looked
    at.

    Between warps it counts what one lane does, an arrival or a wait, for all lanes of its warp, and
    among the lanes of a warp it does not look at strong accesses, nor at wgmma's.

    What it does not see: a race with a write that an ordered one has overwritten, or with an
    engine's read that a later one of its warpgroup covers; and what another path through the kernel
    or other data would do. It looks at order, not at time: a race
    is found whether or not this run's schedule lets it show.
    """

    def __init__(self, memory: Memory):
        self.memory, self.m = memory, memory.m
        kernel = self.m.kernel
        self.shift = granule(kernel).bit_length() - 1
        self.here = self.m.position_of
        shape = self.m.shape
        self.readers = self.m.positions + engines(kernel, shape.warps) * shape.cluster_size
        self.entities = self.readers  # and, with the first transfer that ends by one, mbarriers
        self.clocks = np.zeros((2, self.m.warps, self.entities), np.int32)
        self.clocks[0, np.arange(self.m.warps), self.here] = _ALWAYS
        # The least of a warp's clock for writers, and of the time to which its lanes are ordered.
        self.floor = np.zeros(self.m.warps, np.int32)
        self.now = 0
        self.pcs = array("i", [0])  # of every time
        granules = len(memory.shared) >> self.shift
        self.written = np.zeros(granules, np.int32)
        self.writer = np.zeros(granules, np.int16)
        self.reads = self._table()
        self.lanes = Lanes(self.m, granules)
        self.strong = [_is_strong(i) for i in kernel.code]
        # An order of .cta scope ends at the CTA. Where all is of one CTA, or nothing has that
        # scope, nobody has to ask.
        self.narrow = np.array([i.has("cta") and i.parts[0] not in _BARS for i in kernel.code])
        self.scoped = shape.cluster_size > 1 and bool(self.narrow.any())
        self.sides: dict[int, set[Hashable]] = {}  # of an mbarrier: the keys of its arrivals
        # By the ISA cp.async writes through the generic proxy, so a wgmma that reads it needs a
        # proxy fence. Neither Triton nor CUTLASS (sm90_mma_multistage_gmma_ss) has one there.
        self.copies = np.array([i.has("cp") and not i.has("bulk") for i in kernel.code])
        # Triton lets TMA write where an mbarrier was; its end leaves nothing that could come late.
        self.ends = np.array([i.parts[:2] == ("mbarrier", "inval") for i in kernel.code])
        # When each warp last accessed another CTA's memory, which has to be there until then.
        self.visits: np.ndarray | None = None
        if shape.cluster_size > 1:
            self.visits = np.zeros((self.m.n * shape.cluster_size, self.readers), np.int32)
            self.m.exits.append(self._leave)
        self.strong_reads: np.ndarray | None = None
        self.strong_writes: np.ndarray | None = None
        self.transfers: dict[int, Transfer] = {}
        self.started = 0
        self.issuer: dict[int, int] = {}  # the warp behind an engine's write, by its time
        self.slots: dict[tuple[int, str], int] = {}
        self.arrived: dict[Hashable, np.ndarray] = {}
        self.completed: dict[Hashable, np.ndarray] = {}
        self.flags: dict[Hashable, np.ndarray] = {}
        # Clocks at the last fence, clocks its reads saw; where `scoped` these are of fences wider
        # than a CTA, and the same follows for fences of any scope.
        self.fences: list[np.ndarray] = []

    def _table(self) -> np.ndarray:
        return np.zeros((len(self.written), self.readers), np.int32)

    # ---- accesses of the generic proxy, by lanes

    def read(self, at: np.ndarray, size: int, lanes: tuple) -> None:
        """Lanes read [at, at + size); `at` indexes Memory.shared, lanes is (warp [k], lane [k])."""
        g, w, lane = self._granules(at, size, lanes)
        self._after_write(g, w, "read", lane)
        time = self._tick(self.m.current)
        self._visit(at, lanes[0], time)
        table = self.reads
        if self.strong[self.m.current]:
            if self.strong_reads is None:
                self.strong_reads = self._table()
            table = self.strong_reads
            self._after_narrow(self.strong_writes, g, w, "write", "read")
            self._observe(at, lanes[0])
        elif self.strong_writes is not None:
            self._after_all(self.strong_writes, g, w, "write", "read")
        place = g * self.readers + self.here[w]
        if table is self.reads:
            whole = self.m.kernel.code[self.m.current].op.startswith("ldmatrix")
            self.lanes.reads(g, w, lane, table.reshape(-1)[place], whole)
        table.reshape(-1)[place] = time

    def write(
        self,
        at: np.ndarray,
        size: int,
        lanes: tuple,
        *,
        atomic: bool = False,
        same: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Lanes write [at, at + size). atomic: with no tearing, as a strong write does. same: tells
        which [k] write what is there already. That lanes of one write differ, Memory sees."""
        g, w, lane = self._granules(at, size, lanes)
        self._after_write(g, w, "write", lane, same)
        self._after_all(self.reads, g, w, "read", "write")
        self._after_lanes(g, w, lane)
        time = self._tick(self.m.current)
        self._visit(at, lanes[0], time)
        if atomic or self.strong[self.m.current]:
            if self.strong_writes is None:
                self.strong_writes = self._table()
            self.strong_writes[g, self.here[w]] = time
            self._after_narrow(self.strong_writes, g, w, "write", "write")
            self._after_narrow(self.strong_reads, g, w, "read", "write")
            self._publish(at, lanes[0])
            if not self.m.kernel.code[self.m.current].op.startswith("st"):
                self._observe(at, lanes[0])
            return
        self._after_strong(g, w)
        self.written[g] = time
        self.writer[g] = self.here[w]
        self.lanes.writes(g, w, lane, time)

    def _granules(self, at: np.ndarray, size: int, lanes: tuple) -> tuple[np.ndarray, ...]:
        """Granules, and the warp and lane that touches each."""
        g, (w, lane) = at >> self.shift, lanes
        count = size >> self.shift
        if count <= 1:
            return g, w, lane
        whole = (g[:, None] + np.arange(count)).reshape(-1)
        return whole, np.repeat(w, count), np.repeat(lane, count)

    def _tick(self, pc: int) -> int:
        self.now += 1
        self.pcs.append(pc)
        return self.now

    def _visit(self, at: np.ndarray, w: np.ndarray, time: int) -> None:
        if self.visits is None or self.m.kernel.code[self.m.current].has("bulk"):
            return  # a copy's target is waited for there
        cta = at // self.memory.row
        far = cta != self.memory.cta_of_warp(w)
        if far.any():
            self.visits[cta[far], self.here[w[far]]] = time

    def _leave(self, s: Active) -> None:
        """Where a CTA ends, all accesses of others to its memory are ordered before that."""
        assert self.visits is not None
        for cta in np.unique(self.memory.cta_of_warp(s.warps)):
            if self.memory.cta_alive(int(cta)):
                continue
            mine = self.memory.cta_of_warp(np.arange(self.m.warps)) == cta
            known = self.clocks[0, mine, : self.readers].max(axis=0)
            late = self.visits[cta] > known
            if late.any():
                who, g = int(np.argmax(late)), int(cta) * self.memory.row >> self.shift
                time = int(self.visits[cta, who])
                raise Race(
                    f"shared memory of rank {cta % self.m.shape.cluster_size} of the cluster, whose"
                    f" last thread exits: accessed by {self.m.who(self._warp(g, who))} at"
                    f" {self._line(self.pcs[time])}; nothing orders the two"
                )

    # ---- checks: w is an array like g, or one warp

    def _after_write(
        self,
        g: np.ndarray,
        w: np.ndarray | int,
        doing: str,
        lane: int | np.ndarray | None = None,
        same: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """The granules' last writes are ordered before what `lane` of w does, or None: before
        what w does as a whole."""
        times = self.written[g]
        late = times > self.floor[w]
        if late.any():
            writer = self.writer[g]
            bad = late & (times > self.clocks[0, w, writer])
            if lane is not None:
                mine = late & (writer == self.here[w])
                if mine.any():
                    bad |= mine & self.lanes.races_with_write(g, w, lane, times, doing == "read")
            if same is not None and bad.any():
                kept = same()
                bad &= (times >= _NEVER) | ~np.repeat(kept, len(g) // len(kept))
            if bad.any():
                i = int(np.argmax(bad))
                self._race(g[i], times[i], int(self.writer[g[i]]), "write", _pick(w, i), doing)

    def _after_lanes(
        self, g: np.ndarray, w: np.ndarray | int, lane: int | np.ndarray | None
    ) -> None:
        """What other lanes of the warp read is ordered before what `lane` writes."""
        if lane is None:
            return
        times = self.reads.reshape(-1)[g * self.readers + self.here[w]]
        bad = self.lanes.races_with_reads(g, w, lane, times)
        if bad.any():
            i = int(np.argmax(bad))
            who = int(self.here[_pick(w, i)])
            self._race(g[i], times[i], who, "read", _pick(w, i), "write")

    def _after_all(self, table: np.ndarray, g: np.ndarray, w, past: str, doing: str) -> None:
        """What the table holds of the granules, by anyone, is ordered before what w does."""
        times = table[g]
        bad = times > self.clocks[0, w, : self.readers]
        if bad.any():
            i, who = (int(v[0]) for v in np.nonzero(bad))
            self._race(g[i], times[i, who], who, past, _pick(w, i), doing)

    def _after_strong(self, g: np.ndarray, w: np.ndarray | int) -> None:
        """Strong accesses are ordered before a plain write of w."""
        if self.strong_writes is not None:
            self._after_all(self.strong_writes, g, w, "write", "write")
        if self.strong_reads is not None:
            self._after_all(self.strong_reads, g, w, "read", "write")

    def _after_narrow(
        self, table: np.ndarray | None, g: np.ndarray, w: np.ndarray, past: str, doing: str
    ) -> None:
        """Strong accesses race with those of another CTA if either has .cta scope."""
        if not self.scoped or table is None or self.m.kernel.code[self.m.current].has("mbarrier"):
            return
        times = table[g]
        bad = times > self.clocks[0, w, : self.readers]
        bad &= self.narrow[np.frombuffer(self.pcs, np.intc)[times]] | self.narrow[self.m.current]
        rank = np.arange(self.readers) // self.m.slots
        bad &= rank != self.memory.rank[w][:, None]
        if bad.any():
            i, who = (int(v[0]) for v in np.nonzero(bad))
            self._race(g[i], times[i, who], who, past, _pick(w, i), doing)

    def _fenced(
        self, g: np.ndarray, w: np.ndarray | int, doing: str, lane: int | np.ndarray | None
    ) -> None:
        """The granules' last writes passed a proxy fence, if by the generic proxy."""
        found = [(self.written[g], self.writer[g])]
        if self.strong_writes is not None:
            latest = self.strong_writes[g]
            found.append((latest.max(axis=1), latest.argmax(axis=1)))
        for times, who in found:
            bad = times > self.clocks[1, w, who]
            if bad.any() and self.lanes.fences is not None:
                bad &= ~self._fenced_by_writer(g, w, times, who, lane)
            if bad.any():
                bad &= ~self.ends[np.frombuffer(self.pcs, np.intc)[times]]
            if self.m.kernel.code[self.m.current].has("wgmma") and bad.any():
                bad &= ~self.copies[np.frombuffer(self.pcs, np.intc)[times]]
            if bad.any():
                i = int(np.argmax(bad))
                first = self._who(int(g[i]), int(times[i]), int(who[i]), "write")
                raise MissingFence(
                    f"{self._bytes(g[i])}: {first}, {doing} through the async proxy for "
                    f"{self._now(_pick(w, i))}; no fence.proxy.async lies between"
                )

    def _fenced_by_writer(
        self,
        g: np.ndarray,
        w: np.ndarray | int,
        times: np.ndarray,
        who: np.ndarray,
        lane: int | np.ndarray | None,
    ) -> np.ndarray:
        """Whose own lane fenced them, before what w does."""
        assert self.lanes.fences is not None
        fence = self.lanes.fences[g]
        before = fence <= self.clocks[0, w, who]
        own = self.lanes.own(g, lane)
        before &= (who != self.here[w]) | (fence <= self.lanes.synced[w]) | own
        return (times <= fence) & before

    # ---- synchronisation

    def meet(self, warps: np.ndarray, mask: np.ndarray) -> None:
        """bar.warp.sync, of these lanes [k, 32] of the warps."""
        self.lanes.meet(warps, mask, self.now)
        self._sink(warps)

    def rendezvous(
        self, came: np.ndarray, waiting: np.ndarray, key: Hashable | None = None
    ) -> None:
        """A barrier opened: what `came` did is before what `waiting` does next (warps). Those that
        came and went on, and must not count with what they did since, came by `release` of key."""
        row = self._leaving(came)
        if key in self.arrived:
            row = np.maximum(row, self.arrived.pop(key))
        self._join(waiting, row)

    def release(self, key: Hashable, warps: np.ndarray) -> None:
        """Warps arrive at the mbarrier at index `key` of Memory.shared, with release semantics.
        Other barriers have keys of another type."""
        if not self.scoped or not isinstance(key, int):
            self._arrive(key, self._leaving(warps))
            return
        ctas = self.memory.cta_of_warp(warps)
        for cta in np.unique(ctas):
            side = (key, int(cta), bool(self.narrow[self.m.current]))
            self.sides.setdefault(key, set()).add(side)
            self._arrive(side, self._leaving(warps[ctas == cta]))

    def flip(self, key: Hashable) -> None:
        """The mbarrier's phase completes. An arrival counts for later phases too: each arrival
        changes the mbarrier atomically, so that they are one release sequence."""
        sides = self.sides.get(key, ()) if isinstance(key, int) else ()
        for each in (key, *sides):
            if each in self.arrived:
                self.completed[each] = self.arrived[each]

    def acquire(self, key: Hashable, warps: np.ndarray) -> None:
        """Warps saw the mbarrier's last phase completed, with acquire semantics."""
        if key in self.completed:
            self._join(warps, self.completed[key])
        for side in self.sides.get(key, ()) if isinstance(key, int) else ():
            if side in self.completed:
                _, cta, narrow = side  # type: ignore[misc]
                reached = self._reached(warps, cta, narrow)
                self._join(warps[reached], self.completed[side])

    def _reached(self, warps: np.ndarray, cta: int, narrow: bool) -> np.ndarray:
        """Which warps, in the instruction in hand, a release of that CTA reaches."""
        own = self.memory.cta_of_warp(warps) == cta
        return own | (not narrow and not self.narrow[self.m.current])

    def proxy_fence(self, warps: np.ndarray, mask: np.ndarray) -> None:
        """fence.proxy.async, by these lanes [k, 32] of the warps: writes before it are visible to
        the async proxy."""
        clock = self.clocks[0, warps]
        for k, warp in enumerate(warps):
            own = self.here[warp]
            if self.lanes.fence(int(warp), mask[k], self.now):
                clock[k, own] = self.now
                continue
            clock[k, own] = self.lanes.synced[warp]
            self._fence_own(int(warp), mask[k])
        self.clocks[1, warps] = np.maximum(self.clocks[1, warps], clock)

    def _fence_own(self, warp: int, mask: np.ndarray) -> None:
        cluster = self.m.shape.cluster_size * self.memory.row >> self.shift
        first = int(self.m.group_of[warp]) * cluster
        mine = self.writer[first : first + cluster] == self.here[warp]
        mine &= self.written[first : first + cluster] < _NEVER
        self.lanes.fence_own(np.nonzero(mine)[0] + first, mask, self.now)

    def known_to_all(self, at: np.ndarray) -> None:
        """All of the cluster come after the last writes of the granules at these bytes."""
        self.written[np.asarray(at) >> self.shift] = 0

    def fence(self, warps: np.ndarray, *, narrow: bool = False) -> None:
        """fence.acq_rel or stronger. narrow: of .cta scope."""
        self._with_fences()
        for n in range(2 if narrow and self.scoped else 0, len(self.fences), 2):
            saw = self.fences[n + 1]
            self.clocks[:, warps] = np.maximum(self.clocks[:, warps], saw[:, warps])
        for n in range(2 if narrow and self.scoped else 0, len(self.fences), 2):
            before = self.fences[n]
            before[:, warps] = self.clocks[:, warps]
            before[0, warps, self.here[warps]] = self.now
        self._sink(warps)

    def _with_fences(self) -> None:
        if not self.fences:
            self.fences = [np.zeros_like(self.clocks) for _ in range(4 if self.scoped else 2)]

    def _leaving(self, warps: np.ndarray) -> np.ndarray:
        """The clocks [2, entities] of who comes after all that these warps did."""
        row = self.clocks[:, warps].max(axis=1, initial=0)
        row[0, self.here[warps]] = self.now
        return row

    def _arrive(self, key: Hashable, row: np.ndarray) -> None:
        known = self.arrived.get(key)
        self.arrived[key] = row if known is None else np.maximum(known, row)

    def _join(self, warps: np.ndarray, row: np.ndarray) -> None:
        synced = self.lanes.synced
        synced[warps] = np.maximum(synced[warps], row[0, self.here[warps]])
        self.clocks[:, warps] = np.maximum(self.clocks[:, warps], row[:, None])
        self._sink(warps)

    def _sink(self, warps: np.ndarray) -> None:
        clocks = self.clocks[0, warps, : self.readers + len(self.slots)]
        clocks[:, self.m.positions : self.readers] = _ALWAYS
        self.floor[warps] = np.minimum(clocks.min(axis=1), self.lanes.synced[warps])

    # ---- flags: strong accesses that others wait for

    def _publish(self, at: np.ndarray, w: np.ndarray) -> None:
        releases = _orders(self.m.kernel.code[self.m.current], "release")
        if not releases and not self.fences:
            return
        narrow = bool(self.narrow[self.m.current])
        for key, warp in set(zip(at.tolist(), w.tolist(), strict=True)):
            if releases:
                self._raise(key, warp, narrow, self._leaving(np.array([warp])))
                continue
            if not narrow or not self.scoped:
                self._raise(key, warp, False, self.fences[0][:, warp])
            if self.scoped:
                self._raise(key, warp, True, self.fences[2][:, warp])

    def _raise(self, at: int, warp: int, narrow: bool, row: np.ndarray) -> None:
        key = self._flag(at, self._cta(warp), narrow)
        known = self.flags.get(key)
        self.flags[key] = row.copy() if known is None else np.maximum(known, row)

    def _flag(self, at: int, cta: int, narrow: bool) -> Hashable:
        return (at, cta, narrow) if self.scoped else at

    def _cta(self, warp: int) -> int:
        return int(self.memory.cta_of_warp(np.array([warp]))[0])

    def _observe(self, at: np.ndarray, w: np.ndarray) -> None:
        if not self.flags:
            return
        self._with_fences()
        acquires = _orders(self.m.kernel.code[self.m.current], "acquire")
        for key, warp in set(zip(at.tolist(), w.tolist(), strict=True)):
            for row, saw in self._seen(key, warp):
                if acquires:
                    self._join(np.array([warp]), row)
                else:
                    saw[:, warp] = np.maximum(saw[:, warp], row)

    def _seen(self, at: int, warp: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The flags' rows that reach this warp, and what notes them for its next fence."""
        if not self.scoped:
            return [(self.flags[at], self.fences[1])] if at in self.flags else []
        own, size = self._cta(warp), self.m.shape.cluster_size
        found = []
        for cta in range(own // size * size, own // size * size + size):
            for narrow in (False, True):
                row = self.flags.get((at, cta, narrow))
                if row is not None and self._reached(np.array([warp]), cta, narrow)[0]:
                    found.append((row, self.fences[3 if cta == own else 1]))
        return found

    # ---- asynchronous operations

    def begin(
        self,
        at: np.ndarray,
        warp: int | np.ndarray,
        *,
        write: bool,
        proxy: str,
        what: str,
        lane: int | np.ndarray | None = None,
    ) -> Transfer:
        """From now on, and until `end`, the bytes `at` (one of each granule will do) are read or
        written by an engine. For a write there may be several warps, one named for each byte, and
        their lanes. lane None: the whole warp issues it."""
        g = np.asarray(at) >> self.shift
        if self.shift and len(g) and np.ndim(warp) == 0:  # bytes mostly come in rows
            g = g[np.concatenate([[True], g[1:] != g[:-1]])]
        doing = "write" if write else "read"
        self._after_write(g, warp, doing, lane)
        if write:
            self._after_all(self.reads, g, warp, "read", "write")
            self._after_lanes(g, warp, lane)
            self._after_strong(g, warp)
        elif self.strong_writes is not None:
            self._after_all(self.strong_writes, g, warp, "write", "read")
        if proxy == "async":
            self._fenced(g, warp, _DONE[doing], lane)
        self.started += 1
        number = _NEVER + self.started
        made = Transfer(g, warp, write, proxy, what, self.m.current, number, len(g), lane)
        self.transfers[made.number] = made
        if write:
            self.written[g] = made.number
            self.writer[g] = self.here[warp]
            self._alone(g, warp, made.number)
            self.lanes.issued(g, lane)
        else:
            self.reads[g, self._engine(int(warp))] = made.number
        return made

    def _alone(self, g: np.ndarray, w: np.ndarray | int, time: int) -> None:
        """No two of these warps write one granule."""
        clash = self.writer[g] != self.here[w]
        if clash.any():
            i = int(np.argmax(clash))
            self._race(g[i], time, int(self.writer[g[i]]), "write", _pick(w, i), "write")

    def end(
        self,
        transfer: Transfer,
        *,
        key: int | None = None,
        warp: int | np.ndarray | None = None,
        of: np.ndarray | None = None,
    ) -> tuple[int, int]:
        """It is done: before whatever follows an `acquire` of the mbarrier `key`'s phase, or else
        before whatever its issuer does next. warp: a read is before what any of these does next.
        of: of a write that several warps issued, only the part of these. Returns in whose name it
        was, and when."""
        g = self._over(transfer, of)
        time = self._tick(transfer.pc)
        if transfer.write:
            who = self._end_write(transfer, g, time, key)
        else:
            who = self._end_read(transfer, g, time, transfer.warp if key is warp is None else warp)
        if key is not None:
            self.told(key, who, time)
        return who, time

    def told(self, key: int, who: int, time: int) -> None:
        """What was done in the name of entity `who` at that time is before what follows an
        `acquire` of the mbarrier `key`'s phase."""
        row = np.zeros_like(self.clocks[:, 0])
        row[0, who] = time
        self._arrive(key, row)

    def _over(self, t: Transfer, of: np.ndarray | None) -> np.ndarray:
        """The granules of the part that these warps issued, which is no more under way."""
        if of is None or np.ndim(t.warp) == 0:
            del self.transfers[t.number]
            return t.at
        part = np.zeros(self.m.warps, bool)
        part[of] = True
        part = part[t.warp]
        t.left -= int(part.sum())
        if not t.left:
            del self.transfers[t.number]
        return t.at[part]

    def _end_write(self, t: Transfer, g: np.ndarray, time: int, key: int | None) -> int:
        """The entity in whose name it was."""
        g = g[self.written[g] == t.number]
        self.written[g] = time
        if key is None:
            return -1
        self.issuer[time] = int(t.warp) if np.ndim(t.warp) == 0 else -1
        slot = self._slot(key, t.proxy)
        self.writer[g] = slot
        return slot

    def _end_read(
        self, t: Transfer, g: np.ndarray, time: int, warp: int | np.ndarray | None
    ) -> int:
        self.issuer[time] = int(t.warp)
        engine = self._engine(int(t.warp))
        g = g[self.reads[g, engine] == t.number]
        if warp is not None and np.ndim(warp) == 0:  # as if it had read itself
            self.reads[g, engine] = 0
            if t.lane is not None:
                self.lanes.reads(g, warp, t.lane, self.reads[g, self.here[warp]], False)
            self.reads[g, self.here[warp]] = time
            return engine
        self.reads[g, engine] = time
        if warp is not None:
            self.clocks[0, warp, engine] = time
        return engine

    def _engine(self, warp: int) -> int:
        """The column of what reads for this warp."""
        rank, place = divmod(int(self.here[warp]), self.m.slots)
        return self.m.positions + rank * -(-self.m.shape.warps // 4) + place // 4

    def _slot(self, key: int, proxy: str) -> int:
        """The column of an mbarrier: what engines wrote and report to it. The clusters share it."""
        span = self.m.shape.cluster_size * self.memory.row
        known = self.slots.get((key % span, proxy))
        if known is not None:
            return known
        slot = self.readers + len(self.slots)
        self.slots[key % span, proxy] = slot
        if slot == self.entities:
            self._widen()
        if proxy == "async":
            self.clocks[1, :, slot] = _ALWAYS
        return slot

    def _widen(self) -> None:
        more = ((0, 0), (0, _SLOTS))
        self.entities += _SLOTS
        self.clocks = np.pad(self.clocks, ((0, 0), *more))
        self.fences = [np.pad(f, ((0, 0), *more)) for f in self.fences]
        for rows in (self.arrived, self.completed, self.flags):
            for key, row in rows.items():
                rows[key] = np.pad(row, more)  # type: ignore[index]
        self.floor[:] = 0

    # ---- reports

    def _bytes(self, g: int) -> str:
        first = (int(g) << self.shift) % self.memory.row
        last = first + (1 << self.shift) - 1
        name = f"byte {first:#x}" if first == last else f"bytes {first:#x} to {last:#x}"
        rank = (int(g) << self.shift) // self.memory.row % self.m.shape.cluster_size
        where = f" of rank {rank}" if self.m.shape.cluster_size > 1 else ""
        return f"{name} of shared memory{where}"

    def _who(self, g: int, time: int, who: int, past: str) -> str:
        """An earlier access."""
        warp, engine = self._warp(g, who), ""
        if time in self.issuer:
            warp, engine = self.issuer[time], "an engine for "
        by = engine + self.m.who(warp) if warp >= 0 else "an engine"
        return f"{_DONE[past]} by {by} at {self._line(self.pcs[time])}"

    def _warp(self, g: int, who: int) -> int:
        """The index of a warp that is entity `who` of its cluster."""
        return who * self.m.n + (g << self.shift) // self.memory.row // self.m.shape.cluster_size

    def _now(self, warp: int) -> str:
        return f"{self.m.who(warp)} at {self._line(self.m.current)}"

    def _line(self, pc: int) -> str:
        instr = self.m.kernel.code[pc]
        return f"line {instr.line} ({instr.text.rstrip(';')})"

    def _race(self, g: int, time: int, who: int, past: str, warp: int, doing: str) -> None:
        second = f"{_DONE[doing]} by {self._now(warp)}"
        if time >= _NEVER:
            t = self.transfers[int(time)]
            issuer = self._warp(int(g), who) if t.write else int(t.warp)
            raise Race(
                f"{self._bytes(g)}: {second} while {t.what} of {self.m.who(issuer)}, issued at "
                f"{self._line(t.pc)}, {'writes' if t.write else 'reads'} them"
            )
        first = self._who(int(g), int(time), who, past)
        lanes = ", in another lane" if who == self.here[warp] and time not in self.issuer else ""
        raise Race(f"{self._bytes(g)}: {first}, {second}{lanes}; nothing orders the two")


def _pick(w: np.ndarray | int, index: int) -> int:
    return int(w[index]) if isinstance(w, np.ndarray) else int(w)


def _is_strong(instr: Instr) -> bool:
    if instr.parts[0] == "mbarrier":
        return instr.parts[1] not in ("init", "inval")
    return any(word in _STRONG for word in instr.parts)


def _orders(instr: Instr, how: str) -> bool:
    return instr.has(how) or instr.has("acq_rel")


def granule(kernel: Kernel) -> int:
    """Bytes of the smallest access of shared memory; matrices and bulk copies go by 16."""
    return min((width for i in kernel.code if (width := _width(i))), default=16)


def _width(instr: Instr) -> int:
    parts = instr.parts
    if parts[0] == "mbarrier":
        return 8
    if parts[0] == "cp":
        size = instr.args[2] if parts[2] in ("ca", "cg") else None
        return size.value if isinstance(size, Imm) else 0
    if parts[0] not in ("ld", "ldu", "st", "atom", "red") or not instr.types:
        return 0
    if any(space in parts for space in ("global", "local", "param", "const")):
        return 0
    return WIDTH[instr.types[-1]] * next((n for n in (2, 4, 8) if f"v{n}" in parts), 1)


def engines(kernel: Kernel, warps: int) -> int:
    """One for each warpgroup, where something in the kernel may read asynchronously."""
    return -(-warps // 4) if any(i.has("bulk") or i.has("wgmma") for i in kernel.code) else 0


def cost(kernel: Kernel, shape: Shape) -> int:
    """Bytes that a Shadow keeps for each 16 bytes of shared memory. Tables of strong accesses are
    not counted where nothing but mbarriers, which are few, makes them."""
    flags = (i for i in kernel.code if _is_strong(i) and i.parts[0] != "mbarrier")
    tables = 3 if any(_width(i) for i in flags) else 1
    warps = shape.warps * shape.cluster_size
    readers = warps + engines(kernel, shape.warps) * shape.cluster_size
    return 16 // granule(kernel) * (4 + 2 + 4 + 4 * tables * readers + 4 * warps)
