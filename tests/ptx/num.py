"""Numbers as the hardware has them, where NumPy has none: bf16, fp8, tf32, directed rounding, fused
multiply-add, NaNs.

What is to be rounded to a shorter format comes as f64 that is exact or rounded to odd (the last bit
set if anything was cut off): a further rounding to at most 51 bits is then the only one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

F32, F64, U16, U32 = np.float32, np.float64, np.uint16, np.uint32
# Single precision arithmetic has one NaN (CUDA C++ Programming Guide, Floating-Point Standard).
NAN32 = U32(0x7FFFFFFF).view(F32)
_SMALLEST = {"f32": F32(2.0**-126), "f16": F64(2.0**-14)}  # normal numbers


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bf16 as u16 -> f32."""
    return (np.asarray(bits).astype(U32) << U32(16)).view(F32)


def f32_to_bf16(value: np.ndarray) -> np.ndarray:
    """Round to nearest even; a NaN becomes 0x7FFF, as cvt.rn.bf16.f32 gives."""
    value = np.asarray(value, F32)
    bits = value.view(U32)
    rounded = ((bits + U32(0x7FFF) + ((bits >> U32(16)) & U32(1))) >> U32(16)).astype(U16)
    return np.where(np.isnan(value), U16(0x7FFF), rounded)


def flush(value: np.ndarray, type_: str = "f32") -> np.ndarray:
    """Subnormals made zeros of their sign (.ftz)."""
    return value * (np.abs(value) >= _SMALLEST[type_])


def canonical(value: np.ndarray) -> np.ndarray:
    """f32 whose NaNs are the hardware's. A sum of squares is a NaN only if a term is."""
    if np.isnan(np.vdot(value, value)):
        return np.where(np.isnan(value), NAN32, value)
    return value


def saturate(value: np.ndarray) -> np.ndarray:
    """.sat: to [+0, 1], a NaN to +0."""
    return np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))


def relu(value: np.ndarray) -> np.ndarray:
    """.relu: what is negative to +0; a NaN stays one."""
    return np.where(value <= 0, value.dtype.type(0), value)


# ---- rounding to odd


def to_odd(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The f64 `high`, the nearest to the exact value high + low, rounded to odd instead."""
    bits = high.view(np.int64)
    inexact = (low != 0) & np.isfinite(high) & (bits & 1 == 0)
    toward = np.where((low > 0) == (high >= 0), 1, -1)
    return np.where(inexact, bits + toward, bits).view(F64)


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b in f64, and what its rounding lost."""
    total = np.asarray(a + b)
    back = total - a
    return total, np.asarray((a - (total - back)) + (b - back))


def add_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return to_odd(*two_sum(a, b))


def integer_odd(value: np.ndarray) -> np.ndarray:
    """Integers of any width as f64 rounded to odd."""
    if value.dtype.itemsize < 8:
        return value.astype(F64)
    low = (value & value.dtype.type(0xFFFFFFFF)).astype(F64)
    return add_odd((value >> value.dtype.type(32)).astype(F64) * 2.0**32, low)


def integer_f64(value: np.ndarray, mode: str) -> np.ndarray:
    """Integers of any width as f64, rounded once."""
    near = value.astype(F64)
    if mode == "rn" or value.dtype.itemsize < 8:
        return near
    half = value.dtype.type(0xFFFFFFFF)
    high = (value >> value.dtype.type(32)).astype(F64) * 2.0**32
    total, low = two_sum(high, (value & half).astype(F64))
    toward = {"rz": -np.sign(total), "rm": -1.0, "rp": 1.0}[mode]
    return np.where(low * toward > 0, np.nextafter(total, toward * np.inf), total)


def sum_rm(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of a and b for .rm, in which x - x is -0."""
    zero = (total == 0) & (np.signbit(a) | np.signbit(b))
    return np.where(zero, F64(-0.0), total)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in f32, to nearest even. The product of two f32 is exact in f64."""
    product = np.asarray(a).astype(F64) * np.asarray(b).astype(F64)
    c = np.asarray(c).astype(F64)
    total = np.asarray(product + c)
    # Rounding twice is wrong only from the middle between two f32: a bit and then zeros.
    middle = (total.view(np.int64) & 0x0FFFFFFF) == 0
    if middle.any():
        total = add_odd(product, c)
    return total.astype(F32)


_fma = ctypes.CDLL("libm.so.6").fma
_fma.argtypes, _fma.restype = [ctypes.c_double] * 3, ctypes.c_double
_fma_each = np.frompyfunc(_fma, 3, 1)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.asarray(_fma_each(a, b, c), F64)


# ---- shorter formats


@dataclass(frozen=True)
class Format:
    """Bits of the exponent and of the stored significand; the largest number."""

    exponent: int
    significand: int
    largest: float

    @property
    def smallest(self) -> int:
        """The exponent of the least normal number."""
        return 2 - (1 << (self.exponent - 1))


def _ieee(exponent: int, significand: int) -> Format:
    top = (1 << (exponent - 1)) - 1
    return Format(exponent, significand, (2.0 - 2.0**-significand) * 2.0**top)


FORMATS = {
    "f32": _ieee(8, 23), "tf32": _ieee(8, 10), "bf16": _ieee(8, 7), "f16": _ieee(5, 10),
    "e5m2": _ieee(5, 2), "e4m3": Format(4, 3, 448.0),
}  # fmt: skip


def _away(value: np.ndarray) -> np.ndarray:
    whole = np.trunc(value)
    return np.where(np.abs(value - whole) >= 0.5, whole + np.copysign(1.0, value), whole)


INTEGRAL: dict[str, Callable[[Any], Any]] = {
    "rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil, "rna": _away,
}  # fmt: skip


def rounded(value: np.ndarray, type_: str, mode: str = "rn", satfinite: bool = False) -> np.ndarray:
    """f64 that the format has."""
    f = FORMATS[type_]
    shift = np.maximum(np.frexp(value)[1] - 1, f.smallest) - f.significand
    near = np.ldexp(INTEGRAL[mode](np.ldexp(value, -shift)), shift)
    over = np.abs(near) > f.largest
    if satfinite:
        return np.where(over, np.copysign(f.largest, near), near)
    stays = {"rn": over & False, "rna": over & False, "rz": over, "rm": near > 0, "rp": near < 0}
    limit = np.where(stays[mode], f.largest, np.inf)
    return np.where(over & np.isfinite(value), np.copysign(limit, near), near)


def _e4m3(value: np.ndarray) -> np.ndarray:
    bits = (value * 2.0**-120).astype(F32).view(U32)  # its fields, where those of f32 end
    bits = (bits >> U32(24)) & U32(0x80) | (bits >> U32(20)) & U32(0x7F)
    return np.where(np.isnan(value), 0x7F, bits).astype(np.uint8)


def _bits(value: np.ndarray, type_: str) -> np.ndarray:
    """f64 that the format has, as its bits; f32 as f32."""
    if type_ == "f32":
        return canonical(value.astype(F32))
    if type_ == "tf32":
        return value.astype(F32).view(U32) & U32(0xFFFFE000)
    if type_ == "bf16":
        return f32_to_bf16(value.astype(F32))
    if type_ == "e4m3":
        return _e4m3(value)
    half = np.where(np.isnan(value), U16(0x7FFF), value.astype(np.float16).view(U16))
    return half if type_ == "f16" else (half >> U16(8)).astype(np.uint8)


def narrow(value: Any, type_: str, mode: str = "rn", satfinite: bool = False) -> np.ndarray:
    """f64 (exact or rounded to odd) to a shorter format: its bits, unsigned; f32 as f32."""
    value = np.asarray(value, F64)
    if mode != "rn" or satfinite or type_ not in ("f32", "f16"):
        value = rounded(value, type_, mode, satfinite)
    return _bits(value, type_)


def _table(type_: str) -> np.ndarray:
    byte = np.arange(256, dtype=U32)
    if type_ == "e5m2":
        value = (byte.astype(U16) << U16(8)).view(np.float16).astype(F32)
        return np.where(np.isnan(value), NAN32, value)
    value = ((byte & U32(0x7F)) << U32(20)).view(F32) * F32(2.0**120)
    value = np.where(byte & U32(0x80), -value, value)
    value[[0x7F, 0xFF]] = NAN32
    return value


FP8 = {"e4m3": _table("e4m3"), "e5m2": _table("e5m2")}


def widen(bits: np.ndarray, type_: str) -> np.ndarray:
    """What a register holds (f16: as f16 or its bits) as f32; f64 as it is."""
    if type_ == "bf16":
        return bf16_to_f32(bits)
    if type_ == "f16":
        return canonical(np.asarray(bits).view(np.float16).astype(F32))
    return FP8[type_][bits] if type_ in FP8 else np.asarray(bits)
