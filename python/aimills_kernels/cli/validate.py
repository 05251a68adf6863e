"""`validate`: providers against the reference in float64, and records of what is right on a GPU."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from aimills_kernels import _dispatch, _records
from aimills_kernels._op import Op, Provider
from aimills_kernels._validate import Validation, validate
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
    plan = [
        (op, case, provider, place)
        for place in places
        for op in chosen
        for provider in providers[op.name]
        for case in cases[op.name]
    ]
    results = []
    with _ui.progress("validate", len(plan)) as step:
        for op, case, provider, place in plan:
            results.append(validate(op, case, provider, device=place, seed=options.seed))
            step(f"{op} {case} {provider}")
    _show(results, options)
    if any(place.type == "cuda" for place in places):
        _record(chosen, providers, places, results, options)
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
    places: Sequence[torch.device],
    results: Sequence[Validation],
    options: Namespace,
) -> None:
    if options.case:
        _ui.say("no record is written: --case checks a part of the cases")
        return
    records = []
    for op in chosen:
        for provider in providers[op.name]:
            if not provider.vendor:
                mine = [r for r in results if (r.op, r.provider) == (op.name, provider.name)]
                records += _by_capability(op, provider, places, mine)
    if not records:
        _ui.say("no record is written: no kernel of ours ran here")
        return
    path = _records.add(records)
    for record in records:
        outcome = "withdrawn: it is wrong" if "wrong" in record else "recorded as correct"
        name = f"{record['op']} {record['provider']} on sm_{record['sm']}"
        _ui.say(f"{name}: {outcome}", _ui.style_of("wrong" if "wrong" in record else "right"))
    _ui.say(f"records: {path}")


def _by_capability(
    op: Op, provider: Provider, places: Sequence[torch.device], results: Sequence[Validation]
) -> list[dict[str, Any]]:
    """One record for each capability; one wrong GPU denies it to all of its kind."""
    found = []
    for sm in sorted({_dispatch.sm_of(place) or 0 for place in places}):
        here = {str(place) for place in places if _dispatch.sm_of(place) == sm}
        ran = [r for r in results if r.device in here and r.skipped is None]
        wrong = [r for r in ran if not r.ok]
        if wrong:
            found.append(_records.denial(op, provider, sm, str(wrong[0])))
        elif ran:
            facts = {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "device": torch.cuda.get_device_name(ran[0].device),
                "torch": torch.__version__,
                "cases": len({r.case for r in ran}),
                "used": max(r.used for r in ran),
                "seed": ran[0].seed,
            }
            found.append({**_records.key(op, provider, sm), **facts})
    return found
