"""Benchmarks in a process of their own: what ends it costs one row."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from aimills_kernels._registry import get_op
from aimills_kernels.harness import isolated, record
from aimills_kernels.harness.peers import peers_of
from tests import late_faults


def run(behaviour: str, timeout_s: float, *more: str, budget_s: float = 4.0) -> dict[str, Any]:
    found = isolated.run(
        ops=[late_faults.plant("attention", "none")], cases=["tiny", *more], device="cpu",
        budget_s=budget_s,
        providers=["planted", "reference"], peers=False, timeout_s=timeout_s,
        program=(sys.executable, "-m", "tests.hanging_worker", behaviour),
    )  # fmt: skip
    assert record.mistake_in(found, record.RECORD, "") is None
    return found


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("hangs", "no answer after 8 s, so it was ended"),
        pytest.param(
            "crashes", "its process ended by SIGSEGV: the last words", marks=pytest.mark.full
        ),
        pytest.param("leaves", "its process ended with exit code 7", marks=pytest.mark.full),
    ],
)
def test_what_ends_the_process_costs_its_own_row(behaviour: str, says: str) -> None:
    found = run(behaviour, timeout_s=8.0 if behaviour == "hangs" else 120.0)
    rows = {row["provider"]: row for row in found["rows"]}
    assert rows["planted"]["failure"] == says
    assert rows["planted"]["median_us"] is None
    assert not rows["planted"]["validated"]
    assert rows["reference"]["failure"] is None
    assert rows["reference"]["median_us"] > 0
    assert found["environment"]["torch"]
    assert found["options"]["isolated"] == "all cases"


@pytest.mark.full  # some seconds a process, and several
def test_a_hang_longer_than_the_budget_leaves_the_other_cases_their_time() -> None:
    found = run("hangs", 12.0, "dim-1", budget_s=10.0)  # of which the reference takes little
    rows = {(row["case"], row["provider"]): row for row in found["rows"]}
    assert "no answer after 12 s" in rows["tiny", "planted"]["failure"]
    assert rows["tiny", "reference"]["median_us"] > 0
    assert rows["dim-1", "reference"]["median_us"] > 0, rows["dim-1", "reference"]["skipped"]
    again = rows["dim-1", "planted"]
    assert again["skipped"] == "it ended its process in tiny, and is not tried again"
    assert again["gap"]


def test_a_worker_that_never_starts_is_a_sentence_for_each_row() -> None:
    found = isolated.run(
        ops=[get_op("attention")], cases=["tiny", "dim-1"], providers=["reference"], device="cpu",
        budget_s=4.0, peers=False, program=(sys.executable, "-c", "raise SystemExit('no such')"),
    )  # fmt: skip
    assert [row["skipped"] for row in found["rows"]] == [
        "its process ended with exit code 1: no such"
    ] * 2
    assert all(row["gap"] for row in found["rows"])


def test_peers_of_a_case_that_was_lost_have_their_rows() -> None:
    found = isolated.run(
        ops=[get_op("attention")], cases=["tiny"], device="cpu", budget_s=4.0,
        program=(sys.executable, "-c", "raise SystemExit('no such')"),
    )  # fmt: skip
    names = {row["provider"] for row in found["rows"]}
    assert names >= {p.name for p in peers_of(get_op("attention"))} != set()
    assert all(row["gap"] or "not installed" in row["skipped"] for row in found["rows"])


@pytest.mark.full  # some seconds a process, and several
def test_a_process_for_each_case_gives_the_same_rows() -> None:
    found = isolated.run(
        ops=[get_op("quantize_fp8")], cases=["one", "llama3-8b-decode"], providers=["reference"],
        device="cpu", budget_s=3.0, peers=False, fresh=True,
    )  # fmt: skip
    assert {row["case"] for row in found["rows"]} == {"llama3-8b-decode", "one"}
    assert all(row["median_us"] > 0 for row in found["rows"])
    assert found["options"]["isolated"] == "each case"
    assert found["ceilings"]["copy_gbps"] > 0


@pytest.mark.full  # some seconds a process
def test_what_a_worker_refuses_is_told_in_its_rows() -> None:
    found = isolated.run(
        ops=[get_op("attention")], cases=["tiny"], providers=["reference"], device="cpu",
        budget_s=1.0, mode="graph", peers=False,
    )  # fmt: skip
    (row,) = found["rows"]
    assert "mode 'graph' is for a GPU" in row["skipped"]
    assert row["gap"]
