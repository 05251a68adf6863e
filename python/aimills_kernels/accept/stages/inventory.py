"""What is there: the device's identity and the node around it."""

from __future__ import annotations

import os

import torch

from aimills_kernels.accept.context import Context
from aimills_kernels.accept.stages._tools import counters, is_gpu, measure_counter

_TEXTS = {"gpu.name": "name", "gpu.driver": "driver", "gpu.vbios": "vbios"}


def run(ctx: Context) -> str:
    ctx.measure("node.cores", os.cpu_count() or 0)
    ctx.measure("node.memory", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if not is_gpu(ctx):
        ctx.measure("node.gpus", torch.cuda.device_count())
        for metric in (*_TEXTS, "gpu.toolkit", "gpu.memory", "power.limit", "clock.max"):
            ctx.not_run(metric, metric, "the device under test is a CPU", gap=False)
        return f"a CPU of {os.cpu_count()} cores"
    return _gpu(ctx)


def _gpu(ctx: Context) -> str:
    found = counters(ctx)
    for metric, name in _TEXTS.items():
        text = found.text(name)
        if text is None and name == "name":
            text = torch.cuda.get_device_name(ctx.device)
        if text is None:
            ctx.not_run(metric, metric, found.why(name), gap=False)
        else:
            ctx.measure(metric, text)
    ctx.measure("gpu.toolkit", str(torch.version.cuda))
    # NVML counts the node's GPUs, torch those that this process may use.
    gpus = found.read("gpus")
    visible = torch.cuda.device_count()
    ctx.measure("node.gpus", visible if gpus is None else int(gpus), visible=visible)
    memory = found.read("memory_bytes")
    if memory is None:
        memory = torch.cuda.get_device_properties(ctx.device).total_memory
    ctx.measure("gpu.memory", int(memory))
    measure_counter(ctx, "power.limit", "power_limit_w")
    measure_counter(ctx, "clock.max", "max_sm_mhz", 1e6)
    return torch.cuda.get_device_name(ctx.device)
