"""What the journals of a pod say, as the verdict reads it. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aimills_kernels.accept import journal

FOLDER = "journal"
SIGNATURE = "attestation.json"
DATA = "report.json"
# `report.json` comes last: where it is, the others are.
REPORTS = ("report.html", "junit.xml", "metrics.prom", DATA)


@dataclass(frozen=True)
class Rank:
    """One device under test and all that its process wrote."""

    entries: tuple[dict[str, Any], ...]
    path: Path | None = None

    @cached_property
    def begin(self) -> dict[str, Any]:
        """The last one: a resumed run begins again."""
        return next((e for e in reversed(self.entries) if e["kind"] == "begin"), {})

    @property
    def node(self) -> str:
        return str(self.begin.get("node", "?"))

    @property
    def rank(self) -> int:
        return int(self.begin.get("rank", -1))

    @property
    def device(self) -> str:
        """ "cpu", "cuda:3"."""
        return str(self.begin.get("device", "?"))

    @cached_property
    def where(self) -> str:
        """Its name for a person, that no other rank has: of a launcher that lets each rank see one
        GPU alone, all are "cuda:0"."""
        name = f"{self.node} {self.device}"
        local = self.begin.get("local_rank", 0)
        return (
            name if local == 0 or self.device == f"cuda:{local}" else f"{name} (rank {self.rank})"
        )

    @property
    def sku(self) -> str:
        """The name of the device as its driver tells it."""
        return str(self.begin.get("sku", "?"))

    @property
    def simulated(self) -> bool:
        return bool(self.begin.get("simulated", False))

    @property
    def ended(self) -> str | None:
        """ "done", "stopped", or None where the process left no word."""
        last = self.entries[-1] if self.entries else {}
        return str(last["state"]) if last.get("kind") == "end" else None

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (e for e in self.entries if e["kind"] == kind)

    def values(self, metric: str) -> list[Any]:
        """All values of one metric, in the order in which they were measured."""
        return [e["value"] for e in self.of("measure") if e["metric"] == metric]

    @cached_property
    def _begun(self) -> dict[str, int]:
        """Where the run began for the last time, under "", and each stage under its name."""
        found = {"": 0}
        for at, entry in enumerate(self.entries):
            if entry["kind"] == "begin":
                found[""] = at
            elif entry["kind"] == "stage" and entry["state"] == "begin":
                found[entry["name"]] = at
        return found

    def now(self, kind: str) -> Iterator[dict[str, Any]]:
        """Of this kind what was said since the run was gone on with for the last time, or of a
        stage since it began for the last time: what was made up for since then is left out."""
        begun = self._begun
        for at, entry in enumerate(self.entries):
            if entry["kind"] == kind and at >= begun.get(entry.get("stage") or "", 0):
                yield entry

    def stages(self) -> dict[str, dict[str, Any]]:
        """The last end of each stage by name; a stage that began and has no end is "cut"."""
        found: dict[str, dict[str, Any]] = {}
        for entry in self.of("stage"):
            cut = {**entry, "status": "cut"}
            found[entry["name"]] = entry if entry["state"] == "end" else cut
        return found


@dataclass(frozen=True)
class Pod:
    """Every rank of a run; `world` is how many there had to be."""

    ranks: tuple[Rank, ...]
    world: int

    @property
    def missing(self) -> list[int]:
        """Ranks that left no journal."""
        return sorted(set(range(self.world)) - {r.rank for r in self.ranks})

    def by_node(self) -> dict[str, list[Rank]]:
        found: dict[str, list[Rank]] = defaultdict(list)
        for rank in self.ranks:
            found[rank.node].append(rank)
        return dict(found)


def read(folder: Path) -> Pod:
    """The pod that the journals in `folder`/journal tell of. `Damaged` names a bad file."""
    paths = sorted((folder / FOLDER).glob("*.jsonl"))
    if not paths:
        raise FileNotFoundError(f"{folder}: there is no journal in its folder {FOLDER}/")
    ranks = [Rank(tuple(journal.read(path, torn=True)), path) for path in paths]
    try:
        return pod(ranks)
    except (ValueError, TypeError):
        raise journal.Damaged(
            f"{folder}: a journal states no whole number as rank or world"
        ) from None


def pod(ranks: Sequence[Rank]) -> Pod:
    world = max((int(r.begin.get("world", 1)) for r in ranks), default=1)
    return Pod(tuple(sorted(ranks, key=lambda r: (r.rank, r.node))), world)
