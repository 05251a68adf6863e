"""The history of one problem on one machine: medians over records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from aimills_kernels.report.axes import Axis, Look, Plot, axis
from aimills_kernels.report.chosen import Machine, Part, outcome
from aimills_kernels.report.words import (
    Row,
    flawed,
    interval,
    median_text,
    range_text,
    three,
    time_text,
)

_STEADY = 0.05  # the axis reaches this far at the least, so that noise looks like noise
_LABELS = 4
_APART = 0.06  # of the way from record to record
_ABSENT = "absent"
ABOUT = (
    "Change of the median against the provider's own first time here; whiskers are 95 % intervals. "
    "A line is broken where a record has no time, or driver or card changed; a + "
    "marks a dirty checkout."
)

Past = list[tuple[int, Row]]  # place among the records, and the row with its time


def history(machine: Machine, problem: str, looks: dict[str, Look]) -> Plot | None:
    """None where no provider was timed twice."""
    parts = [part for part in machine.parts if problem in part.problems]
    names = list(dict.fromkeys(r["provider"] for p in parts for r in p.problems[problem]))
    pasts = {name: [_row_of(part, problem, name) for part in parts] for name in names}
    known: dict[str, Past] = {
        name: [(i, row) for i, row in enumerate(rows) if row and outcome(row) == "timed"]
        for name, rows in pasts.items()
    }
    known = {name: past for name, past in known.items() if past}
    if not any(len(past) > 1 for past in known.values()):
        return None
    first = {name: past[0][1]["median_us"] for name, past in known.items()}
    ends = [end / first[n] - 1 for n, past in known.items() for _, r in past for end in interval(r)]
    newest = parts[-1].problems[problem][0]
    plot = Plot(
        f"History of {newest['op']} {newest['case']}",
        "",
        Axis("record", -0.4, len(parts) - 0.6, named=_labelled(len(parts)),
             text=lambda i: stamp(parts[round(i)])),
        axis("change (%)", [*ends, -_STEADY, _STEADY], text=_change),
        legend=[(looks[n].sample(), f"{n}, from {time_text(first[n])}") for n in known],
    )  # fmt: skip
    for place, (name, past) in enumerate(known.items()):
        _trace(plot, parts, past, looks[name], _APART * (place - (len(known) - 1) / 2))
    plot.missing += _gaps(pasts, parts)
    return plot


def _row_of(part: Part, problem: str, provider: str) -> Row | None:
    return next((r for r in part.problems[problem] if r["provider"] == provider), None)


def _trace(plot: Plot, parts: Sequence[Part], past: Past, look: Look, aside: float) -> None:
    """`aside`: how far from the record's place, so that providers don't hide each other."""
    first = past[0][1]["median_us"]
    for (i, before), (j, after) in pairwise(past):
        if j == i + 1 and parts[i].setup == parts[j].setup:
            ends = before["median_us"] / first - 1, after["median_us"] / first - 1
            plot.line(i + aside, ends[0], j + aside, ends[1], f"curve {look.cls}",
                      stroke_dasharray=look.dash)  # fmt: skip
    for i, row in past:
        low, high = interval(row)
        ends = low / first - 1, high / first - 1
        plot.line(i + aside, ends[0], i + aside, ends[1], f"curve {look.cls}")
        title = f"{stamp(parts[i])}, {median_text(row)}"
        if low != high:
            title += f", {range_text(low, high)}"
        plot.put(i + aside, row["median_us"] / first - 1, look.mark(title, flawed(row)))


def _gaps(pasts: dict[str, list[Row | None]], parts: Sequence[Part]) -> list[str]:
    never: dict[str, list[str]] = {}
    at: dict[tuple[str, str], list[str]] = {}
    for name, rows in pasts.items():
        hows = [_ABSENT if row is None else outcome(row) for row in rows]
        if "timed" not in hows:
            never.setdefault(" or ".join(sorted({*hows} - {_ABSENT})), []).append(name)
            continue
        for part, how in zip(parts, hows, strict=True):
            if how != "timed":
                at.setdefault((_where(part), how), []).append(name)
    found = [f"No record here has a time of {', '.join(n)}: {how}." for how, n in never.items()]
    for (where, how), names in at.items():
        who = ", ".join(names)
        if how == _ABSENT:
            found.append(f"{where} does not have {who}.")
        else:
            found.append(f"{where} has no time of {who}: {how}.")
    for before, after in pairwise(parts):
        if before.setup != after.setup:
            found.append(f"Before {_where(after)} driver or card changed.")
    return found


def stamp(part: Part) -> str:
    """For below an axis, where room is short."""
    return f"{part.source.day}\n{part.source.commit or part.source.code}{'+' * part.source.dirty}"


def _where(part: Part) -> str:
    return f"{part.source.name} ({part.source.day}, {part.source.code})"


def _labelled(count: int) -> tuple[float, ...]:
    """Which of the records carry their date: a few, evenly, the first and the last among them."""
    if count <= _LABELS:
        return tuple(range(count))
    step = (count - 1) / (_LABELS - 1)
    return tuple(round(i * step) for i in range(_LABELS))


def _change(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{'+' if value > 0 else '−'}{three(abs(100 * value))}"
