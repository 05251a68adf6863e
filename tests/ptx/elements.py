"""Elements of matrices as tensor cores read them, and the accumulators they add to.

Products are summed exactly, in f64 (the products of all operand types but f64 are exact there), and
added to the accumulator with one rounding to nearest even. The hardware's adders align all terms to
the largest and cut off what lies below, 24 bits and more for f16, bf16 and tf32, about 14 for FP8:
its results differ from these in the last places of the accumulator. `FP8_BITS` imitates the latter.
"""

from __future__ import annotations

import numpy as np

from tests.ptx.num import bf16_to_f32

# Bits of a product's significand that take part in a sum of FP8 products in f32; None: all. Hopper
# keeps about 14 (DeepSeek-V3 technical report, section 3.5.2).
FP8_BITS: int | None = None
BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1, "s8": 1, "u8": 1, "f64": 8}
FP8 = ("e4m3", "e5m2")
_ACCUMULATOR = {"f32": np.float32, "f16": np.float16, "s32": np.int32, "f64": np.float64}
_NAN = {"f32": (np.uint32, 0x7FFFFFFF), "f16": (np.uint16, 0x7FFF)}


def _e4m3() -> np.ndarray:
    """[256] f64: no infinities, and a NaN where all other bits are set."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    value = np.where(
        exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0)
    ) * np.where(byte & 128, -1.0, 1.0)
    value[[0x7F, 0xFF]] = np.nan
    return value


_FP8 = {
    "e4m3": _e4m3(),
    "e5m2": (np.arange(256).astype(np.uint16) << 8).view(np.float16).astype(np.float64),
}


def decode(raw: np.ndarray, type_: str) -> np.ndarray:
    """Bytes [..., n] as numbers [..., n / size] f64."""
    if type_ in FP8:
        return _FP8[type_][raw]
    if type_ == "bf16":
        return bf16_to_f32(raw.view(np.uint16)).astype(np.float64)
    if type_ == "tf32":  # the hardware does not look at the 13 bits that tf32 lacks
        return (raw.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    kind = {"f16": np.float16, "s8": np.int8, "u8": np.uint8, "f64": np.float64}[type_]
    return raw.view(kind).astype(np.float64)


def total(a: np.ndarray, b: np.ndarray, held: np.ndarray, fp8: bool) -> tuple:
    """[..., m, k] times [..., n, k], laid out by `spread`; and `held`, the accumulator so far."""
    if not fp8 or FP8_BITS is None:
        return spread(a @ b.swapaxes(-1, -2)), held
    terms = spread(np.moveaxis(a[..., :, None, :] * b[..., None, :, :], -1, 0))  # [e, k, ..., 32]
    held = np.asarray(held, np.float64)
    largest = np.maximum(np.abs(terms).max(axis=1), np.abs(held))
    unit = np.ldexp(1.0, np.frexp(largest)[1] - FP8_BITS)
    return _cut(terms, unit[:, None]).sum(axis=1), _cut(held, unit)


def _cut(value: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(value / unit), np.trunc(value / unit) * unit, value)


def values(bits: np.ndarray, type_: str) -> np.ndarray:
    """Accumulator registers [r, ...] unsigned as numbers [elements of a thread, ...]."""
    if type_ != "f16":
        return bits.view(_ACCUMULATOR[type_])
    pairs = np.ascontiguousarray(bits).view(np.float16).reshape(*bits.shape, 2)
    return np.moveaxis(pairs, -1, 1).reshape(-1, *bits.shape[1:])


def registers(numbers: np.ndarray, type_: str) -> np.ndarray:
    """The inverse of `values`."""
    if type_ != "f16":
        return numbers.view(np.uint64 if type_ == "f64" else np.uint32)
    pairs = np.moveaxis(numbers.reshape(-1, 2, *numbers.shape[1:]), 1, -1)
    return np.ascontiguousarray(pairs).view(np.uint32)[..., 0]


def add(held: np.ndarray, more: np.ndarray, type_: str, saturate: bool) -> np.ndarray:
    """Accumulators `held` plus f64 `more`, rounded to the accumulator's type."""
    if type_ == "s32":
        whole = np.asarray(held, np.int64) + more.astype(np.int64)
        if saturate:
            whole = whole.clip(-(2**31), 2**31 - 1)
        return whole.astype(np.int32)
    found = (np.asarray(held, np.float64) + more).astype(_ACCUMULATOR[type_])
    nan = np.isnan(found)
    if type_ in _NAN and nan.any():
        kind, bits = _NAN[type_]
        found.view(kind)[nan] = bits
    return found


def fragment(bits: np.ndarray, halves: int) -> np.ndarray:
    """Operand registers [r, ..., 32] of a warp as rows of bytes [..., 8 * halves, r * ...].

    Lane 4 * g + t has four or eight bytes of row g, or g + 8, at t (PTX ISA, "Matrix Fragments for
    mma", which says so for each type on its own). Registers take the rows first, then the columns.
    """
    count, *batch, _ = bits.shape
    shaped = bits.reshape(count // halves, halves, *batch, 8, 4)
    n = shaped.ndim
    order = (*range(2, n - 2), 1, n - 2, 0, n - 1)
    rows = np.ascontiguousarray(shaped.transpose(order)).view(np.uint8)
    return rows.reshape(*batch, 8 * halves, -1)


def spread(matrix: np.ndarray) -> np.ndarray:
    """[..., m, n] -> [elements of a thread, ..., 32], for m over 16 [elements, ..., m / 16, 32].

    That is the accumulator's layout: lane 4 * g + t has columns 2 * t and 2 * t + 1 of every 8, in
    rows g and g + 8 of its warp.
    """
    *batch, m, n = matrix.shape
    halves = min(m // 8, 2)
    warps = [] if m <= 16 else [m // 16]
    shaped = matrix.reshape(*batch, *warps, halves, 8, n // 8, 4, 2)
    k = shaped.ndim
    order = (k - 3, k - 5, k - 1, *range(k - 5), k - 4, k - 2)
    return shaped.transpose(order).reshape(n // 8 * halves * 2, *batch, *warps, 32)
