"""The stages in order, then the verdict and the report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aimills_kernels.accept import correctness, real_input, report, session_pod, shapes, speed
from aimills_kernels.accept.session import FAILED, Progress, Session, Settings, Stage, silent
from aimills_kernels.accept.verdict import Verdict, conclude
from aimills_kernels.harness._patience import patience

_CALLED_HERE = ("video", "shapes")  # the other stages have a process of their own for it
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
    try:
        for name, title, work in (("environment", "Environment", _environment), *STAGES):
            with _patience(session, name, title, folder):
                told(session.stage(name, title, work))
    finally:
        session.close()
    return _report(session, folder)


def _report(session: Session, folder: Path) -> tuple[Verdict, dict[str, Any]]:
    verdict = conclude(session)
    pod, findings = session_pod.pod(session, verdict), session_pod.findings(verdict)
    report.write(report.rendered(pod, findings), folder)
    return verdict, report.build(pod, findings)


@contextlib.contextmanager
def _patience(session: Session, name: str, title: str, folder: Path) -> Iterator[None]:
    """An end for what this process calls itself. Where it can't go on after that, the report is
    written with what there is."""

    def say(text: str) -> None:
        session.stages.append(Stage(name, title, FAILED, failure=text))
        _report(session, folder)
        print(f"{title}: {text}; report: {folder / 'report.html'}", file=sys.stderr)

    limit = session.settings.timeout_s if name in _CALLED_HERE else None
    before = session.progress
    with patience(limit, say) as at:

        @contextlib.contextmanager
        def progress(text: str, total: int | None = None) -> Iterator[Callable[..., None]]:
            with before(text, total) as step:

                def both(label: str, *more: Any) -> None:
                    at(label)
                    step(label, *more)

                yield both

        session.progress = progress
        try:
            yield
        finally:
            session.progress = before


def _environment(session: Session) -> str:
    from aimills_kernels.harness.env import stamp

    session.environment = stamp()
    gpus = session.environment.get("gpus") or []
    named = [f"{g.get('name')}" for g in gpus] or [str(_cpu(session.environment))]
    return ", ".join(f"{named.count(n)} x {n}" for n in dict.fromkeys(named))


def _cpu(environment: dict[str, Any]) -> str:
    cpu = environment.get("cpu") or {}
    return f"{cpu.get('model') or 'a CPU of unknown model'}, {cpu.get('threads')} threads"
