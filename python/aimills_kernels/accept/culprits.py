"""Which node, device or link is bad, by how long pairs of ranks took. Needs no torch, as the
simulated pod is searched too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Pair = tuple[int, int]
Times = Mapping[Pair, float | None]  # seconds; None where the pair failed
Name = Callable[[int], str]

SLOW = 3.0  # times a fast pair
_ENOUGH = 4  # pairs between two nodes, to tell the nodes from their ranks
MOST_ROUNDS = 15  # each round costs a wait where a link is dead


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


def packed(pairs: Iterable[Pair], most: int = MOST_ROUNDS) -> list[list[Pair]]:
    """These pairs in rounds, each into the first where both of its ranks are free."""
    rounds: list[list[Pair]] = []
    busy: list[set[int]] = []
    for pair in sorted(pairs):
        free = next((i for i, ranks in enumerate(busy) if not ranks & {*pair}), len(busy))
        if free == most:
            continue
        if free == len(busy):
            rounds.append([])
            busy.append(set())
        rounds[free].append(pair)
        busy[free] |= {*pair}
    return rounds


@dataclass(frozen=True)
class Blame:
    """ranks, nodes: bad with most of their partners; links: bad pairs of ranks, or of nodes, that
    are otherwise well. A node is named where most pairs of its ranks with others are bad."""

    ranks: tuple[int, ...] = ()
    links: tuple[Pair, ...] = ()
    nodes: tuple[str, ...] = ()
    node_links: tuple[tuple[str, str], ...] = ()

    @property
    def nobody(self) -> bool:
        return not (self.ranks or self.links or self.nodes or self.node_links)

    def text(self, name: Name) -> str:
        said = [f"node {n} is bad with most of the other nodes" for n in self.nodes]
        said += [f"what links node {a} and node {b} is bad" for a, b in self.node_links]
        said += [f"{name(r)} is bad with most of its partners" for r in self.ranks]
        said += [f"the link between {name(a)} and {name(b)} is bad" for a, b in self.links]
        return "; ".join(said) or "no pair stands out"


def blame(times: Times, slow: float = SLOW, node: Name = lambda rank: "") -> Blame:
    """From each pair's seconds. `node` names that of a rank."""
    between, bad = _between(times, node), bad_pairs(times, slow, node)
    inside = {p for p, (a, b) in between.items() if a == b}
    every, broken = (Counter(between[p] for p in of if p not in inside) for of in (times, bad))
    cut = {e for e, count in broken.items() if 2 * count > every[e] >= _ENOUGH}
    nodes, node_links = _culprits(cut, every)
    rest = {p for p in bad if between[p] not in cut}
    ranks, links = _culprits(rest, [p for p in times if between[p] not in cut])
    return Blame(ranks, links, nodes, node_links)


def bad_pairs(times: Times, slow: float = SLOW, node: Name = lambda rank: "") -> set[Pair]:
    """Pairs within a node and between nodes are of other speeds by nature, so each kind is held
    against its own."""
    between = _between(times, node)
    inside = {p for p, (a, b) in between.items() if a == b}
    return _bad({p: t for p, t in times.items() if p in inside}, slow) | _bad(
        {p: t for p, t in times.items() if p not in inside}, slow
    )


def usual(times: Times, node: Name) -> str:
    """What pairs of each kind take, for who is to find out why all are slow."""
    between = _between(times, node)
    said = []
    for words, within in (("within a node", True), ("between nodes", False)):
        known = [t for p, t in times.items()
                 if t is not None and (len({*between[p]}) == 1) == within]  # fmt: skip
        if known:
            said.append(f"{1e3 * median(known):.3g} ms {words}")
    return ", ".join(said) or "none talked"


def _between(times: Iterable[Pair], node: Name) -> dict[Pair, tuple[str, str]]:
    return {(a, b): _ordered(node(a), node(b)) for a, b in times}


def _ordered(a: str, b: str) -> tuple[str, str]:
    return min(a, b), max(a, b)


def _bad(times: Times, slow: float) -> set[Pair]:
    """Against the fast ones: of a device that is slow with everyone, the slow pairs are half of all
    where there are four."""
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


def merged(first: Times, again: Times) -> dict[Pair, float | None]:
    """What was slow once and not when it talked again, with fewer others at work, is well."""
    return {p: _better(t, again[p]) if p in again else t for p, t in first.items()}


def _better(first: float | None, again: float | None) -> float | None:
    """A pair that failed at either time has failed."""
    return None if first is None or again is None else min(first, again)


def heard(said: Sequence[Sequence[tuple[int, int, float | None]]]) -> dict[Pair, float | None]:
    """What the ranks say of their pairs, as one: a pair failed where one of the two says so, or
    says nothing."""
    told: dict[Pair, list[float | None]] = {}
    for rows in said:
        for a, b, t in rows:
            told.setdefault((a, b), []).append(t)
    return {pair: max(t for t in times if t is not None)
            if len(times) == 2 and None not in times else None
            for pair, times in told.items()}  # fmt: skip
