"""Values to try instructions on, and exact arithmetic to hold them against."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from tests.ptx.num import bf16_to_f32

DTYPE = {"u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "u32": np.uint32,
         "s32": np.int32, "u64": np.uint64, "s64": np.int64, "f32": np.float32, "f64": np.float64,
         "f16": np.uint16, "bf16": np.uint16}  # fmt: skip
WIDTHS = ("u16", "s16", "u32", "s32", "u64", "s64")
ALL16 = np.arange(65536, dtype=np.uint16)
F32_EDGES = np.array(
    [0x00000000, 0x00000001, 0x00400000, 0x007FFFFF, 0x00800000, 0x00800001, 0x33800000, 0x3EFFFFFF,
     0x3F000000, 0x3F000001, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000, 0x40200000, 0x4B000000,
     0x4B7FFFFF, 0x4EFFFFFF, 0x4F000000, 0x4F7FFFFF, 0x4F800000, 0x5F000000, 0x5F800000, 0x7E800001,
     0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001], np.uint32,
)  # fmt: skip
F32_EDGES = np.concatenate([F32_EDGES, F32_EDGES | np.uint32(1 << 31)]).view(np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def patterns(n: int, dtype: type) -> np.ndarray:
    """Random bits."""
    return np.frombuffer(rng().bytes(n * np.dtype(dtype).itemsize), dtype).copy()


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal in every bit; the first that differs is shown."""
    assert got.dtype == wanted.dtype
    kind = f"u{got.dtype.itemsize}"
    bad = np.nonzero(got.view(kind) != wanted.view(kind))[0]
    assert not len(bad), (
        len(bad), int(bad[0]), hex(got.view(kind)[bad[0]]), hex(wanted.view(kind)[bad[0]]),
    )  # fmt: skip


def integers(type_: str, n: int = 400) -> np.ndarray:
    """Edges and random values, some of few bits."""
    dtype = DTYPE[type_]
    info = np.iinfo(dtype)
    edges = [0, 1, 2, 3, 31, 32, 33, 63, 64, info.max, info.max - 1, info.min, info.min + 1,
             info.max // 2, -1, -2]  # fmt: skip
    edges = [e for e in edges if info.min <= e <= info.max]
    drawn = rng().integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    drawn[::3] >>= dtype(info.bits // 2)
    return np.concatenate([np.array(edges, dtype), drawn])


def pairs(x: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` arrays: every edge with every edge in the first two, and random ones."""
    first = np.concatenate([np.repeat(x[:16], 16), x])
    second = np.concatenate([np.tile(x[:16], 16), np.roll(x, 7)])
    return [first, second, np.roll(first, 11)][:count]


def wrap(value: int, type_: str) -> int:
    bits = int(type_[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if type_[0] == "s" and value >> (bits - 1) else value


def clamp(value: int, type_: str) -> int:
    info = np.iinfo(DTYPE[type_])
    return max(info.min, min(info.max, value))


class Float:
    """A format for exact arithmetic with fractions."""

    def __init__(self, exponent: int, significand: int, top: float | None = None):
        self.exponent, self.significand = exponent, significand
        self.smallest = 2 - (1 << (exponent - 1))
        biggest = (2 - Fraction(1, 1 << significand)) * Fraction(2) ** ((1 << (exponent - 1)) - 1)
        self.top = biggest if top is None else Fraction(top)

    def round(self, x: Fraction, mode: str) -> float:
        """x != 0 to a number of the format, or an infinity."""
        size = abs(x)
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        exponent -= Fraction(2) ** exponent > size
        unit = Fraction(2) ** (max(exponent, self.smallest) - self.significand)
        down, rest = divmod(size, unit)
        up = {
            "rn": rest * 2 > unit or (rest * 2 == unit and down % 2), "rz": False,
            "rna": rest * 2 >= unit, "rm": x < 0 and rest > 0, "rp": x > 0 and rest > 0,
        }[mode]  # fmt: skip
        near = (down + bool(up)) * unit
        if near > self.top:
            inward = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
            near = self.top if inward else math.inf
        return math.copysign(float(near), x)


FORMATS = {"f32": Float(8, 23), "f16": Float(5, 10), "bf16": Float(8, 7), "tf32": Float(8, 10),
           "f64": Float(11, 52)}  # fmt: skip


def reals(x: np.ndarray) -> list[Fraction | None]:
    """None for what is not finite."""
    return [Fraction(v) if math.isfinite(v) else None for v in x.astype(np.float64).tolist()]


def encode(x: np.ndarray, type_: str) -> np.ndarray:
    if type_ == "bf16":
        short = torch.from_numpy(x.astype(np.float32)).bfloat16()
        return short.view(torch.int16).numpy().view(np.uint16)
    return x.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[type_])


def decode(x: np.ndarray, type_: str) -> np.ndarray:
    return (bf16_to_f32(x) if type_ == "bf16" else x).astype(np.float64)
