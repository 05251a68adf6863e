"""Integer and logic instructions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.bind import DTYPE, Binder
from tests.ptx.errors import Fault
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.num import bf16_to_f32
from tests.ptx.ops import TABLE, handles
from tests.ptx.parse import WIDTH, Instr

_FLOAT = ("f16", "bf16", "f32", "f64", "f16x2", "bf16x2", "f32x2")


def simple(i: Instr, b: Binder, type_: str, run: Callable[..., Any], n: int) -> Handler:
    """dst = run(the n sources), all of one type."""
    put = b.dst(i.args[0], type_)
    gets = [b.src(a, type_) for a in i.args[1 : n + 1]]
    if len(gets) != n:
        raise b.unknown(f"it takes {n} sources")
    if n == 1:
        return lambda s: put(s, run(gets[0](s)))
    if n == 2:
        x, y = gets
        return lambda s: put(s, run(x(s), y(s)))
    return lambda s: put(s, run(*(g(s) for g in gets)))


def plain(i: Instr, b: Binder, *allowed: str) -> str:
    """The type of an instruction whose only further words are `allowed`."""
    type_ = i.types[-1] if i.types else ""
    if not type_ or any(p not in (type_, *allowed) for p in i.parts[1:]):
        raise b.unknown()
    return type_


def integer_or_float(i: Instr, b: Binder) -> Handler | None:
    """Opcodes that floats share ("add", "min") go to the float module."""
    if any(t in _FLOAT for t in i.types):
        return TABLE[f"float {i.parts[0]}"](i, b)
    return None


@handles("add", "sub")
def _add(i: Instr, b: Binder) -> Handler:
    if (found := integer_or_float(i, b)) is not None:
        return found
    if i.has("cc") or i.has("sat"):
        raise b.unknown()
    return simple(i, b, plain(i, b), {"add": np.add, "sub": np.subtract}[i.parts[0]], 2)


@handles("min", "max")
def _min(i: Instr, b: Binder) -> Handler:
    if (found := integer_or_float(i, b)) is not None:
        return found
    return simple(i, b, plain(i, b), {"min": np.minimum, "max": np.maximum}[i.parts[0]], 2)


def _product(type_: str, part: str) -> tuple[Callable[[Any, Any], Any], str]:
    """The product's wanted part, and its type."""
    width, signed = WIDTH[type_], type_[0] == "s"
    if part == "lo":
        return np.multiply, type_
    if part == "wide":
        wide = f"{type_[0]}{16 * width}"
        return (
            lambda x, y: np.asarray(x).astype(DTYPE[wide]) * np.asarray(y).astype(DTYPE[wide]),
            wide,
        )
    if width == 8:
        return (lambda x, y: _high64(x, y, signed)), type_
    wide, shift = DTYPE[f"{type_[0]}{16 * width}"], 8 * width
    return (
        lambda x, y: (
            np.asarray(x).astype(wide) * np.asarray(y).astype(wide) >> wide(shift)
        ).astype(DTYPE[type_])
    ), type_


def _high64(x: Any, y: Any, signed: bool) -> np.ndarray:
    """The upper half of a 64 x 64 bit product."""
    a, c = (
        np.asarray(v).view(np.uint64) if np.ndim(v) else np.uint64(int(v) % 2**64) for v in (x, y)
    )
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, c0, c1 = a & low, a >> half, c & low, c >> half
    middle = a1 * c0 + ((a0 * c0) >> half)
    other = a0 * c1 + (middle & low)
    high = a1 * c1 + (middle >> half) + (other >> half)
    if not signed:
        return high
    high = high - np.where(a >> np.uint64(63), c, np.uint64(0))
    return (high - np.where(c >> np.uint64(63), a, np.uint64(0))).view(np.int64)


@handles("mul", "mad")
def _mul(i: Instr, b: Binder) -> Handler:
    if (found := integer_or_float(i, b)) is not None:
        return found
    type_ = plain(i, b, "lo", "hi", "wide")
    run, out = _product(type_, i.parts[1])
    put = b.dst(i.args[0], out)
    x, y = (b.src(a, type_) for a in i.args[1:3])
    if i.parts[0] == "mul":
        return lambda s: put(s, run(x(s), y(s)))
    z = b.src(i.args[3], out)
    return lambda s: put(s, run(x(s), y(s)) + z(s))


@handles("mul24", "mad24")
def _mul24(i: Instr, b: Binder) -> Handler:
    raise b.unknown()


@handles("div", "rem")
def _div(i: Instr, b: Binder) -> Handler:
    if (found := integer_or_float(i, b)) is not None:
        return found
    type_, rem = plain(i, b), i.parts[0] == "rem"
    put = b.dst(i.args[0], type_)
    x, y = b.src(i.args[1], type_), b.src(i.args[2], type_)
    dtype = DTYPE[type_]

    def run(s: Active) -> None:
        a, c = np.broadcast_arrays(np.asarray(x(s)), np.asarray(y(s)))
        if a.ndim == 0:
            a, c = (np.broadcast_to(v, s.mask.shape) for v in (a, c))
        zero = (c == 0) & s.mask
        if zero.any():
            warp, lane = (int(w[0]) for w in np.nonzero(zero))
            raise fault(Fault, b.m, "an integer division by zero", warp + s.lo, lane)
        safe = np.where(c == 0, dtype(1), c)
        whole = _truncated(a, safe)
        put(s, a - whole * safe if rem else whole)

    return run


def _truncated(a: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a / c toward zero."""
    floor = a // c
    if a.dtype.kind == "u":
        return floor
    return floor + ((floor < 0) & (floor * c != a)).astype(a.dtype)


@handles("abs", "neg")
def _neg(i: Instr, b: Binder) -> Handler:
    if (found := integer_or_float(i, b)) is not None:
        return found
    return simple(i, b, plain(i, b), {"neg": np.negative, "abs": np.abs}[i.parts[0]], 1)


@handles("and", "or", "xor")
def _logic(i: Instr, b: Binder) -> Handler:
    run = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[i.parts[0]]
    return simple(i, b, plain(i, b), run, 2)


@handles("not")
def _not(i: Instr, b: Binder) -> Handler:
    return simple(i, b, plain(i, b), np.invert, 1)


@handles("cnot")
def _cnot(i: Instr, b: Binder) -> Handler:
    return simple(i, b, plain(i, b), lambda x: (x == 0).astype(x.dtype), 1)


@handles("shl", "shr")
def _shift(i: Instr, b: Binder) -> Handler:
    """Shifts clamp: by the width or more gives 0, or the sign."""
    type_ = plain(i, b)
    bits, dtype = 8 * WIDTH[type_], DTYPE[type_]
    put, x, y = b.dst(i.args[0], type_), b.src(i.args[1], type_), b.src(i.args[2], "u32")
    left, signed = i.parts[0] == "shl", type_[0] == "s"

    def run(s: Active) -> None:
        by = y(s)
        if signed and not left:
            put(s, x(s) >> np.minimum(by, bits - 1).astype(dtype))
            return
        shift = np.minimum(by, bits - 1).astype(dtype)
        moved = x(s) << shift if left else x(s) >> shift
        put(s, np.where(by >= bits, dtype(0), moved))

    return run


@handles("shf")
def _shf(i: Instr, b: Binder) -> Handler:
    if i.parts[1] not in ("l", "r") or i.parts[2] not in ("wrap", "clamp"):
        raise b.unknown()
    left, wrap = i.parts[1] == "l", i.parts[2] == "wrap"
    put = b.dst(i.args[0], "b32")
    low, high, by = (b.src(a, "u32") for a in i.args[1:4])

    def run(s: Active) -> None:
        n = by(s) & np.uint32(31) if wrap else np.minimum(by(s), np.uint32(32))
        n = np.asarray(n).astype(np.uint64)
        both = np.asarray(high(s)).astype(np.uint64) << np.uint64(32) | low(s)
        moved = (both << n) >> np.uint64(32) if left else both >> n
        put(s, moved.astype(np.uint32))

    return run


@handles("bfe")
def _bfe(i: Instr, b: Binder) -> Handler:
    type_ = plain(i, b)
    bits, signed = 8 * WIDTH[type_], type_[0] == "s"
    put, x = b.dst(i.args[0], type_), b.src(i.args[1], type_)
    start, length = b.src(i.args[2], "u32"), b.src(i.args[3], "u32")

    def run(s: Active) -> None:
        at = (np.asarray(start(s)) & 0xFF).astype(np.int64)
        size = (np.asarray(length(s)) & 0xFF).astype(np.int64)
        value = np.asarray(x(s))
        raw = value.view(f"u{bits // 8}").astype(np.uint64)
        picked = raw >> np.minimum(at, 63).astype(np.uint64)
        picked = np.where(at >= bits, np.uint64(0), picked)
        mask = np.where(
            size >= 64,
            ~np.uint64(0),
            (np.uint64(1) << np.minimum(size, 63).astype(np.uint64)) - np.uint64(1),
        )
        out = picked & mask
        if signed:  # the sign is the field's last bit that the register has
            last = np.minimum(at + size - 1, bits - 1)
            sign = (raw >> np.maximum(last, 0).astype(np.uint64)) & np.uint64(1)
            kept = np.where(np.minimum(size, np.maximum(bits - at, 0)) >= 64, ~np.uint64(0),
                            (np.uint64(1) << np.minimum(np.minimum(size, np.maximum(bits - at, 0)), 63).astype(np.uint64)) - np.uint64(1))  # fmt: skip
            out = np.where((sign == 1) & (size > 0), (out & kept) | ~kept, out)
        put(s, out.astype(f"u{bits // 8}").view(DTYPE[type_]))

    return run


@handles("bfi")
def _bfi(i: Instr, b: Binder) -> Handler:
    type_ = plain(i, b)
    bits, dtype = 8 * WIDTH[type_], DTYPE[type_]
    put = b.dst(i.args[0], type_)
    new, old = b.src(i.args[1], type_), b.src(i.args[2], type_)
    start, length = b.src(i.args[3], "u32"), b.src(i.args[4], "u32")

    def run(s: Active) -> None:
        at = np.minimum(np.asarray(start(s)) & 0xFF, 64).astype(np.int64)
        size = np.minimum(np.asarray(length(s)) & 0xFF, 64).astype(np.int64)
        ones = np.where(
            size >= 64,
            ~np.uint64(0),
            (np.uint64(1) << np.minimum(size, 63).astype(np.uint64)) - np.uint64(1),
        )
        shift = np.minimum(at, 63).astype(np.uint64)
        mask = np.where(at >= bits, np.uint64(0), ones << shift)
        moved = np.asarray(new(s)).astype(np.uint64) << shift
        put(s, ((np.asarray(old(s)).astype(np.uint64) & ~mask) | (moved & mask)).astype(dtype))

    return run


@handles("bfind")
def _bfind(i: Instr, b: Binder) -> Handler:
    raise b.unknown()


@handles("popc", "clz", "brev")
def _bits(i: Instr, b: Binder) -> Handler:
    type_ = plain(i, b)
    bits = 8 * WIDTH[type_]
    out = type_ if i.parts[0] == "brev" else "u32"
    put, x = b.dst(i.args[0], out), b.src(i.args[1], type_)

    def run(s: Active) -> None:
        value = np.atleast_1d(np.asarray(x(s)))
        digits = np.unpackbits(
            value.view(np.uint8).reshape(*value.shape, bits // 8), axis=-1, bitorder="little"
        )
        if i.parts[0] == "popc":
            put(s, digits.sum(axis=-1).astype(np.uint32))
        elif i.parts[0] == "clz":
            found = digits[..., ::-1].argmax(axis=-1).astype(np.uint32)
            put(s, np.where(value == 0, np.uint32(bits), found))
        else:
            packed = np.packbits(digits[..., ::-1], axis=-1, bitorder="little")
            put(s, packed.view(DTYPE[type_])[..., 0])

    return run


@handles("lop3")
def _lop3(i: Instr, b: Binder) -> Handler:
    if i.parts[1:] != ("b32",):
        raise b.unknown()
    put = b.dst(i.args[0], "b32")
    x, y, z = (b.src(a, "b32") for a in i.args[1:4])
    table = i.args[4].value & 0xFF  # type: ignore[union-attr]

    def run(s: Active) -> None:
        out = np.zeros(s.mask.shape, np.uint32)
        a, c, d = x(s), y(s), z(s)
        for case in range(8):
            if table >> case & 1:
                out |= (a if case & 4 else ~a) & (c if case & 2 else ~c) & (d if case & 1 else ~d)
        put(s, out)

    return run


@handles("dp4a", "dp2a", "sad", "vadd")
def _later(i: Instr, b: Binder) -> Handler:
    raise b.unknown()


__all__ = ["bf16_to_f32", "integer_or_float", "plain", "simple"]
