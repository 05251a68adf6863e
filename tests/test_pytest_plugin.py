"""`pytest --benchmark`, as a user of the installed package has it: in a folder of their own."""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimills_kernels import pytest_plugin
from aimills_kernels.harness import _machine, env, pytest_rows
from tests import child_pytest
from tests.child_pytest import run_pytest

_BENCH = """\
import sys
def test_timed(benchmark):
    assert "torch" not in sys.modules
    benchmark(sum, [1, 2])
def test_plain():
    raise AssertionError("only benchmarks run")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "test_bench.py").write_text(_BENCH)
    (tmp_path / "test_else.py").write_text("def test_else(): raise AssertionError\n")
    return tmp_path


def test_it_times_the_folder_bench_and_nothing_else(folder: Path) -> None:
    run = run_pytest(folder, "--benchmark", "--benchmark-json=times.json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout
    (timed,) = json.loads((folder / "times.json").read_text())["benchmarks"]
    assert timed["name"] == "test_timed"
    assert timed["stats"]["rounds"] > 1


@pytest.mark.full
def test_it_times_the_path_that_is_named(folder: Path) -> None:
    (folder / "mine.py").write_text("def test_mine(benchmark): benchmark(sum, [1])\n")
    run = run_pytest(folder, "--benchmark", "mine.py")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "test_mine" in run.stdout
    assert "test_timed" not in run.stdout


@pytest.mark.full  # each run of pytest takes some ten seconds of a CPU
def test_it_goes_with_the_conftest_of_our_benchmarks(folder: Path) -> None:
    ours = Path(__file__).parent.parent / "bench" / "conftest.py"
    (folder / "bench" / "conftest.py").write_text(ours.read_text())
    for paths in ([], ["bench/test_bench.py"]):
        run = run_pytest(folder, "--benchmark", *paths, "--benchmark-json=times.json")
        assert run.returncode == 0, run.stdout + run.stderr
        assert json.loads((folder / "times.json").read_text())["benchmarks"][0]["stats"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-p", "no:benchmark"], "is installed and not loaded: leave out -p no:benchmark"),
        (["-n", "2"], "without -n"),
        (["--benchmark-disable"], "--benchmark-disable contradict"),
        (["--benchmark-skip"], "--benchmark-skip contradict"),
    ],
)
def test_what_it_cannot_do_is_said(folder: Path, args: list[str], says: str) -> None:
    run = run_pytest(folder, "--benchmark", *args)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_a_plugin_that_is_not_there_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = pytest_plugin._no_benchmark()
    assert said == "pytest-benchmark is not installed: pip install pytest-benchmark"


_SMI = """\
#!/bin/sh
test -e {0} && cat {0}
"""
_H100 = {
    "name": "NVIDIA H100 80GB HBM3", "pci.device_id": "0x233010DE", "driver_version": "580.0",
    "power.limit": "700.00", "clocks.applications.graphics": "1980", "ecc.mode.current": "Enabled",
    "mig.mode.current": "Disabled",
}  # fmt: skip


def _listed(**other: str) -> str:
    """What nvidia-smi says of one GPU."""
    gpu = _H100 | {name.replace("_", "."): value for name, value in other.items()}
    return ", ".join(gpu.get(field, "[N/A]") for field in env._SMI) + "\n"


@pytest.mark.full  # each run of pytest takes some seconds of a CPU
def test_pytest_benchmarks_comparison_is_refused_on_another_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would compare them and warn, since it knows the CPU alone."""
    smi, gpu = folder / "bin" / "nvidia-smi", folder / "gpu"
    smi.parent.mkdir()
    smi.write_text(_SMI.format(gpu))
    smi.chmod(0o755)
    monkeypatch.setitem(child_pytest._ENV, "PATH", f"{smi.parent}:{os.environ['PATH']}")
    gpu.write_text(_listed() + _listed())
    run = run_pytest(folder, "--benchmark", "--benchmark-autosave")
    assert run.returncode == 0, run.stdout + run.stderr
    run = run_pytest(folder, "--benchmark", "--benchmark-compare")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Comparing against benchmarks" in run.stdout + run.stderr
    gpu.write_text(_listed(name="NVIDIA B200", power_limit="1000.00"))
    run = run_pytest(folder, "--benchmark", "--benchmark-compare")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, run.stdout + run.stderr
    assert (
        "--benchmark-compare: another GPU: NVIDIA H100 80GB HBM3 and NVIDIA B200; another power "
        "limit: 700.0 and 1000.0" in run.stderr
    )


def test_it_is_refused_with_the_flag_alone() -> None:
    """Somebody's benchmarks of a CPU may go on where a driver is new."""
    mine, saved = ({"gpus": [{"name": "GPU", "driver": driver}]} for driver in ("1", "2"))
    for ours in (True, False):
        config: Any = SimpleNamespace(option=SimpleNamespace(aimills_benchmark=ours))
        with pytest.raises(pytest.UsageError, match="driver: 2 and 1") if ours else nullcontext():
            pytest_plugin.pytest_benchmark_compare_machine_info(
                config, mine, {"machine_info": saved}
            )
        pytest_plugin.pytest_benchmark_compare_machine_info(config, mine, {"machine_info": mine})


def test_gpus_of_several_kinds_or_none() -> None:
    h100, b200 = ({"name": name, "uuid": name} for name in ("H100", "B200"))
    kinds = _machine.kinds_of([h100, b200, {"name": "H100", "uuid": "another"}])
    assert [k["name"] for k in kinds] == ["B200", "H100"]
    assert _machine.kinds_of([b200, h100]) == kinds
    assert _machine.other_kinds(kinds, kinds) == []
    assert _machine.other_kinds(kinds, []) == ["other GPUs: B200, H100 and none"]


def test_without_a_folder_bench_it_asks_for_a_path(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "--benchmark")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "name the benchmarks' path" in run.stderr


def test_what_did_not_run_is_counted_whatever_its_name() -> None:
    state = pytest_plugin._State()
    state.absent["no such mask", "gemm 4096 x 4096 theirs"] = 1
    state.absent["no such mask", "gemm 64 x many theirs"] = 2
    _, told = pytest_plugin._counts(state)
    names = "gemm 4096 x 4096 theirs, gemm 64 x many theirs x 2"
    assert told == f"not run: 3 rows, no such mask: {names}"


def test_a_record_of_nothing_is_not_green(folder: Path) -> None:
    run = run_pytest(folder, "--benchmark", "--benchmark-record=r.json")
    assert run.returncode == 2, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    assert "the record r.json was not written: nothing was timed" in run.stdout
    assert not (folder / "r.json").exists()


def test_a_baseline_of_nothing_is_told(tmp_path: Path) -> None:
    state = pytest_plugin._State()
    state.rows = pytest_rows.Rows(budget_s=1.0)
    options = SimpleNamespace(benchmark_storage=str(tmp_path), benchmark_autosave=True)
    config: Any = SimpleNamespace(option=options)
    assert pytest_plugin._store_rows(config, state, regressed=False)
    assert state.said == ["not stored as a baseline, as nothing was timed"]
    assert not list(tmp_path.iterdir())


def test_a_plugin_that_has_the_flag_keeps_it(folder: Path) -> None:
    (folder / "theirs.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--benchmark', action='store_true', dest='theirs')\n"
        "def pytest_report_header(config):\n"
        "    return f'theirs: {config.option.theirs}'\n"
    )
    run = run_pytest(folder, "-p", "theirs", "--benchmark", "test_else.py")
    assert "theirs: True" in run.stdout, run.stdout + run.stderr
    assert "1 failed" in run.stdout
