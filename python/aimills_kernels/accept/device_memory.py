"""Memory of a device that PyTorch keeps for itself: no other stage, process or NCCL can have it."""

from __future__ import annotations

import contextlib
import gc

import torch


def release(device: torch.device) -> None:
    """Give back what nothing uses any more. A pattern fills most of a GPU, and would leave nothing
    to the collectives or to the process that checks kernels."""
    if device.type == "cuda":
        gc.collect()
        with contextlib.suppress(RuntimeError):  # a GPU that failed before, and was told then
            torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Of device memory; of a CPU's, what the system says is available."""
    if device.type == "cuda":
        release(device)
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo") as lines:  # noqa: PTH123
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return 1024 * kib
