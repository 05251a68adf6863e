"""All ranks talk in pairs, to tell which link or device is bad: after a collective that failed or
was slow. `culprits` names it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from aimills_kernels.accept import culprits
from aimills_kernels.accept.context import Group
from aimills_kernels.accept.culprits import Name, Pair
from aimills_kernels.accept.meeting import Meeting

# Of a GPU enough for a link's rate, 0.2 ms of NVLink; of a CPU, whose scheduler is slower than its
# links, the pair's wait for each other.
_BYTES = {"cuda": 64 << 20, "cpu": 1 << 20}
_SLOW = {"cuda": culprits.SLOW, "cpu": 10.0}
_TALK_S = 0.5  # of a pair
_MOST_TOLD = 1000  # pairs, one by one

Talk = Callable[[int], float | None]  # with a peer; seconds, or None


@dataclass(frozen=True)
class Found:
    """What the search says, the same on all ranks; `times` on rank 0 alone."""

    text: str = "rank 0 did not say what the ranks found"
    bad: bool = False
    failed: int = 0
    pairs: int = 0
    times: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, times: culprits.Times, slow: float, node: Name, name: Name) -> Found:
        found = culprits.blame(times, slow, node)
        told = times if len(times) <= _MOST_TOLD else culprits.bad_pairs(times, slow, node)
        return cls(
            f"{found.text(name)} ({culprits.usual(times, node)})",
            not found.nobody,
            sum(t is None for t in times.values()),
            len(times),
            {f"{a}-{b}": times[a, b] for a, b in sorted(told)[:_MOST_TOLD]},
        )


def search(
    meeting: Meeting, talk: Talk, place: str, wait_s: float, name: Name, node: Name,
    slow: float = culprits.SLOW,
) -> Found:  # fmt: skip
    """`talk` has an end of its own within `wait_s`. Pairs that were slow talk again, without the
    others: a network that all of them share, or a busy host, is no bad link."""
    first = _talked(meeting, culprits.schedule(meeting.world), talk, f"{place}/first", wait_s)
    if meeting.rank == 0:
        slow_ones = [p for p in culprits.bad_pairs(first, slow, node) if first[p] is not None]
        meeting.tell(f"{place}/again", slow_ones)
    meeting.meet(f"{place}/agreed", wait_s=wait_s)
    again: list[Pair] = [(a, b) for a, b in meeting.told(f"{place}/again") or ()]
    second = _talked(meeting, culprits.packed(again), talk, f"{place}/second", wait_s)
    found = Found.of(culprits.merged(first, second), slow, node, name)
    if meeting.rank == 0:
        meeting.tell(f"{place}/found", {**asdict(found), "times": {}})
    meeting.meet(f"{place}/end", wait_s=wait_s)
    if meeting.rank == 0:
        return found
    told = meeting.told(f"{place}/found")
    return Found(**told) if told else Found()


def _talked(
    meeting: Meeting, rounds: list[list[Pair]], talk: Talk, place: str, wait_s: float
) -> dict[Pair, float | None]:
    """On rank 0 the seconds of all pairs."""
    mine: list[tuple[int, int, float | None]] = []
    for number, pairs in enumerate(rounds):
        for a, b in pairs:
            if meeting.rank in (a, b):
                mine.append((a, b, talk(a + b - meeting.rank)))
        meeting.meet(f"{place}/round {number}", wait_s=wait_s)
    if not rounds:
        return {}
    meeting.say(f"{place}/times", mine)
    meeting.meet(f"{place}/said", wait_s=wait_s)
    if meeting.rank:
        return {}
    said = culprits.heard([*meeting.heard(f"{place}/times").values()])
    return {pair: said.get(pair) for pairs in rounds for pair in pairs}


def slow_of(device: torch.device) -> float:
    return _SLOW[device.type]


def talk_over(group: Group, device: torch.device, wait_s: float) -> Talk:
    """Back and forth in a communicator of the two alone: that of all may be broken. torch names it
    by how many groups a process has, on which the two have to agree: a rank without a partner in a
    round, or whose partner failed, makes up for it by a group of its own."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    rounds = enumerate(culprits.schedule(group.world))
    place = {pair: i for i, found in rounds for pair in found}
    known: dict[int, Any] = {}
    made = 0

    def join(ranks: list[int], by: str) -> Any:
        nonlocal made
        joined = dist.new_group(
            ranks, timeout=timedelta(seconds=wait_s), backend=by, use_local_synchronization=True
        )
        made += 1
        return joined

    def talk(peer: int) -> float | None:
        pair = min(group.rank, peer), max(group.rank, peer)
        with contextlib.suppress(RuntimeError):
            while peer not in known and made < place[pair]:
                join([group.rank], "gloo")
            two = known[peer] = known.get(peer) or join([*pair], backend)
            held = torch.zeros(_BYTES[device.type], dtype=torch.uint8, device=device)
            dist.all_reduce(held, group=two)
            return _fastest(held, two)
        return None

    return talk


def _fastest(held: torch.Tensor, group: Any) -> float:
    """Seconds of the fastest in half a second: a host that is busy for a moment is no slow link,
    which always is. What the two send tells that one has had enough, so they stop together."""
    first, best = time.perf_counter(), float("inf")
    while True:
        held.fill_(int(time.perf_counter() - first > _TALK_S))
        begin = _now(held)
        dist.all_reduce(held, group=group)
        best = min(best, _now(held) - begin)
        if held[0]:
            return best


def _now(held: torch.Tensor) -> float:
    if held.is_cuda:
        torch.cuda.synchronize(held.device)
    return time.perf_counter()
