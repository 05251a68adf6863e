"""What a stage gets, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from aimills_kernels.accept.journal import Journal
from aimills_kernels.accept.metrics import METRICS, PROFILES
from aimills_kernels.accept.session import Progress, silent
from aimills_kernels.accept.timetable import SLOTS

__all__ = ["PROFILES", "Context", "Group", "StageSpec"]


class Group(Protocol):
    """The ranks that run together: `world` of them, this one being `rank`."""

    rank: int
    world: int
    control: Any  # a torch.distributed group of gloo
    data: Any  # one of NCCL on GPUs, the same as `control` on CPUs


@dataclass
class Context:
    """One rank's view of one stage.

    seconds    what the profile gives this stage; a stage that needs longer says so by `not_run`
    group      None where this rank is alone
    measured   the entries of what was measured so far
    """

    device: torch.device
    journal: Journal
    stage: str
    profile: str
    seconds: float
    seed: int = 0
    group: Group | None = None
    telemetry: Any = None
    progress: Progress = silent
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, metric: str, value: float | int | str, **detail: Any) -> None:
        """Write down one value of a metric of `METRICS`, in its unit."""
        known = METRICS[metric]
        self.measured.append(self.journal.append(
            "measure", stage=self.stage, metric=metric, value=value, unit=known.unit,
            **({"detail": detail} if detail else {}),
        ))  # fmt: skip

    def checksum(self, name: str, digest: str, **detail: Any) -> None:
        """The bits of a result; every device of the same name must make the same."""
        self.journal.append("checksum", stage=self.stage, name=name, digest=digest, detail=detail)

    def event(self, name: str, text: str, **detail: Any) -> None:
        self.journal.append("event", stage=self.stage, name=name, text=text, detail=detail)

    def not_run(self, name: str, what: str, reason: str, *, gap: bool = True) -> None:
        """Something that did not run. `gap`: acceptance needs it, so the verdict is incomplete."""
        self.journal.append(
            "not_run", stage=self.stage, name=name, what=what, reason=reason,
            device=str(self.device), gap=gap,
        )  # fmt: skip

    @contextmanager
    def sampled(self, every_s: float = 1.0) -> Iterator[None]:
        """Telemetry into the journal while the block runs."""
        if self.telemetry is None:
            yield
            return
        with self.telemetry.sampling(self.journal, self.stage, every_s):
            yield


@dataclass(frozen=True)
class StageSpec:
    """A stage by name.

    seconds    what each profile gives it; a profile that is not named leaves it out
    together   all ranks call it at the same time, with a group
    bounded    it ends some time after its seconds at the latest; else it ends its own steps
    """

    name: str
    title: str
    work: Callable[[Context], str]
    seconds: Mapping[str, float]
    together: bool = False
    bounded: bool = True

    @classmethod
    def of(cls, name: str, work: Callable[[Context], str], *, bounded: bool = True) -> StageSpec:
        """At its place in the timetable."""
        slot = SLOTS[name]
        return cls(name, slot.title, work, slot.seconds, slot.together, bounded)
