"""What a launch cost: instructions by class, bytes by space, bank conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.parse import Instr, Kernel

if TYPE_CHECKING:
    from tests.ptx.launch import Result

# First words of opcodes. What is not listed is "integer".
_CLASSES = {
    "tensor": ("wgmma", "mma"),
    "special": ("ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh"),
    "memory": (
        "ld", "ldu", "st", "atom", "red", "ldmatrix", "stmatrix", "cp", "prefetch", "prefetchu",
    ),
    "sync": ("bar", "barrier", "mbarrier", "fence", "membar", "griddepcontrol", "nanosleep"),
    "warp": ("shfl", "vote", "redux", "match", "elect", "activemask"),
    "control": ("bra", "brx", "ret", "exit", "trap", "setmaxnreg"),
    "convert": ("cvt",),
    "move": ("mov", "selp", "prmt", "cvta", "mapa"),
}  # fmt: skip
_FLOATS = ("f32", "f64", "f16", "f16x2", "bf16", "bf16x2")
_BANKS = 32


def class_of(instr: Instr) -> str:
    if instr.parts[0] == "wgmma" and instr.parts[1] != "mma_async":
        return "sync"
    for name, words in _CLASSES.items():
        if instr.parts[0] in words:
            return name
    return "float" if any(t in _FLOATS for t in instr.types) else "integer"


def by_class(kernel: Kernel, executed: np.ndarray) -> dict[str, int]:
    """Warp instructions issued, by class, most first."""
    found: Counter[str] = Counter()
    for instr, count in zip(kernel.code, executed, strict=True):
        found[class_of(instr)] += int(count)
    return dict(found.most_common())


@dataclass
class Counters:
    """Filled by Memory, each transfer once. Bytes are what lanes and engines moved, on both sides:
    a copy is loaded from its source's space and stored to its target's, a multicast once in each
    CTA. An atom is a load and a store, a red a store. `shared_cycles` are the cycles that shared
    memory needs for the lanes' accesses, and `shared_least` what it would need without bank
    conflicts."""

    loaded: Counter[str] = field(default_factory=Counter)  # bytes by space
    stored: Counter[str] = field(default_factory=Counter)
    shared_cycles: int = 0
    shared_least: int = 0

    def moved(self, store: bool, space: str, size: int) -> None:
        (self.stored if store else self.loaded)[space] += size

    def access(self, store: bool, space: str, lanes: tuple, address: np.ndarray, size: int) -> None:
        self.moved(store, space, size * len(address))
        if space == "shared":
            cycles, least = bank_cycles(lanes[0], lanes[1], address, size)
            self.shared_cycles += cycles
            self.shared_least += least


def device_bytes(results: Iterable[Result]) -> tuple[int, int]:
    """Bytes loaded from global memory and stored to it by launches that were counted."""
    found = [r.counters for r in results if r.counters is not None]
    return sum(c.loaded["global"] for c in found), sum(c.stored["global"] for c in found)


def bank_cycles(
    warp: np.ndarray, lane: np.ndarray, address: np.ndarray, size: int
) -> tuple[int, int]:
    """Cycles of an access of `size` bytes a lane, and the least for as many bytes.

    32 banks of 4 bytes. 8-byte accesses go by half warps, 16-byte ones by quarter warps; lanes that
    ask for the same word are served together.
    """
    per_phase = 32 * 4 // max(size, 4)
    phase = warp.astype(np.int64) * 32 + lane // per_phase
    words = np.arange(max(size // 4, 1))
    word = (address.astype(np.int64) // 4)[:, None] + words
    key = np.unique(np.stack([np.repeat(phase, len(words)), word.reshape(-1)], axis=1), axis=0)
    bank = key[:, 0] * _BANKS + key[:, 1] % _BANKS
    banks, counts = np.unique(bank, return_counts=True)
    phases = banks // _BANKS
    starts = np.flatnonzero(np.r_[True, phases[1:] != phases[:-1]])
    return int(np.maximum.reduceat(counts, starts).sum()), len(starts)
