"""What is looked at before anything is measured, and before any rank is waited for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aimills_kernels._op import Op, Provider
from aimills_kernels.accept.launch import Launch


def gpus_here() -> int:
    """Those that the driver counts, also where a launcher lets this process see but one."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except Exception:
        return torch.cuda.device_count()


def problem(expected: int | None, launch: Launch, device: torch.device) -> str | None:
    """Why this node is not what was expected, with its name."""
    if expected is None:
        return None
    found = gpus_here()
    if found != expected:
        return f"node {launch.node} has {found} GPUs, {expected} were expected"
    if device.type == "cuda" and launch.local_world != expected:
        return f"node {launch.node} runs {launch.local_world} ranks for its {expected} GPUs"
    return None


def not_checked(ops: Sequence[Op], device: torch.device) -> list[str]:
    """What a reader might take for checked, and what a CPU can't tell."""
    if device.type != "cpu":
        return []
    kernels = [
        f"{op.name} ({', '.join(p.name for p in op.providers if _gpu_only(p))})"
        for op in ops
        if any(_gpu_only(p) for p in op.providers)
    ]
    found = [f"the GPU kernels: {', '.join(kernels)}"] if kernels else []
    return [*found, "the speed of a GPU against its roofline"]


def _gpu_only(provider: Provider) -> bool:
    return not provider.vendor and "cpu" not in provider.devices
