"""Numbers as the hardware has them, where NumPy has none: bf16, fp8, tf32, fused multiply-add."""

from __future__ import annotations

import numpy as np

F32, U32 = np.float32, np.uint32


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bf16 as u16 -> f32."""
    return (np.asarray(bits).astype(U32) << U32(16)).view(F32)


def f32_to_bf16(value: np.ndarray) -> np.ndarray:
    """Round to nearest even; a NaN becomes 0x7FFF, as cvt.rn.bf16.f32 gives."""
    value = np.ascontiguousarray(value, F32)
    bits = value.view(U32)
    rounded = ((bits + U32(0x7FFF) + ((bits >> U32(16)) & U32(1))) >> U32(16)).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), rounded)


def flush(value: np.ndarray) -> np.ndarray:
    """f32 with subnormals made zeros of their sign (.ftz)."""
    value = np.asarray(value, F32)
    small = np.abs(value) < F32(1.1754943508222875e-38)
    return np.where(small, np.copysign(F32(0), value), value)


def to_odd(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The f64 `high`, whose exact value is high + low, rounded to odd: a further rounding to a
    shorter format is then right."""
    bits = high.view(np.int64)
    inexact = (low != 0) & np.isfinite(high) & (bits & 1 == 0)
    toward = np.where((low > 0) == (high >= 0), 1, -1)
    zero = inexact & (high == 0)
    fixed = np.where(inexact & ~zero, bits + toward, bits).view(np.float64)
    return np.where(zero, low, fixed)


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in f32 with one rounding. The product of two f32 is exact in f64."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    c = np.asarray(c, np.float64)
    total = product + c
    back = total - product
    low = (product - (total - back)) + (c - back)
    return to_odd(np.asarray(total), np.asarray(low)).astype(F32)
