"""What the device, its links and the driver's log say of errors so far."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable

import torch

from aimills_kernels.accept.context import Context
from aimills_kernels.accept.stages._tools import counters, is_gpu, measure_counter
from aimills_kernels.harness.energy import idle_watts

_COUNTERS = {
    "ecc.enabled": "ecc",
    "ecc.uncorrected": "ecc_uncorrected",
    "ecc.uncorrected_ever": "ecc_uncorrected_ever",
    "ecc.corrected": "ecc_corrected",
    "remap.uncorrected": "remap_uncorrected",
    "remap.pending": "remap_pending",
    "remap.failed": "remap_failed",
    "pcie.replays": "pcie_replays",
    "nvlink.active": "nvlink_active",
    "nvlink.errors": "nvlink_errors",
    "mig.enabled": "mig",
}
_LOGS = (("dmesg",), ("journalctl", "-k", "-b", "-q", "--no-pager", "-o", "cat"))
_TIMEOUT_S = 20
# "NVRM: Xid (PCI:0000:3b:00): 79, pid=..., GPU has fallen off the bus."
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:]+)\): (\d+)")
_TRAFFIC_BYTES = 64 << 20


def run(ctx: Context) -> str:
    if not is_gpu(ctx):
        for metric in (*_COUNTERS, "pcie.generation", "pcie.width", "xid.count", "power.idle"):
            ctx.not_run(metric, metric, "the device under test is a CPU", gap=False)
        return "a CPU has no such counters"
    idle = idle_watts(counters(ctx).counters)
    if idle is None:
        ctx.not_run("power.idle", "power at idle", counters(ctx).why("energy_mj"), gap=False)
    else:
        ctx.measure("power.idle", idle)
    for metric, name in _COUNTERS.items():
        measure_counter(ctx, metric, name)
    _link_to_the_host(ctx)
    _xids(ctx)
    return "counters read"


def _link_to_the_host(ctx: Context) -> None:
    """A link at rest may go down in speed to save power, so it is read while it works."""
    source = torch.empty(_TRAFFIC_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=ctx.device)
    names = ("pcie_generation", "pcie_width")
    best: dict[str, float] = {}
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        for _ in range(4):
            target.copy_(source, non_blocking=True)
        for name in names:
            value = counters(ctx).read(name)
            if value is not None:
                best[name] = max(value, best.get(name, 0))
        torch.cuda.synchronize(ctx.device)
    for name in names:
        metric = name.replace("_", ".", 1)
        if name in best:
            ctx.measure(metric, best[name], most=counters(ctx).read(f"{name}_max"))
        else:
            ctx.not_run(metric, metric, counters(ctx).why(name), gap=False)


def _xids(ctx: Context) -> None:
    pci = counters(ctx).text("pci")
    if pci is None:
        ctx.not_run("xid.count", "XID errors", counters(ctx).why("pci"), gap=False)
        return
    text, source = kernel_log()
    if text is None:
        ctx.not_run("xid.count", "XID errors since boot", source, gap=False)
        return
    found = xids(text, pci)
    ctx.measure("xid.count", len(found), source=source, xids=found[-20:])
    for xid in sorted(set(found)):
        ctx.event("xid", f"the kernel's log has XID {xid}, {found.count(xid)} times", xid=xid)


def kernel_log(run: Callable[..., subprocess.CompletedProcess] = subprocess.run) -> tuple:
    """The kernel's log and which program gave it; None and why not: a clause for each program. An
    empty one is no log: a kernel says something at every boot."""
    why = []
    for command in _LOGS:
        program = shutil.which(command[0])
        if program is None:
            why.append(f"{command[0]} is not installed")
            continue
        try:
            done = run(
                [program, *command[1:]], capture_output=True, text=True, errors="replace",
                timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            why.append(f"{command[0]}: {error}")
            continue
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout, command[0]
        lines = (done.stderr or "").strip().splitlines()
        why.append(f"{command[0]}: {lines[0] if lines else 'it holds no line'}")
    return None, "the kernel's log can't be read: " + "; ".join(why)


def xids(text: str, pci: str) -> list[int]:
    """The XIDs of one GPU. NVML writes its place as 00000000:3B:00.0, the log as 0000:3b:00."""
    return [int(x) for place, x in _XID.findall(text) if _place(place) == _place(pci)]


def _place(pci: str) -> tuple[int, ...]:
    domain, bus, device = pci.partition(".")[0].split(":")[-3:]
    return int(domain, 16), int(bus, 16), int(device, 16)
