"""`bench_op` and the options around it, in a folder of somebody who has the package installed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from aimills_kernels.harness import env, record
from aimills_kernels.harness.env import ROOT
from tests.child_pytest import run_pytest

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what there is without")


def example() -> str:
    """The kernel of one's own that bench/README.md shows."""
    text = (ROOT / "bench" / "README.md").read_text()
    found = re.search(r"<!-- bench_op -->\n((?:    .*\n|\n)+)", text)
    assert found
    return re.sub(r"(?m)^    ", "", found[1])


KINDS = """\
import time, torch
def draw(g): return torch.randn(64, 64, generator=g)
def right(x): return x + 1
def wrong(x): return x + 1.01
def raises(x): raise RuntimeError("no image for this device")
def oom(x): raise torch.OutOfMemoryError("CUDA out of memory")
def writes(x): x.add_(1); return x
def test_wrong(bench_op): bench_op(wrong, draw, reference=right)
def test_raises(bench_op): bench_op(raises, draw, reference=right)
def test_oom(bench_op): bench_op(oom, draw, reference=right)
def test_writes(bench_op): bench_op(writes, draw, reference=right)
def test_right(bench_op): bench_op(right, draw, reference=right, peers={"theirs": right}, bytes=9)
"""
PEERS = """\
import os, torch
def draw(g): return torch.randn(64, 64, generator=g, device=g.device)
def right(x): return x + 1
def rough(x): return x + 1.01
def unable(x): raise ValueError("no such mode")
def crash(x): os.abort()
def test_odd(bench_op):
    bench_op(right, draw, reference=right, peers={"rough": rough, "unable": unable})
def test_crash(bench_op): bench_op(right, draw, reference=right, peers={"crash": crash})
"""


def _pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_pytest(folder, "--benchmark-max-time=0.05", *args)  # the last of an option counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "test_mine.py").write_text(example())
    return tmp_path


def test_the_example_is_five_lines_and_does_both(folder: Path) -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 5
    plain = _pytest(folder, "bench")
    assert plain.returncode == 0, plain.stdout
    assert "1 passed" in plain.stdout
    assert "rows timed" not in plain.stdout
    timed = _pytest(folder, "--benchmark", "--benchmark-json=a.json", "--benchmark-record=r/b.json",
                    "--benchmark-energy")  # fmt: skip
    assert timed.returncode == 0, timed.stdout + timed.stderr
    assert "2 rows timed on" in timed.stdout
    (theirs,) = json.loads((folder / "a.json").read_text())["benchmarks"]
    made = record.load(folder / "r" / "b.json")
    assert {row["provider"] for row in made["rows"]} == {"own", "reference"}
    own = next(row for row in made["rows"] if row["provider"] == "own")
    assert theirs["stats"]["rounds"] == own["n"]
    assert theirs["stats"]["median"] * 1e6 == pytest.approx(own["median_us"], rel=1e-3)
    assert theirs["extra_info"]["error_used"] == own["error_used"]
    assert made["options"]["isolated"] == "all cases"
    jsonschema.Draft202012Validator(record.schema()).validate(made)
    assert own["energy"] or own["energy_missing"] == "a CPU has no counter that NVML reads"
    assert theirs["extra_info"]["energy_missing"] == own["energy_missing"]


@pytest.mark.full
def test_kernels_that_go_wrong_get_a_sentence_and_the_others_run(folder: Path) -> None:
    (folder / "bench" / "test_mine.py").write_text(KINDS)
    for flags in ([], ["--benchmark", "--benchmark-record=r.json"]):
        run = _pytest(folder, *flags, "bench")
        assert run.returncode == 1, run.stdout
        assert "4 failed, 1 passed" in run.stdout
        for says in ("max error", "no image for this device", "out of memory", "was written to"):
            assert says in run.stdout, says
        assert "Traceback" not in run.stdout
        assert "fixture was not used" not in run.stdout
    rows = record.load(folder / "r.json")["rows"]
    assert [row["provider"] for row in rows if row["case"] == "test_right"] == [
        "own", "reference", "theirs",
    ]  # fmt: skip
    for row in rows:
        if row["provider"] == "own" and row["case"] != "test_right":
            assert row["failure"], row["case"]
            assert row["median_us"] is None


CHEATS = """\
import threading, time, torch
def draw(g): return torch.randn(64, 64, generator=g)
def right(x): return x + 1
def two(x): return x + 1, x * 2
held, calls = {}, []
def by_data(x):
    key = x.numpy().tobytes()
    if key not in held: time.sleep(0.02); held[key] = x + 1
    return held[key]
class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, x):
        made = torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, device=x.device)
        made.x = x
        return made
    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None):
        done = [a.x + 1 if isinstance(a, Lazy) else a for a in args]
        return f(*done, **(kwargs or {}))
def later(x):
    out, n = torch.zeros_like(x), held.setdefault(0, [])
    n.append(1)
    if len(n) < 3: return x + 1
    threading.Timer(2.0, torch.add, (x, 1), {"out": out}).start()
    return out
def one_in_the_end(x): calls.append(1); return two(x)[: 2 if len(calls) < 3 else 1]
def asks_for_less(x): torch.set_float32_matmul_precision("medium"); return x + 1
def clock(x):
    from aimills_kernels.harness import _timers
    _timers._now = lambda: 0
    return x + 1
def test_data(bench_op): bench_op(by_data, draw, reference=right)
def test_lazy(bench_op): bench_op(Lazy, draw, reference=right)
def test_later(bench_op): bench_op(later, draw, reference=right)
def test_view(bench_op): bench_op(lambda x: x.t(), draw, reference=lambda x: x.t().contiguous())
def test_wide(bench_op):
    row = lambda x: x[:1].expand(64, 64)
    bench_op(lambda x: (x[:1] * 2).expand(64, 64), draw, reference=lambda x: (row(x) * 2).clone())
def test_one(bench_op): bench_op(one_in_the_end, draw, reference=two)
def test_less(bench_op): bench_op(asks_for_less, draw, reference=right)
def test_clock(bench_op): bench_op(clock, draw, reference=right)
def test_right(bench_op): bench_op(lambda x: x + 1, draw, reference=right, name="right")
class TestOther:
    def test_right(self, bench_op): bench_op(right, draw, reference=right)
"""
CHEATS_SAY = (
    "it reuses results: ", "output 0 is of type Lazy and should be torch.Tensor",
    "on fresh data after timing: output 0: max error",  # no other goes on to be wrong
    "output 0 is a view of an input, and the reference's is not",
    "output 0 is an expanded view", "returns 1 outputs and should return 2",
    "it changed the precision of float32 matmuls",
    "it replaced aimills_kernels.harness._timers._now",
    "test_mine.py::test_right has rows of right test_right too: give one of them a name=",
)  # fmt: skip


@pytest.mark.full
def test_what_is_odd_of_a_peer_is_named_and_a_crash_fails_the_test(folder: Path) -> None:
    (folder / "bench" / "test_mine.py").write_text(PEERS)
    run = _pytest(folder, "--benchmark", "bench", "--benchmark-json=a.json")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    end = run.stdout.partition("= kernels =")[2]
    assert re.search(r"5 rows timed on \S+, 1 not run, 1 failed", end)
    assert "not run: 1 row, ValueError: no such mode: right unable" in end
    assert "no yardstick: right test_odd rough: " in end
    assert "right test_crash crash: its process ended by SIGABRT" in run.stdout
    played = json.loads((folder / "a.json").read_text())["benchmarks"]
    assert [each["name"] for each in played] == ["test_odd", "test_crash"]


@pytest.mark.full
def test_each_cheat_is_told_and_what_comes_after_is_right(folder: Path) -> None:
    (folder / "bench" / "test_mine.py").write_text(CHEATS)
    run = _pytest(folder, "--benchmark", "-W", "ignore", "bench", "--benchmark-record=r.json")
    assert f"{len(CHEATS_SAY)} failed, 1 passed" in run.stdout, run.stdout
    for says in CHEATS_SAY:
        assert says in run.stdout, says
    timed = [row for row in record.load(folder / "r.json")["rows"] if row["provider"] == "own"
             and row["median_us"] is not None]  # fmt: skip
    assert [row["case"] for row in timed] == ["test_right"]


@pytest.mark.full
@pytest.mark.parametrize(
    "patch",
    ["time.perf_counter_ns = lambda: 0", "torch.cuda.Event.elapsed_time = lambda *_: 1e-3"],
)
def test_a_clock_that_is_replaced_before_the_harness_is_there(folder: Path, patch: str) -> None:
    (folder / "bench" / "test_mine.py").write_text(f"import time, torch\n{patch}\n" + example())
    run = _pytest(folder, "--benchmark", "bench")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "is not the original any more" in run.stdout
    assert "Traceback" not in run.stdout


MISUSED = """\
import sys, torch
def draw(g): return torch.randn(8, 8, generator=g)
def two(x): return x + 1, x.amax(-1)
def bad(g): raise OSError("no data")
def test_one_of_two(bench_op): bench_op(lambda x: x + 1, draw, reference=two, name="one")
def test_exits(bench_op): bench_op(lambda x: sys.exit(3), draw, reference=two)
def test_twice(bench_op): bench_op(two, draw, reference=two); bench_op(two, draw, reference=two)
def test_draw(bench_op): bench_op(two, bad, reference=two)
def test_reference(bench_op): bench_op(two, draw, reference=lambda x: 3)
def test_function(bench_op): bench_op(3, draw, reference=two)
def test_bytes(bench_op): bench_op(two, draw, reference=two, bytes="many")
def test_flops(bench_op): bench_op(two, draw, reference=two, flops=-1)
def test_unit(bench_op): bench_op(two, draw, reference=two, unit="parsec")
def test_tolerance(bench_op): bench_op(two, draw, reference=two, tolerance=0.1)
def test_peers(bench_op): bench_op(two, draw, reference=two, peers={"own": two})
def test_device(bench_op): bench_op(two, draw, reference=two, device="tpu")
def test_gpu(bench_op): bench_op(two, draw, reference=two, device="cuda")
"""
MISUSED_SAYS = (
    "returns 1 outputs and should return 2", "to end the process: SystemExit: 3",
    "called once in a test", "inputs raised OSError: no data", "reference must return a tensor",
    "function must be a function, got", "bytes must be a number from 0 on, got 'many'",
    "flops must be a number from 0 on, got -1", "unit must be one of f32,", "tolerance must be a",
    "peers can't be named own", "device must be auto, cpu, cuda or cuda:<index>, got 'tpu'",
)  # fmt: skip


@needs_no_gpu
@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
@pytest.mark.parametrize("flags", [[], ["--benchmark", "--benchmark-record=r.json"]], ids=len)
def test_each_misuse_is_a_sentence(folder: Path, flags: list[str]) -> None:
    (folder / "bench" / "test_mine.py").write_text(MISUSED)
    run = _pytest(folder, *flags, "bench")
    assert f"{len(MISUSED_SAYS)} failed, 1 skipped" in run.stdout, run.stdout
    for says in MISUSED_SAYS:
        assert says in run.stdout, says
    assert "test_mine.py:" not in run.stdout.partition("short test summary")[0]
    if flags:
        assert "not run: 1 row, they need a GPU: two own" in run.stdout
        record.load(folder / "r.json")  # none of it made the record one that can't be read


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_a_missing_pytest_benchmark_is_told(folder: Path) -> None:
    run = run_pytest(folder, "-p", "no:benchmark", "--strict-markers", "bench")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    (folder / "bench" / "test_mine.py").write_text(
        "def test_theirs(benchmark): benchmark(sum, [1])\n"
    )
    run = run_pytest(folder, "-p", "no:benchmark", "bench", "-ra")
    assert "1 skipped" in run.stdout
    assert "leave out -p no:benchmark" in run.stdout


# ---- regressions


SLEEPY = """\
import time, torch
def sleepy(x): time.sleep(0.001); return x + 1
def sleepier(x): time.sleep(0.002); return x + 1
def test_sleepy(bench_op):
    bench_op(sleepy, lambda g: torch.randn(8, generator=g), reference=sleepier)
"""
FAIL = "--benchmark-fail-on-regression=20%"
# Seven samples are the least for a verdict: the rounds end them, however slow the machine is.
SAMPLES = "--benchmark-max-time=100"
ROUNDS = """\
import functools
from aimills_kernels.harness import bench, timing
bench.time_interleaved = functools.partial(timing.time_interleaved, max_rounds=15, warm=False)
"""


@pytest.fixture
def stored(folder: Path) -> Path:
    (folder / "bench" / "test_mine.py").write_text(SLEEPY)
    (folder / "conftest.py").write_text(ROUNDS)
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@e", "-C", str(folder))
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    run = _pytest(folder, "--benchmark", SAMPLES, "--benchmark-autosave")
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = (folder / ".benchmarks" / "aimills-kernels").glob("*.json")
    assert {row["n"] for row in record.load(path)["rows"]} <= {*range(10, 16)}
    return path


def _scale(path: Path, factor: float) -> None:
    """As if that machine had taken other times: by more than any neighbour's load does here."""
    held: dict[str, Any] = record.load(path)
    for row in held["rows"]:
        for name in ("median_us", "q1_us", "q3_us", "low_us", "high_us", "min_us"):
            row[name] = row[name] and row[name] * factor
        row["samples_us"] = [t * factor for t in row["samples_us"]]
    record.save(held, path)


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_a_slower_kernel_fails_and_is_no_new_baseline(folder: Path, stored: Path) -> None:
    _scale(stored, 0.01)
    slow = _pytest(folder, "--benchmark", SAMPLES, FAIL, "--benchmark-autosave")
    assert slow.returncode == 1, slow.stdout + slow.stderr
    assert "sleepy test_sleepy own on cpu: SLOWER" in slow.stdout
    assert "not stored as a baseline" in slow.stdout
    assert list(stored.parent.glob("*.json")) == [stored]
    _scale(stored, 10_000.0)
    fast = _pytest(folder, "--benchmark", SAMPLES, FAIL)
    assert fast.returncode == 0, fast.stdout + fast.stderr
    assert "own on cpu: FASTER" in fast.stdout


LATE = """\
from aimills_kernels.harness import pytest_budget
now = [0.0]
pytest_budget._now = lambda: now[0]
def pytest_runtest_teardown(item): now[0] += 10
"""


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_what_the_budget_left_out_is_not_compared_and_named(folder: Path) -> None:
    again = "def test_again(bench_op): bench_op(sleepy, torch.ones, reference=sleepier)\n"
    again = again.replace("torch.ones", "lambda g: torch.randn(8, generator=g)")
    (folder / "bench" / "test_mine.py").write_text(SLEEPY + again)
    run = _pytest(folder, "--benchmark", "--benchmark-record=r.json")
    assert run.returncode == 0, run.stdout + run.stderr
    _scale(folder / "r.json", 100.0)  # no load makes what is timed again SLOWER than this
    (folder / "conftest.py").write_text(LATE)
    run = _pytest(folder, "--benchmark", FAIL, "--benchmark-baseline=r.json",
                  "--benchmark-budget=5", "--benchmark-record=s.json")  # fmt: skip
    assert run.returncode == 2, run.stdout + run.stderr
    why = "budget: the 5 s of --benchmark-budget ended before it"
    assert f"left out: 1, {why}: bench/test_mine.py::test_again x 1" in run.stdout
    assert (f"not compared: 2, {why}: sleepy test_again own, sleepy test_again reference"
            in run.stdout)  # fmt: skip
    left_out = record.load(folder / "s.json")["options"]["left_out"]
    assert left_out == {why: {"bench/test_mine.py::test_again": 1}}


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_a_record_that_can_not_be_written_is_told(folder: Path) -> None:
    (folder / ".benchmarks").mkdir()
    (folder / ".benchmarks" / "aimills-kernels").write_text("")
    run = _pytest(folder, "--benchmark", "--benchmark-autosave", "--benchmark-record=r.json")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "aimills-kernels/" in run.stdout
    assert "can't be written: File exists" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    record.load(folder / "r.json")


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_another_machine_is_refused(folder: Path, stored: Path) -> None:
    held: dict[str, Any] = record.load(stored)
    assert held["environment"]["git"]["commit"]  # of the folder, whose kernels these are
    assert held["environment"]["git"]["commit"] != env.stamp()["git"]["commit"]
    held["environment"]["cpu"]["model"] = "another"
    record.save(held, stored)
    run = _pytest(folder, "--benchmark", FAIL)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "REFUSED" in run.stdout
    assert "another CPU: another and" in run.stdout


@pytest.mark.full
@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([FAIL], "found no baseline .benchmarks/aimills-kernels: name one with"),
        ([FAIL, "--benchmark-baseline=no.json"], "found no baseline no.json"),
        ([FAIL, "--benchmark-baseline=cut.json"], "cut.json: not JSON, or cut short"),
        (["--benchmark-fail-on-regression=x"], "'x' is no share"),
        (["--benchmark-baseline=cut.json"], "goes with --benchmark-fail-on-regression"),
        (["--benchmark-record=bench"], "bench is a folder"),
        (["--benchmark-timeout=-1"], "must be 0 or seconds above it, got -1"),
    ],
)
def test_what_can_not_be_done_is_said_before_anything_runs(
    folder: Path, args: list[str], says: str
) -> None:
    (folder / "cut.json").write_text('{"kind": "bench", "rows": [')
    run = _pytest(folder, "--benchmark", *args)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, run.stdout + run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert "collected" not in run.stdout


def test_options_without_the_flag_are_refused(folder: Path) -> None:
    run = _pytest(folder, "--benchmark-record=a.json", "bench")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-record goes with --benchmark" in run.stderr


# ---- without a GPU


@needs_no_gpu
def test_without_a_gpu_our_own_benchmarks_are_green(folder: Path) -> None:
    run = _pytest(folder, "--benchmark", str(ROOT / "bench" / "test_bench.py"), "-ra",
                  "-k", "quantize_fp8-llama3-8b-decode")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d+ rows timed on cpu, \d+ not run, 0 failed", run.stdout)
    assert "not run: 2 rows, they need a GPU: quantize_fp8 triton x 2" in run.stdout


@needs_no_gpu
@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_a_gpu_may_be_required(folder: Path) -> None:
    run = _pytest(folder, "--benchmark", "--benchmark-require-gpu")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "--benchmark-require-gpu: " in run.stdout + run.stderr
    assert "rows timed" not in run.stdout


@needs_no_gpu
@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_a_case_may_have_a_process_of_its_own(folder: Path) -> None:
    run = _pytest(folder, "--benchmark", str(ROOT / "bench" / "test_bench.py"),
                  "--benchmark-timeout=120", "--benchmark-record=r.json",
                  "-k", "quantize_fp8-llama3-8b-decode-reference")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = record.load(folder / "r.json")["rows"]
    assert row["median_us"] > 0
