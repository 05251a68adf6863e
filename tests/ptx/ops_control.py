"""Branches, ends, and barriers of a CTA."""

from __future__ import annotations

import numpy as np

from tests.ptx.bind import Binder, Source, Target
from tests.ptx.errors import Fault
from tests.ptx.machine import BARRIER, STOP, Active, Handler, Machine, fault
from tests.ptx.ops import handles
from tests.ptx.parse import Instr, Sym
from tests.ptx.races import Shadow


@handles("bra")
def _bra(i: Instr, b: Binder) -> Handler:
    label, m, pc = i.args[0], b.m, b.pc
    assert isinstance(label, Sym)
    target = m.kernel.labels[label.name]
    if i.guard is None:
        return lambda s: target
    source, negated = b.condition(i.guard[0]), i.guard[1]

    def branch(s: Active) -> int | None:
        wanted = source(s)
        taken = s.mask & (~wanted if negated else wanted)
        if not taken.any():
            return pc + 1
        if (taken == s.mask).all():
            return target
        m.move(Active(s.lo, s.hi, taken), target)
        m.move(Active(s.lo, s.hi, s.mask & ~taken), pc + 1)
        return STOP

    return branch


@handles("brx.idx")
def _brx(i: Instr, b: Binder) -> Handler:
    index, m, table = b.gather(b.src(i.args[0], "u32")), b.m, i.args[1]
    assert isinstance(table, Sym)
    targets = [m.kernel.labels[name] for name in m.kernel.tables[table.name]]

    def branch(s: Active) -> int | None:
        wanted, (warps, lanes) = index(s), s.lanes
        if (wanted >= len(targets)).any():
            at = int(np.argmax(wanted >= len(targets)))
            text = f"branch {wanted[at]} of {len(targets)}"
            raise fault(Fault, m, text, warps[at], lanes[at])
        taken = np.unique(wanted)
        if len(taken) == 1:
            return targets[int(taken[0])]
        for one in taken:
            mask = np.zeros_like(s.mask)
            mask[warps[wanted == one] - s.lo, lanes[wanted == one]] = True
            m.move(Active(s.lo, s.hi, mask), targets[int(one)])
        return STOP

    return branch


@handles("ret", "exit")
def _exit(i: Instr, b: Binder) -> Handler:
    m = b.m

    def leave(s: Active) -> int:
        m.finish(s)
        return STOP

    return leave


@handles("trap")
def _trap(i: Instr, b: Binder) -> Handler:
    def trap(s: Active) -> int:
        warp, lane = s.lanes
        raise fault(Fault, b.m, "a trap", warp[0], lane[0])

    return trap


@handles("nanosleep", "pmevent", "prefetch", "prefetchu", "discard", "applypriority")
def _nothing(i: Instr, b: Binder) -> Handler:
    return lambda s: None


class Barriers:
    """The sixteen named barriers of each CTA: `bar`."""

    def __init__(self, m: Machine, shadow: Shadow | None = None):
        self.m = m
        self.ctas = m.n * m.shape.cluster_size
        self.cta_of = m.rank_of * m.n + m.group_of  # of each warp
        self.arrived = np.zeros((self.ctas, 16), np.int64)  # threads
        self.expected = np.zeros((self.ctas, 16), np.int64)  # 0: all that live
        self.waiting = np.full((m.warps, 32), -1, np.int8)
        m.exits.append(lambda s: self.settle(np.unique(self.cta_of[s.warps])))
        m.reasons.append(self.report)
        self.shadow = shadow
        self.votes: dict[int, tuple[np.ndarray, np.ndarray, str, Target]] = {}  # by warp

    def vote(self, s: Active, values: np.ndarray, how: str, put: Target) -> None:
        """What the lanes bring to a reduction, before they arrive, and where its result goes."""
        for warp in s.warps:
            row = warp - s.lo
            self.votes[int(warp)] = (s.mask[row].copy(), values[row].copy(), how, put)

    def _reduce(self, warps: np.ndarray) -> None:
        votes = {int(w): self.votes.pop(int(w)) for w in warps if int(w) in self.votes}
        if not votes:
            return
        if len(votes) != len(warps) or len({how for *_, how, _ in votes.values()}) > 1:
            text = "not all threads at a barrier reduce, or not in the same way"
            raise fault(Fault, self.m, text, warps[0], 0)
        yes = sum(int((mask & value).sum()) for mask, value, *_ in votes.values())
        every = sum(int(mask.sum()) for mask, *_ in votes.values())
        for warp, (mask, _, how, put) in votes.items():
            result = {"popc": np.uint32(yes), "and": yes == every, "or": yes > 0}[how]
            put(Active(warp, warp + 1, mask[None]), result)

    def arrive(
        self, s: Active, barrier: np.ndarray, count: np.ndarray, pc: int, wait: bool
    ) -> None:
        """Threads arrive. barrier and count [k] per active warp; where all of a warp's threads come
        it counts as 32, if it is the last of a CTA and shorter, too. Where more come at once than
        the barrier waits for, they come one warp after the other."""
        warps = s.warps
        came = s.mask[warps - s.lo]
        threads = came.sum(axis=1)
        whole = (came == self.m.alive[warps]).all(axis=1)
        ctas = self.cta_of[warps]
        known = self.expected[ctas, barrier]
        busy = self.arrived[ctas, barrier] > 0
        wrong = busy & (known != count)
        if wrong.any():
            at = int(np.argmax(wrong))
            text = f"barrier {barrier[at]} with {count[at]} threads, but others said {known[at]}"
            raise fault(Fault, self.m, text, warps[at], 0)
        self.m.changed()
        more = np.where(whole & (count > 0), 32, threads)
        np.add.at(self.arrived, (ctas, barrier), more)
        over = (count > 0) & (self.arrived[ctas, barrier] > count)
        if over.any() and len(warps) > 1:
            np.subtract.at(self.arrived, (ctas, barrier), more)
            self._one_by_one(s, barrier, count, pc, wait)
            return
        if over.any():
            text = f"{self.arrived[ctas[0], barrier[0]]} threads at barrier {barrier[0]}, which "
            raise fault(Fault, self.m, f"{text}waits for {count[0]}", warps[0], 0)
        self.expected[ctas, barrier] = count
        if wait:
            self.m.block(s, pc, BARRIER)
            part = self.waiting[s.sl]
            part[s.mask] = np.repeat(barrier, threads)
        elif self.shadow is not None:
            for cta, which, warp in zip(ctas, barrier, warps, strict=True):
                self.shadow.release(("bar", int(cta), int(which)), np.array([warp]))
        self.settle(np.unique(ctas))

    def _one_by_one(
        self, s: Active, barrier: np.ndarray, count: np.ndarray, pc: int, wait: bool
    ) -> None:
        warps = s.warps
        order = np.arange(len(warps))
        for k in self.m.rng.permutation(order) if self.m.shuffled else order:
            warp = int(warps[k])
            one = Active(warp, warp + 1, s.mask[warp - s.lo][None])
            self.arrive(one, barrier[[k]], count[[k]], pc, wait)

    def _live(self) -> np.ndarray:
        """The live threads of each CTA."""
        live = np.zeros(self.ctas, np.int64)
        np.add.at(live, self.cta_of, self.m.alive.sum(axis=1))
        return live

    def settle(self, ctas: np.ndarray) -> None:
        """Opens the barriers of these CTAs that are complete."""
        arrived = self.arrived[ctas]
        if not arrived.any():
            return
        expected = np.where(self.expected[ctas] > 0, self.expected[ctas], self._live()[ctas, None])
        for cta, barrier in zip(*np.nonzero((arrived > 0) & (arrived >= expected)), strict=True):
            self._open(int(ctas[cta]), int(barrier))

    def _open(self, cta: int, barrier: int) -> None:
        m = self.m
        mine = self.cta_of == cta
        lanes = (self.waiting == barrier) & mine[:, None]
        m.blocked[lanes] = 0
        m.pc[lanes] += 1
        m.touch()
        self.waiting[lanes] = -1
        self.arrived[cta, barrier] = 0
        woken = np.nonzero(lanes.any(axis=1))[0]
        self._reduce(woken)
        if self.shadow is not None:
            self.shadow.rendezvous(woken, woken, ("bar", cta, barrier))

    def report(self) -> str | None:
        found = []
        for cta, barrier in zip(*np.nonzero(self.arrived), strict=True):
            expected = self.expected[cta, barrier] or self._live()[cta]
            found.append(
                f"barrier {barrier}: {self.arrived[cta, barrier]} of {expected} threads came"
            )
        return "; ".join(found[:4]) or None


def barriers(b: Binder) -> Barriers:
    if not hasattr(b.m, "barriers"):
        b.m.barriers = Barriers(b.m, b.memory.shadow)  # type: ignore[attr-defined]
    return b.m.barriers  # type: ignore[attr-defined, no-any-return]


@handles("bar", "barrier")
def _bar(i: Instr, b: Binder) -> Handler:
    words = [p for p in i.parts[1:] if p not in ("cta", "aligned")]
    if words not in (["sync"], ["arrive"]):
        raise b.unknown()
    table, pc, wait = barriers(b), b.pc, words == ["sync"]
    ident = b.src(i.args[0], "u32")
    count = b.src(i.args[1], "u32") if len(i.args) > 1 else None

    aligned = i.parts[0] == "bar" or i.has("aligned")

    def arrive(s: Active, which: np.ndarray) -> None:
        table.arrive(s, which, threads_of(b.m, s, which, count), pc, wait)

    def run(s: Active) -> int | None:
        if aligned:
            arrive(s, one_barrier(b.m, s, ident(s)))
        else:
            named = np.broadcast_to(ident(s), s.mask.shape)
            for one in np.unique(named[s.mask]):
                some = s.only(named == one)
                arrive(some, np.full(len(some.warps), int(one)))
        return STOP if wait else None

    return run


def one_barrier(m: Machine, s: Active, ident: np.ndarray) -> np.ndarray:
    """The barrier's number for each active warp [k], whose lanes all name the same one."""
    warps = s.warps - s.lo
    which = per_warp(ident, s, warps)
    if np.ndim(ident):
        other = s.mask[warps] & (ident[warps] != which[:, None])
        if other.any():
            warp, lane = (int(v[0]) for v in np.nonzero(other))
            text = f"barrier {ident[warps][warp, lane]}, but another lane at {which[warp]}"
            raise fault(Fault, m, text, warps[warp] + s.lo, lane)
    return which


def threads_of(m: Machine, s: Active, which: np.ndarray, count: Source | None) -> np.ndarray:
    """How many threads each active warp's barrier waits for [k], 0 for all of the CTA."""
    warps = s.warps - s.lo
    threads = np.zeros(len(warps), np.int64) if count is None else per_warp(count(s), s, warps)
    if (which > 15).any():
        raise fault(Fault, m, f"barrier {which.max()}; there are 16", warps[0] + s.lo, 0)
    if (threads % 32).any():
        raise fault(Fault, m, "a barrier's threads are no whole warps", warps[0] + s.lo, 0)
    return threads


def per_warp(value: np.ndarray, s: Active, warps: np.ndarray) -> np.ndarray:
    """The value that each active warp's first active lane has."""
    if np.ndim(value) == 0:
        return np.full(len(warps), int(value))
    first = s.mask[warps].argmax(axis=1)
    return value[warps, first].astype(np.int64)
