"""What the terminal is told of a report. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from aimills_kernels.accept.judged import Outcome
from aimills_kernels.cli import _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK

_SHOWN = 12  # reasons in the terminal; the report has all


def tell(outcome: Outcome, folder: Path) -> int:
    report = outcome.report
    reasons = report["reasons"]
    _ui.say()
    for reason in reasons[:_SHOWN]:
        _ui.say(f"  {reason}", "red" if outcome.code == 1 else "yellow")
    if len(reasons) > _SHOWN:
        _ui.say(f"  and {len(reasons) - _SHOWN} more, in the report")
    if names := sorted({n["name"] for n in report["not_run"] if n["gap"]}):
        _ui.say(f"  to go on without: --exclude {','.join(names)}")
    _ui.say(f"not checked: {'; '.join(report['not_checked'])}", "dim")
    _ui.say(report["headline"], _ui.style_of(report["verdict"]))
    _ui.say(f"report: {folder / 'report.html'} and report.json, {report['seconds']:.0f} s")
    if outcome.signed is not None:
        _ui.say(f"signed: {outcome.signed}")
    if outcome.unsigned:
        _ui.say(f"NOT SIGNED: {outcome.unsigned}", "bold red")
    return outcome.code or (INCOMPLETE if outcome.unsigned else OK)
