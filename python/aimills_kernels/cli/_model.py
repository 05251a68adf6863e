"""`bench --model`: one forward pass of a real model, call by call, and its sum."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import OK, UsageError
from aimills_kernels.cli.bench import (
    budget_of,
    check_configs,
    code_of,
    ended,
    limited,
    notes,
    settings,
)
from aimills_kernels.harness import bench, model_bench


def listing() -> int:
    _ui.table("models", model_bench.LISTED, model_bench.listing())
    return OK


def run(options: Namespace) -> int:
    if options.case is not None:
        raise UsageError("--case names an op's own cases; with --model, name ops and a --phase")
    if options.energy:
        raise UsageError(
            "--energy is not for --model: no call of a model has the tag energy; name an op "
            "without --model"
        )
    chosen = _choose.ops(options.op)
    _choose.providers(chosen, options.provider)
    check_configs(options, chosen)
    asked = {"name": options.model, "phase": options.phase, "tp": options.tp,
             "batch": options.batch, "context": options.context}  # fmt: skip
    found = model_bench.passes(**asked)
    place, *others = _choose.devices(options.device)
    if others:
        _ui.say(f"on {place}, which stands for all: `--device` names another")
    out = _choose.output_file(options.out) if options.out is not None else None
    apart = ended(options, place.type)
    with _ui.progress(f"{options.model} on {place}") as step, limited(apart) as limit:
        record = model_bench.run(
            found,
            ops=chosen,
            providers=options.provider,
            device=str(place),
            budget_s=budget_of(options),
            progress=step,
            apart=apart and {**apart, "model": asked},
            **settings(options, place.type),
            **limit,
        )
    timed = [line for line in bench.table(record) if not line[3].startswith("not run")]
    lines = model_bench.plain(timed, options.model)
    _ui.table(f"{options.model} on {place}", bench.COLUMNS, lines)
    notes(record)
    _sums(record, scaled=place.type == "cpu")
    if out:
        bench.save(record, out)
        _ui.say(f"record: {out}")
    return code_of(record)


def _sums(record: dict[str, Any], scaled: bool) -> None:
    for stated in record["options"]["model"]:
        found = model_bench.summed(record, stated)
        if not found["lines"]:
            continue
        label = f"{stated['model']} tp{stated['tp']} {stated['phase']}"
        _ui.table(f"{label}: the sum", model_bench.COLUMNS, model_bench.table(found, label))
        for sentence in model_bench.sentences(found, stated, scaled):
            _ui.say(sentence)
