"""Stage: each op x case x provider that can run on the device, against float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._validate import NO_MEMORY, Validation, validate_each
from aimills_kernels.accept import check as _check
from aimills_kernels.accept.check import missing_package
from aimills_kernels.accept.session import NotRun, Session

Row = dict[str, Any]

_LARGE = {"bench", "aot"}


def cases_of(op: Op) -> list[Case]:
    """Shapes of real models that are meant for acceptance, and the small, awkward ones."""
    return [case for case in op.cases if "accept" in case.tags or not case.tags & _LARGE]


def run(session: Session) -> str:
    settings = session.settings
    todo = [
        (op, case, device)
        for device in settings.devices
        for op in settings.ops
        for case in cases_of(op)
    ]
    first = len(session.checks)
    with session.gathered(), session.progress("correctness", len(todo)) as step:
        for op, case, device in todo:
            step(f"{op} {case}")
            due = [p for p in op.all_providers if _is_due(session, op, case, p, device)]
            for result in _results(session, op, case, due, device):
                provider = op.provider(result.provider)
                session.check(_check.row(op, case.on(device.type), provider, result))
    for device in settings.devices:
        for op in settings.ops:
            _note_what_did_not_run(session, op, device, session.checks[first:])
    counts = Counter(c["status"] for c in session.checks[first:])
    said = ", ".join(f"{counts[s]} {s}" for s in ("right", "wrong", "not run") if counts[s])
    return said + "; the report says why" * bool(counts["not run"])


def _results(
    session: Session, op: Op, case: Case, due: list[Provider], device: torch.device
) -> Iterator[Validation]:
    seed = session.settings.seed
    if worker := session.worker(device):
        from aimills_kernels.harness import isolated

        return isolated.validate_each(worker, op, case, due, device=str(device), seed=seed)
    return validate_each(op, case, due, device=device, seed=seed)


def _is_due(session: Session, op: Op, case: Case, provider: Provider, device: torch.device) -> bool:
    """One that is not is counted among what did not run."""
    settings = session.settings
    if settings.leaves_out(op, case.name, provider):
        whole = op.name in settings.exclude
        session.exclude(op.name if whole else f"{op.name} {provider.name}", str(device))
        return False
    if provider.name == "reference" and "accept" in case.tags:
        what = f"{op.name} reference"
        session.skip(NotRun("", what, "large; it is the measure there, not what is measured",
                            str(device)))  # fmt: skip
        return False
    return True


def _note_what_did_not_run(session: Session, op: Op, device: torch.device, rows: list[Row]) -> None:
    """Skipped checks by reason. Gaps are: a kernel of ours whose package is missing, a check for
    which memory was short, and an op of which nothing of ours ran."""
    here = [r for r in rows if r["op"] == op.name and r["device"] == str(device)]
    due = {
        p.name: p
        for p in op.providers
        if not p.vendor
        and device.type in p.devices
        and not session.settings.leaves_out(op, provider=p)
    }
    gaps, reasons = 0, Counter((r["provider"], r["skipped"]) for r in here if r["skipped"])
    for (name, reason), count in reasons.items():
        package = missing_package(due[name]) if name in due else None
        absent = package is not None and _check.says_missing(reason, package)
        entry = NotRun("", f"{op.name} {name}", reason, str(device), count=count)
        if absent or reason == NO_MEMORY:
            entry.gap, entry.name = True, package if absent and package else f"{op.name}/{name}"
            gaps += 1
        session.skip(entry)
    if due and here and not gaps and not any(
        r["provider"] in due and r["status"] != _check.NOT_RUN for r in here
    ):  # fmt: skip
        why = {r["provider"]: r["skipped"] for r in here if r["provider"] in due}
        reason = "; ".join(f"{name}: {said}" for name, said in why.items())
        what = f"{op.name}: a kernel of ours"
        session.skip(NotRun(op.name, what, reason, str(device), gap=True))
