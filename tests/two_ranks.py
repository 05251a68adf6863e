"""One of two ranks of the stage `interconnect` on the CPU: RANK FOLDER [FAULT]."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from aimills_kernels.accept.stages import STAGES, _collectives
from tests.stage_context import Written


@dataclass
class Group:
    rank: int
    world: int
    control: Any
    data: Any


def plant(fault: str, rank: int) -> None:
    """A rank that hands on something else than it got, or has little memory."""
    if fault == "memory":
        _collectives.free_bytes = lambda device: 1 << (17 if rank == 1 else 30)
        return
    honest = {"all_reduce": dist.all_reduce, "pair": dist.batch_isend_irecv}[fault]

    def all_reduce(tensor: torch.Tensor, *more: Any, **options: Any) -> Any:
        honest(tensor, *more, **options)
        if tensor.numel() > 10 and rank == 1:
            tensor[7] = float("nan")

    def pair(works: list[Any]) -> Any:
        pending = honest(works)
        for work, other in zip(pending, works, strict=True):
            work.wait()
            if rank == 1 and other.op is dist.irecv:
                other.tensor[7] ^= 1
        return []

    setattr(dist, "all_reduce" if fault == "all_reduce" else "batch_isend_irecv",
            {"all_reduce": all_reduce, "pair": pair}[fault])  # fmt: skip


def main() -> None:
    rank, folder, *fault = sys.argv[1:]
    store = Path(folder) / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
    for name in fault:
        plant(name, int(rank))
    group = Group(int(rank), 2, dist.group.WORLD, dist.group.WORLD)
    out = Path(folder) / rank
    written = Written(out, "interconnect", seconds=0.2, group=group)
    spec = next(spec for spec in STAGES if spec.name == "interconnect")
    print(written.run(spec))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
