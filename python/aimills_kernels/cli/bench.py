"""`bench` and `gpu`: times, next to those of peers."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from typing import Any

from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK, WRONG, UsageError


def run(options: Namespace) -> int:
    from aimills_kernels.harness import bench

    if options.list_models or options.model:
        from aimills_kernels.cli import _model

        return _model.listing() if options.list_models else _model.run(options)
    _no_model(options)
    chosen = _choose.ops(options.op)
    _choose.cases(chosen, options.case)
    _choose.providers(chosen, options.provider)
    places = _choose.devices(options.device)
    out = _choose.output_file(options.out) if options.out is not None else None
    if out and len(places) > 1:
        raise UsageError(f"--out holds the record of one device; name one of {_names(places)}")
    code = OK
    for place in places:
        with _ui.progress(f"bench on {place}") as step:
            record = bench.run(
                ops=chosen,
                cases=options.case,
                providers=options.provider,
                tag="bench",
                device=str(place),
                budget_s=options.budget / len(places),
                progress=step,
                seed=options.seed,
                peers=not options.provider,
            )
        timed = [line for line in bench.table(record) if not line[3].startswith("not run")]
        _ui.table(f"on {place}", bench.COLUMNS, timed)
        notes(record)
        code = max(code, code_of(record), key=(OK, INCOMPLETE, WRONG).index)
        if out:
            bench.save(record, out)
            _ui.say(f"record: {out}")
    return code


def _no_model(options: Namespace) -> None:
    for name, plain in (("tp", 1), ("phase", None), ("batch", 1), ("context", None)):
        if getattr(options, name) != plain:
            raise UsageError(f"--{name} belongs to a model; name one with --model")


def _names(places: tuple[Any, ...]) -> str:
    return ", ".join(str(p) for p in places)


def notes(record: dict[str, Any]) -> None:
    from aimills_kernels.harness._rows import time_text

    absent = Counter(
        (row["op"], row["provider"], row["skipped"]) for row in record["rows"] if row["skipped"]
    )
    for (op, provider, reason), count in absent.items():
        _ui.say(f"not run: {op} {provider}, {count} case{'s' * (count > 1)}: {reason}")
    for row in record["rows"]:
        name = f"{row['op']} {row['case']} {row['provider']}"
        if row["suspect"]:
            _ui.say(f"suspect: {name}: {row['suspect']}", "yellow")
        if row["modes"]:
            modes = (f"{time_text(m['median_us'])} ({m['share']:.0%})" for m in row["modes"])
            _ui.say(f"two modes: {name}: {' and '.join(modes)}", "yellow")
        if row["energy"]:
            held = row["energy"]
            _ui.say(f"energy: {name}: {held['joules']:.3g} J a call, {held['watts']:.0f} W mean")
        if row["energy_missing"]:
            _ui.say(f"no energy: {name}: {row['energy_missing']}", "yellow")


def code_of(record: dict[str, Any]) -> int:
    if any(row["failure"] for row in record["rows"]):
        return WRONG
    if any(row["gap"] for row in record["rows"]):
        return INCOMPLETE
    if not any(row["median_us"] is not None for row in record["rows"]):
        _ui.say("nothing was timed", "yellow")
        return INCOMPLETE
    return OK


def gpu(options: Namespace) -> int:
    if reason := _choose.no_cuda():
        raise UsageError(f"this command is for a GPU node: {reason}")
    _choose.ops()
    out = _choose.directory(options.out)
    from aimills_kernels.harness import gpu as node

    with _ui.progress("gpu") as step:
        return node.run(out, budget_s=options.budget, progress=step)
