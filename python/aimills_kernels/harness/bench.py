"""Benchmarks: each contestant is right first, timed next to its peers, and right afterwards."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aimills_kernels import _configs, _dispatch
from aimills_kernels._op import Case, Cost, Op, Problem, Provider
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import Validation, pick_device, validate_each
from aimills_kernels.harness import (
    _clocks,
    _guard,
    _problems,
    _rows,
    _stopping,
    ceilings,
    energy,
    env,
    nvml,
)
from aimills_kernels.harness._contest import Contestant, OfPeer, OfProvider, Stage
from aimills_kernels.harness._patience import Late
from aimills_kernels.harness._rows import COLUMNS, table
from aimills_kernels.harness._timers import CudaTimer, Mode
from aimills_kernels.harness.peers import Peer, peers_of
from aimills_kernels.harness.record import KIND, SCHEMA, load, save
from aimills_kernels.harness.timing import (
    DeviceLost,
    NoTime,
    Timer,
    Timing,
    is_memory,
    no_time,
    time_interleaved,
    timer_for,
)

__all__ = ["COLUMNS", "SCHEMA", "load", "run", "save", "table"]

_TIMED_SHARE = 0.3  # of a case's time, at the least, goes to the clock and not to checks
_BEAT = 64  # calls of an energy window between two signs of life
ENERGY = "energy"  # the tag of cases whose energy is measured
SECONDS = ("timed", "flushed", "spent")  # of the timed loops of all rows
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
    target: float
    with_energy: bool
    energy_s: float
    counters: nvml.Counters | None
    at: Callable[[str], None]
    without: frozenset[str]
    configs: bool
    energy_cases: frozenset[str] | None = None
    done: int = 0
    lost: str | None = None  # why nothing more can run on the device
    seconds: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def step(self, label: str) -> None:
        self.progress(label, self.done, self.steps)
        self.done += 1

    def wants_energy(self, op: Op, case: Case) -> bool:
        if self.energy_cases is None:
            return ENERGY in case.tags
        return f"{op.name}/{case.name}" in self.energy_cases

    def left_s(self) -> float:
        return self.end - time.monotonic()

    def providers_of(self, op: Op) -> list[Provider]:
        return [
            p
            for p in op.all_providers
            if p.name not in self.without and (self.providers is None or p.name in self.providers)
        ]

    def candidates_of(self, op: Op, case: Case) -> list[Provider]:
        """The providers with each configuration but their built-in one, where that is asked for."""
        having = [p for p in self.providers_of(op) if p.configs is not None]
        if not self.configs or not having:
            return []
        args, sm = _problems.arguments(op, case), _dispatch.sm_of(self.device)
        problem = Problem(op, args, self.device.type, sm)
        found = [c for p in having for c in _configs.candidates(p, problem)]
        return [c for c in found if c.name not in self.without]

    def peers_of(self, op: Op) -> list[Peer]:
        found: Sequence[Peer] = ()
        if not isinstance(self.peers, bool):
            found = self.peers
        elif self.peers:
            found = peers_of(op, self.folder)
        return [peer for peer in found if peer.name not in self.without]


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
    mode: Mode = "stream",
    target: float = _stopping.TARGET,
    with_energy: bool = False,
    energy_s: float = math.inf,
    energy_cases: Iterable[str] | None = None,
    stamp: dict[str, Any] | None = None,
    at: Callable[[str], None] | None = None,
    without: Iterable[str] = (),
    configs: bool = False,
) -> dict[str, Any]:
    """Validate and time, and return the record.

    Named `cases` are taken whatever their tags, else those with `tag`. Each case gets an equal
    part of what is left of `budget_s`, but time for `least` samples of each contestant in any case;
    a case that finds nothing left is a row with `skipped`. The ceilings come first and take some
    2 s more, unless `measured` hands over those that this process measured before. A contestant is
    done before its time is up when its median is known to `target`. `with_energy` measures the
    joules of cases with the tag `energy`, or of `energy_cases` (op/case), on top,
    of the first contestants where `energy_s` seconds are too few for all.

    `stamp` is an environment of this machine that is known already. `at(name)` is called before
    each step of a contestant, with its name; those named in `without` are left out.

    With `configs` each configuration of a provider is a contestant, else the built-in one alone.

    `peers` are those of `bench/peers` (or of `peers_folder`), none, or the ones that are given.

    `progress(label, done, total)` is called before each step and once at the end. Raises
    ValueError for an unknown op, case or provider, and for a mode that the device does not have.
    """
    _guard.begin()
    todo = _todo(ops, cases, providers, tag)
    place = _device(device)
    progress = progress or (lambda *_: None)
    steps = 1 + 2 * len(todo)
    progress("ceilings of this device", 0, steps)
    with _dispatch.on_device(place):
        timer = timer_for(place, mode)
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
        target,
        with_energy,
        energy_s,
        nvml.counters_of(place),
        at or (lambda name: None),
        frozenset(without),
        configs,
        None if energy_cases is None else frozenset(energy_cases),
        done=1,
    )
    with _dispatch.on_device(place):
        for index, (op, case) in enumerate(_across(todo)):
            _bench_case(state, op, case.on(place.type), state.left_s() / (len(todo) - index))
    declared = {(op.name, case.name): i for i, (op, case) in enumerate(todo)}
    state.rows.sort(key=lambda row: declared[row["op"], row["case"]])
    state.progress("done", state.steps, state.steps)
    options = {"budget_s": budget_s, "seed": seed, "least": least, "peers": bool(peers),
               "mode": mode, "target": target, "energy": with_energy, "configs": configs,
               "lost": state.lost, "seconds": state.seconds}  # fmt: skip
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options,
        "environment": stamp or env.stamp(str(place)),
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
        if chosen and name not in known:
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
    state.step(f"{op.name} {case.name}: validate")
    rows = {
        p.name: _rows.blank(op, case, p.name, state.place, p.vendor) for p in state.providers_of(op)
    }
    for peer in state.peers_of(op):
        row = _rows.blank(op, case, peer.name, state.place, not peer.gated)
        rows[peer.name] = row | {"skipped": peer.absent}
    late = None if budget_s > 0 else "the time budget ended before this case"
    try:
        if why := state.lost or late:
            _leave_out(rows, why)
            state.step(f"{op.name} {case.name}: not run")
        else:
            _time_case(state, op, case, rows, budget_s)
    except DeviceLost as lost:
        rows[lost.name] |= {"failure": lost.why, "validated": False}
        state.lost = f"{state.device} can't be used any more, after {op} {case} {lost.name}"
        _leave_out(rows, state.lost)
    except Exception as error:  # the other cases go on
        _leave_out(rows, no_time(error).why)
    state.rows += rows.values()


def _leave_out(rows: dict[str, dict[str, Any]], why: str) -> None:
    for row in rows.values():
        if row["failure"] is None and row["skipped"] is None and row["median_us"] is None:
            row |= {"skipped": why, "gap": True, "validated": False}


def _time_case(
    state: _Run, op: Op, case: Case, rows: dict[str, dict[str, Any]], budget_s: float
) -> None:
    begin = time.monotonic()
    candidates = state.candidates_of(op, case)
    for c in candidates:
        rows[c.name] = _rows.blank(op, case, c.name, state.place, c.vendor, str(c.config))
    right = _gate(state, op, case, [*state.providers_of(op), *candidates], rows)
    found = [peer for peer in state.peers_of(op) if peer.absent is None]
    contestants: list[Contestant] = []
    if right or found:
        stage = Stage(op, case, state.device, state.seed, state.timer.cache_bytes)
        for provider in right:
            with _entering(state, rows[provider.name]):
                contestants.append(OfProvider(stage, provider))
        contestants += _ready_peers(state, stage, found, rows)
    if state.timer.mode == "graph":
        contestants = [c for c in contestants if _captured(state, c, rows[c.name])]
    state.step(f"{op.name} {case.name}: time {len(contestants)} contestants")
    left = budget_s - (time.monotonic() - begin)
    _time(state, op, case, contestants, rows, max(left, _TIMED_SHARE * budget_s))


@contextlib.contextmanager
def _entering(state: _Run, row: dict[str, Any]) -> Iterator[None]:
    """What is raised within costs this row its time, and no other where the device lives on."""
    try:
        yield
    except Exception as error:
        found = no_time(error)
        _alive(state, row["provider"], found.why)
        _put_no_time(row, found)


def _put_no_time(row: dict[str, Any], found: NoTime) -> None:
    row |= {"skipped" if found.gap else "failure": found.why, "gap": found.gap, "validated": False}


def _captured(state: _Run, contestant: Contestant, row: dict[str, Any]) -> bool:
    """A kernel of our own must go into a graph; someone else's is left out."""
    state.at(contestant.name)
    try:
        contestant.capture(_cuda_of(state.timer))
    except Exception as error:
        _alive(state, contestant.name, error)
        passed = contestant.peer and not isinstance(error, Late)
        row |= {"skipped" if passed else "failure": env.first_line(error), "validated": False}
        return False
    return True


def _cuda_of(timer: Timer) -> _clocks.Cuda:
    assert isinstance(timer, CudaTimer)
    return timer.cuda


def _alive(state: _Run, name: str, error: object) -> None:
    """Raise DeviceLost, with what it was that broke the device."""
    if not state.timer.usable():
        raise DeviceLost(name, str(error))


def _gate(
    state: _Run, op: Op, case: Case, named: list[Provider], rows: dict[str, dict[str, Any]]
) -> list[Provider]:
    """The providers that may be timed. Each has its row either way."""
    for p in named:
        if p.interpret and state.device.type == "cpu" and _dispatch.interpreting():
            why = "Triton's interpreter shows what is right, not how long it takes"
            rows[p.name]["skipped"] = why
    due = [p for p in named if rows[p.name]["skipped"] is None]
    results = validate_each(op, case, due, device=state.device, seed=state.seed)
    for provider in due:
        state.at(provider.name)
        result = next(results)
        if replaced := _guard.restore():
            result.failures.append(replaced)
        _enter(rows[result.provider], result)
        if result.failures:
            _alive(state, result.provider, result.failures[0])
    return [p for p in due if rows[p.name]["validated"]]


def _enter(row: dict[str, Any], result: Validation) -> None:
    row |= {"skipped": result.skipped, "gap": result.gap}
    if result.judgements:
        row["error_used"] = _rows.share(result.used)
    if result.failures:
        row["failure"] = "; ".join(result.failures)
    row["validated"] = result.ok


def _ready_peers(
    state: _Run, stage: Stage, found: list[Peer], rows: dict[str, dict[str, Any]]
) -> list[Contestant]:
    """Those that take the case. One beyond the tolerance is timed too, and says so, unless it is
    gated."""
    ready: list[Contestant] = []
    for each in found:
        row = rows[each.name]
        state.at(each.name)
        try:
            peer = OfPeer(stage, each)
            used, wrong = peer.try_out()
        except Exception as error:  # whatever another library raises for a case it can't do
            why = f"{type(error).__name__}: {env.first_line(error)}"
            failed = each.gated or isinstance(error, Late)
            row |= {"failure" if failed else "skipped": why, "gap": is_memory(error)}
            _alive(state, each.name, error)
            continue
        finally:
            replaced = _guard.restore()
        if replaced:
            row["failure"] = replaced
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
        target=state.target,
        counters=state.counters,
        at=state.at,
    )
    cost = op.cost(case)
    idle = _idle(state, op, case)
    for contestant in contestants:
        row, timing = rows[contestant.name], timings[contestant.name]
        state.at(contestant.name)
        with _entering(state, row):
            held = _energy(state, op, case, contestant, timing, idle)
            if isinstance(timing, NoTime):
                if not timing.ran or _right_afterwards(state, contestant, row):
                    _put_no_time(row, timing)
            elif _right_afterwards(state, contestant, row, timing.median_us):
                _put_time(state, row, contestant, timing, cost)
                row |= held if row["median_us"] is not None else {}


def _right_afterwards(
    state: _Run, contestant: Contestant, row: dict[str, Any], known_us: float = math.inf
) -> bool:
    used, wrong = contestant.check(state.timer, known_us)
    if replaced := _guard.restore():
        wrong.append(replaced)
    if wrong and not contestant.external:
        row |= {"failure": "; ".join(wrong), "validated": False}
        return False
    row["error_used"] = _rows.share(max(used, row["error_used"] or 0.0))
    row["validated"] = row["validated"] and not wrong
    row["note"] = "; ".join(wrong) or row["note"]
    return True


def _put_time(
    state: _Run, row: dict[str, Any], contestant: Contestant, timing: Timing, cost: Cost
) -> None:
    for name in SECONDS:
        state.seconds[name] = state.seconds.get(name, 0.0) + getattr(timing, f"{name}_s")
    touched = contestant.touched_bytes(timing.n)
    held, cache = state.timer.flushed_bytes + touched, state.timer.cache_bytes
    warm = (
        f"the caches were not cold: {held} bytes were touched between two samples on the same "
        f"data, and they hold {cache}"
        if timing.cold and held <= cache
        else None
    )
    _rows.put_time(row, timing, cost, state.place, warm, contestant.written_bytes())
    if row["median_us"] is not None:
        row["touched_bytes"] = touched


# ---- energy


def _idle(state: _Run, op: Op, case: Case) -> float | None:
    wanted = state.with_energy and state.wants_energy(op, case)
    asked = wanted and state.energy_s >= energy.WINDOW_S
    if not asked or state.counters is None:
        return None
    state.timer.synchronize()
    return energy.idle_watts(state.counters)


def _energy(
    state: _Run,
    op: Op,
    case: Case,
    contestant: Contestant,
    timing: Timing | NoTime,
    idle: float | None,
) -> dict[str, Any]:
    """The fields `energy` and `energy_missing` of a row."""
    if not state.wants_energy(op, case) or isinstance(timing, NoTime):
        return {}
    if not state.with_energy:
        return {"energy_missing": "it was not asked for"}
    if state.counters is None:
        return {"energy_missing": "a CPU has no counter that NVML reads"}
    if state.energy_s < energy.WINDOW_S:
        return {"energy_missing": "the time for energy ended before it"}
    begin = time.monotonic()

    def call(index: int) -> None:
        if index % _BEAT == 0:
            state.at(contestant.name)
        contestant.current = index % len(contestant.sets)
        contestant()

    try:
        found = energy.measure(
            call, state.timer.synchronize, state.counters, call_us=timing.median_us, idle=idle
        )
    except energy.NoEnergy as error:
        return {"energy_missing": str(error)}
    finally:
        spent = time.monotonic() - begin
        state.end += spent  # the budget is for times
        state.energy_s -= spent
    return {"energy": found}
