"""Tuned choices of a provider: what a benchmark record showed to be fastest on a problem.

`aimills-kernels bench tune` writes `kernels/<family>/dispatch.json`. An entry puts one provider
first for one problem (shapes, dtypes, strides and scalars) on one compute capability, and may name
the tiles that its kernel is then launched with. It counts for the sources, the Triton and the torch
minor version that were measured. Whether that provider may serve at all is decided as for any
other.

A problem without an entry goes by that of the nearest number of rows (`_nearby`), tiles only where
they are declared for it too; else by the built-in order: the op's own kernels, then the vendor's,
then the reference.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _configs, _nearby, _records
from aimills_kernels._op import Op, Problem, Provider, describe

SCHEMA = 1
FILE = "dispatch.json"
_KINDS: dict[str, type | tuple[type, ...]] = {
    "op": str, "sm": int, "problem": str, "provider": str, "sources": str, "triton": str,
    "torch": str, "record": str, "median_us": (int, float), "fastest": str,
    "fastest_us": (int, float), "config": (str, NoneType),
}  # fmt: skip
Entry = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """The entry of a problem. `stale` says why it does not count; None where it does. `config` is
    None for the built-in tiles, `rows` the recorded number where that is not the problem's."""

    provider: str
    record: str
    stale: str | None = None
    config: Any = None
    rows: int | None = None

    def note(self, provider: Provider) -> str:
        """What `explain` adds to the line of `provider`."""
        if provider.name != self.provider:
            return ""
        if self.stale:
            return f"the choice of {self.record} does not count: {self.stale}"
        near = "" if self.rows is None else f", made for {self.rows} rows, the nearest recorded"
        return f"the choice of {self.record}{near}"


def tuned(op: Op, problem: Problem) -> Tuned | None:
    """The entry for this problem, or for the nearest number of rows; None where there is none."""
    if problem.device != "cuda" or problem.sm is None:
        return None
    if (table := _entries(op).get(problem.sm)) is None:
        return None
    text, rows = signature(op, problem.args), None
    if (entry := table.exact.get(text)) is None:
        if (near := _nearby.of(op, text, table.by_rows)) is None:
            return None
        rows, entry = near
    stale = why_stale(entry, op) or _by_rows_alone(op, problem, entry["provider"])
    name, config = entry.get("config"), None
    if stale is None and name is not None:
        config = _configs.named(op.provider(entry["provider"]), problem, name)
        if config is None and rows is None:
            stale = f"{entry['provider']!r} has no tiles {name!r} for this problem"
    return Tuned(entry["provider"], entry["record"], stale, config, rows)


def firsts(op: Op, problem: Problem) -> set[int]:
    """Rows from which on another choice may serve, all else of the problem alike."""
    table = _entries(op).get(problem.sm or 0)
    split = _nearby.but_rows(op, signature(op, problem.args)) if table else None
    return _nearby.firsts(table.by_rows.get(split[0], ())) if table and split else set()


def invariant(problem: Problem) -> bool:
    """Whether a row's bits must not depend on how many there are."""
    return "batch_invariant" in problem.op.params and problem.batch_invariant is True


def _by_rows_alone(op: Op, problem: Problem, provider: str) -> str | None:
    """Where two providers each keep the promise, a table would let the rows decide between them."""
    if not invariant(problem):
        return None
    first = next((p.name for p in op.all_providers if not p.rejects(problem)), provider)
    why = f"with batch_invariant=True {first!r} serves all rows, where it may"
    return None if provider == first else why


def ordered(op: Op, found: Tuned | None) -> Sequence[Provider]:
    """All providers; the tuned one comes first, with its tiles."""
    if found is None or found.stale:
        return op.all_providers
    first = sorted(op.all_providers, key=lambda p: p.name != found.provider)
    return [configured(p, found) for p in first]


def configured(provider: Provider, found: Tuned | None) -> Provider:
    """The provider with its tuned tiles; an entry that does not count has none."""
    if found is None or provider.name != found.provider:
        return provider
    return replace(provider, config=found.config)


def signature(op: Op, args: Sequence[Any]) -> str:
    """The problem as a text, without what a pointer or a device adds."""
    return ", ".join(f"{p}={_of(a)}" for p, a in zip(op.params, args, strict=True))


def _of(arg: Any) -> str:
    if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
        return f"({', '.join(map(_of, arg))})"
    if isinstance(arg, Tensor) and not arg.is_contiguous():
        return f"{describe(arg)} strides {list(arg.stride())}"
    return str(list(arg)) if isinstance(arg, (list, tuple)) else describe(arg)


def stamp(op: Op, provider: Provider) -> dict[str, str]:
    """What an entry is measured with, as far as it must be the same later."""
    key = _records.key(op, provider, None)
    return {"sources": key["sources"], "triton": key["triton"], "torch": minor(torch.__version__)}


def minor(version: str) -> str:
    """2.11 of 2.11.0+cu130."""
    return ".".join(str(version).split(".")[:2])


def why_stale(entry: Entry, op: Op) -> str | None:
    """Why an entry does not count here; None where it does."""
    provider = next((p for p in op.all_providers if p.name == entry["provider"]), None)
    if provider is None:
        return f"there is no provider {entry['provider']!r}"
    now = stamp(op, provider)
    if entry["sources"] != now["sources"]:
        return f"the sources of {provider.name!r} changed since"
    for name in ("triton", "torch"):
        if entry[name] != now[name]:
            return f"it was measured with {name} {entry[name]}, this is {now[name]}"
    return None


# ---- the files


def table_file(op: Op) -> Path:
    """Beside the op's declaration."""
    return Path(str(sys.modules[op.reference.__module__].__file__)).parent / FILE


@dataclass(frozen=True)
class _Table:
    """The entries of an op on one capability, by problem, and by what it is without its rows."""

    exact: dict[str, Entry]
    by_rows: dict[str, dict[int, Entry]]


@cache
def _entries(op: Op) -> dict[int, _Table]:
    path = table_file(op)
    if not path.exists():
        return {}
    try:
        mine = [e for e in read(path) if e["op"] == op.name]
    except ValueError as error:
        warnings.warn(f"{error}; it is not used", stacklevel=2)
        return {}
    found = {}
    for sm in {e["sm"] for e in mine}:
        exact = {e["problem"]: e for e in mine if e["sm"] == sm}
        found[sm] = _Table(exact, _nearby.by_rows(op, exact))
    return found


def read(path: Path) -> list[Entry]:
    """The entries of a table; ValueError, one sentence, where it is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: can't be read as a table of choices: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is no table of choices of schema {SCHEMA}")
    entries = found.get("entries")
    if not isinstance(entries, list):
        raise ValueError(f"{path}: `entries` is no list")
    for index, entry in enumerate(entries):
        if wrong := _wrong(entry):
            raise ValueError(f"{path}: entries[{index}] {wrong}")
    return entries


def _wrong(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is no object"
    for name, kind in _KINDS.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"has {name!r} as {value!r:.40}"
    return None


def write(path: Path, entries: Sequence[Entry]) -> None:
    """The table, whole or not at all, in an order of its own."""
    ordered = sorted(entries, key=lambda e: (e["op"], e["sm"], e["problem"]))
    made = {"schema": SCHEMA, "entries": ordered}
    _records.write_whole(path, json.dumps(made, indent=1) + "\n")
    _entries.cache_clear()
