"""The engines that move data while the threads go on: cp.async, and the bulk copies of TMA.

Data lands at a random time between an instruction's issue and the wait for it. Where races are
checked, a transfer is over for the others when somebody has waited for it, not when it landed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.ptx.errors import DEFECTS, Fault, OutOfBounds, PtxError, Uninitialised, broken
from tests.ptx.machine import Active, Machine, fault
from tests.ptx.mbarrier import mbarriers
from tests.ptx.memory import Allocation, Memory
from tests.ptx.parse import Instr
from tests.ptx.races import Transfer


@contextlib.contextmanager
def blame(instr: Instr) -> Iterator[None]:
    """What goes wrong inside is this instruction's, not the one at which it comes out."""
    try:
        yield
    except PtxError as error:
        if error.instr is not None:
            raise
        raise type(error)(str(error), instr) from None
    except DEFECTS as error:
        raise broken(error, instr) from error


# ---- cp.async


class Copy:
    """What one cp.async copies, for some lanes: arrays [warps, 32] of the warps [lo, hi)."""

    def __init__(
        self,
        memory: Memory,
        instr: Instr,
        s: Active,
        group: np.ndarray,
        source: np.ndarray,
        wanted: np.ndarray,
        index: np.ndarray,
        size: int,
    ):
        """source, wanted, index [k]: global addresses, bytes to read there, indices in `shared`."""
        self.memory, self.instr, self.size = memory, instr, size
        self.lo, self.hi = s.lo, s.hi
        self.left, self.due = s.mask.copy(), s.mask.copy()  # to land; to be waited for
        self.group = group.copy()
        self.source, self.wanted, self.index = (self._spread(s, v) for v in (source, wanted, index))
        self.flying = s.mask.any(axis=1)  # warps
        self.ended: dict[int, tuple[int, int]] = {}  # warp -> in whose name it wrote, and when
        if memory.shadow is not None:
            step = np.arange(0, size, 1 << memory.shadow.shift)
            self.transfer = memory.shadow.begin(
                (index[:, None] + step).reshape(-1), np.repeat(s.lanes[0], len(step)), write=True,
                proxy="generic", what="a cp.async", lane=np.repeat(s.lanes[1], len(step)),
            )  # fmt: skip

    @staticmethod
    def _spread(s: Active, value: np.ndarray) -> np.ndarray:
        whole = np.zeros(s.mask.shape, value.dtype)
        whole[s.mask] = value
        return whole

    def rows(self, s: Active) -> np.ndarray:
        """The lanes of `s`, as a mask of this copy's warps."""
        mask = np.zeros_like(self.due)
        lo, hi = max(s.lo, self.lo), min(s.hi, self.hi)
        if lo < hi:
            mask[lo - self.lo : hi - self.lo] = s.mask[lo - s.lo : hi - s.lo]
        return mask

    def land(self, mask: np.ndarray | None = None) -> None:
        """The data of these lanes arrives, where it has not yet."""
        mask = self.left if mask is None else self.left & mask
        if not mask.any():
            return
        self.left = self.left & ~mask
        warp, lane = np.nonzero(mask)
        lanes = warp + self.lo, lane
        with blame(self.instr):
            data = self._read(self.source[mask], self.wanted[mask], lanes)
        self.memory.moved(True, "shared", data.size)
        at = self.index[mask] // self.size
        self.memory.shared.reshape(-1, self.size)[at] = data
        self.memory.written.reshape(-1, self.size)[at] = True
        self.memory.swizzled(self.index[mask] >> 4, 0)
        self.memory.wrote(self.memory.shared, self.index[mask], self.size, lanes, self.instr)
        if self.memory.bits is not None:
            index = (self.index[mask][:, None] + np.arange(self.size)).reshape(-1)
            self.memory.bits.copied(index, None, joined=False)

    def _read(self, source: np.ndarray, wanted: np.ndarray, lanes: tuple) -> np.ndarray:
        out = np.zeros((len(source), self.size), np.uint8)
        for size in np.unique(wanted):
            some = np.nonzero(wanted == size)[0]
            who = (lanes[0][some], lanes[1][some])
            width = min(self.size, 8) if size == self.size else 1
            for first in range(0, int(size), width):
                at = source[some] + np.uint64(first)
                got = self.memory.load("global", at, who, width, 1)[0]
                out[some, first : first + width] = got.view(np.uint8).reshape(-1, width)
        return out

    def done(self, mask: np.ndarray, keys: np.ndarray | None = None) -> None:
        """These lanes' data has been waited for, or by the mbarriers `keys` [warps, 32] will be."""
        self.due &= ~mask
        over = self.flying & ~self.due.any(axis=1)
        self.flying &= ~over
        shadow, warps = self.memory.shadow, np.nonzero(over)[0] + self.lo
        if shadow is None:
            return
        if keys is None:
            if len(warps):
                ended = shadow.end(self.transfer, of=warps)
                self.ended.update((int(w), (int(shadow.here[w]), ended[1])) for w in warps)
            return
        for key, warp in zip(keys[over].max(axis=1), warps, strict=True):
            self.ended[int(warp)] = shadow.end(self.transfer, key=int(key), of=np.array([warp]))
        # Each arrival waits for all copies before it, those too that another one came for.
        for row in np.nonzero(mask.any(axis=1))[0]:
            if (ended := self.ended.get(int(row) + self.lo)) is not None:
                for key in np.unique(keys[row][mask[row]]):
                    shadow.told(int(key), *ended)


class Copies:
    """cp.async, of all threads, and its groups."""

    def __init__(self, memory: Memory):
        self.memory, self.m = memory, memory.m
        self.number = np.zeros((self.m.warps, 32), np.int64)  # of the group that is open
        self.open: list[Copy] = []

    def issue(self, copy: Copy) -> None:
        self.open.append(copy)
        self.m.pending.append(copy.land)

    def commit(self, s: Active) -> None:
        self.number[s.sl] += s.mask

    def wait(self, s: Active, keep: int | None) -> None:
        """All but the `keep` last groups are done; None: everything, committed or not."""
        for copy in self.open:
            mask = copy.rows(s) & copy.due
            if keep is not None and mask.any():
                mask &= copy.group < self.number[copy.lo : copy.hi] - keep
            if mask.any():
                copy.land(mask)
                copy.done(mask)
        self.open = [copy for copy in self.open if copy.due.any()]

    def arrive(self, instr: Instr, s: Active, cells: np.ndarray) -> None:
        """Each lane arrives at an mbarrier when all that it has issued so far has landed."""
        started = [(c, c.rows(s) & c.due) for c in self.open]
        started = [(c, mask) for c, mask in started if mask.any()]
        keys = np.zeros((self.m.warps, 32), np.int64)
        keys[s.lanes] = cells * 8
        lanes, table = s.lanes, mbarriers(self.memory)
        ones = np.ones(len(cells), np.int64)

        def arrive() -> None:
            for copy, mask in started:
                copy.land(mask)
                copy.done(mask, keys[copy.lo : copy.hi])
            with blame(instr):
                table.arrive(cells, ones, 0 * ones, lanes, release=False)
            self.open = [copy for copy in self.open if copy.due.any()]

        self.m.pending.append(arrive)


# ---- bulk copies


@dataclass
class Target:
    """Where in one CTA the bytes of a bulk copy go, and the mbarrier that hears of it."""

    index: np.ndarray  # [bytes] indices in `shared`
    cell: int
    swizzle: int = 0  # bytes of its pattern's rows
    transfer: Transfer | None = None


@dataclass
class Fill:
    """A bulk copy into shared memory."""

    memory: Memory
    instr: Instr
    warp: int
    lane: int
    read: Callable[[], np.ndarray]  # the bytes, when the engine gets to them
    targets: list[Target]
    source: Transfer | None = None
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # (old, new), in bytes
    origin: np.ndarray | None = None  # [bytes] where in `shared` they come from

    def run(self) -> None:
        with blame(self.instr):
            data = self.read()
            if self.origin is not None:
                self.memory.moved(False, "shared", len(data))
            for i, target in enumerate(self.targets):
                self._land(target, data, last=i == len(self.targets) - 1)

    def _land(self, target: Target, data: np.ndarray, *, last: bool) -> None:
        memory = self.memory
        if not memory.cta_alive(target.cell * 8 // memory.row):
            text = "a bulk copy comes to the shared memory of a CTA that has exited"
            raise fault(Fault, memory.m, text, self.warp, self.lane)
        if self.combine is not None:
            data = self.combine(memory.shared[target.index], data)
        memory.moved(True, "shared", len(data))
        memory.shared[target.index] = data
        memory.written[target.index] = True
        memory.swizzled(target.index[::16] >> 4, target.swizzle)
        memory.wrote(
            memory.shared, target.index, 1, threads(self.warp, self.lane, len(data)), self.instr
        )
        if memory.bits is not None:
            memory.bits.copied(target.index, self.origin, joined=self.combine is not None)
        if memory.shadow is not None:
            for transfer in (target.transfer, self.source if last else None):
                if transfer is not None:
                    memory.shadow.end(transfer, key=target.cell * 8)
        mbarriers(memory).complete(target.cell, len(data), self.warp, self.lane)


@dataclass
class Drain:
    """A bulk copy out of shared memory, which its thread waits for by a group."""

    memory: Memory
    instr: Instr
    warp: int
    lane: int
    group: int
    index: np.ndarray  # [bytes] indices in `shared`
    write: Callable[[np.ndarray], None]
    kept: Callable[[np.ndarray], np.ndarray] | None = None  # picks the bytes that arrive
    transfer: Transfer | None = None
    data: np.ndarray | None = None
    known: bool = False  # to have read its source, by the thread
    written: bool = False

    def fetch(self) -> None:
        if self.data is None:
            self.data = self.memory.shared[self.index]
            self.memory.moved(False, "shared", len(self.data))
            self.memory.m.pending.append(self.finish)

    def finish(self) -> None:
        self.fetch()
        if not self.written and self.data is not None:
            self.written = True
            with blame(self.instr):
                self.write(self.data)

    def waited(self) -> None:
        """The thread knows that the source has been read."""
        self.known = True
        if self.transfer is not None and self.memory.shadow is not None:
            self.memory.shadow.end(self.transfer, warp=self.warp)
        self.transfer = None


@dataclass
class Bulk:
    """Bulk copies of all threads."""

    memory: Memory
    open: list[Drain] = field(default_factory=list)
    number: np.ndarray = field(init=False)  # of each thread's open group

    def __post_init__(self) -> None:
        self.m: Machine = self.memory.m
        self.number = np.zeros((self.m.warps, 32), np.int64)
        self.m.exits.append(self.leave)

    def _begin(
        self, index: np.ndarray, of: Fill | Drain, what: str, *, write: bool
    ) -> Transfer | None:
        if self.memory.shadow is None:
            return None
        return self.memory.shadow.begin(
            index, of.warp, write=write, proxy="async", what=what, lane=of.lane
        )

    def fill(self, fill: Fill, what: str, source: np.ndarray | None = None) -> None:
        """Starts a copy; its targets, and its source in shared memory if it has one."""
        opaque = self.memory.opaque
        for target in fill.targets:
            if opaque is not None and opaque[target.index].any():
                text = f"{what} writes where an mbarrier lives"
                raise fault(Fault, self.m, text, fill.warp, fill.lane)
            target.transfer = self._begin(target.index, fill, what, write=True)
        if source is not None:
            fill.origin = source
            self.initialised(source, fill.warp, fill.lane, what)
            fill.source = self._begin(source, fill, what, write=False)
        self.m.pending.append(fill.run)

    def drain(self, drain: Drain, what: str) -> None:
        self.initialised(drain.index, drain.warp, drain.lane, what)
        if self.memory.bits is not None:
            self.memory.bits.result(drain.index, (drain.warp, drain.lane), what, drain.kept)
        drain.group = int(self.number[drain.warp, drain.lane])
        drain.transfer = self._begin(drain.index, drain, what, write=False)
        self.open.append(drain)
        self.m.pending.append(drain.fetch)

    def initialised(self, index: np.ndarray, warp: int, lane: int, what: str) -> None:
        seen = self.memory.written[index]
        if not seen.all():
            at = int(index[np.argmin(seen)]) % self.memory.row
            text = f"{what} reads shared memory at {at}, where nothing was written"
            raise fault(Uninitialised, self.m, text, warp, lane)

    def commit(self, s: Active) -> None:
        self.number[s.sl] += s.mask

    def wait(self, s: Active, keep: int, *, read: bool) -> None:
        """All but the `keep` last groups are done, or have read their sources."""
        still = []
        for drain in self.open:
            mine = s.lo <= drain.warp < s.hi and s.mask[drain.warp - s.lo, drain.lane]
            if not mine or drain.group >= self.number[drain.warp, drain.lane] - keep:
                still.append(drain)
                continue
            drain.fetch()
            drain.waited()
            if read:
                still.append(drain)
            else:
                drain.finish()
        self.open = [d for d in still if not (d.written and d.known)]

    def leave(self, s: Active) -> None:
        """Threads exit."""
        for drain in self.open:
            gone = s.lo <= drain.warp < s.hi and s.mask[drain.warp - s.lo, drain.lane]
            if gone and not drain.known:
                text = "an exit with a bulk copy that nobody waited for to have read shared memory"
                raise fault(Fault, self.m, text, drain.warp, drain.lane)


def copies(memory: Memory) -> Copies:
    if not hasattr(memory, "copies"):
        memory.copies = Copies(memory)  # type: ignore[attr-defined]
    return memory.copies  # type: ignore[attr-defined, no-any-return]


def bulk(memory: Memory) -> Bulk:
    if not hasattr(memory, "bulk"):
        memory.bulk = Bulk(memory)  # type: ignore[attr-defined]
    return memory.bulk  # type: ignore[attr-defined, no-any-return]


def span(
    memory: Memory, address: int, size: int, who: tuple[int, int], *, store: bool
) -> tuple[Allocation, np.ndarray]:
    """The bytes [address, address + size) of global memory, for an engine that `who` started."""
    found = memory.globals.of(address, size)
    what = "store" if store else "load"
    if found is None:
        text = f"a bulk {what} of {size} bytes at {memory.globals.describe(address)}"
        raise fault(OutOfBounds, memory.m, text, *who)
    first = address - found.base + found.skew
    index = np.arange(first, first + size)
    allowed(memory, found, index, who, store=store)
    return found, index


def allowed(
    memory: Memory, where: Allocation, index: np.ndarray, who: tuple[int, int], *, store: bool
) -> None:
    """An engine may read or write these bytes of an allocation."""
    if where.valid is not None and not where.valid[index].all():
        text = f"a bulk copy into a hole of {where.name}, which is not contiguous"
        raise fault(OutOfBounds, memory.m, text, *who)
    if store and not where.writable:
        text = f"a bulk store to {where.name}, which is read only"
        raise fault(OutOfBounds, memory.m, text, *who)


def pull(memory: Memory, where: Allocation, index: np.ndarray) -> np.ndarray:
    """The bytes of global memory that an engine reads."""
    where.loaded += index.size
    memory.moved(False, "global", index.size)
    return where.bytes[index]


def push(
    memory: Memory,
    where: Allocation,
    index: np.ndarray,
    data: np.ndarray,
    of: tuple[int, int, Instr],
) -> None:
    """An engine, started by (warp, lane, instruction), writes bytes of global memory."""
    where.stored += index.size
    memory.moved(True, "global", index.size)
    where.bytes[index] = data
    warp, lane, instr = of
    memory.wrote(where.bytes, index.reshape(-1), 1, threads(warp, lane, index.size), instr)


def threads(warp: int, lane: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One thread, for each of `count` bytes."""
    return np.full(count, warp), np.full(count, lane)
