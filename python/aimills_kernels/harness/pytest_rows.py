"""The rows of a pytest session: what `bench_op` times, its record and its comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._op import Case, Op
from aimills_kernels._registry import get_op
from aimills_kernels._validate import pick_device, validate
from aimills_kernels.harness import _guard, _stopping, bench, ceilings, env, isolated, record
from aimills_kernels.harness._contest import OfPeer, Stage
from aimills_kernels.harness._patience import Late, patience
from aimills_kernels.harness.compare import ONLY_BASE, Comparison, compare_records
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.own import NAME, Own, Unusable, exits
from aimills_kernels.harness.own_process import OwnProcess
from aimills_kernels.harness.peers import Peer, peers_of
from aimills_kernels.harness.pytest_budget import Budget, timed_rows
from aimills_kernels.harness.timing import is_memory
from aimills_kernels.report import chosen

Row = dict[str, Any]
NO_GPU = "it runs on cuda, "  # how the dispatcher begins to say that a provider needs a GPU


@dataclass
class Rows:
    """All that was timed in this session, `budget_s` for a row. With `timeout_s` a process of its
    own does what is declared, and is ended when a step takes longer; `again` is one for somebody's
    own kernels; `say` is where to tell of what ends this; `project` is the folder that those are
    in; `budget` is that of the session."""

    budget_s: float
    timeout_s: float | None = None
    with_energy: bool = False
    say: Callable[[str], None] = print
    project: Path = env.ROOT
    again: OwnProcess | None = None
    budget: Budget = field(default_factory=Budget)
    records: list[dict[str, Any]] = field(default_factory=list)
    _worker: isolated.Worker | None = None
    _own: dict[tuple[str, str, str], str] = field(default_factory=dict)  # to the test
    _told: set[str] = field(default_factory=set)
    _cases: dict[tuple[str, str], dict[str, Row] | str] = field(default_factory=dict)
    _ceilings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def declared(self, op: Op, case: Case, name: str, wanted: Sequence[str]) -> Row:
        """The row of one contestant; all that are `wanted` of a case are timed in the same run."""
        key = op.name, case.name
        if key not in self._cases:
            self._cases[key] = self._run(op, case, wanted)
        found = self._cases[key]
        if isinstance(found, str):
            raise RuntimeError(found)
        return found[name]

    def _run(self, op: Op, case: Case, wanted: Sequence[str]) -> dict[str, Row] | str:
        device = str(pick_device("auto"))
        known = [p.name for p in op.all_providers]
        pace = self._pace(len(wanted))
        options: dict[str, Any] = {
            "ops": [op], "cases": [case.name], "device": device,
            "providers": [name for name in known if name in wanted],
            "budget_s": pace["budget_s"] * len(wanted), "target": pace["target"],
            "without": [name for name in contestants(op) if name not in wanted],
            "with_energy": self.with_energy,
        }  # fmt: skip
        if self.timeout_s is None:
            made = bench.run(**options, measured=self.measured(device))
        else:
            self._worker = self._worker or isolated.Worker(self.timeout_s)
            made = isolated.run(**options, worker=self._worker)
        self.records.append(made)
        return {row["provider"]: row for row in made["rows"]}

    def _pace(self, n: int) -> dict[str, float]:
        """The time of each of `n` contestants of a case, and how well its median is to be known."""
        target = _stopping.QUICK_TARGET if self.budget.quick else _stopping.TARGET
        return {"budget_s": min(self.budget_s, self.budget.share_s() / n), "target": target}

    def taken(self, own: Own, device: str, test: str) -> str | None:
        """Why this test's rows can't be told from those of another; None where they can."""
        other = self._own.setdefault((own.name, own.case.name, device), test)
        if other == test:
            return None
        return f"{other} has rows of {own.name} {own.case.name} too: give one of them a name="

    def own(self, own: Own, device: str, test: str) -> tuple[Row, list[Row]]:
        """The row of somebody's kernel in this test, and those of its reference and peers."""
        pace = self._pace(1 + len(own.beside))
        made = self._apart(own, device, test, pace) or self._here(own, device, pace)
        self.records.append(made)
        rows = sorted(made["rows"], key=lambda row: row["provider"] != NAME)
        return rows[0], rows[1:]

    def _apart(
        self, own: Own, device: str, test: str, pace: dict[str, float]
    ) -> dict[str, Any] | None:
        """In a process of its own; None where that can't be, which is said once."""
        if self.again is None:
            return None
        made = self.again.run(own, device, test, pace)
        if isinstance(made, dict):
            return made
        if made not in self._told:
            self._told.add(made)
            self.say(f"{own.name} is timed in pytest's own process: {made}")
        return None

    def _here(self, own: Own, device: str, pace: dict[str, float]) -> dict[str, Any]:
        measured = self.measured(device)
        with patience(self.timeout_s, lambda text: self.say(f"{own.name} {text}")) as at:
            return own.run(device, at, **self._options(device), **pace, measured=measured)

    def _options(self, device: str) -> dict[str, Any]:
        return {"with_energy": self.with_energy, "stamp": env.stamp(device, self.project)}

    def served(
        self, own: Own, device: str, job: dict[str, Any], at: Callable[[str], None]
    ) -> dict[str, Any]:
        """The answer to `own_process`, which this process times for."""
        if (own.name, device) != (job["name"], job["device"]):
            return {"apart": f"started again, the test is of {own.name} on {device}"}
        known = {name: job[name] for name in ("measured", "without", "budget_s", "target")}
        try:
            made = own.run(device, at, **self._options(device), **known)
        except Unusable as error:
            return {"unusable": str(error)}
        except _guard.Replaced as error:
            return {"wrong": str(error)}
        except SystemExit as error:
            return {"wrong": exits(error)}
        at(NAME)  # what it does to the process from now on is its doing too
        return {"record": made}

    def measured(self, device: str) -> dict[str, Any]:
        if device not in self._ceilings:
            self._ceilings[device] = ceilings.measure(torch.device(device))
        return self._ceilings[device]

    def close(self) -> None:
        for started in (self._worker, self.again):
            if started is not None:
                started.close()

    # ---- of the whole session

    @property
    def rows(self) -> list[Row]:
        return [row for made in self.records for row in made["rows"]]

    @property
    def seconds(self) -> dict[str, float]:
        """Of the timed loops, as in a record."""
        found = Counter[str]()
        for made in self.records:
            found.update(made["options"]["seconds"])
        return dict(found)

    def save(self, path: Path) -> list[Path]:
        """One record for each device; of a second one, its type is added to the name."""
        paths: list[Path] = []
        for made in self.by_device():
            device = made["ceilings"]["device"]
            name = path if not paths else path.with_stem(f"{path.stem}-{device.replace(':', '')}")
            record.save(made, name)
            paths.append(name)
        return paths

    def by_device(self) -> list[dict[str, Any]]:
        parts: dict[str, list[dict[str, Any]]] = {}
        for made in self.records:
            parts.setdefault(made["ceilings"]["device"], []).append(made)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        whole = [{**record.joined(made), "created": now} for made in parts.values()]
        for made in whole:
            made["options"] = made["options"] | {"left_out": self.budget.counts()}
        return whole

    def compared(
        self, base: Sequence[dict[str, Any]], threshold: float
    ) -> tuple[Comparison, list[tuple[str, str, str]]]:
        """With a baseline, and which rows that it timed (op, case, provider) this session does not
        have: they don't count, as a session may be of a few benchmarks."""
        found = compare_records(base, self.by_device(), threshold)
        shared = tuple(v for v in found.verdicts if v.why != ONLY_BASE)
        timed = set(timed_rows(base))
        lost = [(v.op, v.case, v.provider) for v in found.verdicts if v.why == ONLY_BASE]
        return replace(found, verdicts=shared), [row for row in lost if row in timed]


def baseline(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a file or a folder, and a sentence for each file that is none."""
    sources, unread = chosen.read([str(path)])
    return [source.record for source in sources], unread


# ---- what is declared


def grid() -> list[tuple[Op, Case, str]]:
    """Op x benchmark case x provider or peer."""
    from aimills_kernels._registry import OPS

    return [
        (op, case, name)
        for op in OPS
        for case in op.cases
        if "bench" in case.tags
        for name in contestants(op)
    ]


def contestants(op: Op) -> list[str]:
    return [p.name for p in op.all_providers] + [p.name for p in peers_of(op)]


@dataclass(frozen=True)
class Checked:
    """One checked pass. As in a record, `wrong` fails and `skipped` did not run; a `note` is of a
    peer beyond the op's tolerance, which is timed all the same."""

    skipped: str | None = None
    wrong: str | None = None
    note: str | None = None


def check_declared(op: Op | str, case: Case | str, name: str) -> Checked:
    """A provider or a peer, judged as it is where it is timed."""
    op = get_op(op) if isinstance(op, str) else op
    case = op.case(case) if isinstance(case, str) else case
    device = torch.device(pick_device("auto"))
    _guard.begin()
    try:
        if name in {p.name for p in op.all_providers}:
            found = _check_provider(op, case, name, device)
        else:
            peer = next(p for p in peers_of(op) if p.name == name)
            found = _check_peer(op, case.on(device.type), peer, device)
    finally:
        replaced = _guard.restore()
    return Checked(wrong=_joined([*filter(None, (found.wrong, replaced))])) if replaced else found


def _check_provider(op: Op, case: Case, name: str, device: torch.device) -> Checked:
    result = validate(op, case, name, device=device)
    if result.gap:
        return Checked(wrong=result.skipped)
    return Checked(result.skipped, _joined(result.failures))


def _check_peer(op: Op, case: Case, peer: Peer, device: torch.device) -> Checked:
    if peer.absent is not None:
        return Checked(peer.absent)
    try:
        _, wrong = OfPeer(_stage(op, case, device), peer).try_out()
    except Exception as error:  # whatever another library raises for a case it can't do
        why = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, Late):
            return Checked(wrong=why)
        return Checked(wrong=f"not run: {why}") if is_memory(error) else Checked(why)
    return Checked(note=_joined(wrong))


_held: list[Stage] = []


def _stage(op: Op, case: Case, device: torch.device) -> Stage:
    """For all peers of a case, which come one after the other: what they should give takes long."""
    known = (_held[0].op, _held[0].case.name, _held[0].device) if _held else ()
    if known != (op, case.name, device):
        _held[:] = [Stage(op, case, device, 0, 0)]
    return _held[0]


def _joined(failures: list[str]) -> str | None:
    return "; ".join(failures) or None
