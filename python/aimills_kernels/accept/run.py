"""The stages in order, then the verdict and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aimills_kernels.accept import correctness, page, real_input, report, shapes, speed
from aimills_kernels.accept.session import Progress, Session, Settings, Stage, silent
from aimills_kernels.accept.verdict import Verdict, conclude

STAGES: tuple[tuple[str, str, Callable[[Session], str]], ...] = (
    ("correctness", "Correctness", correctness.run),
    ("video", "A decoded video", real_input.run),
    ("shapes", "Shapes of real models", shapes.run),
    ("bench", "Times against peers", speed.run),
)


def accept(
    settings: Settings,
    folder: Path,
    *,
    progress: Progress = silent,
    told: Callable[[Stage], None] = lambda stage: None,
) -> tuple[Verdict, dict[str, Any]]:
    """Run every stage, write report.json and report.html to `folder`, return the verdict.

    `told` is called after each stage.
    """
    session = Session(settings, progress)
    for name, title, work in (("environment", "Environment", _environment), *STAGES):
        told(session.stage(name, title, work))
    verdict = conclude(session)
    data = report.build(session, verdict)
    report.write(data, page.render(data, session.pictures), folder)
    return verdict, data


def _environment(session: Session) -> str:
    from aimills_kernels.harness.env import stamp

    session.environment = stamp()
    gpus = session.environment.get("gpus") or []
    named = [f"{g.get('name')}" for g in gpus] or [str(_cpu(session.environment))]
    return ", ".join(f"{named.count(n)} x {n}" for n in dict.fromkeys(named))


def _cpu(environment: dict[str, Any]) -> str:
    cpu = environment.get("cpu") or {}
    return f"{cpu.get('model') or 'a CPU of unknown model'}, {cpu.get('threads')} threads"
