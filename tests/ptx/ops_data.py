"""Moves, loads and stores, address conversions, selections and comparisons."""

from __future__ import annotations

import operator

import numpy as np

from tests.ptx.bind import DTYPE, Binder
from tests.ptx.machine import Active, Handler
from tests.ptx.memory import WINDOW
from tests.ptx.num import bf16_to_f32, flush
from tests.ptx.ops import handles
from tests.ptx.parse import WIDTH, Instr, Pair, Reg, Sym, Vec

_UINT = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}
_SPACES = ("global", "shared", "shared::cta", "shared::cluster", "local", "param", "const")


def space_of(i: Instr) -> str:
    for part in i.parts:
        if part in _SPACES:
            return part.split("::")[0]
    return "generic"


@handles("mov")
def _mov(i: Instr, b: Binder) -> Handler:
    type_ = i.types[-1]
    if type_ == "b128":
        raise b.unknown()
    put, get = b.dst(i.args[0], type_), b.src(i.args[1], type_)
    return lambda s: put(s, get(s))


def _elements(i: Instr, b: Binder) -> tuple[str, int]:
    type_ = i.types[-1]
    if type_ == "b128":
        raise b.unknown()
    return type_, 4 if i.has("v4") else 2 if i.has("v2") else 8 if i.has("v8") else 1


@handles("ld", "ldu")
def _ld(i: Instr, b: Binder) -> Handler:
    type_, count = _elements(i, b)
    space, memory, width = space_of(i), b.memory, WIDTH[type_]
    operand = i.args[0]
    items = operand.items if isinstance(operand, Vec) else (operand,)
    if len(items) != count:
        raise b.unknown(f"{count} elements, but {len(items)} registers")
    address = b.address(i.args[1], space)
    puts = [b.scatter(item, type_) for item in items]
    dtype = DTYPE[type_]

    def load(s: Active) -> None:
        values = memory.load(space, address(s), s.lanes, width, count)
        for put, value in zip(puts, values, strict=True):
            put(s, value.view(dtype))

    return load


@handles("st")
def _st(i: Instr, b: Binder) -> Handler:
    type_, count = _elements(i, b)
    space, memory = space_of(i), b.memory
    operand = i.args[1]
    items = operand.items if isinstance(operand, Vec) else (operand,)
    if len(items) != count:
        raise b.unknown(f"{count} elements, but {len(items)} registers")
    address = b.address(i.args[0], space)
    gets = [b.gather(b.src(item, _UINT[WIDTH[type_]])) for item in items]

    def store(s: Active) -> None:
        memory.store(space, address(s), s.lanes, [get(s) for get in gets])

    return store


@handles("cvta")
def _cvta(i: Instr, b: Binder) -> Handler:
    space, to = space_of(i), i.has("to")
    window = np.uint64(WINDOW[space])
    put = b.dst(i.args[0], "u64")
    operand = i.args[1]
    if isinstance(operand, Sym):
        fixed = np.uint64(b.symbol(operand.name)) + window
        return lambda s: put(s, fixed)
    get = b.src(operand, "u64")
    if to:
        return lambda s: put(s, get(s) - window)
    return lambda s: put(s, get(s) + window)


@handles("isspacep")
def _isspacep(i: Instr, b: Binder) -> Handler:
    space = space_of(i)
    put, get = b.dst(i.args[0], "pred"), b.src(i.args[1], "u64")
    low = WINDOW[space]
    high = low + (1 << 40) if low else WINDOW["shared"]
    return lambda s: put(s, (get(s) >= np.uint64(low)) & (get(s) < np.uint64(high)))


@handles("selp")
def _selp(i: Instr, b: Binder) -> Handler:
    type_ = i.types[-1]
    put = b.dst(i.args[0], type_)
    yes, no, which = b.src(i.args[1], type_), b.src(i.args[2], type_), b.src(i.args[3], "pred")
    return lambda s: put(s, np.where(which(s), yes(s), no(s)))


_ORDERED = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip
_JOIN = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def compare(word: str, type_: str, ftz: bool):
    """The comparison of two arrays in which a NaN counts as PTX says."""
    floating = type_ in ("f16", "bf16", "f32", "f64")
    if not floating:
        return _ORDERED.get(word)
    if word in ("num", "nan"):
        nan = word == "nan"
        return lambda x, y: (np.isnan(x) | np.isnan(y)) == nan
    unordered = word.endswith("u") and word[:-1] in _ORDERED
    test = _ORDERED.get(word[:-1] if unordered else word)
    if test is None:
        return None
    clean = flush if ftz and type_ == "f32" else (lambda v: v)

    def run(x, y):
        x, y = clean(x), clean(y)
        nan = np.isnan(x) | np.isnan(y)
        return test(x, y) | nan if unordered else test(x, y) & ~nan

    return run


@handles("setp")
def _setp(i: Instr, b: Binder) -> Handler:
    type_ = i.types[-1]
    if type_ in ("f16x2", "bf16x2"):
        raise b.unknown()
    words = [p for p in i.parts[1:] if p not in ("ftz", type_)]
    test = compare(words[0], type_, i.has("ftz"))
    if test is None or len(words) > 2 or (len(words) == 2 and words[1] not in _JOIN):
        raise b.unknown()
    targets = i.args[0]
    first, second = (
        (targets.first, targets.second) if isinstance(targets, Pair) else (targets, None)
    )
    put = b.dst(first, "pred")
    other = b.dst(second, "pred") if second is not None else None
    x, y = (widened(b, a, type_) for a in i.args[1:3])
    join = _JOIN[words[1]] if len(words) == 2 else None
    third = b.src(i.args[3], "pred") if join is not None else None

    def run(s: Active) -> None:
        found = test(x(s), y(s))
        opposite = ~np.asarray(found)
        if join is not None:
            found, opposite = join(found, third(s)), join(opposite, third(s))
        put(s, found)
        if other is not None:
            other(s, opposite)

    return run


def widened(b: Binder, operand, type_: str):
    """A source; a bf16 as the f32 of the same value."""
    get = b.src(operand, type_)
    return (lambda s: bf16_to_f32(get(s))) if type_ == "bf16" else get


@handles("prmt")
def _prmt(i: Instr, b: Binder) -> Handler:
    if len(i.parts) > 2:
        raise b.unknown()
    put = b.dst(i.args[0], "b32")
    x, y, control = (b.src(a, "u32") for a in i.args[1:4])

    def run(s: Active) -> None:
        both = np.asarray(x(s)).astype(np.uint64) | np.asarray(y(s)).astype(np.uint64) << np.uint64(
            32
        )
        how = np.asarray(control(s))
        out = np.zeros(np.broadcast(both, how).shape, np.uint32)
        for byte in range(4):
            nibble = (how >> np.uint32(4 * byte)) & np.uint32(0xF)
            picked = (both >> ((nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8))).astype(
                np.uint8
            )
            sign = np.where(picked & 0x80, np.uint8(0xFF), np.uint8(0))
            value = np.where(nibble & np.uint32(8), sign, picked).astype(np.uint32)
            out |= value << np.uint32(8 * byte)
        put(s, out)

    return run


def is_register(operand: object) -> bool:
    return isinstance(operand, Reg)
