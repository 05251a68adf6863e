"""Plots as a picture of their own, SVG, for pages that hold no HTML: light and dark too."""

from __future__ import annotations

from collections.abc import Sequence

from aimills_kernels.report.axes import HEIGHT, Plot, drawn
from aimills_kernels.report.html import Html, el
from aimills_kernels.report.parts import PLOT_STYLE

_WIDTH, _LEFT, _RIGHT = 760, 68, 24
_HEAD, _LINE, _FOOT = 102, 20, 64  # above the plot without its legend, a legend's line, below
_LETTER = 6.6  # pixels of a letter of 12, on average


def render(plots: Sequence[Plot]) -> str:
    """The plots one below the other."""
    made: list[Html] = []
    top = 0
    for plot in plots:
        keys, lines = _legend(plot, top + 44)
        at = top + _HEAD + _LINE * lines
        made.append(el("text", plot.title, x=8, y=top + 24, cls="title"))
        made += keys
        made.append(
            el("svg", *drawn(plot), x=_LEFT, y=at, width=_WIDTH - _LEFT - _RIGHT, height=HEIGHT,
               overflow="visible", cls="axes")
        )  # fmt: skip
        top = at + HEIGHT + _FOOT
    title = el("title", "; ".join(plot.title for plot in plots))
    paper = el("rect", width="100%", height="100%", fill="var(--paper)")
    whole = el(
        "svg", title, el("style", Html(PLOT_STYLE)), paper, *made,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {top}", width=_WIDTH, height=top,
        role="img",
    )  # fmt: skip
    return f"{whole}\n"


def _legend(plot: Plot, top: int) -> tuple[list[Html], int]:
    """Its entries in lines, and how many lines there are."""
    made: list[Html] = []
    x, line = 8.0, 0
    for sample, text in plot.legend:
        width = 34 + _LETTER * len(text) + 18
        if x > 8 and x + width > _WIDTH:
            x, line = 8.0, line + 1
        y = top + _LINE * line
        made.append(el("svg", sample, x=f"{x:.0f}", y=y - 6, width=26, height=12))
        made.append(el("text", text, x=f"{x + 34:.0f}", y=y + 4, cls="key"))
        x += width
    return made, line
