"""Benchmarks in a process of their own, which can be ended: a kernel that hangs or takes its
process with it costs its own row and no other.

The worker takes jobs, one line of JSON each, one case to a job, and answers likewise. Into a file
that both map it writes what it is at, with a count that goes on: where that stands still for too
long, or the process ends, the one who was at work is left out and the case is run again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._tolerance import Judgement
from aimills_kernels._validate import Validation
from aimills_kernels._validate import validate_each as _validate_each
from aimills_kernels.harness import _clocks, _rows, bench
from aimills_kernels.harness._worker import (
    PROGRAM,
    TIMEOUT_S,
    Ended,
    Worker,
    die_with_parent,
    signer,
)
from aimills_kernels.harness.peers import peers_of
from aimills_kernels.harness.record import joined

__all__ = ["TIMEOUT_S", "Worker", "run", "validate_each"]

Progress = Callable[[str, int, int], None]


def run(
    *,
    ops: Iterable[Op],
    cases: Iterable[str] | None = None,
    providers: Iterable[str] | None = None,
    tag: str = "bench",
    device: str,
    budget_s: float,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
    fresh: bool = False,
    program: Sequence[str] = PROGRAM,
    worker: Worker | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`bench.run` in a worker, or with `fresh` in a new one for each case.

    A step (a check, a sample) that takes longer than `timeout_s` ends the worker and is a failure
    of the contestant that was at work, which is left out of the op's other cases. `options` are
    JSON and go to `bench.run`, but for `model`: the pass of a model that the cases belong to. A
    `worker` that is handed over lives on, and its time-out holds.
    """
    todo = bench._todo(ops, cases, providers, tag)
    progress = progress or (lambda *_: None)
    options |= {"device": device, "providers": list(providers) if providers else None}
    found = dict[tuple[str, str], list[dict[str, Any]]]()
    parts: list[dict[str, Any]] = []
    with nullcontext(worker) if worker else Worker(timeout_s, program) as worker:
        end = time.monotonic() + budget_s - worker.unpaid_s
        for index, (op, case) in enumerate(bench._across(todo)):
            progress(f"{op} {case}", index, len(todo))
            share = (end + worker.unpaid_s - time.monotonic()) / (len(todo) - index)
            found[op.name, case.name] = _case(worker, op, case, share, options, parts)
            if fresh:
                worker.end()
        more = {"timeout_s": worker.timeout_s, "isolated": "each case" if fresh else "all cases"}
        first = parts[0] if parts else worker.first
    progress("done", len(todo), len(todo))
    rows = [row for o, c in todo for row in found[o.name, c.name]]
    return _whole(first, parts, rows, budget_s, more, device)


def _ready(worker: Worker, options: dict[str, Any]) -> None:
    """Start it where need be and, the first time, have the ceilings measured."""
    if not worker.runs:
        job = {"ops": [], "budget_s": 0.0, **_known(worker), **options}
        answer = worker.ask(job, paid=False)
        if isinstance(answer, dict) and "error" not in answer and worker.first is None:
            worker.first = answer


def _known(worker: Worker) -> dict[str, Any]:
    """What need not be found out again."""
    if worker.first is None:
        return {}
    return {"measured": worker.first["ceilings"], "stamp": worker.first["environment"]}


def _case(
    worker: Worker,
    op: Op,
    case: Case,
    budget_s: float,
    options: dict[str, Any],
    parts: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of one case, run as often as there are contestants that end the worker."""
    rows = [
        _blank(op, case, name, options, skipped=worker.shunned(op.name, name), gap=True)
        for name in _named(op, options)
        if worker.shunned(op.name, name)
    ]
    wanted = options["providers"]
    providers = [p.name for p in op.all_providers if wanted is None or p.name in wanted]
    while True:
        _ready(worker, options)
        without = [*options.get("without", ()), *(row["provider"] for row in rows)]
        job = {"ops": [op.name], "cases": [case.name], "budget_s": budget_s, **_known(worker),
               **options, "providers": providers, "without": without}  # fmt: skip
        answer = worker.ask(job)
        if isinstance(answer, Ended):
            if not answer.at or any(row["provider"] == answer.at for row in rows):
                return rows + _left(op, case, options, rows, answer.why)
            worker.culprits[op.name, answer.at] = case.name
            rows.append(_blank(op, case, answer.at, options, failure=answer.why))
            continue
        if "error" in answer:
            return rows + _left(op, case, options, rows, answer["error"])
        parts.append(answer)
        if answer["options"]["lost"] is None:
            return rows + answer["rows"]
        worker.end()
        judged = [row for row in answer["rows"] if row["failure"]]
        if not judged:
            return rows + answer["rows"]
        rows += judged


def _left(
    op: Op, case: Case, options: dict[str, Any], rows: list[dict[str, Any]], why: str
) -> list[dict[str, Any]]:
    """The providers and peers that have no row yet."""
    have = {row["provider"] for row in rows}
    return [
        _blank(op, case, name, options, skipped=absent or why, gap=absent is None)
        for name, absent in _named(op, options).items()
        if name not in have
    ]


def _named(op: Op, options: dict[str, Any]) -> dict[str, str | None]:
    """The providers and peers that are not left out, and why one of them isn't here."""
    named: dict[str, str | None] = {
        p.name: None for p in op.all_providers if p.name in (options["providers"] or [p.name])
    }
    if options.get("peers", True):
        folder = options.get("peers_folder")
        found = peers_of(op, Path(folder) if folder else None)
        named |= {peer.name: peer.absent for peer in found}
    return {name: why for name, why in named.items() if name not in options.get("without", ())}


def _blank(op: Op, case: Case, name: str, options: dict[str, Any], **why: Any) -> dict[str, Any]:
    device = str(options["device"])
    first, _, rest = name.partition(" ")  # of a candidate: its provider, and its tiles
    vendor = next((p.vendor for p in op.all_providers if p.name in (name, first)), True)
    config = rest if rest and not vendor else None
    place = _rows.Place(device, {}, 0)
    return _rows.blank(op, case.on(device.partition(":")[0]), name, place, vendor, config) | why


def _whole(
    first: dict[str, Any] | None,
    parts: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    budget_s: float,
    more: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """One record of many. Without a single one there is neither a ceiling nor an environment."""
    first = first or bench.run(ops=[], device="cpu", measured={"device": device})
    made = joined(parts or [first])
    return {**made, "options": made["options"] | {"budget_s": budget_s, **more}, "rows": rows}


# ---- checks


def validate_each(
    worker: Worker, op: Op, case: Case, providers: Sequence[Provider], *, device: str, seed: int = 0
) -> Iterator[Validation]:
    """`_validate.validate_each` in a worker: one that ends it is wrong, and is not tried again."""
    left, asked = [p.name for p in providers], False
    while left:
        name = left.pop(0)
        result = Validation(op.name, case.name, name, device, seed)
        if why := worker.shunned(op.name, name):
            result.skipped, result.gap = why, True
        else:
            asked = _check(worker, op, case, result, None if asked else [name, *left])
        yield result


def _check(worker: Worker, op: Op, case: Case, result: Validation, names: list[str] | None) -> bool:
    """Enter the next result of the worker, which begins with `names` where they are given. Whether
    it can be asked for one more."""
    _ready(worker, {"device": result.device})
    begin = names and {"op": op.name, "case": case.name, "providers": names,
                       "device": result.device, "seed": result.seed}  # fmt: skip
    answer = worker.ask({"at": result.provider, "begin": begin})
    if isinstance(answer, Ended):
        if answer.at:
            worker.culprits[op.name, result.provider] = case.name
            result.failures.append(answer.why)
        else:
            result.skipped, result.gap = answer.why, True
        return False
    if "error" in answer:
        result.failures.append(answer["error"])
        return False
    lost = answer.pop("lost")
    result.judgements = {n: Judgement(**j) for n, j in answer.pop("judgements").items()}
    result.failures, result.skipped, result.gap = (answer[n] for n in _KEPT)
    if lost:
        worker.end()
    return not lost


_KEPT = ("failures", "skipped", "gap")


# ---- the worker


class _Work:
    """Does the jobs. `at(name)` tells who is at work."""

    def __init__(self, at: Callable[[str], None]):
        self._at, self._checks = at, iter(list[Validation]())

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        return self._next_check(**job) if "begin" in job else self._bench(**job)

    def _bench(self, **job: Any) -> dict[str, Any]:
        from aimills_kernels.harness import model_bench

        folder, model = job.pop("peers_folder", None), job.pop("model", None)
        if model is not None:
            job["ops"] = model_bench.declared(job["ops"], model)
        return bench.run(**job, peers_folder=Path(folder) if folder else None, at=self._at,
                         progress=lambda *_: self._at(""))  # fmt: skip

    def _next_check(self, at: str, begin: dict[str, Any] | None) -> dict[str, Any]:
        self._at(at)
        if begin is not None:
            self._checks = _validate_each(bench.get_op(begin.pop("op")), **begin)
        result = next(self._checks)
        device = torch.device(result.device)
        return {"judgements": {n: asdict(j) for n, j in result.judgements.items()},
                **{name: getattr(result, name) for name in _KEPT},
                "lost": bool(result.failures) and not _clocks.alive(device)}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    die_with_parent()
    answers = os.fdopen(int(argv[0]), "w")
    work = _Work(signer(argv[1]))
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except Exception as error:  # told, and the next job goes on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
