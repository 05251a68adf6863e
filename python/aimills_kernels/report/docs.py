"""The generated parts of documentation: tables and pictures that come from committed records.

A part stands between `<!-- bench:begin NAME ... -->` and `<!-- bench:end -->`; the names are ops,
or families of them (the folders under `kernels/`; with a slash, as `attention/`, where an op has
that name too). Its pictures lie beside the records, as `<names>.<number>.svg`. What is written
depends on the records alone, so a test can write it again and compare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aimills_kernels._files import write_whole
from aimills_kernels._registry import ops_named
from aimills_kernels.report import markdown, picture
from aimills_kernels.report.axes import Plot, looks
from aimills_kernels.report.cells import Table, tables
from aimills_kernels.report.chosen import Machine, Source, machines, read
from aimills_kernels.report.plots import roofline, sizes

_BEGIN = re.compile(r"^<!-- bench:begin (?P<names>[^\n]*?) *-->$", re.M)
_END = "<!-- bench:end -->"
NONE = "No record of it is committed yet, so there is no figure to show."


@dataclass
class _Part:
    """The lines of a part, and the pictures that they show, whose names start with `stem`."""

    stem: str
    lines: list[str] = field(default_factory=list)
    pictures: dict[Path, str] = field(default_factory=dict)


def has_part(text: str) -> bool:
    return _BEGIN.search(text) is not None


def update(pages: Iterable[str], results: str) -> tuple[list[Path], list[str]]:
    """Rewrite what is stale in these pages; the files that changed, and what is no record.

    Nothing is written where a record can't be read: a part without it would say too little.
    """
    wanted, gone, unread = render([Path(p) for p in pages], Path(results))
    if unread:
        return [], unread
    changed = [path for path, text in wanted.items() if not _holds(path, text)]
    for path in changed:
        write_whole(path, wanted[path])
    for path in gone:
        path.unlink()
    return [*changed, *gone], []


def stale(pages: Iterable[Path], results: Path) -> list[str]:
    """What `update` would change, in words; empty where all is as the records say."""
    wanted, gone, unread = render(list(pages), results)
    found = [f"{path} is not what the records say" for path, text in wanted.items()
             if not _holds(path, text)]  # fmt: skip
    return [*unread, *found, *(f"{path} is of no record" for path in gone)]


def render(pages: Sequence[Path], results: Path) -> tuple[dict[Path, str], list[Path], list[str]]:
    """Pages and pictures as they should be, pictures that should not be, and what is no record."""
    files = sorted(results.glob("*.json")) if results.is_dir() else None
    if files is None:
        raise ValueError(f"--results {str(results)!r} is no folder")
    sources, unread = read([str(path) for path in files])
    wanted: dict[Path, str] = {}
    gone: list[Path] = []
    for page in pages:
        wanted[page], parts = _rewritten(page, sources, results)
        for part in parts:
            wanted |= part.pictures
            known = sorted(results.glob(f"{part.stem}.*.svg"))
            gone += [p for p in known if p not in part.pictures]
    return wanted, gone, unread


def _rewritten(page: Path, sources: Sequence[Source], results: Path) -> tuple[str, list[_Part]]:
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{page}: can't be read: {error}") from error
    found: list[_Part] = []
    pieces: list[str] = []
    at = 0
    for begin in _BEGIN.finditer(text):
        end, after = text.find(f"\n{_END}", begin.end()), _BEGIN.search(text, begin.end())
        if end < 0 or (after is not None and after.start() < end):
            raise ValueError(f"{page}: `{begin.group()}` has no line `{_END}` after it")
        found.append(_part(begin["names"].split(), sources, page, results))
        pieces += [text[at : begin.end()], "\n" + "\n".join(found[-1].lines)]
        at = end
    if not found:
        raise ValueError(f"{page}: has no line `<!-- bench:begin NAME ... -->`")
    return "".join([*pieces, text[at:]]), found


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False


def _ops(names: Sequence[str], page: Path) -> list[str]:
    """The ops that a part is about."""
    if not names:
        raise ValueError(f"{page}: bench:begin names no op and no family")
    try:
        return [op.name for op in ops_named(names)]
    except ValueError as error:
        raise ValueError(f"{page}: bench:begin: {error}") from None


def _part(names: Sequence[str], sources: Sequence[Source], page: Path, results: Path) -> _Part:
    made = _Part("-".join(name.rstrip("/") for name in names))
    ops = _ops(names, page)
    for machine in machines(sources, by_card=False):
        for table in tables([e for e in machine.shown() if e.row["op"] in ops]):
            made.lines += ["", *_table(machine, table)]
            for plot in _plots(machine, table):
                path = results / f"{made.stem}.{len(made.pictures) + 1}.svg"
                made.pictures[path] = picture.render([plot])
                where = Path(os.path.relpath(path, page.parent)).as_posix()
                made.lines += ["", f"![{markdown.escape(plot.title)}]({where})"]
    made.lines = [*made.lines, ""] if made.lines else ["", NONE, ""]
    return made


def _table(machine: Machine, table: Table) -> list[str]:
    title = f"**{markdown.escape(table.op)}** on {markdown.escape(machine.name)}: "
    return [title + markdown.stamp(table.entries[0].part.source), "", *markdown.lines(table)]


def _plots(machine: Machine, table: Table) -> list[Plot]:
    seen = looks(machine.rows_of(table.op))
    roof = roofline(table, seen)
    return [*sizes(table, seen), *([] if isinstance(roof, str) else [roof])]
