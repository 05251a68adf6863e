"""The pictures of the report: rows of inline SVG in percent, so that they fit any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from aimills_kernels.accept._html import Html, el, join
from aimills_kernels.harness._rows import ABOVE, ENOUGH, ahead

Row = dict[str, Any]
_TOP = 1.25  # share of the tolerance at the right edge of the strip
_CUT = 8  # a bar longer than this many times the shortest is cut off
_HEIGHT = 20


def time_text(us: float) -> str:
    if us < 1e3:
        return f"{us:.3g} µs"
    return f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def percent(share: float | None) -> str:
    """Rounded towards 0, so that 100 % is said only of 100 %."""
    if share is None:
        return "–"
    return "< 1 %" if 0 < share < 0.01 else f"{math.floor(100 * share + 1e-9)} %"


def _at(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _svg(label: str, *children: Any) -> Html:
    return el(
        "svg", el("title", label), *children, width="100%", height=_HEIGHT, role="img",
        aria_label=label,
    )  # fmt: skip


def _line(x: str, cls: str, y1: str = "0", y2: str = "100%") -> Html:
    return el("line", x1=x, x2=x, y1=y1, y2=y2, cls=cls)


def _row(label: Any, picture: Html, value: str, note: Any = "", cls: str = "") -> Html:
    return el(
        "div",
        el("span", label, cls="label"),
        el("span", picture, cls="plot"),
        el("span", value, cls="value"),
        el("span", note, cls="note"),
        cls=f"row {cls}".strip(),
    )


def kind(row: Row) -> str:
    """ours, peer or reference: the colour."""
    if row["provider"] == "reference":
        return "reference"
    return "peer" if row["peer"] else "own"


# ---- time against peers


def times(rows: Sequence[Row]) -> Html:
    """A group of bars for each case, each with its own scale; what is far slower is cut off."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["median_us"] is not None:
            groups.setdefault((row["device"], row["op"], row["case"]), []).append(row)
    return join(_time_group(op, case, found) for (_, op, case), found in groups.items())


def _time_group(op: str, case: str, rows: list[Row]) -> Html:
    rows = sorted(rows, key=lambda r: r["median_us"])
    most = 1.02 * max(r["q3_us"] for r in rows)
    scale = min(most, _CUT * rows[0]["median_us"])
    dims = dims_text(rows[0]["dims"], rows[0]["scaled"])
    head = el("h4", op, el("small", f"{case}  ·  {dims}"))
    apart = [el("p", _apart(r), cls="apart") for r in rows if r["apart"]]
    made = [_time_row(r, scale, rows) for r in rows]
    return el("div", head, *made, *apart, cls="group timed")


def _time_row(row: Row, scale: float, rows: list[Row]) -> Html:
    median, low, high = (row[k] / scale for k in ("median_us", "q1_us", "q3_us"))
    label = f"{row['provider']}: median {time_text(row['median_us'])}"
    label += f", quartiles {time_text(row['q1_us'])} to {time_text(row['q3_us'])}, n = {row['n']}"
    bar = el("rect", x="0", y=4, width=_at(median), height=_HEIGHT - 8, cls=f"bar {kind(row)}")
    if median > 1:
        gap = el("line", x1="97%", x2="97.8%", y1="92%", y2="8%", cls="cut")
        picture = _svg(label, bar, gap)
    elif row["n"] < ENOUGH:
        picture = _svg(label, bar)
    else:
        picture = _svg(
            label,
            bar,
            el("line", x1=_at(low), x2=_at(high), y1="50%", y2="50%", cls="whisker"),
            *[_line(_at(end), "whisker", "32%", "68%") for end in (low, high) if end <= 1],
        )
    note = join([f"n = {row['n']}", "  ", _against(row, rows)])
    return _row(row["provider"], picture, time_text(row["median_us"]), note, kind(row))


def _against(row: Row, rows: list[Row]) -> Html | str:
    """Ours against the fastest peer; a peer with another result says so."""
    if row["peer"]:
        return "" if row["validated"] else other_result(row)
    ratio = ahead(row, rows)
    return "" if ratio is None else el("b", f"× {ratio:.3g}")


def other_result(row: Row) -> str:
    """Most values beyond their dtype's rounding are no matter of exactness."""
    return "another result" if (row["differing"] or 0) > 0.5 else "less exact"


def _apart(row: Row) -> str:
    """How far a peer's result is from the reference's, as measured."""
    what = "computes something else" if other_result(row) == "another result" else "is less exact"
    about = f" It is {row['about']}" if row["about"] else ""
    return (
        f"{row['provider']} {what}: {percent(row['differing'])} of the values differ from the "
        f"reference's; {row['apart']}.{about}"
    )


def dims_text(dims: dict[str, Any], scaled: dict[str, Any]) -> str:
    """`scaled` holds the declared values of those that were made smaller."""
    return "  ".join(_dim_text(k, v, scaled.get(k)) for k, v in dims.items())


def _dim_text(name: str, value: Any, full: Any) -> str:
    return f"{name} {value}" if full is None else f"{name} {value} of {full}{_factor(value, full)}"


def _factor(value: Any, full: Any) -> str:
    numbers = isinstance(value, int) and isinstance(full, int) and value > 0
    return f" (1/{full / value:.3g})" if numbers else ""


# ---- share of the roofline


def roofline(rows: Sequence[Row]) -> Html:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["sol"] is not None:
            groups.setdefault((row["device"], row["op"]), []).append(row)
    made = []
    for (_, op), found in groups.items():
        head = el("h4", op)
        made.append(el("div", head, *[_roof_row(r) for r in found], cls="group long"))
    return join(made)


def _roof_row(row: Row) -> Html:
    share, bound = row["sol"], {"bytes": "memory", "flops": "arithmetic"}.get(row["sol_bound"], "")
    picture = _svg(
        f"{row['case']} {row['provider']}: {percent(share)} of the measured roofline",
        *[_line(f"{x}%", "grid") for x in (25, 50, 75)],
        _line("100%", "limit"),
        el("rect", x="0", y=4, width=_at(share), height=_HEIGHT - 8, cls=f"bar {kind(row)}"),
    )
    label = join([row["case"], " ", el("small", row["provider"])])
    if share > ABOVE:
        return _row(label, picture, "no ceiling", f"{bound}: {share:.2g} times it", kind(row))
    return _row(label, picture, percent(share), bound, kind(row))


# ---- error against tolerance


def tolerance(checks: Sequence[Row]) -> Html:
    """A strip for each op and provider, a dot for each check that ran."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for check in checks:
        if check["status"] != "not run":
            groups.setdefault((check["op"], check["provider"]), []).append(check)
    blocks = []
    for op in dict.fromkeys(op for op, _ in groups):
        rows = [_strip(p, found) for (o, p), found in groups.items() if o == op]
        blocks.append(el("div", el("h4", op), *rows, cls="group"))
    return join(blocks)


def _strip(provider: str, checks: list[Row]) -> Html:
    used = [c["used"] for c in checks if c["used"] is not None]
    wrong = sum(c["status"] == "wrong" for c in checks)
    colour = "own" if checks[0]["own"] else "reference" if provider == "reference" else "peer"
    picture = _svg(
        f"{provider}: {len(checks)} checks, {percent(max(used, default=None))} at most",
        el("line", x1="0", x2="100%", y1="50%", y2="50%", cls="grid"),
        _line(_at(1 / _TOP), "limit"),
        *[_dot(c, colour) for c in sorted(checks, key=lambda c: c["status"] == "wrong")],
    )
    worst = f"{wrong} wrong" if wrong else percent(max(used, default=None))
    count = f"{len(checks)} check{'s' * (len(checks) != 1)}"
    return _row(provider or "–", picture, worst, count, f"{colour}{' wrong' * bool(wrong)}")


def _dot(check: Row, colour: str) -> Html:
    used = check["used"]
    wrong = check["status"] == "wrong"
    place = _TOP if used is None and wrong else min(used or 0.0, _TOP)
    name = f"{check['case']} on {check['device']}: {percent(used) if used is not None else 'wrong'}"
    # Half a dot of room at both ends.
    x = f"{1 + 98 * place / _TOP:.2f}%"
    return el("circle", el("title", name), cx=x, cy="50%", r=4,
              cls=f"dot {'wrong' if wrong else colour}")  # fmt: skip
