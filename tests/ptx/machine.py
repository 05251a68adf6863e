"""The state of a launch, and who runs next.

All warps of some clusters run at once: a register is one array [warps, 32]. The warps are ordered
by their place in the cluster first and by cluster second, so that one warp of every cluster, or a
warpgroup of every cluster, is a slice. A step takes a slice of warps whose lanes stand at the same
instruction and runs them together until they part, block or are preempted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.errors import DEFECTS, BadLaunch, Deadlock, Fault, PtxError, TooLong, broken
from tests.ptx.parse import Instr, Kernel
from tests.ptx.spin import Spins, longest_loop

LANES = 32
STOP = -1  # what a handler returns that has moved its lanes itself
_FAR = np.int32(2**31 - 1)
_EVERY = np.uint32(0xFFFFFFFF)  # a membermask
_TICK = 64  # cycles, or ns, between two looks at a clock
_TURN = 10  # jumps in a turn, where it is not random
# Why lanes are blocked.
FREE, BARRIER, PHASE, REGISTERS = 0, 1, 2, 3


class Active:
    """The lanes that run now: warps [lo, hi) under `mask` [warps, 32]."""

    __slots__ = ("_lanes", "full", "hi", "lo", "mask", "sl")

    def __init__(self, lo: int, hi: int, mask: np.ndarray):
        self.lo, self.hi, self.mask = lo, hi, mask
        self.sl = slice(lo, hi)
        self.full = bool(mask.all())
        self._lanes: tuple[np.ndarray, np.ndarray] | None = None

    def only(self, mask: np.ndarray) -> Active:
        return Active(self.lo, self.hi, self.mask & mask)

    @property
    def lanes(self) -> tuple[np.ndarray, np.ndarray]:
        """(warp, lane) of each active lane, the warp counted in the whole machine."""
        if self._lanes is None:
            warp, lane = np.nonzero(self.mask)
            self._lanes = warp + self.lo, lane
        return self._lanes

    @property
    def warps(self) -> np.ndarray:
        """The warps with an active lane."""
        return np.nonzero(self.mask.any(axis=1))[0] + self.lo


@dataclass(frozen=True)
class Shape:
    """The launch: everything in units of CTAs, but `block` in threads and `shared` in bytes."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared: int = 0  # dynamic shared memory

    @property
    def cluster_size(self) -> int:
        return self.cluster[0] * self.cluster[1] * self.cluster[2]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def warps(self) -> int:
        """Warps of a CTA."""
        return -(-self.threads // LANES)

    @property
    def clusters(self) -> tuple[int, int, int]:
        return tuple(g // c for g, c in zip(self.grid, self.cluster, strict=True))  # type: ignore

    @property
    def count(self) -> int:
        x, y, z = self.clusters
        return x * y * z


class Machine:
    """Some clusters of a launch, all in flight."""

    def __init__(
        self,
        kernel: Kernel,
        shape: Shape,
        clusters: range,
        *,
        seed: int | None = 0,
        budget: int = 200_000_000,
    ):
        self.kernel, self.shape, self.clusters = kernel, shape, clusters
        self.n = len(clusters)
        # wgmma's warpgroups begin at multiples of four in a CTA.
        whole = 4 if any(i.parts[0] == "wgmma" for i in kernel.code) else 1
        self.slots = -(-shape.warps // whole) * whole  # of warps in a CTA; the last may be empty
        self.positions = shape.cluster_size * self.slots
        self.warps = self.positions * self.n
        self.rng = np.random.default_rng(seed)
        self.shuffled = seed is not None
        self.budget = self.whole_budget = budget
        self.code: list[Callable[[Active], int | None]] = []
        self.registers: dict[str, np.ndarray] = {}
        self.issued = np.zeros(len(kernel.code) + 2, np.int64)
        self.pc = np.zeros((self.warps, LANES), np.int32)
        self.alive = np.broadcast_to(self._exists(), (self.warps, LANES)).copy()
        self.blocked = np.zeros((self.warps, LANES), np.uint8)
        self.parked = np.zeros((self.warps, LANES), bool)
        self.any_parked = False
        self.leaders = set(kernel.labels.values())
        self.at = np.zeros(self.warps, np.int32)  # where the first ready lane of each warp stands
        self.stale = (0, self.warps)  # warps whose `at` is not known
        self.current = 0  # the instruction in hand, for who keeps notes
        self.pending: list[
            Callable[[], None]
        ] = []  # what the asynchronous engines still have to do
        self.reasons: list[Callable[[], str | None]] = []  # for a deadlock's report
        self.idle: list[Callable[[], bool]] = []  # asked before a deadlock is: did that wake any?
        # Looks at an instruction before it runs, and tells about it behind.
        self.trace: Callable[[Active, int], Callable[[], None]] | None = None
        self.exits: list[Callable[[Active], None]] = []
        self.looks = 0  # at the clock
        self.spins = Spins(self)
        self.changed = self.spins.changed  # to be told of all that other warps may see

    # ---- who is who

    def _exists(self) -> np.ndarray:
        """Lanes that are threads: the last warp of a CTA may be short."""
        thread = np.arange(self.slots * LANES).reshape(-1, LANES) < self.shape.threads
        return np.repeat(np.tile(thread, (self.shape.cluster_size, 1)), self.n, axis=0)

    @property
    def position_of(self) -> np.ndarray:
        return np.arange(self.warps) // self.n

    @property
    def group_of(self) -> np.ndarray:
        """Which of the machine's clusters each warp belongs to."""
        return np.arange(self.warps) % self.n

    @property
    def rank_of(self) -> np.ndarray:
        """The CTA's rank in its cluster."""
        return self.position_of // self.slots

    @property
    def warp_of(self) -> np.ndarray:
        """The warp's number in its CTA."""
        return self.position_of % self.slots

    def cta_of(self) -> np.ndarray:
        """[warps, 3] x, y, z of each warp's CTA in the grid."""
        cluster = np.asarray(self.clusters)[self.group_of]
        nx, ny, _ = self.shape.clusters
        at = np.stack([cluster % nx, cluster // nx % ny, cluster // (nx * ny)], axis=1)
        return at * np.asarray(self.shape.cluster) + self.cta_in_cluster()

    def cta_in_cluster(self) -> np.ndarray:
        rank = self.rank_of
        cx, cy, _ = self.shape.cluster
        return np.stack([rank % cx, rank // cx % cy, rank // (cx * cy)], axis=1)

    def who(self, warp: int) -> str:
        """A warp for a person to read."""
        x, y, z = self.cta_of()[warp]
        return f"warp {self.warp_of[warp]} of CTA ({x}, {y}, {z})"

    # ---- running

    def run(self) -> None:
        with np.errstate(all="ignore"):
            while self.alive.any():
                if self.pending and (self.shuffled and self.rng.random() < 0.3):
                    self.complete_one()
                active = self._choose()
                if active is not None:
                    self._run(*active)
                    self.spins.turn(active[0])
                elif self.pending:
                    self.complete_one()
                elif (self.any_parked and self._unpark_all()) or any(
                    again() for again in self.idle
                ):
                    continue
                else:
                    raise self._deadlock()
            while self.pending:
                self.complete_one()

    def complete_one(self) -> None:
        """One asynchronous operation ends: a random one, the engines promise no order."""
        self.changed()
        index = int(self.rng.integers(len(self.pending))) if self.shuffled else 0
        self.pending.pop(index)()

    def clock(self) -> int:
        """A time that goes on from one look at it to the next."""
        self.looks += 1
        return self.looks * _TICK

    def touch(self, lo: int = 0, hi: int | None = None) -> None:
        """Lanes of these warps moved, or may go on, or no longer."""
        hi = self.warps if hi is None else hi
        self.stale = (min(lo, self.stale[0]), max(hi, self.stale[1]))

    def _ready(self, lo: int, hi: int) -> np.ndarray:
        ready = self.alive[lo:hi] & (self.blocked[lo:hi] == FREE)
        if self.spins.any:
            ready &= ~self.spins.held[lo:hi]
        return ready & ~self.parked[lo:hi] if self.any_parked else ready

    def _choose(self) -> tuple[Active, int, int] | None:
        """Lanes that go on together, where they stand, and where the others of their warps do."""
        lo, hi = self.stale
        if lo < hi:
            self.at[lo:hi] = np.where(self._ready(lo, hi), self.pc[lo:hi], _FAR).min(axis=1)
            self.stale = (self.warps, 0)
        at = self.at.reshape(self.positions, self.n)
        able = at != _FAR
        places = np.nonzero(able.any(axis=1))[0]
        if not len(places):
            return None
        place = int(self.rng.choice(places)) if self.shuffled else int(places[0])
        groups = np.nonzero(able[place])[0]
        pc = int(at[place, groups[0]] if not self.shuffled else at[place, self.rng.choice(groups)])
        first, last = self._extent(place, (at == pc).any(axis=1))
        lo, hi = first * self.n, last * self.n
        ready = self._ready(lo, hi) & (self.at[lo:hi] == pc)[:, None]
        mask = ready & (self.pc[lo:hi] == pc)
        rest = ready & ~mask
        limit = int(self.pc[lo:hi][rest].min()) if rest.any() else int(_FAR)
        return Active(lo, hi, mask), pc, limit

    def _extent(self, place: int, same: np.ndarray) -> tuple[int, int]:
        """How many of the warps that stand there go on together: all, or a random stretch."""
        first = last = place
        most = len(same)
        if self.shuffled:
            most = int(self.rng.choice((1, 2, 4, len(same))))
            if most == 4:  # as warpgroups are
                base = place // 4 * 4
                return base, min(base + 4, len(same))
        while first > 0 and same[first - 1] and last - first + 1 < most:
            first -= 1
        while last + 1 < len(same) and same[last + 1] and last - first + 1 < most:
            last += 1
        return first, last + 1

    def _run(self, s: Active, pc: int, limit: int) -> None:
        """Runs lanes from `pc` until they stop, or reach `limit`, or their turn is over."""
        start, warps = pc, len(s.warps)
        quantum = int(self.rng.geometric(0.1)) if self.shuffled else _TURN
        code, leaders = self.code, self.leaders
        try:
            while True:
                self.current = pc
                tell = None if self.trace is None else self.trace(s, pc)
                after = code[pc](s)
                if tell is not None:
                    tell()
                if after is None:
                    pc += 1
                    if pc >= limit and pc in leaders:
                        self.pc[s.sl][s.mask] = pc
                        break
                    continue
                self._count(start, pc + 1, warps)
                start = pc = after
                if after == STOP:
                    return
                quantum -= 1
                if quantum <= 0 or pc >= limit:
                    self.pc[s.sl][s.mask] = pc
                    break
            self._count(start, pc, warps)
        except PtxError as error:
            if error.instr is None:
                raise type(error)(str(error), self.kernel.code[pc]) from None
            raise
        except DEFECTS as error:
            raise broken(error, self.kernel.code[pc]) from error
        finally:
            wide = self.n * 4  # a gate may have moved the whole warpgroup
            self.touch(s.lo // wide * wide, min(-(-s.hi // wide) * wide, self.warps))
            if self.any_parked:
                self._unpark(s)

    def _count(self, start: int, end: int, warps: int) -> None:
        if start < end:
            self.issued[start] += warps
            self.issued[end] -= warps
            self.budget -= warps * (end - start)
            if self.budget < 0:
                loop = longest_loop(self.kernel, self.executed())
                most = f"its budget of {self.whole_budget} instructions (option budget)"
                raise TooLong(f"the launch did not end within {most}{loop}")

    def executed(self) -> np.ndarray:
        """How many warps issued each instruction."""
        return np.cumsum(self.issued)[: len(self.kernel.code)]

    # ---- lanes that wait

    def move(self, s: Active, pc: int) -> None:
        self.pc[s.sl][s.mask] = pc

    def block(self, s: Active, pc: int, why: int) -> None:
        """The lanes wait at `pc` until `wake`."""
        self.changed()
        self.pc[s.sl][s.mask] = pc
        self.blocked[s.sl][s.mask] = why

    def wake(self, why: int, groups: np.ndarray | slice = slice(None)) -> None:
        """All that wait for this, in these clusters, look again."""
        self.changed()
        shaped = self.blocked.reshape(self.positions, self.n, LANES)
        some = shaped[:, groups]
        some[some == why] = FREE
        shaped[:, groups] = some
        self.touch()

    def park(self, s: Active, pc: int) -> None:
        """The lanes wait at `pc` for others of their warp or warpgroup."""
        self.pc[s.sl][s.mask] = pc
        self.parked[s.sl][s.mask] = True
        self.any_parked = True

    def _unpark(self, s: Active) -> None:
        # Only lanes that moved can be what the parked ones wait for; those that parked themselves
        # in this very turn stay, else two halves of a warp would park each other for ever.
        moved = s.mask & ~self.parked[s.sl]
        if not moved.any():
            return
        wide = self.n * 4
        lo, hi = s.lo // wide * wide, -(-s.hi // wide) * wide
        self.parked[lo:hi] = False
        self.touch(lo, min(hi, self.warps))
        self.any_parked = bool(self.parked.any())

    def _unpark_all(self) -> bool:
        """Looks once more at what is parked; False where nothing moved since the last time."""
        state = hash((self.pc.tobytes(), self.alive.tobytes(), self.blocked.tobytes()))
        if state == getattr(self, "_parked_state", None):
            return False
        self._parked_state = state
        self.parked[:] = False
        self.any_parked = False
        self.touch()
        return True

    def gate(
        self, run: Callable[[Active], int | None], pc: int, wide: int
    ) -> Callable[[Active], int | None]:
        """`run`, for whole warps (`wide` 1) or warpgroups (4) only: others wait until complete."""

        def ready(s: Active) -> Active:
            if wide > 1:  # warps that others wait for don't just go round by themselves
                self.changed()
            return s if s.full and wide == 1 else self._complete(s, pc, wide)

        return self._gated(run, pc, ready)

    def meet(
        self,
        run: Callable[[Active], int | None],
        pc: int,
        named: Callable[[Active], np.ndarray],
    ) -> Callable[[Active], int | None]:
        """`run`, for lanes together with all that their membermask `named` names."""
        return self._gated(run, pc, lambda s: self._met(s, pc, named))

    def _gated(
        self,
        run: Callable[[Active], int | None],
        pc: int,
        ready_of: Callable[[Active], Active],
    ) -> Callable[[Active], int | None]:
        def gated(s: Active) -> int | None:
            ready = ready_of(s)
            if ready is s or (ready.sl == s.sl and (ready.mask == s.mask).all()):
                return run(s)
            late = s.mask & ~ready.mask[s.lo - ready.lo : s.hi - ready.lo]
            if late.any():
                self.park(Active(s.lo, s.hi, late), pc)
            if not ready.mask.any():
                return STOP
            self.parked[ready.sl][ready.mask] = False
            after = run(ready)
            if after != STOP:
                self.move(ready, pc + 1 if after is None else after)
            return STOP

        return gated

    def _met(self, s: Active, pc: int, named: Callable[[Active], np.ndarray]) -> Active:
        """The lanes at `pc`, also parked ones, whose mask names none that still has to come: all
        it names are there with the same mask, or have exited."""
        value = named(s)
        if s.full and (value == _EVERY).all():
            return s
        here = s.mask | (self.parked[s.sl] & (self.pc[s.sl] == pc))
        value = np.broadcast_to(named(Active(s.lo, s.hi, here)), here.shape)
        member = (value[:, :, None] >> np.arange(LANES, dtype=np.uint32) & np.uint32(1)) != 0
        outside = s.mask & ~member.diagonal(axis1=1, axis2=2)
        if outside.any():
            warp, lane = (int(v[0]) for v in np.nonzero(outside))
            text = f"the membermask {value[warp, lane]:#x} does not name the lane itself"
            raise fault(Fault, self, text, warp + s.lo, lane)
        agreed = here[:, None, :] & (value[:, None, :] == value[:, :, None])
        missing = member & self.alive[s.sl][:, None, :] & ~agreed
        return Active(s.lo, s.hi, here & ~missing.any(axis=2))

    def _complete(self, s: Active, pc: int, wide: int) -> Active:
        """The lanes at `pc`, also parked ones, of the warps or warpgroups that are all there."""
        step = self.n * wide
        lo, hi = s.lo // step * step, -(-s.hi // step) * step
        here = self.alive[lo:hi] & (self.pc[lo:hi] == pc) & (self.blocked[lo:hi] == FREE)
        part = slice(s.lo - lo, s.hi - lo)
        here[part] = (here[part] & self.parked[s.sl]) | s.mask
        outside = np.ones(hi - lo, bool)
        outside[part] = False
        here[outside] &= self.parked[lo:hi][outside]
        there = (here == self.alive[lo:hi]).all(axis=1) & here.any(axis=1)
        if wide > 1:
            shaped = there.reshape(-1, wide, self.n)
            there = np.repeat(shaped.all(axis=1)[:, None], wide, axis=1).reshape(-1)
        return Active(lo, hi, here & there[:, None])

    def finish(self, s: Active) -> None:
        """The lanes exit."""
        self.changed()
        self.alive[s.sl][s.mask] = False
        self.touch(s.lo, s.hi)
        for tell in self.exits:
            tell(s)

    # ---- reports

    def _deadlock(self) -> Deadlock:
        lines = []
        for warp in np.nonzero(self.alive.any(axis=1))[0][:8]:
            for pc in np.unique(self.pc[warp][self.alive[warp]])[:2]:
                lanes = np.nonzero(self.alive[warp] & (self.pc[warp] == pc))[0]
                instr = self.kernel.code[pc]
                span = "" if len(lanes) == LANES else f" (lanes {_spans(lanes)})"
                held = self.spins.held[warp][lanes].all()
                does = "goes round and round through" if held else "at"
                lines.append(f"{self.who(warp)}{span} {does} line {instr.line}: {instr.text}")
        why = [text for reason in self.reasons if (text := reason())]
        return Deadlock("nobody can go on: " + "; ".join([*why, *lines]))


def _spans(lanes: np.ndarray) -> str:
    breaks = np.nonzero(np.diff(lanes) != 1)[0]
    starts, ends = [lanes[0], *lanes[breaks + 1]], [*lanes[breaks], lanes[-1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64), "cluster": (8, 8, 8)}
_CLUSTER = 8  # CTAs; 16 only where a launch opts in to what not every Hopper GPU has


def check_shape(kernel: Kernel, shape: Shape, shared_limit: int) -> None:
    """The launch's bounds, as the driver checks them."""
    if (wrong := _misshapen(kernel, shape, shared_limit)) is not None:
        raise BadLaunch(wrong, kernel.place)


def _misshapen(kernel: Kernel, shape: Shape, shared_limit: int) -> str | None:
    for name, limits in _LIMITS.items():
        for axis, value, most in zip("xyz", getattr(shape, name), limits, strict=True):
            if not 1 <= value <= most:
                return f"{name} {getattr(shape, name)}: {axis} is {value}, and takes 1 to {most}"
    threads, ctas = shape.threads, shape.cluster_size
    checks = (
        (threads > 1024, f"block {shape.block} has {threads} threads; a GPU takes 1024"),
        (kernel.block not in (None, shape.block),
         f"block {shape.block}, but the kernel was compiled for {kernel.block}"),
        (threads > (kernel.max_threads or 1024),
         f"block {shape.block}, but .maxntid is {kernel.max_threads}"),
        (ctas > _CLUSTER,
         f"cluster {shape.cluster} has {ctas} CTAs; every Hopper GPU takes {_CLUSTER}"),
        (any(g % c for g, c in zip(shape.grid, shape.cluster, strict=True)),
         f"grid {shape.grid} is no multiple of the cluster {shape.cluster}"),
        (kernel.cluster not in (None, shape.cluster),
         f"cluster {shape.cluster}, but the kernel was compiled for {kernel.cluster}"),
        (shape.shared > shared_limit,
         f"{shape.shared} bytes of shared memory; a CTA has {shared_limit}"),
    )  # fmt: skip
    return next((text for bad, text in checks if bad), None)


def fault(kind: type[Fault], machine: Machine, text: str, warp: int, lane: int) -> Fault:
    """A fault that names the thread."""
    return kind(f"{text}, by lane {lane} of {machine.who(int(warp))}")


Handler = Callable[[Active], "int | None"]
Decode = Callable[[Instr, Any], Handler]
