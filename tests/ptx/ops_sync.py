"""Fences, barriers of a cluster, mbarrier, and what only touches scheduling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault, OutOfBounds
from tests.ptx.machine import BARRIER, STOP, Active, Handler, fault
from tests.ptx.mbarrier import LIMIT, mbarriers
from tests.ptx.memory import LOCAL, RANK, SHARED, Memory
from tests.ptx.ops import handles
from tests.ptx.ops_control import barriers, one_barrier, threads_of
from tests.ptx.parse import WIDTH, Imm, Instr, Operand, Reg, Sink

_SCOPES = ("cta", "cluster", "gpu", "sys")
_SHARED = ("shared", "shared::cta", "shared::cluster")
Addresses = Callable[[Active], np.ndarray]


def only(i: Instr, b: Binder, *words: str) -> None:
    """The opcode has no other words than these."""
    for part in i.parts:
        if part not in words:
            raise b.unknown(f"this executor does not know .{part} here")


def shared_address(i: Instr, b: Binder, operand: Operand, space: str | None = None) -> Addresses:
    """Addresses [k] in the shared window. Without a space in the opcode they are generic ones."""
    named = [p for p in i.parts if p in _SHARED]
    space = space or (named[0] if named else "generic")
    get = b.address(operand, "generic" if space == "generic" else "shared")
    remote = space == "shared::cluster"

    def found(s: Active) -> np.ndarray:
        at = get(s)
        if space == "generic":
            at = _from_generic(b, at, s)
        if not remote:
            own_cta(b.memory, at, s.lanes)
        return at

    return found


def _from_generic(b: Binder, at: np.ndarray, s: Active) -> np.ndarray:
    bad = (at < np.uint64(SHARED)) | (at >= np.uint64(LOCAL))
    if bad.any():
        lane = int(np.argmax(bad))
        text = f"the generic address {int(at[lane]):#x} is not in shared memory"
        raise fault(OutOfBounds, b.m, text, s.lanes[0][lane], s.lanes[1][lane])
    return at - np.uint64(SHARED)


def own_cta(memory: Memory, at: np.ndarray, lanes: tuple) -> None:
    """Addresses in .shared::cta are in the CTA's own memory."""
    rank = at.astype(np.int64) >> RANK
    bad = (rank != 0) & (rank - 1 != memory.rank[lanes[0]])
    if bad.any():
        lane = int(np.argmax(bad))
        text = "an address in another CTA's shared memory, without .shared::cluster"
        raise fault(OutOfBounds, memory.m, text, lanes[0][lane], lanes[1][lane])


# ---- fences


@handles("membar")
def _membar(i: Instr, b: Binder) -> Handler:
    only(i, b, "membar", "cta", "gl", "sys")
    return _fence_everything(i, b)


@handles("fence")
def _fence(i: Instr, b: Binder) -> Handler:
    only(i, b, "fence", "sc", "acq_rel", "acquire", "release", *_SCOPES)
    return _fence_everything(i, b)


@handles("fence.acquire.sync_restrict::shared::cluster", "fence.release.sync_restrict::shared::cta")
def _fence_restricted(i: Instr, b: Binder) -> Handler:
    only(i, b, *i.parts[:3], "cluster")
    return _fence_everything(i, b)


def _fence_everything(i: Instr, b: Binder) -> Handler:
    shadow, table, narrow = b.memory.shadow, mbarriers(b.memory), i.has("cta")

    def fence(s: Active) -> None:
        if not narrow:
            table.fence(s.warps)
        if shadow is not None:
            shadow.fence(s.warps, narrow=narrow)

    return fence


@handles("fence.mbarrier_init")
def _fence_init(i: Instr, b: Binder) -> Handler:
    if i.parts[2:] != ("release", "cluster"):
        raise b.unknown()
    table = mbarriers(b.memory)
    return lambda s: table.fence(s.warps, init=True)


@handles("fence.proxy.async")
def _fence_proxy(i: Instr, b: Binder) -> Handler:
    where = i.parts[3:]
    if len(where) > 1 or (where and where[0] not in ("global", *_SHARED)):
        raise b.unknown()
    shadow, table = b.memory.shadow, mbarriers(b.memory)

    def fence(s: Active) -> None:
        table.fence(s.warps)
        if shadow is not None:
            shadow.proxy_fence(s.warps, s.mask[s.warps - s.lo])

    return (lambda s: None) if where == ("global",) else fence


@handles("fence.proxy.alias")
def _fence_alias(i: Instr, b: Binder) -> Handler:
    only(i, b, "fence", "proxy", "alias")
    return lambda s: None


# ---- scheduling


@handles("griddepcontrol")
def _griddepcontrol(i: Instr, b: Binder) -> Handler:
    only(i, b, "griddepcontrol", "wait", "launch_dependents")
    return lambda s: None


@handles("createpolicy")
def _createpolicy(i: Instr, b: Binder) -> Handler:
    put = b.dst(i.args[0], "b64")
    return lambda s: put(s, np.uint64(0))


# ---- bar.red


@handles("bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red")
def _bar_red(i: Instr, b: Binder) -> Handler:
    only(i, b, "bar", "barrier", "cta", "red", "popc", "and", "or", "aligned", "u32", "pred")
    how = next(p for p in ("popc", "and", "or") if i.has(p))
    put = b.dst(i.args[0], "u32" if how == "popc" else "pred")
    ident, pred = b.src(i.args[1], "u32"), b.src(i.args[-1], "pred")
    count = b.src(i.args[2], "u32") if len(i.args) > 3 else None
    table, pc = barriers(b), b.pc

    def run(s: Active) -> int:
        which = one_barrier(b.m, s, ident(s))
        threads = threads_of(b.m, s, which, count)
        table.vote(s, np.broadcast_to(pred(s), s.mask.shape), how, put)
        table.arrive(s, which, threads, pc, True)
        return STOP

    return run


# ---- barrier.cluster

_AWAY, _ARRIVED, _OPEN = 0, 1, 2


class ClusterBarrier:
    """The barrier that each cluster has: threads arrive, then wait."""

    def __init__(self, memory: Memory):
        self.m, self.shadow, self.mbarriers = memory.m, memory.shadow, mbarriers(memory)
        self.memory, m = memory, self.m
        self.state = np.zeros((m.warps, 32), np.uint8)
        self.waiting = np.zeros((m.warps, 32), bool)
        m.exits.append(lambda s: self.settle(np.unique(m.group_of[s.warps])))
        m.reasons.append(self.report)

    def arrive(self, s: Active, release: bool) -> None:
        state = self.state[s.sl]
        self.check(s, state != _AWAY, "arrives at barrier.cluster again without having waited")
        self.m.changed()
        state[s.mask] = _ARRIVED
        groups = np.unique(self.m.group_of[s.warps])
        if release and self.shadow is not None:
            for group in groups:
                of = s.warps[self.m.group_of[s.warps] == group]
                self.shadow.release(("cluster", int(group)), of)
        self.settle(groups)

    def wait(self, s: Active, pc: int, acquire: bool) -> int | None:
        state = self.state[s.sl]
        self.check(s, state == _AWAY, "waits at barrier.cluster and has not arrived")
        ready = s.only(state == _OPEN)
        late = s.only(state == _ARRIVED)
        state[ready.mask] = _AWAY
        self.waiting[s.sl][ready.mask] = False
        self.memory.met[self.memory.cta_of_warp(ready.warps)] = True
        if acquire and self.shadow is not None:
            for group in np.unique(self.m.group_of[ready.warps]):
                of = ready.warps[self.m.group_of[ready.warps] == group]
                self.shadow.acquire(("cluster", int(group)), of)
        if not late.mask.any():
            return None
        self.waiting[s.sl][late.mask] = True
        self.m.block(late, pc, BARRIER)
        self.m.move(ready, pc + 1)
        return STOP

    def check(self, s: Active, bad: np.ndarray, text: str) -> None:
        bad = bad & s.mask
        if bad.any():
            warp, lane = (int(v[0]) for v in np.nonzero(bad))
            raise fault(Fault, self.m, f"a thread {text}", warp + s.lo, lane)

    def settle(self, groups: np.ndarray) -> None:
        m = self.m
        for group in groups:
            mine = m.alive & (m.group_of == group)[:, None]
            came = mine & (self.state == _ARRIVED)
            if not came.any() or (came != mine).any():
                continue
            self.state[came] = _OPEN
            m.blocked[came & self.waiting] = 0
            m.touch()
            self.mbarriers.cluster_met(int(group))
            if self.shadow is not None:
                self.shadow.flip(("cluster", int(group)))

    def report(self) -> str | None:
        if not self.waiting.any():
            return None
        came = int((self.m.alive & (self.state == _ARRIVED)).sum())
        return f"barrier.cluster: {came} of {int(self.m.alive.sum())} threads came"


@handles("barrier.cluster.arrive", "barrier.cluster.wait")
def _barrier_cluster(i: Instr, b: Binder) -> Handler:
    arrives, pc, memory = i.parts[2] == "arrive", b.pc, b.memory
    strong = ("release", "relaxed") if arrives else ("acquire",)
    only(i, b, "barrier", "cluster", "arrive", "wait", "aligned", *strong)
    if not hasattr(memory, "cluster_barrier"):
        memory.cluster_barrier = ClusterBarrier(memory)  # type: ignore[attr-defined]
    barrier: ClusterBarrier = memory.cluster_barrier  # type: ignore[attr-defined]
    if not arrives:
        return lambda s: barrier.wait(s, pc, acquire=True)
    release, table = not i.has("relaxed"), mbarriers(memory)

    def arrive(s: Active) -> None:
        if release:
            table.fence(s.warps)
        barrier.arrive(s, release)

    return arrive


# ---- mbarrier


_MBARRIER = ("mbarrier", "b64", *_SHARED)


def _amount(b: Binder, operand: Operand | None) -> Callable[[Active], np.ndarray]:
    """Counts [k], 1 where there is no operand."""
    get = b.gather(b.src(operand if operand is not None else Imm(1), "u32"))
    return lambda s: get(s).astype(np.int64)


@handles("mbarrier.init", "mbarrier.inval")
def _mbarrier_init(i: Instr, b: Binder) -> Handler:
    only(i, b, *_MBARRIER[:-1], "init", "inval")
    table, address = mbarriers(b.memory), shared_address(i, b, i.args[0])
    if i.parts[1] == "inval":
        return lambda s: table.inval(table.known(address(s), s.lanes), s.lanes)
    count = _amount(b, i.args[1])
    return lambda s: table.init(table.cells(address(s), s.lanes), count(s), s.lanes)


@handles("mbarrier.expect_tx", "mbarrier.complete_tx")
def _mbarrier_tx(i: Instr, b: Binder) -> Handler:
    only(i, b, *_MBARRIER, "expect_tx", "complete_tx", "relaxed", "cta", "cluster")
    table, address = mbarriers(b.memory), shared_address(i, b, i.args[0])
    bytes_ = _amount(b, i.args[1])
    if i.parts[1] == "expect_tx":
        return lambda s: table.expect(table.known(address(s), s.lanes), bytes_(s), s.lanes)

    def complete(s: Active) -> None:
        cells = table.known(address(s), s.lanes)
        for cell, count, warp, lane in zip(cells, bytes_(s), *s.lanes, strict=True):
            table.complete(int(cell), int(count), int(warp), int(lane))

    return complete


@handles("mbarrier.arrive", "mbarrier.arrive_drop")
def _mbarrier_arrive(i: Instr, b: Binder) -> Handler:
    only(i, b, *_MBARRIER, "arrive", "arrive_drop", "expect_tx", "noComplete", "release",
         "relaxed", "cta", "cluster")  # fmt: skip
    remote, expects = i.has("shared::cluster"), i.has("expect_tx")
    if remote and not isinstance(i.args[0], Sink):
        raise b.unknown("an arrive at another CTA's mbarrier gives no state")
    table, address = mbarriers(b.memory), shared_address(i, b, i.args[1])
    put = b.scatter(i.args[0], "b64")
    amount = _amount(b, i.args[2] if len(i.args) > 2 else None)
    how = {
        "drop": i.parts[1] == "arrive_drop",
        "release": not i.has("relaxed"),
        "complete": not i.has("noComplete"),
    }

    def arrive(s: Active) -> None:
        cells, given = table.known(address(s), s.lanes), amount(s)
        ones, none = np.ones(len(cells), np.int64), np.zeros(len(cells), np.int64)
        count, bytes_ = (ones, given) if expects else (given, none)
        put(s, table.arrive(cells, count, bytes_, s.lanes, **how))

    return arrive


@handles("mbarrier.test_wait", "mbarrier.try_wait")
def _mbarrier_wait(i: Instr, b: Binder) -> Handler:
    only(i, b, *_MBARRIER[:-1], "test_wait", "try_wait", "parity", "acquire", "relaxed", "cta",
         "cluster")  # fmt: skip
    table, address, pc = mbarriers(b.memory), shared_address(i, b, i.args[1]), b.pc
    put = b.scatter(i.args[0], "pred")
    parity = i.has("parity")
    which = b.gather(b.src(i.args[2], "u32" if parity else "b64"))
    if len(i.args) > 3 and i.parts[1] == "test_wait":
        raise b.unknown("test_wait has no time limit")
    acquires = not i.has("relaxed")
    # In order, a lane that asks again and again would be the only one ever to run.
    blocks = i.parts[1] == "try_wait" or not b.m.shuffled

    def wait(s: Active) -> int | None:
        cells = table.known(address(s), s.lanes)
        done = (table.flipped if parity else table.passed)(cells, which(s), s.lanes)
        if acquires and done.any():
            table.acquire(cells[done], s.lanes[0][done])
        if not blocks or done.all():
            put(s, done)
            return None
        go = table.wait(s, cells, done, pc)
        put(go, done[go.mask[s.mask]])
        b.m.move(go, pc + 1)
        return STOP

    return wait


@handles("mbarrier.pending_count")
def _pending_count(i: Instr, b: Binder) -> Handler:
    only(i, b, "mbarrier", "pending_count", "b64")
    put, state = b.dst(i.args[0], "u32"), b.src(i.args[1], "b64")
    return lambda s: put(s, (np.asarray(state(s)) & np.uint64(LIMIT)).astype(np.uint32))


# ---- addresses of a cluster


@handles("mapa")
def _mapa(i: Instr, b: Binder) -> Handler:
    only(i, b, "mapa", "shared::cluster", "u32", "u64")
    type_ = i.parts[-1]
    generic = not i.has("shared::cluster")
    put, address = b.scatter(i.args[0], type_), b.gather(b.src(i.args[1], type_))
    rank = b.gather(b.src(i.args[2], "u32"))
    if generic and type_ == "u32":
        raise b.unknown("a generic address has 64 bits")

    def mapped(s: Active) -> None:
        at, to = address(s).astype(np.uint64), rank(s).astype(np.uint64)
        bad = to >= b.m.shape.cluster_size
        if bad.any():
            lane = int(np.argmax(bad))
            text = f"CTA {to[lane]} of a cluster of {b.m.shape.cluster_size}"
            raise fault(Fault, b.m, text, s.lanes[0][lane], s.lanes[1][lane])
        at = _from_generic(b, at, s) if generic else at
        at = (at & np.uint64((1 << RANK) - 1)) | (to + np.uint64(1)) << np.uint64(RANK)
        put(s, (at + np.uint64(SHARED) if generic else at).astype(f"u{WIDTH[type_]}"))

    return mapped


@handles("getctarank")
def _getctarank(i: Instr, b: Binder) -> Handler:
    only(i, b, "getctarank", "shared::cluster", "u32", "u64")
    generic = not i.has("shared::cluster")
    put, address = b.scatter(i.args[0], "u32"), b.gather(b.src(i.args[1], i.parts[-1]))

    def rank(s: Active) -> None:
        at = address(s).astype(np.uint64)
        at = _from_generic(b, at, s) if generic else at
        named = at.astype(np.int64) >> RANK
        own = b.memory.rank[s.lanes[0]]
        put(s, np.where(named == 0, own, named - 1).astype(np.uint32))

    return rank


def is_predicate(operand: Operand) -> bool:
    return isinstance(operand, Reg) and operand.type == "pred"
