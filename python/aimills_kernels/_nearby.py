"""The recorded number of rows that is nearest to a problem's.

A batch has any number of rows, and a table has some. A choice serves other numbers of rows too, the
nearest by ratio and up to `REACH` times as many or as few, where all else of the problem is alike.
Nothing is taken from further away: there the built-in order stands.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from aimills_kernels._op import Op

REACH = 4
T = TypeVar("T")
_SIDE_BY_SIDE = " rows side by side"  # what `quantize_fp8` gives for 1x128: its strides name rows


def but_rows(op: Op, problem: str) -> tuple[str, int] | None:
    """A problem's signature without its rows, and how many these are; None where the op has no
    rows, where there are none, and where a row's bits must not depend on the others."""
    if not op.rows or ", batch_invariant=True" in problem:
        return None
    found = _tensor(op.rows[0]).search(problem)
    sizes = _numbers(found["sizes"]) if found else []
    if len(sizes) < 2 or sizes[-2] < 1:
        return None
    rows = sizes[-2]
    for name in op.rows:
        problem = _tensor(name).sub(lambda m: _without(m, rows), problem)
    return problem, rows


def _tensor(name: str) -> re.Pattern[str]:
    numbers = r"\[(?P<{}>[\d, ]*)\]"
    sizes, strides = numbers.format("sizes"), numbers.format("strides")
    return re.compile(rf"(?P<begin>(?:^|, ){name}=\w+){sizes}(?: strides {strides})?")


def _numbers(text: str | None) -> list[int]:
    return [int(n) for n in text.split(",")] if text else []


def _without(found: re.Match[str], rows: int) -> str:
    """One scale for all is of no row, and stays."""
    sizes, strides = _numbers(found["sizes"]), _numbers(found["strides"])
    if len(sizes) < 2 or sizes[-2] != rows:
        return found[0]
    layout = f" strides {strides}" if strides else ""
    if strides and strides == _side_by_side(sizes):
        layout = _SIDE_BY_SIDE
    return f"{found['begin']}[{', '.join([*map(str, sizes[:-2]), 'rows', str(sizes[-1])])}]{layout}"


def _side_by_side(sizes: list[int]) -> list[int]:
    lead = sizes[:-1]
    return [*(math.prod(lead[i + 1 :]) for i in range(len(lead))), math.prod(lead)]


def by_rows(op: Op, entries: Mapping[str, T]) -> dict[str, dict[int, T]]:
    """Entries by problem as entries by what is left without rows, and by rows."""
    found: dict[str, dict[int, T]] = {}
    for problem, entry in entries.items():
        if (split := but_rows(op, problem)) is not None:
            found.setdefault(split[0], {})[split[1]] = entry
    return found


def nearest(rows: int, known: Iterable[int]) -> int | None:
    """Of two as near the larger one, whose kernel also does for fewer."""
    near = [n for n in known if max(n, rows) <= REACH * min(n, rows)]
    return min(near, key=lambda n: (max(n, rows) / min(n, rows), -n), default=None)


def firsts(known: Iterable[int]) -> set[int]:
    """The least rows that each recorded number serves, and those that none does any more."""
    ns = sorted(known)
    between = {math.isqrt(a * b - 1) + 1 for a, b in itertools.pairwise(ns)}
    return between | {-(-n // REACH) for n in ns} | {REACH * n + 1 for n in ns}


def of(op: Op, problem: str, known: Mapping[str, Mapping[int, Any]]) -> tuple[int, Any] | None:
    """The recorded rows nearest to the problem's, and their entry."""
    split = but_rows(op, problem)
    alike = known.get(split[0], {}) if split else {}
    rows = nearest(split[1], alike) if split else None
    return None if rows is None else (rows, alike[rows])
