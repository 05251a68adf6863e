"""The plots of one op on one machine: roofline, and time against size."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from aimills_kernels.harness._reading import serving_unit
from aimills_kernels.report.axes import Look, Plot, axis, line_key
from aimills_kernels.report.cells import Table
from aimills_kernels.report.chosen import Entry, counts, outcome
from aimills_kernels.report.words import (
    Row,
    bytes_text,
    flawed,
    flops_text,
    interval,
    median_text,
    percent,
    plural,
    short_rate,
    time_text,
)

_FEWEST_SIZES = 3


def _timed(entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in entries if outcome(e.row) == "timed"]


def _untimed(entries: Sequence[Entry]) -> list[str]:
    """What is not in a plot."""
    found = counts(e.row for e in entries)
    absent = [f"{found[name]} {name}" for name in ("wrong", "not run") if found[name]]
    return [f"Not drawn, being without a time: {', '.join(absent)}."] if absent else []


def _key(looks: dict[str, Look], entries: Sequence[Entry]) -> list[tuple[Any, str]]:
    shown = {e.row["provider"] for e in entries}
    return [(look.sample(), name) for name, look in looks.items() if name in shown]


_CARE = "A mark drawn faint stands for a time to be read with care."


# ---- roofline


def roofline(table: Table, looks: dict[str, Look]) -> Plot | str:
    """Rate against intensity, under what was measured and what the maker promises."""
    drawn = [e for e in _timed(table.entries) if e.row["flops"] > 0 and e.row["bytes"] > 0]
    ceilings = table.entries[0].part.source.record["ceilings"]
    if not drawn:
        return "No roofline: no timed row of it counts both operations and bytes."
    roofs = [
        (name, held["copy_gbps"], {u: held[f"gemm_{s}_tflops"] for u, s in _served(held, drawn)})
        for name, held in (("measured", ceilings), ("specification", ceilings.get("spec")))
        if held and held.get("copy_gbps")
    ]
    if not roofs:
        return "No roofline: the record holds no ceiling."
    xs = [e.row["flops"] / e.row["bytes"] for e in drawn]
    ys = [e.row["flops"] / e.row["median_us"] / 1e6 for e in drawn]
    peaks = [peak for _, _, units in roofs for peak in units.values()]
    ridges = [1e3 * peak / copy for _, copy, units in roofs for peak in units.values()]
    unit = drawn[0].row["unit"]
    x = axis("intensity (operations a byte, log)", [*xs, *ridges], log=True)
    y = axis(f"rate ({'OP' if unit == 'int8' else 'FLOP'}/s, log)", [*ys, *peaks], log=True,
             text=short_rate)  # fmt: skip
    plot = Plot(
        f"Roofline of {table.op}",
        "A mark is a case by a provider, from the least operations and bytes of the op; the "
        f"numbers above are the cases' in the table. {_CARE}",
        x, y, legend=_key(looks, drawn), missing=_untimed(table.entries),
    )  # fmt: skip
    for name, copy, units in roofs:
        _roof(plot, copy, list(units.values()), f"roof {name}")
        plot.legend.append((line_key(f"roof {name}"), f"{name}: {_roof_text(copy, units)}"))
    if len(roofs) == 1:
        plot.missing.append("The specification of this device is not known to the record.")
    _number(plot, table, drawn)
    for e, at, rate in zip(drawn, xs, ys, strict=True):
        title = f"{median_text(e.row)}; {flops_text(rate, e.row['unit'])}, "
        title += f"{percent(e.row['sol'])} of the measured roofline"
        plot.put(at, rate, looks[e.row["provider"]].mark(title, flawed(e.row)))
    return plot


def _served(ceilings: dict[str, Any], drawn: Sequence[Entry]) -> list[tuple[str, str]]:
    """Each arithmetic in use, and the one whose rate serves as its ceiling."""
    units = dict.fromkeys(e.row["unit"] for e in drawn)
    found = [(unit, serving_unit(ceilings, unit)) for unit in units]
    return [(unit, serving) for unit, serving in found if serving is not None]


def _roof(plot: Plot, copy: float, peaks: list[float], cls: str) -> None:
    x, y = plot.x, plot.y
    top = max(peaks, default=y.high)
    # Of the slope, what lies within the plot: rate = intensity * copy.
    left, right = max(x.low, 1e3 * y.low / copy), min(x.high, 1e3 * top / copy)
    if left < right:
        plot.line(left, left * copy / 1e3, right, right * copy / 1e3, cls)
    for peak in peaks:
        ridge = max(x.low, 1e3 * peak / copy)
        if ridge < x.high:
            plot.line(ridge, peak, x.high, peak, cls)


def _roof_text(copy: float, units: dict[str, float]) -> str:
    parts = [f"{unit} {flops_text(peak, unit)}" for unit, peak in units.items()]
    return ", ".join([f"copy {bytes_text(copy)}", *parts])


def _number(plot: Plot, table: Table, drawn: Sequence[Entry]) -> None:
    """The numbers of the cases above their intensities; neighbours share a place."""
    places = sorted({(plot.x.share(_intensity(e)), table.number(e), _intensity(e)) for e in drawn})
    groups: list[list[tuple[float, int, float]]] = []
    for place in places:
        if groups and place[0] - groups[-1][0][0] < 0.07:
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        numbers = sorted(number for _, number, _ in group)
        middle = math.exp(sum(math.log(at) for *_, at in group) / len(group))
        plot.note(middle, _runs(numbers))


def _intensity(entry: Entry) -> float:
    return entry.row["flops"] / entry.row["bytes"]


def _runs(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as 1–3, 5; of many runs the ends."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    texts = [str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs]
    return ", ".join(texts) if len(texts) <= 2 else f"{texts[0]}, … {texts[-1]}"


# ---- time against size


def outside_sizes(table: Table) -> list[Row]:
    """Rows whose time no plot against size shows."""
    inside = {id(e) for _, cases in _families(table.entries) for _, e in cases}
    return [e.row for e in table.entries if id(e) not in inside]


def sizes(table: Table, looks: dict[str, Look]) -> list[Plot]:
    """A plot for each set of cases that differ in one size: three of it at the least."""
    return [_size_plot(table, name, cases, looks) for name, cases in _families(table.entries)]


def _families(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[int, Entry]]]]:
    """Cases by the dims that they share. Dims that are equal in each case (M and N of a square)
    count as one size. A case goes into the largest set that it fits, and into no other."""
    sets: dict[tuple[str, str], list[tuple[int, Entry]]] = {}
    for e in _timed(entries):
        for names, size in _sizes_of(e.row["dims"]):
            rest = {k: v for k, v in e.row["dims"].items() if k not in names}
            key = (
                " = ".join(names),
                json.dumps([rest, e.row["mode"]], sort_keys=True, default=str),
            )
            sets.setdefault(key, []).append((size, e))
    found, used = [], set()
    for (name, _), cases in sorted(sets.items(), key=lambda item: -_count(item[1])):
        free = [(size, e) for size, e in cases if id(e) not in used]
        if _count(free) >= _FEWEST_SIZES:
            used |= {id(e) for _, e in free}
            found.append((name, free))
    return found


def _count(cases: Sequence[tuple[int, Entry]]) -> int:
    return len({size for size, _ in cases})


def _sizes_of(dims: dict[str, Any]) -> list[tuple[tuple[str, ...], int]]:
    """Each dim alone, and those of equal value together."""
    numbers = {k: v for k, v in dims.items() if type(v) is int and v > 0}
    by_value: dict[int, list[str]] = {}
    for name, value in numbers.items():
        by_value.setdefault(value, []).append(name)
    alone = [((name,), value) for name, value in numbers.items()]
    return alone + [(tuple(names), v) for v, names in by_value.items() if len(names) > 1]


def _size_plot(
    table: Table, name: str, cases: list[tuple[int, Entry]], looks: dict[str, Look]
) -> Plot:
    found = [e for _, e in cases]
    names = name.split(" = ")
    fixed = [f"{k} {v}" for k, v in found[0].row["dims"].items() if k not in names]
    ends = [v for e in found for v in interval(e.row)]
    about = f"Median and its 95 % interval, both axes logarithmic. {_CARE}"
    own = f"With {', '.join(fixed)}." if fixed else ""
    x = axis(f"{name} (elements, log)", [s for s, _ in cases], log=True, text=str,
             named=tuple(s for s, _ in cases))  # fmt: skip
    y = axis("time of a call (log)", ends, log=True, text=time_text)
    plot = Plot(f"Time of {table.op} against {name}", about, x, y, legend=_key(looks, found),
                own=own)  # fmt: skip
    every = sorted({size for size, _ in cases})
    for provider in dict.fromkeys(e.row["provider"] for e in found):
        mine = sorted((s, e.row) for s, e in cases if e.row["provider"] == provider)
        _curve(plot, mine, looks[provider], every)
        if lacks := [str(s) for s in every if s not in {size for size, _ in mine}]:
            plot.missing.append(f"{provider} has no time at {name} {', '.join(lacks)}.")
    if smaller := sum(bool(e.row["scaled"]) for e in found):
        plot.missing.append(f"{plural(smaller, 'time is', 'times are')} of smaller dims than the "
                            "case declares; the table says from what.")  # fmt: skip
    return plot


def _curve(plot: Plot, points: list[tuple[int, Row]], look: Look, every: list[int]) -> None:
    """Neighbouring sizes are joined; across one without a time nothing is drawn."""
    for (a, before), (b, after) in pairwise(points):
        if every.index(b) - every.index(a) == 1:
            plot.line(a, before["median_us"], b, after["median_us"], f"curve {look.cls}",
                      stroke_dasharray=look.dash)  # fmt: skip
    for size, row in points:
        low, high = interval(row)
        plot.line(size, low, size, high, f"curve {look.cls}")
        plot.put(size, row["median_us"], look.mark(median_text(row), flawed(row)))
