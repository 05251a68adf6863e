"""Moves, loads and stores, address conversions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.bind import DTYPE, Binder
from tests.ptx.forms import form, simple
from tests.ptx.machine import Active, Handler
from tests.ptx.memory import WINDOW
from tests.ptx.ops import handles
from tests.ptx.ops_sync import only, own_cta
from tests.ptx.parse import WIDTH, Imm, Instr, Operand, Sym, Vec

_UINT = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}
_SPACES = ("global", "shared", "shared::cta", "shared::cluster", "local", "param", "const")
# Words that order an access are races.py's business, and those about caches are hints.
_EVICT = ("evict_normal", "evict_unchanged", "evict_first", "evict_last")
_ACCESS = (
    "weak", "relaxed", "volatile", "mmio", "cta", "cluster", "gpu", "sys", "v2", "v4", *_SPACES,
    "L1::no_allocate", *(f"{n}::{e}" for n in ("L1", "L2") for e in _EVICT), "L2::cache_hint",
)  # fmt: skip
_LOADS = (
    "ld", "ldu", "acquire", "nc", "ca", "cg", "cs", "lu", "cv", "L2::64B", "L2::128B", "L2::256B",
)  # fmt: skip
_STORES = ("st", "release", "wb", "cg", "cs", "wt")


def space_of(i: Instr) -> str:
    for part in i.parts:
        if part in _SPACES:
            return part.split("::")[0]
    return "generic"


@handles("mov")
def _mov(i: Instr, b: Binder) -> Handler:
    return simple(i, b, form(i, b, r"mov\.(pred|[bus](?:16|32|64)|f32|f64)")[1], lambda x: x, 1)


def _elements(i: Instr, b: Binder) -> tuple[str, int]:
    only(i, b, *(_LOADS if i.parts[0] != "st" else _STORES), *_ACCESS, *WIDTH)
    type_ = i.types[-1]
    if type_ == "b128":
        raise b.unknown()
    return type_, 4 if i.has("v4") else 2 if i.has("v2") else 1


def _address(i: Instr, b: Binder, operand: Operand) -> Callable[[Active], np.ndarray]:
    """Of a load or store. In .shared without ::cluster it is in the CTA's own memory."""
    get = b.address(operand, space_of(i))
    if b.m.shape.cluster_size == 1 or not (i.has("shared") or i.has("shared::cta")):
        return get

    def own(s: Active) -> np.ndarray:
        at = get(s)
        own_cta(b.memory, at, s.lanes)
        return at

    return own


@handles("ld", "ldu")
def _ld(i: Instr, b: Binder) -> Handler:
    type_, count = _elements(i, b)
    space, memory, width = space_of(i), b.memory, WIDTH[type_]
    operand = i.args[0]
    items = operand.items if isinstance(operand, Vec) else (operand,)
    if len(items) != count:
        raise b.unknown(f"{count} elements, but {len(items)} registers")
    address = _address(i, b, i.args[1])
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
    address = _address(i, b, i.args[0])
    # A constant of a float is none of its bits: `st.f32 [a], 1.5`, but no `st.f32 [a], 1`.
    gets = [
        b.gather(b.src(item, type_ if isinstance(item, Imm) else _UINT[WIDTH[type_]]))
        for item in items
    ]
    dtype = DTYPE[_UINT[WIDTH[type_]]]

    def store(s: Active) -> None:
        memory.store(space, address(s), s.lanes, [get(s).view(dtype) for get in gets])

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
    span = 24 if i.has("shared") or i.has("shared::cta") else 40  # other CTAs' lies above RANK
    high = low + (1 << span) if low else WINDOW["shared"]
    return lambda s: put(s, (get(s) >= np.uint64(low)) & (get(s) < np.uint64(high)))
