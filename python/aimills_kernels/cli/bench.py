"""`bench` and `gpu`: times, next to those of peers."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK, WRONG, UsageError

if TYPE_CHECKING:
    from aimills_kernels._op import Op

_BUDGET_S, _QUICK_S = 120.0, 60.0


def run(options: Namespace) -> int:
    from aimills_kernels.harness import bench, isolated

    if options.list_models or options.model:
        from aimills_kernels.cli import _model

        return _model.listing() if options.list_models else _model.run(options)
    _no_model(options)
    chosen = _choose.ops(options.op)
    _choose.cases(chosen, options.case)
    _choose.providers(chosen, options.provider)
    check_configs(options, chosen)
    places = _choose.devices(options.device)
    out = _choose.output_file(options.out) if options.out is not None else None
    if out and len(places) > 1:
        raise UsageError(f"--out holds the record of one device; name one of {_names(places)}")
    code = OK
    if options.quick and options.case is None:
        chosen = first_cases(chosen)
    for place in places:
        given = settings(options, place.type) | {"budget_s": budget_of(options) / len(places)}
        apart = ended(options, place.type)
        timed_by: Callable[..., dict[str, Any]] = isolated.run if apart else bench.run
        with _ui.progress(f"bench on {place}") as step, limited(apart) as limit:
            record = timed_by(
                ops=chosen,
                cases=options.case,
                providers=options.provider,
                tag="bench",
                device=str(place),
                progress=step,
                **given,
                **apart,
                **limit,
            )
        timed = [line for line in bench.table(record) if not line[3].startswith("not run")]
        _ui.table(f"on {place}", bench.COLUMNS, timed)
        notes(record)
        code = max(code, code_of(record), key=(OK, INCOMPLETE, WRONG).index)
        if out:
            bench.save(record, out)
            _ui.say(f"record: {out}")
    return code


def settings(options: Namespace, device_type: str) -> dict[str, Any]:
    """What the options say of how times are taken, for `bench.run`."""
    from aimills_kernels.harness import _stopping

    mode = "stream" if options.mode == "events" else options.mode
    if mode != "stream" and device_type == "cpu":
        raise UsageError(f"--mode {mode} is for a GPU: a call on a CPU has no queue behind it")
    return {
        "mode": mode,
        "target": _stopping.QUICK_TARGET if options.quick else _stopping.TARGET,
        "seed": options.seed,
        "peers": not options.provider,
        "with_energy": options.energy,
        "configs": options.configs,
    }


def ended(options: Namespace, device_type: str) -> dict[str, Any]:
    """For `isolated.run`, where a process of its own does the work; empty where this one does."""
    from aimills_kernels.harness import isolated

    if device_type != "cuda" and not options.isolate and options.timeout is None:
        return {}
    return {"timeout_s": options.timeout or isolated.TIMEOUT_S, "fresh": options.isolate}


@contextlib.contextmanager
def limited(apart: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """More for `bench.run`: where this process does the work, an alarm ends each step."""
    from aimills_kernels.harness._patience import TIMEOUT_S, patience

    if apart:
        yield {}
        return
    with patience(TIMEOUT_S, lambda text: _ui.say(f"failed: {text}")) as at:
        yield {"at": at}


def check_configs(options: Namespace, chosen: Iterable[Op]) -> None:
    if options.configs and not any(p.configs for op in chosen for p in op.providers):
        names = ", ".join(op.name for op in chosen)
        raise UsageError(f"--configs: no other tiles are declared for {names}")


def budget_of(options: Namespace) -> float:
    return float(options.budget or (_QUICK_S if options.quick else _BUDGET_S))


def first_cases(chosen: Iterable[Op]) -> tuple[Op, ...]:
    """The ops with the first of their benchmark cases alone. By name it would not do: the first of
    one op is the name of a later case of another."""
    first = {op.name: [c for c in op.cases if "bench" in c.tags][:1] for op in chosen}
    return tuple(replace(op, cases=tuple(first[op.name])) for op in chosen if first[op.name])


def _no_model(options: Namespace) -> None:
    for name, plain in (("tp", 1), ("phase", None), ("batch", 1), ("context", None)):
        if getattr(options, name) != plain:
            raise UsageError(f"--{name} belongs to a model; name one with --model")


def _names(places: tuple[Any, ...]) -> str:
    return ", ".join(str(p) for p in places)


def notes(record: dict[str, Any]) -> None:
    from aimills_kernels.harness._reading import own_share_text
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
        if row["energy_missing"] and record["options"]["energy"]:
            _ui.say(f"no energy: {name}: {row['energy_missing']}", "yellow")
    if text := own_share_text(record["options"].get("seconds", {})):
        _ui.say(text)


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
        limit = options.timeout
        return node.run(out, budget_s=options.budget, timeout_s=limit, progress=step)
