"""Copies and reductions by tensor maps against a model of plain loops: every rank, swizzle, fill
and step through a tensor, every reduction."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.ptx import errors, launch, tma
from tests.ptx.snippet import text

pytestmark = pytest.mark.ptx

# bf16 is kept as the upper half of an f32.
DTYPES = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64,
    "s64": np.int64, "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": np.uint16,
    "tf32": np.float32,
}  # fmt: skip
FLOATS = ("f16", "bf16", "f32", "tf32", "f64")
SPAN = {0: 32, 1: 32, 2: 64, 3: 128}  # bytes of a box's row in the cases here, by swizzle


# ---- the model


@dataclass(frozen=True)
class Copy:
    """Dimensions from the innermost on, as a tensor map has them."""

    type: str
    dims: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]
    coords: tuple[int, ...]
    swizzle: int = 0
    fill: int = 0

    def elements(self):
        """(byte in shared memory, index in the tensor or None) of each element of the box."""
        size = np.dtype(DTYPES[self.type]).itemsize
        steps = (1, *self.steps[1:])
        counts = [math.ceil(b / s) for b, s in zip(self.box, steps, strict=True)]
        span = counts[0] * size
        for n, outer in enumerate(itertools.product(*(range(c) for c in reversed(counts[1:])))):
            for i in range(counts[0]):
                place = (i, *reversed(outer))
                at = [c + s * p for c, s, p in zip(self.coords, steps, place, strict=True)]
                inside = all(0 <= v < d for v, d in zip(at, self.dims, strict=True))
                piece, rest = divmod(i * size, 16)
                # A pattern repeats after 1024, 512 or 256 bytes; its rows are the span wide.
                piece ^= n * span // 128 % (span // 16) if self.swizzle else 0
                yield n * span + 16 * piece + rest, tuple(reversed(at)) if inside else None

    @property
    def bytes(self) -> int:
        return max(at for at, _ in self.elements()) // 16 * 16 + 16

    def loaded(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shared memory after a load, and which elements have to be NaN instead."""
        image = np.zeros(self.bytes // data.itemsize, data.dtype)
        nan = np.zeros(image.shape, bool)
        for at, index in self.elements():
            if index is not None:
                image[at // data.itemsize] = data[index]
            elif self.fill:
                nan[at // data.itemsize] = True
        return image, nan

    def stored(self, data: np.ndarray, image: np.ndarray, combine: Callable) -> np.ndarray:
        out = data.copy()
        for at, index in self.elements():
            if index is not None:
                out[index] = combine(out[index], image[at // data.itemsize])
        return out


def number(bits: np.generic, type_: str) -> float:
    if type_ == "bf16":
        return float(np.array([0, bits], np.uint16).view(np.float32)[0])
    return float(bits)


def rounded(value: float, type_: str) -> np.generic:
    """To nearest even, once."""
    if type_ == "f64":
        return np.float64(value)
    bits, least = {"f16": (11, -13), "bf16": (8, -125), "f32": (24, -125)}[type_]
    exponent = max(math.frexp(value)[1], least) - bits
    near = math.ldexp(round(math.ldexp(value, -exponent)), exponent)
    if type_ == "bf16":
        return np.array([near], np.float32).view(np.uint16)[1]
    return DTYPES[type_](near)


def reduced(op: str, type_: str) -> Callable:
    if op in ("min", "max"):
        choose = min if op == "min" else max
        if type_ == "bf16":
            return lambda a, b: choose(a, b, key=lambda bits: number(bits, type_))
        return choose
    if op == "add" and type_ in FLOATS:
        return lambda a, b: rounded(number(a, type_) + number(b, type_), type_)
    wrap = 1 << 8 * np.dtype(DTYPES[type_]).itemsize
    whole: dict[str, Callable[[int, int], int]] = {
        "add": lambda a, b: a + b,
        "inc": lambda a, b: 0 if a >= b else a + 1,
        "dec": lambda a, b: b if a == 0 or a > b else a - 1,
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
    }
    unsigned = np.dtype(f"u{wrap.bit_length() // 8}")

    def combine(a: np.generic, b: np.generic) -> np.generic:
        x, y = (int(np.array([v]).view(unsigned)[0]) for v in (a, b))
        return np.array([whole[op](x, y) % wrap], unsigned).view(np.asarray(a).dtype)[0]

    return combine


# ---- the executor

_HEAD = """mov.u32 %r1, %tid.x; mov.u32 %r2, sm; mov.b64 %rd1, p0; cvta.param.u64 %rd1, %rd1;
ld.param.u64 %rd2, [p1]; mul.wide.u32 %rd3, %r1, 4; add.u64 %rd2, %rd2, %rd3;
shl.b32 %r3, %r1, 2; add.u32 %r3, %r2, %r3; setp.ne.u32 %p1, %r1, 0; mov.u32 %r4, BYTES;
mov.u32 %r5, %r3; add.u32 %r6, %r2, %r4; COORDS
"""
_LOAD = """@%p1 bra DONE; mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;
mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r4;
cp.async.bulk.tensor.RANK.shared::cluster.global.tile.mbarrier::complete_tx::bytes
[%r2], [%rd1, {AT}], [bar];
DONE: bar.sync 0; W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;
OUT: setp.ge.u32 %p3, %r5, %r6; @%p3 exit; ld.shared.b32 %r7, [%r5]; st.global.b32 [%rd2], %r7;
add.u32 %r5, %r5, 128; add.u64 %rd2, %rd2, 128; bra OUT;"""
_STORE = """IN: setp.ge.u32 %p3, %r5, %r6; @%p3 bra READY;
ld.global.b32 %r7, [%rd2]; st.shared.b32 [%r5], %r7;
add.u32 %r5, %r5, 128; add.u64 %rd2, %rd2, 128; bra IN;
READY: fence.proxy.async; bar.sync 0; @%p1 exit;
OP.RANK.global.shared::cta.WHAT.bulk_group [%rd1, {AT}], [%r2];
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"""
_DECLARE = ".extern .shared .align 1024 .b8 sm[]; .shared .align 8 .b64 bar;"


def execute(copy: Copy, body: str, data: np.ndarray, image: np.ndarray) -> None:
    names = [f"%r{20 + n}" for n in range(len(copy.dims))]
    coords = "".join(f"mov.s32 {r}, {c};" for r, c in zip(names, copy.coords, strict=True))
    for word, instead in {"BYTES": str(copy.bytes), "COORDS": coords, "AT": ", ".join(names),
                          "RANK": f"{len(names)}d"}.items():  # fmt: skip
        body = body.replace(word, instead)
    source = text(body, ["u64", "u64"], declare=_DECLARE)
    source = source.replace(".param .u64 p0", ".param .align 64 .b8 p0[128]")
    strides = data.strides[-2::-1]
    box = tma.encode(
        data, copy.type, copy.dims, strides, copy.box, copy.steps, swizzle=copy.swizzle,
        fill=copy.fill,
    )  # fmt: skip
    launch.run(source, [box, image], [1], shared=max(copy.bytes, 128))


def drawn(type_: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values that meet each other in sums, orders and bits."""
    if type_ in FLOATS:
        values = (rng.standard_normal(shape) * 4.0).astype(np.float32)
        if type_ == "bf16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(DTYPES[type_])
    most = 7 if rng.random() < 0.5 else np.iinfo(DTYPES[type_]).max
    return rng.integers(0, most, shape, DTYPES[type_])


def cases(rank: int, swizzle: int, type_: str, fill: int = 0) -> tuple[Copy, np.ndarray]:
    """A box that stands out of its tensor, before or behind its innermost dimension at least."""
    rng = np.random.default_rng([rank, swizzle, len(type_)])
    size = np.dtype(DTYPES[type_]).itemsize
    wide = SPAN[swizzle] // size
    dims = (wide + 16 // size, *(int(d) for d in rng.integers(3, 6, rank - 1)))
    box = (wide, *(int(b) for b in rng.integers(2, 6 if rank < 4 else 4, rank - 1)))
    steps = (1, *(int(s) for s in rng.integers(1, 4, rank - 1)))
    coords = [-1 if rank % 2 else 3 + 16 // size]
    for d, b, s in zip(dims[1:], box[1:], steps[1:], strict=True):
        hit = int(rng.integers(math.ceil(b / s)))  # the part of the box that is in the tensor
        coords.append(int(rng.integers(d)) - s * hit)
    copy = Copy(type_, dims, box, steps, tuple(coords), swizzle, fill)
    inside = [index is not None for _, index in copy.elements()]
    assert any(inside)
    assert not all(inside)
    return copy, drawn(type_, dims[::-1], rng)


EACH = [*itertools.product(range(1, 6), range(4))]
TYPE = dict(zip(EACH, itertools.cycle(DTYPES), strict=False))


@pytest.mark.parametrize(("rank", "swizzle"), EACH)
def test_a_load(rank, swizzle):
    copy, data = cases(rank, swizzle, TYPE[rank, swizzle])
    found = np.zeros(copy.bytes // data.itemsize, data.dtype)
    execute(copy, _HEAD + _LOAD, data, found)
    assert found.tobytes() == copy.loaded(data)[0].tobytes()


def test_the_innermost_step_is_not_looked_at():
    copy, data = cases(3, 2, "f16")
    found = np.zeros(copy.bytes // data.itemsize, data.dtype)
    other = dataclasses.replace(copy, steps=(3, *copy.steps[1:]))
    execute(other, _HEAD + _LOAD, data, found)
    assert found.tobytes() == copy.loaded(data)[0].tobytes()


@pytest.mark.parametrize("type_", FLOATS)
@pytest.mark.parametrize("swizzle", range(4))
def test_a_load_that_fills_with_nan(type_, swizzle):
    copy, data = cases(3, swizzle, type_, fill=1)
    found = np.zeros(copy.bytes // data.itemsize, data.dtype)
    execute(copy, _HEAD + _LOAD, data, found)
    want, nan = copy.loaded(data)
    assert nan.any()
    values = (found.astype(np.uint32) << 16).view(np.float32) if type_ == "bf16" else found
    assert (np.isnan(values) == nan).all()
    assert (found == want)[~nan].all()


@pytest.mark.parametrize(("rank", "swizzle"), EACH)
def test_a_store(rank, swizzle):
    copy, data = cases(rank, swizzle, TYPE[rank, swizzle])
    image = drawn(copy.type, (copy.bytes // data.itemsize,), np.random.default_rng(1))
    want = copy.stored(data, image, lambda old, new: new)
    body = _STORE.replace("OP", "cp.async.bulk.tensor").replace("WHAT", "tile")
    execute(copy, _HEAD + body, data, image)
    assert data.tobytes() == want.tobytes()


REDUCTIONS = {
    "add": ("u32", "s32", "u64", "f16", "bf16", "f32", "f64"),
    "min": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "max": ("u32", "s32", "u64", "s64", "f16", "bf16"),
    "inc": ("u32",), "dec": ("u32",),
    "and": ("u32", "s32", "u64", "s64"), "or": ("u32", "u64"), "xor": ("s32", "u64"),
}  # fmt: skip
_REDUCE = _STORE.replace("OP", "cp.reduce.async.bulk.tensor")


@pytest.mark.parametrize(
    "swizzle", [0, 3, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2))]
)
@pytest.mark.parametrize(
    ("op", "type_"), [(op, type_) for op, types in REDUCTIONS.items() for type_ in types]
)
def test_a_reduction(op, type_, swizzle):
    rank = 1 + (list(REDUCTIONS).index(op) + swizzle) % 5
    copy, data = cases(rank, swizzle, type_)
    image = drawn(type_, (copy.bytes // data.itemsize,), np.random.default_rng(2))
    want = copy.stored(data, image, reduced(op, type_))
    execute(copy, _HEAD + _REDUCE.replace("WHAT", f"{op}.tile"), data, image)
    assert data.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("op", "type_"),
    [
        ("add", "u8"), ("add", "u16"), ("add", "s64"), ("add", "tf32"), ("min", "f32"),
        ("max", "f64"), ("inc", "s32"), ("dec", "u64"), ("and", "u16"), ("xor", "bf16"),
        ("min", "u8"), ("inc", "f32"),
    ],
)  # fmt: skip
def test_a_reduction_that_is_not_there(op, type_):
    copy, data = cases(2, 1, type_)
    image = drawn(type_, (copy.bytes // data.itemsize,), np.random.default_rng(2))
    says = rf"there is no {op} of \w+ \[line \d+: cp\.reduce\.async\.bulk\.tensor"
    with pytest.raises(errors.Unknown, match=says):
        execute(copy, _HEAD + _REDUCE.replace("WHAT", f"{op}.tile"), data, image)


@pytest.mark.parametrize("words", ["im2col", "im2col_no_offs", "tile::gather4", "im2col::w"])
def test_other_modes_than_tiles_are_unknown(words):
    copy, data = cases(3, 0, "f32")
    body = _HEAD + _LOAD.replace(".tile.", f".{words}.")
    says = rf"does not know \.{words} here \[line \d+: cp\.async\.bulk\.tensor"
    with pytest.raises(errors.Unknown, match=says):
        execute(copy, body, data, np.zeros(copy.bytes // 4, np.float32))


@pytest.mark.parametrize(
    ("type_", "more", "says"),
    [("f32.ftz", {}, "what of f32.ftz is flushed"), ("tf32.ftz", {}, "what of tf32.ftz is flushed"),
     ("f32", {"interleave": 1}, "interleaved layouts are not known")],
)  # fmt: skip
def test_maps_that_are_unknown_name_their_parameter(type_, more, says):
    data, out = np.zeros((8, 16), np.float32), np.zeros(128, np.float32)
    made = tma.encode(data, type_, (16, 8), (64,), (16, 8), **more)
    source = text("", ["u64", "u64"]).replace(".param .u64 p0", ".param .align 64 .b8 p0[128]")
    with pytest.raises(errors.Unknown, match=rf"p0 is a tensor map .*{says}.*\[line \d+: "):
        launch.run(source, [made, out], [1])
