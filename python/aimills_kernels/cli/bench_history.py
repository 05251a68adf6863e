"""`bench history`: how the time of a row went over records, and where it changed."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from aimills_kernels.cli._errors import INCOMPLETE, OK, UsageError

if TYPE_CHECKING:
    from aimills_kernels.report.steps import Past, Step

_EPILOG = "exit codes: 0 shown, 2 a file is no record or no row is in two of them, 3 wrong use"
COLUMNS = ("day", "commit", "driver", "torch", "triton", ">median", ">change", ">since first",
           "verdict")  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    from aimills_kernels.cli._parser import names
    from aimills_kernels.cli.bench_compare import add_threshold

    parser.epilog = _EPILOG
    parser.add_argument(
        "record", nargs="*", metavar="FOLDER", default=["bench/results"],
        help="records, or folders of them (default bench/results)",
    )  # fmt: skip
    for what in ("op", "case", "provider"):
        parser.add_argument(f"--{what}", type=names, metavar="NAME,...", help=f"only these {what}s")
    parser.add_argument("--plot", metavar="FILE", help="write a plot of what is shown, as SVG")
    add_threshold(parser)


def run(options: Namespace) -> int:
    from aimills_kernels.cli import _choose, _ui
    from aimills_kernels.report import chosen, steps

    plot = _choose.output_file(options.plot) if options.plot is not None else None
    sources, unread = chosen.read(options.record)
    for why in unread:
        _ui.say(f"not read: {why}", "yellow")
    every = [p for m in chosen.machines(sources) for p in steps.pasts(m, options.threshold)]
    found = [past for past in every if _asked(past, options)]
    if every and not found:
        known = sorted({f"{p.row['op']} {p.row['case']} {p.row['provider']}" for p in every})
        raise UsageError(f"no such row is in two records; there are: {', '.join(known)}")
    for past in found:
        _show(past)
    if not found:
        _ui.say("no row is in two records of one machine", "yellow")
    if plot and found:
        _draw(found, plot)
    return INCOMPLETE if unread or not found else OK


def _asked(past: Past, options: Namespace) -> bool:
    wanted = {name: getattr(options, name) for name in ("op", "case", "provider")}
    return all(past.row[name] in names for name, names in wanted.items() if names)


def _show(past: Past) -> None:
    from aimills_kernels.cli import _ui

    row = past.row
    title = f"{row['op']} {row['case']} {row['provider']} on {past.machine.name}"
    _ui.table(title, COLUMNS, [_line(step) for step in past.steps])
    for before, step in zip(past.steps, past.steps[1:], strict=False):
        if step.point or step.slide:
            _ui.say(_point(before, step), _ui.style_of(_word(step)))


def _word(step: Step) -> str:
    if step.slide:
        return "SLOWER"
    return step.verdict.verdict if step.verdict else ""


def _line(step: Step) -> list[str]:
    from aimills_kernels.harness._rows import time_text

    source, environment = step.part.source, step.part.source.record["environment"]
    framework = environment.get("torch")
    version = framework.get("version") if isinstance(framework, dict) else framework
    verdict, us = step.verdict, step.row["median_us"]
    change = f"{verdict.ratio - 1:+.1%}" if verdict and verdict.ratio else ""
    since = f"{step.since.ratio - 1:+.1%}" if step.since and step.since.ratio else ""
    word = verdict.verdict if verdict else "first"
    head = [source.day, source.code, step.part.facts.get("driver"), version]
    text = [str(x or "") for x in (*head, environment.get("triton"))]
    return [*text, "" if us is None else time_text(us), change, since, word]


def _point(before: Step, step: Step) -> str:
    """One change, by the commit or the driver that it came with."""
    verdict, source = step.verdict, step.part.source
    assert verdict is not None
    if step.slide:
        assert step.since is not None
        assert step.start is not None
        return (
            f"{source.day}: {_percent(step.since.ratio)} slower than at {step.start.source.code}, "
            f"by small steps up to {source.code}"
        )
    text = f"{source.day}: {verdict.verdict}"
    if verdict.ratio is not None:
        text += f" {verdict.ratio - 1:+.1%}"
    old, new = before.part.source.code, source.code
    text += f" at {new}, after {old}" if old != new else f" at {new}, as before"
    return text + (f": {verdict.why}" if verdict.why else "")


def _percent(ratio: float | None) -> str:
    return f"{(ratio or 1) - 1:.1%}"


def _draw(found: list[Past], path: object) -> None:
    from pathlib import Path

    from aimills_kernels._files import write_whole
    from aimills_kernels.cli import _ui
    from aimills_kernels.report import axes, history, picture

    plots = []
    for past in {(id(p.machine), p.problem): p for p in found}.values():
        seen = axes.looks(past.machine.rows_of(past.row["op"]))
        plot = history.history(past.machine, past.problem, seen)
        plots += [plot] if plot is not None else []
    if not plots:
        _ui.say("no row was timed twice, so there is no plot", "yellow")
        return
    write_whole(Path(str(path)), picture.render(plots))
    _ui.say(f"plot: {path}")
