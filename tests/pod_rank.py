"""The command line with small stages and faults, for tests that start real processes.

    python -m tests.pod_rank accept --device cpu ...

AIMILLS_TEST_FAULT is "<what>:<rank>:<stage>": kill, stop, hang, break; fill: the disk is full;
nap: it takes long, and listens;
deaf: it waits as in a driver, where no signal gets it out, and its limit is near.
"broken" and "slow" are of a pair, as 1+2, or of a rank with everyone, in each all-reduce over gloo;
"lag" is a link that is slow and fails nobody.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from aimills_kernels.accept import limit, run, session, together
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.meeting import Meeting, Met
from aimills_kernels.cli import accept, main

FAULT = "AIMILLS_TEST_FAULT"
_START_S = 600.0


def _faulty(ctx: Context) -> None:
    what, rank, stage = os.environ.get(FAULT, "none:0:none").split(":")
    if stage != ctx.stage or os.environ.get("RANK", "0") != rank:
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "fill":
        size = ctx.journal.path.stat().st_size + 40
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    if what == "nap":
        time.sleep(600)
    if what == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
        time.sleep(600)
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if what == "break":
        raise RuntimeError("the link broke")


def _alone(ctx: Context) -> str:
    _faulty(ctx)
    kept = ctx.options["session"]
    assert isinstance(kept, session.Session)
    kept.check({"stage": ctx.stage, "op": "none", "case": "none", "dims": {}, "scaled": {},
                "provider": "none", "own": True, "device": "cpu", "seed": 0, "status": "right",
                "used": 0.1, "outputs": {}, "failures": [], "skipped": None})  # fmt: skip
    return "looked at"


def _sum(ctx: Context) -> str:
    _faulty(ctx)
    assert ctx.group is not None
    held, seconds = torch.ones(1), []
    for _ in range(3):
        begin = time.perf_counter()
        dist.all_reduce(held.fill_(1), group=ctx.group.data)
        seconds.append(time.perf_counter() - begin)
    rate = torch.tensor([held.nbytes / min(seconds)])
    honest(rate, dist.ReduceOp.MIN, group=ctx.group.control)
    ctx.measure("collective.all_reduce", float(rate), ranks=ctx.group.world)
    return f"{int(held)} ranks"


honest = dist.all_reduce


def _bad_link(held: torch.Tensor, *more: Any, group: Any = None, **options: Any) -> Any:
    """The rank that has the fault fails or is slow in what it does with the others that have it."""
    what, who, _ = os.environ.get(FAULT, "none:0:none").split(":")
    bad, here = {*map(int, who.split("+"))}, {*dist.get_process_group_ranks(group)}
    if what in ("broken", "slow", "lag") and bad <= here and dist.get_rank() == max(bad):
        if what == "lag":
            time.sleep(1.0)
        if what == "slow":  # of all ranks beyond their patience, of a pair within its time-out
            time.sleep(12 if len(here) == dist.get_world_size() else 0.5)
        if what == "broken":
            raise RuntimeError("the link broke")
    return honest(held, *more, group=group, **options)


def _patient(self: Meeting, name: str, *, ok: bool = True, wait_s: float | None = None) -> Met:
    """At the start, where a busy machine has one rank import PyTorch long after another; with the
    wait of the test a right rank would be missed, and no fault would come to its stage."""
    return meet(self, name, ok=ok, wait_s=_START_S if name == "start" else wait_s)


meet, Meeting.meet = Meeting.meet, _patient
dist.all_reduce = _bad_link
together._PAIR_S, together._PATIENCE = 8.0, 60.0 if "lag" in os.environ.get(FAULT, "") else 0.0
if os.environ.get(FAULT, "").startswith("deaf"):
    limit._MORE_S, limit._LAST_S = 4.0, 1.0
run.STAGES = run.EVERY = (
    StageSpec("first", "First", _alone, {"quick": 5}),
    StageSpec("sum", "Sum of all ranks", _sum, {"quick": 5}, together=True),
    StageSpec("last", "Last", _alone, {"quick": 5}),
)

accept.PROGRAM = (sys.executable, "-m", "tests.pod_rank")

if __name__ == "__main__":
    sys.exit(main())
