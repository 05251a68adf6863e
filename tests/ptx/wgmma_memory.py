"""Operands of wgmma in shared memory: descriptors, and where their 16-byte pieces lie.

PTX ISA, "Asynchronous warpgroup level matrix shared memory layout"; the canonical layouts in units
of 16 bytes as CUTLASS states them (cute/atom/mma_traits_sm90_gmma.hpp), W = 1, 2, 4, 8 pieces for
no swizzle, 32, 64 and 128 bytes:

    K-major   ((8, n), 2)      : ((W, SBO), 1)         unswizzled, where W is 1: ((1, SBO), LBO)
    MN-major  ((W, n), (8, 2)) : ((1, LBO), (W, SBO))  unswizzled: ((-, SBO), (1, LBO))

A swizzle exchanges pieces by exclusive or of bits 4.. of the address with bits 7.., whatever the
matrix's start.
"""

from __future__ import annotations

import functools
from typing import NoReturn

import numpy as np

from tests.ptx.errors import Fault, Misaligned, OutOfBounds, Uninitialised
from tests.ptx.machine import fault
from tests.ptx.memory import Memory

_WIDE = {0: 1, 1: 8, 2: 4, 3: 2}  # bits 62-63: pieces in a row of the swizzle
_RESERVED = sum(((1 << n) - 1) << at for at, n in ((14, 2), (30, 2), (46, 3), (52, 10)))
_ALL = np.uint64(0x0101010101010101)


@functools.cache
def _offsets(rows: int, major: bool, wide: int, lbo: int, sbo: int) -> np.ndarray:
    """Byte offsets of the pieces of a matrix: [rows, 2], or MN-major [rows / 8, 16 of K]."""
    if not major:
        row, column = np.arange(rows)[:, None], np.arange(2)[None, :]
        return row % 8 * (16 * wide) + row // 8 * sbo + column * (lbo if wide == 1 else 16)
    piece, k = np.arange(rows // 8)[:, None], np.arange(16)[None, :]
    if wide == 1:
        return piece * sbo + k % 8 * 16 + k // 8 * lbo
    return piece % wide * 16 + piece // wide * lbo + k % 8 * (16 * wide) + k // 8 * sbo


class Operand:
    """A matrix of `rows` times 32 bytes; `major`: its rows lie next to each other, not K."""

    def __init__(self, memory: Memory, name: str, rows: int, major: bool):
        self.memory, self.m = memory, memory.m
        self.name, self.rows, self.major = name, rows, major

    def find(self, descriptors: np.ndarray, warps: np.ndarray) -> np.ndarray:
        """Indices into shared memory's 16-byte pieces, [i, ...], of descriptors [i] that
        warps [i] (and the rest of their warpgroups) use."""
        heads = descriptors & ~np.uint64(0x3FFF)
        if (heads == heads[0]).all():
            at = self._addresses(descriptors, int(heads[0]), warps)
        else:
            at = np.concatenate(
                [self._addresses(descriptors[[k]], int(h), warps) for k, h in enumerate(heads)]
            )
        self._check(at, warps)
        rank, group = self.memory.rank[warps], self.memory.group[warps]
        base = (group * self.m.shape.cluster_size + rank) * self.memory.row
        found = (at + base[:, None, None]) >> 4
        self._same_swizzle(at, found, descriptors, warps)
        whole = self.memory.written.view(np.uint64).reshape(-1, 2)[found] == _ALL
        if not whole.all():
            self._uninitialised(at, whole.all(axis=-1), warps)
        return found

    def _same_swizzle(
        self, at: np.ndarray, found: np.ndarray, descriptors: np.ndarray, warps: np.ndarray
    ) -> None:
        """What a tensor copy swizzled is read with the same swizzle. Data that came without may
        have been in a swizzled order before."""
        assert self.memory.swizzles is not None
        wrote = self.memory.swizzles[found]
        reads = np.array([16 * _WIDE[int(d) >> 62] for d in descriptors])
        wrong = (wrote > 0) & (wrote != reads[:, None, None])
        if wrong.any():
            which = tuple(int(v[0]) for v in np.nonzero(wrong))
            own = reads[which[0]]
            says = f"a {own}-byte swizzle" if own > 16 else "no swizzle"
            text = (
                f"its descriptor says {says}, and the tensor copy that wrote the 16 bytes at "
                f"{int(at[which]):#x} of shared memory had a {wrote[which]}-byte one"
            )
            self._wrong(Fault, text, warps[which[0]])

    def _addresses(self, descriptors: np.ndarray, head: int, warps: np.ndarray) -> np.ndarray:
        if head & _RESERVED:
            self._wrong(Fault, f"descriptor {int(descriptors[0]):#x} has reserved bits", warps[0])
        lbo, sbo = (head >> 16 & 0x3FFF) << 4, (head >> 32 & 0x3FFF) << 4
        base, wide = head >> 49 & 7, _WIDE[head >> 62]
        start = (descriptors & np.uint64(0x3FFF)).astype(np.int64) << 4
        # The first row starts a pattern of eight, though not always at its first piece.
        phase = (start - (base << 7)) % (128 * wide) // (16 * wide)
        if wide > 1 and phase.any():
            which = int(np.argmax(phase))
            self._wrong(
                Misaligned,
                f"{16 * wide}-byte swizzle from {int(start[which]):#x}, base offset {base}: the "
                f"address lies in row {phase[which]} of the pattern of 8",
                warps[which],
            )
        if wide == 1 and base:
            self._wrong(Fault, "a base offset without swizzle", warps[0])
        at = start[:, None, None] + _offsets(self.rows, self.major, wide, lbo, sbo)
        return at ^ (((at >> 7) - base & wide - 1) << 4)

    def _check(self, at: np.ndarray, warps: np.ndarray) -> None:
        end = at.max(axis=(1, 2)) + 16
        if (end > self.memory.shared_size).any():
            which = int(np.argmax(end))
            self._wrong(
                OutOfBounds,
                f"its last byte is {int(end[which]) - 1:#x} of shared memory, which has "
                f"{self.memory.shared_size} bytes",
                warps[which],
            )

    def _uninitialised(self, at: np.ndarray, whole: np.ndarray, warps: np.ndarray) -> None:
        which = tuple(int(v[0]) for v in np.nonzero(~whole))
        text = f"the 16 bytes at {int(at[which]):#x} of shared memory were not all written"
        self._wrong(Uninitialised, text, warps[which[0]])

    def _wrong(self, kind: type[Fault], text: str, warp: int) -> NoReturn:
        raise fault(kind, self.m, f"wgmma's matrix {self.name}: {text}", int(warp), 0)

    def read(self, pieces: np.ndarray, source: np.ndarray | None = None) -> np.ndarray:
        """The matrix's bytes [i, rows, 32], K next to each other, in shared memory or `source`."""
        source = self.memory.shared if source is None else source
        raw = source.view(np.uint64).reshape(-1, 2)[pieces].view(np.uint8)
        if not self.major:
            return raw.reshape(len(pieces), self.rows, 32)
        items = raw.view(np.uint16).reshape(len(pieces), self.rows // 8, 16, 8)
        turned = np.ascontiguousarray(items.transpose(0, 1, 3, 2))
        return turned.view(np.uint8).reshape(len(pieces), self.rows, 32)
