"""The report as data: complete, and written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aimills_kernels._records import write_whole
from aimills_kernels._version import __version__
from aimills_kernels.accept.session import Session
from aimills_kernels.accept.verdict import Verdict

SCHEMA = 1


def build(session: Session, verdict: Verdict) -> dict[str, Any]:
    settings = session.settings
    return {
        "headline": verdict.headline,
        "schema": SCHEMA,
        "kind": "accept",
        "verdict": verdict.word,
        "exit_code": verdict.code,
        "reasons": list(verdict.reasons),
        "not_checked": list(verdict.not_checked),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(s.seconds for s in session.stages), 3),
        "version": __version__,
        "devices": [str(d) for d in settings.devices],
        "ops": [op.name for op in settings.ops],
        "excluded": sorted(settings.exclude),
        "seed": settings.seed,
        "stages": [asdict(s) for s in session.stages],
        "not_run": [asdict(n) for n in session.not_run],
        "clip": session.clip or None,
        "validations": session.checks,
        "bench": session.benches,
        "environment": session.environment,
    }


def write(report: dict[str, Any], page: str, folder: Path) -> tuple[Path, Path]:
    """report.json and report.html. The data comes last: where it is, the page is too."""
    data, html = folder / "report.json", folder / "report.html"
    text = json.dumps(report, indent=1, allow_nan=False, default=str) + "\n"
    data.unlink(missing_ok=True)
    write_whole(html, page)
    write_whole(data, text)
    return data, html
