"""Tables and progress bars: by rich, by the copy of it that pip carries, or plain."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_NARROWEST = 80  # columns; below that rich leaves out letters, then whole columns
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline
Step = Callable[..., None]  # (text), which advances by one, or (text, done, total)
_STYLES = {
    "right": "green", "passed": "green", "accepted": "bold green", "serves": "green",
    "wrong": "bold red", "rejected": "bold red", "failed": "bold red",
    "not run": "yellow", "incomplete": "bold yellow", "excluded": "yellow",
    "FASTER": "green", "SAME": "green", "SLOWER": "bold red", "BROKEN": "bold red",
    "AMBIGUOUS": "yellow", "REFUSED": "bold yellow", "MISSING": "bold yellow",
}  # fmt: skip


def _rich(part: str) -> Any:
    for package in ("rich", "pip._vendor.rich"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(f"{package}.{part}")
    return None


def _console(stderr: bool = False) -> Any:
    module = _rich("console")
    if module is None:
        return None
    stream = sys.stderr if stderr else sys.stdout
    # Into a file or a pipe, rich would fold at 80 columns.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120

    class Console(module.Console):  # type: ignore[misc, name-defined]
        def on_broken_pipe(self) -> None:
            """rich would exit with 1, which means here that something is wrong."""
            raise BrokenPipeError

    return Console(stderr=stderr, width=width, highlight=False)


def _harmless(text: str) -> str:
    """Text of a file, or of an error, may hold what steers a terminal."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str = "", style: str = "") -> None:
    text = _harmless(text)
    console = _console()
    if console is None:
        print(text)
    else:
        console.print(text, style=style, markup=False, soft_wrap=True)


def style_of(status: str) -> str:
    return _STYLES.get(status, "")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; a column whose name starts with `>` is set flush right."""
    title, texts = _harmless(title), [[_harmless(str(cell)) for cell in row] for row in rows]
    console, module = _console(), _rich("table")
    if console is None or module is None:
        _plain_table(title, columns, texts)
        return
    text, box = _rich("text").Text, _rich("box").SIMPLE_HEAD
    made = module.Table(title=text(title) if title else None, title_justify="left", box=box)
    for i, name in enumerate(columns):
        side = "right" if name[:1] == ">" else "left"
        made.add_column(text(name.lstrip(">")), justify=side, overflow="fold", no_wrap=i == 0)
    for row in texts:
        made.add_row(*[text(cell, style=style_of(cell)) for cell in row])
    console.width = max(console.width, _NARROWEST)
    console.print(made)


def _plain_table(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    heads = [c.lstrip(">") for c in columns]
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    right = [c[:1] == ">" for c in columns]
    if title:
        print(title)
    for row in [heads, ["-" * w for w in widths], *rows]:
        cells = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


@contextlib.contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Step]:
    """A bar on stderr while the block runs; silent where stderr is no terminal.

    The block is given a function that takes what is being done and advances by one, or goes to
    (text, done, total).
    """
    module = _rich("progress")
    if module is None or not sys.stderr.isatty():
        yield lambda *_: None
        return
    bar = module.Progress(
        module.SpinnerColumn(),
        module.TextColumn("{task.description}", markup=False),
        module.BarColumn(bar_width=32),
        module.MofNCompleteColumn(),
        module.TimeElapsedColumn(),
        console=_console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total)

        def step(text: str, done: int | None = None, of: int | None = None) -> None:
            label = f"{title}: {text}"[:60]
            if done is None:
                bar.update(task, advance=1, description=label)
            else:
                bar.update(task, completed=done, total=of, description=label)

        yield step
