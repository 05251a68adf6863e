"""Links: host to device and back, each pair of a node's devices, collectives of all ranks.

What arrives is held against what was sent, element by element.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aimills_kernels.accept.context import Context, Group
from aimills_kernels.accept.stages import _collectives, memory
from aimills_kernels.accept.stages._tools import is_gpu, option, reason, synchronize
from aimills_kernels.harness.ceilings import sustained_us
from aimills_kernels.harness.timing import timer_for

T = TypeVar("T")

_HOST_BYTES = 256 << 20
_PAIR_BYTES, _CPU_PAIR_BYTES = 256 << 20, 1 << 20
# Of a pair each way, and seconds of copying each way in each device's turn: with 8 of them on PCIe
# the gate has 1 s for either.
_PAIR_CALLS, _GATE_PAIR_CALLS = 10, 3
_TURN_S, _GATE_TURN_S = 0.2, 0.1
_ALONE = "this rank is alone, and it takes two"


def run(ctx: Context) -> str:
    neighbours = _neighbours(ctx)
    _host(ctx, neighbours)
    if ctx.group is None or ctx.group.world < 2:
        ctx.not_run("link.p2p", "device to device", _ALONE, gap=False)
        for name in _collectives.COLLECTIVES:
            ctx.not_run(f"collective.{name}", f"{name}, timed", _ALONE, gap=False)
        return "one rank: no pairs and no collectives"
    pairs = _pairs(ctx, ctx.group, neighbours)
    done = _collectives.run(ctx, ctx.group, _model(ctx, ctx.group))
    return f"{pairs} of this device's pairs, {done} collectives over {ctx.group.world} ranks"


def _neighbours(ctx: Context) -> list[int]:
    """The ranks of this node, this one too."""
    if ctx.group is None:
        return [0]
    nodes: list[str | None] = [None] * ctx.group.world
    dist.all_gather_object(nodes, platform.node(), group=ctx.group.control)
    return [rank for rank, node in enumerate(nodes) if node == platform.node()]


def _model(ctx: Context, group: Group) -> str:
    """The GPU's name where all have the same; else none, or the ranks would do different things."""
    names: list[str] = [""] * group.world
    mine = torch.cuda.get_device_name(ctx.device) if is_gpu(ctx) else ""
    dist.all_gather_object(names, mine, group=group.control)
    return mine if len({*names}) == 1 else ""


# ---- host and device


def _host(ctx: Context, neighbours: list[int]) -> None:
    """In turns, since the devices of a node share what leads to the host's memory. What takes time
    and is no copy is done before, by all at once."""
    mine = neighbours.index(ctx.group.rank) if ctx.group else 0
    copies = _guarded(ctx, lambda: _Copies(ctx)) if is_gpu(ctx) else None
    for turn in range(_most(ctx, len(neighbours))):
        if ctx.group is not None:
            dist.barrier(group=ctx.group.control)
        if turn == mine and copies is not None:
            _guarded(ctx, copies.run)
    if not is_gpu(ctx):
        why = "a CPU has no link between its memory and itself that could be timed"
        ctx.not_run("link.h2d", "host to device", why, gap=False)
        ctx.not_run("link.d2h", "device to host", why, gap=False)


def _most(ctx: Context, count: int) -> int:
    """The largest of all ranks, so that each makes as many turns."""
    if ctx.group is None:
        return count
    counts = torch.tensor([count])
    dist.all_reduce(counts, dist.ReduceOp.MAX, group=ctx.group.control)
    return int(counts)


def _guarded(ctx: Context, work: Callable[[], T]) -> T | None:
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        ctx.not_run("link.h2d", "host to device and back", reason(error))
        return None


class _Copies:
    """Pinned memory, what is sent from it, and where it arrives."""

    def __init__(self, ctx: Context):
        self.ctx, self.size = ctx, option(ctx, "host_bytes", _HOST_BYTES)
        self.device = pattern(self.size, ctx.seed, ctx.device)
        self.host = torch.empty(self.size, dtype=torch.uint8, pin_memory=True)
        self.host.copy_(self.device)
        self.device.zero_()
        self.back = torch.zeros(self.size, dtype=torch.uint8).pin_memory()

    def run(self) -> None:
        timer = timer_for(self.ctx.device)
        turn_s = _GATE_TURN_S if self.ctx.profile == "gate" else _TURN_S
        for metric, target, source in (
            ("link.h2d", self.device, self.host), ("link.d2h", self.back, self.device),
        ):  # fmt: skip
            copy = partial(target.copy_, source, non_blocking=True)
            samples = sorted(sustained_us(timer, copy, turn_s))
            rate = self.size / samples[len(samples) // 2] * 1e6
            self.ctx.measure(metric, rate, bytes=self.size, pinned=True)
        wrong = int((self.back != self.host).sum())
        _wrong(self.ctx, "host to device and back", wrong, self.size)


def pattern(size: int, seed: int, device: torch.device) -> Tensor:
    """Random bytes, made where they are needed: a CPU takes seconds to draw as many."""
    words = torch.arange(-(-size // 8), device=device)
    return memory.random(words, seed).view(torch.uint8)[:size]


def _wrong(ctx: Context, what: str, wrong: int, elements: int) -> None:
    ctx.measure("link.wrong", wrong, what=what, elements=elements)
    if wrong:
        ctx.event("link", f"{what}: {wrong} of {elements} elements arrived wrong", what=what)


# ---- pairs of a node


def rounds(members: list[int]) -> list[list[tuple[int, int]]]:
    """Every pair once, in rounds in which each is in one pair at most (the circle method)."""
    ring: list[int | None] = [*members, *([None] if len(members) % 2 else [])]
    found = []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        found.append([(a, b) for a, b in pairs if a is not None and b is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found


def _pairs(ctx: Context, group: Group, neighbours: list[int]) -> int:
    """Each pair, one way and then the other; pairs without a common device at the same time. Its
    rate is stated by the device that receives, the slowest as the metric."""
    if _most(ctx, len(neighbours)) < 2:
        ctx.not_run("link.p2p", "device to device", "its node has no other device", gap=False)
        return 0
    _collectives.warm_up(ctx, group)  # of all ranks, before some of them talk
    size = option(ctx, "pair_bytes", _PAIR_BYTES if is_gpu(ctx) else _CPU_PAIR_BYTES)
    rates: dict[int, float] = {}
    wrong = 0
    for pairs in rounds(neighbours):
        for a, b in pairs:
            if group.rank not in (a, b):
                continue
            peer = b if group.rank == a else a
            for sender in (a, b):
                seconds, bad = _send(ctx, group, sender, peer, size)
                if sender != group.rank:
                    rates[peer] = size / seconds
                    wrong += bad
    if not rates:
        ctx.not_run("link.p2p", "device to device", "its node has no other device", gap=False)
        return 0
    slowest = min(rates, key=lambda peer: rates[peer])
    ctx.measure(
        "link.p2p", rates[slowest], peer=slowest, bytes=size,
        rates={str(peer): rate for peer, rate in sorted(rates.items())},
    )  # fmt: skip
    _wrong(ctx, "device to device", wrong, len(rates) * size)
    return len(rates)


def _send(ctx: Context, group: Group, sender: int, peer: int, size: int) -> tuple[float, int]:
    """Seconds a message, and how many of its bytes are not as sent."""
    sends = sender == group.rank
    sent = pattern(size, ctx.seed + sender, ctx.device)
    held = sent if sends else torch.zeros_like(sent)

    def once() -> None:
        work = dist.P2POp(dist.isend if sends else dist.irecv, held, peer, group=group.data)
        for pending in dist.batch_isend_irecv([work]):
            pending.wait()

    seconds = _timed(ctx, once, _GATE_PAIR_CALLS if ctx.profile == "gate" else _PAIR_CALLS)
    return seconds, 0 if sends else int((held != sent).sum())


def _timed(ctx: Context, call: Callable[[], None], calls: int) -> float:
    call()
    synchronize(ctx.device)
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(ctx.device)
    return (time.perf_counter() - begin) / calls
