"""Telemetry: what is read, what can't be, and what goes wrong in its thread."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimills_kernels.accept import journal, telemetry
from aimills_kernels.accept.metrics import THROTTLES
from aimills_kernels.accept.telemetry import CPU_SAMPLE, GPU_SAMPLE, CpuCounters, Telemetry
from aimills_kernels.harness import _nvml_reads, nvml
from aimills_kernels.harness.reasons import REASONS
from tests.fake_nvml import Gpu, Timeout

FIELDS = {
    "NVML_FI_DEV_MEMORY_TEMP": 78,
    "NVML_FI_DEV_PERF_POLICY_POWER": 3_000_000_000,
    "NVML_FI_DEV_PERF_POLICY_SYNC_BOOST": 0,
    "NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT": 0,
    "NVML_FI_DEV_PERF_POLICY_RELIABILITY": 0,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN": 0,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": 0,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": 0,
}


def of(library: Gpu) -> Telemetry:
    return Telemetry(nvml.Nvml(library, "gpu"), GPU_SAMPLE)


def sampled(folder: Path, found: Telemetry, least: int = 4) -> tuple[list, telemetry.Window]:
    """Until there are so many samples, or its thread is at an end."""
    written = journal.Journal(folder / "a.jsonl")
    with found.sampling(written, "burn", 0.01) as window:
        while len(window.samples) < least and _thread_lives():
            time.sleep(0.005)
    return journal.read(folder / "a.jsonl"), window


def _thread_lives() -> bool:
    return any(thread.name == "telemetry" for thread in threading.enumerate())


def test_names_of_nvml_exist_in_its_package() -> None:
    """A name that is not there would only be found missing on a GPU."""
    pynvml = pytest.importorskip("pynvml")
    text = Path(_nvml_reads.__file__).read_text() + Path(nvml.__file__).read_text()
    names = set(re.findall(r"library\.(\w+)", text)) | set(re.findall(r'"(NVML_\w+)"', text))
    names |= {f"NVML_NVLINK_ERROR_DL_{kind}" for kind in _nvml_reads._LINK_ERRORS}
    assert len(names) > 30
    assert {n for n in names if not hasattr(pynvml, n)} == set()
    union = dict(pynvml.c_nvmlValue_t._fields_)
    order = ("DOUBLE", "UNSIGNED_INT", "UNSIGNED_LONG", "UNSIGNED_LONG_LONG", "SIGNED_LONG_LONG",
             "SIGNED_INT", "UNSIGNED_SHORT")  # fmt: skip
    for name, kind in zip(_nvml_reads._VALUE, order, strict=True):
        assert name in union
        assert _nvml_reads._VALUE[getattr(pynvml, f"NVML_VALUE_TYPE_{kind}")] == name


def test_samples_of_a_gpu(tmp_path: Path) -> None:
    entries, window = sampled(tmp_path, of(Gpu(FIELDS, reasons=0x4)))
    samples = [e for e in entries if e["kind"] == "sample"]
    assert len(samples) == len(window.samples) >= 4
    assert samples[0]["stage"] == "burn"
    assert samples[0]["values"] == {
        "sm_mhz": 1755, "memory_mhz": 2619, "power_w": 612.5, "temperature_c": 64,
        "memory_temperature_c": 78, "reasons": 4, "energy_mj": 10_000,
    }  # fmt: skip
    assert [e for e in entries if e["kind"] == "event"] == []
    assert window.seconds > 0


def test_a_counter_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    library = Gpu({}, power=RuntimeError("No Permission"))
    entries, _ = sampled(tmp_path, of(library))
    samples = [e["values"] for e in entries if e["kind"] == "sample"]
    assert len(samples) > 2
    assert all(s["power_w"] is None and s["memory_temperature_c"] is None for s in samples)
    texts = [e["text"] for e in entries if e["kind"] == "event"]
    for said in ("power_w: No Permission", "memory_temperature_c: Not Supported"):
        assert texts.count(f"a counter can't be read: {said}") == 1


def test_a_counter_that_is_lost_on_the_way_is_told(tmp_path: Path) -> None:
    values = iter([612_500, 612_500])
    library = Gpu(FIELDS, power=lambda: next(values, RuntimeError("GPU is lost")))
    entries, window = sampled(tmp_path, of(library))
    assert window.values("power_w") == [612.5, 612.5]
    assert len(window.samples) > 2
    assert [e["text"] for e in entries if e["kind"] == "event"] == [
        "a counter can't be read: power_w: GPU is lost"
    ]


def test_an_error_in_the_thread_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(Gpu(FIELDS))
    monkeypatch.setattr(found.counters, "new_xids", lambda: 1 / 0)
    entries, _ = sampled(tmp_path, found)
    (event,) = [e for e in entries if e["kind"] == "event"]
    assert event["text"] == "the telemetry ended: ZeroDivisionError: division by zero"


class NoException(BaseException):
    """What a journal may raise so that no stage takes it for its own failure."""


@pytest.mark.parametrize("kind", [OSError, NoException])
def test_a_full_disk_under_the_thread_is_raised_at_the_end(
    kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = journal.Journal(tmp_path / "a.jsonl")

    def full(file: int, data: bytes) -> None:
        raise kind("No space left on device")

    monkeypatch.setattr(journal, "_write", full)
    with pytest.raises(kind, match="No space left"), of(Gpu(FIELDS)).sampling(written, "burn"):
        pass


def test_the_blocks_own_error_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = journal.Journal(tmp_path / "a.jsonl")

    def fail() -> None:
        with of(Gpu(FIELDS)).sampling(written, "burn"):
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        fail()
    assert not _thread_lives()


def test_nobody_samples_after_an_alarm_in_the_last_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, found = journal.Journal(tmp_path / "a.jsonl"), of(Gpu(FIELDS))

    def late() -> None:
        raise NoException("no answer")

    def sample() -> None:
        with found.sampling(written, "burn", 0.01):
            monkeypatch.setattr(found, "_cumulative", late)

    with pytest.raises(NoException, match="no answer"):
        sample()
    assert not _thread_lives()


def test_a_driver_that_never_answers_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, hang = of(Gpu(FIELDS)), threading.Event()
    monkeypatch.setattr(telemetry, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(found.counters, "new_xids", hang.wait)
    entries, _ = sampled(tmp_path, found, 1)
    hang.set()
    assert any("gave no answer" in e.get("text", "") for e in entries)


def test_xids_that_the_driver_stops_telling_are_unknown(tmp_path: Path) -> None:
    """None were told so far, which is not the same as none."""
    library = Gpu(FIELDS)
    waits = iter([Timeout(), Timeout()])

    def wait(events: str, timeout: int) -> Any:
        raise next(waits, RuntimeError("GPU is lost"))

    library.nvmlEventSetWait_v2 = wait  # type: ignore[method-assign]
    _, window = sampled(tmp_path, of(library))
    assert window.xids is None


def test_an_xid_after_the_last_sample_is_told_of_its_stage(tmp_path: Path) -> None:
    library = Gpu(FIELDS)
    found = of(library)
    library.xids = [31]
    written = journal.Journal(tmp_path / "a.jsonl")
    assert found.tell_xids(written, "correctness") == [31]
    assert found.tell_xids(written, "correctness") == []
    (event,) = journal.read(tmp_path / "a.jsonl")
    assert (event["stage"], event["detail"]) == ("correctness", {"xid": 31})


def test_xids_of_the_driver_are_events(tmp_path: Path) -> None:
    library = Gpu(FIELDS)
    library.xids = [79, 48]
    entries, window = sampled(tmp_path, of(library))
    assert window.xids == [79, 48]
    assert [e["detail"] for e in entries if e["kind"] == "event"] == [{"xid": 79}, {"xid": 48}]


@pytest.mark.parametrize(
    ("before", "after", "reasons", "found"),
    [
        (1e9, 1.5e9, 0x40, (0.25, "counter")),  # half a second of two
        (1e9, 1e9, 0x40, (0.0, "counter")),
        (None, None, 0x48, (1.0, "samples")),
        (1e9, 9e9, 0x4, (0.0, "samples")),  # more than the time that passed: no such counter
        (None, None, None, None),
    ],
)
def test_share_of_time(
    before: float | None, after: float | None, reasons: int | None, found: Any
) -> None:
    first, last = ({"throttle_s.hw_thermal_slowdown": v and v / 1e9} for v in (before, after))
    window = telemetry.Window([{"reasons": reasons}] * 2, 10.0, 12.0, first, last)
    assert window.slowed("hw_thermal_slowdown") == found


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_the_mask_is_told_by_its_name_or_as_unknown(bit: int) -> None:
    """A quarter of the time, beside the power cap that always holds."""
    masks = [0x4 | 1 << bit, 0x4, 0x4, 0x4]
    window = telemetry.Window([{"reasons": mask} for mask in masks], 0.0, 1.0)
    found = {name: (window.slowed(name) or (None,))[0] for name in THROTTLES}
    name = next((n for n, mask in REASONS.items() if mask == 1 << bit), "unknown")
    share = 1.0 if name == "sw_power_cap" else 0.25
    assert found == dict.fromkeys(THROTTLES, 0.0) | {"sw_power_cap": 1.0} | {name: share}


@pytest.mark.parametrize("name", ["board_limit", "reliability"])
@pytest.mark.parametrize("older", [False, True])
def test_limits_of_the_board_have_counters_of_time(name: str, older: bool) -> None:
    fields = {} if older else {f"NVML_FI_DEV_PERF_POLICY_{name.upper()}": 2_500_000_000}
    library = Gpu(fields, **{f"violation {name}": 2_500_000_000})
    setattr(library, f"NVML_PERF_POLICY_{name.upper()}", name)
    assert of(library)._cumulative()[f"throttle_s.{name}"] == 2.5


def test_shares_come_from_the_counters_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the older call, where a field is not served: half a second of two."""
    times, slowed = iter([10.0, 12.0]), iter([3_000_000_000, 3_500_000_000])
    monkeypatch.setattr(telemetry, "_now", lambda: next(times))
    older = FIELDS | {"NVML_FI_DEV_PERF_POLICY_POWER": None}
    _, window = sampled(tmp_path, of(Gpu(older, **{"violation 0": lambda: next(slowed)})))
    assert window.slowed("sw_power_cap") == (0.25, "counter")
    assert window.slowed("hw_slowdown") == (0.0, "samples")  # it has no counter of time


def test_a_cpu_by_psutil(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    entries, window = sampled(tmp_path, telemetry.telemetry_of(torch.device("cpu")))
    assert set(window.samples[0]) == set(CPU_SAMPLE)
    assert window.values("host_memory_used_b")[0] > 0
    assert window.joules() is None
    texts = [e["text"] for e in entries if e["kind"] == "event"]
    assert texts.count("a counter can't be read: power_w: psutil has no such counter") == 1


def test_a_machine_that_tells_psutil_nothing() -> None:
    silent = SimpleNamespace(cpu_freq=lambda: None, sensors_temperatures=dict)
    found = Telemetry(CpuCounters(silent), CPU_SAMPLE)
    assert found.read("cpu_mhz") is None
    assert found.read("temperature_c") is None
    assert found.why("temperature_c") == "this machine does not tell"


def test_a_cpus_load_is_asked_for_before_the_first_sample() -> None:
    """psutil's first answer is 0 whatever the load."""
    answers = iter([0.0, 80.0])
    found = CpuCounters(SimpleNamespace(cpu_percent=lambda interval: next(answers)))
    assert found.read("cpu_share") == 0.8


class NotSupported(Exception):
    """NVML's word for what a GPU does not have."""


@pytest.mark.parametrize(("error", "found"), [(NotSupported(), 0), (RuntimeError("lost"), None)])
def test_a_gpu_that_has_no_mig_is_not_divided(error: Exception, found: int | None) -> None:
    library = Gpu(FIELDS, mig=error)
    library.NVMLError_NotSupported = NotSupported
    assert of(library).read("mig") == found


def test_no_psutil_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    found = telemetry.telemetry_of(torch.device("cpu"))
    assert found.read("cpu_mhz") is None
    assert found.why("cpu_mhz") == "the package psutil is not installed"


def test_two_threads_write_one_chain(tmp_path: Path) -> None:
    written = journal.Journal(tmp_path / "a.jsonl")

    def write() -> None:
        for i in range(50):
            written.append("sample", stage="burn", values={"i": i})

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.read(tmp_path / "a.jsonl")) == 150
