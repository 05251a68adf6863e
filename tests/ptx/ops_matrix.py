"""ldmatrix and stmatrix: 8 x 8 matrices of 16-bit elements between shared memory and a warp."""

from __future__ import annotations

import numpy as np

from tests.ptx.bind import Binder
from tests.ptx.machine import Active, Handler
from tests.ptx.memory import Memory
from tests.ptx.ops import handles
from tests.ptx.ops_mma import whole_warps
from tests.ptx.parse import Instr, Vec

_LANE = np.arange(32)


def _matrices(i: Instr, b: Binder) -> int:
    known = ("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16")
    if any(p not in known for p in i.parts[1:]) or not i.has("m8n8") or not i.has("b16"):
        raise b.unknown()
    if not i.has("shared") and not i.has("shared::cta"):
        raise b.unknown("a generic address")
    return next(int(p[1]) for p in i.parts if p in ("x1", "x2", "x4"))


def _places(rows: np.ndarray, matrix: int, trans: bool) -> list[np.ndarray]:
    """The addresses [k] at which each lane's part of a matrix lies. rows: [warps, 32]."""
    if not trans:
        return [
            (rows[:, 8 * matrix + _LANE // 4] + (4 * (_LANE % 4)).astype(np.uint64)).reshape(-1)
        ]
    across = (2 * (_LANE // 4)).astype(np.uint64)
    return [(rows[:, 8 * matrix + 2 * (_LANE % 4) + half] + across).reshape(-1) for half in (0, 1)]


@handles("ldmatrix")
def _ldmatrix(i: Instr, b: Binder) -> Handler:
    count, trans, memory = _matrices(i, b), i.has("trans"), b.memory
    items = i.args[0].items if isinstance(i.args[0], Vec) else (i.args[0],)
    puts = [b.dst(item, "b32") for item in items]
    if len(puts) != count:
        raise b.unknown(f"{count} matrices, but {len(puts)} registers")
    address = b.address(i.args[1], "shared")

    def load(s: Active) -> None:
        whole_warps(b, s)
        rows = address(s).reshape(-1, 32)
        _rows(memory, rows, s, count, "ldmatrix")
        for matrix, put in enumerate(puts):
            places = _places(rows, matrix, trans)
            width = 2 if trans else 4
            got = [memory.load("shared", p, s.lanes, width, 1, counted=True)[0] for p in places]
            whole = got[0].astype(np.uint32)
            if trans:
                whole |= got[1].astype(np.uint32) << np.uint32(16)
            _put(put, s, whole)

    return load


@handles("stmatrix")
def _stmatrix(i: Instr, b: Binder) -> Handler:
    count, trans, memory = _matrices(i, b), i.has("trans"), b.memory
    items = i.args[1].items if isinstance(i.args[1], Vec) else (i.args[1],)
    gets = [b.gather(b.src(item, "b32")) for item in items]
    if len(gets) != count:
        raise b.unknown(f"{count} matrices, but {len(gets)} registers")
    address = b.address(i.args[0], "shared")

    def store(s: Active) -> None:
        whole_warps(b, s)
        rows = address(s).reshape(-1, 32)
        _rows(memory, rows, s, count, "stmatrix")
        for matrix, get in enumerate(gets):
            value = get(s)
            halves = [value]
            if trans:
                halves = [value.astype(np.uint16), (value >> np.uint32(16)).astype(np.uint16)]
            for place, half in zip(_places(rows, matrix, trans), halves, strict=True):
                memory.store("shared", place, s.lanes, [half], counted=True)

    return store


def _rows(memory: Memory, rows: np.ndarray, s: Active, count: int, op: str) -> None:
    """Checks and counts the rows of `count` matrices, 16 bytes by each of 8 lanes. With .trans
    they are the same, so that it costs no more."""
    warp, lane = (v.reshape(-1, 32)[:, : 8 * count].reshape(-1) for v in s.lanes)
    address = rows[:, : 8 * count].reshape(-1)
    memory.aligned(address, 16, (warp, lane), op)
    memory.count(op == "stmatrix", "shared", (warp, lane), address, 16)


def _put(put, s: Active, values: np.ndarray) -> None:
    """Values of the active warps' lanes, all 32 of each."""
    if s.full:
        put(s, values.reshape(s.mask.shape))
        return
    whole = np.zeros(s.mask.shape, values.dtype)
    whole[s.mask] = values
    put(s, whole)
