"""The tables of the benchmark report, as text that HTML and Markdown share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aimills_kernels.harness._reading import ABOVE, ENOUGH, ahead
from aimills_kernels.report.chosen import Entry, outcome
from aimills_kernels.report.words import (
    NONE,
    Row,
    dims_text,
    energy_text,
    kind,
    other_result,
    percent,
    plural,
    range_text,
    rate_text,
    time_text,
)

COLUMNS = (
    "case", "provider", ">median", ">warm", ">of roofline", ">of spec", ">against peer",
    ">energy a call", ">error used", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    text: str
    small: str = ""
    mark: str = ""  # wrong, or with care


def line(entry: Entry, number: int) -> list[Cell]:
    """One contestant under `COLUMNS`; `number` is that of its problem in the plots."""
    row = entry.row
    head = [Cell(f"{number}. {row['case']}", _what(row)), Cell(row["provider"], _who(row))]
    used = Cell(percent(row["error_used"]), "" if row["validated"] else _beyond(row))
    notes = Cell("; ".join(_notes(row)))
    if outcome(row) != "timed":
        return [*head, Cell(NONE, mark=outcome(row)), *[Cell(NONE)] * 5, used, notes]
    ratio = ahead(row, entry.beside)
    return [
        *head,
        Cell(time_text(row["median_us"]), interval_text(row), "with care" * bool(row["suspect"])),
        _warm(row),
        Cell(_share(row["sol"]), rate_text(row)),
        Cell(_share(row["sol_spec"])),
        Cell(NONE if ratio is None or row["peer"] else f"× {ratio:.3g}"),
        _energy(row),
        used,
        notes,
    ]


def _share(sol: float | None) -> str:
    """What is well beyond a ceiling has none."""
    return percent(sol) if sol is None or sol <= ABOVE else "no ceiling"


def _what(row: Row) -> str:
    pairs = dims_text(row["dims"], row["scaled"]).split("  ")
    parts = ["  ".join(_unbroken(pair) for pair in pairs)]
    if row["model"]:
        times = f", {row['count']} × in a forward pass" if row["count"] is not None else ""
        parts.append(f"{row['model']}{times}")
    return "\n".join(p for p in parts if p)


def _unbroken(pair: str) -> str:
    """A line may end within a list of numbers or before the declared value, and never within a
    number."""
    whole = pair.replace(" ", "\u00a0")
    return whole.replace(",\u00a0", ", ").replace("\u00a0of\u00a0", " of\u00a0")


def _who(row: Row) -> str:
    parts = {"own": ["ours"], "peer": ["peer"], "reference": []}[kind(row)]
    if row["mode"] in ("graph", "host"):
        parts.append(f"{row['mode']} mode")
    if row["cold"] is False:
        parts.append("warm caches")
    return ", ".join(parts)


def interval_text(row: Row) -> str:
    """The 95 % interval of the median, else the quartiles, else how few samples there are."""
    if row["n"] < ENOUGH:
        return f"n = {row['n']}"
    if row["low_us"] is not None and row["high_us"] is not None:
        return range_text(row["low_us"], row["high_us"])
    if row["q1_us"] is not None and row["q3_us"] is not None:
        return f"quartiles {range_text(row['q1_us'], row['q3_us'])}"
    return ""


def _warm(row: Row) -> Cell:
    warm = row["warm"]
    if not warm or warm["median_us"] is None:
        return Cell(NONE)
    return Cell(time_text(warm["median_us"]), interval_text(warm))


def _energy(row: Row) -> Cell:
    if not row["energy"]:
        return Cell(NONE)
    return Cell(energy_text(row["energy"]["joules"]), f"{row['energy']['watts']:.0f} W")


def _beyond(row: Row) -> str:
    return other_result(row) if row["peer"] and row["error_used"] is not None else ""


def _notes(row: Row) -> list[str]:
    found = [row["failure"], row["skipped"], row["suspect"], *_sample_notes(row)]
    if row["telemetry"]:
        shares = row["telemetry"]["throttle"].items()
        found += [f"throttled by {k} in {percent(v)} of the samples" for k, v in shares if v]
    if row["energy_missing"]:
        found.append(f"no energy: {row['energy_missing']}")
    found.append(row["apart"] or row["note"])
    return list(dict.fromkeys(" ".join(str(text).split()) for text in found if text))


def _sample_notes(row: Row) -> Iterable[str]:
    for flaw, where in row["flags"].items():
        if where:
            yield f"{len(where)} of {plural(row['n'], 'sample')} flagged: {flaw}"
    if len(row["modes"]) > 1:
        modes = [f"{time_text(m['median_us'])} ({percent(m['share'])})" for m in row["modes"]]
        yield f"{len(modes)} modes: {', '.join(modes)}"


# ---- what a table is of


@dataclass(frozen=True)
class Table:
    """The rows of one op from one record: what was timed together stands together."""

    op: str
    entries: list[Entry]
    numbers: dict[str, int]  # of its problems

    @property
    def lines(self) -> list[list[Cell]]:
        """What has a time or should have one; the rest is in `absent`."""
        return [line(e, self.number(e)) for e in self.entries if outcome(e.row) != "not run"]

    @property
    def columns(self) -> list[tuple[int, str]]:
        """Index and name of those with something in them."""
        lines = self.lines
        return [
            (i, name)
            for i, name in enumerate(COLUMNS)
            if any(x[i].text not in ("", NONE) or x[i].mark for x in lines)
        ]

    def number(self, entry: Entry) -> int:
        return self.numbers[entry.part.problem(entry.row)]

    @property
    def absent(self) -> list[tuple[str, str, list[str]]]:
        """Provider, reason and cases of what did not run."""
        found: dict[tuple[str, str], list[str]] = {}
        for e in self.entries:
            if outcome(e.row) == "not run":
                why = e.row["skipped"] or "the record has no time and no reason"
                key = (e.row["provider"], " ".join(why.split()))
                found.setdefault(key, []).append(e.row["case"])
        return [(provider, why, cases) for (provider, why), cases in found.items()]


def tables(entries: Sequence[Entry]) -> list[Table]:
    """A table for each op and record, in the order of the ops; problems are numbered by op."""
    found: dict[tuple[str, Any], list[Entry]] = {}
    numbers: dict[str, dict[str, int]] = {}
    for e in entries:
        found.setdefault((e.row["op"], e.part), []).append(e)
        known = numbers.setdefault(e.row["op"], {})
        known.setdefault(e.part.problem(e.row), len(known) + 1)
    ops = list(dict.fromkeys(e.row["op"] for e in entries))
    ordered = sorted(found.items(), key=lambda item: ops.index(item[0][0]))
    return [Table(op, rows, numbers[op]) for (op, _), rows in ordered]
