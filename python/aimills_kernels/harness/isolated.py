"""Benchmarks in a process of their own, which can be ended: a kernel that hangs or takes its
process with it costs its own row and no other.

The worker takes jobs, one line of JSON each, one case to a job, and answers likewise. Into a file
that both map it writes what it is at, with a count that goes on: where that stands still for too
long, or the process ends, the one who was at work is left out and the case is run again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from aimills_kernels._op import Case, Op
from aimills_kernels.harness import _rows, bench
from aimills_kernels.harness.peers import peers_of

TIMEOUT_S = 300.0
PROGRAM = (sys.executable, "-m", "aimills_kernels.harness.isolated")
_SIGN = 256  # bytes: a count in eight, then a name
_LOOK_S = 0.2
_START_S = 120.0  # until the first sign of life: a cold disk, and PyTorch to be read from it
_END_S = 30.0  # a driver needs a while to clear up after a process
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

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
    **options: Any,
) -> dict[str, Any]:
    """`bench.run` in a worker, or with `fresh` in a new one for each case.

    A step (a check, a sample) that takes longer than `timeout_s` ends the worker and is a failure
    of the contestant that was at work. `options` are JSON and go to `bench.run`, but for `model`:
    the pass of a model that the cases belong to.
    """
    todo = bench._todo(ops, cases, providers, tag)
    progress = progress or (lambda *_: None)
    options |= {"device": device, "providers": list(providers) if providers else None}
    end, found = time.monotonic() + budget_s, dict[tuple[str, str], list[dict[str, Any]]]()
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        worker = _Worker(program, Path(folder), timeout_s)
        try:
            for index, (op, case) in enumerate(bench._across(todo)):
                progress(f"{op} {case}", index, len(todo))
                share = (end + worker.unpaid_s - time.monotonic()) / (len(todo) - index)
                found[op.name, case.name] = _case(worker, op, case, share, options, parts)
                if fresh:
                    worker.end()
        finally:
            worker.end()
    progress("done", len(todo), len(todo))
    return _whole(parts, [row for o, c in todo for row in found[o.name, c.name]], budget_s,
                  {"timeout_s": timeout_s, "isolated": "each case" if fresh else "all cases"},
                  device)  # fmt: skip


def _ready(worker: _Worker, options: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """Start it where need be and, the first time, have the ceilings measured."""
    if not worker.runs:
        job = {"ops": [], "budget_s": 0.0, **_known(parts), **options}
        answer = worker.ask(job, paid=False)
        if isinstance(answer, dict) and "error" not in answer and not parts:
            parts.append(answer)


def _known(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What need not be found out again."""
    if not parts:
        return {}
    return {"measured": parts[0]["ceilings"], "stamp": parts[0]["environment"]}


def _case(
    worker: _Worker,
    op: Op,
    case: Case,
    budget_s: float,
    options: dict[str, Any],
    parts: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of one case, run as often as there are contestants that end the worker."""
    rows: list[dict[str, Any]] = []
    while True:
        _ready(worker, options, parts)
        without = [*options.get("without", ()), *(row["provider"] for row in rows)]
        job = {"ops": [op.name], "cases": [case.name], "budget_s": budget_s, **_known(parts),
               **options, "without": without}  # fmt: skip
        answer = worker.ask(job)
        if isinstance(answer, _Ended):
            if not answer.at or any(row["provider"] == answer.at for row in rows):
                return rows + _left(op, case, options, rows, answer.why)
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
    """The providers and peers that have no row yet and are not left out."""
    have = {row["provider"] for row in rows} | set(options.get("without", ()))
    named: dict[str, str | None] = {
        p.name: None for p in op.all_providers if p.name in (options["providers"] or [p.name])
    }
    if options.get("peers", True):
        folder = options.get("peers_folder")
        found = peers_of(op, Path(folder) if folder else None)
        named |= {peer.name: peer.absent for peer in found}
    return [
        _blank(op, case, name, options, skipped=absent or why, gap=absent is None)
        for name, absent in named.items()
        if name not in have
    ]


def _blank(op: Op, case: Case, name: str, options: dict[str, Any], **why: Any) -> dict[str, Any]:
    device = str(options["device"])
    first, _, rest = name.partition(" ")  # of a candidate: its provider, and its tiles
    vendor = next((p.vendor for p in op.all_providers if p.name in (name, first)), True)
    config = rest if rest and not vendor else None
    place = _rows.Place(device, {}, 0)
    return _rows.blank(op, case.on(device.partition(":")[0]), name, place, vendor, config) | why


def _whole(
    parts: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    budget_s: float,
    more: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """One record of many. Without a single one there is neither a ceiling nor an environment."""
    first = parts[0] if parts else bench.run(ops=[], device="cpu", measured={"device": device})
    seconds = [part["options"]["seconds"] for part in parts]
    total = {name: sum(s.get(name, 0.0) for s in seconds) for name in bench.SECONDS}
    options = {**first["options"], "budget_s": budget_s, "seconds": total, **more}
    return {**first, "options": options, "rows": rows}


class _Ended:
    """The worker is gone: `at` names who was at work, if anyone was."""

    def __init__(self, at: str, why: str):
        self.at, self.why = at, why


class _Worker:
    """Started at the first job, and again at the first after its end."""

    def __init__(self, program: Sequence[str], folder: Path, timeout_s: float):
        self._program, self._timeout_s = program, timeout_s
        self._sign_file, self._log = folder / "sign", folder / "log"
        self._sign_file.write_bytes(bytes(_SIGN))
        with self._sign_file.open("r+b") as file:
            self._sign = mmap.mmap(file.fileno(), _SIGN)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self.unpaid_s = 0.0  # that no budget pays for: starts, and jobs that ended the worker

    @property
    def runs(self) -> bool:
        return self._process is not None

    def ask(self, job: dict[str, Any], paid: bool = True) -> dict[str, Any] | _Ended:
        begin = time.monotonic()
        answer = self._ask(job)
        if not paid or isinstance(answer, _Ended):
            self.unpaid_s += time.monotonic() - begin
        return answer

    def _ask(self, job: dict[str, Any]) -> dict[str, Any] | _Ended:
        self._sign[:] = bytes(_SIGN)
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(job, default=str).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended("")
        text, last, since = b"", self._sign[:], time.monotonic()
        while not text.endswith(b"\n"):
            if select.select([self._answers], [], [], _LOOK_S)[0]:
                if not (more := os.read(self._answers, 1 << 16)):
                    return self._ended("")
                text += more
            if (now := self._sign[:]) != last:
                last, since = now, time.monotonic()
            limit_s = self._timeout_s if any(now) else max(self._timeout_s, _START_S)
            if time.monotonic() - since > limit_s:
                return self._ended(f"no answer after {limit_s:g} s, so it was ended")
        return json.loads(text)

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers, theirs = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._program, str(theirs), str(self._sign_file)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[theirs],
            )  # fmt: skip
        os.close(theirs)
        return self._process

    def _ended(self, why: str) -> _Ended:
        at = self._sign[8:].rstrip(b"\0").decode(errors="replace")
        code = self.end()
        if not why:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            said = self._log.read_text(errors="replace").strip().splitlines()
            why = f"its process ended {how}" + (f": {said[-1]}" if said else "")
        return _Ended(at, why)

    def end(self) -> int:
        """The exit code; a worker that still runs is killed."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            return process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            process.kill()
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:  # in the driver, and out of reach
            return -signal.SIGKILL


def main(argv: Sequence[str]) -> int:
    """The worker."""
    from aimills_kernels.harness import model_bench

    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)  # not to outlive who started it
    answers = os.fdopen(int(argv[0]), "w")
    with Path(argv[1]).open("r+b") as file:
        sign = mmap.mmap(file.fileno(), _SIGN)
    count = 0

    def at(name: str) -> None:
        nonlocal count
        count += 1
        sign[:] = count.to_bytes(8, "little") + name.encode()[: _SIGN - 8].ljust(_SIGN - 8, b"\0")

    for line in sys.stdin:
        job = json.loads(line)
        folder, model = job.pop("peers_folder", None), job.pop("model", None)
        try:
            if model is not None:
                job["ops"] = model_bench.declared(job["ops"], model)
            answer = bench.run(**job, peers_folder=Path(folder) if folder else None, at=at,
                               progress=lambda *_: at(""))  # fmt: skip
        except Exception as error:  # told, and the next case goes on
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
