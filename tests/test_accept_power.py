"""The power-cap sweep, on a fake GPU: whatever happens, the limit that it found is there again."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimills_kernels.accept import journal, launch, power_guard, rank, stage_run
from aimills_kernels.accept.rank import Plan
from aimills_kernels.accept.session import NOT_RUN, Settings
from aimills_kernels.accept.stages import POWER_SWEEP, power
from aimills_kernels.accept.telemetry import GPU_SAMPLE, Telemetry
from aimills_kernels.harness import nvml
from tests.power_sweep import FOUND_W, KeptGpu, sweep
from tests.stage_context import CPU, Written

ROOT = Path(__file__).parent.parent
_HANG_S = 1800  # against a hang alone


def limit(folder: Path) -> float:
    return int((folder / "limit").read_text()) / 1e3


def status(written: Written) -> str:
    """The stage's, as a run gives it."""
    return stage_run.run(POWER_SWEEP, written.ctx, written.journal).status


def left(folder: Path) -> list[Path]:
    return list((folder / "state").glob("*"))


def test_each_limit_is_measured_and_the_found_one_restored(tmp_path: Path) -> None:
    energy = iter(range(10_000, 10_000_000, 1000))
    gpu = KeptGpu(tmp_path, energy=lambda: next(energy))
    written = sweep(tmp_path, "a", gpu)
    written.run(POWER_SWEEP)
    assert gpu.limits_set == pytest.approx([650.0, 552.5, 455.0, 390.0, 650.0])
    rates = [e["detail"] for e in written.of("measure") if e["metric"] == "sweep.rate"]
    assert [r["limit"] for r in rates] == [1.0, 0.85, 0.7, 0.6]
    assert all(value > 0 for value in written.values("sweep.energy"))
    assert len(written.values("sweep.energy")) == 4
    assert left(tmp_path) == []


def test_a_limit_that_the_gpu_does_not_know_is_left_out(tmp_path: Path) -> None:
    gpu = KeptGpu(tmp_path, limits=(400_000, 700_000))
    written = sweep(tmp_path, "a", gpu)
    written.run(POWER_SWEEP)
    assert [e["gap"] for e in written.of("not_run") if "least" in e["reason"]] == [False]
    assert min(gpu.limits_set) == 455.0
    reasons = [e["reason"] for e in written.of("not_run")]
    assert "390 W is below the least limit of 400 W" in reasons


def test_no_permission_is_a_sentence(tmp_path: Path) -> None:
    gpu = KeptGpu(tmp_path, set=RuntimeError("Insufficient Permissions"))
    written = sweep(tmp_path, "a", gpu)
    assert status(written) == NOT_RUN
    assert written.not_run()["power.sweep"]["reason"] == (
        "the power limit can't be set: Insufficient Permissions; it takes root"
    )
    assert (limit(tmp_path), left(tmp_path)) == (FOUND_W, [])


def test_a_sweep_that_was_asked_for_and_told_nothing_has_not_passed(tmp_path: Path) -> None:
    on_a_cpu = Written(tmp_path / "cpu", "power-sweep")
    assert status(on_a_cpu) == NOT_RUN
    unread = KeptGpu(tmp_path)
    unread.values["limit"] = RuntimeError("Not Supported")
    assert status(sweep(tmp_path, "unread", unread)) == NOT_RUN
    written = sweep(tmp_path, "no joules", KeptGpu(tmp_path, energy=RuntimeError("Not Supported")))
    assert status(written) == NOT_RUN
    assert len(written.values("sweep.rate")) == 4
    assert {e["what"] for e in written.of("not_run")} == {"matmul per joule"}


def test_an_exception_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(ctx: Any, share: float, *more: Any) -> None:
        if share < 0.8:
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(power, "_step", fails)
    written = sweep(tmp_path, "a", KeptGpu(tmp_path))
    with pytest.raises(RuntimeError, match="unspecified launch"):
        written.run(POWER_SWEEP)
    assert (limit(tmp_path), left(tmp_path)) == (FOUND_W, [])


def test_a_limit_that_can_not_be_restored_is_told_and_kept_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = KeptGpu(tmp_path)

    def lost(*_: Any) -> None:
        gpu.values["set"] = RuntimeError("GPU is lost")

    monkeypatch.setattr(power, "SHARES", (0.6,))
    monkeypatch.setattr(power, "_step", lost)
    written = sweep(tmp_path, "a", gpu)
    with pytest.raises(power.CannotRestore, match="650 W could not be restored: GPU is lost"):
        written.run(POWER_SWEEP)
    assert "keeps it" in written.events("power-limit")[0]["text"]
    (state,) = left(tmp_path)
    later = sweep(tmp_path, "b", KeptGpu(tmp_path))
    assert power.is_left(later.ctx)
    power.RESTORE.work(later.ctx)
    assert not power.is_left(later.ctx)
    assert (limit(tmp_path), state.exists()) == (FOUND_W, False)
    assert "was restored" in later.events("power-limit")[0]["text"]


def test_any_run_begins_by_putting_right_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its stages are, and also where one that goes on did so before."""
    gpu = KeptGpu(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(
        rank, "telemetry_of", lambda device: Telemetry(nvml.Nvml(gpu, "gpu"), GPU_SAMPLE)
    )
    state = power.state_folder() / "GPU-0a1b.json"
    state.parent.mkdir(parents=True)
    plan = Plan(Settings((CPU,), ()), tmp_path / "out", ())
    for resume in (False, True):
        state.write_text('{"watts": 650.0}')
        gpu.path.write_text("455000")
        again = dataclasses.replace(plan, resume=resume)
        rank.run(again, launch.alone({}, "a run"), CPU, rank.Stop())
        assert (limit(tmp_path), state.exists()) == (FOUND_W, False)
    (path,) = (tmp_path / "out" / "journal").iterdir()
    ends = [e for e in journal.read(path) if e["kind"] == "stage" and e["state"] == "end"]
    assert [(e["name"], e["status"]) for e in ends] == [("power-restore", "passed")] * 2


def test_a_state_that_tells_nothing_stops_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "GPU-0a1b.json").write_text("{}")
    gpu = KeptGpu(tmp_path)
    with pytest.raises(power.CannotRestore, match="tells no power limit"):
        sweep(tmp_path, "a", gpu).run(POWER_SWEEP)
    assert gpu.limits_set == []


def test_a_stop_ends_the_sweep(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    gpu = KeptGpu(tmp_path)
    sweep(tmp_path, "a", gpu, stop=stop).run(POWER_SWEEP)
    assert gpu.limits_set == []


@pytest.mark.full
def test_sigterm_restores_and_then_ends_the_process(tmp_path: Path) -> None:
    done = child(tmp_path, "terminated")
    assert done.returncode == -signal.SIGTERM
    assert (limit(tmp_path), left(tmp_path)) == (FOUND_W, [])


@pytest.mark.full
def test_a_killed_sweep_is_put_right_at_the_next_start(tmp_path: Path) -> None:
    assert child(tmp_path, "killed").returncode == -signal.SIGKILL
    assert limit(tmp_path) == 455.0
    assert len(left(tmp_path)) == 1
    gpu = KeptGpu(tmp_path)
    written = sweep(tmp_path, "again", gpu)
    written.run(POWER_SWEEP)
    assert gpu.limits_set[:2] == [FOUND_W, FOUND_W]  # first put right, and then 100 % of that
    assert (limit(tmp_path), left(tmp_path)) == (FOUND_W, [])
    assert written.events("power-limit")[0]["detail"] == {"watts": FOUND_W}


_NVML = """
from pathlib import Path

def nvmlInit(): ...

def nvmlDeviceGetHandleByUUID(uuid):
    assert uuid == "GPU-0a1b"
    return uuid

def nvmlDeviceSetPowerManagementLimit(handle, limit):
    Path({limit!r}).write_text(str(limit))
"""


@pytest.mark.full
def test_a_killed_sweep_is_put_right_by_its_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(_NVML.format(limit=str(tmp_path / "limit")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert child(tmp_path, "killed").returncode == -signal.SIGKILL
    end = time.monotonic() + 600
    while left(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert (limit(tmp_path), left(tmp_path)) == (FOUND_W, [])


@pytest.mark.parametrize(
    ("change", "restored"),
    [
        (lambda state: None, [650_000]),
        (lambda state: state.unlink(), []),
        (lambda state: state.write_text("{}"), []),
    ],
)
def test_a_guard_leaves_what_is_not_its_own(
    change: Callable[[Path], Any], restored: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its file is gone, or another run's: the sweep itself has put the limit back."""
    state, limits = tmp_path / "GPU-0a1b.json", []
    state.write_text('{"uuid": "GPU-0a1b", "watts": 650.0, "by": 7}')
    waits = SimpleNamespace(buffer=SimpleNamespace(read=lambda: change(state)))
    library = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceSetPowerManagementLimit=lambda handle, limit: limits.append(limit),
    )  # fmt: skip
    monkeypatch.setattr(power_guard.sys, "stdin", waits)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    power_guard.main(state)
    assert limits == restored


def child(folder: Path, how: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.power_sweep", str(folder), how]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_HANG_S)
