"""Benchmark records as one page: no script, nothing from outside, light and dark, on paper too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aimills_kernels.harness._reading import ENOUGH, ahead
from aimills_kernels.report import strips
from aimills_kernels.report.axes import Look, Plot, figures_of, looks
from aimills_kernels.report.bars import legend, times
from aimills_kernels.report.cells import COLUMNS, Cell, Table, tables
from aimills_kernels.report.chosen import Entry, Machine, Source, counts, counts_text, outcome
from aimills_kernels.report.history import ABOUT, history
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.parts import document, environment, figures, section, status, table
from aimills_kernels.report.plots import outside_sizes, roofline, sizes
from aimills_kernels.report.words import Row, best_ratio, percent, plural

_MARKS = {"timed": None, "wrong": "bad", "not run": "open"}
_NOTES = COLUMNS.index("notes")
_SAME_CEILINGS = 0.05  # no eye tells such a difference on a logarithmic axis
_MANY = 8  # plots or groups of bars, beyond which they are folded


_TABLE = (
    "Median with its 95 % interval. The roofline is of the ceilings measured in the same run, the "
    "specification the maker's. Against peer: × is the time of the fastest peer over ours, even "
    "where that one is less exact; the reference counts as none. Below "
    f"{ENOUGH} samples nothing is compared and no interval given. A dash stands for what was not "
    "measured. No verdict is drawn from a time."
)


def render(machines: Sequence[Machine], unread: Sequence[str]) -> str:
    """The page for these machines; `unread` names the files that are no record."""
    found = [_head(machines, unread)]
    if len(machines) > 1:
        found.append(_nav([(f"m{i}", m.name) for i, m in enumerate(machines)]))
    for index, machine in enumerate(machines):
        found += _machine(machine, f"m{index}")
    found.append(_records(machines))
    found += [_environment(machine) for machine in machines]
    return document(headline(machines), [*found, _foot()])


def headline(machines: Sequence[Machine]) -> str:
    """What was timed, wrong and not run, of what the page shows."""
    return ", ".join(f"{n} {name}" for n, name in _outcomes(machines)) or "no rows"


def _outcomes(machines: Sequence[Machine]) -> list[tuple[int, str]]:
    found = counts(e.row for m in machines for e in m.shown())
    return [(n, name) for name, n in found.items() if n]


# ---- the top


def _head(machines: Sequence[Machine], unread: Sequence[str]) -> Html:
    words: list[Any] = []
    for n, name in _outcomes(machines):
        words += [", "] if words else []
        words.append(el("span", f"{n} {name}", cls=_MARKS[name]))
    made = [el("h1", *words or ["no rows"], cls="outcomes")]
    if unread:
        made.append(el("ul", *[el("li", f"Not read: {why}") for why in unread], cls="reasons"))
    made += [
        el("p", el("b", m.name), " · ", _stamp(m.newest.source), cls="stamp") for m in machines
    ]
    return el("header", *made, el("p", _TABLE, cls="lead how"))


def _stamp(source: Source) -> Html:
    parts: list[Any] = [f"{source.created} · {source.code}"]
    if source.dirty:
        parts.append(el("span", ": a dirty checkout, so the commit does not tell the code",
                        cls="status open"))  # fmt: skip
    return join(parts)


def _nav(targets: Sequence[tuple[str, str]]) -> Html:
    items = [el("a", name, href=f"#{anchor}") for anchor, name in targets]
    return el("nav", *items, aria_label="sections")


# ---- a machine


def _machine(machine: Machine, anchor: str) -> list[Html]:
    shown = machine.shown()
    found = tables(shown)
    by_op: dict[str, list[Table]] = {}
    for t in found:
        by_op.setdefault(t.op, []).append(t)
    names = [(f"{anchor}-{i}", op) for i, op in enumerate(by_op)]
    facts = _facts(machine)
    top = section(
        machine.name, facts, _figures(shown), _wrong(shown), _nav(names) if names[1:] else Html(""),
        id=anchor,
    )  # fmt: skip
    ops = [
        _op(machine, op, mine, name) for (name, op), mine in zip(names, by_op.values(), strict=True)
    ]
    return [top, *ops]


def _facts(machine: Machine) -> str:
    newest, known = machine.newest.source.record["environment"], machine.newest.facts
    parts = [plural(len(machine.parts), "record")]
    found = newest.get("torch")
    named = {
        "driver": known.get("driver"),
        "torch": found.get("version") if isinstance(found, dict) else found,
        "Triton": newest.get("triton"),
        "power limit": _with(known.get("power_limit_w"), "W"),
        "application clock": _with(known.get("clock_application_sm_mhz"), "MHz"),
    }
    parts += [f"{name} {value}" for name, value in named.items() if value is not None]
    return " · ".join(parts)


def _with(value: Any, unit: str) -> str | None:
    return f"{value} {unit}" if isinstance(value, (int, float)) else None


def _figures(shown: Sequence[Entry]) -> Html:
    rows = [e.row for e in shown]
    total = counts(rows)
    care = sum(bool(r["suspect"]) for r in rows if outcome(r) == "timed")
    found = [
        (str(total["timed"]), "timed"),
        (str(total["wrong"]), "wrong, so without a time"),
        (str(total["not run"]), "not run: the reasons stand with each op"),
        (str(care), "times to be read with care"),
    ]
    # Within one problem: a time in a CUDA graph is not held against one of queued calls.
    mine = max(shown, key=lambda e: (not e.row["peer"] and ahead(e.row, e.beside)) or 0.0)
    if best := best_ratio(mine.beside):
        found.append(best)
    return figures(found)


def _wrong(shown: Sequence[Entry]) -> Html:
    found = [e.row for e in shown if outcome(e.row) == "wrong"]
    items = [
        el("li", status("wrong"), f" {r['op']} {r['case']}, {r['provider']}: {r['failure']}")
        for r in found
    ]
    return el("ul", *items, cls="reasons") if items else Html("")


# ---- an op


def _op(machine: Machine, op: str, found: Sequence[Table], anchor: str) -> Html:
    seen = looks(machine.rows_of(op))
    several = len(machine.parts) > 1
    made: list[Html] = []
    for t in found:
        if several or len(found) > 1:
            source = t.entries[0].part.source
            text = f"From {source.name}, {source.created} · {source.code}"
            made.append(el("p", text, cls="stamp"))
        made += [_table(t), _absent(t)]
    made += figures_of(p for t in found for p in sizes(t, seen))
    made.append(_bars(op, [r for t in found for r in outside_sizes(t)]))
    made += _rooflines(found, seen)
    # Each problem is of one record, so these can stand together.
    whole = Table(op, [e for t in found for e in t.entries], found[0].numbers)
    made += [_energy(whole), _history(machine, whole, seen), _samples(whole)]
    return section(op, "", *made, id=anchor)


def _rooflines(found: Sequence[Table], seen: dict[str, Look]) -> list[Html]:
    """Records with the same ceilings share one."""
    plots: list[Plot] = []
    missing: dict[str, None] = {}
    groups = _by_ceilings(found)
    for group in groups:
        newest = max((t.entries[0].part.source for t in group), key=lambda s: s.created)
        entries = sorted(
            (e for t in group for e in t.entries), key=lambda e: e.part.source != newest
        )
        plot = roofline(Table(group[0].op, entries, group[0].numbers), seen)
        if isinstance(plot, str):
            missing[plot] = None
            continue
        if len(groups) > 1:
            plot.title += f", {', '.join(t.entries[0].part.source.name for t in group)}"
        elif len(group) > 1:
            plot.missing.append(
                f"The ceilings are those of {newest.name}; in the other records they differ by "
                f"less than {percent(_SAME_CEILINGS)}."
            )
        plots.append(plot)
    return [*figures_of(plots), *(el("p", text, cls="apart") for text in missing)]


def _by_ceilings(found: Sequence[Table]) -> list[list[Table]]:
    groups: list[list[Table]] = []
    for t in found:
        mine = t.entries[0].part.source.record["ceilings"]
        for group in groups:
            if _same_ceilings(group[0].entries[0].part.source.record["ceilings"], mine):
                group.append(t)
                break
        else:
            groups.append([t])
    return groups


def _same_ceilings(a: dict[str, Any], b: dict[str, Any]) -> bool:
    rates = [{k: v for k, v in c.items() if k.startswith(("copy_", "gemm_"))} for c in (a, b)]
    return a.get("spec") == b.get("spec") and rates[0].keys() == rates[1].keys() and all(
        abs(v / rates[1][k] - 1) < _SAME_CEILINGS for k, v in rates[0].items()
    )  # fmt: skip


def _table(t: Table) -> Html:
    """The contestants on a problem stand in one body, whose first cell is the problem."""
    lines = t.lines
    columns = [(i, name) for i, name in t.columns if i != _NOTES]
    if not lines:
        return Html("")
    heads = [
        el("th", name.lstrip(">"), cls="num" if name[:1] == ">" else None, scope="col")
        for _, name in columns
    ]
    bodies: list[list[list[Cell]]] = []
    for cells in lines:
        if bodies and bodies[-1][0][0] == cells[0]:
            bodies[-1].append(cells)
        else:
            bodies.append([cells])
    drawn = [el("tbody", *_body(group, [i for i, _ in columns if i])) for group in bodies]
    whole = el("table", el("thead", el("tr", *heads)), *drawn, cls="bench")
    return el("div", whole, cls="scroll", role="region", tabindex="0",
              aria_label=f"table of {t.op}")  # fmt: skip


def _body(group: list[list[Cell]], columns: Sequence[int]) -> list[Html]:
    """A row for each contestant, and one below it for its notes."""
    made = []
    for cells in group:
        made.append([
            el("td", *_inside(cells[i]), cls="num" if COLUMNS[i][:1] == ">" else None)
            for i in columns
        ])  # fmt: skip
        if cells[_NOTES].text:
            made.append(
                [el("td", el("div", cells[_NOTES].text), colspan=len(columns), cls="notes")]
            )
    made[0].insert(0, el("th", *_inside(group[0][0]), rowspan=len(made), scope="rowgroup"))
    return [el("tr", *found) for found in made]


def _inside(cell: Cell) -> list[Any]:
    marked = [status(cell.mark)] if cell.mark else []
    text: list[Any] = [] if cell.mark == "wrong" else [cell.text]
    small = [el("small", cell.small)] if cell.small else []
    return [*text, *small, *marked]


def _absent(t: Table) -> Html:
    """What did not run: always said, with all its cases folded behind."""
    if not t.absent:
        return Html("")
    items = [
        el("li", el("b", name), f", {plural(len(cases), 'case')}: {why}",
           el("small", ", ".join(cases)))
        for name, why, cases in t.absent
    ]  # fmt: skip
    count = sum(len(cases) for *_, cases in t.absent)
    names = ", ".join(dict.fromkeys(name for name, *_ in t.absent))
    head = el("summary", status("not run"), f" {plural(count, 'row')}: {names}")
    return el("details", head, el("ul", *items, cls="absent"), open=None if t.lines else "")


def _bars(op: str, shown: Sequence[Row]) -> Html:
    rows = [r for r in shown if outcome(r) == "timed"]
    if not rows:
        return Html("")
    modes = sorted({r["mode"] or "" for r in rows})
    groups: list[Html] = []
    for mode in modes:
        if len(modes) > 1:
            groups.append(el("p", f"{mode or 'unnamed'} mode", cls="caption"))
        groups.append(times([r for r in rows if (r["mode"] or "") == mode]))
    about = (
        "Time of a call, from 0; whiskers are quartiles, each case has its own scale, and a bar "
        "with a gap is cut off."
    )
    head = el("p", el("b", f"Time of {op} by case"), f" {about}", cls="caption")
    cases = len({(r["case"], r["mode"]) for r in rows})
    return _folded(f"Time of {op} by case, {cases} cases", cases > _MANY, head, legend(), *groups)


def _folded(title: str, fold: bool, *children: Html) -> Html:
    if fold:
        return el("details", el("summary", title), *children)
    return el("div", *children, cls="block")


def _energy(t: Table) -> Html:
    if not any(e.row["energy"] or e.row["energy_missing"] for e in t.entries):
        return el("p", f"Energy of {t.op}: not measured.", cls="apart")
    level = strips.energy_level(t)
    about = f" Measured: {level}." if level else " Nothing was measured."
    about += " Each case has its own scale, from 0; providers without a bar were not measured."
    head = el("p", el("b", f"Energy a call of {t.op}"), about, cls="caption")
    return el("div", head, legend(), strips.energy(t), cls="block")


def _history(machine: Machine, t: Table, seen: dict[str, Look]) -> Html:
    problems = dict.fromkeys(e.part.problem(e.row) for e in t.entries)
    plots = [p for key in problems if (p := history(machine, key, seen)) is not None]
    if not plots:
        return Html("")
    title = f"History of {t.op}: {plural(len(plots), 'case')}, {len(machine.parts)} records"
    head = el("p", el("b", f"History of {t.op}"), f" {ABOUT}", cls="caption")
    return _folded(title, len(plots) > _MANY, head, *figures_of(plots))


def _samples(t: Table) -> Html:
    timed = sum(outcome(e.row) == "timed" for e in t.entries)
    if not timed:
        return Html("")
    about = (
        "A tick is a sample; those that were flagged are tall. A wedge is the middle of a mode. "
        "What is beyond an edge stands on it and is counted."
    )
    head = el("summary", f"Every sample of {t.op}: {plural(timed, 'distribution')}")
    return el("details", head, el("p", about, cls="caption"), strips.samples(t))


# ---- the end


def _records(machines: Sequence[Machine]) -> Html:
    rows = [
        (p.source.name, m.name, p.source.created, p.source.code, counts_text(p.rows))
        for m in machines
        for p in m.parts
    ]
    text = "The tables show each problem as the newest record has it; older ones are history."
    columns = ("file", "machine", "made", "of", "holds")
    return section("Records", text, table(columns, rows, "wide-last"))


def _environment(machine: Machine) -> Html:
    source = machine.newest.source
    head = el("summary", f"Environment of {source.name}: {machine.name}")
    return el("details", head, environment(source.record["environment"]))


def _foot() -> Html:
    text = (
        "Made from the records alone, which hold every sample for machines. A time says something "
        "of the machine, the commit and the moment that stand above it, and of no other."
    )
    return el("footer", el("p", text))
