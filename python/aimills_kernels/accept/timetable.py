"""The stages by name: title, and what each profile gives them. Needs no torch, as the simulated pod
goes by it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aimills_kernels.accept.metrics import PROFILES


@dataclass(frozen=True)
class Slot:
    """seconds    of each profile that has the stage
    together   all ranks are in it at the same time
    """

    title: str
    seconds: Mapping[str, float]
    together: bool = False


def _slot(title: str, *seconds: float, together: bool = False) -> Slot:
    """As many of the longest profiles as there are seconds."""
    return Slot(title, dict(zip(PROFILES[-len(seconds) :], seconds, strict=True)), together)


# With starts and the report gate stays below 60 s, quick below 5 and full below 30 minutes, which
# `simulate/schedule.py` adds up. First the stages of the hardware, then those of the kernels.
SLOTS: dict[str, Slot] = {
    "inventory": _slot("Inventory", 0.5, 1, 1, 1),
    "health": _slot("Health", 2, 2, 4, 4),
    "memory": _slot("Memory", 4, 16, 100, 900),
    "compute": _slot("Compute", 5.5, 24, 100, 600),
    "interconnect": _slot("Interconnect", 8, 24, 120, 600, together=True),
    "burn": _slot("Sustained load", 9.5, 42, 530, 14400),
    "sdc": _slot("Silent errors", 3.5, 16, 90, 900),
    "workloads": _slot("Real workloads", 3, 17, 100, 600),
    "correctness": _slot("Correctness", 60, 240, 240),
    "video": _slot("A decoded video", 5, 6, 20, 20),
    "shapes": _slot("Shapes of real models", 20, 60, 60),
    "bench": _slot("Times against peers", 45, 220, 320),
}
