"""What the stages of the library's own ops share: settings, what was found, what did not run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._op import Op, Provider
from aimills_kernels.accept.journal import Journal
from aimills_kernels.harness._worker import Worker

PASSED, WRONG, FAILED, NOT_RUN, EXCLUDED = "passed", "wrong", "failed", "not run", "excluded"
VIDEO, BENCH = "video-decode", "bench"
PARTS = (VIDEO, BENCH)

Progress = Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]


@contextlib.contextmanager
def silent(title: str, total: int | None = None) -> Any:
    yield lambda *_: None


@dataclass(frozen=True)
class Settings:
    devices: tuple[torch.device, ...]
    ops: tuple[Op, ...]
    exclude: frozenset[str] = frozenset()
    seed: int = 0
    budget_s: float | None = None  # of the bench; None: what its profile gives it
    video: Path | None = None
    timeout_s: float | None = None  # of a check or a sample; None: no end, all in this process
    energy: bool | None = None  # joules in the bench; None: in the profiles that have the time

    def leaves_out(self, op: Op, case: str = "", provider: Provider | None = None) -> bool:
        names = {op.name, f"{op.name}/{case}"}
        if provider is not None:
            names |= {f"{op.name}/{provider.name}", *provider.needs}
        return bool(names & self.exclude)


def names_to_exclude(ops: Iterable[Op]) -> list[str]:
    """Everything that can be excluded by name."""
    found = list(PARTS)
    for op in ops:
        found.append(op.name)
        found += [f"{op.name}/{case.name}" for case in op.cases]
        found += [f"{op.name}/{p.name}" for p in op.all_providers]
        found += [package for p in op.providers for package in p.needs]
    return list(dict.fromkeys(found))


class Excluded(Exception):
    """Raised by a stage that the user left out."""


@dataclass
class NotRun:
    """Something that did not run. `gap`: acceptance needs it, so the verdict is incomplete; `name`
    is then what `--exclude` takes."""

    name: str
    what: str
    reason: str
    device: str
    gap: bool = False
    count: int = 1


@dataclass
class Stage:
    name: str
    title: str
    status: str = PASSED
    seconds: float = 0.0
    summary: str = ""
    failure: str | None = None


@dataclass
class Session:
    """What one rank's stages have found so far. It is in the journal first."""

    settings: Settings
    progress: Progress = silent
    journal: Journal | None = None
    seconds: float = 60.0  # that the profile gives the stage
    profile: str = "quick"
    stages: list[Stage] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    benches: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    pictures: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    _workers: dict[torch.device, Worker] = field(default_factory=dict)

    def worker(self, device: torch.device) -> Worker | None:
        """The process that works on this device, where there is a time-out."""
        if self.settings.timeout_s is None:
            return None
        if device not in self._workers:
            self._workers[device] = Worker(self.settings.timeout_s)
        return self._workers[device]

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def check(self, row: dict[str, Any]) -> None:
        self.checks.append(row)
        self._write("check", row)

    def gathered(self) -> AbstractContextManager[None]:
        """Around many checks, which would wait for the disk longer than some of them take."""
        return contextlib.nullcontext() if self.journal is None else self.journal.gathered()

    def bench(self, record: dict[str, Any]) -> None:
        self.benches.append(record)
        self._write("bench", {"record": record})

    def _write(self, kind: str, data: dict[str, Any]) -> None:
        if self.journal is not None:
            self.journal.append(kind, **json.loads(json.dumps(data, default=str)))

    @property
    def gaps(self) -> list[NotRun]:
        return [n for n in self.not_run if n.gap]

    def exclude(self, what: str, device: str = "all") -> None:
        """Count what was left out by name."""
        self.skip(NotRun("", what, "excluded by name", device))

    def skip(self, entry: NotRun) -> None:
        """Add to what did not run; equal entries are counted as one."""
        for known in self.not_run:
            if asdict(known) | {"count": 0} == asdict(entry) | {"count": 0}:
                known.count += entry.count
                return
        self.not_run.append(entry)


def sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    return said if said and isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
