"""Floating point arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx import num
from tests.ptx.bind import Binder
from tests.ptx.forms import expect, form, halves, numbers, simple
from tests.ptx.machine import Active, Handler
from tests.ptx.ops import handles
from tests.ptx.parse import Instr

_MODE = r"(?:\.(rn|rz|rm|rp))"
_HALF = r"\.((?:f16|bf16)(?:x2)?)"
Run = Callable[..., Any]


def single(i: Instr, b: Binder, run: Run, n: int) -> Handler:
    """`run` on f32 with the instruction's .ftz and .sat."""
    if i.has("ftz"):
        plain = run
        run = lambda *xs: num.flush(plain(*(num.flush(x) for x in xs)))  # noqa: E731
    if i.has("sat"):
        return simple(i, b, "f32", lambda *xs: num.saturate(run(*xs)), n)
    return simple(i, b, "f32", lambda *xs: num.canonical(run(*xs)), n)


def half(i: Instr, b: Binder, type_: str, run: Run, n: int) -> Handler:
    """`run` on f16 or bf16, which gives f64 exactly or rounded to odd."""
    expect(i, b, n + 1)
    put = halves(b, i.args[0], type_)
    gets = [numbers(b, a, type_) for a in i.args[1:]]
    one, ftz = type_.removesuffix("x2"), i.has("ftz")
    last = num.saturate if i.has("sat") else num.relu if i.has("relu") else None

    def go(s: Active) -> None:
        xs = [get(s).astype(np.float64) for get in gets]
        if ftz:
            xs = [num.flush(x, "f16") for x in xs]
        value = run(*xs)
        value = last(value) if last is not None else value
        bits = num.narrow(value, one)
        put(s, _flush_bits(bits) if ftz else bits)

    return go


def _flush_bits(bits: np.ndarray) -> np.ndarray:
    """f16 subnormals to zeros of their sign."""
    small = (bits & np.uint16(0x7C00)) == 0
    return np.where(small, bits & np.uint16(0x8000), bits)


def _wide(*xs: Any) -> list[np.ndarray]:
    return [np.asarray(x).astype(np.float64) for x in xs]


def _directed(exact: Run, mode: str) -> Run:
    """`exact`, of f64 to f64 that is exact or rounded to odd, from f32 to f32."""
    return lambda *xs: num.narrow(exact(*_wide(*xs)), "f32", mode)


# ---- sums and products


def _sum(a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    total = num.add_odd(a, b)
    return num.sum_rm(total, a, b) if mode == "rm" else total


def _exact(op: str, mode: str) -> Run:
    if op == "mul":
        return np.multiply
    if op == "sub":
        return lambda x, y: _sum(x, -y, mode)
    if op == "add":
        return lambda x, y: _sum(x, y, mode)
    return lambda x, y, z: _sum(x * y, z, mode)


@handles("float add", "float sub", "float mul")
def _arith(i: Instr, b: Binder) -> Handler:
    op = i.parts[0]
    found = form(
        i, b, rf"\w+{_MODE}?(?:\.ftz)?(?:\.sat)?\.(f32)", r"\w+(?:\.(rn))?\.(f64)",
        r"\w+(?:\.(rn))?(?:\.ftz)?(?:\.sat)?\.(f16(?:x2)?)", r"\w+(?:\.(rn))?\.(bf16(?:x2)?)",
    )  # fmt: skip
    mode, type_ = found[1] or "rn", found[2]
    if type_ not in ("f32", "f64"):
        return half(i, b, type_, _exact(op, mode), 2)
    if mode != "rn":
        return single(i, b, _directed(_exact(op, mode), mode), 2)
    run = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op]
    return simple(i, b, "f64", run, 2) if type_ == "f64" else single(i, b, run, 2)


@handles("fma", "float mad")
def _fma(i: Instr, b: Binder) -> Handler:
    found = form(
        i, b, rf"\w+{_MODE}(?:\.ftz)?(?:\.sat)?\.(f32)", r"\w+\.(rn)\.(f64)",
        r"fma\.(rn)(?:\.ftz)?(?:\.sat|\.relu)?\.(f16(?:x2)?)",
        r"fma\.(rn)(?:\.relu)?\.(bf16(?:x2)?)",
    )  # fmt: skip
    mode, type_ = found.groups()
    if type_ == "f64":
        return simple(i, b, type_, num.fma64, 3)
    if type_ != "f32":
        return half(i, b, type_, _exact("fma", mode), 3)
    return single(i, b, num.fma32 if mode == "rn" else _directed(_exact("fma", mode), mode), 3)


# ---- quotients and roots

# f64 tells a quotient or a root of f32 from every f32 and every middle between two: they differ by
# 2^-48 of themselves and more, if at all. So rounding twice is no danger.
_QUOTIENT: dict[str, tuple[Run, int]] = {
    "div": (np.divide, 2), "rcp": (lambda x: np.divide(1, x, dtype=x.dtype), 1),
    "sqrt": (np.sqrt, 1),
}  # fmt: skip


@handles("float div", "rcp", "sqrt")
def _quotient(i: Instr, b: Binder) -> Handler:
    op = i.parts[0]
    fast = r"div\.(full|approx)" if op == "div" else r"\w+\.(approx)"
    mode, type_ = form(
        i, b, rf"\w+{_MODE}(?:\.ftz)?\.(f32)", r"\w+\.(rn)\.(f64)", rf"{fast}(?:\.ftz)?\.(f32)"
    ).groups()
    run, n = _QUOTIENT[op]
    if type_ == "f64":
        return simple(i, b, type_, run, n)
    if mode == "approx" and op == "div":
        return single(i, b, _div_approx, 2)
    return single(i, b, _directed(run, mode) if mode in ("rz", "rm", "rp") else run, n)


def _div_approx(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By more than 2^126 it gives 0, or from an infinity NaN, as the ISA says."""
    big = (np.abs(y) > np.float32(2.0**126)) & np.isfinite(y)
    return np.divide(x, np.where(big, np.copysign(np.float32(np.inf), y), y))


def _rounded_once(run: Run) -> Run:
    """From f64, which is within every error that the ISA documents."""
    return lambda x: run(np.asarray(x).astype(np.float64)).astype(np.float32)


_APPROX: dict[str, tuple[str, Run]] = {
    "lg2": (r"lg2\.approx(?:\.ftz)?\.(f32)", np.log2),
    "sin": (r"sin\.approx(?:\.ftz)?\.(f32)", np.sin),
    "cos": (r"cos\.approx(?:\.ftz)?\.(f32)", np.cos),
    "rsqrt": (r"rsqrt\.approx(?:(?:\.ftz)?\.(f32)|\.(f64))", lambda x: 1 / np.sqrt(x)),
    "ex2": (r"ex2\.approx(?:(?:\.ftz)?\.(f32)|\.(f16(?:x2)?)|\.ftz\.(bf16(?:x2)?))", np.exp2),
    "tanh": (r"tanh\.approx\.(f32|f16|f16x2|bf16|bf16x2)", np.tanh),
}


@handles(*_APPROX)
def _approx(i: Instr, b: Binder) -> Handler:
    pattern, run = _APPROX[i.parts[0]]
    type_ = next(t for t in form(i, b, pattern).groups() if t)
    if type_ == "f64":
        return simple(i, b, type_, run, 1)
    if type_ == "f32":
        return single(i, b, _rounded_once(run), 1)
    if not i.has("ftz"):
        return half(i, b, type_, run, 1)
    return _half_ex2_ftz(i, b, type_)


def _half_ex2_ftz(i: Instr, b: Binder, type_: str) -> Handler:
    """bf16 has the exponents of f32: what is subnormal there is flushed."""
    expect(i, b, 2)
    put, get = halves(b, i.args[0], type_), numbers(b, i.args[1], type_)
    run = _rounded_once(np.exp2)
    return lambda s: put(s, num.f32_to_bf16(num.flush(run(num.flush(get(s))))))


# ---- signs and order


def _bits(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.view(f"u{x.dtype.itemsize}")


def least(x: Any, y: Any, low: bool, nan: bool) -> np.ndarray:
    """The smaller or larger number; -0 is below +0. nan: a NaN wins, else it loses."""
    if nan:
        found = np.minimum(x, y) if low else np.maximum(x, y)
    else:
        found = np.fmin(x, y) if low else np.fmax(x, y)
    if np.all(found):
        return found
    join = np.bitwise_or if low else np.bitwise_and
    return np.where(np.equal(x, y), join(_bits(x), _bits(y)).view(found.dtype), found)


def _xorsign(x: Any, y: Any, low: bool, nan: bool) -> np.ndarray:
    """Of the absolute values, with the product's sign."""
    found = least(np.abs(x), np.abs(y), low, nan)
    signed = np.copysign(found, np.where(np.signbit(x) ^ np.signbit(y), -1, 1))
    return np.where(np.isnan(found), found, signed)


@handles("float min", "float max")
def _min(i: Instr, b: Binder) -> Handler:
    type_ = form(
        i, b, r"\w+(?:\.ftz)?(?:\.NaN)?(?:\.xorsign\.abs)?\.(f32)", r"\w+\.(f64)",
        r"\w+(?:\.ftz)?(?:\.NaN)?(?:\.xorsign\.abs)?\.(f16(?:x2)?)",
        r"\w+(?:\.NaN)?(?:\.xorsign\.abs)?\.(bf16(?:x2)?)",
    )[1]  # fmt: skip
    low, nan = i.parts[0] == "min", i.has("NaN")
    each = _xorsign if i.has("xorsign") else least

    def run(x: Any, y: Any) -> np.ndarray:
        return each(x, y, low, nan)

    if type_ == "f64":
        return simple(i, b, type_, run, 2)
    return single(i, b, run, 2) if type_ == "f32" else half(i, b, type_, run, 2)


@handles("float neg", "float abs")
def _neg(i: Instr, b: Binder) -> Handler:
    """Of the sign bit alone; the ISA leaves open what becomes of a NaN."""
    type_ = form(
        i, b, r"\w+(?:\.ftz)?\.(f32)", r"\w+\.(f64)", r"\w+(?:\.ftz)?\.(f16(?:x2)?)",
        r"\w+\.(bf16(?:x2)?)",
    )[1]  # fmt: skip
    negate = i.parts[0] == "neg"
    if type_ in ("f32", "f64"):
        run = np.negative if negate else np.abs
        if i.has("ftz"):
            return simple(i, b, type_, lambda x: run(num.flush(x)), 1)
        return simple(i, b, type_, run, 1)
    if i.has("ftz"):
        return half(i, b, type_, np.negative if negate else np.abs, 1)
    word = "b32" if type_.endswith("x2") else "b16"
    sign = np.uint32(0x80008000) if word == "b32" else np.uint16(0x8000)
    return simple(i, b, word, lambda x: x ^ sign if negate else x & ~sign, 1)


@handles("copysign")
def _copysign(i: Instr, b: Binder) -> Handler:
    """The first operand's sign on the second's value."""
    type_ = form(i, b, r"copysign\.(f32|f64)")[1]
    return simple(i, b, type_, lambda x, y: np.copysign(y, x), 2)
