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
    comparable,
    compare_records,
)
from aimills_kernels.report.chosen import Machine, Part
from aimills_kernels.report.words import Row

POINTS = (SLOWER, FASTER, BROKEN, MISSING, REFUSED)  # where times before and after are not one line


@dataclass(frozen=True)
class Step:
    """A row in a record. `verdict` is against the last record that has a time of it and may be
    compared, None for the first; `since` is its time over that of the first such, `start`."""

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
    timed: list[tuple[Part, Row]] = []
    for part, row in held:
        step, here = Step(part, row), (part, row)
        fit = [before for before in timed if comparable(*_sides(before, here))]
        if timed:
            step = replace(step, verdict=_against((fit or timed)[-1], here, threshold))
        if row["median_us"] is not None:
            if fit:
                since = _against(fit[0], here, threshold)
                step = replace(step, start=fit[0][0], since=since)
            timed.append(here)
        yield step


def _against(base: tuple[Part, Row], new: tuple[Part, Row], threshold: float) -> Verdict:
    """Both parts are of one machine, whatever index its device had, and of one mode."""
    (verdict,) = compare_records(*_sides(base, new), threshold).verdicts
    return verdict


def _sides(base: tuple[Part, Row], new: tuple[Part, Row]) -> tuple[dict, dict]:
    mode = base[1]["mode"]
    a, b = ({**part.source.record, "rows": [{**row, "mode": mode}]} for part, row in (base, new))
    return (a if base[0].device == new[0].device else _moved(a, new[0].device, base[0])), b


def _moved(record: dict, device: str, part: Part) -> dict:
    """The record as if its device had had the name `device`."""
    gpu = {**part.facts, "torch_index": int(device.partition(":")[2] or 0)}
    rows = [{**row, "device": device} for row in record["rows"]]
    return {**record, "rows": rows, "environment": {**record["environment"], "gpus": [gpu]}}
