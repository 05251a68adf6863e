"""Pictures of the pod: its devices side by side, and their burn over time. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from statistics import mean
from typing import Any

from aimills_kernels.accept.facts import listed
from aimills_kernels.accept.findings import FAIL, UNKNOWN, WARN
from aimills_kernels.accept.traces import BITS
from aimills_kernels.accept.values import number, quantity, title
from aimills_kernels.report.axes import Plot, axis, figures_of, line_key
from aimills_kernels.report.bars import at, line, row, svg
from aimills_kernels.report.html import Html, el, join

Row = dict[str, Any]

DOTS, LINES = 240, 64  # of a picture; more devices than that are thinned, flagged ones never
_LEAST_WIDTH = 0.01  # half of a scale, of the median: below that a spread is noise
_CURVES = (
    ("power_w", "Power", "W"),
    ("temperature_c", "Temperature", "°C"),
    ("memory_temperature_c", "Temperature of the memory", "°C"),
    ("sm_mhz", "SM clock", "MHz"),
    ("cpu_mhz", "CPU clock", "MHz"),
    ("cpu_share", "Load of the CPU", "share of its cores"),
)
_DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 2", "1 2")


def flagged(data: Row) -> dict[tuple[str | None, str], str]:
    """By metric and place the worst outcome that is no pass."""
    found: dict[tuple[str | None, str], str] = {}
    for status in (UNKNOWN, WARN, FAIL):
        found |= {(f["metric"], f["where"]): status for f in data["findings"]
                  if f["status"] == status}  # fmt: skip
    return found


# ---- devices side by side


def comparison(data: Row) -> Html:
    """A strip for each metric that is not the same on all devices."""
    marks = flagged(data)
    rows = [
        _strip(metric, found, data["devices"], marks)
        for metric, found in data["comparison"].items()
        if found["low"]["value"] != found["high"]["value"]
    ]
    return el("div", *rows, cls="group pod")


def same_on_all(data: Row) -> str:
    return "; ".join(
        f"{title(metric)} {quantity(found['median'], found['unit'], metric)}"
        for metric, found in data["comparison"].items()
        if found["low"]["value"] == found["high"]["value"]
    )


def _strip(metric: str, found: Row, devices: Sequence[Row], marks: dict) -> Html:
    middle, unit = found["median"], found["unit"]
    ends = [found[k]["value"] for k in ("low", "high")]
    half = max(*(1.1 * abs(v - middle) for v in ends), _LEAST_WIDTH * abs(middle), 1e-300)
    known = [
        (value, d["where"], marks.get((metric, d["where"]), ""))
        for d in devices
        if metric in d["measures"] and (value := number(d["measures"][metric]["value"])) is not None
    ]
    plain = _thinned([k for k in known if not k[2]], DOTS)
    dots = [
        _dot(0.5 + 0.49 * (value - middle) / half, f"{where}: {quantity(value, unit, metric)}",
             mark)
        for value, where, mark in [*plain, *[k for k in known if k[2]]]
    ]  # fmt: skip
    far = max((found["low"], found["high"]), key=lambda end: abs(end["value"] - middle))
    about = f"{title(metric)}: median {quantity(middle, unit, metric)}, " + " to ".join(
        quantity(v, unit, metric) for v in ends
    )
    base = el("line", x1="0", x2="100%", y1="50%", y2="50%", cls="grid")
    picture = svg(about, base, line("50%", "median"), *dots)
    worst = next((s for s in (FAIL, WARN) if any(k[2] == s for k in known)), "")
    return row(title(metric), picture, quantity(middle, unit, metric), _far(far, middle, metric),
               "broken" if worst == FAIL else "")  # fmt: skip


def _far(end: Row, middle: float, metric: str) -> str:
    if not middle:
        return f"{quantity(end['value'], '1', metric)} {end['where']}"
    return f"{100 * (end['value'] / middle - 1):+.1f} % {end['where']}"


def _dot(share: float, text: str, mark: str) -> Html:
    cls = {FAIL: "wrong", WARN: "warned", UNKNOWN: "warned"}.get(mark, "own")
    return el("circle", el("title", text), cx=at(share), cy="50%", r=4, cls=f"dot {cls}")


def _thinned(found: Sequence[Any], most: int) -> list[Any]:
    """Of many, so many by their rank, the ends among them."""
    ordered = sorted(found, key=lambda x: x[:2])
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


# ---- the burn over time


def traces(data: Row) -> list[Html]:
    found = data["traces"]
    apart = {f["where"]: "warned" for f in data["findings"] if f["status"] in (WARN, UNKNOWN)}
    apart |= {f["where"]: "failed" for f in data["findings"] if f["status"] == FAIL}
    drawn = [t for t in found if t["where"] not in apart][: max(LINES - len(apart), 0)]
    drawn += [t for t in found if t["where"] in apart][:LINES]
    plots = [_curve(drawn, len(found), apart, *curve) for curve in _CURVES]
    return figures_of(p for p in (*plots, _throttle(found)) if p is not None)


def _curve(
    found: Sequence[Row], of: int, apart: dict[str, str], name: str, text: str, unit: str
) -> Plot | None:
    known = [t for t in found if name in t]
    values = [v for t in known for v in t[name] if v is not None]
    if not values:
        return None
    about = "A line is a device; those with a rule broken, in warning or unknown are drawn apart."
    plot = Plot(f"{text} over the burn", about, _time(known), axis(f"{text} ({unit})", values))
    for trace in known:
        cls = f"curve {apart.get(trace['where'], 'trace')}"
        plot.marks.append(_path(plot, trace["seconds"], trace[name], cls, trace["where"]))
    for cls in ("trace", "warned", "failed"):
        names = [t["where"] for t in known if apart.get(t["where"], "trace") == cls]
        if names:
            said = "devices" if cls == "trace" else listed(names)
            plot.legend.append((line_key(f"curve {cls}"), said))
    if len(known) < of:
        plot.missing.append(f"{len(known)} of {of} devices are drawn: the others have no such "
                            "reading or are left to report.json.")  # fmt: skip
    return plot


def _throttle(found: Sequence[Row]) -> Plot | None:
    """By reason the mean over the devices, and the worst of them."""
    reasons = [name for name in BITS if any(name in t["throttle"] for t in found)]
    if not reasons:
        return None
    about = (
        "Share of the samples in which a reason to run slower was set, mean over the devices. "
        "A software power cap is how a GPU holds its power limit in a burn."
    )
    plot = Plot("Reasons to run slower over the burn", about, _time(found),
                axis("share of samples (%)", [0.0, 100.0]))  # fmt: skip
    most = max((t for t in found), key=lambda t: len(t["seconds"]))
    for name, dash in zip(reasons, cycle(_DASHES), strict=False):
        shares = [_mean_at(found, name, i) for i in range(len(most["seconds"]))]
        cls = "curve own" if name == "sw_power_cap" else "curve failed"
        plot.marks.append(_path(plot, most["seconds"], shares, cls, name, dash))
        plot.legend.append((_dashed_key(cls, dash), name.replace("_", " ")))
    return plot


def _mean_at(found: Sequence[Row], name: str, place: int) -> float | None:
    """A device that never had the reason counts with 0."""
    shares = []
    for trace in found:
        if place < len(trace["seconds"]):
            column = trace["throttle"].get(name)
            share = column[place] if column else 0.0
            shares += [] if share is None else [share]
    return 100 * mean(shares) if shares else None


def _time(found: Sequence[Row]) -> Any:
    longest = max(t["seconds"][-1] for t in found)
    size, unit = (60.0, "min") if longest > 300 else (1.0, "s")
    return axis(f"time in the burn ({unit})", [0.0, longest],
                text=lambda v: f"{v / size:.3g}", named=_marks(longest, size))  # fmt: skip


def _marks(longest: float, size: float) -> list[float]:
    """Round values from 0 to the end."""
    raw = longest / size / 5
    power = 10.0 ** math.floor(math.log10(max(raw, 1e-9)))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [i * step * size for i in range(int(longest / size / step) + 1)]


def _path(
    plot: Plot, xs: Sequence[float], ys: Sequence[float | None], cls: str, text: str,
    dash: str | None = None,
) -> Html:  # fmt: skip
    """A line through all points that are known, broken where one is not."""
    parts, up = [], True
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            up = True
            continue
        place = f"{1000 * plot.x.share(x):.0f} {1000 * (1 - plot.y.share(y)):.0f}"
        parts.append(("M" if up else "L") + place)
        up = False
    path = el("path", el("title", text), d="".join(parts), cls=cls, stroke_dasharray=dash,
              vector_effect="non-scaling-stroke")  # fmt: skip
    return el("svg", path, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%",
              height="100%", overflow="visible")  # fmt: skip


def _dashed_key(cls: str, dash: str | None) -> Html:
    stroke = el("line", x1=0, x2=26, y1=6, y2=6, cls=cls, stroke_dasharray=dash)
    return join([el("svg", stroke, width=26, height=12, cls="sample", aria_hidden="true")])
