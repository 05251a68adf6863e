"""One check as a row of the report, and what its outcome means."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._tolerance import Judgement
from aimills_kernels._validate import Validation, validate

RIGHT, WRONG, NOT_RUN = "right", "wrong", "not run"
NO_MEMORY = "the device has too little memory for it"
_MEMORY = "OutOfMemoryError"


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels are launched on the current GPU, so it must be the one under test."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def check(op: Op, case: Case, provider: Provider, device: torch.device, seed: int) -> Validation:
    """`validate` on this device. A device that is out of memory checked nothing: not run."""
    try:
        with on_device(device):
            result = validate(op, case, provider, device=device, seed=seed)
    except Exception as error:  # a compiler's own kind of exception, for one
        result = Validation(op.name, case.name, provider.name, str(device), seed)
        result.failures.append(f"{type(error).__name__}: {error}")
    if result.failures and all(f.startswith(_MEMORY) for f in result.failures):
        result.skipped, result.failures = NO_MEMORY, []
        result.judgements.clear()
        torch.cuda.empty_cache()
    return result


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
    return {
        k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in case.dims.items()
    }


def missing_package(provider: Provider) -> str | None:
    """The first package that it needs and that isn't here."""
    return next((p for p in provider.needs if not _dispatch.installed(p)), None)


def says_missing(reason: str, package: str) -> bool:
    """Whether a check was skipped for want of this package."""
    return reason.startswith("the package") and repr(package) in reason
