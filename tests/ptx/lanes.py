"""Order among the lanes of one warp, for races.Shadow, whose clocks are of whole warps.

Lanes of a warp run in lockstep here and often on a GPU; the ISA promises it nowhere. A lane sees
what another has done to shared memory after a `bar.warp.sync` of both, or a barrier that orders
whole warps. A shuffle, a vote or an `elect` orders nothing.
"""

from __future__ import annotations

import numpy as np

from tests.ptx.machine import LANES, Machine

_BIT = np.uint32(1) << np.arange(LANES, dtype=np.uint32)


def _spread(masks: np.ndarray) -> np.ndarray:
    """Masks [k] as bools [k, 32]."""
    return (masks[:, None] & _BIT) != 0


class Lanes:
    """Which lanes touched each granule, and what each lane of a warp knows of the others.

    Times are Shadow's. A granule keeps the lanes of its last write, several where one instruction
    of theirs stored one value, and for each warp the lanes that read it since they were last
    ordered, of which Shadow's table has the latest time.
    """

    def __init__(self, m: Machine, granules: int):
        self.m = m
        self.here = m.position_of
        self.synced = np.zeros(m.warps, np.int32)  # up to then all lanes of a warp are ordered
        # [warps, lane, other lane]: up to when the other is ordered before the lane, where some
        # lanes of a warp met without the rest.
        self.known: np.ndarray | None = None
        self.wrote = np.zeros(granules, np.uint32)
        self.read = np.zeros(granules * m.positions, np.uint32)
        self.last = np.zeros((m.warps, LANES), np.int32)  # write of each lane
        self.fenced = np.zeros((m.warps, LANES), np.int32)  # by each lane's own proxy fence
        self.fences: np.ndarray | None = None  # of granules: a later fence by who wrote them

    # ---- checks: which of the accesses to g by `lane` of warp w race with another lane's

    def races_with_write(
        self,
        g: np.ndarray,
        w: np.ndarray | int,
        lane: int | np.ndarray,
        times: np.ndarray,
        read: bool,
    ) -> np.ndarray:
        """times: of the granules' last writes, by the same warp."""
        others, bit = self.wrote[g], _BIT[lane]
        if read:  # what the lane stored, too, is what it reads
            others = np.where(others & bit, np.uint32(0), others)
        return self._unordered(w, lane, others & ~bit, times)

    def races_with_reads(
        self, g: np.ndarray, w: np.ndarray | int, lane: int | np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        """times: of the warp's last reads of the granules."""
        others = self.read[g * self.m.positions + self.here[w]] & ~_BIT[lane]
        return self._unordered(w, lane, others, times)

    def _unordered(
        self, w: np.ndarray | int, lane: int | np.ndarray, others: np.ndarray, times: np.ndarray
    ) -> np.ndarray:
        bad = (times > self.synced[w]) & (others != 0)
        if self.known is not None and bad.any():
            known = self._knows(w, lane, len(times)) >= times[:, None]
            bad &= (_spread(others) & ~known).any(axis=1)
        return bad

    def _knows(self, w: np.ndarray | int, lane: int | np.ndarray, k: int) -> np.ndarray:
        assert self.known is not None
        return self.known[np.broadcast_to(w, k), np.broadcast_to(lane, k)]

    # ---- notes

    def writes(self, g: np.ndarray, w: np.ndarray, lane: np.ndarray, time: int) -> None:
        bit = _BIT[lane]
        self.wrote[g] = bit
        if ((self.wrote[g] & bit) == 0).any():
            np.bitwise_or.at(self.wrote, g, bit)
        self.last[w, lane] = time

    def issued(self, g: np.ndarray, lane: int | np.ndarray | None) -> None:
        """An engine begins to write the granules for this lane, or None: for the whole warp."""
        self.wrote[g] = 0 if lane is None else _BIT[lane]

    def own(self, g: np.ndarray, lane: int | np.ndarray | None) -> np.ndarray | bool:
        """Whether this lane was among those that wrote the granules last."""
        return False if lane is None else (self.wrote[g] & _BIT[lane]) != 0

    def reads(
        self,
        g: np.ndarray,
        w: np.ndarray | int,
        lane: int | np.ndarray,
        times: np.ndarray,
        whole: bool,
    ) -> None:
        """times: of the warp's reads of the granules before. whole: by the warp as one (ldmatrix),
        which is over before any of its lanes goes on."""
        place = g * self.m.positions + self.here[w]
        fresh = times > self.synced[w]
        bit = mask = np.broadcast_to(np.uint32(0) if whole else _BIT[lane], len(g))
        if fresh.any():
            before = self.read[place]
            if self.known is not None:  # who is ordered before this read is covered by it
                covered = self._knows(w, lane, len(g)) >= times[:, None]
                before = before & ~(_spread(before) & covered) @ _BIT.astype(np.int64)
            mask = np.where(fresh, before, np.uint32(0)).astype(np.uint32) | mask
        self.read[place] = mask
        if not whole and ((self.read[place] & bit) == 0).any():
            np.bitwise_or.at(self.read, place, mask)

    # ---- synchronisation

    def meet(self, warps: np.ndarray, mask: np.ndarray, now: int) -> None:
        """These lanes [k, 32] of the warps meet at a bar.warp.sync."""
        whole = (mask == self.m.alive[warps]).all(axis=1)
        self.synced[warps[whole]] = now
        for warp, some in zip(warps[~whole], mask[~whole], strict=True):
            if self.known is None:
                self.known = np.zeros((self.m.warps, LANES, LANES), np.int32)
            row = self.known[warp]
            joined = row[some].max(axis=0)
            joined[some] = now
            row[some] = joined

    # ---- proxies

    def fence(self, warp: int, mask: np.ndarray, now: int) -> bool:
        """These lanes [32] fence. True where no other lane of the warp has writes that neither it
        has fenced itself, nor are ordered before this fence."""
        seen = np.maximum(self.synced[warp], self.fenced[warp])
        if self.known is not None:
            seen = np.maximum(seen, self.known[warp][mask].max(axis=0))
        self.fenced[warp, mask] = now
        return bool((mask | (self.last[warp] <= seen)).all())

    def fence_own(self, g: np.ndarray, mask: np.ndarray, now: int) -> None:
        """Of the granules that the warp wrote last, those of these lanes [32] have passed a fence
        and all others of the warp not."""
        if self.fences is None:
            self.fences = np.zeros(len(self.wrote), np.int32)
        own = g[(self.wrote[g] & np.bitwise_or.reduce(_BIT[mask])) != 0]
        self.fences[own] = now
