"""The report as one page: no script, nothing from outside, light and dark, on paper too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from aimills_kernels.accept import charts, png, shapes, tables
from aimills_kernels.harness._reading import ENOUGH
from aimills_kernels.report.bars import legend, times
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.parts import (
    ceilings_text,
    document,
    environment,
    figures,
    section,
    with_care,
)
from aimills_kernels.report.words import best_ratio, percent

_ROUND = {"accepted": "good", "rejected": "bad", "incomplete": "open"}


def render(data: dict[str, Any], pictures: Sequence[tuple[str, Tensor]] = ()) -> str:
    """The page for a report; `pictures` are what the video op made, [H, W, 3] u8."""
    return document(data["headline"], _sections(data, pictures))


def _sections(data: dict[str, Any], pictures: Sequence[tuple[str, Tensor]]) -> list[Html]:
    bench = [row for record in data["bench"] for row in record["rows"]]
    found = [
        _head(data),
        _figures(data, bench),
        section("Stages", "", tables.stages(data)),
    ]
    if pictures:
        found.append(_real_input(data, pictures))
    if calls := [c for c in data["validations"] if c["stage"] == shapes.STAGE]:
        text = _SHAPES + _SCALED * any(c["scaled"] for c in calls)
        found.append(section("Shapes of real models", text, tables.shapes(calls)))
    if any(r["median_us"] is not None for r in bench):
        found.append(_times(data, bench))
    if any(r["sol"] is not None for r in bench):
        found.append(_roofline(data, bench))
    if any(c["status"] != "not run" for c in data["validations"]):
        found.append(_tolerance(data))
    if data["not_run"]:
        found.append(section("Not run", _NOT_RUN, tables.not_run(data)))
    found.append(section("Every check", _CHECKS, tables.checks(data)))
    found.append(section("Environment", "", environment(data["environment"])))
    return [*found, _foot(data)]


# ---- the top


def _head(data: dict[str, Any]) -> Html:
    word = data["verdict"]
    parts = [el("b", word), el("span", data["headline"].removeprefix(word))]
    facts = [
        "aimills-kernels " + data["version"],
        data["created"].replace("T", " ").replace("+00:00", " UTC"),
        f"{data['seconds']:.0f} s",
        f"seed {data['seed']}",
        *data["devices"],
    ]
    whole = word != "accepted" or not data["excluded"]
    made = [el("h1", *parts, cls=_ROUND[word] if whole else "open")]
    if data["reasons"]:
        made.append(el("ul", *[el("li", r) for r in data["reasons"]], cls="reasons"))
    made.append(
        el("p", el("b", "Not checked: "), "; ".join(data["not_checked"]) + ".", cls="unchecked")
    )
    made.append(el("p", " · ".join(facts), cls="stamp"))
    return el("header", *made)


def _figures(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    checks = data["validations"]
    right = sum(c["status"] == "right" for c in checks)
    wrong = sum(c["status"] == "wrong" for c in checks) + sum(bool(r["failure"]) for r in bench)
    used = [c["used"] for c in checks if c["status"] == "right" and c["used"] is not None]
    gaps = sum(n["count"] for n in data["not_run"] if n["gap"])
    found = [
        (str(right), "checks right"),
        (str(wrong), "wrong"),
        (str(gaps), f"gap{'s' * (gaps != 1)}: due, and not run"),
    ]
    if not wrong:
        found.append((percent(max(used, default=None)), "of a tolerance used at most"))
    if data["clip"]:
        found.append((f"{data['clip']['frames']}", f"frames of {data['clip']['height']}p decoded"))
    if best := best_ratio(bench):
        found.append(best)
    return figures(found)


# ---- pictures


def _real_input(data: dict[str, Any], pictures: Sequence[tuple[str, Tensor]]) -> Html:
    clip = data["clip"] or {}
    text = (
        f"{clip.get('frames')} frames of {clip.get('width')} × {clip.get('height')} H.264 "
        f"({clip.get('source')}, tagged {clip.get('color_space')}, {clip.get('color_range')} "
        f"range) went from the decoder's memory, {clip.get('pitch')} bytes a line, through "
        "video_to_tensor. This is what came out, normalisation undone."
    )
    first: dict[Any, tuple[str, Tensor]] = {}
    for name, levels in pictures:
        first.setdefault(levels.shape, (name, levels))
    shown = [
        el("figure", el("img", src=png.data_uri(levels), width=levels.shape[1],
                        height=levels.shape[0], alt=f"Output of video_to_tensor, {name}"),
           el("figcaption", name, _reshaped(clip, levels)))
        for name, levels in first.values()
    ]  # fmt: skip
    return section("The main job on real input", text, el("div", *shown, cls="pictures"))


def _reshaped(clip: dict[str, Any], levels: Tensor) -> str:
    """A note for a picture that is not in the clip's proportions."""
    if not clip:
        return ""
    height, width = levels.shape[:2]
    before, after = f"{clip['width'] / clip['height']:.1f}", f"{width / height:.1f}"
    if before == after:
        return ""
    return (
        f". Out of proportion, from {before}:1 to {after}:1, as the size asks: nothing is cropped"
    )


def _times(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    text = (
        f"Median time of n calls on {_devices(data)}; whiskers are quartiles, and each case has "
        "its own scale; a bar with a gap is cut off. × is our speed over that of the fastest peer, "
        "even where that one is less exact or computes something else; the reference counts as "
        f"none. Below {ENOUGH} samples nothing is compared, and no quartile drawn. No verdict is "
        "drawn from a time."
    )
    return section("Time against peers", text, legend(), times(bench), with_care(bench))


def _roofline(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    text = [
        "The least time that the op's work needs at the ceilings measured in this run, over the "
        "time taken. Ceilings: ",
        "; ".join(dict.fromkeys(map(ceilings_text, data["bench"]))),
        ".",
    ]
    return section("Share of the roofline", join(text), legend(), charts.roofline(bench))


def _tolerance(data: dict[str, Any]) -> Html:
    text = (
        "Each dot is a check; the line is where a tolerance ends. A tolerance is, for most ops, "
        "twice the error that plain PyTorch makes in the same dtype, both against float64, so the "
        "reference itself stands at 50 %. Where values are rounded to levels or codes it is one "
        "step, so a tie that fell the other way stands near 100 %."
    )
    return section("Error against tolerance", text, legend(), charts.tolerance(data["validations"]))


_NOT_RUN = (
    "A provider runs what it is made for: a kernel for GPUs is not run on a CPU, and a vendor's "
    "path not on a problem that it does not take. These are counted here with their reasons, and "
    "so is what the time did not suffice for or what was excluded by name. A gap is something "
    "else: a check that acceptance needs and did not get. It keeps a machine from being accepted."
)

_SHAPES = "Each case was called through the public function."
_SCALED = (
    " A CPU runs most of them with smaller dims: what follows 'of' is the model's own, and in "
    "brackets how much is left of it."
)

_CHECKS = (
    "Outputs start as NaN inside a fence, inputs are compared afterwards, fresh data comes under "
    "the same pointers, and a repeat must agree bit for bit."
)


def _devices(data: dict[str, Any]) -> str:
    facts = data["environment"]
    if data["devices"] == ["cpu"]:
        cpu = facts.get("cpu") or {}
        return f"{cpu.get('model') or 'this CPU'} ({cpu.get('threads')} threads)"
    names = [str(g.get("name")) for g in facts.get("gpus") or []]
    return ", ".join(dict.fromkeys(names)) or ", ".join(data["devices"])


def _foot(data: dict[str, Any]) -> Html:
    text = (
        f"report.json beside this page holds all of it for machines (schema {data['schema']}). A "
        "pass covers the checks that are named here and is no general statement of health."
    )
    return el("footer", el("p", text))
