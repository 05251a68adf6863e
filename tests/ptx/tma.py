"""Tensor maps, and the bulk copies of tensors' tiles.

A tensor map has an encoding of our own: 16 words of 64 bits, in the last but two a bit for every
field that somebody set. NVIDIA's is not public; a kernel that looks into one is no use anyway.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.engines import Drain, Fill, Target, allowed, bulk, pull, push
from tests.ptx.errors import BadLaunch, Fault, MissingFence, OutOfBounds, Unknown
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.memory import PARAM, SHARED, Allocation, Memory
from tests.ptx.ops import handles
from tests.ptx.ops_async import COMPLETE, Form, Receivers, each, extent, multiple
from tests.ptx.ops_atomic import REDUCIBLE, Merge, combiner
from tests.ptx.ops_sync import only, shared_address
from tests.ptx.parse import Imm, Instr, Mem, Operand

# Element types: number in tensormap.replace (the driver has another order) and bytes.
TYPES = {
    "u8": (0, 1), "u16": (1, 2), "u32": (2, 4), "s32": (3, 4), "u64": (4, 8), "s64": (5, 8),
    "f16": (6, 2), "f32": (7, 4), "f32.ftz": (8, 4), "f64": (9, 8), "bf16": (10, 2),
    "tf32": (11, 4), "tf32.ftz": (12, 4),
}  # fmt: skip
_BY_NUMBER = {number: (name, size) for name, (number, size) in TYPES.items()}
_FLOATS = ("f16", "bf16", "f32", "f32.ftz", "f64", "tf32", "tf32.ftz")
_NAN = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFFFFFF), 8: np.uint64(0x7FFFFFFFFFFFFFFF)}
SWIZZLE_BYTES = {0: 0, 1: 32, 2: 64, 3: 128}

# ---- the encoding: name -> (word, bits, count, first bit in the mask of what was set)
_FIELDS = {
    "global_address": (0, 64, 1, 0), "global_dim": (1, 64, 5, 1), "global_stride": (6, 64, 4, 6),
    "box_dim": (10, 12, 5, 10), "element_stride": (11, 12, 5, 15), "rank": (12, 8, 1, 20),
    "elemtype": (12, 8, 1, 21), "interleave_layout": (12, 8, 1, 22), "swizzle_mode": (12, 8, 1, 23),
    "fill_mode": (12, 8, 1, 24),
}  # fmt: skip
_SHIFTS = {"rank": 0, "elemtype": 8, "interleave_layout": 16, "swizzle_mode": 24, "fill_mode": 32}
_MASK_WORD = 13
# Fields whose value is a constant of the instruction, and the largest.
_CONSTANTS = {"elemtype": 12, "interleave_layout": 2, "swizzle_mode": 3, "fill_mode": 1}


def _place(field: str, ordinal: int) -> tuple[int, int, int, int]:
    """(word, shift, bits, bit of the mask) of a field's element."""
    word, bits, _, first = _FIELDS[field]
    if bits == 64:
        return word + ordinal, 0, 64, first + ordinal
    return word, _SHIFTS.get(field, bits * ordinal), bits, first + ordinal


def _put(word: int, shift: int, bits: int, value: int) -> int:
    mask = ((1 << bits) - 1) << shift
    return (word & ~mask) | (value << shift & mask)


@dataclass(frozen=True)
class Tile:
    """What a tensor map says. Dimensions from the innermost out, strides in bytes from the second
    dimension on."""

    address: int
    type: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]  # element strides
    interleave: int = 0
    swizzle: int = 0
    fill: int = 0

    @property
    def size(self) -> int:
        return TYPES[self.type][1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements of a box in each dimension."""
        # The innermost step is ignored without interleave (cuTensorMapEncodeTiled).
        return (
            self.box[0],
            *(-(-b // s) for b, s in zip(self.box[1:], self.steps[1:], strict=True)),
        )

    def wrong(self) -> str | None:
        """What cuTensorMapEncodeTiled would refuse."""
        inner = self.box[0] * self.size
        span = SWIZZLE_BYTES[self.swizzle]
        checks = (
            (self.address % 16, f"the address {self.address:#x} is no multiple of 16"),
            (any(not 0 < d <= 1 << 32 for d in self.dims), f"dimensions {self.dims}"),
            (any(s % 16 or not 0 <= s < 1 << 40 for s in self.strides),
             f"strides {self.strides}: not all are multiples of 16 below 2^40"),
            (any(not 0 < n <= 256 for n in self.box), f"box {self.box}: 1 to 256 each"),
            (any(not 0 < n <= 8 for n in self.steps), f"element strides {self.steps}: 1 to 8"),
            (inner % 16, f"a box's row of {inner} bytes is no multiple of 16"),
            (span and inner > span, f"a box's row of {inner} bytes is longer than the swizzle's"
             f" {span}"),
            (self.fill and self.type not in _FLOATS, f"{self.type} is not filled with NaN"),
        )  # fmt: skip
        return next((text for bad, text in checks if bad), None)

    def unknown(self) -> str | None:
        """What is right, and this executor can't do."""
        inner, span = self.box[0] * self.size, SWIZZLE_BYTES[self.swizzle]
        if self.interleave:
            return "interleaved layouts are not known"
        if self.type.endswith(".ftz"):
            return f"what of {self.type} is flushed, and when, is nowhere defined"
        if inner < span:
            # The driver takes it. The CUDA programming guide has shared memory "accommodate the
            # full swizzle width" then, and neither it nor the PTX ISA says where the rows lie.
            return (
                f"a box's row of {inner} bytes is shorter than the swizzle's {span}, and its "
                "layout in shared memory is nowhere defined"
            )
        return None

    def encode(self) -> bytes:
        words = [0] * 16
        values = {
            "global_address": [self.address], "global_dim": self.dims,
            "global_stride": self.strides, "box_dim": self.box, "element_stride": self.steps,
            "rank": [len(self.dims) - 1], "elemtype": [TYPES[self.type][0]],
            "interleave_layout": [self.interleave], "swizzle_mode": [self.swizzle],
            "fill_mode": [self.fill],
        }  # fmt: skip
        for field, listed in values.items():
            for ordinal, value in enumerate(listed):
                word, shift, bits, bit = _place(field, ordinal)
                words[word] = _put(words[word], shift, bits, value)
                words[_MASK_WORD] |= 1 << bit
        return struct.pack("<16Q", *words)


@functools.lru_cache(maxsize=256)
def decode(raw: bytes) -> Tile | str:
    """The tile of 128 bytes, or what is wrong with them."""
    words = struct.unpack("<16Q", raw)

    def get(field: str, ordinal: int = 0) -> int:
        word, shift, bits, bit = _place(field, ordinal)
        if not words[_MASK_WORD] >> bit & 1:
            unset.append(f"{field}[{ordinal}]")
        return words[word] >> shift & ((1 << bits) - 1)

    unset: list[str] = []
    rank = get("rank") + 1
    if rank > 5:
        return f"a tensor map of rank {rank}"
    several = {
        f: tuple(get(f, n) for n in range(rank))
        for f in ("global_dim", "box_dim", "element_stride")
    }
    strides = tuple(get("global_stride", n) for n in range(rank - 1))
    kind, swizzle = get("elemtype"), get("swizzle_mode")
    address, interleave, fill = (
        get(f) for f in ("global_address", "interleave_layout", "fill_mode")
    )
    if unset:
        return f"a tensor map of which nobody set {', '.join(unset)}"
    if kind not in _BY_NUMBER or swizzle not in SWIZZLE_BYTES:
        return f"a tensor map of element type {kind} and swizzle {swizzle}"
    if fill > 1:
        return f"a tensor map of fill mode {fill}"
    tile = Tile(address, _BY_NUMBER[kind][0], several["global_dim"], strides, several["box_dim"],
                several["element_stride"], interleave, swizzle, fill)  # fmt: skip
    wrong = tile.wrong()
    return f"a tensor map with {wrong}" if wrong else tile


# ---- on the host


@dataclass(frozen=True)
class TensorMap:
    """A launch's argument: a map over `data`, whose address the launch knows."""

    data: Any
    tile: Tile

    def at(self, address: int) -> bytes:
        tile = Tile(**{**self.tile.__dict__, "address": address})
        if (wrong := tile.wrong()) is not None:
            raise BadLaunch(f"a tensor map with {wrong}")
        if (why := tile.unknown()) is not None:
            raise Unknown(f"a tensor map of which the executor can't do this: {why}")
        return tile.encode()


def encode(
    data: Any,
    type_: str,
    dims: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    element_strides: Sequence[int] | None = None,
    *,
    interleave: int = 0,
    swizzle: int = 0,
    l2_promotion: int = 0,
    fill: int = 0,
) -> TensorMap:
    """What cuTensorMapEncodeTiled makes; `data` is the tensor that globalAddress points to."""
    lists = {"dims": dims, "strides": strides, "box": box, "element_strides": element_strides}
    for name, value in lists.items():
        if value is not None and not _wholes(value):
            raise BadLaunch(f"a tensor map's {name} are whole numbers, got {value!r}")
    modes = {"swizzle": (swizzle, 3), "fill": (fill, 1), "interleave": (interleave, 2),
             "l2_promotion": (l2_promotion, 3)}  # fmt: skip
    for name, (mode, most) in modes.items():
        if not isinstance(mode, (int, np.integer)) or not 0 <= mode <= most:
            raise BadLaunch(f"a tensor map's {name} is 0 to {most}, got {mode!r}")
    if type_ not in TYPES:
        raise BadLaunch(f"a tensor map's type is one of {', '.join(TYPES)}, got {type_!r}")
    steps = tuple(element_strides or [1] * len(dims))
    if not len(dims) == len(strides) + 1 == len(box) == len(steps) or not 0 < len(dims) <= 5:
        raise BadLaunch(f"a tensor map of dims {dims}, strides {strides}, box {box}, steps {steps}")
    tile = Tile(0, type_, tuple(dims), tuple(strides), tuple(box), steps, interleave, swizzle, fill)
    return TensorMap(data, tile)


def _wholes(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(v, (int, np.integer)) for v in value)


# Triton numbers them as PTX does.
_TYPE_OF_TRITON = {n: name for n, (name, _) in _BY_NUMBER.items() if n < 11}


def of_triton(descriptor: Any, meta: dict[str, Any]) -> list[Any]:
    """A host-side TensorDescriptor as the arguments that Triton's launcher passes for it."""
    if meta["fp4_padded"]:
        raise BadLaunch("padded fp4 is not known")
    size = descriptor.base.element_size()
    made = encode(
        descriptor.base, _TYPE_OF_TRITON[meta["elem_type"]], descriptor.shape[::-1],
        [size * s for s in descriptor.strides[-2::-1]], meta["block_size"][::-1],
        swizzle=meta["swizzle"], fill=int(descriptor.padding == "nan"),
    )  # fmt: skip
    return [made, *descriptor.shape, *descriptor.strides]


# ---- on the device: who may use which map


class Maps:
    """Tensor maps in global memory that the kernel made, and who has acquired them."""

    def __init__(self, memory: Memory):
        self.memory, self.m = memory, memory.m
        self.unreleased: dict[int, int] = {}  # address -> the warp that changed it
        self.acquired: dict[tuple[int, int], bytes] = {}  # (CTA, address) -> as it then was

    def use(self, address: int, who: tuple[int, int]) -> Tile:
        multiple(self.memory, who, 64, map=address)
        raw = self._param(address, who) if address >= PARAM else self._global(address, who)
        tile = decode(raw)
        if isinstance(tile, str):
            raise fault(Fault, self.m, tile, *who)
        if (why := tile.unknown()) is not None:
            raise Unknown(f"a tensor map: {why}", self.m.kernel.code[self.m.current])
        return tile

    def _param(self, address: int, who: tuple[int, int]) -> bytes:
        first = address - PARAM
        if first + 128 > self.memory.param_size:
            raise fault(OutOfBounds, self.m, "a tensor map outside of the parameters", *who)
        return self.memory.param[first : first + 128].tobytes()

    def _global(self, address: int, who: tuple[int, int]) -> bytes:
        where, first = self._where(address, who)
        raw = where.bytes[first : first + 128].tobytes()
        changed = raw != bytes(where.origin[first - where.skew : first - where.skew + 128])
        cta = int(self.memory.cta_of_warp(np.array([who[0]]))[0])
        if changed and self.acquired.get((cta, address)) != raw:
            text = (
                f"the tensor map at {self.memory.globals.describe(address)}, changed by the kernel,"
                " is used without a fence.proxy.tensormap::generic.acquire"
            )
            raise fault(MissingFence, self.m, text, *who)
        return raw

    def _where(self, address: int, who: tuple[int, int]) -> tuple[Allocation, int]:
        found = self.memory.globals.of(address, 128)
        if found is None:
            inside = "shared memory" if address >= SHARED else None
            text = f"a tensor map in {inside or self.memory.globals.describe(address)}"
            raise fault(OutOfBounds, self.m, text, *who)
        return found, address - found.base + found.skew

    def release(self, s: Active) -> None:
        warps = set(s.warps.tolist())
        self.unreleased = {a: w for a, w in self.unreleased.items() if w not in warps}

    def acquire(self, s: Active, addresses: np.ndarray) -> None:
        ctas = self.memory.cta_of_warp(s.lanes[0])
        for cta, address, who in zip(ctas, addresses, each(s), strict=True):
            if int(address) in self.unreleased:
                text = "a tensor map is acquired that its writer has not released"
                raise fault(MissingFence, self.m, text, *who)
            where, first = self._where(int(address), who)
            self.acquired[int(cta), int(address)] = where.bytes[first : first + 128].tobytes()


def maps(memory: Memory) -> Maps:
    if not hasattr(memory, "maps"):
        memory.maps = Maps(memory)  # type: ignore[attr-defined]
    return memory.maps  # type: ignore[attr-defined, no-any-return]


@handles("fence.proxy.tensormap::generic")
def _fence_tensormap(i: Instr, b: Binder) -> Handler:
    only(i, b, "fence", "proxy", "tensormap::generic", "acquire", "release", "cta", "cluster",
         "gpu", "sys")  # fmt: skip
    table = maps(b.memory)
    if i.has("release"):
        return table.release
    if not isinstance(i.args[1], Imm) or i.args[1].value != 128:
        raise b.unknown("a tensor map has 128 bytes")
    address = b.address(i.args[0], "generic")
    return lambda s: table.acquire(s, address(s))


@handles("tensormap.replace.tile")
def _replace(i: Instr, b: Binder) -> Handler:
    field = i.parts[3]
    only(
        i, b, "tensormap", "replace", "tile", field, "global", "shared::cta", "b1024", "b32", "b64"
    )
    if field not in _FIELDS:
        raise b.unknown()
    several, ordinal = _FIELDS[field][2] > 1, 0
    if several:
        if not isinstance(i.args[1], Imm) or not 0 <= i.args[1].value < _FIELDS[field][2]:
            raise b.unknown("no such dimension")
        ordinal = i.args[1].value
    _constant(i, b, field)
    value = b.gather(b.src(i.args[-1], "u64" if i.parts[-1] == "b64" else "u32"))
    space = "shared" if i.has("shared::cta") else "global" if i.has("global") else "generic"
    address, memory, table = b.address(i.args[0], space), b.memory, maps(b.memory)
    word, shift, bits, bit = _place(field, ordinal)

    def change(s: Active, at: np.ndarray, word: int, new: Callable[[int, int], int]) -> None:
        place = at + np.uint64(8 * word)
        old = memory.load(space, place, s.lanes, 8, 1)[0]
        made = [new(int(o), k) for k, o in enumerate(old)]
        memory.store(space, place, s.lanes, [np.array(made, np.uint64)])

    def replace(s: Active) -> None:
        at, given = address(s), value(s)
        if bits < 64 and (given >> bits).any():
            lane = int(np.argmax(given >> bits != 0))
            text = f"a tensor map's {field} is {given[lane]}, which no such field holds"
            raise fault(Fault, b.m, text, s.lanes[0][lane], s.lanes[1][lane])
        change(s, at, word, lambda old, k: _put(old, shift, bits, int(given[k])))
        change(s, at, _MASK_WORD, lambda old, k: old | 1 << bit)
        if space != "shared":
            table.unreleased.update((int(a), int(w)) for a, w in zip(at, s.lanes[0], strict=True))

    return replace


def _constant(i: Instr, b: Binder, field: str) -> None:
    most, given = _CONSTANTS.get(field), i.args[-1]
    if most is not None and not (isinstance(given, Imm) and 0 <= given.value <= most):
        raise b.unknown(f"a tensor map's {field} is a constant from 0 to {most}")


@handles("tensormap.cp_fenceproxy")
def _cp_fenceproxy(i: Instr, b: Binder) -> Handler:
    only(i, b, "tensormap", "cp_fenceproxy", "global", "shared::cta", "tensormap::generic",
         "release", "cta", "cluster", "gpu", "sys", "sync", "aligned")  # fmt: skip
    if not isinstance(i.args[2], Imm) or i.args[2].value != 128:
        raise b.unknown("a tensor map has 128 bytes")
    to, source = b.address(i.args[0], "global"), shared_address(i, b, i.args[1], "shared::cta")
    memory, table = b.memory, maps(b.memory)

    def copy(s: Active) -> None:
        first = np.unique(s.lanes[0], return_index=True)[1]
        lanes = (s.lanes[0][first], s.lanes[1][first])
        at, from_ = to(s)[first], source(s)[first]
        if memory.bits is not None:
            index = (memory.flat(from_, lanes[0])[:, None] + np.arange(128)).reshape(-1)
            memory.bits.result(index, (int(lanes[0][0]), int(lanes[1][0])), i.op)
        for part in range(0, 128, 16):
            step = np.uint64(part)
            memory.store(
                "global", at + step, lanes, memory.load("shared", from_ + step, lanes, 8, 2)
            )
        for address in at:
            table.unreleased.pop(int(address), None)

    return copy


# ---- boxes


class Box:
    """The part of a tensor that one copy moves, row by row of its innermost dimension."""

    def __init__(self, memory: Memory, tile: Tile, coords: Sequence[int], who: tuple[int, int]):
        self.memory, self.tile, self.who = memory, tile, who
        counts = tile.counts
        self.width = counts[0] * tile.size  # bytes of a row
        self.rows = int(np.prod(counts[1:], dtype=np.int64))
        self.bytes = self.rows * self.width
        offset, inside = np.zeros(1, np.int64), np.ones(1, bool)
        for at, count, step, dim, stride in zip(
            coords[1:], counts[1:], tile.steps[1:], tile.dims[1:], tile.strides, strict=True
        ):
            index = at + step * np.arange(count)
            offset = (index[:, None] * stride + offset).reshape(-1)
            inside = (((index >= 0) & (index < dim))[:, None] & inside).reshape(-1)
        self.inside = np.nonzero(inside)[0]
        low, high = (min(max(v, 0), counts[0]) for v in (-coords[0], tile.dims[0] - coords[0]))
        self.part = slice(low * tile.size, max(low, high) * tile.size)
        self.starts = tile.address + offset[self.inside] + (coords[0] + low) * tile.size

    def _cells(self, *, store: bool) -> tuple[Allocation, np.ndarray] | None:
        """The bytes of the box that are in the tensor [rows, bytes]."""
        width = self.part.stop - self.part.start
        if not width or not len(self.starts):
            return None
        low, high = int(self.starts.min()), int(self.starts.max()) + width
        where = self.memory.globals.of(low, high - low)
        if where is None:
            text = f"a tensor's box of {high - low} bytes at {self.memory.globals.describe(low)}"
            raise fault(OutOfBounds, self.memory.m, text, *self.who)
        index = (self.starts - where.base + where.skew)[:, None] + np.arange(width)
        allowed(self.memory, where, index, self.who, store=store)
        return where, index

    def check(self, *, store: bool) -> None:
        self._cells(store=store)

    def read(self) -> np.ndarray:
        out = np.zeros((self.rows, self.width), np.uint8)
        if self.tile.fill:
            nan = _NAN[self.tile.size]
            out.view(nan.dtype)[:] = nan
        found = self._cells(store=False)
        if found is not None:
            where, index = found
            out[self.inside, self.part] = pull(self.memory, where, index)
        return out.reshape(-1)

    def write(self, data: np.ndarray, instr: Instr, combine: Callable | None = None) -> None:
        found = self._cells(store=True)
        if found is None:
            return
        where, index = found
        new = self.kept(data)
        if combine is not None:
            new = combine(where.bytes[index].reshape(-1), new.reshape(-1)).reshape(index.shape)
        push(self.memory, where, index, new, (*self.who, instr))

    def kept(self, data: np.ndarray) -> np.ndarray:
        """What is in the tensor, of the box's bytes."""
        return data.reshape(self.rows, self.width)[self.inside, self.part]

    def places(self, first: int) -> np.ndarray:
        """Where in `shared` the box's bytes lie, the first at index `first` before the swizzle."""
        base = first % self.memory.row
        multiple(self.memory, self.who, 128, shared_address=base)
        extent(self.memory, first, self.bytes, self.who)
        chunks = base + np.arange(0, self.bytes, 16)
        span = SWIZZLE_BYTES[self.tile.swizzle]
        if span:  # 16-byte pieces are permuted by the number of their line of 128 bytes
            chunks ^= (chunks >> 7 & (span // 16 - 1)) << 4
        return ((first - base + chunks)[:, None] + np.arange(16)).reshape(-1)


class Boxes:
    """[map, {coordinates}] of an instruction."""

    def __init__(self, i: Instr, b: Binder, operand: Operand):
        rank = int(next((p[0] for p in i.parts if p[1:] == "d" and p[0] in "12345"), "0"))
        if not isinstance(operand, Mem) or operand.coords is None:
            raise b.unknown("a tensor map comes with coordinates")
        if len(operand.coords.items) != rank:
            raise b.unknown(f"{len(operand.coords.items)} coordinates for {rank} dimensions")
        self.memory, self.maps = b.memory, maps(b.memory)
        self.address = b.address(operand, "generic")
        self.coords = [b.gather(b.src(c, "s32")) for c in operand.coords.items]

    def __call__(self, s: Active) -> list[Box]:
        coords = np.stack([get(s) for get in self.coords], axis=1).tolist()
        found = []
        for address, at, who in zip(self.address(s), coords, each(s), strict=True):
            tile = self.maps.use(int(address), who)
            if len(tile.dims) != len(at):
                text = f"{len(at)} coordinates, but the tensor map has {len(tile.dims)} dimensions"
                raise fault(Fault, self.memory.m, text, *who)
            found.append(Box(self.memory, tile, at, who))
        return found


_WORDS = ("cp", "async", "bulk", "tensor", "1d", "2d", "3d", "4d", "5d", "tile", "L2::cache_hint")


@handles("cp.async.bulk.tensor")
def _tensor(i: Instr, b: Binder) -> Handler:
    if i.parts[5] == "global":
        only(i, b, *_WORDS, "global", "shared::cta", "bulk_group")
        return _tensor_drain(i, b, None)
    only(i, b, *_WORDS, "shared::cluster", "shared::cta", "global", COMPLETE, "multicast::cluster")
    receivers = Receivers(i, b, i.args[0], i.args[2], Form.of(i, b, i.args[3:]))
    boxes, memory, queue, instr = Boxes(i, b, i.args[1]), b.memory, bulk(b.memory), i

    def issue(s: Active) -> None:
        for (_, places), box in zip(receivers(s), boxes(s), strict=True):
            box.check(store=False)
            span = SWIZZLE_BYTES[box.tile.swizzle]
            targets = [Target(box.places(first), cell, span) for first, cell in places]
            queue.fill(Fill(memory, instr, *box.who, box.read, targets), "a tensor copy")

    return issue


@handles("cp.reduce.async.bulk.tensor")
def _tensor_reduce(i: Instr, b: Binder) -> Handler:
    operations = ("add", "min", "max", "inc", "dec", "and", "or", "xor")
    only(i, b, *_WORDS, "reduce", "global", "shared::cta", "bulk_group", *operations)
    return _tensor_drain(i, b, next(p for p in i.parts if p in operations))


def _tensor_drain(i: Instr, b: Binder, op: str | None) -> Handler:
    if not i.has("bulk_group"):
        raise b.unknown()
    Form.of(i, b, i.args[2:])
    boxes, source = Boxes(i, b, i.args[0]), shared_address(i, b, i.args[1], "shared")
    memory, queue, instr = b.memory, bulk(b.memory), i
    combiners = {} if op is None else {t: combiner(op, t, b) for t in REDUCIBLE[op]}

    def way(tile: Tile) -> Merge | None:
        if op is None:
            return None
        type_ = f"b{8 * tile.size}" if op in ("and", "or", "xor") else tile.type
        if type_ not in combiners:
            raise Unknown(f"there is no {op} of {type_}", instr)
        return combiners[type_]

    def issue(s: Active) -> None:
        for box, at in zip(boxes(s), source(s), strict=True):
            box.check(store=True)
            first = memory.flat(np.array([at]), np.array([box.who[0]]))[0]
            combine = way(box.tile)
            write = functools.partial(box.write, instr=instr, combine=combine)
            drain = Drain(memory, instr, *box.who, 0, box.places(int(first)), write, box.kept)
            queue.drain(drain, "a tensor store")

    return issue


@handles("cp.async.bulk.prefetch.tensor")
def _tensor_prefetch(i: Instr, b: Binder) -> Handler:
    only(i, b, *_WORDS, "prefetch", "L2", "global")
    boxes = Boxes(i, b, i.args[0])

    def prefetch(s: Active) -> None:
        for box in boxes(s):
            box.check(store=False)

    return prefetch
