"""What is shown of records: by machine, each problem from the newest record that has it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aimills_kernels._words import shown
from aimills_kernels.harness import record as _record
from aimills_kernels.harness._machine import facts, kind, made_at, mapping, run_mode
from aimills_kernels.report.words import Row

_CARD = ("name", "uuid", "power_limit_w", "clock_application_sm_mhz", "ecc", "mig")
_CPU = ("model", "machine", "usable_cores", "threads")
# Across a change of one of these a line is broken: times before and after are not comparable.
_SETUP = ("driver", "uuid")
_TIMES = ("median_us", "q1_us", "q3_us", "low_us", "high_us", "min_us")
_PROBLEM = ("op", "case", "dims", "model")


@dataclass(frozen=True, eq=False)
class Source:
    """A record, and the name it goes by on the page."""

    name: str
    record: dict[str, Any]

    @property
    def created(self) -> str:
        return str(self.record["created"]).replace("T", " ").replace("+00:00", " UTC")

    @property
    def day(self) -> str:
        return self.created[:10]

    @property
    def commit(self) -> str:
        return str(mapping(self.record, "environment", "git").get("commit") or "")[:9]

    @property
    def code(self) -> str:
        """The commit, marked where the checkout was dirty, or the version."""
        if not self.commit:
            return f"version {self.record['environment'].get('package') or 'unknown'}"
        return self.commit + " (dirty)" * self.dirty

    @property
    def dirty(self) -> bool:
        return bool(mapping(self.record, "environment", "git").get("dirty"))


@dataclass(frozen=True, eq=False)
class Part:
    """What a record holds of one device."""

    source: Source
    device: str

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.source.record["rows"] if row["device"] == self.device]

    @property
    def facts(self) -> dict[str, Any]:
        return facts(self.source.record, self.device)

    @property
    def setup(self) -> tuple:
        """What has to be equal for two times of one machine to be comparable."""
        return tuple(self.facts.get(name) for name in _SETUP)

    def problem(self, row: Row) -> str:
        """What is timed, whoever does it. A row without a time has no mode: it has the run's."""
        mode = row["mode"] or self._mode
        return json.dumps([mode, *(row[k] for k in _PROBLEM)], sort_keys=True, default=str)

    @cached_property
    def _mode(self) -> str:
        return run_mode(self.source.record, self.rows)

    @cached_property
    def problems(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(self.problem(row), []).append(row)
        return found


@dataclass(frozen=True)
class Entry:
    """A row, what it comes from, and all that was timed beside it on the same problem."""

    row: Row
    part: Part
    beside: list[Row]


@dataclass
class Machine:
    """One device; two cards of a SKU are two machines, unless `by_card` was False."""

    name: str
    parts: list[Part] = field(default_factory=list)  # oldest first

    @property
    def newest(self) -> Part:
        return self.parts[-1]

    def rows_of(self, op: str) -> list[Row]:
        return [row for part in self.parts for row in part.rows if row["op"] == op]

    def shown(self) -> list[Entry]:
        """Each problem's rows as the newest record that holds it has them."""
        found: dict[str, list[Entry]] = {}
        for part in self.parts:
            for key, rows in part.problems.items():
                found[key] = [Entry(row, part, rows) for row in rows]
        return [entry for entries in found.values() for entry in entries]


def outcome(row: Row) -> str:
    """timed, wrong or not run."""
    if row["failure"]:
        return "wrong"
    return "timed" if row["median_us"] is not None else "not run"


def counts(rows: Iterable[Row]) -> dict[str, int]:
    found = {"timed": 0, "wrong": 0, "not run": 0}
    for row in rows:
        found[outcome(row)] += 1
    return found


def counts_text(rows: Iterable[Row]) -> str:
    found = counts(rows)
    return ", ".join(f"{n} {name}" for name, n in found.items() if n) or "no rows"


# ---- reading


def read(names: Sequence[str]) -> tuple[list[Source], list[str]]:
    """The records of these files and folders, and a sentence for each that is none."""
    found: list[Source] = []
    unread: list[str] = []
    for path in _files(names, unread):
        try:
            loaded = _record.load(path)
        except ValueError as error:
            unread.append(" ".join(str(error).split()))
            continue
        if why := _implausible(loaded):
            unread.append(f"{path}: {why}")
            continue
        twin = next((s.name for s in found if s.record == loaded), None)
        if twin is None:
            found.append(Source(_short(path, found), loaded))
    return sorted(found, key=lambda s: (made_at(s.record), s.name)), unread


def _files(names: Sequence[str], unread: list[str]) -> list[Path]:
    paths: list[Path] = []
    for path in map(Path, names):
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            unread.append(f"{path}: a folder without a record (*.json)")
        paths += inside
    return list(dict.fromkeys(paths))


def _implausible(record: dict[str, Any]) -> str | None:
    """What no run can have measured, though it is of the right type."""
    held = [("ceilings", record["ceilings"]), ("ceilings.spec", record["ceilings"].get("spec"))]
    for where, rates in held:
        for name, value in rates.items() if isinstance(rates, dict) else ():
            if name.startswith(("copy_", "gemm_")) and not _positive(value):
                return f"{where}.{name} is {shown(value)}, not a rate above 0"
    for index, row in enumerate(record["rows"]):
        for where, spread in (("", row), ("warm.", row["warm"])):
            if not spread or spread["median_us"] is None:
                continue
            if not spread["samples_us"]:
                return f"rows[{index}].{where}median_us stands for no sample"
            known = [spread[name] for name in _TIMES if spread[name] is not None]
            if min(*known, *spread["samples_us"]) <= 0:
                return f"rows[{index}] has a {where}time that is not above 0"
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _short(path: Path, others: Sequence[Source]) -> str:
    """The file's name, with its folder's where another has the same."""
    taken = {s.name for s in others}
    for parts in (1, 2):
        name = "/".join(path.parts[-parts:])
        if name not in taken:
            return name
    return str(path)


def machines(sources: Iterable[Source], by_card: bool = True) -> list[Machine]:
    """In the order of their newest record, that first; `by_card=False` takes a SKU for one."""
    found: dict[tuple, Machine] = {}
    for source in sources:
        for device in dict.fromkeys(row["device"] for row in source.record["rows"]):
            known = facts(source.record, device)
            key = (kind(device), *(_held(known.get(k)) for k in _keys(device, by_card)))
            if not known:
                key = (source.name, device)  # it doesn't say what it is, so it is like no other
            machine = found.setdefault(key, Machine(""))
            machine.parts.append(Part(source, device))
            machine.name = _name(device, known)
    return sorted(found.values(), key=lambda m: made_at(m.newest.source.record), reverse=True)


def _keys(device: str, by_card: bool) -> tuple[str, ...]:
    if kind(device) == "cpu":
        return _CPU
    return _CARD if by_card else tuple(k for k in _CARD if k != "uuid")


def _name(device: str, known: dict[str, Any]) -> str:
    if kind(device) == "cpu":
        threads = known.get("threads")
        name = str(known.get("model") or "a CPU that is not named")
        return f"{name}, {threads} threads" if threads else name
    return str(known.get("name") or f"{device}, which is not named")


def _held(value: Any) -> Any:
    return json.dumps(value, sort_keys=True, default=str)
