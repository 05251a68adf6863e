"""The executor's floating point arithmetic, comparisons and selections, against Python's fractions
and math."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.errors import Unknown
from tests.ptx.num import bf16_to_f32
from tests.ptx.samples import (
    ALL16,
    F32_EDGES,
    FORMATS,
    WIDTHS,
    decode,
    encode,
    integers,
    pairs,
    patterns,
    reals,
    rng,
    same_bits,
)
from tests.ptx.snippet import each

pytestmark = pytest.mark.ptx


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


# ---- rounding, exactly


def hard(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors and an addend of f32 whose sum is near, or in, the middle between two f32, is
    subnormal, cancels or overflows; and random bits."""
    r = rng()
    a = r.integers(1 << 23, 1 << 24, n).astype(np.float64)
    b = r.integers(1 << 23, 1 << 24, n).astype(np.float64)
    a[::2] = (a[::2] // 4096) * 4096 + 2048  # products of few bits
    b[::2] = (b[::2] // 4096) * 4096
    a *= r.choice([-1, 1], n)
    scale = r.choice([-190, -172, -150, -100, -47, 0, 60, 81], n)
    a, b = np.ldexp(a, scale // 2).astype(np.float32), np.ldexp(b, scale - scale // 2)
    b = b.astype(np.float32)
    product = a.astype(np.float64) * b
    apart = r.choice([-60, -26, -25, -24, -2, 0, 1, 23, 24, 25, 60], n)
    c = np.ldexp(r.choice([-1.0, 1.0], n), np.frexp(product)[1] + apart)
    c[::5] = -product[::5]
    c = c.astype(np.float32)
    bits = patterns(3 * n, np.float32).reshape(3, n)
    edges = np.repeat(F32_EDGES, 8), np.resize(np.roll(F32_EDGES, 5), 8 * len(F32_EDGES))
    edges = *edges, np.roll(edges[0], 29)
    parts = zip((a, b, c), bits, edges, strict=True)
    first, second, third = (np.concatenate(p).astype(np.float32) for p in parts)
    return first, second, third


MODES = ("rn", "rz", "rm", "rp")
_EXACT = {
    "add": (2, lambda a, b: a + b), "sub": (2, lambda a, b: a - b), "mul": (2, lambda a, b: a * b),
    "fma": (3, lambda a, b, c: a * b + c), "div": (2, lambda a, b: a / b),
    "rcp": (1, lambda a: 1 / a),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", list(_EXACT))
def test_f32_is_rounded_once(op, mode):
    count, exact = _EXACT[op]
    sources = hard(400)[:count]
    if op in ("add", "sub"):
        sources = (sources[0] * sources[1], hard(400)[2])
    got = each(f"{op}.{mode}.f32 {', '.join('dabc'[: count + 1])};", np.float32, *sources)
    seen = 0
    for row in zip(got.tolist(), *(reals(x) for x in sources), strict=True):
        if None in row or (op in ("div", "rcp") and row[-1] == 0):
            continue
        value = exact(*row[1:])
        if value:
            assert row[0] == FORMATS["f32"].round(value, mode), [float(v) for v in row]
            seen += 1
    assert seen > 500


@pytest.mark.parametrize("exponent", [0, -149])
def test_fma_beside_the_middle(exponent):
    """Each sum is 2^-46 of half a unit off the middle between two f32, normal or subnormal: in f64
    it is the middle. No lane here is any other case, which might make all of them right."""
    r = rng()
    tail = r.integers(1, 40, 300) * 2.0**-23
    unit = r.integers(64, 1000, 300) + (2**23 if exponent == 0 else 0)
    c = np.ldexp(r.choice([-1.0, 1.0], 300) * unit, exponent).astype(np.float32)
    a = np.ldexp(1 + tail, exponent // 2 - 1).astype(np.float32)
    b = np.ldexp(1 - tail, exponent - exponent // 2).astype(np.float32)
    got = each("fma.rn.f32 d, a, b, c;", np.float32, a, b, c).tolist()
    wanted = [x * y + z for x, y, z in zip(reals(a), reals(b), reals(c), strict=True)]
    assert got == [FORMATS["f32"].round(v, "rn") for v in wanted]


@pytest.mark.parametrize("op", ["add", "sub", "mul", "fma", "div", "rcp", "sqrt"])
def test_f32_zeros_infinities_and_nans(op):
    """As IEEE 754 has them; every NaN is the hardware's one."""
    count = {"fma": 3, "rcp": 1, "sqrt": 1}.get(op, 2)
    n = len(F32_EDGES)
    a, b, c = F32_EDGES.repeat(n), np.tile(F32_EDGES, n), np.resize(np.roll(F32_EDGES, 3), n * n)
    wanted = {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "rcp": np.float32(1) / a,
        "sqrt": np.sqrt(a),
        "fma": (a.astype(np.float64) * b + c).astype(np.float32),  # right where not finite
    }[op]  # fmt: skip
    wanted[np.isnan(wanted)] = np.uint32(0x7FFFFFFF).view(np.float32)
    got = each(f"{op}.rn.f32 {', '.join('dabc'[: count + 1])};", np.float32, a, b, c)
    kept = slice(None) if op != "fma" else ~np.isfinite(wanted) | (wanted == 0)
    same_bits(got[kept], wanted[kept])


@pytest.mark.parametrize("mode", MODES)
def test_sums_that_cancel_have_the_modes_sign(mode):
    a = np.array([1.5, -1.5, 0.0, -0.0, 0.0, -0.0], np.float32)
    b = np.array([-1.5, 1.5, -0.0, 0.0, 0.0, -0.0], np.float32)
    minus = [True, True, True, True, False, True] if mode == "rm" else [False] * 5 + [True]
    got = each(f"add.{mode}.f32 d, a, b;", np.float32, a, b)
    assert np.signbit(got).tolist() == minus
    got = each(f"fma.{mode}.f32 d, a, b, c;", np.float32, a, np.ones(6, np.float32), b)
    assert np.signbit(got).tolist() == minus
    assert not got.any()


@pytest.mark.parametrize("mode", MODES)
def test_sqrt_is_rounded_once(mode):
    x = np.abs(np.concatenate([patterns(1500, np.float32), F32_EDGES]))
    x = np.concatenate([x[np.isfinite(x)], (np.arange(1, 300) ** 2).astype(np.float32)])
    got = each(f"sqrt.{mode}.f32 d, a;", np.float32, x)
    for value, root in zip(reals(x), got.tolist(), strict=True):
        near = [np.nextafter(np.float32(root), np.float32(to)) for to in (0, 1e38)]
        below, above = map(Fraction, map(float, near))
        root = Fraction(root)
        if mode == "rn":
            assert ((root + below) / 2) ** 2 <= value <= ((root + above) / 2) ** 2
        elif mode == "rp":
            assert root == 0 or below**2 < value <= root**2
        else:
            assert root**2 <= value < above**2


def test_f64_fma_is_rounded_once():
    r = rng()
    a, b = (np.ldexp(r.random(2000), r.integers(-500, 500, 2000)) for _ in range(2))
    c = np.ldexp(-a * b, r.choice([-54, -53, -1, 0, 0, 1, 53], 2000))
    got = each("fma.rn.f64 d, a, b, c;", np.float64, a, b, c).tolist()
    for x, y, z, out in zip(reals(a), reals(b), reals(c), got, strict=True):
        assert out == float(x * y + z)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "sqrt", "rcp"])
def test_f64(op):
    a, b = np.abs(patterns(500, np.float64)), patterns(500, np.float64)[::-1].copy()
    wanted = {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "sqrt": np.sqrt(a),
        "rcp": 1 / a,
    }[op]  # fmt: skip
    text = f"{op}.rn.f64 d, a;" if op in ("sqrt", "rcp") else f"{op}.rn.f64 d, a, b;"
    got = each(text, np.float64, a, b)
    assert np.array_equal(got, wanted, equal_nan=True)


# ---- modifiers


def test_ftz_flushes_what_goes_in_and_comes_out():
    tiny, small = np.float32(2.0**-127), np.float32(2.0**-126)
    a = np.array([tiny, -tiny, small, small, -small], np.float32)
    b = np.array([1, 1, 0.5, 1, 0.5], np.float32)

    def check(text: str, *wanted: float) -> None:
        same_bits(each(text, np.float32, a, b), np.array(wanted, np.float32))

    check("mul.ftz.f32 d, a, b;", 0.0, -0.0, 0.0, small, -0.0)
    check("mul.f32 d, a, b;", *(a * b))
    check("add.ftz.f32 d, a, a;", 0.0, -0.0, 2 * small, 2 * small, -2 * small)
    check("neg.ftz.f32 d, a;", -0.0, 0.0, -small, -small, small)
    check("fma.rn.ftz.f32 d, a, b, a;", 0.0, -0.0, 1.5 * small, 2 * small, -1.5 * small)


def test_sat_clamps_to_one_and_kills_nans():
    a = np.array([-1, -0.0, 0.25, 1, 7, np.inf, -np.inf, np.nan], np.float32)
    wanted = np.array([0, 0, 0.25, 1, 1, 1, 0, 0], np.float32)
    same_bits(each("add.sat.f32 d, a, 0f80000000;", np.float32, a), wanted)
    half = a.astype(np.float16)
    got = each("mov.b16 d, 0x8000; add.sat.f16 d, a, d;", np.float16, half)
    same_bits(got, wanted.astype(np.float16))
    same_bits(each("cvt.sat.f32.f32 d, a;", np.float32, a), wanted)
    same_bits(each("cvt.rn.sat.f16.f32 d, a;", np.float16, a), wanted.astype(np.float16))


# ---- order


def least(a: float, b: float, low: bool, nan: bool) -> float:
    if math.isnan(a) or math.isnan(b):
        return math.nan if nan or (math.isnan(a) and math.isnan(b)) else b if math.isnan(a) else a
    first = (a, math.copysign(1, a)) < (b, math.copysign(1, b))
    return a if first == low else b


@pytest.mark.parametrize("type_", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("words", ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs"])
def test_min_and_max(op, words, type_):
    if type_ == "f64" and words:
        return
    edges = np.array([0, 1, 1.5, np.inf, np.nan, -0.0, -1, -1.5, -np.inf], np.float32)
    a, b = edges.repeat(9), np.tile(edges, 9)
    given = [encode(x, type_) for x in (a, b)]
    got = decode(each(f"{op}{words}.{type_} d, a, b;", given[0].dtype, *given), type_)
    a, b = (decode(x, type_) for x in given)
    for x, y, z in zip(a.tolist(), b.tolist(), got.tolist(), strict=True):
        wanted = least(x, y, op == "min", ".NaN" in words)
        if "xorsign" in words:
            wanted = least(abs(x), abs(y), op == "min", ".NaN" in words)
            wanted *= math.copysign(1, x) * math.copysign(1, y)
        assert repr(z).lstrip("-" if math.isnan(z) else "") == repr(wanted).replace("-nan", "nan")


_CMP = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b}  # fmt: skip


@pytest.mark.parametrize("type_", ["f32", "f64", "f16", "bf16"])
def test_float_comparisons(type_):
    edges = np.array([0, 1, np.inf, np.nan, -0.0, -1, 2.0**-130], np.float32)
    a, b = edges.repeat(7), np.tile(edges, 7)
    given = [encode(x, type_) for x in (a, b)]
    rows = list(zip(*(decode(x, type_).tolist() for x in given), strict=True))

    def check(word: str, wanted: list[bool]) -> None:
        got = each(f"setp.{word}.{type_} d, a, b;", bool, *given).tolist()
        assert got == wanted, word
        ones = each(f"set.{word}.u32.{type_} d, a, b;", np.uint32, *given).tolist()
        assert ones == [0xFFFFFFFF if w else 0 for w in wanted]

    nans = [math.isnan(x) or math.isnan(y) for x, y in rows]
    for word, test in _CMP.items():
        check(word, [test(*r) and not n for r, n in zip(rows, nans, strict=True)])
        check(word + "u", [test(*r) or n for r, n in zip(rows, nans, strict=True)])
    check("num", [not n for n in nans])
    check("nan", nans)
    if type_ == "f32":
        got = each("setp.eq.ftz.f32 d, a, b;", bool, *given).tolist()
        tiny = 2.0**-126
        assert got == [x == y or (abs(x) < tiny and abs(y) < tiny) for x, y in rows]


@pytest.mark.parametrize("type_", WIDTHS)
def test_integer_comparisons(type_):
    a, b = pairs(integers(type_, 50), 2)
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    names = dict(_CMP)
    if type_[0] == "u":
        names |= {"lo": _CMP["lt"], "ls": _CMP["le"], "hi": _CMP["gt"], "hs": _CMP["ge"]}
    for word, test in names.items():
        got = each(f"setp.{word}.{type_} d, a, b;", bool, a, b).tolist()
        assert got == [test(*r) for r in rows], word
    got = each(f"set.lt.f32.{type_} d, a, b;", np.float32, a, b).tolist()
    assert got == [float(x < y) for x, y in rows]


@pytest.mark.parametrize("join", ["and", "or", "xor"])
def test_setp_joins_both_results_with_a_predicate(join):
    """p = (a < b) join c, q = !(a < b) join c."""
    a = np.array([0, 1, 0, 1], np.int32)
    c = np.array([0, 0, 1, 1], np.int32)
    text = (
        f"setp.ne.s32 %p1, b, 0; setp.lt.{join}.s32 %p2|%p3, a, 1, {{not}}%p1;"
        "selp.u32 d, 1, 0, %p2; selp.u32 %r9, 2, 0, %p3; or.b32 d, d, %r9;"
    )
    run = {"and": lambda x, y: x and y, "or": lambda x, y: x or y, "xor": lambda x, y: x != y}[join]
    for negated in (False, True):
        got = each(text.replace("{not}", "!" if negated else ""), np.uint32, a, c).tolist()
        for x, y, z in zip(a.tolist(), c.tolist(), got, strict=True):
            less, with_ = x < 1, bool(y) != negated
            assert z == run(less, with_) + 2 * run(not less, with_)


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_packed_comparisons(type_):
    low, high = np.array([1, 2, np.nan, 3], np.float32), np.array([2, 1, 1, -0.0], np.float32)
    first, second = encode(low, type_).view(np.uint16), encode(high, type_).view(np.uint16)
    a = np.stack([first, second], 1).view(np.uint32)[:, 0]
    b = np.stack([second, first], 1).view(np.uint32)[:, 0]
    text = f"setp.lt.{type_}x2 %p1|%p2, a, b; selp.u32 d, 1, 0, %p1; selp.u32 %r9, 2, 0, %p2;"
    text += "or.b32 d, d, %r9;"
    assert each(text, np.uint32, a, b).tolist() == [1, 2, 0, 2]
    one = 0x3C00 if type_ == "f16" else 0x3F80
    got = each(f"set.lt.{type_}x2.{type_}x2 d, a, b;", np.uint32, a, b).tolist()
    assert got == [one, one << 16, 0, one << 16]
    got = each(f"set.ltu.u32.{type_}x2 d, a, b;", np.uint32, a, b).tolist()
    assert got == [0xFFFF, 0xFFFF0000, 0xFFFFFFFF, 0xFFFF0000]


def test_selections():
    a, b = np.array([1, 2, 3, 4, 5], np.float32), np.array([-1, -2, -3, -4, -5], np.float32)
    c = np.array([1, -1, -0.0, np.nan, -(2.0**-130)], np.float32)
    assert each("slct.f32.f32 d, a, b, c;", np.float32, a, b, c).tolist() == [1, -2, 3, -4, -5]
    assert each("slct.ftz.f32.f32 d, a, b, c;", np.float32, a, b, c).tolist() == [1, -2, 3, -4, 5]
    whole = np.array([0, 1, -1, 5, -(2**31)], np.int32)
    assert each("slct.f32.s32 d, a, b, c;", np.float32, a, b, whole).tolist() == [1, 2, -3, 4, -5]
    got = each("setp.gt.s32 %p1, c, 0; selp.f32 d, a, b, %p1;", np.float32, a, b, whole).tolist()
    assert got == [-1, 2, -3, 4, -5]


def test_classes_and_signs():
    x = np.array([0, 2.0**-130, 1, np.inf, np.nan, -0.0, -(2.0**-130), -1, -np.inf], np.float32)
    wanted = {
        "finite": "111001110", "infinite": "000100001", "number": "111101111",
        "notanumber": "000010000", "normal": "001000010", "subnormal": "010000100",
    }  # fmt: skip
    for word, bits in wanted.items():
        got = each(f"testp.{word}.f32 d, a;", bool, x)
        assert "".join(str(int(v)) for v in got) == bits, word
    a, b = np.array([-1, 1, -0.0], np.float32), np.array([3, -3, np.inf], np.float32)
    assert each("copysign.f32 d, a, b;", np.float32, a, b).tolist() == [-3, 3, -np.inf]
    same_bits(each("neg.f32 d, a;", np.float32, x), -x)
    same_bits(each("abs.f32 d, a;", np.float32, x), np.abs(x))
    for type_ in ("f16", "bf16"):
        same_bits(each(f"neg.{type_} d, a;", np.uint16, ALL16), ALL16 ^ np.uint16(0x8000))
        same_bits(each(f"abs.{type_} d, a;", np.uint16, ALL16), ALL16 & np.uint16(0x7FFF))


# ---- f16 and bf16


@pytest.mark.parametrize("type_", ["f16", "bf16"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "fma"])
def test_halves_are_rounded_once(op, type_):
    """Single and packed give the same bits; NaNs are 0x7FFF."""
    count, exact = _EXACT[op]
    bits = patterns(3 * 2000, np.uint16).reshape(3, -1)
    bits[:, ::2] = (bits[:, ::2] & 0x83FF) | (0x3800 if type_ == "f16" else 0x3F00)  # near 1
    bits[2, ::4] &= 0x83FF
    sources = list(bits[:count])
    values = [x.view(np.float16) if type_ == "f16" else bf16_to_f32(x) for x in sources]
    rnd = ".rn" if op == "fma" else ""
    names = ", ".join("dabc"[: count + 1])
    got = each(f"{op}{rnd}.{type_} {names};", np.uint16, *sources)
    seen = 0
    for row in zip(got.tolist(), *(reals(x) for x in values), strict=True):
        if None in row or not (value := exact(*row[1:])):
            continue
        wanted = encode(np.array([FORMATS[type_].round(value, "rn")]), type_).view(np.uint16)[0]
        assert row[0] == wanted, [hex(row[0]), hex(wanted), *map(float, row[1:])]
        seen += 1
    assert seen > 1500
    packed = each(f"{op}{rnd}.{type_}x2 {names};", np.uint32, *(x.view(np.uint32) for x in sources))
    same_bits(packed.view(np.uint16), got)
    nans = np.isnan(sum(v.astype(np.float64) for v in values))
    assert nans.any()
    assert set(got[nans].tolist()) == {0x7FFF}


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_relu_and_half_ftz(type_):
    x = encode(np.array([-2, -0.0, 0, 3, np.nan, -np.inf], np.float32), type_).view(np.uint16)
    one = encode(np.ones(6, np.float32), type_).view(np.uint16)
    got = each(f"fma.rn.relu.{type_} d, a, b, c;", np.uint16, x, one, np.zeros_like(x))
    assert got.tolist() == [0, 0, 0, int(x[3]), 0x7FFF, 0]
    if type_ == "f16":
        y = np.array([0x0001, 0x8001, 0x0400, 0x8400], np.uint16)
        half = np.full(4, 0x3800, np.uint16)
        assert each("mul.ftz.f16 d, a, b;", np.uint16, y, half).tolist() == [0, 0x8000, 0, 0x8000]
        assert each("mul.f16 d, a, b;", np.uint16, y, half).tolist() == [0, 0x8000, 0x0200, 0x8200]


# ---- approximations


def reach(n: int) -> np.ndarray:
    """f32 of all exponents, both signs."""
    x = patterns(n, np.float32)
    return x[np.isfinite(x)]


_SPECIAL = {  # input, result
    "ex2": [(-np.inf, 0.0), (np.inf, np.inf), (-0.0, 1.0), (-1000, 0.0), (128, np.inf), (3, 8)],
    "lg2": [(0.0, -np.inf), (-0.0, -np.inf), (np.inf, np.inf), (-1, np.nan), (8, 3), (1, 0)],
    "rcp": [(0.0, np.inf), (-0.0, -np.inf), (np.inf, 0.0), (-np.inf, -0.0), (4, 0.25)],
    "rsqrt": [(0.0, np.inf), (-0.0, -np.inf), (np.inf, 0.0), (-1, np.nan), (4, 0.5)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (np.inf, np.inf), (-1, np.nan), (4, 2)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (np.inf, np.nan), (-np.inf, np.nan)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (np.inf, np.nan)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (np.inf, 1.0), (-np.inf, -1.0)],
}


@pytest.mark.parametrize("op", list(_SPECIAL))
def test_approximations_of_special_values(op):
    x, wanted = np.array([*_SPECIAL[op], (np.nan, np.nan)], np.float32).T.copy()
    wanted[np.isnan(wanted)] = np.uint32(0x7FFFFFFF).view(np.float32)
    same_bits(each(f"{op}.approx.f32 d, a;", np.float32, x), wanted)


_ERRORS = {  # relative error, as the ISA has it
    "ex2": (lambda x: 2.0**x, 2**-22), "rcp": (lambda x: 1 / x, 2**-23),
    "rsqrt": (lambda x: 1 / math.sqrt(x), 2**-22.9), "sqrt": (math.sqrt, 2**-23),
    "tanh": (math.tanh, 2**-11),
}  # fmt: skip


@pytest.mark.parametrize("op", list(_ERRORS))
def test_approximations_are_near(op):
    exact, error = _ERRORS[op]
    x = reach(2000) if op in ("rcp", "tanh") else np.abs(reach(2000))
    x = rng().uniform(-140, 127, 1000).astype(np.float32) if op == "ex2" else x[x != 0]
    got = each(f"{op}.approx.f32 d, a;", np.float32, x).tolist()
    for value, z in zip(x.tolist(), got, strict=True):
        true = exact(value)
        over = math.isinf(z) and abs(true) >= 2.0**128
        assert over or abs(z - true) <= error * abs(true) + 2.0**-149


def test_absolute_errors_of_lg2_sin_and_cos():
    x = np.abs(rng().uniform(0.5, 2, 500)).astype(np.float32)
    got = each("lg2.approx.f32 d, a;", np.float32, x)
    assert (
        max(abs(g - math.log2(v)) for g, v in zip(got.tolist(), x.tolist(), strict=True)) < 2**-22
    )
    x = rng().uniform(-math.pi, math.pi, 500).astype(np.float32)
    for op, exact in (("sin", math.sin), ("cos", math.cos)):
        got = each(f"{op}.approx.f32 d, a;", np.float32, x)
        errors = [abs(g - exact(v)) for g, v in zip(got.tolist(), x.tolist(), strict=True)]
        assert max(errors) < 2**-20.5


def test_approximations_with_ftz():
    tiny = np.array([2.0**-130, -(2.0**-130)], np.float32)
    assert each("rcp.approx.ftz.f32 d, a;", np.float32, tiny).tolist() == [np.inf, -np.inf]
    assert each("rcp.approx.f32 d, a;", np.float32, tiny * 8).tolist() == [2.0**127, -(2.0**127)]
    assert each("lg2.approx.ftz.f32 d, a;", np.float32, tiny).tolist() == [-np.inf, -np.inf]
    assert each("lg2.approx.f32 d, a;", np.float32, tiny[:1]).tolist() == [-130.0]
    x = np.array([-127, -126], np.float32)
    assert each("ex2.approx.ftz.f32 d, a;", np.float32, x).tolist() == [0.0, 2.0**-126]
    assert each("ex2.approx.f32 d, a;", np.float32, x).tolist() == [2.0**-127, 2.0**-126]
    x = np.array([2.0**127], np.float32)
    assert each("rcp.approx.ftz.f32 d, a;", np.float32, x).tolist() == [0.0]


def test_division_by_the_very_large():
    """div.approx gives 0 beyond 2^126, and NaN from an infinity; div.full does not."""
    a = np.array([2.0**127, -(2.0**127), np.inf, 2.0**127, 1], np.float32)
    b = np.array([2.0**127, 2.0**127, 2.0**127, 2.0**126, 0], np.float32)
    got = each("div.approx.f32 d, a, b;", np.float32, a, b)
    wanted = np.array([0.0, -0.0, np.uint32(0x7FFFFFFF).view(np.float32), 2, np.inf], np.float32)
    same_bits(got, wanted)
    assert each("div.full.f32 d, a, b;", np.float32, a, b).tolist() == [1, -1, np.inf, 2, np.inf]


@pytest.mark.parametrize("type_", ["f16", "bf16"])
@pytest.mark.parametrize("op", ["ex2", "tanh"])
def test_half_approximations(op, type_):
    values = decode(ALL16.view(np.float16) if type_ == "f16" else ALL16, type_)
    ftz = ".ftz" if (op, type_) == ("ex2", "bf16") else ""
    got = each(f"{op}.approx{ftz}.{type_} d, a;", np.uint16, ALL16)
    true = (np.exp2 if op == "ex2" else np.tanh)(values)
    wanted = encode(true, type_).view(np.uint16)
    if ftz:
        wanted = np.where(np.abs(true) < 2.0**-126, np.uint16(0), wanted)
    nan = np.isnan(values)
    same_bits(got[~nan], wanted[~nan])
    assert set(got[nan].tolist()) == {0x7FFF}
    packed = each(f"{op}.approx{ftz}.{type_}x2 d, a;", np.uint32, ALL16.view(np.uint32))
    same_bits(packed.view(np.uint16), got)


# ---- what nobody knows


_REFUSED = [
    "add.rz.f64 d, a, b;", "add.f32x2 d, a, b;", "fma.rn.oob.f16 d, a, b, a;",
    "min.f32 d, a, b, a;", "add.s32.bogus d, a, b;", "mul.s32 d, a, b;", "div.f32 d, a, b;",
    "mad.hi.sat.s32 d, a, b, a;", "shl.s32 d, a, b;", "and.u32 d, a, b;",
    "lop3.or.b32 d|%p1, a, b, a, 1, %p2;", "popc.u32 d, a;", "setp.lo.s32 %p1, a, b;",
    "setp.eq.bogus.s32 %p1, a, b;", "selp.pred %p1, %p2, %p3, %p4;", "set.eq.u32.b8 d, a, b;",
    "prmt.b32.f5e d, a, b, a;", "ex2.approx.f64 d, a;", "ex2.f32 d, a;",
    "tanh.approx.ftz.f32 d, a;", "rcp.approx.ftz.f64 d, a;", "cvt.f32.s32 d, a;",
    "cvt.s32.f32 d, a;", "cvt.rn.s32.f32 d, a;", "cvt.rni.f32.s32 d, a;", "cvt.f16.f32 d, a;",
    "cvt.rn.e4m3x2.f32 d, a, b;", "cvt.rn.satfinite.e2m1x2.f32 d, a, b;",
    "cvt.rs.bf16x2.f32 d, a, b, a;", "cvt.sat.u64.u32 d, a;", "cvt.rn.tf32.f32.bogus d, a;",
    "cvt.rn.f32.f16 d, a;", "mov.b8 d, a;", "add.f32 d, a, 1;", "add.s32 d, a, 0f3F800000;",
    "add.s32 d, !a, b;", "add.s32 d, a;", "neg.u32 d, a;", "abs.u32 d, a;",
    "cvt.rna.f32.f64 d, a;", "fns.b32 d, a, b, a;", "testp.odd.f32 %p1, a;",
    "bfe.b32 d, a, b, b;", "bfind.b32 d, a;", "dp4a.u32.u8 d, a, b, a;", "add.ftz.f64 d, a, b;",
    "sub.s16x2 d, a, b;", "max.relu.u32 d, a, b;", "rem.f32 d, a, b;",
]  # fmt: skip


@pytest.mark.parametrize("text", _REFUSED)
def test_what_is_no_instruction_of_sm_90_is_refused(text):
    x = np.ones(32, np.uint32)
    with pytest.raises(Unknown):
        each(text, np.uint32, x, x)
