"""A stage's context made by hand, and what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from aimills_kernels.accept import journal
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.evidence_folder import RankJournal

CPU = torch.device("cpu")
# Small enough for a laptop's core, of every stage.
TINY = {
    "memory.bytes": 1 << 20, "memory.pattern_bytes": 1 << 16, "compute.n": 64, "burn.n": 64,
    "sdc.n": 64, "workloads.length": 16, "workloads.keys": 32, "workloads.layers": 1,
    "interconnect.sizes": (1 << 15, 1 << 16), "interconnect.pair_bytes": 1 << 12,
}  # fmt: skip


class Written:
    """A context, and its journal as it stands on the disk."""

    def __init__(self, folder: Path, stage: str, *, seconds: float = 0.1, **more: Any):
        self.path = folder / f"{stage}.jsonl"
        self.journal = RankJournal(self.path)
        options = TINY | more.pop("options", {})
        self.ctx = Context(
            more.pop("device", CPU), self.journal, stage, more.pop("profile", "gate"), seconds,
            options=options, **more,
        )  # fmt: skip

    def run(self, spec: StageSpec) -> str:
        return spec.work(self.ctx)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in journal.read(self.path) if e["kind"] == kind]

    def values(self, metric: str) -> list[Any]:
        return [e["value"] for e in self.of("measure") if e["metric"] == metric]

    def value(self, metric: str) -> Any:
        (found,) = self.values(metric)
        return found

    def not_run(self) -> dict[str, dict[str, Any]]:
        return {e["name"]: e for e in self.of("not_run")}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.of("event") if e["name"] == name]
