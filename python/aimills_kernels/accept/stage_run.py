"""One stage of one rank, from its begin to its end in the journal."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable

from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.evidence_folder import RankJournal
from aimills_kernels.accept.session import (
    EXCLUDED,
    FAILED,
    NOT_RUN,
    WRONG,
    Excluded,
    Stage,
    sentence,
)


class Stopped(BaseException):
    """The run is to end: no `Exception`, since it is no failure of the stage."""


def run(
    spec: StageSpec,
    ctx: Context,
    journal: RankJournal,
    work: Callable[[Context], str] | None = None,
) -> Stage:
    """An exception makes the stage failed, with its sentence; the others go on."""
    stage = Stage(spec.name, spec.title)
    wrong, gaps = journal.wrong, journal.gaps
    journal.append("stage", name=spec.name, title=spec.title, state="begin")
    begin = time.monotonic()
    try:
        stage.summary = (work or spec.work)(ctx)
        if journal.wrong > wrong:
            stage.status = WRONG
        elif journal.gaps > gaps:
            stage.status = NOT_RUN
    except Excluded:
        stage.status, stage.summary = EXCLUDED, "excluded by name"
    except Stopped as stop:
        stage.status, stage.failure = NOT_RUN, f"stopped: {stop}"
        end(journal, stage, begin, stopped=True)
        raise
    except Exception as error:
        stage.status, stage.failure = FAILED, sentence(error)
        if os.environ.get("AIMILLS_DEBUG") == "1":
            traceback.print_exc(file=sys.stderr)
    end(journal, stage, begin)
    return stage


def end(journal: RankJournal, stage: Stage, begin: float, *, stopped: bool = False) -> None:
    stage.seconds = time.monotonic() - begin
    journal.append(
        "stage", name=stage.name, title=stage.title, state="end", status=stage.status,
        seconds=round(stage.seconds, 3), summary=stage.summary, failure=stage.failure,
        **({"stopped": True} if stopped else {}),
    )  # fmt: skip
