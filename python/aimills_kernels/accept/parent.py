"""Where no launcher is at work: this process starts a rank for each device and watches them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from aimills_kernels.accept import evidence_folder
from aimills_kernels.accept.launch import RUN, Launch, node_name
from aimills_kernels.accept.meeting import DEAD
from aimills_kernels.accept.rank import Stop
from aimills_kernels.accept.stage_run import Stopped

_LOOK_S = 0.1
_START_S = 120.0  # until the first word: a cold disk, and PyTorch to be read from it
_END_S = 20.0  # after a request to end
_REFUSED = 3  # exit code of a rank: a wrong use, as a folder that is taken
_SILENT = 4.0  # times the wait of ranks for each other, that a journal may stand still


def run(
    program: Sequence[str], world: int, run_name: str, folder: Path, stop: Stop, wait_s: float
) -> None:
    """Until each rank has ended, or was ended. What they found is in the folder. `Used`: a rank
    refused to begin, so that what is in the folder is not this run's."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    ranks = [_start(program, r, world, store.port, run_name) for r in range(world)]
    paths = [_path(folder, r, world, run_name) for r in range(world)]
    begun, dead = time.time(), set[int]()
    try:
        while any(p.poll() is None for p in ranks):
            time.sleep(_LOOK_S)
            for rank, process in enumerate(ranks):
                if process.poll() is None and _silent(paths[rank], begun) > _SILENT * wait_s:
                    process.kill()
                    say = f"rank {rank} said nothing for {_SILENT * wait_s:.0f} s and was ended"
                    print(f"aimills-kernels: {say}", file=sys.stderr)
            gone = {r for r, p in enumerate(ranks) if p.poll() is not None}
            if gone != dead:
                dead = gone
                store.set(DEAD, json.dumps(sorted(dead)))
    except Stopped:
        _end(ranks)
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
            process.wait()
    if any(process.returncode == _REFUSED for process in ranks):
        raise evidence_folder.Used(f"{folder}: a rank refused to run, so there is no new report")


def _start(
    program: Sequence[str], rank: int, world: int, port: int, run_name: str
) -> subprocess.Popen[bytes]:
    environ = {
        **os.environ, RUN: run_name, "RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    shown = None if rank == 0 else subprocess.DEVNULL
    return subprocess.Popen(list(program), env=environ, stdout=shown)


def _path(folder: Path, rank: int, world: int, run_name: str) -> Path:
    launch = Launch("parent", rank, world, rank, world, "", 0, run_name, node_name(os.environ))
    return evidence_folder.path_of(folder, launch)


def _silent(path: Path, begun: float) -> float:
    """Seconds since the last word of a rank, or since it was started."""
    last = begun + _START_S
    with contextlib.suppress(OSError):
        last = max(begun, path.stat().st_mtime)  # an old one is that of a run gone on with
    return time.time() - last


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in ranks:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + _END_S
    for process in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
