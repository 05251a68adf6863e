"""A benchmark of one forward pass of a real model: its calls, next to peers, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aimills_kernels._op import Cost, Op
from aimills_kernels._registry import OPS, get_op
from aimills_kernels.harness import bench, isolated
from aimills_kernels.harness._forward import TAG, Forward, forward
from aimills_kernels.harness._rows import time_text
from aimills_kernels.harness.models import MODELS, get_model

COLUMNS = ("call", "op", ">calls", "served by", ">time", ">in all", ">share", "best peer", ">x")
LISTED = ("model", "phases", ">layers", ">parameters", ">active", "source")


def passes(
    name: str, phase: str | None, *, tp: int = 1, batch: int = 1, context: int | None = None
) -> list[Forward]:
    """The forward passes of `phase`, or of every phase. ValueError where there is none such."""
    model = get_model(name)
    phases = (phase,) if phase else model.phases
    return [forward(model, p, tp=tp, batch=batch, context=context) for p in phases]


def run(
    found: Sequence[Forward],
    *,
    ops: Sequence[Op] | None = None,
    apart: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`bench.run` on the calls of these passes; rows carry `model` and `count`. With `apart` it is
    `isolated.run`, and `model` in it are the arguments of `passes` that gave `found`."""
    chosen = [with_cases(op, found) for op in (OPS if ops is None else ops)]
    options |= {"ops": [op for op in chosen if op.cases], "tag": TAG}
    record = isolated.run(**options, **apart) if apart else bench.run(**options)
    counts = {(c.op, c.case.name): c.count for f in found for c in f.calls}
    for row in record["rows"]:
        row |= {"model": found[0].model, "count": counts[row["op"], row["case"]]}
    record["options"]["model"] = [_stated(f) for f in found]
    return record


def declared(names: Sequence[str], asked: dict[str, Any]) -> list[Op]:
    """Ops by name, with the problems of `passes(**asked)`."""
    found = passes(**asked)
    return [with_cases(get_op(name), found) for name in names]


def with_cases(op: Op, found: Sequence[Forward]) -> Op:
    """The same op, with the passes' problems for its cases."""
    return replace(op, cases=tuple(c.case for f in found for c in f.calls if c.op == op.name))


def _stated(found: Forward) -> dict[str, Any]:
    """What a record keeps of a pass: the work of each call at full size, and what has none."""
    made = {c.case.name: (c.count, get_op(c.op).cost(c.case)) for c in found.calls}
    missed = [(gap.count, gap.cost) for gap in found.gaps]
    return {
        "model": found.model,
        "phase": found.phase,
        "tp": found.tp,
        "layers": found.layers,
        "calls": {name: _work([call]) for name, call in made.items()},
        "gaps": _work(missed),
        "not_covered": found.not_covered(),
    }


def _work(calls: list[tuple[int, Cost]]) -> dict[str, float]:
    return {
        "flops": sum(n * cost.flops for n, cost in calls),
        "bytes": sum(n * cost.bytes for n, cost in calls),
    }


# ---- the sum


def summed(record: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    """The sum over one pass: a line for each call, what the pass takes, and what was not timed.

    A call's time is that of the fastest right kernel of our own, or where there is none of the
    fastest right path of PyTorch's that the library serves with. The peer is the fastest right
    contestant that is someone else's, the one that serves aside.
    """
    lines: list[dict[str, Any]] = []
    missing = []
    for name in stated["calls"]:
        ours, peer = _best([row for row in record["rows"] if row["case"] == name])
        if ours is None:
            missing.append(name)
        else:
            lines.append({"case": name, "ours": ours, "peer": peer, "count": ours["count"]})
    total = sum(line["count"] * line["ours"]["median_us"] for line in lines)
    both = [line for line in lines if line["peer"]]
    against = sum(line["count"] * line["peer"]["median_us"] for line in both)
    ours = sum(line["count"] * line["ours"]["median_us"] for line in both)
    return {
        "lines": lines,
        "missing": missing,
        "pass_us": total,
        "layer_us": total / stated["layers"],
        "against_peers": against / ours if both else None,
        "with_peer": len(both),
        "covers": {unit: _share(stated, lines, unit) for unit in ("flops", "bytes")},
    }


def _share(stated: dict[str, Any], lines: list[dict[str, Any]], unit: str) -> float:
    """Of the pass's work, elementwise aside, that of the calls which have a time."""
    timed = sum(stated["calls"][line["case"]][unit] for line in lines)
    return timed / (sum(c[unit] for c in stated["calls"].values()) + stated["gaps"][unit])


def plain(lines: list[list[str]], model: str) -> list[list[str]]:
    """`bench.table` without the model's name in each line."""
    return [[op, case.removeprefix(f"{model} "), *rest] for op, case, *rest in lines]


def _best(rows: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The row that serves, and the best peer's. A candidate does not serve."""
    right = sorted(
        (r for r in rows if r["validated"] and r["median_us"] is not None and r["config"] is None),
        key=lambda r: r["median_us"],
    )
    own = [r for r in right if not r["peer"]]
    others = [r for r in right if r["peer"] and r["provider"] != "reference"]
    serving = [r for r in others if r["provider"] in _served_with(r["op"])]
    ours = next(iter(own or serving or right), None)
    return ours, next((r for r in others if r is not ours), None)


def _served_with(op: str) -> set[str]:
    return {p.name for o in OPS if o.name == op for p in o.all_providers}


def table(found: dict[str, Any], label: str) -> list[list[str]]:
    """`summed` as rows of text under `COLUMNS`."""
    return [
        [
            line["case"].removeprefix(f"{label} "),
            line["ours"]["op"],
            str(line["count"]),
            line["ours"]["provider"],
            time_text(line["ours"]["median_us"]),
            time_text(line["count"] * line["ours"]["median_us"]),
            f"{line['count'] * line['ours']['median_us'] / found['pass_us']:.0%}",
            line["peer"]["provider"] if line["peer"] else "-",
            _ratio(line["peer"]["median_us"] / line["ours"]["median_us"] if line["peer"] else None),
        ]
        for line in found["lines"]
    ]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"x{value:.2f}"


def sentences(found: dict[str, Any], stated: dict[str, Any], scaled: bool) -> list[str]:
    """What the sum is, what it covers and what it leaves out."""
    layers = stated["layers"]
    said = [
        f"one forward pass: {time_text(found['pass_us'])}, {layers} layers of "
        f"{time_text(found['layer_us'])} each; it covers {found['covers']['flops']:.1%} of the "
        f"operations and {found['covers']['bytes']:.1%} of the bytes of the pass, elementwise work "
        "aside"
    ]
    if found["against_peers"] is not None:
        said.append(
            f"against the best peer of each call: x{found['against_peers']:.2f} over the "
            f"{found['with_peer']} of {len(found['lines'])} calls that have a right one"
        )
    if scaled:
        said.append(
            "this is a CPU: the shapes were scaled down, so neither the sum nor a share is the "
            "model's; on a GPU they are"
        )
    if found["missing"]:
        said.append(f"not timed, and missing from the sum: {'; '.join(found['missing'])}")
    return [*said, f"not covered: {'; '.join(stated['not_covered'])}"]


def listing() -> list[list[str]]:
    """The models, under `LISTED`."""
    return [
        [
            m.name,
            ", ".join(m.phases),
            str(forward(m, m.phases[-1]).layers),
            m.parameters,
            m.active or "all",
            m.source,
        ]
        for m in MODELS
    ]
