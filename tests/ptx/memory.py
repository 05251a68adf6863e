"""The spaces of memory. Every access is checked: bounds, alignment, and in shared memory that what
is read was written.

Addresses are numbers of our own. A generic address tells its space by its window.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.errors import BadLaunch, Fault, Misaligned, OutOfBounds, Race, Uninitialised
from tests.ptx.machine import Machine, fault

if TYPE_CHECKING:
    from tests.ptx.counters import Counters
    from tests.ptx.parse import Instr
    from tests.ptx.races import Shadow
    from tests.ptx.undefined_data import Bits

GLOBAL = 0x10_0000_0000
SHARED = 0x7000_0000_0000
LOCAL = 0x7100_0000_0000
PARAM = 0x7200_0000_0000
_END = 0x7300_0000_0000
WINDOW = {"global": 0, "shared": SHARED, "local": LOCAL, "param": PARAM, "const": 0}
RANK = 24  # bit of a shared address from which on stands the CTA's rank + 1; 0 is one's own CTA
# Bytes between two allocations, more than 32-bit indices of 16-byte elements reach; the rest is
# drawn, so that a wild address that hits a tensor with one seed misses it with another.
_GUARD = 1 << 36
_DRAWN = 1 << 35
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Written:
    """Bytes that one instruction wrote: [at, at + size) of `raw` for each of its lanes [k]."""

    raw: np.ndarray  # Memory.shared, or an allocation's bytes
    at: np.ndarray
    size: int
    lanes: tuple
    instr: Instr


@dataclass
class Allocation:
    """A tensor in global memory. `valid` marks its bytes where it has holes."""

    name: str
    base: int
    bytes: np.ndarray  # padded in front to 256 bytes' alignment and behind to 16
    skew: int
    size: int
    valid: np.ndarray | None
    writable: bool
    origin: np.ndarray  # the bytes as the launch found them
    loaded: int = 0
    stored: int = 0

    def away(self, address: int) -> int:
        """Bytes between an address and the tensor."""
        return max(self.base - address, address - self.base - self.size, 0)


_NOTHING = Allocation("nothing", 0, np.zeros(0, np.uint8), 0, 0, None, False, np.zeros(0, np.uint8))
_NEAR = 1 << 20  # bytes up to which an address is told by the tensor beside it


@dataclass
class Global:
    """All allocations, in the order of their addresses. seed: of the gaps between them."""

    seed: int | None = None
    allocations: list[Allocation] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = None if self.seed is None else np.random.default_rng(self.seed)

    def add(
        self,
        name: str,
        data: np.ndarray,
        *,
        skew: int = 0,
        valid: np.ndarray | None = None,
        writable: bool = True,
    ) -> Allocation:
        """Puts bytes [n] u8 into memory at an address that is `skew` modulo 256."""
        if data.dtype != np.uint8 or data.ndim != 1:
            raise BadLaunch(f"{name}: global memory is given as bytes [n] u8")
        held = np.zeros((skew + len(data) + 15) // 16 * 16 + 16, np.uint8)
        held[skew : skew + len(data)] = data
        if valid is not None:
            whole = np.zeros(len(held), bool)
            whole[skew : skew + len(data)] = valid
            valid = whole
        return self.place(name, held, skew, data, valid, writable)

    def place(
        self,
        name: str,
        held: np.ndarray,
        skew: int,
        data: np.ndarray,
        valid: np.ndarray | None,
        writable: bool = True,
    ) -> Allocation:
        """Gives an address to the bytes of `held` from `skew` on, as many as `data` has, which is
        what they are. Several may share `held`."""
        last = self.allocations[-1] if self.allocations else None
        base = GLOBAL if last is None else last.base + last.size + _GUARD
        if self.rng is not None:
            base += int(self.rng.integers(_DRAWN))
        base = (base + 255) // 256 * 256 + skew % 256
        if base + len(data) > SHARED:
            raise BadLaunch(f"{name}: there are too many tensors for the addresses of the executor")
        made = Allocation(name, base, held, skew, len(data), valid, writable, data)
        self.allocations.append(made)
        self.bases.append(base)
        return made

    def of(self, address: int, size: int) -> Allocation | None:
        """The allocation that [address, address + size) lies in."""
        at = bisect.bisect_right(self.bases, address) - 1
        if at < 0:
            return None
        found = self.allocations[at]
        return found if address + size <= found.base + found.size else None

    def split(self, address: np.ndarray, size: int) -> list[tuple[Allocation, np.ndarray | None]]:
        """Allocations with the indices of the accesses to each; None for all. Bounds unchecked."""
        low, high = int(address.min()), int(address.max())
        found = self.of(low, size)
        if found is not None and high + size <= found.base + found.size:
            return [(found, None)]
        if not self.allocations:
            return [(_NOTHING, None)]
        which = np.searchsorted(np.asarray(self.bases, np.uint64), address, side="right") - 1
        return [
            (self.allocations[max(int(i), 0)], np.nonzero(which == i)[0]) for i in np.unique(which)
        ]

    def describe(self, address: int) -> str:
        """Where an address is that no access may have; the nearest tensor counts."""
        if not self.allocations:
            return f"the address {address:#x}, and there are no tensors"
        at = bisect.bisect_right(self.bases, address) - 1
        near = min(self.allocations[max(at, 0) : at + 2], key=lambda a: a.away(address))
        if near.away(address) > _NEAR:
            return f"the address {address:#x}, which lies in no tensor, nor near one"
        return f"{address - near.base} bytes into {near.name}, which has {near.size}"


class Memory:
    """What one machine sees: global memory and its own shared, local and parameter spaces."""

    def __init__(
        self,
        machine: Machine,
        global_: Global,
        params: bytes,
        shared_size: int,
        local_size: int,
    ):
        self.m, self.globals = machine, global_
        self.param = np.frombuffer(params.ljust(-(-len(params) // 16) * 16 + 16, b"\0"), np.uint8)
        self.param_size = len(params)
        self.shared_size = shared_size
        self.row = (shared_size + 15) // 16 * 16 + 16
        ctas = machine.n * machine.shape.cluster_size
        self.shared = np.full(ctas * self.row, 0xFF, np.uint8)
        self.written = np.zeros(ctas * self.row, bool)
        self.local_row = (local_size + 15) // 16 * 16
        self.local = np.full(machine.warps * 32 * self.local_row, 0xFF, np.uint8)
        self.local_size = local_size
        self.group, self.rank = machine.group_of, machine.rank_of
        # CTAs that have passed a barrier.cluster, and so know that the others run.
        self.met = np.zeros(ctas, bool)
        self.counters: Counters | None = None
        self.shadow: Shadow | None = None  # None: accesses are not held against each other
        self.opaque: np.ndarray | None = None  # bytes of `shared` that are in live mbarriers
        # Of each 16 bytes of `shared`; None where nothing asks for it.
        self.swizzles: np.ndarray | None = None
        self.bits: Bits | None = None  # what is undefined of it, where anything can be
        self.observers: list[Callable[[Written], None]] = []  # of global and shared memory

    # ---- shared addresses

    def flat(self, address: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """Index into `shared` of addresses [k] in the shared window, used by warps [k]."""
        address = address.astype(np.int64)
        named = address >> RANK
        rank = np.where(named == 0, self.rank[warp], named - 1)
        return (self.group[warp] * self.m.shape.cluster_size + rank) * self.row + (
            address & ((1 << RANK) - 1)
        )

    def cta_of_warp(self, warp: np.ndarray) -> np.ndarray:
        """The number of the warps' CTA: `shared` holds them in this order."""
        return self.group[warp] * self.m.shape.cluster_size + self.rank[warp]

    def shared_index(self, address: np.ndarray, size: int, lanes: tuple, what: str) -> np.ndarray:
        """Checked indices into `shared` of what is no load or store."""
        self.aligned(address, size, lanes, what)
        self.check_shared(address, size, lanes, what)
        return self.flat(address, lanes[0])

    def moved(self, store: bool, space: str, size: int) -> None:
        """An engine moved bytes."""
        if store:
            self.m.changed()
        if self.counters is not None:
            self.counters.moved(store, space, size)

    def wrote(
        self, raw: np.ndarray, at: np.ndarray, size: int, lanes: tuple, instr: Instr | None = None
    ) -> None:
        """Tells the observers. instr: an engine's; else it is the one in hand."""
        if self.observers:
            instr = self.m.kernel.code[self.m.current] if instr is None else instr
            written = Written(raw, at, size, lanes, instr)
            for tell in self.observers:
                tell(written)

    def cta_alive(self, cta: int) -> bool:
        group, rank = divmod(cta, self.m.shape.cluster_size)
        return bool(self.m.alive[(self.group == group) & (self.rank == rank)].any())

    def check_shared(self, address: np.ndarray, size: int, s: tuple, what: str) -> None:
        offset = address.astype(np.int64)
        rank, offset = offset >> RANK, offset & ((1 << RANK) - 1)
        bad = (offset + size > self.shared_size) | (rank > self.m.shape.cluster_size) | (rank < 0)
        if bad.any():
            at = int(np.argmax(bad))
            raise fault(
                OutOfBounds, self.m,
                f"{what} of {size} bytes at {offset[at]} of shared memory, which has "
                f"{self.shared_size}", s[0][at], s[1][at],
            )  # fmt: skip
        if rank.any():
            self._check_others(rank, s)

    def _check_others(self, rank: np.ndarray, s: tuple) -> None:
        """CTAs whose shared memory others access have begun and not ended."""
        size = self.m.shape.cluster_size
        ctas, own = self.group[s[0]] * size + rank - 1, self.cta_of_warp(s[0])
        other = (rank > 0) & (ctas != own)
        early = other & ~self.met[own]
        if early.any():
            at = int(np.argmax(early))
            text = (
                f"shared memory of CTA {rank[at] - 1} of the cluster, which may not have begun: no "
                "barrier.cluster came before"
            )
            raise fault(Fault, self.m, text, s[0][at], s[1][at])
        for cta in np.unique(ctas[other]):
            if not self.cta_alive(int(cta)):
                at = int(np.argmax((ctas == cta) & other))
                text = f"shared memory of CTA {cta % size} of the cluster, which has exited"
                raise fault(Fault, self.m, text, s[0][at], s[1][at])

    # ---- access by lanes: `address` [k], `lanes` (warp [k], lane [k])

    def load(
        self,
        space: str,
        address: np.ndarray,
        lanes: tuple,
        width: int,
        count: int,
        *,
        counted: bool = False,
    ) -> list:
        """`count` values of `width` bytes each from every address. counted: the caller has."""
        if not len(address):
            return [np.zeros(0, _UINT[width])] * count
        if space == "generic":
            return self._generic_load(address, lanes, width, count)
        self.aligned(address, width * count, lanes, f"ld.{space}")
        if not counted:
            self.count(False, space, lanes, address, width * count)
        if space in ("global", "const"):
            return self._load_global(address, lanes, width, count)
        base, at = self._place(space, address, lanes, width * count, "a load")
        if space == "shared":
            self.read_shared(at, width * count, lanes)
        index = at // width
        view = base.view(_UINT[width])
        return [view[index + i] for i in range(count)]

    def count(self, store: bool, space: str, lanes: tuple, address: np.ndarray, size: int) -> None:
        """Counts an access of `size` bytes by each lane."""
        if self.counters is not None:
            self.counters.access(store, space, lanes, address, size)

    def store(
        self, space: str, address: np.ndarray, lanes: tuple, values: list, *, counted: bool = False
    ) -> None:
        """values: `count` arrays [k] of one width. counted: the caller has."""
        if not len(address):
            return
        width, count = values[0].dtype.itemsize, len(values)
        if space == "generic":
            for inside, where in self._spaces(address):
                some = [v[where] for v in values]
                picked = (lanes[0][where], lanes[1][where])
                self.store(inside, address[where] - np.uint64(WINDOW[inside]), picked, some)
            return
        self.aligned(address, width * count, lanes, f"st.{space}")
        if not counted:
            self.count(True, space, lanes, address, width * count)
        if space == "global":
            self._store_global(address, lanes, values)
            return
        if space == "param":
            text = "a store to a parameter of the kernel, which is read only"
            raise fault(OutOfBounds, self.m, text, lanes[0][0], lanes[1][0])
        base, at = self._place(space, address, lanes, width * count, "a store")
        index = at // width
        view = base.view(_UINT[width])
        if space == "shared":
            self.write_shared(
                at, width * count, lanes,
                lambda: np.all([view[index + i] == v for i, v in enumerate(values)], axis=0),
            )  # fmt: skip
        for i, value in enumerate(values):
            self._note(view, index + i, value)
            view[index + i] = value
            if space == "shared" and self.shadow is not None:
                self._undisputed(view[index + i] == value, address, lanes)
        if space == "shared":
            self.wrote(base, at, width * count, lanes)

    def _note(self, view: np.ndarray, index: np.ndarray, new: np.ndarray) -> None:
        """Lanes are about to write there."""
        if not np.array_equal(view[index], new):
            self.m.changed()

    def _undisputed(self, kept: np.ndarray, address: np.ndarray, lanes: tuple) -> None:
        if not kept.all():
            at = int(np.argmin(kept))
            raise fault(
                Race, self.m,
                f"two lanes store different values at {int(address[at]):#x} of shared memory",
                lanes[0][at], lanes[1][at],
            )  # fmt: skip

    def places(
        self, space: str, address: np.ndarray, lanes: tuple, size: int, *, returns: bool = True
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """What lanes are about to read and write at once: (space, its bytes, indices in them [j],
        which of the lanes [j]). returns: the lanes get what was there before."""
        if not len(address):
            return
        if space == "generic":
            for inside, some in self._spaces(address):
                picked = (lanes[0][some], lanes[1][some])
                at = address[some] - np.uint64(WINDOW[inside])
                for name, raw, index, which in self.places(
                    inside, at, picked, size, returns=returns
                ):
                    yield name, raw, index, some[which]
            return
        self.aligned(address, size, lanes, f"atom.{space}")
        self.count(True, space, lanes, address, size)
        if returns:
            self.moved(False, space, size * len(address))
        if space == "global":
            for where, some in self.globals.split(address, size):
                index = self._offset(where, some, address, size, lanes, "store")
                which = np.arange(len(address)) if some is None else some
                where.loaded += size * len(which) if returns else 0
                yield space, where.bytes, index, which
        elif space == "shared":
            raw, index = self._place(space, address, lanes, size, "an atom")
            self._initialised(index, size, lanes)
            if self.bits is not None:
                self.bits.result(index, (int(lanes[0][0]), int(lanes[1][0])), "an atom")
            self.write_shared(index, size, lanes)
            yield space, raw, index, np.arange(len(address))
        else:
            text = f"an atom in {space} memory"
            raise fault(OutOfBounds, self.m, text, lanes[0][0], lanes[1][0])

    def aligned(self, address: np.ndarray, size: int, lanes: tuple, what: str) -> None:
        bad = (address & np.asarray(size - 1, address.dtype)) != 0
        if bad.any():
            at = int(np.argmax(bad))
            raise fault(
                Misaligned, self.m,
                f"{what}: address {int(address[at]):#x} is no multiple of {size}",
                lanes[0][at], lanes[1][at],
            )  # fmt: skip

    def _generic_load(self, address: np.ndarray, lanes: tuple, width: int, count: int) -> list:
        out = [np.zeros(len(address), _UINT[width]) for _ in range(count)]
        for inside, where in self._spaces(address):
            picked = (lanes[0][where], lanes[1][where])
            got = self.load(
                inside, address[where] - np.uint64(WINDOW[inside]), picked, width, count
            )
            for o, g in zip(out, got, strict=True):
                o[where] = g
        return out

    def _spaces(self, address: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The spaces of generic addresses, each with the indices of its accesses."""
        space = np.digitize(address.astype(np.int64), [SHARED, LOCAL, PARAM, _END])
        names = ("global", "shared", "local", "param", "global")
        return [(names[i], np.nonzero(space == i)[0]) for i in np.unique(space)]

    def _place(
        self, space: str, address: np.ndarray, lanes: tuple, size: int, what: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """The bytes behind a space and the index of each access in them."""
        if space == "shared":
            self.check_shared(address, size, lanes, what)
            return self.shared, self.flat(address, lanes[0])
        offset = address.astype(np.int64)
        limit = self.param_size if space == "param" else self.local_size
        bad = (offset < 0) | (offset + size > limit)
        if bad.any():
            at = int(np.argmax(bad))
            raise fault(
                OutOfBounds, self.m, f"{what} of {size} bytes at {offset[at]} of {space} memory, "
                f"which has {limit}", lanes[0][at], lanes[1][at],
            )  # fmt: skip
        if space == "param":
            return self.param, offset
        return self.local, (lanes[0] * 32 + lanes[1]) * self.local_row + offset

    # ---- global

    def _load_global(self, address: np.ndarray, lanes: tuple, width: int, count: int) -> list:
        parts = self.globals.split(address, width * count)
        if len(parts) == 1:
            where, offset = (
                parts[0][0],
                self._offset(*parts[0], address, width * count, lanes, "load"),
            )
            view = where.bytes.view(_UINT[width])
            return [view[offset // width + i] for i in range(count)]
        out = [np.zeros(len(address), _UINT[width]) for _ in range(count)]
        for where, index in parts:
            offset = self._offset(where, index, address, width * count, lanes, "load")
            view = where.bytes.view(_UINT[width])
            for i, o in enumerate(out):
                o[index] = view[offset // width + i]
        return out

    def _store_global(self, address: np.ndarray, lanes: tuple, values: list) -> None:
        width = values[0].dtype.itemsize
        for where, index in self.globals.split(address, width * len(values)):
            offset = self._offset(where, index, address, width * len(values), lanes, "store")
            view = where.bytes.view(_UINT[width])
            for i, value in enumerate(values):
                new = value if index is None else value[index]
                self._note(view, offset // width + i, new)
                view[offset // width + i] = new
            who = lanes if index is None else (lanes[0][index], lanes[1][index])
            self.wrote(where.bytes, offset, width * len(values), who)

    def _offset(
        self,
        where: Allocation,
        index: np.ndarray | None,
        address: np.ndarray,
        size: int,
        lanes: tuple,
        what: str,
    ) -> np.ndarray:
        """Checked indices into an allocation's bytes."""
        some = address if index is None else address[index]
        offset = some.astype(np.int64) - where.base
        bad = (offset < 0) | (offset + size > where.size)
        if where.valid is not None and not bad.any():
            for byte in range(size):
                bad |= ~where.valid[offset + where.skew + byte]
        if bad.any():
            at = int(np.argmax(bad))
            lane = at if index is None else int(index[at])
            hole = "" if where.valid is None else " and is not contiguous"
            text = self.globals.describe(int(some[at])) + hole
            raise fault(
                OutOfBounds, self.m, f"a {what} of {size} bytes at {text}",
                lanes[0][lane], lanes[1][lane],
            )  # fmt: skip
        if what == "load":
            where.loaded += size * len(offset)
        else:
            if not where.writable:
                raise fault(
                    OutOfBounds, self.m, f"a {what} to {where.name}, which is read only",
                    lanes[0][0], lanes[1][0],
                )  # fmt: skip
            where.stored += size * len(offset)
        return offset + where.skew

    # ---- shared: what was written, and who is ordered with whom

    def read_shared(self, at: np.ndarray, size: int, lanes: tuple) -> None:
        """Lanes read [at, at + size) of `shared` by the generic proxy."""
        self._initialised(at, size, lanes)
        if self.shadow is not None:
            self.shadow.read(at, size, lanes)

    def _initialised(self, at: np.ndarray, size: int, lanes: tuple) -> None:
        self.no_mbarrier(at, size, lanes, "a load")
        seen = self.written[at]
        for byte in range(1, size):
            seen = seen & self.written[at + byte]
        if not seen.all():
            lane = int(np.argmin(seen))
            raise fault(
                Uninitialised, self.m,
                f"a load of {size} bytes at {int(at[lane]) % self.row} of shared memory, "
                "where nothing was written", lanes[0][lane], lanes[1][lane],
            )  # fmt: skip

    def write_shared(
        self,
        at: np.ndarray,
        size: int,
        lanes: tuple,
        same: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Lanes write [at, at + size) of `shared` by the generic proxy. same: tells which of them
        write what is there already."""
        self.no_mbarrier(at, size, lanes, "a store")
        if self.shadow is not None:
            self.shadow.write(at, size, lanes, same=same)
        for byte in range(size):
            self.written[at + byte] = True
        self.swizzled(at >> 4, 0)

    def swizzled(self, pieces: np.ndarray, span: int) -> None:
        """These 16-byte pieces of `shared` are now as a tensor copy of this swizzle wrote them; 0:
        of none, or somebody else wrote."""
        if self.swizzles is not None:
            self.swizzles[pieces] = span

    def no_mbarrier(self, at: np.ndarray, size: int, lanes: tuple, what: str) -> None:
        if self.opaque is None:
            return
        hit = self.opaque[at] | self.opaque[at + size - 1]
        if hit.any():
            lane = int(np.argmax(hit))
            raise fault(
                Fault, self.m,
                f"{what} of {size} bytes at {int(at[lane]) % self.row} of shared memory, where an "
                "mbarrier lives", lanes[0][lane], lanes[1][lane],
            )  # fmt: skip
