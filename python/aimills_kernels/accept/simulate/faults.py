"""What can be wrong with a pod, by name."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aimills_kernels.accept.findings import ACCEPTED, INCOMPLETE, REJECTED
from aimills_kernels.accept.metrics import HIGHER, METRICS, THROTTLES, is_collective_rate
from aimills_kernels.accept.simulate.models import Layout
from aimills_kernels.accept.simulate.schedule import steps
from aimills_kernels.harness.reasons import BITS, UNKNOWN

_SLOWED = [m for m, known in METRICS.items() if known.better == HIGHER and
           m.partition(".")[0] in ("memory", "gemm", "burn", "energy", "work")]  # fmt: skip
_BURN_ONLY = ("burn.rate", "burn.clock", "energy.gemm")
_COUNTERS = ("ecc.uncorrected", "remap.pending", "xid.count", "memory.wrong", "sdc.repeats")


@dataclass
class Conditions:
    """What differs from a healthy pod; ranks are numbered over all nodes.

    factors   of rates, by (rank, metric)
    values    instead of what a healthy device has; None: the counter can't be read
    reasons   the clocks event reasons while the rank is slowed
    gone      ranks without a journal; absent: GPUs that their node does not have
    cut       a rank whose process ends in the middle of this stage; torn: in the middle of a line
    hung      stages that the other ranks wait for in vain
    links     how many times slower a pair of ranks is
    jumps     seconds by which the clock of a node is set forward, from this stage on
    """

    factors: dict[tuple[int, str], float] = field(default_factory=dict)
    values: dict[tuple[int, str], Any] = field(default_factory=dict)
    reasons: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    absent: set[int] = field(default_factory=set)
    cut: dict[int, str] = field(default_factory=dict)
    torn: bool = False
    hung: dict[str, int] = field(default_factory=dict)
    links: dict[tuple[int, int], float] = field(default_factory=dict)
    jumps: dict[int, tuple[str, float]] = field(default_factory=dict)
    flipped: set[int] = field(default_factory=set)
    nans: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Fault:
    """`code`: the verdict that it deserves; `gpu`: only a GPU can have it; `least`: ranks that it
    needs; `stage`: what a profile must run to meet it."""

    title: str
    inject: Callable[[Conditions, Layout, random.Random, str], None]
    code: int = REJECTED
    gpu: bool = True
    least: int = 1
    stage: str | None = None


def _slow_gpu(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    rank = rng.randrange(pod.world)
    c.factors |= {(rank, m): 0.8 for m in _SLOWED}


def _all_slow(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    c.factors |= {(rank, m): 0.7 for rank in range(pod.world) for m in _SLOWED}


def _power_cap(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    for rank in range(pod.world):
        c.reasons[rank] = 0x4
        c.values[rank, "throttle.sw_power_cap"] = round(rng.uniform(0.97, 1.0), 4)


def _throttled(mask: int) -> Callable[..., None]:
    """One GPU, slowed so little that only the reasons tell it."""
    metrics = [name for name in THROTTLES if mask & BITS[name]]

    def inject(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
        rank = rng.randrange(pod.world)
        c.reasons[rank] = mask
        share = round(rng.uniform(0.3, 1.0), 4)
        c.values |= {(rank, f"throttle.{m}"): share for m in metrics}
        c.factors |= {(rank, m): 0.97 for m in _BURN_ONLY}

    return inject


def _ecc(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    rank, errors = rng.randrange(pod.world), rng.randint(1, 4)
    c.values |= {(rank, "ecc.uncorrected"): errors, (rank, "ecc.uncorrected_ever"): errors,
                 (rank, "remap.pending"): 1}  # fmt: skip


def _bit_flip(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    """Always the same wrong bit, which only other devices show, or now and then one."""
    rank = rng.randrange(pod.world)
    if pod.world > 1 and rng.random() < 0.5:
        c.flipped.add(rank)
    else:
        c.values[rank, "sdc.differing"] = rng.randint(1, 3)


def _nan(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    c.nans.add(rng.randrange(pod.world))


def _hot_hbm(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    rank = rng.randrange(pod.world)
    c.factors[rank, "memory.copy_hot"] = rng.uniform(0.7, 0.78)
    c.values[rank, "burn.temperature_memory"] = round(rng.uniform(88, 94), 1)


def _missing_gpu(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    c.absent.add(rng.randrange(pod.world))


def _dead_rank(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    rank = rng.randrange(pod.world)
    names = [s.name for s in steps(profile)]
    before = names[: names.index("interconnect") + 1]
    if rng.random() < 0.5:
        c.gone.add(rank)
    else:
        c.cut[rank] = rng.choice(before)
    c.hung["interconnect"] = rank


def _hang(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    rank = rng.randrange(pod.world)
    c.cut[rank] = "interconnect"
    c.hung["interconnect"] = rank


def _slow_link(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    """What links two nodes, where others tell that it is slow; else what links two GPUs."""
    if pod.nodes > 2:
        nodes = sorted(rng.sample(range(pod.nodes), 2))
        one, other = ([*range(n * pod.gpus, (n + 1) * pod.gpus)] for n in nodes)
    else:
        one, other = ([rank] for rank in sorted(rng.sample(range(pod.world), 2)))
    c.links = {(a, b): 20.0 for a in one for b in other}
    c.factors = {(rank, m): 0.2 for rank in range(pod.world)
                 for m in METRICS if is_collective_rate(m)}  # fmt: skip
    beside = {rank for a, b in c.links if a // pod.gpus == b // pod.gpus for rank in (a, b)}
    c.factors |= {(rank, "link.p2p"): 0.05 for rank in beside}


def _crash(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    """A whole node, in the middle of a line of its journals."""
    node = rng.randrange(pod.nodes)
    alone = [s.name for s in steps(profile, pod.model.cpu) if not s.together]
    after = [n for n in alone if n in ("burn", "workloads", "sdc")]
    stage = rng.choice(after or alone)
    for rank in range(node * pod.gpus, (node + 1) * pod.gpus):
        c.cut[rank] = stage
    c.torn = True


def _clock_jump(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    stage = rng.choice([s.name for s in steps(profile, pod.model.cpu)][1:])
    by = rng.choice([-1, 1]) * rng.choice([2.5, 60.0, 3600.0, 86400.0])
    c.jumps[rng.randrange(pod.nodes)] = (stage, by)


def _lost_counter(c: Conditions, pod: Layout, rng: random.Random, profile: str) -> None:
    known = _COUNTERS if not pod.model.cpu else ("memory.wrong", "sdc.repeats")
    c.values[rng.randrange(pod.world), rng.choice(known)] = None


FAULTS: dict[str, Fault] = {
    "slow-gpu": Fault("one GPU is 20 % slower", _slow_gpu, least=2),
    "all-slow": Fault("all GPUs are 30 % slower", _all_slow, stage="burn"),
    "throttle-0x4": Fault("the power limit holds all the time, as it should in a burn", _power_cap,
                          ACCEPTED),
    "throttle-0x48": Fault("one GPU is slowed by its hardware for heat: two bits at once",
                           _throttled(0x48), stage="burn"),
    "throttle-0x80": Fault("a power brake holds one GPU",
                           _throttled(0x80), stage="burn"),
    "ecc": Fault("one GPU has uncorrected memory errors and a pending row remap", _ecc),
    "bit-flip": Fault("one GPU computes a wrong bit", _bit_flip, gpu=False),
    "nan": Fault("one GPU computes NaN", _nan, gpu=False),
    "hot-hbm": Fault("the memory of one GPU slows down as it heats up", _hot_hbm, stage="burn"),
    "missing-gpu": Fault("one node has a GPU less", _missing_gpu, least=2),
    "dead-rank": Fault("the process of one GPU dies", _dead_rank, least=2),
    "hang": Fault("one GPU hangs in a collective", _hang, least=2),
    "slow-link": Fault("what links two nodes or two GPUs is slow, and nothing fails", _slow_link,
                       least=3, stage="interconnect"),
    "crash": Fault("a node crashes in the middle", _crash, gpu=False),
    "clock-jump": Fault("the clock of a node is set while it runs", _clock_jump, INCOMPLETE,
                        gpu=False),
    "lost-counter": Fault("a counter of one GPU can't be read", _lost_counter, INCOMPLETE,
                          gpu=False),
}  # fmt: skip


_WORD = re.compile(r"throttle-0x([0-9a-f]{1,16})")
# What the criteria of every GPU reject; other names only warn, or say nothing.
_REJECTED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown",
             "hw_power_brake_slowdown", "board_limit")  # fmt: skip


def fault_of(name: str) -> Fault | None:
    """One of `FAULTS`, or any word of reasons that a driver may tell, as throttle-0x2."""
    word = _WORD.fullmatch(name)
    if name in FAULTS or word is None:
        return FAULTS.get(name)
    mask = int(word[1], 16)
    code = INCOMPLETE if mask & BITS[UNKNOWN] else ACCEPTED
    code = REJECTED if any(mask & BITS[n] for n in _REJECTED) else code
    said = ", ".join(n for n in THROTTLES if mask & BITS[n]) or "none"
    return Fault(
        f"one GPU's reasons for low clocks are {said}", _throttled(mask), code, stage="burn"
    )


def conditions(name: str | None, pod: Layout, rng: random.Random, profile: str) -> Conditions:
    """ValueError: a sentence, where this pod can't have this fault."""
    made = Conditions()
    if name is None:
        return made
    fault = fault_of(name)
    if fault is None:
        raise ValueError(
            f"--fault: there is no fault {name!r}; there are {', '.join(FAULTS)}, and throttle-0x "
            "with any word in small hexadecimal digits"
        )
    if fault.gpu and pod.model.cpu:
        raise ValueError(f"--fault: a CPU can't have {name}: {fault.title}")
    if pod.world < fault.least:
        raise ValueError(f"--fault: {name} needs {fault.least} devices, and {pod.name} has 1")
    if fault.stage and fault.stage not in [s.name for s in steps(profile)]:
        raise ValueError(f"--fault: the profile {profile} has no stage {fault.stage} for {name}")
    fault.inject(made, pod, rng, profile)
    return made
