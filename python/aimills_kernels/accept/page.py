"""The report as one page: no script, nothing from outside, light and dark, on paper too. Needs no
torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from aimills_kernels.accept import charts, pod_charts, pod_tables, tables
from aimills_kernels.accept.facts import CPU, POD, SIMULATED, criteria_named, listed
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

_REASONS = 20  # in the head
_SHAPES_STAGE = "model shapes"
_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
_ROUND = {"accepted": "good", "rejected": "bad", "incomplete": "open"}


def render(data: dict[str, Any], pictures: Sequence[dict[str, Any]] = ()) -> str:
    """The page for a report; `pictures` are what the video op made, as `report.pictures` has them:
    caption, data (a data URI), width and height."""
    shown = [p for p in pictures if _is_picture(p)]
    parts = [*_pod(data), *_checks_and_times(data, shown), _foot(data)]
    return document(data["headline"], parts, paper=_PAPER.get(data["hardware"], _NO_POD))


def _pod(data: dict[str, Any]) -> list[Html]:
    bench = [row for record in data["bench"] for row in record["rows"]]
    found = [_banner(data), _head(data), _figures(data, bench), _rules(data)]
    if data["comparison"]:
        found.append(_comparison(data))
    if data["traces"] and (drawn := pod_charts.traces(data)):
        found.append(section("The burn over time", _TRACES, *drawn))
    if data["devices"]:
        found.append(_energy(data))
    if data["events"]:
        found.append(section("What happened", _EVENTS, pod_tables.events(data["events"])))
    if data["checksums"]:
        found.append(section("Bits of results", _BITS, pod_tables.checksums(data["checksums"])))
    return [*found, section("Stages", "", tables.stages(data))]


def _checks_and_times(data: dict[str, Any], pictures: Sequence[dict[str, Any]]) -> list[Html]:
    bench = [row for record in data["bench"] for row in record["rows"]]
    found = [_real_input(data, pictures)] if pictures else []
    if calls := [c for c in data["validations"] if c["stage"] == _SHAPES_STAGE]:
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
    if data["validations"]:
        found.append(section("Every check", _CHECKS, tables.checks(data)))
    if data["devices"]:
        found.append(section("Devices and their journals", _JOURNALS, pod_tables.devices(data)))
    if data["environment_differs"]:
        text = "Facts that are not the same on all nodes."
        found.append(
            section("Between nodes", text, pod_tables.differing(data["environment_differs"]))
        )
    found.append(section("Environment", "", environment(data["environment"])))
    return found


# ---- the top


# On each sheet of paper: sheets get apart.
_NO_POD = "Not pod hardware"
_PAPER = {SIMULATED: "SIMULATED, not pod hardware", CPU: "CPU, not pod hardware", POD: ""}
_BANNERS = {
    SIMULATED: "Simulated. No hardware was measured: every figure on this page was made up by a "
    "program, to train people and to test the rules.",
    CPU: "A CPU, not pod hardware. It shows that the library computes right here, and nothing of a "
    "pod.",
}


def _banner(data: dict[str, Any]) -> Html:
    unknown = "What was under test is not known, so this is no report of a pod."
    if data["hardware"] == POD:
        return Html("")
    return el("p", _BANNERS.get(data["hardware"], unknown), cls="banner", role="note")


def _head(data: dict[str, Any]) -> Html:
    word = data["verdict"]
    parts = [el("b", word), el("span", data["headline"].removeprefix(word))]
    facts = [
        "aimills-kernels " + data["version"],
        data["created"].replace("T", " ").replace("+00:00", " UTC"),
        f"{data['seconds']:.0f} s",
        f"profile {data['profile']}" if data["profile"] else "",
        criteria_named(data["criteria"]),
        f"seed {data['seed']}",
        f"run {data['run']}" if data["run"] else "",
        _named(data),
    ]
    whole = word != "accepted" or not data["excluded"]
    whole = whole and data["hardware"] != SIMULATED
    made = [el("h1", *parts, cls=_ROUND[word] if whole or word == "rejected" else "open")]
    if data["reasons"]:
        made.append(_listed(data["reasons"]))
    if data["warnings"]:
        made.append(el("p", el("b", "Warnings"), cls="unchecked"))
        made.append(_listed(data["warnings"]))
    made.append(
        el("p", el("b", "Not checked: "), "; ".join(data["not_checked"]) + ".", cls="unchecked")
    )
    made.append(el("p", " · ".join(fact for fact in facts if fact), cls="stamp"))
    return el("header", *made)


def _listed(texts: Sequence[str]) -> Html:
    items = [el("li", text) for text in texts[:_REASONS]]
    if len(texts) > _REASONS:
        items.append(el("li", f"and {len(texts) - _REASONS} more, in the rules below"))
    return el("ul", *items, cls="reasons")


def _named(data: dict[str, Any]) -> str:
    return listed([d["where"] for d in data["devices"]], 8)


def _figures(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    checks = data["validations"]
    right = sum(c["status"] == "right" for c in checks)
    wrong = sum(c["status"] == "wrong" for c in checks) + sum(bool(r["failure"]) for r in bench)
    used = [c["used"] for c in checks if c["status"] == "right" and c["used"] is not None]
    gaps = sum(n["count"] for n in data["not_run"] if n["gap"])
    states = Counter(f["status"] for f in data["findings"])
    found = [
        (f"{len(data['devices'])} of {data['world']}", "devices under test"),
        (str(states["pass"]), f"rules held, of {len(data['findings'])} asked"),
        (str(states["fail"]), "broken"),
        (str(states["unknown"]), "could not be asked"),
        (str(right), "checks right"),
        (str(wrong), "wrong"),
        (str(gaps), f"gap{'s' * (gaps != 1)}: due, and not run"),
    ]
    if any(c["status"] != "not run" for c in checks) and not wrong:
        found.append((percent(max(used, default=None)), "of a tolerance used at most"))
    if data["clip"]:
        found.append((f"{data['clip']['frames']}", f"frames of {data['clip']['height']}p decoded"))
    if best := best_ratio(bench):
        found.append(best)
    return figures(found)


# ---- the pod


def _rules(data: dict[str, Any]) -> Html:
    if not data["findings"]:
        return section("Rules", "No rule was asked, so nothing can be said of this machine.")
    found = data["findings"]
    return section(
        "Rules", _RULES, pod_tables.rules(found), pod_tables.sources(found),
        pod_tables.bad(found), pod_tables.findings(found),
    )  # fmt: skip


def _comparison(data: dict[str, Any]) -> Html:
    same = pod_charts.same_on_all(data)
    text = el("p", f"The same on all: {same}.", cls="lead") if same else Html("")
    return section(
        "The devices side by side", _COMPARISON, pod_charts.comparison(data), text,
        pod_tables.values(data),
    )  # fmt: skip


def _energy(data: dict[str, Any]) -> Html:
    text = f"Read from {data['energy']['level']}. A sum stands only where every device has a value."
    sweep = [pod_tables.sweep(found)] if (found := data["energy"]["sweep"]) else []
    return section("Energy", text, pod_tables.energy(data), *sweep, pod_tables.eu(data))


# ---- pictures


def _is_picture(found: dict[str, Any]) -> bool:
    sizes = [found.get(k) for k in ("width", "height")]
    return _PNG.fullmatch(str(found.get("data"))) is not None and all(
        isinstance(s, int) for s in sizes
    )


def _real_input(data: dict[str, Any], pictures: Sequence[dict[str, Any]]) -> Html:
    clip = data["clip"] or {}
    text = (
        f"{clip.get('frames')} frames of {clip.get('width')} × {clip.get('height')} H.264 "
        f"({clip.get('source')}, tagged {clip.get('color_space')}, {clip.get('color_range')} "
        f"range) went from the decoder's memory, {clip.get('pitch')} bytes a line, through "
        "video_to_tensor. This is what came out, normalisation undone."
    )
    first: dict[Any, dict[str, Any]] = {}
    for picture in pictures:
        first.setdefault((picture["height"], picture["width"]), picture)
    shown = [
        el("figure", el("img", src=p["data"], width=p["width"], height=p["height"],
                        alt=f"Output of video_to_tensor, {p['caption']}"),
           el("figcaption", p["caption"], _reshaped(clip, p["height"], p["width"])))
        for p in first.values()
    ]  # fmt: skip
    return section("The main job on real input", text, el("div", *shown, cls="pictures"))


def _reshaped(clip: dict[str, Any], height: int, width: int) -> str:
    """A note for a picture that is not in the clip's proportions."""
    if not clip:
        return ""
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


_RULES = (
    "What was measured, what it is held against, and where that figure comes from. The verdict "
    "follows from these rules and from nothing else: one that is broken rejects, one that could "
    "not be asked leaves it incomplete."
)
_COMPARISON = (
    "A dot is a device, the line in the middle the pod's median, and each row has its own scale. "
    "To the right the median, and the device that is farthest from it."
)
_TRACES = "Readings of the devices themselves, in steps of equal length; the journals hold each."
_EVENTS = "Crashes, resumptions, signals and silence, as the journals have them."
_BITS = (
    "Devices of one model and driver must make the same bits from the same input. A digest that "
    "only some have names those."
)
_JOURNALS = (
    "Each device's process wrote a journal in which an entry holds the hash of the one before it, "
    "so the last hash stands for all. aimills-kernels accept verify holds them against this "
    "report, offline."
)
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
    if data["hardware"] == CPU:
        cpu = facts.get("cpu") or {}
        return f"{cpu.get('model') or 'this CPU'} ({cpu.get('threads')} threads)"
    names = [d["sku"] for d in data["devices"]]
    left = data["bench_left_out"]
    more = f"; records of {left} further devices are in the journals" if left else ""
    return ", ".join(dict.fromkeys(names)) + more


def _foot(data: dict[str, Any]) -> Html:
    text = (
        f"report.json beside this page holds all of it for machines (schema {data['schema']}). A "
        "pass covers the checks that are named here and is no general statement of health."
    )
    return el("footer", el("p", text))
