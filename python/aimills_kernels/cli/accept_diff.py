"""`accept diff`: two reports, for re-acceptance after a repair."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aimills_kernels.accept.diff import Difference

_SHOWN = 0.005  # smaller changes of a figure are not shown without --all


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "exit codes: 0 no rule is worse, 1 one is, 2 something of A was not asked or measured in "
        "B, 3 wrong use, as where A and B are of other GPU models"
    )
    parser.add_argument("old", metavar="A", help="a report.json, or its folder")
    parser.add_argument("new", metavar="B", help="a report.json, or its folder")
    parser.add_argument("--all", action="store_true", help="changes below 0.5 % too")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: Namespace) -> int:
    from aimills_kernels.accept import attest
    from aimills_kernels.accept.diff import diff

    paths = [Path(p) for p in (options.old, options.new)]
    found = diff(*[attest.data_of(p.parent if p.name == "report.json" else p) for p in paths])
    if options.json:
        import json
        from dataclasses import asdict

        print(json.dumps({"code": found.code} | asdict(found), indent=1))
    else:
        _show(found, f"{options.new} against {options.old}", options.all)
    return found.code


def _show(found: Difference, title: str, every: bool) -> None:
    from aimills_kernels.cli import _ui

    for text in (*found.notes, *found.devices):
        _ui.say(text, "yellow")
    shown = [v for v in found.values if every or v["change"] is None or abs(v["change"]) >= _SHOWN]
    if shown:
        columns = ("device", "metric", ">A", ">B", ">change", "")
        _ui.table(title, columns, [_line(v) for v in shown])
    anew = [f for f in found.findings if f["old"] is None and f["new"] == "pass" and not every]
    for f in found.findings:
        if f in anew:
            continue
        style = {"fail": "bold red", "pass": "green"}.get(f["new"] or "", "yellow")
        change = f"{f['old'] or 'none'} -> {f['new'] or 'none'}"
        _ui.say(f"{f['where']} {f['rule']}: {change}: {f['text']}", style)
    left = len(found.values) - len(shown)
    more = f"; {left} changes below 0.5 % are not shown" if left else ""
    more += f", nor {len(anew)} rules that only B was asked, and that held" if anew else ""
    _ui.say(f"{len(found.findings)} findings and {len(found.values)} figures changed{more}")


def _line(v: dict[str, Any]) -> list[str]:
    from aimills_kernels.accept.values import quantity

    change = "" if v["change"] is None else f"{v['change']:+.1%}"
    word = {True: "better", False: "worse", None: ""}[v["better"]]
    ends = [quantity(v[k], v["unit"], v["metric"]) for k in ("old", "new")]
    return [v["where"], v["metric"], *ends, change, word]
