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

from aimills_kernels.accept import device_memory, journal
from aimills_kernels.accept.stages import _collectives, interconnect
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
    assert _collectives.factor("all_reduce", 8) == 1.75
    for name in ("all_gather", "reduce_scatter", "all_to_all"):
        assert _collectives.factor(name, 8) == 0.875
    assert _collectives.factor("all_reduce", 2) == 1.0


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
            said, _ = process.communicate(timeout=120)
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
            assert found["value"] == found["detail"]["by_size"][str(found["detail"]["bytes"])] > 0
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
