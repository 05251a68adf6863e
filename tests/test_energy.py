"""Joules per call, with a counter and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aimills_kernels.harness import energy, nvml, record
from tests.fake_nvml import Library

WATTS = 640.0
CALL_S = 0.001


class Gpu:
    """Time passes with each call; the counter steps ten times a second, as NVML's does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.calls = 100.0, 0
        monkeypatch.setattr(energy, "_now", lambda: self.now)

    def call(self, index: int) -> None:
        assert index == self.calls
        self.calls += 1
        self.now += CALL_S

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def counter(self) -> int:
        return int(1e3 * WATTS * int(10 * self.now) / 10)

    def measured(self, counter: Callable[[], Any] | Any, **more: Any) -> dict[str, Any]:
        counters = nvml.Nvml(Library(energy=counter), "gpu")
        return energy.measure(self.call, lambda: None, counters, call_us=CALL_S * 1e6, **more)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_joules_are_those_of_the_counter_over_the_calls(gpu: Gpu) -> None:
    found = gpu.measured(gpu.counter, idle=88.0)
    assert found["joules"] == pytest.approx(WATTS * CALL_S, rel=0.01)
    assert found["watts"] == pytest.approx(WATTS, rel=0.01)
    assert found["idle_watts"] == 88.0
    assert found["window_s"] >= energy.WINDOW_S == 5.0
    assert found["calls"] * CALL_S == pytest.approx(found["window_s"])
    assert "NVML" in found["level"]
    assert set(found) == set(record.ENERGY["properties"])


@pytest.mark.parametrize(
    ("counter", "says"),
    [
        (10_000, "did not move"),
        (lambda: -1.0, "did not move"),
        (RuntimeError("Not Supported"), "energy_mj: Not Supported"),
    ],
)
def test_no_energy_is_a_sentence_and_no_zero(gpu: Gpu, counter: Any, says: str) -> None:
    with pytest.raises(energy.NoEnergy, match=says):
        gpu.measured(counter)


def test_a_counter_that_goes_backwards_or_stops_gives_none(gpu: Gpu) -> None:
    with pytest.raises(energy.NoEnergy, match="backwards"):
        gpu.measured(lambda: gpu.counter() if gpu.now < 102 else 5)
    gpu.calls = 0
    stuck = min(gpu.counter(), 10**9)
    with pytest.raises(energy.NoEnergy, match="did not move in 7"):
        gpu.measured(lambda: gpu.counter() if gpu.now < 103 else stuck + 10**7)


def test_idle_power_is_measured_or_unknown(gpu: Gpu) -> None:
    counters = nvml.Nvml(Library(energy=gpu.counter), "gpu")
    assert energy.idle_watts(counters, gpu.sleep) == pytest.approx(WATTS)
    assert energy.idle_watts(nvml.Nvml(Library(), "gpu"), gpu.sleep) is None
    assert energy.idle_watts(nvml.NoCounters("none here"), gpu.sleep) is None
