"""The ranks of a run, joined: gloo for control, NCCL for data on GPUs. Every wait has an end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from aimills_kernels.accept.launch import PARENT, Launch
from aimills_kernels.accept.meeting import Meeting


@dataclass
class Joined:
    """What stages get as their group."""

    rank: int
    world: int
    control: Any
    data: Any


def reach(launch: Launch, wait_s: float) -> Meeting:
    """The store over which the ranks meet. RuntimeError: nobody holds it."""
    limit = timedelta(seconds=wait_s)
    if launch.contract == PARENT:
        store = dist.TCPStore(launch.address, launch.port, None, False, timeout=limit)
    else:
        url = f"tcp://{launch.address}:{launch.port}"
        store, _, _ = next(rendezvous(url, launch.rank, launch.world, timeout=limit))
    return Meeting(store, launch.rank, launch.world, wait_s)


def join(meeting: Meeting, launch: Launch, device: torch.device) -> Joined:
    """After all have met. A collective that takes longer than the meeting's wait is an error here,
    and does not end the process: the evidence is still to be written."""
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    limit = timedelta(seconds=meeting.wait_s)
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("group", meeting.store), rank=launch.rank,
        world_size=launch.world, timeout=limit,
    )  # fmt: skip
    control = dist.group.WORLD
    if device.type == "cuda":
        torch.cuda.set_device(device)
        data = dist.new_group(backend="nccl", timeout=limit)
    else:
        data = control
    return Joined(launch.rank, launch.world, control, data)
