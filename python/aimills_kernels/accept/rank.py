"""One rank: its journal, its way to the others, its stages in order."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._version import __version__
from aimills_kernels.accept import evidence_folder, judged, preflight, stage_run
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.criteria import Criteria
from aimills_kernels.accept.device_memory import release
from aimills_kernels.accept.evidence_folder import RankJournal
from aimills_kernels.accept.journal import read
from aimills_kernels.accept.launch import WAIT_S, Launch
from aimills_kernels.accept.limit import limited
from aimills_kernels.accept.session import EXCLUDED, Progress, Session, Settings, Stage, silent
from aimills_kernels.accept.stage_run import Stopped
from aimills_kernels.accept.stages import power
from aimills_kernels.accept.telemetry import Telemetry, telemetry_of
from aimills_kernels.accept.together import Together


@dataclass(frozen=True)
class Plan:
    """What was asked for, the same on every rank. `criteria` as the user named them; `sign` is the
    private key that whoever makes the report signs it with."""

    settings: Settings
    folder: Path
    stages: tuple[StageSpec, ...]
    profile: str = "quick"
    resume: bool = False
    wait_s: float = WAIT_S
    expect_gpus: int | None = None
    criteria: str | None = None
    sign: Path | None = None

    def asked(self) -> dict[str, Any]:
        """As a begin entry states it; a run is gone on with as it was begun."""
        return {
            "profile": self.profile, "version": __version__,
            "stages": [s.name for s in self.stages], "ops": [op.name for op in self.settings.ops],
            "exclude": sorted(self.settings.exclude), "seed": self.settings.seed,
            "expect_gpus": self.expect_gpus,
        }  # fmt: skip

    def seconds(self, spec: StageSpec) -> float:
        return float(spec.seconds.get(self.profile) or max(spec.seconds.values()))


@dataclass
class Stop:
    """A request to end: raised where the main thread is, once, and seen by stages that ask."""

    event: threading.Event = field(default_factory=threading.Event)
    name: str = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._asked) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: Any) -> None:
        if not self.event.is_set():
            self.event.set()
            self.name = signal.Signals(number).name
            raise Stopped(self.name)


def run(
    plan: Plan,
    launch: Launch,
    device: torch.device,
    stop: Stop,
    *,
    problem: str | None = None,
    progress: Progress = silent,
    told: Callable[[Stage], None] = lambda stage: None,
    leave: Callable[[], None] = lambda: None,
) -> None:
    """All that this rank does, into its journal. `problem` is what keeps it from measuring;
    `leave` is called before the process ends by itself, in a hang that nothing can interrupt."""
    journal = evidence_folder.opened(plan.folder, launch, plan.resume)
    session = Session(plan.settings, progress, journal)
    together = Together(launch, device, journal, plan.wait_s)
    try:
        done, criteria, sku = _begin(plan, launch, device, journal)
        if problem := problem or preflight.problem(plan.expect_gpus, launch, device):
            journal.append("event", stage="", name="missing", text=problem, detail={})
            journal.append("end", state="stopped", reason=problem)
            return
        together.start(done, criteria, sku)
        telemetry = telemetry_of(device)  # one: it tells once what it can't read
        first = (power.RESTORE,) if _must_restore(device, journal, telemetry) else ()
        due = [spec for spec in plan.stages if not together.is_done(spec, done)]
        for spec in (*first, *due):
            told(_stage(plan, spec, device, journal, session, together, telemetry, stop, leave))
        journal.append("end", state="done", reason="", journal_s=round(journal.spent_s, 4))
    except Stopped as asked:
        with contextlib.suppress(Stopped):
            journal.append("end", state="stopped", reason=f"{asked}")
    except evidence_folder.Unwritable as error:
        # What was cut away of the last entry may leave room for these few bytes.
        with contextlib.suppress(evidence_folder.Unwritable):
            journal.append("end", state="stopped", reason=str(error))
        raise
    finally:
        session.close()
        journal.close()


def _must_restore(device: torch.device, journal: RankJournal, telemetry: Telemetry) -> bool:
    """Whether a killed power sweep left what would slow every stage."""
    return power.is_left(Context(device, journal, "", "quick", 0.0, telemetry=telemetry))


def _begin(
    plan: Plan, launch: Launch, device: torch.device, journal: RankJournal
) -> tuple[frozenset[str], Criteria, str]:
    """The begin entry. Gives the stages that an interrupted run has behind it, and by what the
    device of which name is judged."""
    from aimills_kernels.harness.env import stamp

    known = read(journal.path)
    environment = stamp()
    begin: dict[str, Any] = {
        "run": launch.run, "node": launch.node, "rank": launch.rank, "world": launch.world,
        "local_rank": launch.local_rank, "local_world": launch.local_world,
        "launch": launch.contract, "device": str(device), **_identity(device, environment),
        **plan.asked(), "simulated": False, "environment": environment, "resumed": bool(known),
    }  # fmt: skip
    criteria = judged.criteria_for(begin, plan.criteria)
    begin["criteria"] = judged.told(criteria)
    if plan.criteria and Path(plan.criteria).is_file():
        begin["criteria_file"] = str(Path(plan.criteria).resolve())
    evidence_folder.refuse_other(journal.path, known, begin)
    journal.append("begin", **begin)
    if known:
        text = f"gone on with a run that {_how_it_ended(known)}"
        journal.append("event", stage="", name="resumed", text=text, detail={})
    elif not launch.rank:
        for text in preflight.not_checked(plan.settings.ops, device):
            journal.append("event", stage="", name="not checked", text=text, detail={})
    return evidence_folder.done_stages(iter(known)), criteria, str(begin["sku"])


def _identity(device: torch.device, environment: dict[str, Any]) -> dict[str, Any]:
    if device.type == "cpu" or (device.index or 0) >= torch.cuda.device_count():
        cpu = environment.get("cpu") or {}
        name = str(cpu.get("model") or "a CPU of unknown model") if device.type == "cpu" else "?"
        return {"uuid": None, "sku": name}
    found = torch.cuda.get_device_properties(device)
    return {"uuid": f"GPU-{found.uuid}", "sku": found.name}


def _how_it_ended(entries: list[dict[str, Any]]) -> str:
    last = entries[-1]
    if last["kind"] == "end":
        return f"ended as {last['state']} at {last['time']}" + (
            f" ({last['reason']})" if last.get("reason") else ""
        )
    stage = next((e for e in reversed(entries) if e["kind"] == "stage"), None)
    during = f" in {stage['title']}" if stage and stage["state"] == "begin" else ""
    return f"crashed or was killed{during}: its last entry is of {last['time']}"


def _stage(
    plan: Plan,
    spec: StageSpec,
    device: torch.device,
    journal: RankJournal,
    session: Session,
    together: Together,
    telemetry: Telemetry,
    stop: Stop,
    leave: Callable[[], None],
) -> Stage:
    begin = time.monotonic()

    def hung(text: str) -> None:
        """In a thread of its own, while the main thread waits for a device that never answers."""
        failed = Stage(spec.name, spec.title, "failed", failure=text)
        with journal.last():  # telemetry goes on, and the end is the last entry
            journal.append("event", stage=spec.name, name="hang", text=text, detail={})
            stage_run.end(journal, failed, begin)
            journal.append("end", state="stopped", reason=text)
        leave()

    if spec.name in plan.settings.exclude:
        return _excluded(spec, journal)
    ctx = Context(
        device, journal, spec.name, plan.profile, plan.seconds(spec), plan.settings.seed,
        together.group if spec.together else None, telemetry, session.progress,
        {"session": session, "stop": stop.event, "hung": hung},
    )  # fmt: skip
    spec = limited(spec, plan.wait_s, hung)
    work = together.guarded(spec) if spec.together and together.launch.world > 1 else None
    try:
        return stage_run.run(spec, ctx, journal, work)
    finally:
        telemetry.tell_xids(journal, spec.name)
        release(device)


def _excluded(spec: StageSpec, journal: RankJournal) -> Stage:
    stage = Stage(spec.name, spec.title, EXCLUDED, summary="excluded by name")
    journal.append("stage", name=spec.name, title=spec.title, state="begin")
    journal.append("not_run", stage=spec.name, name="", what=spec.name, reason=stage.summary,
                   device="all", gap=False, count=1)  # fmt: skip
    stage_run.end(journal, stage, time.monotonic())
    return stage
