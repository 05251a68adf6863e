"""cvt: conversions between types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx import num
from tests.ptx.bind import DTYPE, Binder, Source
from tests.ptx.forms import expect, form, halves, joined, numbers
from tests.ptx.machine import Active, Handler
from tests.ptx.ops import handles
from tests.ptx.parse import Instr

_INTEGRAL = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}
_FLOAT = ("rn", "rz", "rm", "rp")
_EXACT = {("f16", "f32"), ("f16", "f64"), ("bf16", "f32"), ("bf16", "f64"), ("f32", "f64")}
_TYPE = r"([us](?:8|16|32|64)|bf16|f16|f32|f64)"
_END = r"(?:\.relu)?(?:\.satfinite)?|\.satfinite\.relu"  # in either order


@handles("cvt")
def _cvt(i: Instr, b: Binder) -> Handler:
    to, from_ = i.types[0], i.types[-1]
    if to.endswith("x2"):
        return _packed(i, b)
    if to == "tf32":
        return _tf32(i, b)
    if i.has("relu") or i.has("satfinite"):
        mode = form(i, b, rf"cvt\.(rn|rz)(?:{_END})\.(?:f16|bf16)\.f32")[1]
        expect(i, b, 2)
        put, get = b.dst(i.args[0], "b16"), b.src(i.args[1], "f32")
        return lambda s: put(s, _short(i, get(s), to, mode))
    words = rf"cvt(?:\.(rni|rzi|rmi|rpi|rn|rz|rm|rp))?(?:\.ftz)?(?:\.sat)?\.{_TYPE}\.{_TYPE}"
    mode = form(i, b, words)[1]
    expect(i, b, 2)
    floats = to[0] not in "us", from_[0] not in "us"
    if i.has("ftz") and "f32" not in (to, from_):
        raise b.unknown(".ftz without f32")
    if not any(floats):
        return _integers(i, b, to, from_, mode)
    if not floats[0]:
        return _to_integer(i, b, to, from_, mode)
    if not floats[1]:
        return _from_integer(i, b, to, from_, mode)
    return _floats(i, b, to, from_, mode)


def _short(i: Instr, value: Any, to: str, mode: str) -> np.ndarray:
    """f32 to a shorter float with .relu and .satfinite."""
    value = np.asarray(value)
    if i.has("relu"):
        value = num.relu(value)
    if to == "bf16" and mode == "rn" and not i.has("satfinite"):
        return num.f32_to_bf16(value)
    return num.narrow(value, to, mode, i.has("satfinite"))


# ---- packed, and tf32


@handles("cvt.pack")
def _pack(i: Instr, b: Binder) -> Handler:
    """Two saturated s32 to the low places, the first above the second; above them c."""
    to = form(i, b, r"cvt\.pack\.sat\.([us]16)\.s32", r"cvt\.pack\.sat\.([us]8)\.s32\.b32")[1]
    three = to[1:] == "8"
    expect(i, b, 4 if three else 3)
    put = b.dst(i.args[0], "b32")
    high, low = (b.src(a, "s32") for a in i.args[1:3])
    rest = b.src(i.args[3], "u32") if three else None
    info, bits = np.iinfo(DTYPE[to]), np.uint32(to[1:])

    def part(get: Source, s: Active) -> np.ndarray:
        value = np.clip(np.asarray(get(s)).astype(np.int64), info.min, info.max)
        return value.astype(np.uint32) & np.uint32((1 << int(bits)) - 1)

    def run(s: Active) -> None:
        value = part(high, s) << bits | part(low, s)
        put(s, value if rest is None else rest(s) << np.uint32(16) | value)

    return run


def _packed(i: Instr, b: Binder) -> Handler:
    """The first source goes to the upper half."""
    found = form(
        i, b, rf"cvt\.(rn|rz)(?:{_END})\.((?:f16|bf16)x2)\.(f32)",
        r"cvt\.(rn)(?:\.satfinite(?:\.relu)?|\.relu\.satfinite)\.((?:e4m3|e5m2)x2)\.(f32|f16x2)",
        r"cvt\.(rn)(?:\.relu)?\.(f16x2)\.((?:e4m3|e5m2)x2)",
    )  # fmt: skip
    mode, to, from_ = found.groups()
    if from_ in ("e4m3x2", "e5m2x2"):
        return _from_fp8(i, b, from_[:4])
    expect(i, b, 3 if from_ == "f32" else 2)
    one = to[:-2]
    put = halves(b, i.args[0], to) if "f16" in to else b.dst(i.args[0], "b16")
    if from_ == "f32":
        high, low = (b.src(a, "f32") for a in i.args[1:3])

        def get(s: Active) -> np.ndarray:
            return np.stack(np.broadcast_arrays(low(s), high(s)), axis=-1)
    else:
        get = numbers(b, i.args[1], from_)

    def run(s: Active) -> None:
        value = _short(i, get(s), one, mode)
        put(s, value if "f16" in to else np.ascontiguousarray(value).view(np.uint16)[..., 0])

    return run


def _from_fp8(i: Instr, b: Binder, type_: str) -> Handler:
    expect(i, b, 2)
    put, get = b.dst(i.args[0], "b32"), b.src(i.args[1], "u16")
    values = num.FP8[type_]
    table = num.narrow(num.relu(values) if i.has("relu") else values, "f16")

    def run(s: Active) -> None:
        pair = np.ascontiguousarray(get(s))
        put(s, joined(table[pair.view(np.uint8).reshape(*pair.shape, 2)]))

    return run


def _tf32(i: Instr, b: Binder) -> Handler:
    rna = r"cvt\.(rna)(?:\.satfinite)?\.tf32\.f32"
    mode = form(i, b, rna, r"cvt\.(rn|rz)(?:\.relu)?\.tf32\.f32")[1]
    expect(i, b, 2)
    put, get = b.dst(i.args[0], "b32"), b.src(i.args[1], "f32")
    return lambda s: put(s, _short(i, get(s), "tf32", mode))


# ---- one value


def _integers(i: Instr, b: Binder, to: str, from_: str, mode: str | None) -> Handler:
    if mode is not None:
        raise b.unknown("integers are not rounded")
    put, get, dtype = b.dst(i.args[0], to), b.src(i.args[1], from_), DTYPE[to]
    if not i.has("sat"):
        return lambda s: put(s, np.asarray(get(s)).astype(dtype))
    into, out_of = np.iinfo(dtype), np.iinfo(DTYPE[from_])
    if into.min <= out_of.min and into.max >= out_of.max:
        raise b.unknown(".sat where nothing can saturate")
    low, high = (DTYPE[from_](v) for v in (max(into.min, out_of.min), min(into.max, out_of.max)))
    return lambda s: put(s, np.clip(get(s), low, high).astype(dtype))


def _to_integer(i: Instr, b: Binder, to: str, from_: str, mode: str | None) -> Handler:
    """What is out of range is clamped. A NaN becomes 0, but of f64, or to 64 bits, 1 and zeros."""
    if mode not in _INTEGRAL:
        raise b.unknown("a float is rounded to an integer by .rni, .rzi, .rmi or .rpi")
    if from_ == "bf16" and (i.has("sat") or to[1:] == "8"):
        raise b.unknown("bf16 takes no .sat, and becomes no integer of 8 bits")
    put, get, dtype = b.dst(i.args[0], to), numbers(b, i.args[1], from_), DTYPE[to]
    whole, info, ftz = num.INTEGRAL[_INTEGRAL[mode]], np.iinfo(dtype), i.has("ftz")
    top = 1 << (8 * info.dtype.itemsize - 1)
    nan = top if from_ == "f64" or info.bits == 64 else 0
    nan = dtype(nan - 2 * top if nan > info.max else nan)

    def run(s: Active) -> None:
        value = np.asarray(get(s))
        value = whole(num.flush(value) if ftz else value).astype(np.float64)
        over, under = value >= float(info.max) + 1, value < float(info.min)
        fits = ~(over | under | np.isnan(value))
        out = np.where(fits, value, 0).astype(dtype)
        if not fits.all():
            out = np.where(over, dtype(info.max), np.where(under, dtype(info.min), out))
            out = np.where(np.isnan(value), nan, out)
        put(s, out)

    return run


def _from_integer(i: Instr, b: Binder, to: str, from_: str, mode: str | None) -> Handler:
    if mode not in _FLOAT:
        raise b.unknown("an integer is rounded to a float by .rn, .rz, .rm or .rp")
    if to == "bf16" and (i.has("sat") or from_[1:] == "8"):
        raise b.unknown("bf16 takes no .sat, and no integer of 8 bits")
    put, get = b.dst(i.args[0], "b16" if to in ("f16", "bf16") else to), b.src(i.args[1], from_)
    convert: Callable[[np.ndarray], np.ndarray]
    if to == "f64":
        convert = lambda x: num.integer_f64(x, mode)  # noqa: E731
    elif to == "f32" and mode == "rn":
        convert = lambda x: x.astype(np.float32)  # noqa: E731
    else:
        sat = i.has("sat")

        def convert(x: np.ndarray) -> np.ndarray:
            exact = num.integer_odd(x)
            return num.narrow(num.saturate(exact) if sat else exact, to, mode)

        return lambda s: put(s, convert(np.asarray(get(s))))
    if i.has("sat"):
        return lambda s: put(s, num.saturate(convert(np.asarray(get(s)))))
    return lambda s: put(s, convert(np.asarray(get(s))))


def _floats(i: Instr, b: Binder, to: str, from_: str, mode: str | None) -> Handler:
    if (from_, to) in _EXACT:
        known = mode is None or (from_ == "bf16" and mode in _FLOAT)
    elif from_ == to:
        known = mode is None or mode in _INTEGRAL
    else:  # between f16 and bf16 ptxas takes no rounding for .rn
        known = mode in _FLOAT or (mode is None and {from_, to} == {"f16", "bf16"})
    if not known:
        raise b.unknown(f"{'.' + mode if mode else 'no rounding'} from {from_} to {to}")
    if "bf16" in (to, from_) and i.has("sat"):
        raise b.unknown(".sat does not apply to bf16")
    get = numbers(b, i.args[1], from_)
    put = b.dst(i.args[0], "b16" if to in ("f16", "bf16") else to)
    steps = _steps(i, to, from_, mode)

    def run(s: Active) -> None:
        value = np.asarray(get(s))
        for step in steps:
            value = step(value)
        put(s, value)

    return run


def _steps(i: Instr, to: str, from_: str, mode: str | None) -> list[Callable[[Any], Any]]:
    steps: list[Callable[[Any], Any]] = []
    if i.has("ftz") and from_ == "f32":
        steps.append(num.flush)
    if mode in _INTEGRAL:
        steps.append(num.INTEGRAL[_INTEGRAL[mode]])
    if i.has("sat"):
        steps.append(num.saturate)
    if to == "f64":
        steps.append(lambda x: x.astype(np.float64))
    elif to in ("f16", "bf16"):
        rounding = mode if mode and mode not in _INTEGRAL else "rn"
        if to == "bf16" and from_ == "f32" and rounding == "rn":
            steps.append(num.f32_to_bf16)
        else:
            steps.append(lambda x: num.narrow(x, to, rounding))
    elif from_ == "f64":
        steps.append(lambda x: num.narrow(x, to, mode or "rn"))
    elif mode is not None:
        steps.append(num.canonical)
    if i.has("ftz") and to == "f32":
        steps.append(num.flush)
    return steps
