"""Stage: times against peers. A wrong result makes it wrong; a slow one does not: there are no
criteria of speed yet."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from aimills_kernels._op import Op
from aimills_kernels.accept.session import BENCH, NotRun, Session, Settings
from aimills_kernels.harness._rows import ENOUGH

TAG = "accept"  # of the cases that are timed
_TIMES = 0.3  # of the stage's time, where the rest is for joules of each op
_ENERGY_S = 9.0  # for the joules of a case: of its first contestant, ours where there is one


def run(session: Session) -> str:
    settings = session.settings
    budget_s = settings.budget_s or session.seconds * (_TIMES if _with_energy(session) else 1)
    for device in settings.devices:
        ops = sorted(
            (_without_excluded(op, settings) for op in settings.ops if not settings.leaves_out(op)),
            key=lambda op: not _has_own(op, device),
        )
        ops = [op if _has_own(op, device) else _one_case(session, op, device) for op in ops]
        found = _bench(session, ops, device, budget_s)
        # Each op gets its turn, also where the first ones used up the time.
        late = [op for op in ops if op.name not in _heard(found["rows"])]
        found["rows"] = [r for r in found["rows"] if r["op"] not in {op.name for op in late}]
        share, ceilings = budget_s / len(ops), found["ceilings"]
        again = [_bench(session, [op], device, share, ceilings) for op in late]
        for record in (found, *again):
            session.bench(record)
        _note(session, ops, [r for record in (found, *again) for r in record["rows"]], str(device))
    timed = sum(r["median_us"] is not None for b in session.benches for r in b["rows"])
    return f"{timed} times taken"


def _bench(
    session: Session,
    ops: list[Op],
    device: torch.device,
    budget_s: float,
    measured: dict[str, Any] | None = None,
) -> dict[str, Any]:
    from aimills_kernels.harness import bench, isolated

    with session.progress(f"bench on {device}", None) as step:
        options: dict[str, Any] = {
            "ops": ops, "tag": TAG, "device": str(device), "budget_s": budget_s, "progress": step,
            "seed": session.settings.seed, "peers": True, "least": ENOUGH,
            "with_energy": _with_energy(session), "energy_s": _ENERGY_S,
            "energy_cases": [f"{op.name}/{case}" for op in ops if (case := energy_case(op))],
        }  # fmt: skip
        if worker := session.worker(device):
            return isolated.run(**options, worker=worker)
        return bench.run(**options, measured=measured)


def energy_case(op: Op) -> str | None:
    """The one case of which an op's joules are taken: of those that are timed the first that is
    meant for it, else the first."""
    from aimills_kernels.harness.bench import ENERGY

    timed = [case for case in op.cases if TAG in case.tags]
    return next((c.name for c in sorted(timed, key=lambda c: ENERGY not in c.tags)), None)


def _with_energy(session: Session) -> bool:
    asked = session.settings.energy
    return session.profile in ("full", "burn-in") if asked is None else asked


def _heard(rows: list[dict[str, Any]]) -> set[str]:
    """Ops of which there is a time, or a wrong result."""
    return {r["op"] for r in rows if r["median_us"] is not None or r["failure"]}


def _without_excluded(op: Op, settings: Settings) -> Op:
    return dataclasses.replace(
        op,
        cases=tuple(c for c in op.cases if not settings.leaves_out(op, c.name)),
        providers=tuple(p for p in op.providers if not settings.leaves_out(op, provider=p)),
    )


def _has_own(op: Op, device: torch.device) -> bool:
    """These come first: where the time runs out, it should be known of our own kernels."""
    return any(not p.vendor and device.type in p.devices for p in op.providers)


def _one_case(session: Session, op: Op, device: torch.device) -> Op:
    """Where no kernel of ours runs, one case is enough, and the others get more samples."""
    cases = [case for case in op.cases if TAG in case.tags]
    if len(cases) > 1:
        reason = "no kernel of ours runs there, so one case is timed"
        what = f"{op.name}, a further case timed"
        session.skip(NotRun("", what, reason, str(device), count=len(cases) - 1))
    return dataclasses.replace(op, cases=tuple(cases[:1]))


def _note(session: Session, ops: list[Op], rows: list[dict[str, Any]], device: str) -> None:
    heard = _heard(rows)
    for op in ops:
        if op.name not in heard and any(TAG in case.tags for case in op.cases):
            session.skip(NotRun(BENCH, f"{op.name}, timed", "no time was taken", device, gap=True))
    for row in rows:
        if row["skipped"]:
            what = f"{row['op']} {row['provider']}, timed"
            session.skip(NotRun("", what, row["skipped"], device))
