"""What handlers of arithmetic share: the forms of an opcode, and operands as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.bind import Binder, Source, Target
from tests.ptx.machine import Handler
from tests.ptx.num import widen
from tests.ptx.parse import Imm, Instr, Operand


def form(i: Instr, b: Binder, *patterns: str) -> re.Match[str]:
    """The first pattern that is the whole opcode: what no pattern has, nobody knows."""
    for pattern in patterns:
        if found := re.fullmatch(pattern, i.op):
            return found
    raise b.unknown()


def expect(i: Instr, b: Binder, count: int) -> None:
    if len(i.args) != count:
        raise b.unknown(f"it takes {count} operands, not {len(i.args)}")


def simple(i: Instr, b: Binder, type_: str, run: Callable[..., Any], n: int) -> Handler:
    """dst = run(the n sources), all of one type."""
    expect(i, b, n + 1)
    put = b.dst(i.args[0], type_)
    gets = [b.src(a, type_) for a in i.args[1:]]
    if n == 1:
        x = gets[0]
        return lambda s: put(s, run(x(s)))
    if n == 2:
        x, y = gets
        return lambda s: put(s, run(x(s), y(s)))
    if n == 3:
        x, y, z = gets
        return lambda s: put(s, run(x(s), y(s), z(s)))
    return lambda s: put(s, run(*(g(s) for g in gets)))


def constant(i: Instr, b: Binder, index: int) -> int:
    operand = i.args[index]
    if not isinstance(operand, Imm) or operand.kind != "int":
        raise b.unknown(f"operand {index} is no integer constant")
    return operand.value


def split(value: Any, part: type) -> np.ndarray:
    """u32 [...] as its two halves [..., 2], the lower one first."""
    value = np.ascontiguousarray(value, np.uint32)
    return value.view(part).reshape(*value.shape, 2)


def joined(halves: np.ndarray) -> np.ndarray:
    """[..., 2] of 16 bits as u32 [...]."""
    return np.ascontiguousarray(halves).view(np.uint32)[..., 0]


def numbers(b: Binder, operand: Operand, type_: str) -> Source:
    """A float source as f32 or f64: [warps, 32], for the packed types [warps, 32, 2]."""
    if type_ in ("f32", "f64"):
        return b.src(operand, type_)
    get = b.src(operand, type_)
    if type_.endswith("x2"):
        one = type_[:-2]
        return lambda s: widen(split(get(s), np.uint16), one)
    return lambda s: widen(get(s), type_)


def halves(b: Binder, operand: Operand, type_: str) -> Target:
    """A target that takes 16-bit patterns: [warps, 32], for the packed types [warps, 32, 2]."""
    if type_.endswith("x2"):
        put = b.dst(operand, "b32")
        return lambda s, value: put(s, joined(value))
    return b.dst(operand, "b16")
