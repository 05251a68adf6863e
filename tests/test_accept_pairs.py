"""Pairs of ranks: who is named where a link is slow or broken, and when they are asked at all."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from aimills_kernels.accept import culprits, pairs, shortfall
from aimills_kernels.accept.context import StageSpec
from aimills_kernels.accept.criteria import Criteria, Rule, load
from aimills_kernels.accept.evidence_folder import RankJournal
from aimills_kernels.accept.findings import FAIL, UNKNOWN, WARN, code_of
from aimills_kernels.accept.journal import read
from aimills_kernels.accept.judge import judge
from aimills_kernels.accept.launch import Launch
from aimills_kernels.accept.meeting import Meeting, Met
from aimills_kernels.accept.simulate import layout, simulate
from aimills_kernels.accept.together import Together


@pytest.mark.parametrize("world", [2, 3, 4, 7, 8])
def test_everyone_meets_everyone_once(world: int) -> None:
    rounds = culprits.schedule(world)
    met = [p for found in rounds for p in found]
    assert sorted(met) == [(a, b) for a in range(world) for b in range(a + 1, world)]
    for found in rounds:
        assert len({r for p in found for r in p}) == 2 * len(found)


def test_rounds_are_bounded_in_a_large_pod() -> None:
    rounds = culprits.schedule(4096)
    assert len(rounds) == culprits.MOST_ROUNDS
    assert all(len(found) == 2048 for found in rounds)


def _times(world: int, bad: dict[tuple[int, int], float | None]) -> dict[Any, float | None]:
    return {p: bad.get(p, 1.0) for found in culprits.schedule(world) for p in found}


@pytest.mark.parametrize(
    ("bad", "ranks", "links"),
    [
        ({}, (), ()),
        ({(0, 2): 9.0}, (), ((0, 2),)),
        ({(1, 3): None}, (), ((1, 3),)),
        ({(0, 2): None, (1, 2): None, (2, 3): 9.0}, (2,), ()),
        ({(0, 2): 9.0, (1, 2): 9.0, (2, 3): 9.0}, (2,), ()),
    ],
)
def test_blame(bad: dict[Any, float | None], ranks: tuple, links: tuple) -> None:
    assert culprits.blame(_times(4, bad)) == culprits.Blame(ranks, links)


def _of_nodes(bad: Callable[[int, int], bool], nodes: int = 3, each: int = 2) -> culprits.Blame:
    """Pairs within a node are ten times as fast as those between nodes."""
    every = [pair for found in culprits.schedule(nodes * each) for pair in found]
    well = {(a, b): 1.0 if a // each == b // each else 10.0 for a, b in every}
    times = {pair: None if bad(*pair) else well[pair] for pair in every}
    return culprits.blame(times, node=lambda r: f"n{r // each}")


def test_the_links_between_nodes_are_slow_by_nature() -> None:
    assert _of_nodes(lambda a, b: False) == culprits.Blame()
    assert _of_nodes(lambda a, b: False, 2, 8) == culprits.Blame()


def test_a_bad_node_is_named_and_not_its_ranks() -> None:
    cut = _of_nodes(lambda a, b: (a // 2 == 1) != (b // 2 == 1))
    assert cut == culprits.Blame(nodes=("n1",))
    assert "node n1 is bad with most of the other nodes" in cut.text(str)
    two = _of_nodes(lambda a, b: (a < 4) != (b < 4), 2, 4)
    assert two == culprits.Blame(node_links=(("n0", "n1"),))
    assert _of_nodes(lambda a, b: 3 in (a, b)) == culprits.Blame(ranks=(3,))
    assert _of_nodes(lambda a, b: (a, b) == (0, 5)) == culprits.Blame(links=((0, 5),))


# ---- the search


class _Counting:
    """A store that counts what it is asked."""

    def __init__(self, store: Any):
        self.store, self.asked = store, 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        return getattr(self.store, name)


def _found(
    world: int, talk: Callable[[int, int], float | None], slow: float = culprits.SLOW
) -> dict[int, pairs.Found]:
    """What each rank hears, in threads over one store."""
    store, found = dist.HashStore(), {}

    def work(me: int) -> None:
        meeting = Meeting(store, me, world, 20.0)
        found[me] = pairs.search(meeting, lambda peer: talk(me, peer), "p", 20.0, str,
                                 lambda rank: "n", slow)  # fmt: skip

    threads = [threading.Thread(target=work, args=(r,)) for r in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == world
    return found


@pytest.mark.parametrize(("seconds", "failed"), [(None, 1), (9.0, 0)])
def test_a_bad_link_is_known_to_all_ranks(seconds: float | None, failed: int) -> None:
    found = _found(4, lambda me, peer: seconds if {me, peer} == {1, 2} else 1.0)
    for rank, each in found.items():
        assert each.text.startswith("the link between 1 and 2 is bad (")
        assert (each.bad, each.failed, each.pairs) == (True, failed, 6)
        assert each.times.get("1-2", 0) == (seconds if rank == 0 else 0)


def test_a_pair_is_blamed_only_where_it_is_slow_twice() -> None:
    """A host that is busy for a while holds one pair up, and not the same one again."""
    talked: list[tuple[int, int]] = []
    lock = threading.Lock()

    def talk(me: int, peer: int) -> float:
        with lock:
            talked.append((me, peer))
            return 50.0 if {me, peer} == {0, 3} and talked.count((me, peer)) == 1 else 1.0

    found = _found(4, talk)
    assert {each.text for each in found.values()} == {"no pair stands out (1e+03 ms within a node)"}
    assert not any(each.bad for each in found.values())
    assert sorted(talked) == sorted([*{*talked}, (0, 3), (3, 0)])  # the suspects alone, once more


def test_a_slow_pair_that_fails_when_it_talks_again_has_failed() -> None:
    talked: set[tuple[int, int]] = set()

    def talk(me: int, peer: int) -> float | None:
        first = (me, peer) not in talked
        talked.add((me, peer))
        return 1.0 if {me, peer} != {1, 2} else 9.0 if first else None

    found = _found(4, talk)
    assert {each.failed for each in found.values()} == {1}
    assert found[0].times["1-2"] is None


def test_a_rank_that_says_nothing_fails_its_pairs() -> None:
    assert culprits.heard([[(0, 1, 1.0), (0, 2, 1.0)], [(0, 1, 2.0)]]) == {
        (0, 1): 2.0,
        (0, 2): None,
    }
    assert culprits.heard([[(0, 1, 1.0)], [(0, 1, None)]]) == {(0, 1): None}


def test_pairs_are_packed_into_rounds_in_which_nobody_is_twice() -> None:
    every = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    rounds = culprits.packed(every)
    assert sorted(p for found in rounds for p in found) == every
    assert all(len({r for p in found for r in p}) == 2 * len(found) for found in rounds)
    star = culprits.packed([(0, b) for b in range(1, 40)])
    assert len(star) == culprits.MOST_ROUNDS
    assert culprits.packed([]) == []


@pytest.mark.parametrize("world", [8, 256])
def test_questions_to_the_store_grow_with_the_ranks_and_not_with_their_square(world: int) -> None:
    """All but this rank have come, and said what they took."""
    store = _Counting(dist.HashStore())
    meeting = Meeting(store, world - 1, world, 20.0)
    for rank in range(world - 1):
        store.store.set(f"x/came/{rank}", "0" if rank == 2 else "1")
        store.store.set(f"x/said/{rank}", json.dumps(rank))
    store.store.add("x/count", world - 1)
    store.store.set("x/failed", "1")
    assert meeting.meet("x").failed == (2,)
    assert sorted(meeting.heard("x/said")) == [*range(world - 1)]
    assert store.asked < 40


# ---- when it is asked for


def _rate(value: float, metric: str = "collective.all_reduce") -> dict[str, Any]:
    return {"kind": "measure", "metric": metric, "value": value}


def _asked(
    value: float, name: str = "h200", profile: str = "gate", ranks: int = 8, nodes: int = 1
) -> shortfall.Shortfall:
    criteria = load(name)
    return shortfall.of(criteria, criteria.devices[0], profile, [_rate(value)], ranks, nodes)


def test_a_rate_below_its_floor_is_asked_after() -> None:
    assert _asked(0.91 * 473.1e9) == shortfall.Shortfall()
    short = _asked(0.89 * 473.1e9)
    assert short.floor
    assert short.why == ("all-reduce, bus bandwidth is 421 GB/s, below 426 GB/s",)


def test_without_a_floor_what_is_far_below_the_peak_is_asked_after() -> None:
    assert _asked(0.16 * 1800e9, "gb200", ranks=4).why == ()
    short = _asked(0.14 * 1800e9, "gb200", ranks=4)
    assert not short.floor
    assert len(short.why) == 1


def test_nodes_of_unknown_network_are_asked_where_there_is_time() -> None:
    for profile, asked in (("gate", False), ("quick", False), ("full", True), ("burn-in", True)):
        assert bool(_asked(1e9, profile=profile, ranks=16, nodes=2).why) == asked
    assert shortfall.of(load("h200"), "NVIDIA H200", "full", [], 16, 2) == shortfall.Shortfall()


def test_a_floor_that_only_warns_rejects_nobody_by_its_search() -> None:
    rule = Rule("ours", "collective.all_reduce", "floor", 9e9, "x", gpus=(2, None), severity="warn")
    own = dataclasses.replace(load("cpu"), rules=(rule,))
    short = shortfall.of(own, "a CPU", "gate", [_rate(1e9)], 2, 1)
    assert short.why
    assert not short.floor


# ---- simulated pods


def _own(nodes: int, floor: float) -> Criteria:
    rule = Rule("ours", "collective.all_reduce", "floor", floor, "ours", gpus=(2, None),
                nodes=(nodes, None))  # fmt: skip
    known = load("h200")
    return dataclasses.replace(known, rules=(*known.rules, rule))


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_link_between_nodes_is_named_and_rejects(seed: int) -> None:
    own = _own(4, 200e9)
    pod = simulate(layout("h200x8*4"), fault="slow-link", seed=seed, profile="gate", criteria=own)
    (found,) = [f for f in judge(pod, own) if f.rule == "event.pairs"]
    assert (found.status, found.where) == (FAIL, "pod")
    nodes = sorted(n for n in range(4) if f"node node-{n} " in found.text)
    assert len(nodes) == 2
    assert f"what links node node-{nodes[0]} and node node-{nodes[1]} is bad" in found.text


def test_a_healthy_pod_of_several_nodes_is_searched_and_nobody_is_named() -> None:
    pod = simulate(layout("h200x8*4"), seed=1, profile="full")
    events = [e for r in pod.ranks for e in r.of("event") if e["name"] == "pairs"]
    (event,) = events
    assert "no rule says what collectives over 4 nodes" in event["text"]
    assert "no pair stands out (0.2" in event["text"]
    assert not [f for f in judge(pod, load("h200")) if f.rule == "event.pairs"]


@pytest.mark.parametrize(
    ("detail", "status"),
    [
        ({"bad": True, "failed": 0, "floor": True}, FAIL),
        ({"bad": True, "failed": 0, "floor": False}, WARN),
        ({"bad": True, "failed": 2, "floor": False}, UNKNOWN),
        ({"bad": False, "failed": 0, "floor": True}, None),
    ],
)  # fmt: skip
def test_what_the_search_says_of_the_verdict(detail: dict[str, Any], status: str | None) -> None:
    pod = simulate(layout("h200x4"))
    before = code_of(judge(pod, load("h200")))
    rank = pod.ranks[0]
    place = next(i for i, e in enumerate(rank.entries) if e["kind"] == "measure"
                 and e["stage"] == "interconnect")  # fmt: skip
    event = {
        **rank.entries[place],
        "kind": "event",
        "name": "pairs",
        "text": "said",
        "detail": detail,
    }
    spoiled = dataclasses.replace(
        rank, entries=(*rank.entries[:place], event, *rank.entries[place:])
    )
    found = judge(dataclasses.replace(pod, ranks=(spoiled, *pod.ranks[1:])), load("h200"))
    assert [f.status for f in found if f.rule == "event.pairs"] == ([status] if status else [])
    assert code_of(found) == {FAIL: 1, UNKNOWN: 2}.get(status or "", before)


class _Place:
    """A meeting whose store takes no word."""

    def __init__(self) -> None:
        self.met: list[tuple[str, bool]] = []

    def meet(self, name: str, *, ok: bool = True, wait_s: float | None = None) -> Met:
        self.met.append((name, ok))
        return Met()

    def tell(self, key: str, value: Any) -> None:
        raise RuntimeError("Broken pipe")

    def told(self, key: str) -> Any:
        return None


@pytest.mark.parametrize(
    ("found", "ok", "failure"),
    [(shortfall.Shortfall(("slow",), True), True, None), (ValueError("no such rule"), False, "no")],
)
def test_the_others_are_met_whatever_telling_them_comes_to(
    found: Any, ok: bool, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is lost ends stages of all ranks, and fails none of their measurements."""

    def of(*_: Any) -> shortfall.Shortfall:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(shortfall, "of", of)
    journal = RankJournal(tmp_path / "j.jsonl")
    launch = Launch("parent", 0, 2, 0, 2, "a", 1, "r", "n")
    ours = Together(launch, torch.device("cpu"), journal, 1.0)
    place: Any = _Place()
    ours.meeting, ours._criteria = place, load("h200")
    spec = StageSpec("s", "Stage", lambda ctx: "done", {"quick": 1.0}, together=True)
    ctx: Any = SimpleNamespace(stage="s", profile="quick", measured=[], seconds=1.0)
    work = ours.guarded(spec)
    if failure:
        with pytest.raises(ValueError, match=failure):
            work(ctx)
    else:
        assert work(ctx) == "done"
    assert place.met == [("s/begin", True), ("s/end", ok)]
    told = [e["text"] for e in read(journal.path)]
    assert told == ([] if failure else ["Stage: the ranks can't meet: Broken pipe"])
