"""The time that a pytest session has for benchmarks: who gets it, and who is left out.

Needs no torch, as a session may be of benchmarks that have nothing to do with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

# Of ten minutes for all of bench/ on a GPU, so that what has begun by then can be finished. A CPU
# has the same: there all of it took 20 minutes, most of them for checks in float64.
BUDGET_S = 480.0
QUICK_S = 60.0  # as `aimills-kernels bench --quick` has
_LEAST_S = 0.5  # for a case that has begun, however little is left
_now = monotonic

Key = tuple[str, ...]


@dataclass
class Budget:
    """Counts from here on, `seconds` for all. With `quick` only the first case of each op has its
    turn. What has begun is finished: all contestants of a case are timed in one run."""

    seconds: float = math.inf
    quick: bool = False
    begin: float = field(default_factory=lambda: _now())
    _rank: dict[str, int] = field(default_factory=dict)  # of a test, among the cases of its op
    _due: set[Key] = field(default_factory=set)
    _begun: set[Key] = field(default_factory=set)
    _left_out: dict[Key, str] = field(default_factory=dict)  # (op, case, contestant) or a test

    def order(self, items: list[pytest.Item]) -> None:
        """The first case of each op and all else, then the second cases: a budget that ends early
        leaves no op out."""
        cases: dict[str, list[str]] = {}
        for item in items:
            if row := _row(item):
                op, case, _ = row
                seen = cases.setdefault(op, [])
                if case not in seen:
                    seen.append(case)
                self._rank[item.nodeid] = seen.index(case)
        items.sort(key=lambda item: self._rank.get(item.nodeid, 0))
        self._due = {_group(i) for i in items if _times(i) and not self._not_asked_for(i)}

    def why_not(self, item: pytest.Item) -> str | None:
        """Why this benchmark does not run; None where it does, and has begun with that."""
        if not _times(item):
            return None
        group = _group(item)
        if self._not_asked_for(item):
            why = "--benchmark-quick takes the first case of each op"
        elif group not in self._begun and self.left_s() <= 0:
            why = f"budget: the {self.seconds:g} s of --benchmark-budget ended before it"
        else:
            self._begun.add(group)
            return None
        self._left_out[_row(item) or ("", item.name, item.nodeid)] = why
        return why

    def left_s(self) -> float:
        return self.begin + self.seconds - _now()

    def share_s(self) -> float:
        """Of what is left, for the one that has just begun and for each that has not."""
        return max(self.left_s() / (len(self._due - self._begun) + 1), _LEAST_S)

    # ---- what was left out

    def __bool__(self) -> bool:
        """Whether it left anything out."""
        return bool(self._left_out)

    def counts(self) -> dict[str, dict[str, int]]:
        """By reason, how many of each op, or of each test that is of none."""
        found: dict[str, Counter[str]] = {}
        for (op, _, last), why in self._left_out.items():
            found.setdefault(why, Counter())[op or last.partition("[")[0]] += 1
        return {why: dict(names) for why, names in found.items()}

    def lines(self) -> list[str]:
        return [
            f"left out: {sum(names.values())}, {why}: "
            + ", ".join(f"{name} x {n}" for name, n in names.items())
            for why, names in self.counts().items()
        ]

    def why_lost(self, op: str, case: str, provider: str) -> str | None:
        """Why a row of a baseline is not here, where it was left out."""
        if why := self._left_out.get((op, case, provider)):
            return why
        tests = (why for (o, name, _), why in self._left_out.items() if not o and name == case)
        return next(tests, None)

    def _not_asked_for(self, item: pytest.Item) -> bool:
        return self.quick and self._rank.get(item.nodeid, 0) > 0


def _times(item: pytest.Item) -> bool:
    return "benchmark" in getattr(item, "fixturenames", ())


def _row(item: pytest.Item) -> tuple[str, str, str] | None:
    """(op, case, contestant) of a test of what is declared."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if not {"op", "case", "contestant"} <= set(params) or not _times(item):
        return None
    return str(params["op"]), str(params["case"]), str(params["contestant"])


def _group(item: pytest.Item) -> Key:
    """Those that are timed in one run."""
    row = _row(item)
    return row[:2] if row else (item.nodeid,)


def timed_rows(base: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(op, case, provider) of what the records of a baseline have a time of."""
    rows = [row for made in base for row in made["rows"] if row["median_us"] is not None]
    return list(dict.fromkeys((row["op"], row["case"], row["provider"]) for row in rows))


def not_compared(lost: Sequence[tuple[str, str, str]], budget: Budget) -> dict[str, list[str]]:
    """By reason, the rows of a baseline that are not here because they were left out."""
    found: dict[str, list[str]] = {}
    for row in lost:
        if why := budget.why_lost(*row):
            found.setdefault(why, []).append(" ".join(row))
    return found
