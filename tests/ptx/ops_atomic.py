"""atom and red. Lanes that meet at one place go one after the other, in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.machine import Active, Handler
from tests.ptx.mbarrier import waves
from tests.ptx.num import bf16_to_f32, f32_to_bf16, flush
from tests.ptx.ops import handles
from tests.ptx.ops_sync import only, own_cta
from tests.ptx.parse import WIDTH, Instr, Vec

_HALVES = ("f16", "f16x2", "bf16", "bf16x2")
REDUCIBLE = {
    "and": ("b32", "b64"), "or": ("b32", "b64"), "xor": ("b32", "b64"), "exch": ("b32", "b64"),
    "cas": ("b16", "b32", "b64"), "inc": ("u32",), "dec": ("u32",),
    "add": ("u32", "s32", "u64", "f32", "f64", *_HALVES),
    "min": ("u32", "s32", "u64", "s64", *_HALVES), "max": ("u32", "s32", "u64", "s64", *_HALVES),
}  # fmt: skip
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_FLOATS = {"f16": np.float16, "f16x2": np.float16, "f32": np.float32, "f64": np.float64}
Merge = Callable[[np.ndarray, np.ndarray], np.ndarray]

_INTEGER: dict[str, Merge] = {
    "add": np.add, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": lambda old, new: np.where(old >= new, 0, old + np.uint32(1)).astype(old.dtype),
    "dec": lambda old, new: np.where((old == 0) | (old > new), new, old - np.uint32(1)),
}  # fmt: skip
_FLOAT: dict[str, Merge] = {"add": np.add, "min": np.fmin, "max": np.fmax, "exch": lambda o, n: n}


def merge(op: str, type_: str, b: Binder, *, ftz: bool = False) -> Merge:
    """What a reduction makes of (old, new), both with unsigned bits [k] or [k, n]."""
    if type_ not in REDUCIBLE.get(op, ()):
        raise b.unknown(f"there is no {op} of {type_}")
    if type_ in ("bf16", "bf16x2"):
        return _half(lambda o, n: f32_to_bf16(_FLOAT[op](bf16_to_f32(o), bf16_to_f32(n))))
    if type_ in _FLOATS:
        dtype, step = _FLOATS[type_], _FLOAT[op]
        if ftz:
            return _viewed(dtype, lambda o, n: flush(step(flush(o), flush(n))))
        return _viewed(dtype, step)
    return _viewed(np.dtype(f"{'i' if type_[0] == 's' else 'u'}{WIDTH[type_]}"), _INTEGER[op])


def _viewed(dtype: np.dtype | type, step: Merge) -> Merge:
    return lambda o, n: step(o.view(dtype), n.view(dtype)).view(o.dtype)


def _half(step: Merge) -> Merge:
    return _viewed(np.uint16, step)


def combiner(op: str, type_: str, b: Binder) -> Merge:
    """The reduction of bulk copies, on bytes [n]."""
    step, dtype = merge(op, type_, b), _UINT[WIDTH[type_]]
    return lambda o, n: step(
        np.ascontiguousarray(o).view(dtype), np.ascontiguousarray(n).view(dtype)
    ).view(np.uint8)


@handles("atom", "red")
def _atom(i: Instr, b: Binder) -> Handler:
    only(i, b, "atom", "red", "relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu",
         "sys", "global", "shared", "shared::cta", "shared::cluster", "noftz", "v2", "v4", "v8",
         "L2::cache_hint", *REDUCIBLE, *WIDTH)  # fmt: skip
    type_ = i.parts[-1] if i.parts[-1] in WIDTH else i.types[-1]
    op = next((p for p in i.parts if p in REDUCIBLE), "")
    if type_ not in REDUCIBLE.get(op, ()):
        raise b.unknown()
    if type_ in _HALVES and not i.has("noftz"):
        raise b.unknown("f16 and bf16 are .noftz")
    args = list(i.args[:-1] if i.has("L2::cache_hint") else i.args)
    target = args.pop(0) if i.parts[0] == "atom" else None
    space = next((p for p in i.parts if p.startswith(("global", "shared"))), "generic")
    count = next((n for n in (2, 4, 8) if i.has(f"v{n}")), 1)
    if count > 1 and (space not in ("global", "generic") or type_ not in ("f32", *_HALVES)):
        raise b.unknown()
    return _update(i, b, op, type_, space, count, args, target)


def _update(i: Instr, b: Binder, op, type_, space, count, args, target) -> Handler:
    bits, memory, window = f"b{8 * WIDTH[type_]}", b.memory, space.split("::")[0]
    address, own = b.address(args[0], window), space in ("shared", "shared::cta")
    sources = [_items(b, a, count, bits) for a in args[1:]]
    if len(sources) != (2 if op == "cas" else 1):
        raise b.unknown(f"{len(sources)} values")
    puts = [] if target is None else [b.scatter(t, bits) for t in _registers(target, count, b)]
    steps = {
        w: _step(op, type_, b, ftz=type_ == "f32" and w == "global") for w in ("global", "shared")
    }
    width = WIDTH[type_]

    def run(s: Active) -> None:
        at = address(s)
        if own:
            own_cta(memory, at, s.lanes)
        given = [np.stack([get(s) for get in gets], axis=1) for gets in sources]
        old = np.zeros_like(given[0])
        for where, raw, index, some in memory.places(
            window, at, s.lanes, width * count, returns=target is not None
        ):
            view = raw.view(old.dtype)
            cells = index[:, None] // width + np.arange(count)
            for turn in waves(index, b.m.rng if b.m.shuffled else None):
                here, lanes = cells[turn], some[turn]
                old[lanes] = before = view[here]
                new = steps[where](before, *(g[lanes] for g in given))
                if (new != before).any():
                    b.m.changed()
                view[here] = new
            memory.wrote(raw, index, width * count, (s.lanes[0][some], s.lanes[1][some]))
        for n, put in enumerate(puts):
            put(s, np.ascontiguousarray(old[:, n]))

    return run


def _step(op: str, type_: str, b: Binder, *, ftz: bool) -> Callable[..., np.ndarray]:
    if op == "cas":
        return lambda old, expected, new: np.where(old == expected, new, old)
    # PTX ISA, atom: an f32 add flushes subnormals in global memory, and does not in shared memory.
    return merge(op, type_, b, ftz=ftz)


def _registers(operand, count: int, b: Binder) -> tuple:
    items = operand.items if isinstance(operand, Vec) and count > 1 else (operand,)
    if len(items) != count:
        raise b.unknown(f"{count} elements, but {len(items)} registers")
    return items


def _items(b: Binder, operand, count: int, bits: str) -> list:
    return [b.gather(b.src(item, bits)) for item in _registers(operand, count, b)]
