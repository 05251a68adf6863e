"""The time that `pytest --benchmark` has: who gets it, who is left out, and how that is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimills_kernels.harness import pytest_budget
from aimills_kernels.harness.pytest_budget import Budget, not_compared
from tests import records
from tests.child_pytest import run_pytest


@dataclass
class Item:
    """As much of a test as a budget looks at."""

    name: str
    fixturenames: tuple[str, ...] = ("benchmark",)
    callspec: Any = None

    @property
    def nodeid(self) -> str:
        return f"test_it.py::{self.name}"


def declared(op: str, case: str, contestant: str) -> Any:
    params = {"op": op, "case": case, "contestant": contestant}
    return Item(f"test_bench[{op}-{case}-{contestant}]", callspec=SimpleNamespace(params=params))


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pytest_budget, "_now", made)
    return made


@dataclass
class Session:
    """Ten seconds for each group of tests that begins, whatever its share."""

    budget: Budget
    clock: Clock
    ran: list[str] = field(default_factory=list)

    def run(self, items: list[Any]) -> None:
        self.budget.order(items)
        begun: set[Any] = set()
        for item in items:
            if self.budget.why_not(item) is None:
                self.ran.append(item.name)
                group = pytest_budget._group(item)
                self.clock.now += 10.0 * (group not in begun)
                begun.add(group)


def grid() -> list[Any]:
    return [declared(op, case, who) for op in "ab" for case in "123" for who in "xy"]


def test_a_short_budget_leaves_no_op_out_and_no_case_half_done(clock: Clock) -> None:
    session = Session(Budget(25.0), clock)
    session.run([*grid(), Item("test_own"), Item("test_plain", fixturenames=())])
    assert session.ran == [
        "test_bench[a-1-x]", "test_bench[a-1-y]", "test_bench[b-1-x]", "test_bench[b-1-y]",
        "test_own", "test_plain",
    ]  # fmt: skip
    assert session.budget.counts() == {
        "budget: the 25 s of --benchmark-budget ended before it": {"a": 4, "b": 4}
    }
    assert session.budget.lines() == [
        "left out: 8, budget: the 25 s of --benchmark-budget ended before it: a x 4, b x 4"
    ]


def test_a_test_of_no_op_is_left_out_by_name(clock: Clock) -> None:
    session = Session(Budget(10.0), clock)
    session.run([Item("test_first"), Item("test_own[1]"), Item("test_own[2]")])
    (names,) = session.budget.counts().values()
    assert names == {"test_it.py::test_own": 2}


def test_quick_takes_the_first_case_of_each_op_that_is_selected(clock: Clock) -> None:
    session = Session(Budget(math.inf, quick=True), clock)
    session.run([item for item in grid() if "a-1" not in item.name] + [Item("test_own")])
    assert session.ran == [
        "test_bench[a-2-x]", "test_bench[a-2-y]", "test_bench[b-1-x]", "test_bench[b-1-y]",
        "test_own",
    ]  # fmt: skip
    assert session.budget.counts() == {
        "--benchmark-quick takes the first case of each op": {"a": 2, "b": 4}
    }


def test_without_an_end_all_run(clock: Clock) -> None:
    session = Session(Budget(), clock)
    session.run(grid())
    assert len(session.ran) == len(grid())
    assert not session.budget
    assert session.budget.share_s() == math.inf


def test_what_is_left_is_shared_by_those_that_still_come(clock: Clock) -> None:
    budget, items = Budget(60.0), grid()
    budget.order(items)
    assert budget.why_not(items[0]) is None
    assert budget.share_s() == pytest.approx(10.0)  # six cases
    clock.now += 30.0
    assert budget.why_not(items[1]) is None
    assert budget.share_s() == pytest.approx(5.0)
    clock.now += 100.0
    assert budget.share_s() > 0  # who has begun is timed all the same


def test_rows_of_a_baseline_that_were_left_out_are_named(clock: Clock) -> None:
    session = Session(Budget(10.0, quick=True), clock)
    session.run([*grid(), Item("test_own")])
    lost = [("b", "1", "x"), ("mine", "test_own", "own"), ("b", "2", "y"), ("b", "1", "removed")]
    late = "budget: the 10 s of --benchmark-budget ended before it"
    assert not_compared(lost, session.budget) == {
        late: ["b 1 x", "mine test_own own"],
        "--benchmark-quick takes the first case of each op": ["b 2 y"],
    }


def test_only_rows_that_the_baseline_timed_are_lost() -> None:
    from aimills_kernels.harness.pytest_rows import Rows

    base = records.record(
        [records.row("triton", [1.0] * 9, case=c) for c in "12"]
        + [records.without("triton", skipped="not asked for") | {"case": "3"}]
    )
    ceilings = records.CEILINGS | {"device": "cuda:0"}
    mine = records.record([records.row("triton", [1.0] * 9, case="1")], ceilings=ceilings)
    rows = Rows(1.0, records=[mine])
    _, lost = rows.compared([base], 0.05)
    assert lost == [("attention", "2", "triton")]


def test_where_nothing_was_timed_what_was_left_out_is_named_too(clock: Clock) -> None:
    from aimills_kernels.pytest_plugin import _compare, _State

    state = _State()
    state.budget = Budget(10.0)
    clock.now += 20.0
    Session(state.budget, clock).run([declared("attention", "1", "triton")])
    state.base = [records.record([records.row("triton", [1.0] * 9, case=c) for c in "12"])] * 2
    assert _compare(state) == 2
    late = "budget: the 10 s of --benchmark-budget ended before it"
    assert state.said == [
        "nothing was timed that could be compared",
        f"not compared: 1, {late}: attention 1 triton",
    ]


# ---- in a folder of somebody's

_CONFTEST = """\
import pytest
from aimills_kernels.harness import pytest_budget
now = [0.0]
pytest_budget._now = lambda: now[0]
def pytest_runtest_teardown(item): now[0] += 10
"""
_BENCH = """\
import pytest
ROWS = [(op, case, "x") for op in "ab" for case in "12"]
@pytest.mark.parametrize(("op", "case", "contestant"), ROWS)
def test_bench(op, case, contestant, benchmark): benchmark(sum, [1])
def test_own(benchmark): benchmark(sum, [1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "test_bench.py").write_text(_BENCH)
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    return tmp_path


def test_what_the_budget_left_out_is_skipped_and_told(folder: Path) -> None:
    run = run_pytest(folder, "--benchmark", "--benchmark-budget=25", "-rs")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed, 2 skipped" in run.stdout
    why = "budget: the 25 s of --benchmark-budget ended before it"
    assert f"left out: 2, {why}: a x 1, b x 1" in run.stdout
    assert f"not run: {why}" in run.stdout


@pytest.mark.full  # each run of pytest takes some seconds
def test_quick_and_no_end(folder: Path) -> None:
    run = run_pytest(folder, "--benchmark", "--benchmark-quick")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed, 2 skipped" in run.stdout
    assert "left out: 2, --benchmark-quick takes the first case" in run.stdout
    run = run_pytest(folder, "--benchmark", "--benchmark-budget=0")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed" in run.stdout
    assert "left out" not in run.stdout


@pytest.mark.full
def test_the_flag_of_pytest_benchmark_alone_has_no_end(folder: Path) -> None:
    (folder / "conftest.py").write_text(_CONFTEST.replace("+= 10", "+= 10_000"))
    run = run_pytest(folder, "--benchmark-only", "bench")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed" in run.stdout


@pytest.mark.parametrize("asked", ["-1", "inf", "nan"])
def test_a_budget_that_is_none_is_refused(folder: Path, asked: str) -> None:
    run = run_pytest(folder, "--benchmark", f"--benchmark-budget={asked}")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--benchmark-budget must be 0 or seconds above it, got {asked}" in run.stderr
