"""One check as a row of the report, and what its outcome means."""

from __future__ import annotations

import math
from typing import Any

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._tolerance import Judgement
from aimills_kernels._validate import Validation
from aimills_kernels.harness import _rows

RIGHT, WRONG, NOT_RUN = "right", "wrong", "not run"


def status_of(result: Validation) -> str:
    if result.skipped is not None:
        return NOT_RUN
    return WRONG if result.failures else RIGHT


def row(op: Op, case: Case, provider: Provider, result: Validation) -> dict[str, Any]:
    return {
        "stage": "correctness",
        "op": op.name,
        "case": case.name,
        "dims": dims(case),
        "scaled": scaled(op, case),
        "provider": provider.name,
        "own": not provider.vendor,
        "device": result.device,
        "seed": result.seed,
        "status": status_of(result),
        **judged(result.judgements),
        "failures": list(result.failures),
        "skipped": result.skipped,
    }


def judged(judgements: dict[str, Judgement]) -> dict[str, Any]:
    """The share of the tolerance used, and each output's figures. Infinity, which JSON lacks, is
    null; `text` says what happened."""
    outputs = {
        name: {"used": finite(j.used), "error": finite(j.error), "bound": finite(j.bound),
               "text": j.text}
        for name, j in judgements.items()
    }  # fmt: skip
    used = max((j.used for j in judgements.values()), default=None)
    return {"used": None if used is None else finite(used), "outputs": outputs}


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def dims(case: Case) -> dict[str, Any]:
    return _plain(case.dims)


def scaled(op: Op, case: Case) -> dict[str, Any]:
    """The dims that are smaller on this device, as they are declared."""
    return _plain(_rows.scaled(op, case))


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in found.items()}


def missing_package(provider: Provider) -> str | None:
    """The first package that it needs and that isn't here."""
    return next((p for p in provider.needs if not _dispatch.installed(p)), None)


def says_missing(reason: str, package: str) -> bool:
    """Whether a check was skipped for want of this package."""
    return reason.startswith("the package") and repr(package) in reason
