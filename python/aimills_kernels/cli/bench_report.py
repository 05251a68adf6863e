"""`bench report`: records as a page and as Markdown, and the tables of documentation pages."""

from __future__ import annotations

import argparse
from argparse import Namespace

from aimills_kernels.cli._errors import INCOMPLETE, OK, UsageError

_EPILOG = (
    "exit codes: 0 written, whatever the records say of their rows (that is on the page), 2 a file "
    "is no record or there is none, 3 wrong use"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("record", nargs="*", metavar="RECORD", help="files, or folders of them")
    parser.add_argument(
        "--out", metavar="DIR", default="reports/bench",
        help="for report.html and report.md (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--update", nargs="+", metavar="FILE",
        help="in place of a report: rewrite the parts of these Markdown files that are between "
        "<!-- bench:begin OP ... --> and <!-- bench:end -->",
    )  # fmt: skip
    parser.add_argument(
        "--results", metavar="DIR", default="bench/results",
        help="the records that --update reads (default %(default)s)",
    )  # fmt: skip


def run(options: Namespace) -> int:
    if options.update and options.record:
        raise UsageError("--update reads the records of --results; name no RECORD with it")
    if options.update:
        return _update(options)
    if not options.record:
        raise UsageError("name a RECORD, as `bench --out` writes it, or a folder of them")
    return _report(options)


def _report(options: Namespace) -> int:
    from aimills_kernels._files import write_whole
    from aimills_kernels.cli import _choose, _ui
    from aimills_kernels.report import bench_page, chosen, markdown

    sources, unread = chosen.read(options.record)
    for why in unread:
        _ui.say(f"not read: {why}", "yellow")
    machines = chosen.machines(sources)
    if not machines:
        _ui.say("no row of a record to show: nothing is written", "yellow")
        return INCOMPLETE
    folder = _choose.directory(options.out)
    write_whole(folder / "report.html", bench_page.render(machines, unread))
    write_whole(folder / "report.md", markdown.render(machines, unread))
    for machine in machines:
        _ui.say(f"{machine.name}: {chosen.counts_text(e.row for e in machine.shown())}")
    _ui.say(f"report: {folder / 'report.html'} and report.md")
    return INCOMPLETE if unread else OK


def _update(options: Namespace) -> int:
    from aimills_kernels.cli import _ui
    from aimills_kernels.report import docs

    changed, unread = docs.update(options.update, options.results)
    for why in unread:
        _ui.say(f"not read: {why}", "yellow")
    for path in changed:
        _ui.say(f"rewritten: {path}")
    if not changed and not unread:
        _ui.say("all of it was up to date")
    return INCOMPLETE if unread else OK
