"""The command line with small stages and faults, for tests that start real processes.

    python -m tests.pod_rank accept --device cpu ...

AIMILLS_TEST_FAULT is "<what>:<rank>:<stage>": kill, stop, hang, break.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from aimills_kernels.accept import run, session
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.cli import accept, main


def _faulty(ctx: Context) -> None:
    what, rank, stage = os.environ.get("AIMILLS_TEST_FAULT", "none:0:none").split(":")
    if stage != ctx.stage or os.environ.get("RANK", "0") != rank:
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
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
    held = torch.ones(1)
    dist.all_reduce(held, group=ctx.group.data)
    return f"{int(held)} ranks"


run.STAGES = run.EVERY = (
    StageSpec("first", "First", _alone, {"quick": 5}),
    StageSpec("sum", "Sum of all ranks", _sum, {"quick": 5}, together=True),
    StageSpec("last", "Last", _alone, {"quick": 5}),
)

accept.PROGRAM = (sys.executable, "-m", "tests.pod_rank")

if __name__ == "__main__":
    sys.exit(main())
