"""Joules per call, by a GPU's total-energy counter.

NVML moves the counter some ten times a second, so a window runs from one of its steps to another,
at the least 5 s later. What it counts is the board, or the module where GPU and CPU share one: no
wall meter, so fans, power supplies and the host are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aimills_kernels.harness.nvml import Counters
from aimills_kernels.harness.record import WINDOW_S

LEVEL = (
    "GPU board as NVML's total-energy counter states it (nvmlDeviceGetTotalEnergyConsumption), "
    "calls back to back with warm caches, idle power not taken off"
)
_IDLE_S = 1.0
_PATIENCE_S = 2.0  # for a step of the counter
_BATCH_S = 0.02  # of calls between two readings

_now = time.monotonic


class NoEnergy(Exception):
    """Why there is none, as a clause."""


def idle_watts(counters: Counters, sleep: Callable[[float], None] = time.sleep) -> float | None:
    """Mean power over a second in which nothing runs; None where the counter does not say."""
    before, begin = counters.read("energy_mj"), _now()
    sleep(_IDLE_S)
    after, end = counters.read("energy_mj"), _now()
    if before is None or after is None or after <= before:
        return None
    return (after - before) / 1e3 / (end - begin)


def measure(
    call: Callable[[int], Any],
    synchronize: Callable[[], None],
    counters: Counters,
    *,
    call_us: float,
    idle: float | None = None,
) -> dict[str, Any]:
    """`record.ENERGY` of one contestant; `call(i)` is the i-th call. Raises NoEnergy."""
    batch = max(1, int(_BATCH_S * 1e6 / max(call_us, 1.0)))
    done = 0

    def until_step(least_s: float) -> tuple[float, float]:
        """Work for so long, then on to the next step of the counter: its value and the time. It
        has gone up, or there is none."""
        nonlocal done
        begin, last = _now(), _read(counters)
        while True:
            for _ in range(batch):
                call(done)
                done += 1
            synchronize()
            now, value = _now(), _read(counters)
            if value < last:
                raise NoEnergy("the energy counter went backwards")
            if value > last and now - begin >= least_s:
                return value, now
            if now - begin > least_s + _PATIENCE_S:
                raise NoEnergy(f"the energy counter did not move in {now - begin:.1f} s")
            last = value

    begin_mj, begin = until_step(0.0)
    before = done
    end_mj, end = until_step(WINDOW_S)
    calls, joules = done - before, (end_mj - begin_mj) / 1e3
    return {
        "joules": joules / calls,
        "watts": joules / (end - begin),
        "idle_watts": idle,
        "window_s": end - begin,
        "calls": calls,
        "level": LEVEL,
    }


def _read(counters: Counters) -> float:
    if (value := counters.read("energy_mj")) is None:
        told = [m for m in counters.missing if m.startswith(("energy_mj", "nvml"))]
        raise NoEnergy(told[0] if told else "the energy counter can't be read")
    return value
