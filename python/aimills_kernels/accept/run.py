"""The run: launch contract, ranks, journals, findings, report."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from aimills_kernels.accept import evidence_folder, judged, library, parent, rank, stages
from aimills_kernels.accept import launch as launching
from aimills_kernels.accept.context import StageSpec
from aimills_kernels.accept.judged import Outcome
from aimills_kernels.accept.launch import Launch
from aimills_kernels.accept.rank import Plan, Stop
from aimills_kernels.accept.session import Progress, Stage, silent
from aimills_kernels.accept.stage_run import Stopped

STAGES: tuple[StageSpec, ...] = (*stages.STAGES, *library.STAGES)
EVERY: tuple[StageSpec, ...] = (*STAGES, stages.POWER_SWEEP)
_LOOK_S = 0.2
_LAST_WORDS_S = 5.0  # of other ranks, where all were asked to end


def chosen(profile: str, names: Sequence[str] | None = None) -> tuple[StageSpec, ...]:
    """The stages of a profile, or those named, in their order."""
    if names is None:
        return tuple(s for s in STAGES if s.seconds.get(profile))
    return tuple(s for s in EVERY if s.name in names)


def accept(
    plan: Plan,
    launch: Launch | None = None,
    device: torch.device | None = None,
    *,
    problem: str | None = None,
    progress: Progress = silent,
    told: Callable[[Stage], None] = lambda stage: None,
) -> Outcome | None:
    """This process as a rank. The report is made by rank 0, where no parent makes it; None on the
    other ranks. KeyboardInterrupt after Ctrl-C, with what there is written."""
    launch = launch or launching.alone(os.environ, new_run())
    stop = Stop()

    def leave() -> None:
        if launch.rank == 0 and launch.contract != launching.PARENT:
            _reported(plan, stop)

    with stop.listening():
        rank.run(plan, launch, device or plan.settings.devices[0], stop, problem=problem,
                 progress=progress, told=told, leave=leave)  # fmt: skip
        if launch.contract == launching.PARENT or launch.rank:
            return None
        try:
            _wait(plan, launch.world, _LAST_WORDS_S if stop.event.is_set() else plan.wait_s)
        except Stopped:
            _wait(plan, launch.world, _LAST_WORDS_S)
    outcome = _reported(plan, stop)
    _interrupted(stop)
    return outcome


def accept_by_ranks(plan: Plan, program: Sequence[str], world: int) -> Outcome:
    """This process as the parent of `world` ranks, each of which runs `program`."""
    stop = Stop()
    with stop.listening():
        parent.run(program, world, new_run(), plan.folder, stop, plan.wait_s)
    outcome = _reported(plan, stop)
    _interrupted(stop)
    return outcome


def _reported(plan: Plan, stop: Stop) -> Outcome:
    """The report, signed where that was asked for. One that can't be signed stands unsigned, and so
    does that of a run that was stopped, which could not be gone on with."""
    outcome = judged.merge(plan.folder, plan.criteria)
    if plan.sign is None:
        return outcome
    if stop.event.is_set():
        return replace(outcome, unsigned=f"the run was stopped by {stop.name}; --resume goes on")
    from aimills_kernels.accept.sign import sign_folder

    criteria = Path(plan.criteria) if plan.criteria and Path(plan.criteria).is_file() else None
    try:
        return replace(outcome, signed=sign_folder(plan.folder, plan.sign, criteria=criteria))
    except (ValueError, OSError) as error:
        return replace(outcome, unsigned=str(error).removeprefix("not signed: "))


def new_run() -> str:
    return f"parent {uuid.uuid4()}"


def _interrupted(stop: Stop) -> None:
    if stop.name == "SIGINT":
        raise KeyboardInterrupt


def _wait(plan: Plan, world: int, wait_s: float) -> None:
    """Until the journals of all ranks have an end, or the others say nothing any more."""
    begun = time.time()
    while world > 1:
        open_ = [p for p in evidence_folder.journals(plan.folder) if not evidence_folder.ended(p)]
        known = len(evidence_folder.journals(plan.folder))
        if not open_ and known >= world:
            return
        last = max([begun, *(_changed(p) for p in open_)])
        if time.time() - last > wait_s:
            return
        time.sleep(_LOOK_S)


def _changed(path: Path) -> float:
    return path.stat().st_mtime
