"""Calls as users make them: on the provider that serves, and on each other kernel of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._dispatch import on_device
from aimills_kernels._explain import explain_flat
from aimills_kernels._op import Case, Op, Problem
from aimills_kernels._tolerance import Judgement
from aimills_kernels._validate import NO_MEMORY
from aimills_kernels.accept.check import dims, judged, scaled
from aimills_kernels.accept.session import NotRun, Session, sentence

Row = dict[str, Any]
Call = Callable[[], tuple[Tensor, ...]]
Expected = Callable[[], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
Extra = Callable[[Row, tuple[Tensor, ...]], None]


def check_calls(
    session: Session,
    op: Op,
    case: Case,
    device: torch.device,
    args: tuple,
    call: Call,
    expected: Expected,
    extra: Extra = lambda row, got: None,
    *,
    stage: str,
) -> None:
    """Make `call`, unforced and then on each of our kernels that can run it, and hold the results
    against `expected`: what the oracle gives, and the reference in the op's dtypes, both without
    last outputs that the call leaves out. `args` are flat; `extra` adds checks."""
    served, names = _contenders(session, op, args, device)
    for name in names:
        row = _blank(session, op, case, name, device, stage)
        forced = (
            _dispatch.use_provider(op.name, name) if name != served else contextlib.nullcontext()
        )
        try:
            with on_device(device), forced, torch.no_grad():
                got = call()
                oracle, rounded = expected()
                _enter(row, op, args, got, oracle, rounded)
                extra(row, got)
        except torch.OutOfMemoryError:
            row["skipped"] = NO_MEMORY
            what = f"{op.name} {case.name}"
            session.skip(NotRun(f"{op.name}/{case.name}", what, NO_MEMORY, str(device), gap=True))
        except Exception as error:
            row["failures"].append(sentence(error))
        row["status"] = "not run" if row["skipped"] else "wrong" if row["failures"] else "right"
        session.check(row)


def _contenders(
    session: Session, op: Op, args: tuple, device: torch.device
) -> tuple[str, list[str]]:
    """What serves comes first. Without a record our own kernels don't serve a GPU, and they are
    what is to be checked."""
    served = explain_flat(op, args, device).provider
    if served is None:
        raise ValueError(f"{op.name}: no provider serves this problem on {device}")
    problem = Problem(op, args, device.type, _dispatch.sm_of(device))
    able = [p for p in op.providers if not p.vendor and _dispatch.why_not(p, problem) is None]
    names = dict.fromkeys([served, *[p.name for p in able]])
    leaves_out = session.settings.leaves_out
    return served, [name for name in names if not leaves_out(op, provider=op.provider(name))]


def _blank(
    session: Session, op: Op, case: Case, name: str, device: torch.device, stage: str
) -> Row:
    return {
        "stage": stage, "op": op.name, "case": case.name, "dims": dims(case),
        "scaled": scaled(op, case), "provider": name, "own": not op.provider(name).vendor,
        "device": str(device), "seed": session.settings.seed, "status": "", "used": None,
        "outputs": {}, "failures": [], "skipped": None,
    }  # fmt: skip


def _enter(row: Row, op: Op, args: tuple, got: tuple, oracle: tuple, rounded: tuple) -> None:
    judgements: dict[str, Judgement] = {}
    for name, tolerance, mine, want, own in zip(
        op.outputs[: len(oracle)], op.tolerance[: len(oracle)], got, oracle, rounded, strict=True
    ):
        judgements[name] = tolerance.judge(mine, want, own, args)
        if not judgements[name].ok:
            row["failures"].append(f"{name}: {judgements[name].text}")
    row |= judged(judgements)
