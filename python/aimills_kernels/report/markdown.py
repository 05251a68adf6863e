"""Benchmark records as Markdown (GitHub's), with the tables of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aimills_kernels.report.cells import Cell, Table, tables
from aimills_kernels.report.chosen import Machine, Source, counts_text
from aimills_kernels.report.words import plural

_SPECIAL = re.compile(r"([\\`*\[\]|~])|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """As it stands, on one line; an underscore within a word is no emphasis and is left."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda found: "\\" + found.group(), line)


def render(machines: Sequence[Machine], unread: Sequence[str]) -> str:
    found = ["# Benchmarks", ""]
    found += [f"- Not read: {escape(why)}" for why in unread]
    for machine in machines:
        found += ["", f"## {escape(machine.name)}", ""]
        found.append(f"{counts_text(e.row for e in machine.shown())}.")
        for table in tables(machine.shown()):
            found += ["", f"### {escape(table.op)}", "", stamp(table.entries[0].part.source), ""]
            found += lines(table)
    return "\n".join(found) + "\n"


def stamp(source: Source) -> str:
    dirty = ": a dirty checkout, so the commit does not tell the code" * source.dirty
    return f"{escape(source.name)}, {source.created}, {escape(source.code)}{dirty}."


def lines(table: Table) -> list[str]:
    """The table, and below it what did not run and why."""
    found = []
    columns = table.columns
    if cells := table.lines:
        found.append(_line([name.lstrip(">") for _, name in columns]))
        found.append(_line(["---:" if name[:1] == ">" else "---" for _, name in columns]))
        found += [_line([_text(row[i]) for i, _ in columns]) for row in cells]
    if table.absent:
        found += [""] if found else []
        found += [
            f"- Not run: {escape(name)}, {plural(len(cases), 'case')} "
            f"({escape(', '.join(cases))}): {escape(why)}"
            for name, why, cases in table.absent
        ]
    return found


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(cell: Cell) -> str:
    text = "**wrong**" if cell.mark == "wrong" else escape(cell.text)
    small = escape(cell.small.replace("  ", ", ").replace("\n", "; "))
    text = f"{text} ({small})" if small else text
    return f"{text} *with care*" if cell.mark == "with care" else text
