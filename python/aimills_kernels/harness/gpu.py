"""The one command for a GPU node: what it is, whether our kernels are right there, how fast.

Every step leaves complete files behind it, and the journal of the validation grows line by line, so
a node that is taken away half-way has still said all it had to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from aimills_kernels import _dispatch, _records
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._records import write_whole
from aimills_kernels._registry import OPS
from aimills_kernels._validate import NO_MEMORY, Validation, validate
from aimills_kernels.harness import bench, env, sanitize

OK, WRONG, INCOMPLETE, NO_GPU = 0, 1, 2, 3
Progress = Callable[[str, int, int], None]
_BENCH_S = 240.0
_LARGE = frozenset({"bench", "accept", "aot"})


@dataclass
class _State:
    out: Path
    progress: Progress
    gpus: list[torch.device]
    wrong: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)


def run(out: Path, *, progress: Progress | None = None) -> int:
    """Validate, sanitize and benchmark on every GPU; write all of it under `out`.

    Returns 0 where all was right, 1 where something was wrong, 2 where a part could not be run, 3
    without a GPU.
    """
    if not torch.cuda.is_available() or torch.cuda.device_count() == 0:
        print("No CUDA device is usable here: `make gpu` is for a machine with an NVIDIA GPU.")
        return NO_GPU
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return _run_on(gpus, Path(out), progress)


def _run_on(gpus: list[torch.device], out: Path, progress: Progress | None) -> int:
    out.mkdir(parents=True, exist_ok=True)
    state = _State(out, progress or (lambda *_: None), gpus)
    _write(out / "environment.json", env.stamp("cuda"))
    _validate_all(state)
    _sanitize(state)
    _bench(state)
    return _finish(state)


def _write(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1, default=str) + "\n")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


# ---- validation


def _grid() -> list[tuple[Op, Case, Provider]]:
    """Everything, small cases of all ops first."""
    rows = [(o, c, p) for o in OPS for c in o.cases for p in o.all_providers]
    return sorted(rows, key=lambda row: bool(row[1].tags & _LARGE))


def _validate_all(state: _State) -> None:
    grid = _grid()
    total = len(grid) * len(state.gpus)
    verdicts: list[Validation] = []
    with (state.out / "validation.jsonl").open("w") as journal:
        for device in state.gpus:
            for op, case, provider in grid:
                label = f"{device} {op.name} {case.name} {provider.name}"
                state.progress(label, len(verdicts), total)
                verdicts.append(_validate_one(state, journal, device, op, case, provider))
    _record(state, verdicts)


def _validate_one(
    state: _State, journal: TextIO, device: torch.device, op: Op, case: Case, provider: Provider
) -> Validation:
    result = validate(op, case, provider, device=device)
    if result.failures:
        state.wrong.append(str(result))
    elif result.skipped == NO_MEMORY:
        state.not_run.append(str(result))
    journal.write(json.dumps(_line(result)) + "\n")
    journal.flush()
    os.fsync(journal.fileno())
    return result


def _line(result: Validation) -> dict[str, Any]:
    return {
        "op": result.op,
        "case": result.case,
        "provider": result.provider,
        "device": result.device,
        "ok": result.ok,
        "skipped": result.skipped,
        "failures": result.failures,
        "error_used": {n: f"{j.used:.4g}" for n, j in result.judgements.items()},
        "text": {n: j.text for n, j in result.judgements.items()},
    }


def _record(state: _State, verdicts: list[Validation]) -> None:
    """Records for our own providers that were right on every case they took, on every GPU of a
    compute capability; one that was wrong is denied, whatever an older record says."""
    found = list(_proven(state.gpus, verdicts))
    records = [r for r in found if "wrong" not in r]
    _write(state.out / "records.json", {"records": records})
    if not records:
        state.not_run.append("no provider of our own passed all its cases; no record was made")
    try:
        _records.add(found)
    except OSError as error:
        state.not_run.append(f"the records could not be put into the user's cache: {error}")


def _proven(gpus: list[torch.device], verdicts: list[Validation]) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for sm in sorted({_dispatch.sm_of(g) or 0 for g in gpus}):
        here = {str(g) for g in gpus if _dispatch.sm_of(g) == sm}
        names = sorted({_name(g) for g in gpus if str(g) in here})
        for op in OPS:
            for provider in (p for p in op.providers if not p.vendor):
                mine = [
                    v for v in verdicts
                    if (v.op, v.provider) == (op.name, provider.name) and v.device in here
                ]  # fmt: skip
                ran = [v for v in mine if v.skipped is None]
                if wrong := [v for v in ran if not v.ok]:
                    yield _records.denial(op, provider, sm, str(wrong[0]))
                elif ran and {v.device for v in ran} == here:
                    yield {
                        **_records.key(op, provider, sm),
                        "made": now,
                        "gpus": names,
                        "cases": sorted({v.case for v in ran}),
                        "worst_error_used": round(max(v.used for v in ran), 4),
                        "torch": torch.__version__,
                    }


# ---- the rest


def _sanitize(state: _State) -> None:
    found = []
    for index, tool in enumerate(sanitize.TOOLS):
        state.progress(f"compute-sanitizer {tool}", index, len(sanitize.TOOLS))
        result = sanitize.check(tool, state.out)
        found.append(result)
        if result["ok"] is False:
            state.wrong.append(f"{tool}: {result['text']}")
        elif result["ok"] is None:
            state.not_run.append(f"{tool}: {result['text']}")
    _write(state.out / "sanitizer.json", found)


def _bench(state: _State) -> None:
    for device in state.gpus:
        try:
            record = bench.run(device=device, budget_s=_BENCH_S, progress=state.progress)
        except Exception as error:  # the other GPUs and the summary still follow
            state.not_run.append(f"bench on {device}: {type(error).__name__}: {error}")
            continue
        bench.save(record, state.out / f"bench-{device.index or 0}.json")
        state.tables.append(_table(record, device))
        for row in record["rows"]:
            label = f"bench {row['op']} {row['case']} {row['provider']} on {device}"
            if row["failure"]:
                state.wrong.append(f"{label}: {row['failure']}")
            elif row["skipped"] and "time budget" in row["skipped"]:
                state.not_run.append(f"{label}: {row['skipped']}")


def _table(record: dict[str, Any], device: torch.device) -> str:
    lines = [list(bench.COLUMNS), *bench.table(record)]
    lines = [line for line in lines if not line[3].startswith("not run")]
    widths = [max(len(line[i]) for line in lines) for i in range(len(bench.COLUMNS))]
    text = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([f"{device}: {_name(device)}", *text])


def _finish(state: _State) -> int:
    code = WRONG if state.wrong else INCOMPLETE if state.not_run else OK
    summary = {"exit": code, "wrong": state.wrong, "not_run": state.not_run}
    _write(state.out / "summary.json", summary)
    text = [*(f"WRONG: {w}" for w in state.wrong), *(f"not run: {n}" for n in state.not_run)]
    text = [*state.tables, *text, f"files: {state.out}"]
    write_whole(state.out / "table.txt", "\n".join(text) + "\n")
    print("\n".join(text))
    return code
