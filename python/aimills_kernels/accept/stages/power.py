"""Power-cap sweep: the rate of matmuls, and per joule, at lower power limits.

It changes the device's power limit, and so runs only where it is asked for. What it found is
written to a file before the first change and put back at the end, after an exception, and at
SIGTERM. Where the process is killed a guard beside it puts it back, and where that was killed too
`restore_left` does at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aimills_kernels.accept import power_guard
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.stages._tools import counters, is_gpu, option, over, stopped
from aimills_kernels.accept.telemetry import Telemetry
from aimills_kernels.harness import gemm
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.nvml import Nvml
from aimills_kernels.harness.timing import timer_for

SHARES = (1.0, 0.85, 0.7, 0.6)  # of the limit that was found
_GPU_N = 8192
_SETTLE_SHARE = 0.3  # of a step: clocks and power need some seconds to follow a limit
_NAME = "power.sweep"


class CannotRestore(RuntimeError):
    """The limit stays changed; the sentence says which it was."""


def run(ctx: Context) -> str:
    device = counters(ctx).counters
    if not isinstance(device, Nvml):
        why = counters(ctx).why("power_limit_w") if is_gpu(ctx) else "the device is a CPU"
        ctx.not_run(_NAME, "power-cap sweep", why)
        return f"not run: {why}"
    restore_left(ctx, device)
    found = device.read("power_limit_w")
    if found is None:
        ctx.not_run(_NAME, "power-cap sweep", counters(ctx).why("power_limit_w"))
        return "not run"
    least = device.read("power_limit_min_w") or 0.0
    steps = [share for share in SHARES if share * found >= least]
    for share in (s for s in SHARES if s not in steps):
        what = f"matmul at {share:.0%} of the power limit"
        why = f"{share * found:g} W is below the least limit of {least:g} W"
        ctx.not_run(_NAME, what, why, gap=False)
    try:
        with _terminating(), kept(ctx, device, found):
            for share in steps:
                if stopped(ctx):
                    ctx.not_run(_NAME, f"matmul at {share:.0%} of the power limit", "stopped")
                    continue
                device.set_power_limit(share * found)
                _step(ctx, share, share * found, ctx.seconds / len(SHARES))
    except CannotRestore:
        raise
    except Exception as error:
        if "permission" not in str(error).lower():
            raise
        why = f"the power limit can't be set: {first_line(error)}; it takes root"
        ctx.not_run(_NAME, "power-cap sweep", why)
        return why
    return f"{len(steps)} limits from {found:g} W down, {found:g} W restored"


def _step(ctx: Context, share: float, watts: float, seconds: float) -> None:
    kind = option(ctx, "kind", "bf16")
    n = option(ctx, "n", _GPU_N)
    timer = timer_for(ctx.device)
    call = gemm.call(kind, *gemm.operands(kind, n, ctx.device, ctx.seed))
    with gemm.precision(kind):
        repeats = max(1, int(1e5 / max(timer.sample(call), 1.0)))
        settled = time.monotonic() + _SETTLE_SHARE * seconds
        while not over(ctx, settled):
            timer.sample(call, repeats)
        end, count = time.monotonic() + (1 - _SETTLE_SHARE) * seconds, 0
        every = max(0.2, seconds / 60)
        with counters(ctx).sampling(ctx.journal, ctx.stage, every) as window:
            while not count or not over(ctx, end):
                timer.sample(call, repeats)
                count += repeats
    flops = 2.0 * n**3 * count
    joules = window.joules()
    ctx.measure("sweep.rate", flops / window.seconds, limit=share, watts=watts, kind=kind, n=n)
    if joules is None:
        ctx.not_run(_NAME, "matmul per joule", counters(ctx).why("energy_mj"))
    else:
        ctx.measure("sweep.energy", flops / joules, limit=share, watts=watts, joules=joules)


# ---- what was found is put back


def state_folder() -> Path:
    """Where the limits that were found are kept: not in the run's own folder, since the next start
    may be another run."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "aimills-kernels" / "power"


@contextlib.contextmanager
def kept(ctx: Context, device: Nvml, watts: float) -> Iterator[None]:
    """Whatever happens inside, the limit is `watts` again afterwards."""
    path = _state(ctx, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, {"uuid": device.text("uuid"), "watts": watts, "by": os.getpid()})
    guard = power_guard.watching(path)
    try:
        yield
    finally:
        try:
            _put_back(ctx, device, watts, path)
        finally:
            guard.communicate()


def restore_left(ctx: Context, device: Nvml) -> None:
    """Put back what a run that was killed has left behind; the journal says so."""
    path = _state(ctx, device)
    if not path.exists():
        return
    try:
        watts = float(json.loads(path.read_text())["watts"])
    except (ValueError, KeyError, TypeError):
        text = f"{path} tells no power limit, so none was restored; remove it"
        ctx.event("power-limit", text)
        raise CannotRestore(text) from None
    _put_back(ctx, device, watts, path)
    text = f"a power limit of {watts:g} W, which a killed run had changed, was restored"
    ctx.event("power-limit", text, watts=watts)


def is_left(ctx: Context) -> bool:
    """Whether a killed sweep left this device with another limit: then `RESTORE` comes before any
    stage, whichever those are."""
    found: Telemetry = counters(ctx)
    return isinstance(found.counters, Nvml) and _state(ctx, found.counters).exists()


def _restore(ctx: Context) -> str:
    device = counters(ctx).counters
    assert isinstance(device, Nvml)
    restore_left(ctx, device)
    return "what a killed sweep had left was put right"


RESTORE = StageSpec("power-restore", "A power limit put back", _restore, {"quick": 1})


def _state(ctx: Context, device: Nvml) -> Path:
    folder = Path(ctx.options.get("power_state") or state_folder())
    return folder / f"{device.text('uuid') or ctx.device}.json"


def _write(path: Path, found: dict[str, Any]) -> None:
    """On the disk before the limit is touched."""
    part = path.with_suffix(".part")
    with part.open("w") as file:
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _put_back(ctx: Context, device: Nvml, watts: float, path: Path) -> None:
    try:
        if device.read("power_limit_w") != watts:
            device.set_power_limit(watts)
    except Exception as error:
        text = f"the power limit of {watts:g} W could not be restored: {first_line(error)}"
        ctx.event("power-limit", f"{text}; {path} keeps it", watts=watts)
        raise CannotRestore(text) from error
    path.unlink(missing_ok=True)


class _Terminated(BaseException):
    """SIGTERM came. No stage takes it for an error."""


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends the block, and then does what it would have done without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(*_: Any) -> None:
        nonlocal came
        if not came:
            came = True
            raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _Terminated:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)
