"""How ranks wait for each other: over a store, with an end to each wait.

A store knows who came and who did not, also after a communicator has broken.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

DEAD = "dead"  # key under which the parent names ranks whose process has ended
_LOOK_S = 0.05


@dataclass(frozen=True)
class Met:
    """missing: ranks that did not come; failed: those that came and said that they failed."""

    missing: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()

    @property
    def well(self) -> bool:
        return not self.missing and not self.failed


class Meeting:
    """Of `world` ranks, this one being `rank`; `wait_s` is how long the others are waited for."""

    def __init__(self, store: Any, rank: int, world: int, wait_s: float):
        self.store, self.rank, self.world, self.wait_s = store, rank, world, wait_s

    def meet(self, name: str, *, ok: bool = True, wait_s: float | None = None) -> Met:
        """Come to the place of this name, and wait until all have. RuntimeError: the store is
        gone, with the process that held it."""
        if not ok:
            self.store.set(f"{name}/failed/{self.rank}", "1")
        self.store.set(f"{name}/came/{self.rank}", "1")
        if self.store.add(f"{name}/count", 1) == self.world:
            self.store.set(f"{name}/all", "1")
        end = time.monotonic() + (self.wait_s if wait_s is None else wait_s)
        while not self._has(f"{name}/all"):
            dead = self._dead()
            if (dead and self._without(f"{name}/came") <= dead) or time.monotonic() > end:
                break
            time.sleep(_LOOK_S)
        missing = self._without(f"{name}/came")
        return Met(tuple(sorted(missing)), tuple(r for r in range(self.world)
                                              if self._has(f"{name}/failed/{r}")))  # fmt: skip

    def say(self, key: str, value: Any) -> None:
        self.store.set(f"{key}/{self.rank}", json.dumps(value))

    def heard(self, key: str) -> dict[int, Any]:
        """What each rank said under this key; those that said nothing are left out."""
        said = {r: f"{key}/{r}" for r in range(self.world)}
        return {r: json.loads(self.store.get(k)) for r, k in said.items() if self._has(k)}

    def _has(self, key: str) -> bool:
        return bool(self.store.check([key]))

    def _without(self, key: str) -> set[int]:
        return {r for r in range(self.world) if not self._has(f"{key}/{r}")}

    def _dead(self) -> set[int]:
        return set(json.loads(self.store.get(DEAD))) if self._has(DEAD) else set()
