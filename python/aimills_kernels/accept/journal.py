"""The evidence: one file a rank, an entry a line, each holding the hash of the line before it.

An entry is on the disk before the call that wrote it returns, so that a crash loses nothing of what
was said. Of many small ones a killed process loses nothing, and a machine without power what was
said in its last second. Needs no torch: a journal is read and verified on any machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_SYNC_S = 1.0  # between two syncs of gathered entries
FIRST = "0" * 64  # stands for the hash before the first line
KINDS = frozenset(
    {
        "begin",  # who writes, what was asked for, with what software
        "stage",  # name, state "begin" or "end"; at its end status, seconds, summary, failure
        "measure",  # metric, value, unit of `metrics.METRICS`; detail
        "sample",  # telemetry at one moment
        "checksum",  # name, digest: the bits of a result that every equal device must make
        "event",  # name, text: a crash, a resumption, a signal, a rank that is missed
        "check",  # one row of correctness
        "bench",  # one record of times
        "not_run",  # what did not run, and why
        "end",  # state "done" or "stopped", reason
    }
)


class Damaged(ValueError):
    """A journal that is not what was written; the sentence names the file and the line."""


def digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


class Journal:
    """Appends to one file. An existing one is verified and gone on with, unless `new`."""

    def __init__(self, path: Path, *, new: bool = True):
        self.path = path
        self._turn = threading.Lock()  # telemetry is written by a thread of its own
        self._gathering: int | None = None  # the thread whose entries are synced together
        self._failed: OSError | None = None  # of the thread that syncs them
        self.spent_s = 0.0  # that the run waited for all of this
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | (os.O_EXCL * new), 0o644
        )
        try:
            _hold(self._file)
            known = [] if new else read(path, torn=True)
        except BaseException:
            os.close(self._file)
            raise
        self._count = len(known)
        self.head = digest(encoded(known[-1])) if known else FIRST
        if known:
            _cut(path, known)

    def append(self, kind: str, **data: Any) -> dict[str, Any]:
        """Write one entry, with its place, the hash before it and the time. OSError: the disk."""
        if kind not in KINDS:
            raise ValueError(f"a journal has no entries of kind {kind!r}")
        begin = time.perf_counter()
        with self._turn:
            entry = self._append(kind, data)
            self.spent_s += time.perf_counter() - begin
        return entry

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Entries of this thread are written at once, so that a killed process leaves them, and are
        synced by another thread once a second and when the block ends."""
        over = threading.Event()

        def keep_up() -> None:
            try:
                while not over.wait(_SYNC_S):
                    os.fsync(self._file)
            except OSError as error:
                self._failed = error

        self._gathering = threading.get_ident()
        thread = threading.Thread(target=keep_up, name="journal", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._gathering = None
            self.sync()

    def sync(self) -> None:
        begin = time.perf_counter()
        self._tell_failure()
        os.fsync(self._file)
        self.spent_s += time.perf_counter() - begin

    def _tell_failure(self) -> None:
        """Of a sync by the other thread: the system tells each only once."""
        error, self._failed = self._failed, None
        if error is not None:
            raise error

    def _append(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        entry = {
            "n": self._count,
            "prev": self.head,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "clock": round(time.monotonic(), 6),
            "kind": kind,
            **data,
        }
        line = encoded(entry)
        self._tell_failure()
        _write(self._file, (line + "\n").encode())
        if self._gathering != threading.get_ident():
            os.fsync(self._file)
        self._count, self.head = self._count + 1, digest(line)
        return entry

    def close(self) -> None:
        """What is written later, by a thread that was left behind, is an OSError."""
        with self._turn:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1


def encoded(entry: dict[str, Any]) -> str:
    """The one way in which an entry is written. Infinity and NaN are errors: JSON lacks them."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """The entries of a journal, each held against the hash that the next one states.

    torn    a last line that a crash cut short is left out, not an error
    """
    raw = path.read_bytes().decode(errors="replace").split("\n")
    lines, rest = raw[:-1], raw[-1]
    if rest and not torn:
        raise Damaged(f"{path}: line {len(raw)} has no end: the file was cut short")
    found, before = [], FIRST
    for number, line in enumerate(lines):
        entry = _entry(path, number, line)
        if entry.get("prev") != before or entry.get("n") != number:
            raise Damaged(f"{path}: line {number + 1} does not follow from the line before it")
        found.append(entry)
        before = digest(line)
    return found


def head_of(entries: list[dict[str, Any]]) -> str:
    """The hash that stands for all of them."""
    return digest(encoded(entries[-1])) if entries else FIRST


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and entry.get("kind") in KINDS and encoded(entry) == line:
            return entry
    except (ValueError, TypeError, RecursionError):
        pass
    raise Damaged(f"{path}: line {number + 1} is no entry of a journal")


def _hold(file: int) -> None:
    """Two that write would break the chain. BlockingIOError: another process has it. A file system
    without locks leaves that to whoever starts the runs."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def _cut(path: Path, entries: list[dict[str, Any]]) -> None:
    """Take away what a crash left of a line."""
    os.truncate(path, sum(len(encoded(e).encode()) + 1 for e in entries))


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
