"""What a run in one process found, as the journal of one rank: for the report."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from aimills_kernels._version import __version__
from aimills_kernels.accept import evidence, png
from aimills_kernels.accept.evidence import Pod, Rank
from aimills_kernels.accept.findings import FAIL, PASS, REJECTED, UNKNOWN, Finding
from aimills_kernels.accept.session import Session
from aimills_kernels.accept.verdict import Verdict


def pod(session: Session, verdict: Verdict) -> Pod:
    settings = session.settings
    gpus = [g.get("name") for g in session.environment.get("gpus") or []]
    now = datetime.now(UTC).isoformat(timespec="milliseconds")

    def entry(kind: str, **data: Any) -> dict[str, Any]:
        return {"kind": kind, "time": now, "clock": 0.0, **data}

    shared = [
        *[entry("stage", state="end", **asdict(s)) for s in session.stages],
        *[entry("check", **row) for row in session.checks],
        *[entry("bench", record=record) for record in session.benches],
        *[entry("not_run", **asdict(n)) for n in session.not_run],
        *[entry("event", name="not checked", text=t) for t in verdict.not_checked],
        *[entry("event", name="picture", **png.event(*p)) for p in session.pictures],
    ]
    if session.clip:
        shared.append(entry("event", name="clip", text="", detail=session.clip))
    ranks = []
    for place, device in enumerate(settings.devices):
        sku = gpus[device.index or 0] if device.type == "cuda" and gpus else str(device)
        begin = entry(
            "begin", node="this machine", rank=place, world=len(settings.devices), sku=sku,
            device=str(device), version=__version__, seed=settings.seed,
            exclude=sorted(settings.exclude), ops=[op.name for op in settings.ops],
            environment=session.environment,
        )  # fmt: skip
        found = [begin, *(shared if place == 0 else []), entry("end", state="done")]
        ranks.append(Rank(tuple(found)))
    return evidence.pod(ranks)


def findings(verdict: Verdict) -> list[Finding]:
    status = FAIL if verdict.code == REJECTED else UNKNOWN
    found = [Finding("checks", status, "pod", reason) for reason in verdict.reasons]
    return found or [Finding("checks", PASS, "pod", "every check that was due is right")]
