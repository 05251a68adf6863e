"""How ranks wait for each other: over a store, with an end to each wait.

A store knows who came and who did not, also after a communicator has broken.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

DEAD = "dead"  # key under which the parent names ranks whose process has ended
_OK, _FAILED = "1", "0"
_LOOK_S, _MOST_LOOK_S = 0.05, 1.0  # between two looks, of a few ranks and of thousands
_QUICK = 64  # ranks that a store answers at once


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
        self._look_s = min(_LOOK_S * max(1.0, world / _QUICK), _MOST_LOOK_S)

    def meet(self, name: str, *, ok: bool = True, wait_s: float | None = None) -> Met:
        """Come to the place of this name, and wait until all have. RuntimeError: the store is
        gone, with the process that held it."""
        if not ok:
            self.store.set(f"{name}/failed", "1")
        self.store.set(f"{name}/came/{self.rank}", _OK if ok else _FAILED)
        if self.store.add(f"{name}/count", 1) == self.world:
            self.store.set(f"{name}/all", "1")
        end = time.monotonic() + (self.wait_s if wait_s is None else wait_s)
        while not self._has(f"{name}/all"):
            dead = self._dead()
            if (dead and self._without(f"{name}/came") <= dead) or time.monotonic() > end:
                break
            time.sleep(self._look_s)
        missing = set() if self._has(f"{name}/all") else self._without(f"{name}/came")
        failed = self._failed(f"{name}/came", missing) if self._has(f"{name}/failed") else ()
        return Met(tuple(sorted(missing)), failed)

    def say(self, key: str, value: Any) -> None:
        self.store.set(f"{key}/{self.rank}", json.dumps(value))

    def heard(self, key: str) -> dict[int, Any]:
        """What each rank said under this key; those that said nothing are left out."""
        return {r: json.loads(word) for r, word in self._words(key, self._without(key)).items()}

    def tell(self, key: str, value: Any) -> None:
        """Of one rank, or of any that say the same."""
        self.store.set(key, json.dumps(value))

    def told(self, key: str) -> Any:
        """None where nobody told it."""
        return json.loads(self.store.get(key)) if self._has(key) else None

    def _failed(self, key: str, missing: set[int]) -> tuple[int, ...]:
        return tuple(r for r, word in self._words(key, missing).items() if word == _FAILED)

    def _words(self, key: str, without: set[int]) -> dict[int, str]:
        """In one question: a pod of thousands of ranks asks a single store."""
        ranks = [r for r in range(self.world) if r not in without]
        words = self.store.multi_get([f"{key}/{r}" for r in ranks]) if ranks else []
        return {r: word.decode() for r, word in zip(ranks, words, strict=True)}

    def _has(self, key: str) -> bool:
        return bool(self.store.check([key]))

    def _without(self, key: str) -> set[int]:
        """By halves, as the store says of many keys whether it has them all."""
        return self._absent([f"{key}/{r}" for r in range(self.world)], 0)

    def _absent(self, keys: list[str], first: int) -> set[int]:
        if not keys or self.store.check(keys):
            return set()
        if len(keys) == 1:
            return {first}
        half = len(keys) // 2
        return self._absent(keys[:half], first) | self._absent(keys[half:], first + half)

    def _dead(self) -> set[int]:
        return set(json.loads(self.store.get(DEAD))) if self._has(DEAD) else set()
