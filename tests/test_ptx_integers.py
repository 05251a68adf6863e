"""The executor's integer instructions, each against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import snippet
from tests.ptx.errors import Fault, Uninitialised
from tests.ptx.samples import DTYPE, WIDTHS, clamp, integers, pairs, patterns, same_bits, wrap
from tests.ptx.snippet import each

pytestmark = pytest.mark.ptx

# ---- integers


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def low24(value: int, type_: str) -> int:
    value &= 0xFFFFFF
    return value - (1 << 24) if type_[0] == "s" and value >> 23 else value


_SIMPLE = {
    "add": (WIDTHS, 2, lambda t, a, b: a + b),
    "sub": (WIDTHS, 2, lambda t, a, b: a - b),
    "mul.lo": (WIDTHS, 2, lambda t, a, b: a * b),
    "mul.hi": (WIDTHS, 2, lambda t, a, b: a * b >> int(t[1:])),
    "mad.lo": (WIDTHS, 3, lambda t, a, b, c: a * b + c),
    "mad.hi": (WIDTHS, 3, lambda t, a, b, c: (a * b >> int(t[1:])) + c),
    "mul24.lo": (("u32", "s32"), 2, lambda t, a, b: low24(a, t) * low24(b, t)),
    "mul24.hi": (("u32", "s32"), 2, lambda t, a, b: low24(a, t) * low24(b, t) >> 16),
    "mad24.lo": (("u32", "s32"), 3, lambda t, a, b, c: low24(a, t) * low24(b, t) + c),
    "sad": (WIDTHS, 3, lambda t, a, b, c: c + abs(a - b)),
    "min": (WIDTHS, 2, lambda t, a, b: min(a, b)),
    "max": (WIDTHS, 2, lambda t, a, b: max(a, b)),
    "max.relu": (("s32",), 2, lambda t, a, b: max(a, b, 0)),
    "add.sat": (("s32",), 2, lambda t, a, b: clamp(a + b, t)),
    "sub.sat": (("s32",), 2, lambda t, a, b: clamp(a - b, t)),
    "abs": (("s16", "s32", "s64"), 1, lambda t, a: abs(a)),
    "neg": (("s16", "s32", "s64"), 1, lambda t, a: -a),
}


@pytest.mark.parametrize(("op", "type_"), [(op, t) for op, v in _SIMPLE.items() for t in v[0]])
def test_integers(op, type_):
    _, count, wanted = _SIMPLE[op]
    sources = pairs(integers(type_), count)
    text = f"{op}.{type_} {', '.join('dabc'[: count + 1])};"
    got = each(text, DTYPE[type_], *sources)
    rows = zip(*(x.tolist() for x in sources), strict=True)
    assert got.tolist() == [wrap(wanted(type_, *row), type_) for row in rows]


@pytest.mark.parametrize("op", ["div", "rem"])
@pytest.mark.parametrize("type_", WIDTHS)
def test_division_is_toward_zero(op, type_):
    a, b = pairs(integers(type_), 2)
    b[b == 0] = 1
    got = each(f"{op}.{type_} d, a, b;", DTYPE[type_], a, b).tolist()
    for x, y, z in zip(a.tolist(), b.tolist(), got, strict=True):
        q = quotient(x, y)
        assert z == wrap(q if op == "div" else x - q * y, type_), (x, y)


def test_division_by_zero_is_an_error():
    with pytest.raises(Fault, match="division by zero, by lane 1 "):
        each("div.s32 d, a, b;", np.int32, np.ones(32, np.int32), 1 - np.eye(32, dtype=np.int32)[1])


@pytest.mark.parametrize("type_", ["u16", "s16", "u32", "s32"])
def test_wide_products(type_):
    wide = f"{type_[0]}{2 * int(type_[1:])}"
    a, b = pairs(integers(type_), 2)
    c = np.resize(integers(wide), len(a))
    whole = [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert each(f"mul.wide.{type_} d, a, b;", DTYPE[wide], a, b).tolist() == whole
    got = each(f"mad.wide.{type_} d, a, b, c;", DTYPE[wide], a, b, c).tolist()
    assert got == [wrap(x + y, wide) for x, y in zip(whole, c.tolist(), strict=True)]


@pytest.mark.parametrize("op", ["add", "min", "max", "max.relu"])
@pytest.mark.parametrize("kind", "us")
def test_packed_integers(op, kind):
    if op.endswith("relu") and kind == "u":
        return
    a, b = (x.view(DTYPE[f"{kind}16"]) for x in pairs(patterns(600, np.uint32), 2))
    run = {"add": lambda x, y: x + y, "min": min, "max": max, "max.relu": lambda x, y: max(x, y, 0)}
    wanted = [wrap(run[op](x, y), f"{kind}16") for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    got = each(f"{op}.{kind}16x2 d, a, b;", np.uint32, a.view(np.uint32), b.view(np.uint32))
    assert got.view(DTYPE[f"{kind}16"]).tolist() == wanted


def words(value: int, count: int) -> list[int]:
    return [value >> (32 * i) & 0xFFFFFFFF for i in range(count)]


_CHAINS = {
    "add": "add.cc.u32 %r20, %r10, %r13; addc.cc.u32 %r21, %r11, %r14; addc.u32 %r22, %r12, %r15;",
    "sub": "sub.cc.u32 %r20, %r10, %r13; subc.cc.u32 %r21, %r11, %r14; subc.u32 %r22, %r12, %r15;",
    # the two lower words of a times the lowest of b, and the two upper words of b added
    "mad": "mad.lo.cc.u32 %r20, %r10, %r13, %r14; madc.hi.cc.u32 %r21, %r10, %r13, %r15;"
    "addc.u32 %r22, 0, 0; mad.lo.cc.u32 %r21, %r11, %r13, %r21;"
    "madc.hi.u32 %r22, %r11, %r13, %r22;",
}


@pytest.mark.parametrize("op", list(_CHAINS))
def test_carries_make_long_numbers(op):
    x = pairs(integers("u32"), 1)[0][:640]
    a, b = [np.roll(x, i) for i in (0, 3, 5)], [np.roll(x, i) for i in (17, 1, 40)]
    out = [np.zeros_like(x) for _ in range(3)]
    text = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.s32 %r1, %r1, 32, %r2;"
    places = [f"ld.param.u64 %rd1, [p{i}]; mad.wide.s32 %rd1, %r1, 4, %rd1;" for i in range(9)]
    for i in range(6):
        text += places[i] + f"ld.global.u32 %r{i + 10}, [%rd1];"
    text += _CHAINS[op]
    for i in range(3):
        text += places[i + 6] + f"st.global.u32 [%rd1], %r{i + 20};"
    snippet.run(text, [("u64", v) for v in (*a, *b, *out)], grid=(len(x) // 32,))
    for k in range(len(x)):
        first, second = (sum(int(v[k]) << (32 * i) for i, v in enumerate(w)) for w in (a, b))
        product = (first & (2**64 - 1)) * (second & 0xFFFFFFFF) + (second >> 32)
        wanted = {"add": first + second, "sub": first - second, "mad": product}[op]
        assert [int(o[k]) for o in out] == [wanted >> (32 * i) & 0xFFFFFFFF for i in range(3)]


def test_a_carry_that_nothing_wrote_is_an_error():
    with pytest.raises(Uninitialised, match="the carry is read"):
        each("addc.u32 d, a, b;", np.uint32, np.ones(32, np.uint32), np.ones(32, np.uint32))


@pytest.mark.parametrize("left", "us")
@pytest.mark.parametrize("right", "us")
@pytest.mark.parametrize("op", ["dp4a", "dp2a.lo", "dp2a.hi"])
def test_dot_products(op, left, right):
    a, b, c = pairs(patterns(500, np.uint32), 3)
    first = a.view(DTYPE[f"{left}{8 if op == 'dp4a' else 16}"]).reshape(len(a), -1)
    second = b.view(DTYPE[f"{right}8"]).reshape(-1, 4)
    second = second if op == "dp4a" else second[:, 2:] if op == "dp2a.hi" else second[:, :2]
    wanted = [
        (int(z) + sum(p * q for p, q in zip(x, y, strict=True))) & 0xFFFFFFFF
        for x, y, z in zip(first.tolist(), second.tolist(), c, strict=True)
    ]
    assert each(f"{op}.{left}32.{right}32 d, a, b, c;", np.uint32, a, b, c).tolist() == wanted


# ---- bits

COUNTS = np.array(
    [0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 2**31, 2**32 - 1], np.uint32
)


@pytest.mark.parametrize("type_", ["b16", "b32", "b64"])
def test_logic(type_):
    a, b = pairs(integers(f"u{type_[1:]}"), 2)
    for op, run in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        same_bits(each(f"{op}.{type_} d, a, b;", a.dtype, a, b), run(a, b))
    same_bits(each(f"not.{type_} d, a;", a.dtype, a), ~a)
    same_bits(each(f"cnot.{type_} d, a;", a.dtype, a), (a == 0).astype(a.dtype))


@pytest.mark.parametrize("type_", ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"])
def test_shifts_clamp(type_):
    kind = type_ if type_[0] != "b" else f"u{type_[1:]}"
    bits = int(type_[1:])
    a = np.repeat(integers(kind, 60), len(COUNTS))
    by = np.resize(COUNTS, len(a))
    rows = list(zip(a.tolist(), by.tolist(), strict=True))
    got = each(f"shr.{type_} d, a, b;", DTYPE[kind], a, by).tolist()
    assert got == [x >> min(n, bits) for x, n in rows]
    if type_[0] == "b":
        got = each(f"shl.{type_} d, a, b;", DTYPE[kind], a, by).tolist()
        assert got == [wrap(x << n, kind) if n < bits else 0 for x, n in rows]


@pytest.mark.parametrize("how", ["l.wrap", "l.clamp", "r.wrap", "r.clamp"])
def test_funnel_shift(how):
    a, b = (np.repeat(x, len(COUNTS)) for x in pairs(patterns(60, np.uint32), 2))
    by = np.resize(COUNTS, len(a))
    got = each(f"shf.{how}.b32 d, a, b, c;", np.uint32, a, b, by).tolist()
    for low, high, n, z in zip(a.tolist(), b.tolist(), by.tolist(), got, strict=True):
        n = n % 32 if how.endswith("wrap") else min(n, 32)
        both = high << 32 | low
        assert z == ((both << n >> 32) if how[0] == "l" else both >> n) & 0xFFFFFFFF


@pytest.mark.parametrize("type_", ["u32", "s32", "u64", "s64"])
def test_fields(type_):
    """bfe and bfi bit by bit, as the ISA's pseudocode has them."""
    bits, dtype = int(type_[1:]), DTYPE[type_]
    a = np.tile(integers(type_, 6)[:18], len(COUNTS) ** 2)
    start, size = np.resize(COUNTS, len(a)), np.repeat(COUNTS, len(a) // len(COUNTS))
    got = each(f"bfe.{type_} d, a, b, c;", dtype, a, start, size).tolist()
    for x, at, n, z in zip(a.tolist(), start.tolist(), size.tolist(), got, strict=True):
        at, n, last = at & 255, n & 255, bits - 1
        sign = 0 if type_[0] == "u" or n == 0 else x >> min(at + n - 1, last) & 1
        field = [x >> (at + k) & 1 if k < n and at + k <= last else sign for k in range(bits)]
        assert z == wrap(sum(v << k for k, v in enumerate(field)), type_), (x, at, n)
    if type_[0] == "u":
        old = a[::-1].copy()
        got = each(f"bfi.b{bits} d, a, e, b, c;", dtype, a, start, size, old).tolist()
        rows = zip(*(v.tolist() for v in (a, start, size, old)), got, strict=True)
        for x, at, n, w, z in rows:
            at, n = at & 255, n & 255
            mask = (((1 << n) - 1) << at) & ((1 << bits) - 1)
            assert z == (w & ~mask) | (x << at & mask), (x, at, n)


@pytest.mark.parametrize("bits", [32, 64])
def test_counts_of_bits(bits):
    a = integers(f"u{bits}")
    rows = a.tolist()
    assert each(f"popc.b{bits} d, a;", np.uint32, a).tolist() == [x.bit_count() for x in rows]
    assert each(f"clz.b{bits} d, a;", np.uint32, a).tolist() == [
        bits - x.bit_length() for x in rows
    ]
    mirrored = [int(f"{x:0{bits}b}"[::-1], 2) for x in rows]
    assert each(f"brev.b{bits} d, a;", a.dtype, a).tolist() == mirrored
    for type_ in (f"u{bits}", f"s{bits}"):
        signed = a.view(DTYPE[type_])
        top = [(~x if x < 0 else x).bit_length() - 1 for x in signed.tolist()]
        got = each(f"bfind.{type_} d, a;", np.uint32, signed).tolist()
        assert got == [n & 0xFFFFFFFF for n in top]
        got = each(f"bfind.shiftamt.{type_} d, a;", np.uint32, signed).tolist()
        assert got == [bits - 1 - n if n >= 0 else 0xFFFFFFFF for n in top]


@pytest.mark.parametrize("how", ["clamp", "wrap"])
def test_masks_and_extensions(how):
    a, by = np.repeat(COUNTS, len(COUNTS)), np.tile(COUNTS, len(COUNTS))

    def width(n: int) -> int:
        return n % 32 if how == "wrap" else min(n, 32)

    got = each(f"bmsk.{how}.b32 d, a, b;", np.uint32, a, by).tolist()
    rows = list(zip(a.tolist(), by.tolist(), strict=True))
    assert got == [((1 << width(n)) - 1 << width(x)) & 0xFFFFFFFF for x, n in rows]
    for type_ in ("u32", "s32"):
        x = np.resize(integers("u32"), len(by))
        got = each(f"szext.{how}.{type_} d, a, b;", np.uint32, x, by).tolist()
        for value, n, z in zip(x.tolist(), by.tolist(), got, strict=True):
            n = width(n)
            kept = value & ((1 << n) - 1)
            if type_ == "s32" and n and kept >> (n - 1):
                kept -= 1 << n
            assert z == kept & 0xFFFFFFFF, (hex(value), n)


@pytest.mark.parametrize("table", [0x00, 0xFF, 0x80, 0xFE, 0x96, 0xE8, 0xCA, 0x1B, 0x2D])
def test_lop3(table):
    a, b, c = pairs(patterns(200, np.uint32), 3)
    got = each(f"lop3.b32 d, a, b, c, {table};", np.uint32, a, b, c).tolist()
    for x, y, z, out in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        for k in range(32):
            case = (x >> k & 1) << 2 | (y >> k & 1) << 1 | (z >> k & 1)
            assert out >> k & 1 == table >> case & 1


_PRMT = {  # bytes from the highest, as in the ISA's tables
    "f4e": ["3210", "4321", "5432", "6543"], "b4e": ["5670", "6701", "7012", "0123"],
    "rc8": ["0000", "1111", "2222", "3333"], "ecl": ["3210", "3211", "3222", "3333"],
    "ecr": ["0000", "1110", "2210", "3210"], "rc16": ["1010", "3232", "1010", "3232"],
}  # fmt: skip


@pytest.mark.parametrize("mode", ["", *_PRMT])
def test_prmt(mode):
    a, b, c = pairs(patterns(300, np.uint32), 3)
    got = each(f"prmt.b32{'.' + mode if mode else ''} d, a, b, c;", np.uint32, a, b, c).tolist()
    for x, y, z, out in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        data = (y << 32 | x).to_bytes(8, "little")
        if mode:
            wanted = [data[int(k)] for k in reversed(_PRMT[mode][z & 3])]
        else:
            wanted = []
            for k in range(4):
                nibble = z >> (4 * k) & 15
                byte = data[nibble & 7]
                wanted.append((0xFF if byte & 128 else 0) if nibble & 8 else byte)
        assert out == int.from_bytes(bytes(wanted), "little")


def test_prmt_by_a_constant():
    a, b = pairs(patterns(64, np.uint32), 2)
    got = each("prmt.b32 d, a, b, 0x5410;", np.uint32, a, b)
    same_bits(got, (a & 0xFFFF) | (b << np.uint32(16)))
