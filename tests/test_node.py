"""The command for a GPU node, with the CPU in the GPU's place."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels import _dispatch, _records
from aimills_kernels._op import Case, Op
from aimills_kernels._registry import get_op
from aimills_kernels._validate import NO_MEMORY, validate_each
from aimills_kernels.harness import (
    _clocks,
    _node,
    bench,
    ceilings,
    gpu,
    isolated,
    sanitize,
    timing,
)
from tests import faults, late_faults

CEILINGS = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}
_few_rounds = functools.partial(timing.time_interleaved, max_rounds=6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring them takes over a second, and a few rounds will do."""
    monkeypatch.setattr(ceilings, "measure", lambda device: dict(CEILINGS))
    monkeypatch.setattr(bench, "time_interleaved", _few_rounds)


def row_of(record: dict[str, Any], provider: str) -> dict[str, Any]:
    (row,) = [r for r in record["rows"] if r["provider"] == provider]
    return row


def _short(op: Op, case: str, **dims: Any) -> Op:
    """With a small case and a large one, which is made short."""
    large = op.case(case)
    made = Case(large.name, tags=large.tags, **{**large.dims, **dims})
    return replace(op, cases=(op.case("tiny"), made))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `gpu` over two cases of attention, and then of quantize_fp8; `fault` is planted in
    front of the first."""
    monkeypatch.setenv("AIMILLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_dispatch, "sm_of", lambda device: 90)
    monkeypatch.setattr(sanitize, "program", lambda: None)

    def go(
        fault: str, *, plant: Any = late_faults.plant, budget_s: float = 60.0, worker: Any = None
    ) -> Any:
        first = _short(plant("attention", fault), "llama3-8b-decode", N=64)
        second = _short(get_op("quantize_fp8"), "llama3-8b-decode", shape=(1, 64))
        monkeypatch.setattr(gpu, "OPS", (first, second))
        out = tmp_path / "out"
        place = torch.device("cpu")
        workers = {place: worker} if worker else None
        return gpu._run_on([place], out, budget_s, workers=workers), out

    yield go
    _records._all.cache_clear()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_node_leaves_complete_files_and_records(node: Any, capsys: Any) -> None:
    code, out = node("none")
    assert code == gpu.INCOMPLETE  # compute-sanitizer has no GPU to watch
    lines = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert {(v["provider"], v["case"]) for v in lines} >= {("planted", "tiny"), ("sdpa", "tiny")}
    (made,) = read(out / "records.json")["records"]
    assert (made["op"], made["provider"], made["sm"]) == ("attention", "planted", 90)
    assert (made["gpus"], made["cases"]) == (["CPU"], ["llama3-8b-decode", "tiny"])
    assert read(_records.cache_file())["records"] == [made]
    assert row_of(bench.load(out / "bench-0.json"), "planted")["median_us"] > 0
    assert {r["op"] for r in bench.load(out / "bench-0.json")["rows"]} == {
        "attention",
        "quantize_fp8",
    }
    assert bench.load(out / "bench-0.json")["options"]["energy"]
    for name in ("environment.json", "sanitizer.json"):
        read(out / name)
    summary = read(out / "summary.json")
    assert (summary["complete"], summary["exit"]) == (True, code)
    assert [n.partition(":")[0] for n in summary["not_run"]] == [
        "compute-sanitizer memcheck",
        "compute-sanitizer racecheck",
    ]
    table = (out / "table.txt").read_text()
    assert table == capsys.readouterr().out
    assert "records: attention planted sm_90" in table
    assert "INCOMPLETE" not in table
    assert table.rstrip().endswith(f"files: {out}")


def test_a_wrong_kernel_on_a_node_makes_no_record(node: Any) -> None:
    code, out = node("wrong_values")
    assert code == gpu.WRONG
    assert read(out / "records.json")["records"] == []
    (kept,) = read(_records.cache_file())["records"]
    assert "WRONG" in kept["wrong"]
    assert any("planted" in w for w in read(out / "summary.json")["wrong"])


def test_a_kernel_that_is_wrong_under_the_clock_loses_its_record(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_faults, "GATE_CALLS", 9)  # two cases, and the gate of the benchmark
    code, out = node("wrong_values")
    assert code == gpu.WRONG
    assert [v for v in (out / "validation.jsonl").read_text().splitlines() if "WRONG" in v] == []
    assert read(out / "records.json")["records"] == []
    (kept,) = read(_records.cache_file())["records"]
    assert "after timing" in kept["wrong"]


class Killed(BaseException):
    """What no handler of the program takes."""


def test_what_a_killed_node_had_done_is_on_disk(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(op: Op, case: Case, *rest: Any, **more: Any) -> Any:
        if op.name == "quantize_fp8" and case.tags & {"bench"}:
            raise Killed
        return validate_each(op, case, *rest, **more)

    monkeypatch.setattr(gpu, "validate_each", killed)
    with pytest.raises(Killed):
        node("none")
    out = Path(os.environ["AIMILLS_CACHE"]).parent / "out"
    (made,) = read(out / "records.json")["records"]
    assert made["provider"] == "planted"
    assert row_of(bench.load(out / "bench-0.json"), "planted")["median_us"] > 0
    summary = read(out / "summary.json")
    assert (summary["complete"], summary["exit"]) == (False, gpu.INCOMPLETE)
    assert "the times of attention llama3-8b-decode" in summary["last_step"]
    table = (out / "table.txt").read_text()
    assert table.startswith("INCOMPLETE: the run has come as far as the times of attention")
    assert "planted" in table


def test_every_step_of_a_node_leaves_whole_files(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[int, int]] = {}
    save = _node.State.save

    def spy(state: Any, done: str, **more: Any) -> None:
        save(state, done, **more)
        bench_file = state.out / "bench-0.json"
        rows = bench.load(bench_file)["rows"] if bench_file.exists() else []
        checks = sum(read(state.out / "summary.json")["checks"].values())
        assert checks == len((state.out / "validation.jsonl").read_text().splitlines())
        seen[done] = len(read(state.out / "records.json")["records"]), len({r["op"] for r in rows})

    monkeypatch.setattr(_node.State, "save", spy)
    node("none")
    assert seen == {
        "the start": (0, 0),
        "the small cases of all ops on cpu": (0, 0),
        "the checks of attention": (1, 0),
        "the times of attention llama3-8b-decode on cpu": (1, 1),
        "the checks of quantize_fp8": (1, 1),
        "the times of quantize_fp8 llama3-8b-decode on cpu": (1, 2),
        "compute-sanitizer memcheck": (1, 2),
        "compute-sanitizer racecheck": (1, 2),
        "the end": (1, 2),
    }


def test_what_finds_no_time_left_is_named(node: Any) -> None:
    code, out = node("none", budget_s=1e-9)
    assert code == gpu.INCOMPLETE
    summary = read(out / "summary.json")
    late = [n.removesuffix(f": {_node.LATE}") for n in summary["not_run"] if _node.LATE in n]
    checks = [n for n in late if not n.startswith(("times", "compute-sanitizer"))]
    assert len(checks) == len(set(checks)) == sum(summary["checks"].values()) == 2 * 5 + 2 * 2
    assert "attention tiny planted on cpu" in checks
    assert "times of attention llama3-8b-decode on cpu" in late
    assert "compute-sanitizer memcheck" in late
    assert f"not run, {len(late)}: {_node.LATE}: " in (out / "table.txt").read_text()
    assert read(out / "records.json")["records"] == []


def test_a_provider_whose_time_ran_out_half_way_has_no_record(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = 3  # checks, of which the first is that of the planted provider
    monkeypatch.setattr(_node.State, "left_s", lambda state: enough - len(state.verdicts))
    code, out = node("none")
    assert code == gpu.INCOMPLETE
    assert json.loads((out / "validation.jsonl").read_text().splitlines()[0])["ok"]
    assert read(out / "records.json")["records"] == []


def test_a_case_without_memory_leaves_no_record(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(op: Op, case: Case, *rest: Any, **more: Any) -> Any:
        for result in validate_each(op, case, *rest, **more):
            yield result if case.name == "tiny" else replace(result, skipped=NO_MEMORY, gap=True)

    monkeypatch.setattr(gpu, "validate_each", short)
    code, out = node("none")
    assert code == gpu.INCOMPLETE
    assert read(out / "records.json")["records"] == []
    assert read(_records.cache_file())["records"] == []


def test_nothing_is_blamed_on_those_after_an_illegal_access(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_clocks, "alive", lambda device: False)
    code, out = node("raises", plant=faults.plant)
    assert code == gpu.WRONG
    summary = read(out / "summary.json")
    assert len(summary["wrong"]) == 1
    assert summary["checks"] == {"wrong": 1, "not run": 13}
    assert "cpu can't be used any more, after attention tiny planted on cpu" in str(summary)


@pytest.mark.full  # a process that loads PyTorch, twice
def test_a_hang_on_a_node_costs_its_provider_and_no_other(node: Any) -> None:
    program = (sys.executable, "-m", "tests.hanging_worker", "hangs:0")
    with isolated.Worker(15.0, program) as worker:
        code, out = node("none", worker=worker, budget_s=600.0)
    assert code == gpu.WRONG
    summary = read(out / "summary.json")
    (wrong,) = summary["wrong"]
    assert wrong.startswith("attention tiny planted on cpu (seed 0): WRONG: no answer after 15 s")
    again = [n.partition(":")[0] for n in summary["not_run"] if "it ended its process in tiny" in n]
    assert again == [
        "attention llama3-8b-decode planted on cpu",
        "times of attention llama3-8b-decode on cpu, planted",
    ]
    made = bench.load(out / "bench-0.json")
    assert {r["op"] for r in made["rows"] if r["median_us"]} == {"attention", "quantize_fp8"}
    (kept,) = read(_records.cache_file())["records"]
    assert "no answer after 15 s" in kept["wrong"]


def _runs(pid: int) -> bool:
    """A process that was killed may stand there until its new parent has asked after it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    log, command = tmp_path / "log", ["sh", "-c", "sleep 300 & echo $!; wait"]
    with log.open("w") as file:
        for limit_s in (0.1, 1.0, 10.0, 100.0):  # until the child is there, on a busy machine too
            assert sanitize._run(command, dict(os.environ), file, limit_s) is None
            if log.read_text():
                break
        assert sanitize._run(["sh", "-c", "exit 3"], dict(os.environ), file, 600.0) == 3
    children = [int(pid) for pid in log.read_text().split()]
    assert children
    end = time.monotonic() + 60
    while any(map(_runs, children)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(_runs, children))
