"""Rows of one op: every sample, and the energy of a call."""

from __future__ import annotations

from collections.abc import Sequence

from aimills_kernels.report.bars import HEIGHT, at, bar, line, row, svg
from aimills_kernels.report.cells import Table
from aimills_kernels.report.chosen import Entry, outcome
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.words import (
    Row,
    energy_text,
    kind,
    plural,
    time_text,
)

_WIDE = 1000  # units across a strip
# Of the median. The first that leaves few samples beyond its ends, which stand there, counted.
_RANGES = ((0.9, 1.3), (0.8, 1.6), (0.5, 2.5), (0.0, 4.0))
_BEYOND = 0.02


# ---- samples


def samples(table: Table) -> Html:
    """A strip for each time: all its samples as shares of their median, flagged ones marked."""
    timed = [e for e in table.entries if outcome(e.row) == "timed"]
    ends = _range([s / e.row["median_us"] for e in timed for s in e.row["samples_us"]])
    made = [_axis(ends), *[_strip(e, table.number(e), ends) for e in timed]]
    return el("div", *made, cls="group strips")


def _range(ratios: Sequence[float]) -> tuple[float, float]:
    for low, high in _RANGES:
        if sum(not low <= x <= high for x in ratios) <= _BEYOND * len(ratios):
            break
    return low, high


def _places(ends: tuple[float, float]) -> list[float]:
    """Where the axis has its marks: at both ends, the middle and the quarters."""
    low, high = ends
    return [low + i * (high - low) / 4 for i in range(5)]


def _axis(ends: tuple[float, float]) -> Html:
    anchors = ("start", "middle", "middle", "middle", "end")
    marks = [
        el("text", f"{100 * p:.0f} %", x=at(_share(p, ends)), y="75%", cls="tick", text_anchor=a)
        for p, a in zip(_places(ends), anchors, strict=True)
    ]
    text = f"axis: share of the row's median, {100 * ends[0]:.0f} % to {100 * ends[1]:.0f} %"
    return row("share of the median", svg(text, *marks), "median", "", "scale")


def _share(ratio: float, ends: tuple[float, float]) -> float:
    return (ratio - ends[0]) / (ends[1] - ends[0])


def _strip(entry: Entry, number: int, ends: tuple[float, float]) -> Html:
    r = entry.row
    flagged = {i for where in r["flags"].values() for i in where}
    ratios = [s / r["median_us"] for s in r["samples_us"]]
    beyond = sum(not ends[0] <= x <= ends[1] for x in ratios)
    about = f"{r['case']}, {r['provider']}: {plural(r['n'], 'sample')}, "
    about += f"{time_text(min(r['samples_us']))} to {time_text(max(r['samples_us']))}"
    if flagged:
        about += f"; {len(flagged)} flagged: {', '.join(k for k, v in r['flags'].items() if v)}"
    plain = [x for i, x in enumerate(ratios) if i not in flagged]
    marked = [x for i, x in enumerate(ratios) if i in flagged]
    inner = el(
        "svg", el("path", d=_ticks(plain, ends, 6, 8), cls=f"ticks {kind(r)}"),
        el("path", d=_ticks(marked, ends, 0, 20), cls="ticks flagged") if marked else Html(""),
        viewBox=f"0 0 {_WIDE} {HEIGHT}", preserveAspectRatio="none", width="100%", height=HEIGHT,
    )  # fmt: skip
    grid = [line(at(_share(x, ends)), "grid") for x in _places(ends)]
    modes = [_mode(_share(m["median_us"] / r["median_us"], ends)) for m in r["modes"]]
    picture = svg(about, *grid, inner, *modes)
    notes = [f"n = {r['n']}"]
    if beyond:
        notes.append(f"{beyond} beyond, up to {time_text(max(r['samples_us']))}")
    if flagged:
        notes.append(f"{len(flagged)} flagged")
    if len(r["modes"]) > 1:
        notes.append(f"{len(r['modes'])} modes")
    label = join([f"{number}. {r['case']} ", el("small", r["provider"])])
    return row(label, picture, time_text(r["median_us"]), ", ".join(notes), kind(r))


def _ticks(ratios: Sequence[float], ends: tuple[float, float], top: int, height: int) -> str:
    places = (round(_WIDE * min(max(_share(x, ends), 0.0), 1.0)) for x in ratios)
    return "".join(f"M{x} {top}v{height}" for x in sorted(places))


def _mode(share: float) -> Html:
    inside = el("path", d="M-4 -5h8l-4 5z", cls="mode")
    return el("svg", inside, x=at(share), y=5, width=1, height=1, overflow="visible")


# ---- energy


def energy(table: Table) -> Html:
    """Bars of joules a call, each case with its own scale; what was not measured says why."""
    groups: dict[str, list[Entry]] = {}
    for e in table.entries:
        if e.row["energy"] or e.row["energy_missing"]:
            groups.setdefault(e.part.problem(e.row), []).append(e)
    made = []
    for entries in groups.values():
        most = max((e.row["energy"]["joules"] for e in entries if e.row["energy"]), default=0.0)
        first = entries[0]
        scale = f"joules a call, from 0 to {energy_text(most)}" if most else ""
        head = el("h4", f"{table.number(first)}. {first.row['case']}", el("small", scale))
        made.append(el("div", head, *[_energy_row(e.row, most) for e in entries],
                       cls="group timed"))  # fmt: skip
    return join(made)


def _energy_row(r: Row, most: float) -> Html:
    name = r["provider"]
    if not r["energy"]:
        why = f"not measured: {r['energy_missing']}"
        return row(name, el("span", why, cls="none"), "–", "", kind(r))
    found = r["energy"]
    about = f"{name}: {energy_text(found['joules'])} a call, {found['watts']:.0f} W over "
    about += f"{found['window_s']:.1f} s; {found['level']}"
    if r["flops"]:
        about += f"; {r['flops'] / found['joules'] / 1e9:.3g} GFLOP/J"
    picture = svg(about, bar(found["joules"] / most, kind(r)))
    idle = "" if found["idle_watts"] is None else f", idle {found['idle_watts']:.0f} W"
    return row(
        name, picture, energy_text(found["joules"]), f"{found['watts']:.0f} W{idle}", kind(r)
    )


def energy_level(table: Table) -> str:
    """What was measured, with what: each way once."""
    levels = dict.fromkeys(e.row["energy"]["level"] for e in table.entries if e.row["energy"])
    return "; ".join(levels)
