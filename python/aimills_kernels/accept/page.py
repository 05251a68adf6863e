"""The report as one page: no script, nothing from outside, light and dark, on paper too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from aimills_kernels.accept import charts, png, shapes, tables
from aimills_kernels.accept._html import Html, el, join
from aimills_kernels.harness._rows import ENOUGH, ahead, fastest_peer
from aimills_kernels.harness.ceilings import serving_unit

_STYLE = Path(__file__).with_name("style.css")
# The page states that it loads nothing, and a browser holds it to that.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ROUND = {"accepted": "good", "rejected": "bad", "incomplete": "open"}


def render(data: dict[str, Any], pictures: Sequence[tuple[str, Tensor]] = ()) -> str:
    """The page for a report; `pictures` are what the video op made, [H, W, 3] u8."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{data['headline']} – aimills-kernels"),
        el("style", Html(_STYLE.read_text())),
    )
    body = el("body", el("main", *_sections(data, pictures)))
    return "<!doctype html>\n" + el("html", head, body, lang="en") + "\n"


def _sections(data: dict[str, Any], pictures: Sequence[tuple[str, Tensor]]) -> list[Html]:
    bench = [row for record in data["bench"] for row in record["rows"]]
    found = [
        _head(data),
        _figures(data, bench),
        _section("Stages", "", tables.stages(data)),
    ]
    if pictures:
        found.append(_real_input(data, pictures))
    if calls := [c for c in data["validations"] if c["stage"] == shapes.STAGE]:
        text = _SHAPES + _SCALED * any(c["scaled"] for c in calls)
        found.append(_section("Shapes of real models", text, tables.shapes(calls)))
    if any(r["median_us"] is not None for r in bench):
        found.append(_times(data, bench))
    if any(r["sol"] is not None for r in bench):
        found.append(_roofline(data, bench))
    if any(c["status"] != "not run" for c in data["validations"]):
        found.append(_tolerance(data))
    if data["not_run"]:
        found.append(_section("Not run", _NOT_RUN, tables.not_run(data)))
    found.append(_section("Every check", _CHECKS, tables.checks(data)))
    found.append(_section("Environment", "", tables.environment(data["environment"])))
    return [*found, _foot(data)]


def _section(title: str, text: Any, *children: Html) -> Html:
    lead = [el("p", text, cls="lead")] if text else []
    return el("section", el("h2", title), *lead, *children)


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
        found.append((charts.percent(max(used, default=None)), "of a tolerance used at most"))
    if data["clip"]:
        found.append((f"{data['clip']['frames']}", f"frames of {data['clip']['height']}p decoded"))
    if best := _best_ratio(bench):
        found.append(best)
    items = [el("div", el("dt", text), el("dd", value)) for value, text in found]
    return el("dl", *items, cls="figures")


def _best_ratio(bench: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The most that one of ours is ahead of the fastest peer, said with its case."""
    best = max(
        (row for row in bench if not row["peer"] and ahead(row, bench)),
        key=lambda row: ahead(row, bench) or 0.0,
        default=None,
    )
    if best is None or (peer := fastest_peer(best, bench)) is None:
        return None
    least = min(best["n"], peer["n"])
    than = peer["provider"] if peer["validated"] else _with_its_result(peer)
    text = f"the fastest peer ({than}) at best: {best['op']} {best['case']}, n = {least}"
    return f"× {ahead(best, bench):.1f}", text


def _with_its_result(peer: dict[str, Any]) -> str:
    return f"{peer['provider']}, {charts.other_result(peer)}"


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
    return _section("The main job on real input", text, el("div", *shown, cls="pictures"))


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


def _legend(*more: Html) -> Html:
    keys = [
        el("span", el("i", cls=f"key {name}"), text)
        for name, text in (("own", "ours"), ("peer", "peers"), ("reference", "the reference"))
    ]
    return el("p", *keys, *more, cls="legend")


def _times(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    text = (
        f"Median time of n calls on {_devices(data)}; whiskers are quartiles, and each case has "
        "its own scale; a bar with a gap is cut off. × is our speed over that of the fastest peer, "
        "even where that one is less exact or computes something else; the reference counts as "
        f"none. Below {ENOUGH} samples nothing is compared, and no quartile drawn. No verdict is "
        "drawn from a time."
    )
    return _section("Time against peers", text, _legend(), charts.times(bench), _suspects(bench))


def _suspects(bench: list[dict[str, Any]]) -> Html:
    """Times to be read with care, folded."""
    rows = [
        (f"{r['op']} {r['case']} {r['provider']}", r["device"], r["suspect"])
        for r in bench
        if r["suspect"]
    ]
    if not rows:
        return Html("")
    head = el("summary", f"{len(rows)} of these times are to be read with care")
    return el("details", head, tables.table(("what", "device", "why"), rows, "wide-last"))


def _roofline(data: dict[str, Any], bench: list[dict[str, Any]]) -> Html:
    text = [
        "The least time that the op's work needs at the ceilings measured in this run, over the "
        "time taken. Ceilings: ",
        "; ".join(dict.fromkeys(map(_ceilings, data["bench"]))),
        ".",
    ]
    return _section("Share of the roofline", join(text), _legend(), charts.roofline(bench))


def _ceilings(record: dict[str, Any]) -> str:
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


def _tolerance(data: dict[str, Any]) -> Html:
    text = (
        "Each dot is a check; the line is where a tolerance ends. A tolerance is, for most ops, "
        "twice the error that plain PyTorch makes in the same dtype, both against float64, so the "
        "reference itself stands at 50 %. Where values are rounded to levels or codes it is one "
        "step, so a tie that fell the other way stands near 100 %."
    )
    return _section(
        "Error against tolerance", text, _legend(), charts.tolerance(data["validations"])
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
