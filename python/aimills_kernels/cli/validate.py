"""`validate`: providers against the reference in float64, and records of what is right on a GPU."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from aimills_kernels import _dispatch, _records
from aimills_kernels._op import Op, Provider
from aimills_kernels._validate import Validation, validate_each
from aimills_kernels.accept.check import status_of
from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK, WRONG

_FEW = 30  # rows that are shown one by one
_LONG = 120  # characters of a detail


def run(options: Namespace) -> int:
    chosen = _choose.ops(options.op)
    cases = _choose.cases(chosen, options.case)
    providers = _choose.providers(chosen, options.provider)
    places = _choose.devices(options.device)
    plan = [(place, op, case) for place in places for op in chosen for case in cases[op.name]]
    results: list[Validation] = []
    with _ui.progress("validate", sum(len(providers[op.name]) for _, op, _ in plan)) as step:
        for place, op, case in plan:
            asked = providers[op.name]
            for result in validate_each(op, case, asked, device=place, seed=options.seed):
                results.append(result)
                step(f"{op} {case} {result.provider}")
    _show(results, options)
    if any(place.type == "cuda" for place in places):
        _record(chosen, providers, results, options)
    return _verdict(results)


def _verdict(results: Sequence[Validation]) -> int:
    counts = Counter(status_of(r) for r in results)
    parts = [f"{n} {status}" for status, n in counts.items()]
    _ui.say(f"{len(results)} checks: {', '.join(parts) or 'none'}")
    if counts["wrong"]:
        return WRONG
    if not counts["right"]:
        _ui.say("nothing was checked", _ui.style_of("not run"))
        return INCOMPLETE
    if gaps := sum(r.gap for r in results):
        _ui.say(f"{gaps} check{'s' * (gaps > 1)} that could have run did not", "yellow")
        return INCOMPLETE
    return OK


def _show(results: Sequence[Validation], options: Namespace) -> None:
    ran = [r for r in results if r.skipped is None]
    shown = results if options.verbose else ran
    if options.verbose or len(ran) <= _FEW:
        columns = ("op", "case", "provider", "device", "result", ">tolerance used", "detail")
        rows = [
            (r.op, r.case, r.provider, r.device, status_of(r), _used(r), _detail(r)) for r in shown
        ]
        if rows:
            _ui.table("", columns, rows)
    else:
        columns = ("op", "provider", "device", ">right", ">wrong", ">not run", ">worst share")
        _ui.table("", columns, _summary(results))
        for r in ran:
            if not r.ok:
                _ui.say(str(r), _ui.style_of("wrong"))
    reasons = Counter((r.op, r.provider, r.skipped) for r in results if r.skipped is not None)
    for (op, provider, reason), n in reasons.items():
        _ui.say(f"not run: {op} {provider}, {n} case{'s' * (n > 1)}: {reason}", "yellow")


def _summary(results: Sequence[Validation]) -> list[tuple]:
    groups: dict[tuple[str, str, str], list[Validation]] = {}
    for r in results:
        groups.setdefault((r.op, r.provider, r.device), []).append(r)
    rows = []
    for key, found in groups.items():
        counts = Counter(status_of(r) for r in found)
        worst = max((r.used for r in found if status_of(r) == "right"), default=None)
        share = "-" if worst is None else f"{worst:.0%}"
        rows.append((*key, counts["right"], counts["wrong"], counts["not run"], share))
    return rows


def _used(r: Validation) -> str:
    return f"{r.used:.0%}" if r.judgements and r.used < 1e4 else "-"


def _detail(r: Validation) -> str:
    text = r.skipped or "; ".join(r.failures)
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


# ---- records


def _record(
    chosen: Sequence[Op],
    providers: dict[str, tuple[Provider, ...]],
    results: Sequence[Validation],
    options: Namespace,
) -> None:
    if options.case:
        _ui.say("no record is written: --case checks a part of the cases")
        return
    records = []
    own = [
        (op, provider)
        for op in chosen
        for provider in providers[op.name]
        if not provider.vendor and "cuda" in provider.devices
    ]
    for op, provider in own:
        for sm, gpus in _by_capability().items():
            made = _records.conclude(op, provider, sm, gpus, results)
            _say(f"{op} {provider} on sm_{sm}", made)
            records += [] if isinstance(made, str) else [made]
    if records:
        _ui.say(f"records: {_records.add(records)}")
    else:
        _ui.say("no record is written")


def _say(name: str, made: dict[str, Any] | str) -> None:
    if isinstance(made, str):
        _ui.say(f"{name}: no record: {made}", _ui.style_of("not run"))
    elif "wrong" in made:
        _ui.say(f"{name}: withdrawn: it is wrong", _ui.style_of("wrong"))
    else:
        _ui.say(f"{name}: recorded as correct", _ui.style_of("right"))


def _by_capability() -> dict[int, dict[str, str]]:
    """The GPUs of this machine, those that --device leaves out too: their names by device."""
    found: dict[int, dict[str, str]] = {}
    for place in (torch.device("cuda", i) for i in range(torch.cuda.device_count())):
        of = found.setdefault(_dispatch.sm_of(place) or 0, {})
        of[str(place)] = torch.cuda.get_device_name(place)
    return found
