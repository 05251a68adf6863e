"""`bench compare`: a verdict for each row of a run against an earlier one."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aimills_kernels.harness.compare import Comparison, Verdict

_EPILOG = (
    "exit codes: 0 no row is SLOWER, 1 one is, or was right and is wrong now, 2 something could "
    "not be compared (a file that is no record, another machine, a row that only the base has) or "
    "nothing could, 3 wrong use"
)
COLUMNS = (
    "op", "case", "provider", "device", ">base", ">new", ">change", "95 %", ">floor", "verdict",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("base", metavar="BASE", help="a record, or a folder of them")
    parser.add_argument("new", metavar="NEW", help="a record, or a folder of them")
    add_threshold(parser)
    parser.add_argument("--json", action="store_true", help="the verdicts as JSON")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold", type=share, default=0.05, metavar="PERCENT",
        help="a change is one from here on, such as 5%% (the default)",
    )  # fmt: skip


def share(text: str) -> float:
    """The type of a threshold option: "5%" is 0.05."""
    from aimills_kernels.harness.compare import percent

    try:
        return percent(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: Namespace) -> int:
    from dataclasses import replace

    from aimills_kernels.harness import compare
    from aimills_kernels.report import chosen

    sides, unread = [], []
    for name in (options.base, options.new):
        sources, wrong = chosen.read([name])
        sides.append([source.record for source in sources])
        unread += wrong
    found = compare.compare_records(sides[0], sides[1], options.threshold)
    found = replace(found, unread=tuple(unread))
    if options.json:
        print(as_json(found))
    else:
        show(found, f"{options.new} against {options.base}")
    return found.code


def as_json(found: Comparison) -> str:
    import json
    from dataclasses import asdict

    return json.dumps({"code": found.code, "counts": found.counts} | asdict(found), indent=1)


def show(found: Comparison, title: str) -> None:
    """The table, what is not in it and why, and the counts."""
    from aimills_kernels.cli import _ui

    for why in found.unread:
        _ui.say(f"not read: {why}", "yellow")
    if lines := [_line(v) for v in found.verdicts if v.ratio is not None]:
        _ui.table(title, COLUMNS, lines)
    for verdict, names, why in _reasons(found):
        _ui.say(f"{verdict}: {names}: {why}", _ui.style_of(verdict))
    if found.named:
        _ui.say(f"not the same in both: {'; '.join(found.named)}", "yellow")
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.items()) or "nothing to compare"
    _ui.say(f"{counts}; the threshold is {100 * found.threshold:.3g} %")


def _reasons(found: Comparison) -> list[tuple[str, str, str]]:
    """(verdict, the rows, why): what is not plain from the table, rows of one reason together."""
    rows: dict[tuple[str, str], list[str]] = {}
    for v in found.verdicts:
        if v.why:
            name = f"{v.op} {v.case} {v.provider} on {v.device}"
            rows.setdefault((v.verdict, v.why), []).append(name)
    return [(verdict, ", ".join(names), why) for (verdict, why), names in rows.items()]


def _line(v: Verdict) -> list[str]:
    from aimills_kernels.harness._rows import time_text

    times = ["" if t is None else time_text(t) for t in (v.base_us, v.new_us)]
    change = [f"{x - 1:+.1%}" for x in (v.ratio, v.low, v.high) if x is not None]
    floor = "" if v.floor is None else f"{v.floor:.1%}"
    interval = f"{change[1]} to {change[2]}"
    return [v.op, v.case, v.provider, v.device, *times, change[0], interval, floor, v.verdict]
