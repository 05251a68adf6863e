"""What each profile runs, and how long a pod of some nodes takes for it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from aimills_kernels.accept.culprits import MOST_ROUNDS, schedule
from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.accept.shortfall import ROUTINE
from aimills_kernels.accept.timetable import SLOTS


@dataclass(frozen=True)
class Step:
    """A stage. `metrics`: names, or the part before the dot; `together`: all ranks wait for it."""

    name: str
    title: str
    seconds: Mapping[str, float]
    metrics: tuple[str, ...] = ()
    together: bool = False

    @cached_property
    def measures(self) -> list[str]:
        return [m for m in METRICS if m in self.metrics or m.partition(".")[0] in self.metrics]


# What a stage measures: names, or the part before the dot.
_MEASURES = {
    "inventory": ("gpu", "node", "clock", "power.limit", "mig", "ecc.enabled"),
    "health": ("ecc.uncorrected", "ecc.uncorrected_ever", "ecc.corrected", "remap", "xid", "pcie",
               "nvlink", "power.idle"),
    "memory": ("memory.copy", "memory.read", "memory.write", "memory.wrong"),
    "compute": ("gemm",),
    "interconnect": ("link", "collective"),
    "burn": ("burn", "throttle", "energy", "memory.copy_hot"),
    "sdc": ("sdc",),
    "workloads": ("work",),
}  # fmt: skip
STEPS = tuple(
    Step(name, slot.title, slot.seconds, _MEASURES.get(name, ()), slot.together)
    for name, slot in SLOTS.items()
)

# The process that starts the ranks, a rank, its GPU's first use; what a stage does before it begins
# to measure; the report.
_START_S, _STAGE_START_S, _REPORT_S = 9.0, 0.25, 2.0
_JITTER = 0.02  # of a stage's time, from rank to rank
# Setting up a communicator: an exchange of addresses through one rank, then a tree of connections.
_SETUP_S, _SETUP_A_RANK_S, _SETUP_A_LEVEL_S = 1.0, 0.002, 0.15
_COLLECTIVES, _SIZES, _STEP_S = 4, 12, 12e-6
_A_PAIR_S = 1.0  # of which it talks half; a communicator of two is set up before


def steps(profile: str, cpu: bool = False) -> list[Step]:
    """A CPU has no health, no links and no burn."""
    left_out = {"health", "interconnect", "burn"} if cpu else set()
    return [s for s in STEPS if profile in s.seconds and s.name not in left_out]


def collective_seconds(ranks: int) -> float:
    """What the collectives of all ranks take beyond their share of the stage: the set-up, and the
    latency of rings that grow with the ranks; the bytes of a rank stay the same."""
    if ranks == 1:
        return 0.0
    setup = _SETUP_S + _SETUP_A_RANK_S * ranks + _SETUP_A_LEVEL_S * math.log2(ranks)
    repeats = 20
    return setup + _COLLECTIVES * _SIZES * repeats * 2 * (ranks - 1) * _STEP_S


def search_seconds(ranks: int) -> float:
    """All ranks in pairs, once; what was slow talks again, which a healthy pod has nothing of."""
    return _A_PAIR_S * len(schedule(min(ranks, MOST_ROUNDS + 1)))


def expected_seconds(profile: str, gpus: int, nodes: int, seed: int = 0) -> float:
    """Of a pod: ranks work side by side, and wait for the slowest where they work together."""
    rng, ranks = random.Random(f"{seed}/{profile}/{gpus}/{nodes}"), gpus * nodes
    now = [_START_S] * ranks
    for step in steps(profile):
        seconds = _STAGE_START_S + step.seconds[profile]
        took = [seconds * (1 + abs(rng.gauss(0, _JITTER))) for _ in range(ranks)]
        now = [t + s for t, s in zip(now, took, strict=True)]
        if step.together:
            now = [max(now) + collective_seconds(ranks)] * ranks
            if nodes > 1 and profile in ROUTINE:
                now = [t + search_seconds(ranks) for t in now]
    return max(now) + _REPORT_S
