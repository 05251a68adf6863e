"""Integer and logic instructions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.bind import DTYPE, Binder
from tests.ptx.errors import Fault, Uninitialised
from tests.ptx.forms import constant, expect, form, joined, simple, split
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.ops import TABLE, handles
from tests.ptx.parse import WIDTH, Instr, Reg

_FLOAT = ("f16", "bf16", "f32", "f64", "f16x2", "bf16x2", "f32x2")
_INT = r"\.([us](?:16|32|64))"
_PACKED = {"u16x2": np.uint16, "s16x2": np.int16}


def _floats(i: Instr, b: Binder) -> Handler | None:
    """Opcodes that floats share ("add", "min") go to the float module."""
    other = TABLE.get(f"float {i.parts[0]}")
    if other is not None and any(t in _FLOAT for t in i.types):
        return other(i, b)
    return None


def _packed(i: Instr, b: Binder, run: Callable[..., Any]) -> Handler:
    """`run` on both halves of u32."""
    part = _PACKED[i.parts[-1]]
    return simple(i, b, "b32", lambda x, y: joined(run(split(x, part), split(y, part))), 2)


# ---- sums


@handles("add", "sub")
def _add(i: Instr, b: Binder) -> Handler:
    if (found := _floats(i, b)) is not None:
        return found
    run = {"add": np.add, "sub": np.subtract}[i.parts[0]]
    if i.has("cc"):
        return _carried(i, b)
    type_ = form(i, b, rf"\w+{_INT}", r"\w+\.sat\.(s32)", r"add\.([us]16x2)")[1]
    if type_ in _PACKED:
        return _packed(i, b, run)
    if not i.has("sat"):
        return simple(i, b, type_, run, 2)
    return simple(i, b, type_, lambda x, y: _clamp32(run(_wide(x), _wide(y))), 2)


def _wide(value: Any) -> np.ndarray:
    return np.asarray(value).astype(np.int64)


def _clamp32(value: np.ndarray) -> np.ndarray:
    return np.clip(value, -(2**31), 2**31 - 1).astype(np.int32)


@handles("addc", "subc", "madc")
def _carried(i: Instr, b: Binder) -> Handler:
    """A sum whose carry goes to, or comes from, the condition code."""
    type_ = form(
        i, b, r"(?:add|sub)\.cc\.([us](?:32|64))", r"(?:addc|subc)(?:\.cc)?\.([us](?:32|64))",
        r"mad\.(?:lo|hi)\.cc\.([us](?:32|64))", r"madc\.(?:lo|hi)(?:\.cc)?\.([us](?:32|64))",
    )[1]  # fmt: skip
    product = i.parts[0].startswith("mad")
    expect(i, b, 4 if product else 3)
    unsigned = f"u{type_[1:]}"
    put, sources = b.dst(i.args[0], type_), i.args[1:]
    gets = [b.src(a, type_ if product else unsigned) for a in sources[: 2 if product else 1]]
    last = b.src(sources[-1], unsigned)
    multiply = _product(type_, i.parts[1])[0] if product else None
    code = _ConditionCode(b)
    minus, into, out = i.parts[0].startswith("sub"), i.parts[0].endswith("c"), i.has("cc")
    dtype = DTYPE[unsigned]

    def run(s: Active) -> None:
        first = multiply(*(g(s) for g in gets)) if multiply else gets[0](s)
        first = np.broadcast_to(np.asarray(first).view(dtype), s.mask.shape)
        carry = code.read(s) if into else np.zeros(s.mask.shape, bool)
        second = last(s)
        if minus:
            value, over = first - second - carry, (first < second) | ((first == second) & carry)
        else:
            value = first + second + carry
            over = (value < first) | ((value == first) & carry)
        put(s, value)
        if out:
            code.write(s, over)

    return run


class _ConditionCode:
    """CC.CF of each lane."""

    def __init__(self, b: Binder):
        self.m, self.where = b.m, b.instr
        self.carry = b.array(Reg("CC.CF", "pred"))
        self.written = b.array(Reg("CC.CF written", "pred"))

    def read(self, s: Active) -> np.ndarray:
        bad = s.mask & ~self.written[s.sl]
        if bad.any():
            warp, lane = (int(v[0]) for v in np.nonzero(bad))
            text = "the carry is read and was never written"
            raise fault(Uninitialised, self.m, text, warp + s.lo, lane)
        return self.carry[s.sl]

    def write(self, s: Active, carry: np.ndarray) -> None:
        np.copyto(self.carry[s.sl], carry, where=s.mask)
        self.written[s.sl] |= s.mask


@handles("sad")
def _sad(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, rf"sad{_INT}")[1]
    return simple(i, b, type_, lambda x, y, z: z + np.where(x < y, y - x, x - y), 3)


@handles("min", "max")
def _min(i: Instr, b: Binder) -> Handler:
    if (found := _floats(i, b)) is not None:
        return found
    least = {"min": np.minimum, "max": np.maximum}[i.parts[0]]
    type_ = form(i, b, rf"\w+{_INT}", r"\w+\.([us]16x2)", r"\w+\.relu\.(s16x2|s32)")[1]

    def run(x: Any, y: Any) -> Any:
        return np.maximum(least(x, y), 0) if i.has("relu") else least(x, y)

    return _packed(i, b, run) if type_ in _PACKED else simple(i, b, type_, run, 2)


@handles("abs", "neg")
def _neg(i: Instr, b: Binder) -> Handler:
    if (found := _floats(i, b)) is not None:
        return found
    type_ = form(i, b, r"\w+\.(s16|s32|s64)")[1]
    return simple(i, b, type_, {"neg": np.negative, "abs": np.abs}[i.parts[0]], 1)


# ---- products


def _product(type_: str, part: str) -> tuple[Callable[[Any, Any], Any], str]:
    """The product's wanted part, and its type."""
    width, signed = WIDTH[type_], type_[0] == "s"
    if part == "lo":
        return np.multiply, type_
    if width == 8:
        return (lambda x, y: _high64(x, y, signed)), type_
    wide = DTYPE[f"{type_[0]}{16 * width}"]

    def whole(x: Any, y: Any) -> np.ndarray:
        return np.asarray(x).astype(wide) * np.asarray(y).astype(wide)

    if part == "wide":
        return whole, f"{type_[0]}{16 * width}"
    return (lambda x, y: (whole(x, y) >> wide(8 * width)).astype(DTYPE[type_])), type_


def _high64(x: Any, y: Any, signed: bool) -> np.ndarray:
    """The upper half of a 64 x 64 bit product."""
    a, c = (np.asarray(v).view(np.uint64) for v in (x, y))
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
    if (found := _floats(i, b)) is not None:
        return found
    if i.has("cc"):
        return _carried(i, b)
    type_ = form(i, b, rf"\w+\.(?:lo|hi){_INT}", r"\w+\.wide\.([us](?:16|32))")[1]
    run, out = _product(type_, i.parts[1])
    if out == type_ and i.parts[0] == "mul":
        return simple(i, b, type_, run, 2)
    expect(i, b, 3 if i.parts[0] == "mul" else 4)
    put = b.dst(i.args[0], out)
    x, y = (b.src(a, type_) for a in i.args[1:3])
    if i.parts[0] == "mul":
        return lambda s: put(s, run(x(s), y(s)))
    z = b.src(i.args[3], out)
    return lambda s: put(s, run(x(s), y(s)) + z(s))


@handles("mul24", "mad24")
def _mul24(i: Instr, b: Binder) -> Handler:
    part, type_ = form(i, b, r"\w+\.(lo|hi)\.([us]32)").groups()
    eight, down = DTYPE[type_](8), np.int64(16 if part == "hi" else 0)

    def product(x: Any, y: Any) -> np.ndarray:
        whole = _wide((x << eight) >> eight) * _wide((y << eight) >> eight)
        return (whole >> down).astype(DTYPE[type_])

    if i.parts[0] == "mul24":
        return simple(i, b, type_, product, 2)
    return simple(i, b, type_, lambda x, y, z: product(x, y) + z, 3)


@handles("dp4a", "dp2a")
def _dot(i: Instr, b: Binder) -> Handler:
    four = i.parts[0] == "dp4a"
    left, right = form(
        i, b, r"dp4a\.([us]32)\.([us]32)" if four else r"dp2a\.(?:lo|hi)\.([us]32)\.([us]32)"
    ).groups()
    first = DTYPE[f"{left[0]}{8 if four else 16}"]
    second = DTYPE[f"{right[0]}8"]
    window = slice(0, 4) if four else slice(2, 4) if i.parts[1] == "hi" else slice(0, 2)

    def run(x: Any, y: Any, z: Any) -> np.ndarray:
        terms = _wide(_pieces(x, first)) * _wide(_pieces(y, second)[..., window])
        return (terms.sum(axis=-1) + _wide(z)).astype(np.uint32)

    return simple(i, b, "u32", run, 3)


def _pieces(value: Any, part: type) -> np.ndarray:
    value = np.ascontiguousarray(value)
    return value.view(part).reshape(*value.shape, -1)


@handles("div", "rem")
def _div(i: Instr, b: Binder) -> Handler:
    if (found := _floats(i, b)) is not None:
        return found
    type_, rem = form(i, b, rf"\w+{_INT}")[1], i.parts[0] == "rem"
    expect(i, b, 3)
    put = b.dst(i.args[0], type_)
    x, y = b.src(i.args[1], type_), b.src(i.args[2], type_)
    dtype = DTYPE[type_]

    def run(s: Active) -> None:
        a, c = (np.broadcast_to(v, s.mask.shape) for v in (x(s), y(s)))
        zero = (c == 0) & s.mask
        if zero.any():
            warp, lane = (int(w[0]) for w in np.nonzero(zero))
            raise fault(Fault, b.m, "an integer division by zero", warp + s.lo, lane)
        safe = np.where(c == 0, dtype(1), c)
        whole = _truncated(a, safe)
        put(s, a - whole * safe if rem else whole)

    return run


def _truncated(a: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a / c toward zero; the most negative number by -1 is itself."""
    floor = a // c
    if a.dtype.kind == "u":
        return floor
    return floor + ((floor * c != a) & ((a < 0) != (c < 0))).astype(a.dtype)


# ---- bits


@handles("and", "or", "xor")
def _logic(i: Instr, b: Binder) -> Handler:
    run = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[i.parts[0]]
    return simple(i, b, form(i, b, r"\w+\.(pred|b16|b32|b64)")[1], run, 2)


@handles("not")
def _not(i: Instr, b: Binder) -> Handler:
    return simple(i, b, form(i, b, r"not\.(pred|b16|b32|b64)")[1], np.invert, 1)


@handles("cnot")
def _cnot(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, r"cnot\.(b16|b32|b64)")[1]
    return simple(i, b, type_, lambda x: (x == 0).astype(DTYPE[type_]), 1)


@handles("lop3")
def _lop3(i: Instr, b: Binder) -> Handler:
    form(i, b, r"lop3\.b32")
    expect(i, b, 5)
    put = b.dst(i.args[0], "b32")
    x, y, z = (b.src(a, "b32") for a in i.args[1:4])
    table = constant(i, b, 4)
    if not 0 <= table <= 0xFF:
        raise b.unknown("the table has 8 bits")

    def run(s: Active) -> None:
        out = np.zeros(s.mask.shape, np.uint32)
        a, c, d = x(s), y(s), z(s)
        for case in range(8):
            if table >> case & 1:
                out |= (a if case & 4 else ~a) & (c if case & 2 else ~c) & (d if case & 1 else ~d)
        put(s, out)

    return run


@handles("shl", "shr")
def _shift(i: Instr, b: Binder) -> Handler:
    """Shifts clamp: by the width or more gives 0, or the sign."""
    type_ = form(i, b, r"shl\.(b16|b32|b64)", r"shr\.([bus](?:16|32|64))")[1]
    expect(i, b, 3)
    bits, dtype = 8 * WIDTH[type_], DTYPE[type_]
    put, x, y = b.dst(i.args[0], type_), b.src(i.args[1], type_), b.src(i.args[2], "u32")
    left, signed = i.parts[0] == "shl", type_[0] == "s"

    def run(s: Active) -> None:
        by = np.asarray(y(s))
        shift = np.minimum(by, np.uint32(bits - 1)).astype(dtype)
        moved = x(s) << shift if left else x(s) >> shift
        if not signed and by.max() >= bits:
            moved = np.where(by >= bits, dtype(0), moved)
        put(s, moved)

    return run


@handles("shf")
def _shf(i: Instr, b: Binder) -> Handler:
    where, how = form(i, b, r"shf\.([lr])\.(wrap|clamp)\.b32").groups()
    expect(i, b, 4)
    put = b.dst(i.args[0], "b32")
    low, high, by = (b.src(a, "u32") for a in i.args[1:4])

    def run(s: Active) -> None:
        n = _width(by(s), how, 31).astype(np.uint64)
        both = np.asarray(high(s)).astype(np.uint64) << np.uint64(32) | low(s)
        moved = (both << n) >> np.uint64(32) if where == "l" else both >> n
        put(s, moved.astype(np.uint32))

    return run


def _width(by: Any, how: str, mask: int) -> np.ndarray:
    """A count of bits, at most 32 (clamp) or modulo 32 (wrap)."""
    by = np.asarray(by, np.uint32)
    return by & np.uint32(mask) if how == "wrap" else np.minimum(by, np.uint32(mask + 1))


@handles("bfe")
def _bfe(i: Instr, b: Binder) -> Handler:
    """Bits past the register's end are its sign, those past the field's end the field's."""
    type_ = form(i, b, r"bfe\.([us](?:32|64))")[1]
    expect(i, b, 4)
    wide = np.int64 if type_[0] == "s" else np.uint64
    put, x = b.dst(i.args[0], type_), b.src(i.args[1], type_)
    start, length = b.src(i.args[2], "u32"), b.src(i.args[3], "u32")

    def run(s: Active) -> None:
        at, size = (np.asarray(v(s)) & np.uint32(0xFF) for v in (start, length))
        value = np.asarray(x(s)).astype(wide) >> np.minimum(at, 63).astype(wide)
        if wide is np.uint64:
            value = np.where(at > 63, wide(0), value)
        spare = (64 - np.clip(size, 1, 64).astype(np.int64)).astype(wide)
        value = value << spare >> spare
        put(s, np.where(size == 0, wide(0), value).astype(DTYPE[type_]))

    return run


@handles("bfi")
def _bfi(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, r"bfi\.(b32|b64)")[1]
    expect(i, b, 5)
    bits, dtype = 8 * WIDTH[type_], DTYPE[type_]
    put = b.dst(i.args[0], type_)
    new, old = b.src(i.args[1], type_), b.src(i.args[2], type_)
    start, length = b.src(i.args[3], "u32"), b.src(i.args[4], "u32")

    def run(s: Active) -> None:
        at, size = (np.asarray(v(s)) & np.uint32(0xFF) for v in (start, length))
        shift = np.minimum(at, 63).astype(np.uint64)
        mask = np.where(at >= bits, np.uint64(0), _ones(size) << shift)
        moved = np.asarray(new(s)).astype(np.uint64) << shift
        put(s, ((np.asarray(old(s)).astype(np.uint64) & ~mask) | (moved & mask)).astype(dtype))

    return run


def _ones(count: np.ndarray) -> np.ndarray:
    """That many low bits of 64 set."""
    some = (np.uint64(1) << np.minimum(count, 63).astype(np.uint64)) - np.uint64(1)
    return np.where(count > 63, ~np.uint64(0), some)


@handles("bmsk")
def _bmsk(i: Instr, b: Binder) -> Handler:
    how = form(i, b, r"bmsk\.(clamp|wrap)\.b32")[1]

    def run(start: Any, count: Any) -> np.ndarray:
        at, size = (_width(v, how, 31).astype(np.uint64) for v in (start, count))
        return (_ones(size) << at).astype(np.uint32)

    return simple(i, b, "u32", run, 2)


@handles("szext")
def _szext(i: Instr, b: Binder) -> Handler:
    how, type_ = form(i, b, r"szext\.(clamp|wrap)\.([us]32)").groups()
    wide = DTYPE[f"{type_[0]}64"]

    def run(value: Any, count: Any) -> np.ndarray:
        size = _width(np.asarray(count).view(np.uint32), how, 31)
        spare = (64 - np.maximum(size, 1).astype(np.int64)).astype(wide)
        kept = np.asarray(value).astype(wide) << spare >> spare
        return np.where(size == 0, wide(0), kept).astype(DTYPE[type_])

    return simple(i, b, type_, run, 2)


def _length(value: np.ndarray) -> np.ndarray:
    """The bits up to the highest that is set, of unsigned values."""
    value = value.astype(np.uint64)
    high = np.frexp((value >> np.uint64(32)).astype(np.float64))[1]
    low = np.frexp((value & np.uint64(0xFFFFFFFF)).astype(np.float64))[1]
    return np.where(high > 0, high + 32, low).astype(np.uint32)


@handles("popc", "clz")
def _count(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, r"\w+\.(b32|b64)")[1]
    expect(i, b, 2)
    put, x, bits = b.dst(i.args[0], "u32"), b.src(i.args[1], type_), np.uint32(8 * WIDTH[type_])
    if i.parts[0] == "popc":
        return lambda s: put(s, np.bitwise_count(x(s)).astype(np.uint32))
    return lambda s: put(s, bits - _length(np.asarray(x(s))))


@handles("bfind")
def _bfind(i: Instr, b: Binder) -> Handler:
    """The highest bit that is not the sign; all ones where there is none."""
    type_ = form(i, b, r"bfind(?:\.shiftamt)?\.([us](?:32|64))")[1]
    expect(i, b, 2)
    put, x = b.dst(i.args[0], "u32"), b.src(i.args[1], type_)
    unsigned, last = DTYPE[f"u{type_[1:]}"], np.uint32(8 * WIDTH[type_] - 1)
    amount = i.has("shiftamt")

    def run(s: Active) -> None:
        value = np.asarray(x(s))
        length = _length(np.where(value < 0, ~value, value).astype(unsigned))
        found = length - np.uint32(1)
        put(s, np.where((length > 0) & amount, last - found, found))

    return run


@handles("brev")
def _brev(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, r"brev\.(b32|b64)")[1]

    def run(x: Any) -> np.ndarray:
        digits = np.unpackbits(_pieces(x, np.uint8), axis=-1, bitorder="little")
        packed = np.packbits(digits[..., ::-1], axis=-1, bitorder="little")
        return packed.view(DTYPE[type_])[..., 0]

    return simple(i, b, type_, run, 1)
