"""`accept`: is this machine right? Writes report.json and report.html."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from aimills_kernels._op import Op
from aimills_kernels.accept.run import accept
from aimills_kernels.accept.session import BENCH, Settings, Stage, names_to_exclude
from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import UsageError
from aimills_kernels.harness._patience import TIMEOUT_S

_CPU_BUDGET_S = 60.0
_GPU_BUDGET_S = 120.0
_SHOWN = 12  # reasons in the terminal; the report has all


def run(options: Namespace) -> int:
    ops = _choose.ops()
    devices = _choose.devices(options.device)
    budget = options.budget or (_CPU_BUDGET_S if devices[0].type == "cpu" else _GPU_BUDGET_S)
    settings = Settings(
        devices=devices,
        ops=ops,
        exclude=_excluded(options, ops),
        seed=options.seed,
        budget_s=budget,
        video=_video(options.video),
        timeout_s=options.timeout or (None if devices[0].type == "cpu" else TIMEOUT_S),
        energy=options.energy,
    )
    folder = _choose.directory(options.out)
    verdict, data = accept(settings, folder, progress=_ui.progress, told=_tell)
    _ui.say()
    for reason in verdict.reasons[:_SHOWN]:
        _ui.say(f"  {reason}", "red" if verdict.code == 1 else "yellow")
    if len(verdict.reasons) > _SHOWN:
        _ui.say(f"  and {len(verdict.reasons) - _SHOWN} more, in the report")
    if names := sorted({n["name"] for n in data["not_run"] if n["gap"]}):
        _ui.say(f"  to go on without: --exclude {','.join(names)}")
    _ui.say(f"not checked: {'; '.join(verdict.not_checked)}", "dim")
    _ui.say(verdict.headline, _ui.style_of(verdict.word))
    _ui.say(f"report: {folder / 'report.html'} and report.json, {data['seconds']:.0f} s")
    return verdict.code


def _excluded(options: Namespace, ops: Sequence[Op]) -> frozenset[str]:
    names = {*options.exclude, *([BENCH] if options.no_bench else [])}
    known = names_to_exclude(ops)
    for name in sorted(names):
        if name not in known:
            short = ", ".join(n for n in known if "/" not in n)
            raise UsageError(
                f"--exclude: unknown {name!r}; there are: {short}, <op>/<case> and <op>/<provider>"
            )
    return frozenset(names)


def _video(text: str | None) -> Path | None:
    if text is None:
        return None
    from aimills_kernels.video import io as video_io

    if reason := video_io.missing():
        raise UsageError(f"--video can't be used: {reason}")
    video_io.decode(Path(text), limit=1)
    return Path(text)


def _tell(stage: Stage) -> None:
    said = stage.failure or stage.summary
    line = f"{stage.title:<22} {stage.status:<9} {stage.seconds:6.1f} s  {said}"
    _ui.say(line, "" if stage.status == "passed" else _ui.style_of(stage.status))
