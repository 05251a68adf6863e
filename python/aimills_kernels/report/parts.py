"""Parts of a page that both reports have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aimills_kernels.harness._reading import serving_unit
from aimills_kernels.report.html import Html, el

# What a picture of its own needs too stands in a file of its own.
PLOT_STYLE = Path(__file__).with_name("plot.css").read_text()
STYLE = PLOT_STYLE + Path(__file__).with_name("style.css").read_text()
_SHEET = """@page {
  @top-left { content: "%s"; font: bold 9px sans-serif; }
  @bottom-right { content: counter(page) " / " counter(pages); font: 9px sans-serif; }
}
"""
# The page states that it loads nothing, and a browser holds it to that.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MARKS = {
    "right": "good", "passed": "good", "pass": "good", "done": "good", "same": "good",
    "wrong": "bad", "failed": "bad", "fail": "bad", "cut": "bad", "no end": "bad",
    "differs": "bad",
    "not run": "open", "excluded": "open", "gap": "open", "with care": "open", "warn": "open",
    "unknown": "open", "stopped": "open", "partly": "open",
}  # fmt: skip


def document(title: str, sections: Iterable[Html], paper: str = "") -> str:
    """A whole page. `paper`: words of ours that stand on each sheet of its print."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{title} – aimills-kernels"),
        el("style", Html(STYLE + _SHEET % paper)),
    )
    whole = el("html", head, el("body", el("main", *sections)), lang="en")
    return f"<!doctype html>\n{whole}\n"


def section(title: str, text: Any, *children: Html, **attributes: Any) -> Html:
    lead = [el("p", text, cls="lead")] if text else []
    return el("section", el("h2", title), *lead, *children, **attributes)


def figures(found: Iterable[tuple[str, str]]) -> Html:
    """Large figures, each with what it counts."""
    items = [el("div", el("dt", text), el("dd", value)) for value, text in found]
    return el("dl", *items, cls="figures")


def status(text: str) -> Html:
    return el("span", text, cls=f"status {_MARKS.get(text, '')}".strip())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], cls: str = "") -> Html:
    """A column whose name starts with `>` holds numbers and is set flush right."""
    classes = ["num" if c[:1] == ">" else None for c in columns]
    head = el(
        "tr", *[el("th", c.lstrip(">"), cls=k) for c, k in zip(columns, classes, strict=True)]
    )
    body = [
        el("tr", *[el("td", cell, cls=k) for cell, k in zip(row, classes, strict=True)])
        for row in rows
    ]
    whole = el("table", el("thead", head), el("tbody", *body), cls=cls or None)
    return el("div", whole, cls="scroll")


def environment(facts: dict[str, Any]) -> Html:
    return table(("fact", "value"), flat(facts), "facts")


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as pairs of a name and a text."""
    if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        return [(prefix, "; ".join(map(str, value)))] if value else []
    if isinstance(value, (dict, list)):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        return [row for k, v in items for row in flat(v, f"{prefix} {k}".strip())]
    return [] if value is None else [(prefix.replace("_", " "), str(value))]


def with_care(rows: Sequence[dict[str, Any]]) -> Html:
    """Times to be read with care, folded."""
    found = [
        (f"{r['op']} {r['case']} {r['provider']}", r["device"], r["suspect"])
        for r in rows
        if r["suspect"]
    ]
    if not found:
        return Html("")
    head = el("summary", f"{len(found)} of these times are to be read with care")
    return el("details", head, table(("what", "device", "why"), found, "wide-last"))


def ceilings_text(record: dict[str, Any]) -> str:
    """The copy, and the rate for each arithmetic that the ops of the record use."""
    found = record["ceilings"]
    parts = [f"copy {found['copy_gbps']:.3g} GB/s"] if found.get("copy_gbps") else []
    used = dict.fromkeys(r["unit"] for r in record["rows"] if r["sol"] is not None and r["flops"])
    serving = {unit: serving_unit(found, unit) for unit in used}
    for unit in dict.fromkeys(serving.values()):
        if unit is not None:
            parts.append(f"GEMM {unit} {_rate(found, unit)}")
    for unit, other in serving.items():
        if other not in (unit, None):
            own = f"gemm_{unit}_tflops" in found
            why = f"reached {_rate(found, unit)}" if own else "was not measured"
            parts.append(f"no ceiling of its own for {unit}, so that of {other} (its GEMM {why})")
    return ", ".join(parts)


def _rate(ceilings: dict[str, Any], unit: str) -> str:
    return f"{ceilings[f'gemm_{unit}_tflops']:.3g} T{'OP' if unit == 'int8' else 'FLOP'}/s"
