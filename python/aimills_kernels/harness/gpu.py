"""The one command for a GPU node: what it is, whether our kernels are right there, how fast.

First the small cases of all ops; then, op by op, the large cases, the records and the times; last
compute-sanitizer. After every step the files are whole, and the journal of the validation grows
line by line, so a node that is taken away half-way has still said all it had to say.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from aimills_kernels import _dispatch, _records
from aimills_kernels._op import Case, Op
from aimills_kernels._registry import OPS
from aimills_kernels._validate import Validation, validate_each
from aimills_kernels.harness import bench, isolated, record, sanitize
from aimills_kernels.harness._node import (
    INCOMPLETE,
    LATE,
    NO_GPU,
    OK,
    WRONG,
    Progress,
    State,
    name_of,
)

__all__ = ["INCOMPLETE", "NO_GPU", "OK", "WRONG", "run"]

_LARGE = frozenset({"bench", "accept", "aot"})
_CASE_S, _LEAST_CASE_S = 12.0, 1.0  # for the times of one case
_ENERGY_SHARE = 0.15  # of the budget is for windows of energy
_TIMED_SHARE = 0.6  # of the time left goes to times; the large cases need the rest
_SANITIZER_SHARE = 0.2  # of the budget is kept for it
_SANITIZER_LEAST_S = 10.0  # in less it can't even load torch


def run(
    out: Path,
    *,
    budget_s: float,
    timeout_s: float = isolated.TIMEOUT_S,
    progress: Progress | None = None,
) -> int:
    """Validate, benchmark and sanitize on every GPU; write all of it under `out`.

    What finds nothing left of `budget_s` is named as not run. A process for each GPU does the work,
    and is ended where a check or a sample takes longer than `timeout_s`. Returns 0 where all was
    right, 1 where something was wrong, 2 where a part could not be run, 3 without a GPU.
    """
    if not torch.cuda.is_available() or torch.cuda.device_count() == 0:
        print("No CUDA device is usable here: `make gpu` is for a machine with an NVIDIA GPU.")
        return NO_GPU
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    with contextlib.ExitStack() as stack:
        workers = {g: stack.enter_context(isolated.Worker(timeout_s)) for g in gpus}
        return _run_on(gpus, Path(out), budget_s, progress, workers)


def _run_on(
    gpus: list[torch.device],
    out: Path,
    budget_s: float,
    progress: Progress | None = None,
    workers: dict[torch.device, isolated.Worker] | None = None,
) -> int:
    state = State(out, progress or (lambda *_: None), gpus, budget_s, workers or {})
    state.start()
    for done in _steps(state):
        state.save(done)
    if not any("wrong" not in r for r in state.records.values()):
        state.not_run.append(("a record", "no provider of our own passed all its cases"))
    state.save("the end", complete=True)
    print("\n".join(state.table()))
    return state.code()


def _steps(state: State) -> Iterator[str]:
    """Do all the work, and say after each step what it was."""
    for device in state.gpus:
        _validate(state, device, [(o, c) for o in OPS for c in o.cases if not c.tags & _LARGE])
        yield f"the small cases of all ops on {device}"
    for op in OPS:
        for device in state.gpus:
            _validate(state, device, [(op, c) for c in op.cases if c.tags & _LARGE])
        _keep(state, op, list(_proven(state, op)))
        yield f"the checks of {op}"
        for case, device in itertools.product(_timed(op), state.gpus):
            _bench(state, op, case, device)
            yield f"the times of {op} {case} on {device}"
    for tool in sanitize.TOOLS:
        _sanitize(state, tool)
        yield f"compute-sanitizer {tool}"


# ---- validation


def _validate(state: State, device: torch.device, todo: list[tuple[Op, Case]]) -> None:
    for index, (op, case) in enumerate(todo):
        state.progress(f"{device} {op} {case}", index, len(todo))
        _validate_case(state, device, op, case)


def _validate_case(state: State, device: torch.device, op: Op, case: Case) -> None:
    left = [p.name for p in op.all_providers]
    if not state.barred(device):
        for result in _checks(state, device, op, case):
            left.remove(result.provider)
            state.enter(result, device)
            if state.barred(device):
                break
    for name in left:
        missed = Validation(op.name, case.name, name, str(device), 0, gap=True)
        missed.skipped = state.barred(device)
        state.enter(missed, device)


def _checks(state: State, device: torch.device, op: Op, case: Case) -> Iterator[Validation]:
    if worker := state.workers.get(device):
        return isolated.validate_each(worker, op, case, op.all_providers, device=str(device))
    return validate_each(op, case, op.all_providers, device=device)


def _keep(state: State, op: Op, found: list[dict[str, Any]]) -> None:
    state.records |= {(r["op"], r["provider"], r["sm"]): r for r in found}
    try:
        _records.add(found)
    except OSError as error:
        what = f"the records of {op} in the user's cache"
        state.not_run.append((what, f"they could not be written: {error}"))


def _proven(state: State, op: Op) -> Iterator[dict[str, Any]]:
    """Records of our own providers, and denials."""
    for sm in sorted({_dispatch.sm_of(g) or 0 for g in state.gpus}):
        gpus = {str(g): name_of(g) for g in state.gpus if _dispatch.sm_of(g) == sm}
        for provider in (p for p in op.providers if not p.vendor):
            made = _records.conclude(op, provider, sm, gpus, state.verdicts)
            if not isinstance(made, str):
                yield made


# ---- times


def _timed(op: Op) -> list[Case]:
    return [c for c in op.cases if "bench" in c.tags]


def _bench(state: State, op: Op, case: Case, device: torch.device) -> None:
    what = f"times of {op} {case} on {device}"
    if why := state.barred(device):
        state.not_run.append((what, why))
        return
    before = state.benches.get(device)
    options: dict[str, Any] = {
        "ops": [op], "cases": [case.name], "device": str(device), "progress": state.progress,
        "budget_s": _case_budget_s(state, case),
        "with_energy": True, "energy_s": _energy_s(state),
    }  # fmt: skip
    try:
        if worker := state.workers.get(device):
            made = isolated.run(worker=worker, **options)
        else:
            made = bench.run(measured=before["ceilings"] if before else None, **options)
    except Exception as error:  # the other ops and the summary still follow
        state.not_run.append((what, f"{type(error).__name__}: {error}"))
        state.look_after(device, what)
        return
    state.benches[device] = record.joined([before, made] if before else [made])
    for row in made["rows"]:
        if row["failure"]:
            state.wrong.append(f"{what}, {row['provider']}: {row['failure']}")
            state.look_after(device, f"{what}, {row['provider']}")
            _deny(state, op, device, row)
        elif row["gap"]:
            state.not_run.append((f"{what}, {row['provider']}", row["skipped"]))


def _deny(state: State, op: Op, device: torch.device, row: dict[str, Any]) -> None:
    """What goes wrong under the clock has no record either."""
    provider, sm = op.provider(row["provider"]), _dispatch.sm_of(device) or 0
    known = state.records.get((op.name, provider.name, sm), {})
    if not provider.vendor and "wrong" not in known:
        _keep(state, op, [_records.denial(op, provider, sm, row["failure"])])


def _case_budget_s(state: State, case: Case) -> float:
    """Its part of what is left; a little even where compute-sanitizer has to pay for it."""
    due = [c for op in OPS for c in _timed(op)]
    to_come = (len(due) - due.index(case)) * len(state.gpus)
    left = state.left_s() - _SANITIZER_SHARE * state.budget_s
    return max(_LEAST_CASE_S, min(_CASE_S, _TIMED_SHARE * left / to_come))


def _energy_s(state: State) -> float:
    """An equal part for each case whose energy is measured."""
    due = sum(bench.ENERGY in case.tags for op in OPS for case in _timed(op)) * len(state.gpus)
    return _ENERGY_SHARE * state.budget_s / max(due, 1)


# ---- compute-sanitizer


def _sanitize(state: State, tool: str) -> None:
    tools = len(sanitize.TOOLS)
    state.progress(f"compute-sanitizer {tool}", len(state.sanitizer), tools)
    limit = state.left_s() / (tools - len(state.sanitizer))
    if limit < _SANITIZER_LEAST_S:
        result: dict[str, Any] = {"tool": tool, "ok": None, "text": LATE}
    else:
        result = sanitize.check(tool, state.out, limit)
    state.sanitizer.append(result)
    if result["ok"] is False:
        state.wrong.append(f"{tool}: {result['text']}")
    elif result["ok"] is None:
        state.not_run.append((f"compute-sanitizer {tool}", str(result["text"])))
