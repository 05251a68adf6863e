"""mma.sync: the matrix product of a warp."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tests.ptx import elements
from tests.ptx.bind import Binder
from tests.ptx.elements import BYTES, FP8
from tests.ptx.errors import Fault
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.ops import handles
from tests.ptx.parse import Instr, Operand, Vec

# (operand type, k) of m16n8; what sm_90 has of m8n8 stands in _SMALL.
_SHAPES = {
    *(("f16", k) for k in (8, 16)), *(("bf16", k) for k in (8, 16)),
    *(("tf32", k) for k in (4, 8)), *(("f64", k) for k in (4, 8, 16)),
    *((t, k) for t in ("s8", "u8", *FP8) for k in (16, 32)),
}  # fmt: skip
_SMALL = {("s8", 16), ("u8", 16), ("f64", 4)}
_SUMS = {"f16": ("f32", "f16"), "bf16": ("f32",), "tf32": ("f32",), "f64": ("f64",), "s8": ("s32",),
         "u8": ("s32",), "e4m3": ("f32", "f16"), "e5m2": ("f32", "f16")}  # fmt: skip


def mixed(a: str, b: str) -> bool:
    """Whether operands of types `a` and `b` go together."""
    return a == b or {a, b} <= set(FP8) or {a, b} <= {"s8", "u8"}


def items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vec) else (operand,)


def _stacked(b: Binder, operand: Operand, count: int, type_: str) -> Callable:
    """The registers of a fragment: [count, warps, 32]."""
    found = items(operand)
    if len(found) != count:
        raise b.unknown(f"a fragment has {count} registers here, got {len(found)}")
    gets = [b.src(r, type_) for r in found]
    return lambda s: np.stack([np.broadcast_to(get(s), s.mask.shape) for get in gets])


def _shape(i: Instr, b: Binder) -> tuple[int, int]:
    """(m, k), where this is an instruction of sm_90."""
    found = re.fullmatch(r"m(8|16)n8k(\d+)", i.parts[3])
    if i.parts[1:3] != ("sync", "aligned") or found is None or len(i.types) != 4:
        raise b.unknown()
    m, k = int(found[1]), int(found[2])
    d, x, y, c = i.types
    known = (x, k) in (_SHAPES if m == 16 else _SMALL) and mixed(x, y)
    if not known or d != c or d not in _SUMS[x] or i.parts[4:6] != ("row", "col"):
        raise b.unknown()
    extra = set(i.parts[6:]) - {*i.types}
    if extra - ({"satfinite"} if d == "s32" else set()):
        raise b.unknown()
    return m, k


def whole_warps(b: Binder, s: Active) -> None:
    partly = s.mask.any(axis=1) & ~s.mask.all(axis=1)
    if not s.full and partly.any():
        warp = int(np.argmax(partly))
        lane = int(np.argmin(s.mask[warp]))
        raise fault(Fault, b.m, "a lane of the warp is missing", warp + s.lo, lane)


@handles("mma.sync")
def _mma(i: Instr, b: Binder) -> Handler:
    m, k = _shape(i, b)
    type_, x, y, _ = i.types
    wide = "b64" if x == "f64" else "b32"
    size = 8 if x == "f64" else 4
    columns = k * BYTES[x] // (4 * size)  # registers that lie next to each other in a row
    halves = m // 8
    outs = items(i.args[0])
    count = 2 * halves // (2 if type_ == "f16" else 1)
    if len(outs) != count:
        raise b.unknown(f"the result has {count} registers, got {len(outs)}")
    puts = [b.dst(r, wide) for r in outs]
    left = _stacked(b, i.args[1], halves * columns, wide)
    right = _stacked(b, i.args[2], columns, wide)
    held = _stacked(b, i.args[3], count, wide)
    saturate, fp8 = i.has("satfinite"), x in FP8 and type_ == "f32"

    def run(s: Active) -> None:
        whole_warps(b, s)
        p = elements.decode(elements.fragment(left(s), halves), x)
        q = elements.decode(elements.fragment(right(s), 1), y)
        more, before = elements.total(p, q, elements.values(held(s), type_), fp8)
        after = elements.registers(elements.add(before, more, type_, saturate), type_)
        for put, value in zip(puts, after, strict=True):
            put(s, value)

    return run
