"""cp.async and cp.async.bulk; the tensor forms are in tma.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.engines import Bulk, Copy, Drain, Fill, Target, bulk, copies, pull, push, span
from tests.ptx.errors import Fault, Misaligned
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.mbarrier import mbarriers
from tests.ptx.memory import RANK, Memory
from tests.ptx.ops import handles
from tests.ptx.ops_atomic import combiner
from tests.ptx.ops_sync import Addresses, is_predicate, only, own_cta, shared_address
from tests.ptx.parse import WIDTH, Imm, Instr, Operand, Vec

COMPLETE = "mbarrier::complete_tx::bytes"
_HINT = "L2::cache_hint"

# ---- cp.async


@handles("cp.async.ca", "cp.async.cg")
def _cp_async(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "ca", "cg", "shared", "shared::cta", "global", _HINT, "L2::64B",
         "L2::128B", "L2::256B")  # fmt: skip
    size = i.args[2].value if isinstance(i.args[2], Imm) else 0
    if size not in (4, 8, 16) or (size != 16 and i.has("cg")):
        raise b.unknown(f"cp.async of {size} bytes")
    target, source = shared_address(i, b, i.args[0], "shared"), b.address(i.args[1], "global")
    wanted = _wanted(i, b, size)
    memory, queue, instr = b.memory, copies(b.memory), i

    def issue(s: Active) -> None:
        index = memory.shared_index(target(s), size, s.lanes, "cp.async")
        memory.no_mbarrier(index, size, s.lanes, "a cp.async")
        from_, bytes_ = source(s), wanted(s)
        memory.aligned(from_, size, s.lanes, "cp.async")
        queue.issue(Copy(memory, instr, s, queue.number[s.sl], from_, bytes_, index, size))

    return issue


def _wanted(i: Instr, b: Binder, size: int) -> Callable[[Active], np.ndarray]:
    """How many bytes each lane reads [k]; the others are zeros."""
    rest = list(i.args[3:])
    if i.has(_HINT):
        rest.pop()
    if len(rest) > 1:
        raise b.unknown()
    if rest and is_predicate(rest[0]):
        ignore = b.gather(b.src(rest[0], "pred"))
        return lambda s: np.where(ignore(s), 0, size)
    get = b.gather(b.src(rest[0] if rest else Imm(size), "u32"))

    def wanted(s: Active) -> np.ndarray:
        bytes_ = get(s).astype(np.int64)
        if (bytes_ > size).any():
            lane = int(np.argmax(bytes_ > size))
            text = f"cp.async reads {bytes_[lane]} bytes for {size}"
            raise fault(Fault, b.m, text, s.lanes[0][lane], s.lanes[1][lane])
        return bytes_

    return wanted


@handles("cp.async.commit_group", "cp.async.wait_group", "cp.async.wait_all")
def _cp_async_group(i: Instr, b: Binder) -> Handler:
    if len(i.parts) != 3:
        raise b.unknown()
    queue = copies(b.memory)
    if i.parts[2] == "commit_group":
        return queue.commit
    keep = _count(i, b) if i.parts[2] == "wait_group" else None
    return lambda s: queue.wait(s, keep)


def _count(i: Instr, b: Binder) -> int:
    if not isinstance(i.args[0], Imm):
        raise b.unknown("the number of groups is no constant")
    return i.args[0].value


@handles("cp.async.mbarrier.arrive")
def _cp_async_arrive(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "mbarrier", "arrive", "noinc", "shared", "shared::cta", "b64")
    table, queue, address = mbarriers(b.memory), copies(b.memory), shared_address(i, b, i.args[0])
    counted, instr = i.has("noinc"), i

    def arrive(s: Active) -> None:
        cells = table.known(address(s), s.lanes)
        if not counted:
            table.more(cells, s.lanes)
        queue.arrive(instr, s, cells)

    return arrive


# ---- cp.async.bulk


@handles("cp.async.bulk.commit_group", "cp.async.bulk.wait_group")
def _bulk_group(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "bulk", "commit_group", "wait_group", "read")
    queue = bulk(b.memory)
    if i.has("commit_group"):
        return queue.commit
    keep, read = _count(i, b), i.has("read")
    return lambda s: queue.wait(s, keep, read=read)


@handles("cp.async.bulk.prefetch.L2")
def _bulk_prefetch(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "bulk", "prefetch", "L2", "global", _HINT)
    address, size, memory = b.address(i.args[0], "global"), _size(b, i.args[1]), b.memory

    def prefetch(s: Active) -> None:
        for at, bytes_, who in zip(address(s), size(s), each(s), strict=True):
            multiple(memory, who, 16, address=int(at), size=int(bytes_))
            span(memory, int(at), int(bytes_), who, store=False)

    return prefetch


def _size(b: Binder, operand: Operand) -> Callable[[Active], np.ndarray]:
    get = b.gather(b.src(operand, "u32"))
    return lambda s: get(s).astype(np.int64)


def each(s: Active) -> Iterator[tuple[int, int]]:
    """(warp, lane) of the active lanes."""
    return zip((int(w) for w in s.lanes[0]), (int(v) for v in s.lanes[1]), strict=True)


def multiple(memory: Memory, who: tuple[int, int], of: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number % of:
            text = f"a bulk copy's {name} {number:#x} is no multiple of {of}"
            raise fault(Misaligned, memory.m, text, *who)


@dataclass
class Form:
    """The operands behind the addresses, and what the words say of them."""

    mask: Operand | None = None  # of CTAs

    @classmethod
    def of(cls, i: Instr, b: Binder, rest: tuple[Operand, ...]) -> Form:
        left, made = list(rest), cls()
        if i.has(_HINT):
            left.pop()
        if i.has("multicast::cluster"):
            made.mask = left.pop()
        if left:
            raise b.unknown(f"{len(left)} operands too many")
        return made


class Receivers:
    """Where a fill goes: its own operand's CTA, or by a mask those of the cluster."""

    def __init__(self, i: Instr, b: Binder, target: Operand, barrier: Operand, form: Form):
        words = [p for p in i.parts if p in ("shared::cluster", "shared::cta")]
        self.memory, self.table = b.memory, mbarriers(b.memory)
        self.target = shared_address(i, b, target, words[0])
        self.barrier = shared_address(i, b, barrier, words[0])
        self.mask = None if form.mask is None else b.gather(b.src(form.mask, "b16"))

    def __call__(self, s: Active) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """For each lane its address, and (index of the first byte in `shared`, cell) for each CTA
        that receives."""
        targets, barriers = self.target(s), self.barrier(s)
        masks = None if self.mask is None else self.mask(s)
        for k, who in enumerate(each(s)):
            at, bar = targets[k : k + 1], barriers[k : k + 1]
            ranks = None if masks is None else self._ranks(int(masks[k]), who)
            yield int(at[0]) & ((1 << RANK) - 1), self._places(at, bar, ranks, who)

    def _ranks(self, mask: int, who: tuple[int, int]) -> list[int]:
        ranks = [r for r in range(16) if mask >> r & 1]
        size = self.memory.m.shape.cluster_size
        if not ranks or ranks[-1] >= size:
            text = f"a multicast to the CTAs of mask {mask:#x}, in a cluster of {size}"
            raise fault(Fault, self.memory.m, text, *who)
        return ranks

    def _places(
        self, at: np.ndarray, bar: np.ndarray, ranks: list[int] | None, who: tuple[int, int]
    ) -> list[tuple[int, int]]:
        if ranks is not None:
            low = np.uint64((1 << RANK) - 1)
            named = np.array([(r + 1) << RANK for r in ranks], np.uint64)
            at, bar = (at & low) | named, (bar & low) | named
        lanes = tuple(np.full(len(at), w) for w in who)
        cells = self.table.known(bar, lanes)
        index = self.memory.shared_index(at, 1, lanes, "a bulk copy")
        if (index // self.memory.row != self.table.cta(cells)).any():
            text = "a bulk copy whose mbarrier is not in the CTA that it writes to"
            raise fault(Fault, self.memory.m, text, *who)
        return list(zip(index.tolist(), cells.tolist(), strict=True))


def extent(memory: Memory, first: int, size: int, who: tuple[int, int]) -> np.ndarray:
    """The bytes [first, first + size) of `shared`, inside of a CTA's part."""
    offset = first % memory.row
    lanes = (np.array([who[0]]), np.array([who[1]]))
    memory.check_shared(np.array([offset], np.uint64), size, lanes, "a bulk copy")
    return np.arange(first, first + size)


@handles("cp.async.bulk.shared::cluster", "cp.async.bulk.shared::cta")
def _bulk_fill(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "bulk", "shared::cluster", "shared::cta", "global", COMPLETE,
         "multicast::cluster", _HINT)  # fmt: skip
    if not i.has(COMPLETE):
        raise b.unknown()
    form, inside = Form.of(i, b, i.args[4:]), not i.has("global")
    receivers = Receivers(i, b, i.args[0], i.args[3], form)
    source = _source(i, b)
    size, memory, queue, instr = _size(b, i.args[2]), b.memory, bulk(b.memory), i

    def issue(s: Active) -> None:
        rows = zip(receivers(s), source(s), size(s), each(s), strict=True)
        for (offset, places), at, bytes_, who in rows:
            multiple(memory, who, 16, target=offset, source=int(at), size=int(bytes_))
            read, index = _reader(memory, int(at), int(bytes_), who, inside)
            targets = [Target(extent(memory, p, int(bytes_), who), c) for p, c in places]
            queue.fill(Fill(memory, instr, *who, read, targets), "a cp.async.bulk", index)

    return issue


def _source(i: Instr, b: Binder) -> Addresses:
    if i.has("global"):
        return b.address(i.args[1], "global")
    return shared_address(i, b, i.args[1], "shared::cta")


def _reader(
    memory: Memory, at: int, size: int, who: tuple[int, int], inside: bool
) -> tuple[Callable[[], np.ndarray], np.ndarray | None]:
    """Reads a source; its indices if it is in shared memory."""
    if not inside:
        where, part = span(memory, at, size, who, store=False)
        return lambda: pull(memory, where, part), None
    first = memory.flat(np.array([at]), np.array([who[0]]))[0]
    index = extent(memory, int(first), size, who)
    return lambda: memory.shared[index], index


@handles("cp.async.bulk.global")
def _bulk_drain(i: Instr, b: Binder) -> Handler:
    only(i, b, "cp", "async", "bulk", "global", "shared::cta", "bulk_group", _HINT)
    return _drain(i, b, None)


@handles("cp.reduce.async.bulk.global")
def _bulk_reduce_global(i: Instr, b: Binder) -> Handler:
    op, type_ = _reduction(i, b, "global", "shared::cta", "bulk_group")
    return _drain(i, b, combiner(op, type_, b))


def _reduction(i: Instr, b: Binder, *words: str) -> tuple[str, str]:
    only(i, b, "cp", "reduce", "async", "bulk", *words, _HINT, "noftz", *_REDUCE, *WIDTH)
    op, type_ = next((p for p in i.parts if p in _REDUCE), ""), i.parts[-1]
    if not op or type_ not in WIDTH:
        raise b.unknown()
    if type_ in ("f16", "bf16") and op == "add" and not i.has("noftz"):
        raise b.unknown("an add of f16 or bf16 is .noftz")
    return op, type_


# What merges into shared memory, of which types.
_REMOTE = {
    "add": ("u32", "s32", "u64"), "min": ("u32", "s32"), "max": ("u32", "s32"), "inc": ("u32",),
    "dec": ("u32",), "and": ("b32",), "or": ("b32",), "xor": ("b32",),
}  # fmt: skip
_REDUCE = ("add", "min", "max", "inc", "dec", "and", "or", "xor")


def _drain(
    i: Instr, b: Binder, combine: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
) -> Handler:
    if not i.has("bulk_group"):
        raise b.unknown()
    Form.of(i, b, i.args[3:])
    address, source = b.address(i.args[0], "global"), shared_address(i, b, i.args[1], "shared")
    size, memory, queue, instr = _size(b, i.args[2]), b.memory, bulk(b.memory), i

    def issue(s: Active) -> None:
        for to, at, bytes_, who in zip(address(s), source(s), size(s), each(s), strict=True):
            multiple(memory, who, 16, target=int(to), source=int(at), size=int(bytes_))
            _start(queue, instr, int(to), int(at), int(bytes_), who)

    def _start(
        queue: Bulk, instr: Instr, to: int, at: int, bytes_: int, who: tuple[int, int]
    ) -> None:
        where, part = span(memory, to, bytes_, who, store=True)
        first = memory.flat(np.array([at]), np.array([who[0]]))[0]
        index = extent(memory, int(first), bytes_, who)

        def write(data: np.ndarray) -> None:
            new = data if combine is None else combine(where.bytes[part], data)
            push(memory, where, part, new, (*who, instr))

        queue.drain(Drain(memory, instr, *who, 0, index, write), "a cp.async.bulk")

    return issue


@handles("cp.reduce.async.bulk.shared::cluster")
def _bulk_reduce_shared(i: Instr, b: Binder) -> Handler:
    op, type_ = _reduction(i, b, "shared::cluster", "shared::cta", COMPLETE)
    _remote(i, b, op, type_)
    receivers = Receivers(i, b, i.args[0], i.args[3], Form.of(i, b, i.args[4:]))
    source, size = shared_address(i, b, i.args[1], "shared::cta"), _size(b, i.args[2])
    memory, queue, instr, combine = b.memory, bulk(b.memory), i, combiner(op, type_, b)

    def issue(s: Active) -> None:
        rows = zip(receivers(s), source(s), size(s), each(s), strict=True)
        for (offset, places), at, bytes_, who in rows:
            multiple(memory, who, 16, target=offset, source=int(at), size=int(bytes_))
            read, index = _reader(memory, int(at), int(bytes_), who, inside=True)
            targets = [Target(extent(memory, p, int(bytes_), who), c) for p, c in places]
            queue.initialised(targets[0].index, *who, "a cp.reduce.async.bulk")
            fill = Fill(memory, instr, *who, read, targets, combine=combine)
            queue.fill(fill, "a cp.reduce.async.bulk", index)

    return issue


def _remote(i: Instr, b: Binder, op: str, type_: str) -> None:
    if not i.has(COMPLETE) or type_ not in _REMOTE[op]:
        raise b.unknown(f"shared memory has no {op} of {type_} that goes on by itself")


# ---- st.async, red.async: one element each


@handles("st.async", "red.async")
def _element_async(i: Instr, b: Binder) -> Handler:
    only(i, b, "st", "red", "async", "weak", "relaxed", "cluster", "shared::cluster", COMPLETE,
         "v2", "v4", *_REDUCE, *WIDTH)  # fmt: skip
    if not i.has(COMPLETE) or not i.has("shared::cluster"):
        raise b.unknown()
    type_, red = i.parts[-1], i.parts[0] == "red"
    receivers = Receivers(i, b, i.args[0], i.args[2], Form())
    items = i.args[1].items if isinstance(i.args[1], Vec) else (i.args[1],)
    if len(items) != (4 if i.has("v4") else 2 if i.has("v2") else 1):
        raise b.unknown(f"{len(items)} registers")
    gets = [b.gather(b.src(item, f"b{8 * WIDTH[type_]}")) for item in items]
    op = next((p for p in i.parts if p in _REDUCE), "")
    if red:
        _remote(i, b, op, type_)
    combine = combiner(op, type_, b) if red else None
    memory, queue, instr, width = b.memory, bulk(b.memory), i, WIDTH[type_] * len(items)
    what = f"a {i.parts[0]}.async"

    def issue(s: Active) -> None:
        values = np.stack([get(s) for get in gets], axis=1)
        for (offset, places), value, who in zip(receivers(s), values, each(s), strict=True):
            multiple(memory, who, width, target=offset)
            index = extent(memory, places[0][0], width, who)
            if red:
                queue.initialised(index, *who, what)
            data = value.view(np.uint8).copy()
            targets = [Target(index, places[0][1])]
            fill = Fill(memory, instr, *who, lambda data=data: data, targets, combine=combine)
            queue.fill(fill, what)

    return issue


__all__ = ["COMPLETE", "Form", "Receivers", "each", "extent", "multiple", "own_cta"]
