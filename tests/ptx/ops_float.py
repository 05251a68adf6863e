"""Floating point instructions and conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.bind import DTYPE, Binder
from tests.ptx.machine import Active, Handler
from tests.ptx.num import bf16_to_f32, f32_to_bf16, flush, fma32
from tests.ptx.ops import handles
from tests.ptx.ops_int import simple
from tests.ptx.parse import Instr

_F32 = np.float32


def _words(i: Instr, b: Binder, *allowed: str) -> str:
    type_ = i.types[-1] if i.types else ""
    if any(p not in (type_, "rn", "ftz", *allowed) for p in i.parts[1:]):
        raise b.unknown()
    return type_


def _f32(i: Instr, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` on f32 with the instruction's flushing."""
    if not i.has("ftz"):
        return run
    return lambda *xs: flush(run(*(flush(x) for x in xs)))


@handles("float add", "float sub", "float mul")
def _arith(i: Instr, b: Binder) -> Handler:
    type_ = _words(i, b)
    if type_ not in ("f32", "f64"):
        raise b.unknown()
    run = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[i.parts[0]]
    return simple(i, b, type_, _f32(i, run), 2)


@handles("fma", "float mad")
def _fma(i: Instr, b: Binder) -> Handler:
    if _words(i, b) != "f32":
        raise b.unknown()
    return simple(i, b, "f32", _f32(i, fma32), 3)


@handles("float div")
def _div(i: Instr, b: Binder) -> Handler:
    if _words(i, b, "full", "approx") != "f32":
        raise b.unknown()
    return simple(i, b, "f32", _f32(i, np.divide), 2)


@handles("float min", "float max")
def _min(i: Instr, b: Binder) -> Handler:
    if _words(i, b, "NaN") != "f32":
        raise b.unknown()
    low = i.parts[0] == "min"
    run = (np.minimum if low else np.maximum) if i.has("NaN") else (np.fmin if low else np.fmax)
    return simple(i, b, "f32", _f32(i, run), 2)


@handles("float neg", "float abs")
def _neg(i: Instr, b: Binder) -> Handler:
    type_ = _words(i, b)
    if type_ not in ("f32", "f64"):
        raise b.unknown()
    return simple(i, b, type_, {"neg": np.negative, "abs": np.abs}[i.parts[0]], 1)


_APPROX = {
    "ex2": np.exp2, "lg2": np.log2, "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "tanh": np.tanh,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos,
}  # fmt: skip


@handles(*_APPROX)
def _approx(i: Instr, b: Binder) -> Handler:
    """Rounded once from f64, which is within every documented error."""
    if _words(i, b, "approx") != "f32":
        raise b.unknown()
    run = _APPROX[i.parts[0]]
    return simple(i, b, "f32", _f32(i, lambda x: run(np.asarray(x, np.float64)).astype(_F32)), 1)


@handles("cvt")
def _cvt(i: Instr, b: Binder) -> Handler:
    """Placeholder of the conversions between integers, and the few floats that come first."""
    to, from_ = i.types[0], i.types[1]
    words = [p for p in i.parts[1:] if p not in (to, from_)]
    if to == "bf16x2" and from_ == "f32" and words == ["rn"]:
        put = b.dst(i.args[0], "b32")
        high, low = (b.src(a, "f32") for a in i.args[1:3])
        return lambda s: put(
            s, f32_to_bf16(high(s)).astype(np.uint32) << np.uint32(16) | f32_to_bf16(low(s))
        )
    if to == "f32" and from_ == "bf16" and not words:
        put, get = b.dst(i.args[0], "f32"), b.src(i.args[1], "bf16")
        return lambda s: put(s, bf16_to_f32(get(s)))
    if not words and "f" not in to + from_:
        put, get = b.dst(i.args[0], to), b.src(i.args[1], from_)

        def run(s: Active) -> None:
            put(s, np.asarray(get(s)).astype(DTYPE[to]))

        return run
    if words == ["rn"] and from_[0] in "us" and to == "f32":
        put, get = b.dst(i.args[0], to), b.src(i.args[1], from_)
        return lambda s: put(s, np.asarray(get(s)).astype(_F32))
    raise b.unknown()
