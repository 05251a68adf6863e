"""The stage of links: schedules and buffers alone, and two ranks over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimills_kernels.accept import device_memory, journal, message_sizes
from aimills_kernels.accept.simulate import MODELS
from aimills_kernels.accept.stages import _collectives, interconnect
from aimills_kernels.accept.timetable import SLOTS
from tests.stage_context import CPU, Written

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_every_pair_comes_once_and_nobody_twice_in_a_round(n: int) -> None:
    members = list(range(10, 10 + n))
    found = interconnect.rounds(members)
    pairs = [frozenset(pair) for pairs in found for pair in pairs]
    assert len(pairs) == len(set(pairs)) == n * (n - 1) // 2
    for round_ in found:
        busy = [rank for pair in round_ for rank in pair]
        assert len(busy) == len(set(busy))


def test_bus_bandwidth_as_nccl_tests_counts_it() -> None:
    """Eight ranks: all-reduce moves every byte 7/8 of a time there and back."""
    assert message_sizes.factor("all_reduce", 8) == 1.75
    for name in ("all_gather", "reduce_scatter", "all_to_all"):
        assert message_sizes.factor(name, 8) == 0.875
    assert message_sizes.factor("all_reduce", 2) == 1.0


PODS = [(m, n) for m in MODELS.values() if not m.cpu for n in range(2, 9)]


@pytest.mark.parametrize("profile", ["gate", "quick", "full"])
@pytest.mark.parametrize(("model", "gpus"), PODS, ids=[f"{m.criteria}x{n}" for m, n in PODS])
def test_links_keep_to_the_time_of_their_stage(model: Any, gpus: int, profile: str) -> None:
    """By the rates of a healthy pod: copies to and from the host in turns, pairs in rounds, and the
    checks and timed calls of each size of each collective."""
    stage_s = SLOTS["interconnect"].seconds[profile]
    gate = profile == "gate"
    turn_s = interconnect._GATE_TURN_S if gate else interconnect._TURN_S
    calls = 1 + (interconnect._GATE_PAIR_CALLS if gate else interconnect._PAIR_CALLS)
    rounds = 2 * len(interconnect.rounds([*range(gpus)]))
    took = 2 * turn_s * gpus + rounds * calls * interconnect._PAIR_BYTES / model.values["link.p2p"]
    for name in message_sizes.COLLECTIVES:
        near = min(model.all_reduce, key=lambda n: abs(n - gpus))
        rate = model.values.get(f"collective.{name}", model.all_reduce[near])
        sizes = message_sizes.of_profile(profile, stage_s, model.sku, name, gpus)
        for size in sizes:
            share = message_sizes.seconds(stage_s, sizes, size)
            call_s = message_sizes.factor(name, gpus) * size / rate
            repeats = message_sizes.calls(call_s, share, 200)
            took += call_s * (message_sizes.CHECKS + 1 + repeats)
    assert took < stage_s


def test_only_pcie_leaves_the_largest_size_out_and_only_where_time_is_short() -> None:
    short = {
        (model.criteria, profile)
        for model in MODELS.values() if not model.cpu
        for profile, sizes in message_sizes.SIZES.items()
        if message_sizes.of_profile(profile, SLOTS["interconnect"].seconds[profile], model.sku,
                                    "all_reduce", 8) != sizes
    }  # fmt: skip
    assert short == {("l40s", "gate"), ("l40s", "quick")}
    alike = message_sizes.of_profile("gate", 8.0, "NVIDIA H100 PCIe", "all_reduce", 8)
    assert alike == (8 << 20, 256 << 20)
    unknown = message_sizes.of_profile("gate", 8.0, "a GPU of tomorrow", "all_reduce", 8)
    assert unknown == message_sizes.SIZES["gate"]


def test_a_size_that_is_left_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_collectives, "is_gpu", lambda ctx: True)
    written = Written(tmp_path, "interconnect", seconds=8.0)
    assert max(_collectives._sizes(written.ctx, "all_reduce", 8, "NVIDIA L40S")) == 256 << 20
    (told,) = written.of("not_run")
    assert (told["name"], told["gap"]) == ("collective.all_reduce", False)
    assert told["what"] == "all_reduce of 8589934592 bytes"
    assert "NVIDIA L40S take too long" in told["reason"]


def test_a_rate_is_that_of_its_own_size() -> None:
    small, large = 256 << 20, 8 << 30
    entry = {"value": 3.0, "detail": {"size": large, "by_size": {str(small): 2.0, str(large): 3.0}}}
    assert [message_sizes.rate_of(entry, size) for size in (small, large, 1 << 20, None)] == [
        2.0, 3.0, None, 3.0,
    ]  # fmt: skip
    older = {"value": 3.0, "detail": {"bytes": large, "by_size": {str(large): 3.0}}}
    assert message_sizes.rate_of(older, large) == 3.0
    assert message_sizes.rate_of(older, small) is None


def test_the_sum_over_all_ranks_is_that_of_their_tables(tmp_path: Path) -> None:
    n = 5
    group = SimpleNamespace(rank=2, world=n)
    problem = _collectives.Problem(Written(tmp_path, "interconnect").ctx, group, 997)  # type: ignore[arg-type]
    for round_ in range(2):
        for block, total in enumerate(problem.totals(range(n), round_)):
            tables = torch.stack([problem.table(r, block, round_) for r in range(n)])
            assert torch.equal(total, tables.sum(0))


@pytest.mark.parametrize("size", [4096, 4099])
def test_what_is_sent_is_random_and_of_its_size(size: int) -> None:
    sent, other = (interconnect.pattern(size, seed, CPU) for seed in (0, 1))
    assert (sent.numel(), sent.dtype) == (size, torch.uint8)
    assert sent.unique().numel() == 256
    assert int((sent == other).sum()) < size // 64


def test_what_pytorch_keeps_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns fill 90 % of a GPU; the collectives after them need that memory."""
    free = [10]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.__setitem__(0, 90))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 100))
    assert device_memory.free_bytes(torch.device("cuda", 0)) == 90

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    device_memory.release(torch.device("cuda", 0))


def two_ranks(folder: Path, *fault: str) -> list[list[dict[str, Any]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_ranks", str(rank), str(folder), *fault],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in started:
            said, _ = process.communicate(timeout=1800)  # against a hang alone
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
    return [journal.read(folder / str(rank) / "interconnect.jsonl") for rank in range(2)]


def values(entries: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    return {
        e["detail"].get("what", ""): e["value"]
        for e in entries
        if e["kind"] == "measure" and e["metric"] == metric
    }


@pytest.mark.full
def test_two_ranks(tmp_path: Path) -> None:
    for rank, entries in enumerate(two_ranks(tmp_path)):
        (pair,) = [e for e in entries if e.get("metric") == "link.p2p"]
        assert pair["value"] > 0
        assert (pair["detail"]["peer"], pair["detail"]["bytes"]) == (1 - rank, 1 << 12)
        assert values(entries, "link.wrong") == {"device to device": 0}
        assert values(entries, "collective.wrong") == dict.fromkeys(_collectives.COLLECTIVES, 0)
        for name in _collectives.COLLECTIVES:
            (found,) = [e for e in entries if e.get("metric") == f"collective.{name}"]
            assert found["value"] == found["detail"]["by_size"][str(found["detail"]["size"])] > 0
            assert found["detail"]["size"] - 8000 < found["detail"]["bytes"] <= 1 << 16
            assert len(found["detail"]["by_size"]) == 2
        assert {e["name"] for e in entries if e["kind"] == "not_run"} == {"link.h2d", "link.d2h"}


@pytest.mark.full
def test_a_size_that_does_not_fit_leaves_no_rate(tmp_path: Path) -> None:
    """The figures of the criteria are of the largest size."""
    for entries in two_ranks(tmp_path, "memory"):
        told = {e["metric"] for e in entries if e["kind"] == "measure"}
        assert not told & {f"collective.{name}" for name in _collectives.COLLECTIVES}
        assert values(entries, "collective.wrong") == dict.fromkeys(_collectives.COLLECTIVES, 0)
        missing = [e for e in entries if e["kind"] == "not_run" and "collective" in e["name"]]
        assert {e["reason"] for e in missing} == {"a device has too little free memory for it"}
        assert len(missing) == len(_collectives.COLLECTIVES)


@pytest.mark.full
def test_wrong_elements_are_counted(tmp_path: Path) -> None:
    honest, faulty = two_ranks(tmp_path, "all_reduce", "pair")
    for metric, what in (("collective.wrong", "all_reduce"), ("link.wrong", "device to device")):
        assert values(honest, metric)[what] == 0
        assert values(faulty, metric)[what] > 0
    told = {e["name"] for e in faulty if e["kind"] == "event" and "wrong" in e["text"]}
    assert told == {"collective", "link"}
