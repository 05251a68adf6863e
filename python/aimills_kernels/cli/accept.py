"""`accept`: is this machine or pod right? Writes journals, then the report."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from aimills_kernels import _registry
from aimills_kernels._op import Op
from aimills_kernels.accept import evidence_folder, journal
from aimills_kernels.accept import run as running
from aimills_kernels.accept.criteria import lint
from aimills_kernels.accept.evidence_folder import Unwritable
from aimills_kernels.accept.launch import Launch, find
from aimills_kernels.accept.rank import Plan
from aimills_kernels.accept.session import BENCH, Settings, Stage, names_to_exclude, silent
from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, UsageError
from aimills_kernels.cli._outcome import tell
from aimills_kernels.harness._patience import TIMEOUT_S

PROGRAM = (sys.executable, "-m", "aimills_kernels")  # of a rank that is started here


def run(options: Namespace) -> int:
    launch = find(os.environ)
    devices = _choose.devices(options.device)
    world = _ranks_to_start(options, launch, devices)
    mine, problem = _mine(options, launch, devices)
    plan = _plan(options, mine, launch)
    if options.resume and launch is None:
        _go_on(plan, world or 1)
    if not options.resume:
        evidence_folder.refuse_used(plan.folder, launch.run if launch else None)
    else:
        evidence_folder.refuse_signed(plan.folder)
    try:
        if world:
            program = [*PROGRAM, *options.words]
            return tell(running.accept_by_ranks(plan, program, world), plan.folder)
        first = launch is None or launch.rank == 0
        if first and mine.type == "cpu":
            _ui.say(_time_of(plan), "dim")
        outcome = running.accept(
            plan, launch, mine, problem=problem, progress=_ui.progress if first else silent,
            told=_tell if first else lambda stage: None,
        )  # fmt: skip
        code = tell(outcome, plan.folder) if outcome else 0
    except Unwritable as error:
        print(f"aimills-kernels: {error}", file=sys.stderr)
        code = INCOMPLETE
    if launch is not None and launch.world > 1:
        sys.stdout.flush()
        os._exit(code)  # a communicator that is taken apart can hang for ever
    return code


def _time_of(plan: Plan) -> str:
    seconds = sum(plan.seconds(stage) for stage in plan.stages)
    return (
        f"profile {plan.profile}: meant to take {seconds:.0f} s on a GPU; a CPU may take longer, "
        "as no check is cut short"
    )


def _go_on(plan: Plan, world: int) -> None:
    """Before ranks are started, which look each at its own journal again."""
    paths = evidence_folder.journals(plan.folder)
    if not paths:
        raise UsageError(f"--resume: there is no journal in {plan.folder}")
    for path in paths:
        asked = {**plan.asked(), "world": world}
        evidence_folder.refuse_other(path, journal.read(path, torn=True), asked)


def _ranks_to_start(
    options: Namespace, launch: Launch | None, devices: Sequence[torch.device]
) -> int:
    """How many processes this one is to start: none on a CPU, which it is a rank of itself."""
    if options.ranks and devices[0].type != "cpu":
        raise UsageError("--ranks is for --device cpu; on GPUs there is a rank for each")
    if launch is not None:
        return 0
    return len(devices) if devices[0].type == "cuda" else options.ranks or 0


def _mine(
    options: Namespace, launch: Launch | None, devices: Sequence[torch.device]
) -> tuple[torch.device, str | None]:
    """The device of this rank, and what is wrong where there is none."""
    if launch is None or devices[0].type == "cpu":
        return devices[0], None
    if options.device.startswith("cuda:") and launch.world > 1:
        raise UsageError("--device cuda:<index> is for one rank; leave it out in a pod")
    if len(devices) == 1:  # the launcher lets each rank see its own
        return devices[0], None
    if launch.local_rank < len(devices):
        return devices[launch.local_rank], None
    return torch.device("cuda", launch.local_rank), (
        f"node {launch.node} has {len(devices)} GPUs, and rank {launch.rank} is its number "
        f"{launch.local_rank + 1}"
    )


def _plan(options: Namespace, device: torch.device, launch: Launch | None) -> Plan:
    key = _key(options.sign, device, launch)
    ops = _choose.ops()
    if options.criteria:
        lint.sound(options.criteria)
    settings = Settings(
        devices=(device,),
        ops=ops,
        exclude=_excluded(options, ops),
        seed=options.seed,
        budget_s=options.budget,
        video=_video(options.video),
        timeout_s=options.timeout or (None if device.type == "cpu" else TIMEOUT_S),
        energy=options.energy,
    )
    _known_stages(options.stages)
    stages = running.chosen(options.profile, options.stages)
    if settings.exclude >= {stage.name for stage in stages}:
        raise UsageError("--exclude or --no-bench leaves out every stage of this run")
    return Plan(
        settings, _choose.directory(options.out), stages, options.profile, options.resume,
        options.wait, options.expect_gpus, options.criteria, key,
    )  # fmt: skip


def _key(path: str | None, device: torch.device, launch: Launch | None) -> Path | None:
    """The private key, found fit before a run of hours begins. It need not be on other nodes than
    the one whose process makes the report."""
    if path is None or (launch is not None and launch.rank):
        return None
    if device.type == "cpu":
        raise UsageError(
            "--sign: the report of a CPU can't be signed as a pod's; leave it out, and sign the "
            "folder as a test by `accept sign --as-test`"
        )
    from aimills_kernels.accept import keys

    try:
        keys.signer(Path(path))
    except ValueError as error:
        raise UsageError(f"--sign: {error}") from None
    return Path(path).resolve()


def _known_stages(names: Sequence[str] | None) -> None:
    known = [s.name for s in running.EVERY]
    for name in names or ():
        if name not in known:
            raise UsageError(f"--stages: unknown {name!r}; there are {', '.join(known)}")


def _excluded(options: Namespace, ops: Sequence[Op]) -> frozenset[str]:
    names = {*options.exclude, *([BENCH] if options.no_bench else [])}
    known = list(dict.fromkeys([*names_to_exclude(ops), *(s.name for s in running.EVERY)]))
    found: set[str] = set()
    for name in sorted(names):
        try:
            # The names of ops stand in the evidence, which says what was left out.
            found |= {name} if name in known else {op.name for op in _registry.ops_named([name])}
        except ValueError:
            families = ", ".join(f"{family}/" for family in _registry.families())
            short = ", ".join(n for n in known if "/" not in n)
            raise UsageError(
                f"--exclude: unknown {name!r}; there are: {short}, <op>/<case>, <op>/<provider> "
                f"and the families {families}"
            ) from None
    return frozenset(found)


def _video(text: str | None) -> Path | None:
    if text is None:
        return None
    from aimills_kernels.video import io as video_io

    if reason := video_io.missing():
        raise UsageError(f"--video can't be used: {reason}")
    video_io.decode(Path(text), limit=1)
    return Path(text)


def _tell(stage: Stage) -> None:
    said = stage.failure or stage.summary
    line = f"{stage.title:<22} {stage.status:<9} {stage.seconds:6.1f} s  {said}"
    _ui.say(line, "" if stage.status == "passed" else _ui.style_of(stage.status))
