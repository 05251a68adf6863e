"""Rows of inline SVG in percent, so that they fit any width, and the time of a case in bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aimills_kernels.harness._reading import ENOUGH, ahead
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.words import (
    Row,
    apart_text,
    dims_text,
    kind,
    other_result,
    range_text,
    time_text,
)

HEIGHT = 20
_CUT = 8  # a bar longer than this many times the shortest is cut off


def at(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def svg(label: str, *children: Any) -> Html:
    return el(
        "svg", el("title", label), *children, width="100%", height=HEIGHT, role="img",
        aria_label=label,
    )  # fmt: skip


def line(x: str, cls: str, y1: str = "0", y2: str = "100%") -> Html:
    return el("line", x1=x, x2=x, y1=y1, y2=y2, cls=cls)


def bar(share: float, cls: str) -> Html:
    return el("rect", x="0", y=4, width=at(share), height=HEIGHT - 8, cls=f"bar {cls}")


def cut() -> Html:
    """The gap in a bar that is cut off."""
    return el("line", x1="97%", x2="97.8%", y1="92%", y2="8%", cls="cut")


def row(label: Any, picture: Any, value: str, note: Any = "", cls: str = "") -> Html:
    return el(
        "div",
        el("span", label, cls="label"),
        el("span", picture, cls="plot"),
        el("span", value, cls="value"),
        el("span", note, cls="note"),
        cls=f"row {cls}".strip(),
    )


def legend(*more: Html) -> Html:
    keys = [
        el("span", el("i", cls=f"key {name}"), text)
        for name, text in (("own", "ours"), ("peer", "peers"), ("reference", "the reference"))
    ]
    return el("p", *keys, *more, cls="legend")


def times(rows: Sequence[Row]) -> Html:
    """A group of bars for each case, each with its own scale; what is far slower is cut off."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for r in rows:
        if r["median_us"] is not None:
            problem = str((r["dims"], r.get("model")))
            groups.setdefault((r["device"], r["op"], r["case"], problem), []).append(r)
    return join(_time_group(op, case, found) for (_, op, case, _), found in groups.items())


def _time_group(op: str, case: str, rows: list[Row]) -> Html:
    rows = sorted(rows, key=lambda r: r["median_us"])
    most = 1.02 * max(r["q3_us"] or r["median_us"] for r in rows)
    scale = min(most, _CUT * rows[0]["median_us"])
    dims = dims_text(rows[0]["dims"], rows[0]["scaled"])
    head = el("h4", op, el("small", f"{case}  ·  {dims}"))
    apart = [el("p", apart_text(r), cls="apart") for r in rows if r["apart"]]
    made = [_time_row(r, scale, rows) for r in rows]
    return el("div", head, *made, *apart, cls="group timed")


def _time_row(found: Row, scale: float, rows: list[Row]) -> Html:
    ends = [found[k] for k in ("q1_us", "q3_us")]
    known = found["n"] >= ENOUGH and None not in ends
    median = found["median_us"] / scale
    low, high = (end / scale for end in ends) if known else (median, median)
    label = f"{found['provider']}: median {time_text(found['median_us'])}, "
    label += f"quartiles {range_text(*ends)}, " if known else ""
    label += f"n = {found['n']}"
    drawn = bar(median, kind(found))
    if median > 1:
        picture = svg(label, drawn, cut())
    elif not known:
        picture = svg(label, drawn)
    else:
        picture = svg(
            label,
            drawn,
            el("line", x1=at(low), x2=at(high), y1="50%", y2="50%", cls="whisker"),
            *[line(at(end), "whisker", "32%", "68%") for end in (low, high) if end <= 1],
        )
    note = join([f"n = {found['n']}", "  ", _against(found, rows)])
    return row(found["provider"], picture, time_text(found["median_us"]), note, kind(found))


def _against(found: Row, rows: list[Row]) -> Html | str:
    """Ours against the fastest peer; a peer with another result says so."""
    if found["peer"]:
        return "" if found["validated"] else other_result(found)
    ratio = ahead(found, rows)
    return "" if ratio is None else el("b", f"× {ratio:.3g}")
