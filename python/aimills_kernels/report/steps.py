"""One row over its records: from each to the next, what changed, judged as `bench compare` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aimills_kernels.harness.compare import (
    BROKEN,
    FASTER,
    MISSING,
    REFUSED,
    SLOWER,
    THRESHOLD,
    Verdict,
    compare_records,
)
from aimills_kernels.report.chosen import Machine, Part
from aimills_kernels.report.words import Row

POINTS = (SLOWER, FASTER, BROKEN, MISSING, REFUSED)  # where times before and after are not one line


@dataclass(frozen=True)
class Step:
    """A row in a record. `verdict` is against the last record that has a time of it, None for the
    first; `since` is its time over that of the first that may be compared, `start`."""

    part: Part
    row: Row
    verdict: Verdict | None = None
    start: Part | None = None
    since: Verdict | None = None

    @property
    def point(self) -> bool:
        """Whether something changed here."""
        return self.verdict is not None and self.verdict.verdict in POINTS

    @property
    def slide(self) -> bool:
        """Whether it is SLOWER than at the start, though this step alone is not."""
        return not self.point and self.since is not None and self.since.verdict == SLOWER


@dataclass(frozen=True)
class Past:
    """All steps of one provider on one problem of one machine, the oldest first."""

    machine: Machine
    problem: str
    steps: tuple[Step, ...]

    @property
    def row(self) -> Row:
        return self.steps[-1].row


def pasts(machine: Machine, threshold: float = THRESHOLD) -> Iterator[Past]:
    """Of every row that more than one record has."""
    found: dict[tuple[str, str], list[tuple[Part, Row]]] = {}
    for part in machine.parts:
        for problem, rows in part.problems.items():
            for row in rows:
                found.setdefault((problem, row["provider"]), []).append((part, row))
    for (problem, _), held in found.items():
        if len(held) > 1:
            yield Past(machine, problem, tuple(_steps(held, threshold)))


def _steps(held: list[tuple[Part, Row]], threshold: float) -> Iterator[Step]:
    last: tuple[Part, Row] | None = None
    start: tuple[Part, Row] | None = None
    for part, row in held:
        step = Step(part, row)
        if last is not None:
            step = replace(step, verdict=_against(last, (part, row), threshold))
        if step.verdict is not None and step.verdict.verdict == REFUSED:
            start = None
        if start is not None and row["median_us"] is not None:
            since = _against(start, (part, row), threshold)
            step = replace(step, start=start[0], since=since)
        if row["median_us"] is not None:
            last = part, row
            start = start or last
        yield step


def _against(base: tuple[Part, Row], new: tuple[Part, Row], threshold: float) -> Verdict:
    """Both parts are of one machine, whatever index its device had, and of one mode."""
    mode = base[1]["mode"]
    sides = [{**part.source.record, "rows": [{**row, "mode": mode}]} for part, row in (base, new)]
    if base[0].device != new[0].device:
        sides[0] = _moved(sides[0], new[0].device, base[0])
    (verdict,) = compare_records(sides[0], sides[1], threshold).verdicts
    return verdict


def _moved(record: dict, device: str, part: Part) -> dict:
    """The record as if its device had had the name `device`."""
    gpu = {**part.facts, "torch_index": int(device.partition(":")[2] or 0)}
    rows = [{**row, "device": device} for row in record["rows"]]
    return {**record, "rows": rows, "environment": {**record["environment"], "gpus": [gpu]}}
