"""Plots with two axes. Places are in percent and letters in pixels, so a plot fits any width, on a
page as well as in a picture of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aimills_kernels.report.html import Html, el
from aimills_kernels.report.words import Row, kind, three

HEIGHT = 260
_TICKS = 6
_LEAST = 1e-307  # a logarithmic axis starts here and ends at one over it
_LEAST_GAP = 0.13  # of the width, between the middles of two labels below the axis
# Told apart without colour: shapes of about nine pixels around 0, 0.
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", "M-4 -4h8v8h-8z", "M0 -5.5L5 4h-10z",
    "M0 -5.5L5.5 0L0 5.5L-5.5 0z", "M0 5.5L5 -4h-10z", "M-4.5 -4.5L4.5 4.5M-4.5 4.5L4.5 -4.5",
    "M0 -5.5V5.5M-5.5 0H5.5", "M-5 -3h10v6h-10z",
)  # fmt: skip
_DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 3", "6 2 1 2 1 2")


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `title` names what and in which unit."""

    title: str
    low: float
    high: float
    log: bool = False
    text: Callable[[float], str] = three
    named: Sequence[float] = ()  # where ticks are to be, if not at round values

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`."""
        if self.log:
            low = math.log(self.low)
            return (math.log(value) - low) / (math.log(self.high) - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.named:
            return _spaced(self.named, self.share)
        found = _decades(self.low, self.high) if self.log else []
        return found if len(found) > 1 else _round(self.low, self.high)


def axis(title: str, values: Iterable[float], *, log: bool = False, **more: Any) -> Axis:
    """Around these values, with some room; values that are equal are put in the middle."""
    known = list(values)
    low, high = min(known), max(known)
    if log:
        room = max(math.exp(0.06 * (math.log(high) - math.log(low))), 1.25)
        return Axis(title, max(low / room, _LEAST), min(high * room, 1 / _LEAST), True, **more)
    room = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(title, low - room, high + room, False, **more)


def _spaced(places: Sequence[float], share: Callable[[float], float]) -> list[float]:
    """Those that leave room for their labels; the first and the last are kept."""
    ordered = sorted(set(places))
    kept = [ordered[0]]
    for place in ordered[1:-1]:
        room = min(share(place) - share(kept[-1]), share(ordered[-1]) - share(place))
        if room >= _LEAST_GAP:
            kept.append(place)
    return [*kept, ordered[-1]] if len(ordered) > 1 else kept


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        step = -(-(last - first + 1) // _TICKS)
        return [10.0**e for e in range(first, last + 1, step)]
    values = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
    return [v for v in values if low <= v <= high]


def _round(low: float, high: float) -> list[float]:
    raw = (high - low) / (_TICKS - 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass
class Plot:
    """What is drawn, and in words what it shows."""

    title: str
    about: str
    x: Axis
    y: Axis
    marks: list[Html] = field(default_factory=list)
    legend: list[tuple[Html, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    own: str = ""  # what `about` does not say of other plots too

    def line(self, ax: float, ay: float, bx: float, by: float, cls: str, **more: Any) -> None:
        """A straight one between two points."""
        self.marks.append(
            el("line", x1=_percent(self.x.share(ax)), y1=_percent(1 - self.y.share(ay)),
               x2=_percent(self.x.share(bx)), y2=_percent(1 - self.y.share(by)), cls=cls, **more)
        )  # fmt: skip

    def put(self, x: float, y: float, drawn: Html) -> None:
        """Something of fixed size at a point."""
        self.marks.append(_fixed(_percent(self.x.share(x)), _percent(1 - self.y.share(y)), drawn))

    def note(self, x: float, text: str) -> None:
        """A word at the top, above `x`."""
        self.marks.append(
            el("text", text, x=_percent(self.x.share(x)), y=-6, cls="tick", text_anchor="middle")
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _fixed(x: str, y: str, drawn: Html) -> Html:
    return el("svg", drawn, x=x, y=y, width=1, height=1, overflow="visible")


# ---- contestants


@dataclass(frozen=True)
class Look:
    """How a provider looks in all plots of an op."""

    shape: str
    dash: str | None
    cls: str

    def mark(self, title: str = "", flawed: bool = False) -> Html:
        inside = [el("title", title)] if title else []
        return el("path", *inside, d=self.shape, cls=f"mark {self.cls}{' flawed' * flawed}")

    def sample(self) -> Html:
        """For a legend, 26 by 12 pixels."""
        stroke = el("line", x1=0, x2=26, y1=6, y2=6, cls=f"curve {self.cls}",
                    stroke_dasharray=self.dash)  # fmt: skip
        return _key(stroke, _fixed("13", "6", self.mark()))


def _key(*drawn: Html) -> Html:
    return el("svg", *drawn, width=26, height=12, cls="sample", aria_hidden="true")


def line_key(cls: str) -> Html:
    return _key(el("line", x1=0, x2=26, y1=6, y2=6, cls=cls))


def looks(rows: Iterable[Row]) -> dict[str, Look]:
    """By provider: the one of ours with the most times has the plainest shape."""
    kinds: dict[str, str] = {}
    times: dict[str, int] = {}
    for row in rows:
        kinds[row["provider"]] = kind(row)
        times[row["provider"]] = times.get(row["provider"], 0) + (row["median_us"] is not None)
    rank = ("own", "peer", "reference").index
    order = sorted(kinds, key=lambda name: (rank(kinds[name]), -times[name], name))
    return {
        name: Look(_SHAPES[i % len(_SHAPES)], _DASHES[i % len(_DASHES)], kinds[name])
        for i, name in enumerate(order)
    }


# ---- on a page, and as a picture of its own


def figures_of(plots: Iterable[Plot]) -> list[Html]:
    """What is said of several plots stands above the first of them."""
    told: set[str] = set()
    made = []
    for plot in plots:
        made.append(figure(plot, "" if plot.about in told else plot.about))
        told.add(plot.about)
    return made


def figure(plot: Plot, about: str) -> Html:
    keys = [el("span", sample, text) for sample, text in plot.legend]
    notes = [el("p", text, cls="apart") for text in plot.missing]
    return el(
        "figure",
        el("figcaption", el("b", plot.title), " ", f"{plot.own} {about}".strip()),
        el("p", *keys, cls="legend"),
        el(
            "div",
            el("svg", *drawn(plot), width="100%", height=HEIGHT, role="img"),
            cls="axes",
            style=f"padding-bottom:{_below(plot) + 12}px",
        ),
        *notes,
        cls="chart",
    )


def drawn(plot: Plot) -> list[Html]:
    return [
        el("title", plot.title),
        el("desc", " ".join([plot.own, plot.about, *plot.missing]).strip()),
        *_grid(plot),
        *plot.marks,
    ]


def _below(plot: Plot) -> int:
    """Pixels from the plot's lower edge to the title of its x axis."""
    return 36 + 14 * max((plot.x.text(v).count("\n") for v in plot.x.ticks()), default=0)


def _grid(plot: Plot) -> list[Html]:
    made = []
    for value in plot.x.ticks():
        at = _percent(plot.x.share(value))
        made.append(el("line", x1=at, x2=at, y1="0", y2="100%", cls="grid"))
        lines = plot.x.text(value).split("\n")
        made += [
            el("text", text, x=at, y="100%", dy=17 + 14 * i, cls="tick", text_anchor="middle")
            for i, text in enumerate(lines)
        ]
    for value in plot.y.ticks():
        at = _percent(1 - plot.y.share(value))
        made.append(el("line", x1="0", x2="100%", y1=at, y2=at, cls="grid"))
        made.append(el("text", plot.y.text(value), x="0", y=at, dx=-8, dy=4, cls="tick",
                       text_anchor="end"))  # fmt: skip
    made.append(el("text", plot.y.title, x="0", y=-22, dx=-56, cls="axis"))
    made.append(el("text", plot.x.title, x="100%", y="100%", dy=_below(plot), cls="axis",
                   text_anchor="end"))  # fmt: skip
    return made
