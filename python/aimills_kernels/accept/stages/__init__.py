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

_WORK = {
    "inventory": inventory.run,
    "health": health.run,
    "memory": memory.run,
    "compute": compute.run,
    "interconnect": interconnect.run,
    "burn": burn.run,
    "sdc": sdc.run,
    "workloads": workloads.run,
}
STAGES: tuple[StageSpec, ...] = tuple(StageSpec.of(name, at(work)) for name, work in _WORK.items())

# Only where it is asked for: it changes the power limit for a while.
POWER_SWEEP = StageSpec(
    "power-sweep", "Power-cap sweep", at(power.run),
    {"gate": 40, "quick": 40, "full": 120, "burn-in": 400},
)  # fmt: skip
