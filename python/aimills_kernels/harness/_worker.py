"""A process that does one job after another for this one, and can be ended."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aimills_kernels.harness._patience import TIMEOUT_S

PROGRAM = (sys.executable, "-m", "aimills_kernels.harness.isolated")
SIGN = 256  # bytes: a count in eight, then a name
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_LOOK_S = 0.2
_START_S = 120.0  # while nobody is named: a cold disk, and PyTorch to be read from it
_END_S = 30.0  # a driver needs a while to clear up after a process


def signer(path: str) -> Callable[[str], None]:
    """For the worker: what tells by the file `path` who is at work, with a count that goes on.
    No name is a sign of life alone."""
    with Path(path).open("r+b") as file:
        sign = mmap.mmap(file.fileno(), SIGN)
    count = 0

    def at(name: str) -> None:
        nonlocal count
        count += 1
        sign[:] = count.to_bytes(8, "little") + name.encode()[: SIGN - 8].ljust(SIGN - 8, b"\0")

    return at


def die_with_parent() -> None:
    """For the worker: not to outlive who started it."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


class Ended:
    """The worker is gone: `at` names who was at work, if anyone was."""

    def __init__(self, at: str, why: str):
        self.at, self.why = at, why


class Worker:
    """Started at the first job, and again at the first after its end. Of one device."""

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        program: Sequence[str] = PROGRAM,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ):
        self._program, self.timeout_s = program, timeout_s
        self._cwd, self._environ = cwd, environ
        self._said_before = 0  # bytes of the log from before the job
        self._folder = tempfile.TemporaryDirectory()
        self._sign_file, self._log = (Path(self._folder.name) / n for n in ("sign", "log"))
        self._sign_file.write_bytes(bytes(SIGN))
        with self._sign_file.open("r+b") as file:
            self._sign = mmap.mmap(file.fileno(), SIGN)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self.unpaid_s = 0.0  # that no budget pays for: starts, and jobs that ended the worker
        self.first: dict[str, Any] | None = None  # its first record, with ceilings and environment
        self.culprits: dict[tuple[str, str], str] = {}  # (op, contestant) that ended it: the case

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.end()
        self._folder.cleanup()

    @property
    def runs(self) -> bool:
        return self._process is not None

    def shunned(self, op: str, name: str) -> str | None:
        """Why this contestant is not tried again: each time would cost as long."""
        case = self.culprits.get((op, name))
        return case and f"it ended its process in {case}, and is not tried again"

    def ask(self, job: dict[str, Any], paid: bool = True) -> dict[str, Any] | Ended:
        begin = time.monotonic()
        answer = self._ask(job)
        if not paid or isinstance(answer, Ended):
            self.unpaid_s += time.monotonic() - begin
        return answer

    def _ask(self, job: dict[str, Any]) -> dict[str, Any] | Ended:
        self._sign[:] = bytes(SIGN)
        process = self._process or self._start()
        self._said_before = self._log.stat().st_size
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
            limit_s = self.timeout_s if any(now[8:]) else max(self.timeout_s, _START_S)
            if time.monotonic() - since > limit_s:
                return self._ended(f"no answer after {limit_s:g} s, so it was ended")
        return json.loads(text)

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers, theirs = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._program, str(theirs), str(self._sign_file)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[theirs], cwd=self._cwd,
                env=self._environ,
            )  # fmt: skip
        os.close(theirs)
        return self._process

    def _ended(self, why: str) -> Ended:
        at = self._sign[8:].rstrip(b"\0").decode(errors="replace")
        code = self.end()
        if not why:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            how += ", as the system does where memory runs out" * (code == -signal.SIGKILL)
            text = self._log.read_bytes()[self._said_before :].decode(errors="replace")
            said = text.strip().splitlines()
            why = f"its process ended {how}" + (f": {said[-1]}" if said else "")
        return Ended(at, why)

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
