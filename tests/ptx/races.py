"""Who wrote and who read each byte of shared memory last, and what is ordered before what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tests.ptx.memory import Memory


@dataclass
class Transfer:
    """An asynchronous read or write of shared memory that is under way."""

    at: np.ndarray  # indices of bytes in Memory.shared
    warp: int  # that issued it
    write: bool
    proxy: str  # "generic" (cp.async) or "async" (bulk copies, wgmma)
    what: str  # for reports


class Shadow:
    """Happens-before over the warps of each cluster, by vector clocks."""

    def __init__(self, memory: Memory):
        self.memory = memory

    # ---- accesses of the generic proxy, by lanes

    def read(self, at: np.ndarray, size: int, lanes: tuple) -> None:
        """Lanes read [at, at + size); `at` indexes Memory.shared, lanes is (warp [k], lane [k])."""

    def write(self, at: np.ndarray, size: int, lanes: tuple) -> None:
        """Lanes write [at, at + size)."""

    # ---- synchronisation

    def rendezvous(self, came: np.ndarray, waiting: np.ndarray) -> None:
        """A barrier opened: what `came` did is before what `waiting` does next (warps)."""

    def release(self, key: int, warps: np.ndarray) -> None:
        """Warps arrive at the mbarrier at index `key` of Memory.shared, with release semantics."""

    def flip(self, key: int) -> None:
        """The mbarrier's phase completes."""

    def acquire(self, key: int, warps: np.ndarray) -> None:
        """Warps saw the mbarrier's last phase completed, with acquire semantics."""

    def proxy_fence(self, warps: np.ndarray) -> None:
        """fence.proxy.async: writes before it are visible to the async proxy."""

    # ---- asynchronous operations

    def begin(self, at: np.ndarray, warp: int, *, write: bool, proxy: str, what: str) -> Transfer:
        """From now on, and until `end`, the bytes `at` are read or written by an engine."""
        return Transfer(at, warp, write, proxy, what)

    def end(self, transfer: Transfer, *, key: int | None = None, warp: int | None = None) -> None:
        """It is done: before whatever follows an `acquire` of the mbarrier `key`'s phase, or before
        whatever `warp` does next."""
