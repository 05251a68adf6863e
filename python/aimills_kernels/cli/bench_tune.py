"""`bench tune`: tables of choices from records."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from aimills_kernels.cli._errors import INCOMPLETE, OK, UsageError

if TYPE_CHECKING:
    from aimills_kernels.harness.tune import Tuning

_EPILOG = (
    "exit codes: 0 written, or with --dry-run shown, 2 no choice follows from the records, or a "
    "file is no record (the others count), 3 wrong use or a table that can't be read"
)
COLUMNS = ("op", "case", "sm", "serves", "tiles", ">time", "fastest", ">time", "record")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "record", nargs="*", metavar="RECORD", default=["bench/results"],
        help="files, or folders of them (default bench/results)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show the choices, write nothing")


def run(options: Namespace) -> int:
    from aimills_kernels import _tuned
    from aimills_kernels.cli import _ui
    from aimills_kernels.harness import env, tune
    from aimills_kernels.report import chosen
    from aimills_kernels.report.words import plural

    if not (env.ROOT / ".git").exists():
        raise UsageError("tables are written into a checkout, and this is an installed package")
    sources, unread = chosen.read(options.record)
    for why in unread:
        _ui.say(f"not read: {why}", "yellow")
    made = tune.tune([(source.name, source.record) for source in sources])
    _show(made)
    if not made.chosen:
        _ui.say("no choice follows from these records: nothing is written", "yellow")
        return INCOMPLETE
    for path, entries in made.tables.items():
        if not options.dry_run:
            _tuned.write(path, entries)
        word = "would be written" if options.dry_run else "written"
        _ui.say(f"{word}: {path}, choices of {plural(len(entries), 'problem')}")
    return INCOMPLETE if unread else OK


def _show(made: Tuning) -> None:
    from aimills_kernels.cli import _ui
    from aimills_kernels.harness._rows import time_text

    lines = [
        (e["op"], c.case, e["sm"], e["provider"], e["config"] or "built in",
         time_text(e["median_us"]), e["fastest"], time_text(e["fastest_us"]), e["record"])
        for c in made.chosen
        for e in [c.entry]
    ]  # fmt: skip
    if lines:
        _ui.table("", COLUMNS, lines)
    for reason, names in made.left.items():
        _ui.say(f"left out: {', '.join(names)}: {reason}")
