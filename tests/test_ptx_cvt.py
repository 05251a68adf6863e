"""The executor's conversions, against torch where it has them and against Python's integers and
fractions for the rest."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.ptx.num import bf16_to_f32
from tests.ptx.samples import (
    ALL16,
    DTYPE,
    F32_EDGES,
    FORMATS,
    clamp,
    encode,
    integers,
    patterns,
    reals,
    rng,
    same_bits,
    wrap,
)
from tests.ptx.snippet import each

pytestmark = pytest.mark.ptx

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
FP8 = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


def around(x: np.ndarray) -> np.ndarray:
    """f32 of every f16 and bf16, of every exponent, and next to what rounds in the middle."""
    near = bf16_to_f32(ALL16[::7]).view(np.uint32)
    middle = np.concatenate([near | np.uint32(0x8000), near | np.uint32(0x7FFF), near + 0x8001])
    half = ALL16[::3].view(np.float16).astype(np.float32).view(np.uint32)
    half = np.concatenate([half | np.uint32(0x1000), half | np.uint32(0xFFF), half + 0x1001])
    return np.concatenate([x, F32_EDGES, middle.view(np.float32), half.view(np.float32)])


def samples() -> np.ndarray:
    return around(patterns(4000, np.float32))


def short(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    made = torch.from_numpy(x).to(dtype)
    return made.view(torch.int16 if made.element_size() == 2 else torch.uint8).numpy()


# ---- integers to integers


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("from_", INTEGERS)
def test_integers_are_cut_off_extended_and_clamped(to, from_):
    x = integers(from_, 100)
    wanted = [wrap(v, to) for v in x.tolist()]
    assert each(f"cvt.{to}.{from_} d, a;", DTYPE[to], x).tolist() == wanted
    into, out_of = np.iinfo(DTYPE[to]), np.iinfo(DTYPE[from_])
    if into.min > out_of.min or into.max < out_of.max:
        wanted = [clamp(v, to) for v in x.tolist()]
        assert each(f"cvt.sat.{to}.{from_} d, a;", DTYPE[to], x).tolist() == wanted


@pytest.mark.parametrize(("to", "sign"), [("u8", 0), ("s8", -1)])
def test_a_wider_register_is_extended(to, sign):
    x = np.array([0x1FF, 0x80, 0x7F], np.uint32)
    got = each(f"cvt.{to}.u32 d, a;", np.int32, x).tolist()
    assert got == [sign or 255, -128 if sign else 128, 127]


def test_pack():
    a, b = integers("s32", 200), integers("s32", 200)[::-1].copy()
    c = patterns(len(a), np.uint32)
    rows = list(zip(a.tolist(), b.tolist(), c.tolist(), strict=True))
    for to in ("u16", "s16"):
        got = each(f"cvt.pack.sat.{to}.s32 d, a, b;", np.uint32, a, b).tolist()
        assert got == [(clamp(x, to) & 0xFFFF) << 16 | clamp(y, to) & 0xFFFF for x, y, _ in rows]
    for to in ("u8", "s8"):
        got = each(f"cvt.pack.sat.{to}.s32.b32 d, a, b, c;", np.uint32, a, b, c).tolist()
        low = [(clamp(x, to) & 0xFF) << 8 | clamp(y, to) & 0xFF for x, y, _ in rows]
        assert got == [(z << 16 | v) & 0xFFFFFFFF for v, (_, _, z) in zip(low, rows, strict=True)]


# ---- floats to integers


def rounded(x: Fraction, mode: str) -> int:
    return {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode](x)


def edges_of(from_: str) -> np.ndarray:
    powers = [s * 2.0**k for k in (7, 8, 15, 16, 31, 32, 63, 64) for s in (1, -1)]
    whole = [p + d for p in powers for d in (-1, -0.5, 0, 0.5)]
    small = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49, -0.51, 1e-40, np.inf, -np.inf, np.nan]
    drawn = rng().standard_normal(200) * 2.0 ** rng().integers(-2, 66, 200)
    x = np.concatenate([whole, small, drawn])
    return encode(x, from_)


def value_of(x: np.ndarray, from_: str) -> np.ndarray:
    return (bf16_to_f32(x) if from_ == "bf16" else x).astype(np.float64)


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("from_", ["f32", "f64", "f16", "bf16"])
def test_floats_to_integers(to, from_):
    """Clamped to the range; a NaN is 0, but of f64 or to 64 bits the top bit alone."""
    x = edges_of(from_)
    bits = int(to[1:])
    if from_ == "bf16" and bits == 8:  # ptxas has no such form
        return
    nan = wrap(1 << (bits - 1), to) if from_ == "f64" or bits == 64 else 0
    info = np.iinfo(DTYPE[to])
    for mode in ("rni", "rzi", "rmi", "rpi"):
        got = each(f"cvt.{mode}.{to}.{from_} d, a;", DTYPE[to], x).tolist()
        for value, z in zip(value_of(x, from_).tolist(), got, strict=True):
            if math.isnan(value):
                assert z == nan
            elif math.isinf(value):
                assert z == (info.max if value > 0 else info.min)
            else:
                assert z == clamp(rounded(Fraction(value), mode), to), (value, mode)


def test_ftz_of_floats_to_integers():
    x = np.array([2.0**-130, -(2.0**-130)], np.float32)
    assert each("cvt.rpi.s32.f32 d, a;", np.int32, x).tolist() == [1, 0]
    assert each("cvt.rpi.ftz.s32.f32 d, a;", np.int32, x).tolist() == [0, 0]


# ---- integers to floats


@pytest.mark.parametrize("from_", INTEGERS)
@pytest.mark.parametrize("to", ["f32", "f16", "bf16", "f64"])
def test_integers_to_floats(to, from_):
    x = integers(from_, 200)
    if from_[1:] == "64":  # near the middle between two f32, and between two f64
        whole = (1 << 40) + (np.arange(-40, 40) << 16), (1 << 62) + (np.arange(-40, 40) << 8)
        x = np.concatenate([x, *((w + d).astype(x.dtype) for w in whole for d in (-1, 0, 1))])
    for mode in ("rn", "rz", "rm", "rp"):
        if to == "bf16" and from_[1:] == "8":  # ptxas has no such form
            continue
        got = each(f"cvt.{mode}.{to}.{from_} d, a;", DTYPE[to], x)
        wanted = [FORMATS[to].round(Fraction(v), mode) if v else 0.0 for v in x.tolist()]
        same_bits(got, encode(np.array(wanted), to).view(DTYPE[to]))


# ---- floats to floats


@pytest.mark.parametrize("to", ["f16", "bf16"])
def test_f32_to_halves(to):
    x = samples()
    got = each(f"cvt.rn.{to}.f32 d, a;", np.uint16, x)
    wanted = short(x, torch.half if to == "f16" else torch.bfloat16).view(np.uint16)
    nan = np.isnan(x)
    same_bits(got[~nan], wanted[~nan])
    assert set(got[nan].tolist()) == {0x7FFF}


@pytest.mark.parametrize("to", ["f16", "bf16", "tf32"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp", "rna"])
def test_directed_rounding_to_shorter_formats(to, mode):
    if (mode == "rna" and to != "tf32") or (to == "tf32" and mode in ("rm", "rp")):
        return
    x = samples()[::23]
    got = each(f"cvt.{mode}.{to}.f32 d, a;", np.uint32 if to == "tf32" else np.uint16, x)
    wanted = [FORMATS[to].round(v, mode) if v else 0.0 for v in reals(x)]
    finite = np.isfinite(x) & (x != 0)
    wanted = np.array(wanted)[finite]
    kind = np.uint32 if to == "tf32" else np.uint16
    same_bits(got[finite], encode(wanted, "f32" if to == "tf32" else to).view(kind))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_f64_is_rounded_once(to, mode):
    """Also where a rounding to f32 in between would be wrong."""
    base = samples()[::83].astype(np.float64)
    x = np.concatenate([base, base * (1 + 2.0**-40), base * (1 - 2.0**-40), base * (1 + 2.0**-24)])
    x = x[np.isfinite(x) & (x != 0)]
    got = each(f"cvt.{mode}.{to}.f64 d, a;", DTYPE[to], x)
    wanted = [FORMATS[to].round(v, mode) for v in reals(x)]
    same_bits(got, encode(np.array(wanted), to).view(DTYPE[to]))


def test_widening_is_exact():
    got = each("cvt.f32.f16 d, a;", np.float32, ALL16)
    wanted = ALL16.view(np.float16).astype(np.float32)
    wanted[np.isnan(wanted)] = np.uint32(0x7FFFFFFF).view(np.float32)
    same_bits(got, wanted)
    same_bits(each("cvt.f32.bf16 d, a;", np.uint32, ALL16), ALL16.astype(np.uint32) << 16)
    got = each("cvt.f64.bf16 d, a;", np.float64, ALL16)
    assert np.array_equal(got, bf16_to_f32(ALL16).astype(np.float64), equal_nan=True)
    got = each("cvt.f64.f32 d, a;", np.float64, F32_EDGES)
    assert np.array_equal(got, F32_EDGES.astype(np.float64), equal_nan=True)


def test_f16_and_bf16_to_each_other():
    got = each("cvt.rn.bf16.f16 d, a;", np.uint16, ALL16)
    half = ALL16.view(np.float16).astype(np.float32)
    wanted = short(half, torch.bfloat16).view(np.uint16)
    same_bits(got[~np.isnan(half)], wanted[~np.isnan(half)])
    got = each("cvt.rn.f16.bf16 d, a;", np.uint16, ALL16)
    wide = bf16_to_f32(ALL16)
    wanted = wide.astype(np.float16).view(np.uint16)
    same_bits(got[~np.isnan(wide)], wanted[~np.isnan(wide)])
    # ptxas makes the same F2F of both, without a rounding and with .rn.
    same_bits(each("cvt.f16.bf16 d, a;", np.uint16, ALL16), got)
    same_bits(each("cvt.bf16.f16 d, a;", np.uint16, ALL16),
              each("cvt.rn.bf16.f16 d, a;", np.uint16, ALL16))  # fmt: skip


@pytest.mark.parametrize("type_", ["f32", "f64", "f16", "bf16"])
def test_rounding_to_an_integral_float(type_):
    """A zero keeps the sign."""
    x = edges_of(type_)
    for mode in ("rni", "rzi", "rmi", "rpi"):
        got = value_of(each(f"cvt.{mode}.{type_}.{type_} d, a;", x.dtype, x), type_)
        for value, z in zip(value_of(x, type_).tolist(), got.tolist(), strict=True):
            if math.isfinite(value):
                whole = math.copysign(rounded(Fraction(value), mode), value)
                assert (z, math.copysign(1, z)) == (whole, math.copysign(1, value)), (value, mode)
            else:
                assert z == value or (math.isnan(z) and math.isnan(value))


def test_ftz_of_floats_to_floats():
    x = np.array([2.0**-130, -(2.0**-130), 2.0**-126], np.float32)
    flat = np.array([0.0, -0.0, 2.0**-126], np.float32)
    same_bits(each("cvt.ftz.f32.f32 d, a;", np.float32, x), flat)
    same_bits(each("cvt.f32.f32 d, a;", np.float32, x), x)
    same_bits(each("cvt.rn.ftz.f32.f64 d, a;", np.float32, x.astype(np.float64)), flat)
    same_bits(each("cvt.ftz.f64.f32 d, a;", np.float64, x), flat.astype(np.float64))
    tiny = np.array([1, 0x8001], np.uint16)  # subnormal, but not as f32: .ftz is about f32 alone
    assert each("cvt.ftz.f32.f16 d, a;", np.float32, tiny).tolist() == [2.0**-24, -(2.0**-24)]


# ---- packed, .relu, .satfinite

SPECIAL = np.array([-2, -0.0, 0.25, 1e30, -1e30, np.inf, -np.inf, np.nan, -np.nan], np.float32)


@pytest.mark.parametrize("to", ["f16", "bf16"])
@pytest.mark.parametrize("words", ["", ".relu", ".satfinite", ".relu.satfinite"])
def test_relu_and_satfinite(to, words):
    top = {"f16": 0x7BFF, "bf16": 0x7F7F}[to]
    big = {"f16": 0x7C00, "bf16": int(encode(np.array([1e30]), "bf16")[0])}[to]
    quarter = int(encode(np.array([0.25]), to).view(np.uint16)[0])
    infinity = {"f16": 0x7C00, "bf16": 0x7F80}[to]
    if "satfinite" in words:
        infinity, big = top, top if to == "f16" else big
    sign = 0 if "relu" in words else 0x8000
    minus = (lambda v: 0) if "relu" in words else (lambda v: v | 0x8000)
    wanted = [minus({"f16": 0x4000, "bf16": 0x4000}[to]), sign, quarter, big, minus(big), infinity,
              minus(infinity), 0x7FFF, 0x7FFF]  # fmt: skip
    assert each(f"cvt.rn{words}.{to}.f32 d, a;", np.uint16, SPECIAL).tolist() == wanted
    low = SPECIAL[::-1].copy()
    got = each(f"cvt.rn{words}.{to}x2.f32 d, a, b;", np.uint32, SPECIAL, low).tolist()
    assert got == [h << 16 | v for h, v in zip(wanted, wanted[::-1], strict=True)]


def test_packed_bits_are_the_single_ones():
    x = samples()
    for to in ("f16", "bf16"):
        for mode in ("rn", "rz"):
            one = each(f"cvt.{mode}.{to}.f32 d, a;", np.uint16, x).astype(np.uint32)
            two = each(f"cvt.{mode}.{to}x2.f32 d, a, b;", np.uint32, x, np.roll(x, 1))
            same_bits(two, one << np.uint32(16) | np.roll(one, 1))


@pytest.mark.parametrize("type_", list(FP8))
def test_to_fp8(type_):
    """As torch rounds, after clamping; both NaNs are 0x7F."""
    dtype, top = FP8[type_]
    halves = ALL16.view(np.float16).astype(np.float32)
    x = np.concatenate([samples(), halves])
    wanted = short(np.clip(x, -top, top), dtype).astype(np.uint16)
    wanted[np.isnan(x)] = 0x7F
    got = each(f"cvt.rn.satfinite.{type_}x2.f32 d, a, b;", np.uint16, x, np.roll(x, 1))
    same_bits(got, wanted << np.uint16(8) | np.roll(wanted, 1))
    pair = each(f"cvt.rn.satfinite.{type_}x2.f16x2 d, a;", np.uint16, ALL16.view(np.uint32))
    same_bits(pair.view(np.uint8).astype(np.uint16), wanted[-65536:])
    got = each(f"cvt.rn.satfinite.relu.{type_}x2.f32 d, a, a;", np.uint16, x)
    kept = np.where(x > 0, wanted, np.where(np.isnan(x), 0x7F, 0)).astype(np.uint16)
    same_bits(got, kept << np.uint16(8) | kept)


@pytest.mark.parametrize("type_", list(FP8))
def test_from_fp8(type_):
    """Every pair; a NaN loses its sign."""
    value = torch.arange(256).to(torch.uint8).view(FP8[type_][0]).half().view(torch.int16).numpy()
    value = value.view(np.uint16).copy()
    value[(value & 0x7FFF) > 0x7C00] = 0x7FFF
    got = each(f"cvt.rn.f16x2.{type_}x2 d, a;", np.uint32, ALL16).view(np.uint16).reshape(-1, 2)
    same_bits(got[:, 0].copy(), value[ALL16 & 0xFF])
    same_bits(got[:, 1].copy(), value[ALL16 >> 8])
    got = each(f"cvt.rn.relu.f16x2.{type_}x2 d, a;", np.uint32, ALL16[:256]).view(np.uint16)[::2]
    same_bits(got.copy(), np.where((value & 0x8000) != 0, np.uint16(0), value))


def test_tf32_of_what_is_not_finite():
    x = np.array([np.inf, -np.inf, 0x7F7FFFFF], np.float32)
    x[2] = np.uint32(0x7F7FFFFF).view(np.float32)
    got = each("cvt.rna.tf32.f32 d, a;", np.uint32, x).tolist()
    assert got == [0x7F800000, 0xFF800000, 0x7F800000]
    got = each("cvt.rna.satfinite.tf32.f32 d, a;", np.uint32, x).tolist()
    assert got == [0x7F7FE000, 0xFF7FE000, 0x7F7FE000]
    nan = each("cvt.rna.tf32.f32 d, a;", np.float32, np.full(1, np.nan, np.float32))
    assert np.isnan(nan).all()


def test_tf32_keeps_the_sign_of_what_becomes_zero():
    x = np.array([0.0, -0.0, 1e-45, -1e-45, -1e-40], np.float32)
    got = each("cvt.rna.tf32.f32 d, a;", np.uint32, x)
    assert np.signbit(got.view(np.float32)).tolist() == np.signbit(x).tolist()
