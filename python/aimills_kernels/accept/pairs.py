"""Which link or device is bad, after a collective failed or was slow: all ranks talk in pairs."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from aimills_kernels.accept.context import Group
from aimills_kernels.accept.meeting import Meeting

Pair = tuple[int, int]
SLOW = 3.0  # times a fast pair
_ENOUGH = 4  # pairs between two nodes, to tell the nodes from their ranks
MOST_ROUNDS = 15  # each round costs a wait where a link is dead
_BYTES = 1 << 20
_TIMES = 8


def schedule(world: int, most: int = MOST_ROUNDS) -> list[list[Pair]]:
    """Rounds of pairs: in a round each rank is in one pair at most, and in `world` - 1 rounds
    everyone meets everyone. The circle method."""
    ring: list[int | None] = [*range(world), *([None] if world % 2 else [])]
    rounds = []
    for _ in range(min(most, len(ring) - 1)):
        half = len(ring) // 2
        sides = zip(ring[:half], reversed(ring[half:]), strict=True)
        rounds.append([(min(a, b), max(a, b)) for a, b in sides
                       if a is not None and b is not None])  # fmt: skip
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return rounds


Name = Callable[[int], str]


@dataclass(frozen=True)
class Blame:
    """ranks, nodes: bad with most of their partners; links: bad pairs of ranks, or of nodes, that
    are otherwise well. A node is named where most pairs of its ranks with others are bad."""

    ranks: tuple[int, ...] = ()
    links: tuple[Pair, ...] = ()
    nodes: tuple[str, ...] = ()
    node_links: tuple[tuple[str, str], ...] = ()

    def text(self, name: Name) -> str:
        said = [f"node {n} is bad with most of the other nodes" for n in self.nodes]
        said += [f"what links node {a} and node {b} is bad" for a, b in self.node_links]
        said += [f"{name(r)} is bad with most of its partners" for r in self.ranks]
        said += [f"the link between {name(a)} and {name(b)} is bad" for a, b in self.links]
        return "; ".join(said) or "every pair is well by itself"


def blame(
    times: Mapping[Pair, float | None], slow: float = SLOW, node: Name = lambda rank: ""
) -> Blame:
    """From each pair's seconds, None where it failed. `node` names that of a rank."""
    between = {p: _ordered(node(p[0]), node(p[1])) for p in times}
    inside = {p for p, (a, b) in between.items() if a == b}
    bad = _bad({p: t for p, t in times.items() if p in inside}, slow)
    bad |= _bad({p: t for p, t in times.items() if p not in inside}, slow)
    every, broken = (Counter(between[p] for p in of if p not in inside) for of in (times, bad))
    cut = {e for e, count in broken.items() if 2 * count > every[e] >= _ENOUGH}
    nodes, node_links = _culprits(cut, every)
    rest = {p for p in bad if between[p] not in cut}
    ranks, links = _culprits(rest, [p for p in times if between[p] not in cut])
    return Blame(ranks, links, nodes, node_links)


def _ordered(a: str, b: str) -> tuple[str, str]:
    return min(a, b), max(a, b)


def _bad(times: Mapping[Pair, float | None], slow: float) -> set[Pair]:
    """Against the fast ones: of a device that is slow with everyone, the slow pairs are half of all
    where there are four. Pairs within a node and between nodes are of other speeds by nature."""
    well = sorted(t for t in times.values() if t is not None)
    limit = slow * well[len(well) // 4] if well else 0.0
    return {pair for pair, t in times.items() if t is None or t > limit}


def _culprits(bad: Collection[Any], every: Iterable[Any]) -> tuple[tuple, tuple]:
    """Ends that are bad with most of those they met, and the bad pairs of others."""
    met = Counter(end for pair in every for end in pair)
    found: list[Any] = []
    while True:
        left = Counter(end for pair in bad if not {*pair} & {*found} for end in pair)
        worst = max(sorted(left), key=lambda end: left[end] / met[end], default=None)
        # Of one partner alone nobody can tell which of the two it is.
        if worst is None or left[worst] < 2 or 2 * left[worst] <= met[worst]:
            break
        found.append(worst)
    return tuple(found), tuple(sorted(pair for pair in bad if not {*pair} & {*found}))


def measured(
    meeting: Meeting,
    talk: Callable[[int], float | None],
    name: str,
    wait_s: float,
) -> dict[Pair, float | None]:
    """All pairs' seconds, on each rank the same but for who did not say. `talk(peer)` gives this
    rank's seconds with a peer, or None; it has an end of its own within `wait_s`."""
    rounds = schedule(meeting.world)
    for number, pairs in enumerate(rounds):
        mine = next((p for p in pairs if meeting.rank in p), None)
        if mine is not None:
            peer = mine[0] + mine[1] - meeting.rank
            meeting.say(f"{name}/{mine[0]}-{mine[1]}", talk(peer))
        meeting.meet(f"{name}/round {number}", wait_s=wait_s)
    found: dict[Pair, float | None] = {}
    for pair in (p for pairs in rounds for p in pairs):
        said = meeting.heard(f"{name}/{pair[0]}-{pair[1]}")
        times = [said.get(rank) for rank in pair]
        known = [t for t in times if t is not None]
        found[pair] = max(known) if len(known) == 2 else None
    return found


def talk_over(group: Group, device: torch.device, wait_s: float) -> Callable[[int], float | None]:
    """Back and forth in a communicator of the two alone: that of all may be broken."""
    backend = "nccl" if device.type == "cuda" else "gloo"

    def talk(peer: int) -> float | None:
        with contextlib.suppress(RuntimeError):
            two = dist.new_group(
                sorted((group.rank, peer)), timeout=timedelta(seconds=wait_s), backend=backend,
                use_local_synchronization=True,
            )  # fmt: skip
            held = torch.zeros(_BYTES, dtype=torch.uint8, device=device)
            dist.all_reduce(held, group=two)
            # The fastest: a host that is busy for a moment is no slow link, which always is.
            return min(_seconds(held, two) for _ in range(_TIMES))
        return None

    return talk


def _seconds(held: torch.Tensor, group: Any) -> float:
    begin = time.perf_counter()
    dist.all_reduce(held, group=group)
    if held.is_cuda:
        torch.cuda.synchronize(held.device)
    return time.perf_counter() - begin
