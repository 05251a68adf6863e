"""The tables of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.parts import status, table
from aimills_kernels.report.words import dims_text, percent


def stages(data: dict[str, Any]) -> Html:
    rows = [
        (s["title"], status(s["status"]), f"{s['seconds']:.1f} s", s["failure"] or s["summary"])
        for s in data["stages"]
    ]
    return table(("stage", "outcome", ">time", "what"), rows, "wide-last")


def not_run(data: dict[str, Any]) -> Html:
    entries = sorted(data["not_run"], key=lambda n: (not n["gap"], n["what"]))
    rows = [
        (
            n["what"],
            n["device"],
            str(n["count"]),
            status("gap") if n["gap"] else "",
            n["reason"],
        )
        for n in entries
    ]
    return table(("what", "device", ">times", "a gap", "why"), rows, "wide-last")


def shapes(calls: Sequence[dict[str, Any]]) -> Html:
    rows = [
        (
            c["op"], join([c["case"], el("small", f"{c['provider']} on {c['device']}")]),
            status(c["status"]), dims_text(c["dims"], c["scaled"]),
        )
        for c in calls
    ]  # fmt: skip
    return table(("op", "case", "outcome", "dims as run"), rows, "wide-last")


def checks(data: dict[str, Any]) -> Html:
    """Every check, folded by op; open where something is wrong."""
    made = []
    for op in dict.fromkeys(c["op"] for c in data["validations"]):
        mine = [c for c in data["validations"] if c["op"] == op and c["status"] != "not run"]
        wrong = sum(c["status"] == "wrong" for c in mine)
        text = f"{len(mine) - wrong} right" + (f", {wrong} wrong" if wrong else "")
        head = el("summary", el("b", op), f"  {text}")
        columns = ("case", "provider", "device", "outcome", ">tolerance used", "figures")
        rows = [_check(c) for c in sorted(mine, key=lambda c: c["status"] != "wrong")]
        made.append(
            el("details", head, table(columns, rows, "wide-last"), open="" if wrong else None)
        )
    return join(made)


def _check(c: dict[str, Any]) -> tuple:
    case = join([c["case"], el("small", dims_text(c["dims"], c["scaled"]))])
    figures = "; ".join(c["failures"]) or "; ".join(
        f"{name}: {o['text']}" for name, o in c["outputs"].items()
    )
    return case, c["provider"], c["device"], status(c["status"]), percent(c["used"]), figures
