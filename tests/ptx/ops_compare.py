"""Comparisons, and selections by them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.bind import DTYPE, Binder, Source
from tests.ptx.forms import expect, form, joined, numbers, simple
from tests.ptx.machine import Active, Handler
from tests.ptx.num import flush
from tests.ptx.ops import handles
from tests.ptx.parse import Instr, Operand, Pair

_ORDERED = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_JOIN = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}
_FLOATS = ("f16", "bf16", "f32", "f64", "f16x2", "bf16x2")
_WORDS = (
    r"\.(eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan)(?:\.(and|or|xor))?"
    r"(?:\.(ftz))?"
)
_TYPE = r"([bus](?:16|32|64)|f32|f64|f16|bf16|f16x2|bf16x2)"
Test = Callable[[Any, Any], Any]


def _test(b: Binder, word: str, type_: str) -> Test:
    """The comparison of two arrays, in which a NaN counts as PTX says."""
    if type_ not in _FLOATS:
        known = word in _ORDERED if type_[0] != "b" else word in ("eq", "ne")
        if not known and not (type_[0] == "u" and word in _UNSIGNED):
            raise b.unknown(f"{type_} has no {word}")
        return _ORDERED[_UNSIGNED.get(word, word)]
    if word in ("num", "nan"):
        nan = word == "nan"
        return lambda x, y: (np.isnan(x) | np.isnan(y)) == nan
    plain = _ORDERED.get(word.removesuffix("u") if word != "equ" else "eq")
    if plain is None:
        raise b.unknown(f"{type_} has no {word}")
    if not word.endswith("u"):  # NumPy's own say false of a NaN, but for !=
        return plain if word != "ne" else lambda x, y: (x < y) | (x > y)
    return lambda x, y: plain(x, y) | np.isnan(x) | np.isnan(y)


def _sources(b: Binder, first: Operand, second: Operand, type_: str, ftz: bool) -> list[Source]:
    if ftz and type_ not in ("f32", "f16", "f16x2"):
        raise b.unknown(f".ftz of {type_}")
    if type_ not in _FLOATS:
        return [b.src(a, type_) for a in (first, second)]
    gets = [numbers(b, a, type_) for a in (first, second)]
    return [_flushed(get, type_.removesuffix("x2")) for get in gets] if ftz else gets


def _flushed(get: Source, type_: str) -> Source:
    return lambda s: flush(get(s), type_)


def _compared(i: Instr, b: Binder, found: Any, type_: str) -> tuple[Callable[[Active], Any], Any]:
    """The comparison of operands 1 and 2, and what joins it with operand 3."""
    word, join, ftz = found.groups()[:3]
    expect(i, b, 3 if join is None else 4)
    test = _test(b, word, type_)
    x, y = _sources(b, i.args[1], i.args[2], type_, ftz is not None)
    third = b.src(i.args[3], "pred") if join is not None else None

    def joined_with(value: Any, s: Active) -> Any:
        if third is None:
            return value
        other = third(s)
        return _JOIN[join](value, other[..., None] if np.ndim(value) > np.ndim(other) else other)

    return (lambda s: test(x(s), y(s))), joined_with


@handles("setp")
def _setp(i: Instr, b: Binder) -> Handler:
    found = form(i, b, rf"setp{_WORDS}\.{_TYPE}")
    type_ = found[4]
    test, join = _compared(i, b, found, type_)
    target = i.args[0]
    pair = isinstance(target, Pair)
    put = b.dst(target.first if pair else target, "pred")
    other = b.dst(target.second, "pred") if pair else None
    packed = type_.endswith("x2")

    def run(s: Active) -> None:
        value = test(s)
        if packed:  # the two halves; else the comparison and its opposite
            both = np.moveaxis(np.asarray(join(value, s)), -1, 0)
            put(s, both[0])
            if other is not None:
                other(s, both[1])
            return
        if other is not None:
            opposite = join(np.logical_not(value), s)
            put(s, join(value, s))
            other(s, opposite)
            return
        put(s, join(value, s))

    return run


@handles("set")
def _set(i: Instr, b: Binder) -> Handler:
    """All ones, or 1.0 in a float."""
    found = form(
        i, b, rf"set{_WORDS}\.(?P<to>u32|s32|f32)\.(?P<of>[bus](?:16|32|64)|f32|f64)",
        rf"set{_WORDS}\.(?P<to>u16|s16|u32|s32|f16)\.(?P<of>f16)",
        rf"set{_WORDS}\.(?P<to>u16|s16|u32|s32|bf16)\.(?P<of>bf16)",
        rf"set{_WORDS}\.(?P<to>f16x2|u32|s32)\.(?P<of>f16x2)",
        rf"set{_WORDS}\.(?P<to>bf16x2|u32|s32)\.(?P<of>bf16x2)",
    )  # fmt: skip
    to, type_ = found["to"], found["of"]
    test, join = _compared(i, b, found, type_)
    one = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}.get(to.removesuffix("x2"), -1)
    if type_.endswith("x2"):
        put, yes = b.dst(i.args[0], "b32"), np.uint16(one & 0xFFFF)
        return lambda s: put(s, joined(np.where(join(test(s), s), yes, np.uint16(0))))
    word = f"b{to.lstrip('busf')}"
    put, yes = b.dst(i.args[0], word), DTYPE[word](one & ((1 << int(word[1:])) - 1))
    return lambda s: put(s, np.where(join(test(s), s), yes, DTYPE[word](0)))


@handles("selp")
def _selp(i: Instr, b: Binder) -> Handler:
    type_ = form(i, b, r"selp\.([bus](?:16|32|64)|f32|f64)")[1]
    expect(i, b, 4)
    put = b.dst(i.args[0], type_)
    yes, no, which = b.src(i.args[1], type_), b.src(i.args[2], type_), b.src(i.args[3], "pred")
    return lambda s: put(s, np.where(which(s), yes(s), no(s)))


@handles("slct")
def _slct(i: Instr, b: Binder) -> Handler:
    """The first where the third is not negative; -0 is not, a NaN is."""
    type_, by = form(
        i, b, r"slct\.([bus](?:16|32|64)|f32|f64)\.(s32)",
        r"slct(?:\.ftz)?\.([bus](?:16|32|64)|f32|f64)\.(f32)",
    ).groups()  # fmt: skip
    expect(i, b, 4)
    put = b.dst(i.args[0], type_)
    yes, no, which = b.src(i.args[1], type_), b.src(i.args[2], type_), b.src(i.args[3], by)
    if i.has("ftz"):
        which = _flushed(which, "f32")
    return lambda s: put(s, np.where(which(s) >= 0, yes(s), no(s)))


def _normal(x: Any) -> Any:
    return np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny)


_CLASSES = {
    "finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan,
    "number": lambda x: ~np.isnan(x), "normal": _normal,
    "subnormal": lambda x: (np.abs(x) < np.finfo(x.dtype).tiny) & (x != 0),
}  # fmt: skip


@handles("testp")
def _testp(i: Instr, b: Binder) -> Handler:
    which, type_ = form(i, b, rf"testp\.({'|'.join(_CLASSES)})\.(f32|f64)").groups()
    expect(i, b, 2)
    put, get, test = b.dst(i.args[0], "pred"), b.src(i.args[1], type_), _CLASSES[which]
    return lambda s: put(s, test(get(s)))


_MODES = {  # the bytes of the result from the lowest, for each value of the control
    "f4e": ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)),
    "b4e": ((0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((0, 1, 2, 3), (1, 1, 2, 3), (2, 2, 2, 3), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 2, 3)),
    "rc16": ((0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)),
}


@handles("prmt")
def _prmt(i: Instr, b: Binder) -> Handler:
    mode = form(i, b, rf"prmt\.b32(?:\.({'|'.join(_MODES)}))?")[1]
    table = np.array(_MODES[mode], np.uint8) if mode else None
    nibbles = np.arange(0, 16, 4, dtype=np.uint32)

    def run(x: Any, y: Any, control: Any) -> np.ndarray:
        both = np.stack(np.broadcast_arrays(x, y, control)[:2], axis=-1).view(np.uint8)
        control = np.asarray(control)
        if table is not None:
            pick, sign = table[control & np.uint32(3)], None
        else:
            pick = (control[..., None] >> nibbles).astype(np.uint8)
            pick, sign = pick & np.uint8(7), pick & np.uint8(8)
        pick = np.broadcast_to(pick, (*both.shape[:-1], 4)).astype(np.intp)
        found = np.take_along_axis(both, pick, axis=-1)
        if sign is not None and sign.any():
            copies = (found.view(np.int8) >> np.int8(7)).view(np.uint8)
            found = np.where(sign != 0, copies, found)
        return np.ascontiguousarray(found).view(np.uint32)[..., 0]

    return simple(i, b, "b32", run, 3)
