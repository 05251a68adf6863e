"""NVML behind its reader: bits by name, and counters that are not there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from aimills_kernels.harness import nvml, record
from tests.fake_nvml import Library


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0x0, []),
        (0x4, ["sw_power_cap"]),
        (0x48, ["hw_slowdown", "hw_thermal_slowdown"]),
        (0x80 | 0x4 | 0x1, ["gpu_idle", "sw_power_cap", "hw_power_brake_slowdown"]),
        (0x5000, ["bit 0x1000", "bit 0x4000"]),
    ],
)
def test_each_bit_has_its_name(mask: int, names: list[str]) -> None:
    assert nvml.names_of(mask) == names


def test_the_bits_are_those_of_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name, bit in nvml.REASONS.items():
        word = "".join(part.capitalize() for part in name.split("_"))
        stated = getattr(pynvml, f"nvmlClocksThrottleReason{word}")
        assert stated == bit, name


def test_every_bit_of_nvml_has_a_name() -> None:
    pynvml = pytest.importorskip("pynvml")
    starts = ("nvmlClocksThrottleReason", "nvmlClocksEventReason")
    stated = [getattr(pynvml, n) for n in dir(pynvml) if n.startswith(starts)]
    assert len(stated) > 10
    for mask in stated:
        assert mask & ~sum(nvml.REASONS.values()) == 0


def watched(library: Library, samples: int = 4) -> nvml.Watch:
    watch = nvml.Watch(nvml.Nvml(library, "gpu"))
    for _ in range(samples):
        watch.look()
    return watch


def test_reasons_and_clocks_of_every_sample_are_kept() -> None:
    masks, clocks = iter([0x4, 0x48, 0x1, 0x4]), iter([1980, 900, 1980, 1700])
    watch = watched(Library(reasons=lambda: next(masks), sm=lambda: next(clocks)))
    found = watch.telemetry()
    assert found["reasons_samples"] == [0x4, 0x48, 0x1, 0x4]
    assert found["sm_mhz_samples"] == [1980, 900, 1980, 1700]
    assert (found["sm_mhz"], found["sm_mhz_min"]) == (1840, 900)
    assert found["throttle"] == {
        "sw_power_cap": 0.5, "hw_slowdown": 0.25, "hw_thermal_slowdown": 0.25, "gpu_idle": 0.25,
    }  # fmt: skip
    assert watch.flags() == {
        "sw_power_cap": [0, 3], "hw_slowdown": [1], "hw_thermal_slowdown": [1],
        "SM clock below 75% of its most": [1],
    }  # fmt: skip
    assert (found["power_w"], found["temperature_c"], found["memory_mhz"]) == (612.5, 64, 2619)
    assert set(found) == set(record.TELEMETRY["properties"])


def test_a_counter_that_is_not_there_is_asked_once_and_named() -> None:
    library = Library(reasons=RuntimeError("Not Supported"), temperature=RuntimeError("GPU lost"))
    found = watched(library).telemetry()
    assert found["missing"] == ["reasons: Not Supported", "temperature_c: GPU lost"]
    assert (found["throttle"], found["temperature_c"]) == ({}, None)
    assert found["reasons_samples"] == [None] * 4
    assert library.asked.count("reasons") == 1
    assert found["sm_mhz"] == 1755


def test_slow_counters_are_not_asked_at_every_sample() -> None:
    library = Library()
    watched(library, 50)
    assert library.asked.count("sm") == library.asked.count("reasons") == 50
    assert library.asked.count("power") < 10


def test_a_cpu_has_no_counters() -> None:
    assert nvml.counters_of(torch.device("cpu")) is None


class Properties:
    uuid = "0a1b"


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, "nvml: the package nvidia-ml-py is not installed"),
        (Library(init=RuntimeError("NVML Shared Library Not Found")),
         "nvml: NVML Shared Library Not Found"),
    ],
)  # fmt: skip
def test_no_nvml_is_a_sentence(module: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    counters = nvml.counters_of(torch.device("cuda", 0))
    assert counters is not None
    assert counters.missing == [says]
    watch = nvml.Watch(counters)
    watch.look()
    assert watch.telemetry()["source"] == "none"
    assert watch.telemetry()["missing"] == [says]
    assert watch.flags() == {}


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    handles: list[str] = []
    monkeypatch.setattr(library, "nvmlDeviceGetHandleByUUID", handles.append)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    counters = nvml.counters_of(torch.device("cuda", 3))
    assert counters is not None
    assert counters.source == "nvml"
    assert handles == ["GPU-0a1b"]
