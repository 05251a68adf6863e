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


# Of the hardware: gate 45 s, quick 185 s, full 20 min, burn-in 5 h; then those of the library's
# kernels.
SLOTS: dict[str, Slot] = {
    "inventory": _slot("Inventory", 1, 1, 1, 1),
    "health": _slot("Health", 2, 2, 4, 4),
    "memory": _slot("Memory", 5, 20, 120, 900),
    "compute": _slot("Compute", 7, 30, 120, 600),
    "interconnect": _slot("Interconnect", 8, 30, 120, 600, together=True),
    "burn": _slot("Sustained load", 12, 62, 600, 14400),
    "sdc": _slot("Silent errors", 5, 20, 120, 900),
    "workloads": _slot("Real workloads", 5, 20, 120, 600),
    "correctness": _slot("Correctness", 60, 240, 240),
    "video": _slot("A decoded video", 10, 20, 20, 20),
    "shapes": _slot("Shapes of real models", 30, 60, 60),
    "bench": _slot("Times against peers", 60, 120, 120),
}
