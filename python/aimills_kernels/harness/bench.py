"""Benchmarks: each contestant is right first, timed next to its peers, and right afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import Validation, pick_device, validate_each
from aimills_kernels.harness import _rows, ceilings, env
from aimills_kernels.harness._contest import Contestant, OfPeer, OfProvider, Stage
from aimills_kernels.harness._rows import COLUMNS, table
from aimills_kernels.harness.peers import Peer, peers_of
from aimills_kernels.harness.record import KIND, SCHEMA, load, save
from aimills_kernels.harness.timing import Timer, time_interleaved, timer_for

__all__ = ["COLUMNS", "SCHEMA", "load", "run", "save", "table"]

_TIMED_SHARE = 0.3  # of a case's time, at the least, goes to the clock and not to checks
Progress = Callable[[str, int, int], None]


@dataclass
class _Run:
    """What stays the same for all cases of a run."""

    place: _rows.Place
    timer: Timer
    device: torch.device
    seed: int
    end: float
    progress: Progress
    steps: int
    providers: frozenset[str] | None
    peers: bool | Sequence[Peer]
    folder: Path | None
    least: int
    done: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def step(self, label: str) -> None:
        self.progress(label, self.done, self.steps)
        self.done += 1

    def left_s(self) -> float:
        return self.end - time.monotonic()

    def peers_of(self, op: Op) -> Sequence[Peer]:
        if isinstance(self.peers, bool):
            return peers_of(op, self.folder) if self.peers else ()
        return self.peers


def run(
    *,
    ops: Iterable[str | Op] | None = None,
    cases: Iterable[str] | None = None,
    providers: Iterable[str] | None = None,
    tag: str = "bench",
    device: str | torch.device = "auto",
    budget_s: float = 60.0,
    progress: Progress | None = None,
    seed: int = 0,
    peers: bool | Sequence[Peer] = True,
    peers_folder: Path | None = None,
    measured: dict[str, Any] | None = None,
    least: int = 1,
) -> dict[str, Any]:
    """Validate and time, and return the record.

    Named `cases` are taken whatever their tags, else those with `tag`. Each case gets an equal
    part of what is left of `budget_s`, but time for `least` samples of each contestant in any case;
    a case that finds nothing left is a row with `skipped`. The ceilings come first and take some
    2 s more, unless `measured` hands over those that this process measured before.

    `peers` are those of `bench/peers` (or of `peers_folder`), none, or the ones that are given.

    `progress(label, done, total)` is called before each step and once at the end. Raises
    ValueError for an unknown op, case or provider.
    """
    todo = _todo(ops, cases, providers, tag)
    place = _device(device)
    progress = progress or (lambda *_: None)
    steps = 1 + 2 * len(todo)
    progress("ceilings of this device", 0, steps)
    with _dispatch.on_device(place):
        timer = timer_for(place)
        where = _rows.Place(str(place), measured or ceilings.measure(place), timer.cache_bytes)
    state = _Run(
        where,
        timer,
        place,
        seed,
        time.monotonic() + budget_s,
        progress,
        steps,
        frozenset(providers) if providers is not None else None,
        peers,
        peers_folder,
        least,
        done=1,
    )
    with _dispatch.on_device(place):
        for index, (op, case) in enumerate(_across(todo)):
            _bench_case(state, op, case.on(place.type), state.left_s() / (len(todo) - index))
    declared = {(op.name, case.name): i for i, (op, case) in enumerate(todo)}
    state.rows.sort(key=lambda row: declared[row["op"], row["case"]])
    state.progress("done", state.steps, state.steps)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {"budget_s": budget_s, "seed": seed, "least": least, "peers": bool(peers)},
        "environment": env.stamp(str(place)),
        "ceilings": state.place.ceilings,
        "rows": state.rows,
    }


def _todo(
    ops: Iterable[str | Op] | None,
    cases: Iterable[str] | None,
    providers: Iterable[str] | None,
    tag: str,
) -> list[tuple[Op, Case]]:
    chosen = [get_op(op) if isinstance(op, str) else op for op in (OPS if ops is None else ops)]
    known = {p.name for op in chosen for p in op.all_providers}
    for name in providers or ():
        if name not in known:
            raise ValueError(f"unknown provider {name!r}; there are: {', '.join(sorted(known))}")
    if cases is None:
        return [(op, case) for op in chosen for case in op.cases if tag in case.tags]
    wanted = list(cases)
    found = [(op, case) for op in chosen for case in op.cases if case.name in wanted]
    for name in wanted:
        if name not in {case.name for _, case in found}:
            names = ", ".join(op.name for op in chosen)
            raise ValueError(f"unknown case {name!r} of {names}; see `aimills-kernels ops`")
    return found


def _across(todo: list[tuple[Op, Case]]) -> list[tuple[Op, Case]]:
    """The first case of each op, then the second of each: a short budget leaves no op out."""
    seen: dict[str, int] = {}
    turns = []
    for op, case in todo:
        seen[op.name] = seen.get(op.name, -1) + 1
        turns.append((seen[op.name], op, case))
    return [(op, case) for _, op, case in sorted(turns, key=lambda turn: turn[0])]


def _device(device: str | torch.device) -> torch.device:
    place = torch.device(pick_device(device))
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("no CUDA device is usable here; ask for device='cpu'")
        index = torch.cuda.current_device() if place.index is None else place.index
        return torch.device("cuda", index)
    return place


# ---- one case


def _bench_case(state: _Run, op: Op, case: Case, budget_s: float) -> None:
    begin = time.monotonic()
    state.step(f"{op.name} {case.name}: validate")
    rows: dict[str, dict[str, Any]] = {}
    named = [p for p in op.all_providers if state.providers is None or p.name in state.providers]
    if budget_s <= 0:
        for provider in named:
            row = _rows.blank(op, case, provider.name, state.place, provider.vendor)
            state.rows.append(row | {"skipped": "the time budget ended before this case"})
        state.step(f"{op.name} {case.name}: no time left")
        return
    stage: Stage | None = None
    contestants: list[Contestant] = []
    right = _gate(state, op, case, named, rows)
    found = _present(state, op, case, rows)
    if right or found:
        stage = Stage(op, case, state.device, state.seed, state.timer.cache_bytes)
        contestants += [OfProvider(stage, p) for p in right]
        contestants += _ready_peers(stage, found, rows)
    state.step(f"{op.name} {case.name}: time {len(contestants)} contestants")
    left = budget_s - (time.monotonic() - begin)
    _time(state, op, case, contestants, rows, max(left, _TIMED_SHARE * budget_s))
    state.rows += rows.values()


def _gate(
    state: _Run, op: Op, case: Case, named: list[Provider], rows: dict[str, dict[str, Any]]
) -> list[Provider]:
    """The providers that may be timed. Each gets its row either way."""
    for p in named:
        rows[p.name] = _rows.blank(op, case, p.name, state.place, p.vendor)
        if p.interpret and state.device.type == "cpu" and _dispatch.interpreting():
            why = "Triton's interpreter shows what is right, not how long it takes"
            rows[p.name]["skipped"] = why
    due = [p for p in named if rows[p.name]["skipped"] is None]
    for result in validate_each(op, case, due, device=state.device, seed=state.seed):
        _enter(rows[result.provider], result)
    return [p for p in due if rows[p.name]["validated"]]


def _enter(row: dict[str, Any], result: Validation) -> None:
    row["skipped"] = result.skipped
    if result.judgements:
        row["error_used"] = _rows.share(result.used)
    if result.failures:
        row["failure"] = "; ".join(result.failures)
    row["validated"] = result.ok


def _present(state: _Run, op: Op, case: Case, rows: dict[str, dict[str, Any]]) -> list[Peer]:
    """The peers that are installed. Each gets its row either way."""
    peers = state.peers_of(op)
    for peer in peers:
        row = _rows.blank(op, case, peer.name, state.place, not peer.gated)
        rows[peer.name] = row | {"skipped": peer.absent}
    return [peer for peer in peers if peer.absent is None]


def _ready_peers(
    stage: Stage, found: Sequence[Peer], rows: dict[str, dict[str, Any]]
) -> list[Contestant]:
    """Those that take the case. One beyond the tolerance is timed too, and says so, unless it is
    gated."""
    ready: list[Contestant] = []
    for each in found:
        row = rows[each.name]
        try:
            peer = OfPeer(stage, each)
            used, wrong = peer.try_out()
        except Exception as error:  # whatever another library raises for a case it can't do
            why = f"{type(error).__name__}: {env.first_line(error)}"
            row["failure" if each.gated else "skipped"] = why
            continue
        row |= {"error_used": _rows.share(used), "validated": not wrong}
        if wrong and each.gated:
            row["failure"] = "; ".join(wrong)
            continue
        row["note"] = "; ".join(wrong) or None
        if wrong:
            row |= {"apart": row["note"], "about": peer.about, "differing": peer.differing()}
        ready.append(peer)
    return ready


def _time(
    state: _Run,
    op: Op,
    case: Case,
    contestants: list[Contestant],
    rows: dict[str, dict[str, Any]],
    budget_s: float,
) -> None:
    by_name = {c.name: c for c in contestants}
    timings = time_interleaved(
        by_name,
        state.device,
        budget_s=budget_s,
        rotate=lambda name, round_: by_name[name].rotate(round_),
        seed=state.seed,
        timer=state.timer,
        least=state.least,
    )
    cost = op.cost(case)
    for contestant in contestants:
        row = rows[contestant.name]
        used, wrong = contestant.check()
        if contestant.broken is not None:
            row |= {"failure": contestant.broken, "validated": False}
        elif wrong and not contestant.external:
            row |= {"failure": "; ".join(wrong), "validated": False}
        else:
            row["error_used"] = _rows.share(max(used, row["error_used"] or 0.0))
            row["validated"] = row["validated"] and not wrong
            row["note"] = "; ".join(wrong) or row["note"]
            _rows.put_time(row, timings[contestant.name], cost, state.place)
