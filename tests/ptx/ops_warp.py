"""Instructions in which lanes of a warp see each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.errors import Fault
from tests.ptx.forms import expect, form
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.ops import handles
from tests.ptx.parse import Instr, Operand, Pair

_LANE = np.arange(32, dtype=np.int64)


def together(i: Instr, b: Binder, run: Callable[[Active, Any], None]) -> Handler:
    """`run`, of the lanes and their membermask (the last operand), once all it names are here."""
    mask = b.src(i.args[-1], "u32")
    return b.m.meet(lambda s: run(s, mask(s)), b.pc, mask)


def grouped(s: Active, mask: Any, of: Callable[[np.ndarray], Any]) -> np.ndarray:
    """`of` each group of lanes [warps, 32] that share a membermask; it may give one value a warp,
    [warps, 1]."""
    if np.ndim(mask) == 0:
        return of(s.mask)
    out = None
    for group in _groups(s, mask):
        found = of(group)
        out = found if out is None else np.where(group, found, out)
    return out


def packed(lanes: np.ndarray) -> np.ndarray:
    """Bits of lanes [..., 32] as one number [...]."""
    return np.packbits(lanes, axis=-1, bitorder="little").view(np.uint32)[..., 0]


def _pair(operand: Operand) -> tuple[Operand, Operand | None]:
    return (operand.first, operand.second) if isinstance(operand, Pair) else (operand, None)


@handles("shfl")
def _shfl(i: Instr, b: Binder) -> Handler:
    how = form(i, b, r"shfl\.sync\.(up|down|bfly|idx)\.b32")[1]
    expect(i, b, 5)
    first, second = _pair(i.args[0])
    put = b.dst(first, "b32")
    inside = b.dst(second, "pred") if second is not None else None
    value, by, clamp = (b.src(a, "b32") for a in i.args[1:4])

    def run(s: Active, mask: Any) -> None:
        x = np.broadcast_to(value(s), s.mask.shape)
        step, c = (np.asarray(v(s)).astype(np.int64) for v in (by, clamp))
        valid, source = _places(how, step & 31, c & 31, (c >> 8) & 31)
        source = np.broadcast_to(np.where(valid, source, _LANE), s.mask.shape)
        if not s.full or np.ndim(mask):
            _there(b, s, mask, source)
        put(s, np.take_along_axis(x, source, axis=1))
        if inside is not None:
            inside(s, valid)

    return together(i, b, run)


def _places(how: str, step: np.ndarray, bound: np.ndarray, segment: np.ndarray) -> tuple:
    """(whether in the segment, the source lane) of each lane, as the ISA's pseudocode has it."""
    last = (_LANE & segment) | (bound & ~segment)
    if how == "up":
        source = _LANE - step
        return source >= last, source
    if how == "down":
        source = _LANE + step
    elif how == "bfly":
        source = _LANE ^ step
    else:
        source = (_LANE & segment) | (step & ~segment)
    return source <= last, source


def _there(b: Binder, s: Active, mask: Any, source: np.ndarray) -> None:
    """What an inactive lane, or one outside of the mask, would give is undefined."""
    mask = np.broadcast_to(mask, s.mask.shape)
    there = s.mask & (np.take_along_axis(mask, source, axis=1) == mask)
    there &= np.take_along_axis(s.mask, source, axis=1)
    bad = s.mask & ~there
    if bad.any():
        warp, lane = (int(v[0]) for v in np.nonzero(bad))
        text = f"a shfl from lane {source[warp, lane]}, which takes no part"
        raise fault(Fault, b.m, text, warp + s.lo, lane)


@handles("vote")
def _vote(i: Instr, b: Binder) -> Handler:
    how = form(i, b, r"vote\.sync\.(all|any|uni)\.pred", r"vote\.sync\.(ballot)\.b32")[1]
    expect(i, b, 3)
    put = b.dst(i.args[0], "b32" if how == "ballot" else "pred")
    get = b.src(i.args[1], "pred")

    def run(s: Active, mask: Any) -> None:
        value = np.broadcast_to(get(s), s.mask.shape)

        def of(group: np.ndarray) -> np.ndarray:
            if how == "ballot":
                return packed(value & group)[:, None]
            every = (value | ~group).all(axis=1, keepdims=True)
            if how == "all":
                return every
            some = (value & group).any(axis=1, keepdims=True)
            return some if how == "any" else every | ~some

        put(s, grouped(s, mask, of))

    return together(i, b, run)


@handles("activemask")
def _activemask(i: Instr, b: Binder) -> Handler:
    form(i, b, r"activemask\.b32")
    expect(i, b, 1)
    put = b.dst(i.args[0], "b32")
    return lambda s: put(s, packed(s.mask)[:, None])


_REDUCE = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


@handles("redux")
def _redux(i: Instr, b: Binder) -> Handler:
    how, type_ = form(
        i, b, r"redux\.sync\.(add|min|max)\.([us]32)", r"redux\.sync\.(and|or|xor)\.(b32)"
    ).groups()
    expect(i, b, 3)
    put, get, join = b.dst(i.args[0], type_), b.src(i.args[1], type_), _REDUCE[how]
    info = np.iinfo(np.int32 if type_ == "s32" else np.uint32)
    neutral = info.dtype.type({"min": info.max, "max": info.min, "and": info.max}.get(how, 0))

    def run(s: Active, mask: Any) -> None:
        value = np.broadcast_to(get(s), s.mask.shape)
        put(s, grouped(s, mask, lambda group: join.reduce(
            np.where(group, value, neutral), axis=1, keepdims=True, dtype=info.dtype)))  # fmt: skip

    return together(i, b, run)


@handles("match")
def _match(i: Instr, b: Binder) -> Handler:
    how, type_ = form(i, b, r"match\.(any|all)\.sync\.(b32|b64)").groups()
    expect(i, b, 3)
    first, second = _pair(i.args[0])
    if how == "any" and second is not None:
        raise b.unknown("match.any has one result")
    put = b.dst(first, "b32")
    same = b.dst(second, "pred") if second is not None else None
    get = b.src(i.args[1], type_)

    def run(s: Active, mask: Any) -> None:
        value = np.broadcast_to(get(s), s.mask.shape)
        equal = value[:, :, None] == value[:, None, :]
        if how == "any":
            put(s, grouped(s, mask, lambda group: packed(equal & group[:, None, :])))
            return
        alike = grouped(s, mask, lambda group: (equal | ~group[:, None, :]).all(axis=2))
        members = grouped(s, mask, lambda group: packed(group)[:, None])
        put(s, np.where(alike, members, np.uint32(0)))
        if same is not None:
            same(s, alike)

    return together(i, b, run)


@handles("elect")
def _elect(i: Instr, b: Binder) -> Handler:
    """The ISA promises the same lane for the same mask, not which; it is the lowest."""
    form(i, b, r"elect\.sync")
    expect(i, b, 2)
    first, second = _pair(i.args[0])
    if second is None:
        raise b.unknown("it has two results")
    put, chosen = b.dst(first, "b32"), b.dst(second, "pred")

    def run(s: Active, mask: Any) -> None:
        leader = grouped(s, mask, lambda group: group.argmax(axis=1)[:, None])
        put(s, leader.astype(np.uint32))
        chosen(s, leader == _LANE)

    return together(i, b, run)


@handles("bar.warp")
def _bar_warp(i: Instr, b: Binder) -> Handler:
    form(i, b, r"bar\.warp\.sync")
    expect(i, b, 1)
    shadow = b.memory.shadow
    if shadow is None:
        return together(i, b, lambda s, mask: None)

    def met(s: Active, mask: Any) -> None:
        warps = s.warps
        for group in _groups(s, mask):
            some = group[warps - s.lo]
            there = some.any(axis=1)
            shadow.meet(warps[there], some[there])

    return together(i, b, met)


def _groups(s: Active, mask: Any) -> Iterator[np.ndarray]:
    """The lanes [warps, 32] that share a membermask."""
    if np.ndim(mask) == 0:
        yield s.mask
        return
    for value in np.unique(mask[s.mask]):
        yield s.mask & (mask == value)
