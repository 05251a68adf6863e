"""What the journal of a run costs, against the time of the run.

python -m tests.journal_overhead reports/accept     of a run, as each rank took its time
python -m tests.journal_overhead --profile quick    of what a rank of h200x8 writes in this profile
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from aimills_kernels import _registry
from aimills_kernels.accept import journal
from aimills_kernels.accept.evidence_folder import RankJournal, journals
from aimills_kernels.accept.simulate import entries_of, layout
from aimills_kernels.accept.simulate.schedule import expected_seconds
from aimills_kernels.accept.timetable import SLOTS

SYNC_S = 2.1e-3  # of an entry on the disk, on a busy host (docs/measured.md)
_ADDED = ("n", "prev", "time", "clock")


@dataclass(frozen=True)
class Cost:
    """CPU seconds of this process, syncs to the disk, entries; `ran` is what the profile takes."""

    cpu_s: float
    syncs: int
    entries: int
    ran: float

    @property
    def share(self) -> float:
        return (self.cpu_s + SYNC_S * self.syncs) / self.ran


def written(profile: str, folder: Path) -> Cost:
    """All that a rank of a node of 8 GPUs writes, one entry after the other. Of the simulated pod,
    with as many samples of the burn and checks of kernels as a real one has."""
    rank, checks = _entries(profile), _checks(profile)
    made = RankJournal(folder / f"{profile}.jsonl")
    with _counted() as syncs:
        begin = time.process_time()
        for entry in rank:
            made.append(**entry)
        with made.gathered():
            for entry in checks:
                made.append(**entry)
        cpu_s = time.process_time() - begin
    made.close()
    # Those of the thread beside the checks, which take longer than they do here.
    more = int(SLOTS["correctness"].seconds.get(profile, 0.0) / journal._SYNC_S)
    ran = expected_seconds(profile, 8, 1)
    return Cost(cpu_s, len(syncs) + more, len(rank) + len(checks), ran)


def _entries(profile: str) -> list[dict[str, Any]]:
    _, found, _ = next(iter(entries_of(layout("h200x8"), profile=profile)))
    plain = [{k: v for k, v in e.items() if k not in _ADDED} for e in found]
    sample = next(e for e in plain if e["kind"] == "sample")
    return plain + [sample] * int(SLOTS["burn"].seconds[profile])


def _checks(profile: str) -> list[dict[str, Any]]:
    """A row for each op, case and provider, where the profile checks them."""
    if profile not in SLOTS["correctness"].seconds:
        return []
    row = {"kind": "check", "stage": "correctness", "status": "right", "used": 0.31, "seed": 0,
           "dims": dict.fromkeys("BHMNDK", 4096), "scaled": {}, "own": True, "failures": [],
           "outputs": {n: {"used": 0.31, "error": 1e-3, "bound": 2e-3, "text": "max error 1e-3"}
                       for n in ("out", "lse")}, "skipped": None, "device": "cuda:0"}  # fmt: skip
    return [
        {**row, "op": op.name, "case": case.name, "provider": provider.name}
        for op in _registry.OPS for case in op.cases for provider in op.all_providers
    ]  # fmt: skip


@contextmanager
def _counted() -> Iterator[list[int]]:
    made, sync = list[int](), os.fsync

    def counting(file: int) -> None:
        made.append(file)
        sync(file)

    with mock.patch.object(os, "fsync", counting):
        yield made


def of_a_run(folder: Path) -> None:
    for path in journals(folder):
        entries = journal.read(path)
        cost, ran = entries[-1].get("journal_s"), entries[-1]["clock"] - entries[0]["clock"]
        if cost is None:
            print(f"{path.name}: its run did not come to its end")
            continue
        print(f"{path.name}: {len(entries)} entries, {1e3 * cost / len(entries):.2f} ms each, "
              f"{100 * cost / ran:.2f} % of {ran:.0f} s")  # fmt: skip


def of_a_profile(profile: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cost = written(profile, Path(folder))
    print(f"{profile}: {cost.entries} entries, {cost.cpu_s:.2f} s of CPU time, {cost.syncs} syncs "
          f"of {1e3 * SYNC_S:g} ms: {100 * cost.share:.2f} % of {cost.ran:.0f} s")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "--profile":
        of_a_profile(sys.argv[2])
    else:
        of_a_run(Path(sys.argv[1]))
