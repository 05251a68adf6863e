"""The stages that measure the hardware, in order. They measure and never judge."""

from __future__ import annotations

from aimills_kernels.accept.context import StageSpec
from aimills_kernels.accept.stages import (
    burn,
    compute,
    health,
    interconnect,
    inventory,
    memory,
    power,
    sdc,
    workloads,
)
from aimills_kernels.accept.stages._tools import on_its_device as at


def _seconds(gate: float, quick: float, full: float, burn_in: float) -> dict[str, float]:
    return {"gate": gate, "quick": quick, "full": full, "burn-in": burn_in}


# gate 45 s, quick 185 s, full 20 min, burn-in 5 h: the rest of each profile is for the library's
# kernels and for start and end.
STAGES: tuple[StageSpec, ...] = (
    StageSpec("inventory", "Inventory", at(inventory.run), _seconds(1, 1, 1, 1)),
    StageSpec("health", "Health", at(health.run), _seconds(2, 2, 4, 4)),
    StageSpec("memory", "Memory", at(memory.run), _seconds(5, 20, 120, 900)),
    StageSpec("compute", "Compute", at(compute.run), _seconds(7, 30, 120, 600)),
    StageSpec(
        "interconnect", "Interconnect", at(interconnect.run), _seconds(8, 30, 120, 600),
        together=True,
    ),
    StageSpec("burn", "Sustained load", at(burn.run), _seconds(12, 62, 600, 14400)),
    StageSpec("sdc", "Silent errors", at(sdc.run), _seconds(5, 20, 120, 900)),
    StageSpec("workloads", "Real workloads", at(workloads.run), _seconds(5, 20, 120, 600)),
)  # fmt: skip

# Only where it is asked for: it changes the power limit for a while.
POWER_SWEEP = StageSpec("power-sweep", "Power-cap sweep", at(power.run), _seconds(40, 40, 120, 400))
