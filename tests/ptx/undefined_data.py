"""Undefined bits outside of registers: in shared and local memory, and through matrix products."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx import elements
from tests.ptx.errors import Uninitialised
from tests.ptx.machine import Active, fault
from tests.ptx.memory import WINDOW, Memory
from tests.ptx.ops_mma import items
from tests.ptx.parse import Instr

if TYPE_CHECKING:
    from tests.ptx.bind import Binder

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Bits:
    """The undefined bits of a Memory. It loads and stores like one, for accesses that the Memory
    itself has already checked."""

    def __init__(self, memory: Memory):
        self.memory, self.m, self.rank = memory, memory.m, memory.rank
        self.shared: np.ndarray | None = None  # None: all defined, or never written at all
        self.local = np.full_like(memory.local, 0xFF)

    @property
    def spoilt(self) -> bool:
        """Whether any of it may be undefined."""
        return self.shared is not None or len(self.local) > 0

    def aligned(self, *_: object) -> None:
        pass

    def count(self, *_: object) -> None:
        pass

    def _array(self, space: str) -> np.ndarray | None:
        return {"shared": self.shared, "local": self.local}.get(space)

    def _index(self, space: str, address: np.ndarray, lanes: tuple) -> np.ndarray:
        if space == "shared":
            return self.memory.flat(address, lanes[0])
        row = lanes[0] * 32 + lanes[1]
        return row * self.memory.local_row + address.astype(np.int64)

    def load(
        self,
        space: str,
        address: np.ndarray,
        lanes: tuple,
        width: int,
        count: int,
        *,
        counted: bool = False,
    ) -> list:
        out = [np.zeros(len(address), _UINT[width]) for _ in range(count)]
        for inside, some in self._spaces(space, address):
            array = self._array(inside)
            if array is None:
                continue
            at = address[some] - np.uint64(WINDOW[inside] if space == "generic" else 0)
            index = self._index(inside, at, (lanes[0][some], lanes[1][some])) // width
            for i, value in enumerate(out):
                value[some] = array.view(_UINT[width])[index + i]
        return out

    def _spaces(self, space: str, address: np.ndarray) -> list[tuple[str, np.ndarray]]:
        if not len(address):
            return []
        if space == "generic":
            return self.memory._spaces(address)
        return [(space, np.arange(len(address)))]

    def store(
        self, space: str, address: np.ndarray, lanes: tuple, values: list, *, counted: bool = False
    ) -> None:
        width = values[0].dtype.itemsize
        for inside, some in self._spaces(space, address):
            who = (lanes[0][some], lanes[1][some])
            given = [v[some] for v in values]
            spoilt = any(v.any() for v in given)
            if inside == "global" and spoilt:
                at = int(np.argmax(np.any(given, axis=0)))
                text = "what was never written is stored to global memory"
                raise fault(Uninitialised, self.m, text, who[0][at], who[1][at])
            if inside == "shared" and spoilt and self.shared is None:
                self.shared = np.zeros_like(self.memory.shared)
            array = self._array(inside)
            if array is None:
                continue
            at = address[some] - np.uint64(WINDOW[inside] if space == "generic" else 0)
            index = self._index(inside, at, who) // width
            for i, value in enumerate(given):
                array.view(_UINT[width])[index + i] = value

    # ---- what engines and atomics do to shared memory: `index` of its bytes

    def copied(self, to: np.ndarray, source: np.ndarray | None, *, joined: bool) -> None:
        """Bytes came from elsewhere in shared memory, or None: from where all is defined.
        joined: they were combined with what was there."""
        if self.shared is None:
            return
        came = 0 if source is None else self.shared[source]
        self.shared[to] = self.shared[to] | came if joined else came

    def result(
        self,
        index: np.ndarray,
        who: tuple[int, int],
        what: str,
        kept: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Bytes that leave shared memory for good are defined; kept: picks those that do."""
        if self.shared is None:
            return
        bits = self.shared[index]
        if (bits if kept is None else kept(bits)).any():
            at = int(index[np.argmax(bits != 0)]) % self.memory.row
            text = f"{what} takes shared memory at {at}, which holds what was never written"
            raise fault(Uninitialised, self.m, text, *who)


# ---- matrix products: a row of A, a column of B, or an accumulator that is not defined spoils all
# that it takes part in


def _spoilt(left: np.ndarray, right: np.ndarray, held: np.ndarray | None, type_: str) -> np.ndarray:
    """Undefined bits of the result's registers, of those of A's rows [..., m, bytes], B's columns
    [..., n, bytes] and the accumulator's registers."""
    kind = {"f16": np.uint16, "f64": np.uint64}.get(type_, np.uint32)
    rows, columns = (left != 0).any(axis=-1), (right != 0).any(axis=-1)
    bad = elements.spread(rows[..., :, None] | columns[..., None, :])
    if held is not None:
        bad = bad | (elements.values(held, type_).view(kind) != 0)
    return elements.registers(np.where(bad, kind(np.iinfo(kind).max), kind(0)), type_)


def mma(i: Instr, bits: Binder) -> Callable[[Active], Callable[[Active], None]]:
    """mma.sync on undefined bits. bits: binds operands to theirs."""
    found = re.search(r"m(8|16)n8", i.op)
    assert found is not None
    halves, type_ = int(found[1]) // 8, i.types[0]
    wide = "b64" if "f64" in i.types else "b32"
    puts = [bits.dst(r, wide) for r in items(i.args[0])]
    gets = [[bits.src(r, wide) for r in items(a)] for a in i.args[1:4]]

    def follow(s: Active) -> Callable[[Active], None]:
        a, b, c = (np.stack([np.broadcast_to(g(s), s.mask.shape) for g in some]) for some in gets)
        left, right = elements.fragment(a, halves), elements.fragment(b, 1)
        found = _spoilt(left, right, c, type_)

        def late(s: Active) -> None:
            for put, value in zip(puts, found, strict=True):
                put(s, value)

        return late

    return follow


def wgmma(left: np.ndarray, right: np.ndarray, d: str) -> np.ndarray:
    """Undefined bits of the registers [r, i, 4, 32] that a wgmma writes, of those of A's rows
    [i, 64, bytes] and B's columns [i, n, bytes]. What it adds to is checked before."""
    return _spoilt(left, right, None, d)
