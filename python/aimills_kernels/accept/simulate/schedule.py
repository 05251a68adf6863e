"""What each profile runs, and how long a pod of some nodes takes for it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from aimills_kernels.accept.metrics import METRICS, PROFILES


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


def _seconds(*each: float) -> dict[str, float]:
    return dict(zip(PROFILES, each, strict=True))


STEPS = (
    Step("inventory", "Inventory", _seconds(1, 1, 1, 1),
         ("gpu", "node", "clock", "power.limit", "mig", "ecc.enabled")),
    Step("health", "Health", _seconds(2, 2, 4, 4),
         ("ecc.uncorrected", "ecc.uncorrected_ever", "ecc.corrected", "remap", "xid", "pcie",
          "nvlink", "power.idle")),
    Step("memory", "Memory", _seconds(5, 20, 120, 900),
         ("memory.copy", "memory.read", "memory.write", "memory.wrong")),
    Step("compute", "Compute", _seconds(7, 30, 120, 600), ("gemm",)),
    Step("interconnect", "Interconnect", _seconds(8, 30, 120, 600), ("link", "collective"),
         together=True),
    Step("correctness", "Correctness", {"quick": 60, "full": 240, "burn-in": 240}),
    Step("video", "A decoded video", _seconds(10, 20, 20, 20)),
    Step("shapes", "Shapes of real models", {"quick": 30, "full": 60, "burn-in": 60}),
    Step("bench", "Times against peers", {"quick": 60, "full": 120, "burn-in": 120}),
    Step("burn", "Sustained load", _seconds(12, 62, 600, 14400),
         ("burn", "throttle", "energy", "memory.copy_hot")),
    Step("sdc", "Silent errors", _seconds(5, 20, 120, 900), ("sdc",)),
    Step("workloads", "Real workloads", _seconds(5, 20, 120, 600), ("work",)),
)  # fmt: skip

_JITTER = 0.02  # of a stage's time, from rank to rank
# Setting up a communicator: an exchange of addresses through one rank, then a tree of connections.
_SETUP_S, _SETUP_A_RANK_S, _SETUP_A_LEVEL_S = 1.0, 0.002, 0.15
_COLLECTIVES, _SIZES, _STEP_S = 4, 12, 12e-6


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


def expected_seconds(profile: str, gpus: int, nodes: int, seed: int = 0) -> float:
    """Of a pod: ranks work side by side, and wait for the slowest where they work together."""
    rng, ranks = random.Random(f"{seed}/{profile}/{gpus}/{nodes}"), gpus * nodes
    now = [0.0] * ranks
    for step in steps(profile):
        took = [step.seconds[profile] * (1 + abs(rng.gauss(0, _JITTER))) for _ in range(ranks)]
        now = [t + s for t, s in zip(now, took, strict=True)]
        if step.together:
            now = [max(now) + collective_seconds(ranks)] * ranks
    return max(now)
