"""Each stage on a CPU with a tiny budget; planted faults; a GPU's counters by a fake."""

from __future__ import annotations

import itertools
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aimills_kernels
from aimills_kernels._registry import OPS
from aimills_kernels.accept import speed
from aimills_kernels.accept.context import PROFILES
from aimills_kernels.accept.metrics import METRICS, THROTTLES
from aimills_kernels.accept.simulate.schedule import expected_seconds
from aimills_kernels.accept.stages import (
    POWER_SWEEP,
    STAGES,
    burn,
    compute,
    health,
    inventory,
    memory,
    sdc,
    workloads,
)
from aimills_kernels.accept.stages._tools import digest, first_difference, percentile
from aimills_kernels.accept.telemetry import GPU_SAMPLE, Telemetry, telemetry_of
from aimills_kernels.harness import gemm, nvml
from tests.fake_nvml import Gpu
from tests.stage_context import CPU, Written
from tests.test_accept_telemetry import FIELDS

SPECS = {spec.name: spec for spec in STAGES}


def gpu_telemetry(**counters: Any) -> Telemetry:
    return Telemetry(nvml.Nvml(Gpu(FIELDS, **counters), "gpu"), GPU_SAMPLE)


def test_the_profiles_have_their_time() -> None:
    assert expected_seconds("gate", 8, 1) < 60
    assert expected_seconds("quick", 8, 1) < 300
    assert expected_seconds("full", 8, 64) < 1800
    assert "power-sweep" not in SPECS
    assert set(POWER_SWEEP.seconds) == set(PROFILES)


@pytest.mark.parametrize("name", list(SPECS))
def test_a_stage_runs_on_a_cpu(name: str, tmp_path: Path) -> None:
    """All that a stage can't do is said, and of each metric there is a value or a reason."""
    written = Written(tmp_path, name, telemetry=telemetry_of(CPU))
    assert written.run(SPECS[name])
    for entry in written.of("measure"):
        assert entry["unit"] == METRICS[entry["metric"]].unit
        assert type(entry["value"]) in (int, float), entry
        assert entry["value"] >= 0
    assert all(not entry["gap"] for entry in written.of("not_run"))
    prefixes = {"inventory": ("gpu.", "node."), "health": ("ecc.", "remap.", "pcie.", "nvlink."),
                "memory": ("memory.copy", "memory.read"), "compute": ("gemm.",),
                "interconnect": ("link.h", "link.p2p", "collective.all"),
                "burn": ("burn.", "throttle.", "energy."), "sdc": ("sdc.",),
                "workloads": ("work.",)}[name]  # fmt: skip
    told = {e["metric"] for e in written.of("measure")} | set(written.not_run())
    due = {m for m in METRICS if m.startswith(prefixes)} - {"memory.copy_hot"}
    assert due <= told


# ---- memory


def test_patterns_are_what_they_say() -> None:
    place = torch.tensor([0, 1, 63, 64])
    assert memory.walking_one(place, 0).tolist() == [1, 2, -(2**63), 1]
    assert memory.walking_one(place, 1)[0] == 2
    assert (memory.walking_zero(place, 0) == ~memory.walking_one(place, 0)).all()
    assert memory.address(place, 5).tolist() == [0, 1, 63, 64]
    # The first numbers that splitmix64 makes of seed 0, as in its authors' code.
    assert [int(x) % 2**64 for x in memory.random(torch.tensor([1, 2]), 0)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4,
    ]  # fmt: skip
    many = memory.random(torch.arange(1 << 16), 7)
    assert many.unique().numel() == 1 << 16
    ones = sum(int((many >> i & 1).sum()) for i in range(64))
    assert abs(ones / many.numel() / 64 - 0.5) < 0.001


@pytest.mark.parametrize("bit", [0, 37, 63])
def test_a_flipped_bit_in_memory_is_found(
    bit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CHUNK", 1000)
    honest = memory.write

    def write(words: torch.Tensor, pattern: memory.Pattern, seed: int) -> None:
        honest(words, pattern, seed)
        if pattern is memory.random:
            words[4321] ^= torch.tensor(-(2**63) if bit == 63 else 1 << bit)

    monkeypatch.setattr(memory, "write", write)
    written = Written(tmp_path, "memory")
    wrong, held, rounds = memory.patterns(written.ctx, 0.0)
    assert (wrong, held, rounds) == (1, 1 << 16, 1)
    counts = {e["detail"]["pattern"]: e["value"] for e in written.of("measure")}
    assert counts == {name: int(name == "random") for name in memory.PATTERNS}
    (event,) = written.events("memory")
    assert event["detail"]["index"] == 4321
    assert event["detail"]["bits"] == [bit]


def test_a_stuck_line_of_addresses_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two places that are one: only what tells places apart sees it, and it does."""
    honest = memory.write

    def write(words: torch.Tensor, pattern: memory.Pattern, seed: int) -> None:
        honest(words, pattern, seed)
        words[64] = words[0]

    monkeypatch.setattr(memory, "write", write)
    written = Written(tmp_path, "memory")
    memory.patterns(written.ctx, 0.0)
    counts = {e["detail"]["pattern"]: e["value"] for e in written.of("measure")}
    assert counts["address"] > 0
    assert counts["random"] > 0
    assert counts["walking one"] == 0


# ---- compute


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("f32", "off"), ("f32", "nan"), ("bf16", "off"), ("bf16", "nan"), ("int8", "off")],
)
def test_a_wrong_element_of_a_product_is_counted(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gemm.call

    def call(kind: str, a: torch.Tensor, b: torch.Tensor) -> Any:
        def wrong() -> torch.Tensor:
            product = honest(kind, a, b)()
            product[:, 3] += 1 if fault == "off" else float("nan")
            return product

        return wrong

    monkeypatch.setattr(gemm, "call", call)
    monkeypatch.setattr(gemm, "KINDS", (kind,))
    written = Written(tmp_path, "compute", seconds=0.0)
    compute.run(written.ctx)
    assert written.value("gemm.wrong") == compute._ROWS
    assert written.events("gemm")[0]["detail"]["column"] == 3


def test_a_kind_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gemm.call

    def call(kind: str, a: torch.Tensor, b: torch.Tensor) -> Any:
        if kind == "fp8":
            raise RuntimeError("no fp8 here")
        return honest(kind, a, b)

    monkeypatch.setattr(gemm, "call", call)
    written = Written(tmp_path, "compute", seconds=0.0)
    compute.run(written.ctx)
    assert written.not_run()["gemm.fp8"]["reason"] == "RuntimeError: no fp8 here"
    assert written.values("gemm.int8")


# ---- silent errors


def nan(bits: int) -> torch.Tensor:
    return torch.tensor([0x3F800000, bits], dtype=torch.int32).view(torch.float32)


def test_the_same_nan_is_equal_and_another_is_not() -> None:
    assert first_difference(nan(0x7FC00000), nan(0x7FC00000)) is None
    assert first_difference(nan(0x7FC00000), nan(0x40000000)) == {
        "elements": 1, "index": 1, "expected": "0x7fc00000", "got": "0x40000000",
        "bits": [22, 23, 24, 25, 26, 27, 28, 29],
    }  # fmt: skip
    found = first_difference(nan(0x7FC00000), nan(0x7FC00001))
    assert found is not None
    assert found["bits"] == [0]
    assert digest(nan(0x7FC00000)) != digest(nan(0x7FC00001))
    zeros = torch.zeros(1), -torch.zeros(1)
    assert first_difference(*zeros) is not None
    assert first_difference(torch.zeros(2), torch.zeros(3)) == {"shape": "(3,) torch.float32"}


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bfloat16, torch.float64, torch.int64, torch.float8_e4m3fn]
)
def test_the_first_difference_of_each_width(dtype: torch.dtype) -> None:
    a = torch.ones(3, 5).to(dtype)
    b = a.clone()
    b.view(torch.uint8).reshape(-1)[7 * a.element_size()] ^= 4
    found = first_difference(a, b)
    assert found is not None
    assert (found["elements"], found["index"], found["bits"]) == (1, 7, [2])


def test_a_kernel_that_differs_at_the_third_repeat_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def drifting() -> tuple[torch.Tensor, ...]:
        nonlocal calls
        calls += 1
        out = torch.full((8,), float("nan"))
        if calls == 4:  # the first is what the repeats are held against
            out[5] = 0.0
        return torch.ones(2), out

    made = {"drifting": (drifting, "8"), "nan": (lambda: (torch.full((2,), float("nan")),), "2")}
    monkeypatch.setattr(sdc, "kernels", lambda *_: made)
    looks = itertools.cycle([False, False, True])  # by repeats: a machine may stop for any time
    monkeypatch.setattr(sdc, "over", lambda *_: next(looks))
    written = Written(tmp_path, "sdc")
    sdc.run(written.ctx)
    counts = {e["detail"]["kernel"]: e["value"] for e in written.of("measure")
              if e["metric"] == "sdc.differing"}  # fmt: skip
    assert counts == {"drifting": 1, "nan": 0}
    (event,) = written.events("sdc")
    assert event["detail"]["repeat"] == 3
    assert (event["detail"]["output"], event["detail"]["index"]) == (1, 5)
    assert written.values("sdc.repeats") == [3, 3]


def test_a_kernel_that_raises_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> tuple[torch.Tensor, ...]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(sdc, "kernels", lambda *_: {"bad": (fails, "1")})
    written = Written(tmp_path, "sdc")
    sdc.run(written.ctx)
    assert written.not_run()["sdc/bad"]["gap"]


def test_inputs_are_the_same_everywhere() -> None:
    """The digest that this code makes on any machine: integers, and one exact division."""
    drawn = sdc.drawn((4, 5), 3)
    assert digest(drawn) == digest(sdc.drawn((4, 5), 3)) != digest(sdc.drawn((4, 5), 4))
    assert (drawn * 128 == (drawn * 128).round()).all()
    big = sdc.drawn((1 << 14,), 0)
    assert abs(float(big.std()) - 1.155) < 0.03
    assert digest(drawn)[:16] == "397e371064ae550d"


# ---- burn


def test_the_burn_ends_early_at_a_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    written = Written(tmp_path, "burn", seconds=60.0, options={"stop": stop})
    burn.run(written.ctx)
    assert "stopped after" in written.events("stopped")[0]["text"]


def test_a_product_that_changes_in_the_burn_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def call(kind: str, a: torch.Tensor, b: torch.Tensor) -> Any:
        def wrong() -> torch.Tensor:
            nonlocal calls
            calls += 1
            return torch.full((4,), 1.0 if calls < 3 else 1.5)

        return wrong

    monkeypatch.setattr(gemm, "call", call)
    written = Written(tmp_path, "burn", seconds=0.2)
    burn.run(written.ctx)
    assert written.value("sdc.differing") == written.value("sdc.repeats") >= 1
    assert written.events("sdc")[0]["detail"]["bits"] == [22]


def test_the_counters_of_a_burn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimills_kernels.accept.stages._tools.WINDOW_S", 0.0)
    monkeypatch.setattr(burn, "is_gpu", lambda ctx: True)
    energy = iter(range(10_000, 10_000_000, 1000))
    written = Written(
        tmp_path, "burn", telemetry=gpu_telemetry(energy=lambda: next(energy), reasons=0x48),
        options={"burn.kind": "f32"},
    )  # fmt: skip
    burn.run(written.ctx)
    assert written.value("burn.clock") == 1755e6
    assert written.value("burn.power") == 612.5
    assert written.value("burn.temperature") == 64
    assert written.value("burn.temperature_memory") == 78
    assert written.value("burn.xid") == 0
    assert {name: written.value(f"throttle.{name}") for name in THROTTLES} == {
        name: float(name == "hw_slowdown") for name in THROTTLES
    }
    (entry,) = [e for e in written.of("measure") if e["metric"] == "energy.gemm"]
    rate = written.value("burn.rate")
    seconds = next(e for e in written.of("measure") if e["metric"] == "burn.rate")
    flops = rate * seconds["detail"]["seconds"]
    assert entry["value"] == pytest.approx(flops / entry["detail"]["joules"])


def test_percentiles() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 2, 3, 3]


# ---- inventory and health of a GPU, by a fake


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inventory, health):
        monkeypatch.setattr(module, "is_gpu", lambda ctx: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(health, "_link_to_the_host", lambda ctx: None)
    monkeypatch.setattr(health, "idle_watts", lambda counters: 71.0)
    monkeypatch.setattr(health, "kernel_log", lambda: (XIDS, "dmesg"))


XIDS = """\
[1.0] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
[2.0] NVRM: Xid (PCI:0000:5d:00): 48, pid=12, an uncorrectable error of another GPU
[3.0] nvidia-nvswitch: something else
[4.0] NVRM: Xid (PCI:0000:3B:00): 79, pid=1
"""


@pytest.mark.usefixtures("as_gpu")
def test_inventory_of_a_gpu(tmp_path: Path) -> None:
    written = Written(tmp_path, "inventory", telemetry=gpu_telemetry())
    inventory.run(written.ctx)
    found = {e["metric"]: e["value"] for e in written.of("measure")}
    assert found["gpu.name"] == "NVIDIA H200"
    assert found["gpu.vbios"] == "96.00"
    assert (found["gpu.memory"], found["power.limit"]) == (143_771 << 20, 700.0)
    assert (found["clock.max"], found["node.gpus"]) == (1980e6, 8)


@pytest.mark.usefixtures("as_gpu")
def test_health_of_a_gpu(tmp_path: Path) -> None:
    telemetry = gpu_telemetry(ecc=RuntimeError("Not Supported"), remapped=(0, 2, True, False))
    written = Written(tmp_path, "health", telemetry=telemetry)
    health.run(written.ctx)
    found = {e["metric"]: e["value"] for e in written.of("measure")}
    assert (found["remap.uncorrected"], found["remap.pending"], found["remap.failed"]) == (2, 1, 0)
    assert (found["nvlink.active"], found["nvlink.errors"], found["xid.count"]) == (18, 0, 2)
    assert (found["ecc.enabled"], found["mig.enabled"], found["power.idle"]) == (1, 0, 71.0)
    assert written.not_run()["ecc.uncorrected"]["reason"] == "Not Supported"
    assert written.events("xid")[0]["detail"] == {"xid": 79}


def test_a_log_that_may_not_be_read_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.shutil, "which", lambda name: f"/bin/{name}")
    answers = {
        "/bin/dmesg": SimpleNamespace(
            returncode=1, stdout="",
            stderr="dmesg: read kernel buffer failed: Operation not permitted",
        ),
        "/bin/journalctl": SimpleNamespace(returncode=0, stdout="", stderr=""),
    }  # fmt: skip
    text, why = health.kernel_log(lambda command, **_: answers[command[0]])
    assert text is None
    assert why == (
        "the kernel's log can't be read: dmesg: dmesg: read kernel buffer failed: Operation not "
        "permitted; journalctl: it holds no line"
    )

    def late(command: list[str], **_: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 20)

    assert "timed out" in health.kernel_log(late)[1]


# ---- workloads


@pytest.mark.parametrize(
    ("fault", "work"), [("_RATE", "train"), ("kv_append", "decode"), ("video_to_tensor", "video")]
)
def test_a_workload_that_computes_nan_is_wrong(
    fault: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "_RATE":
        monkeypatch.setattr(workloads, fault, float("nan"))
    else:
        honest = getattr(aimills_kernels, fault)

        def spoiled(*given: Any, **more: Any) -> Any:
            out = honest(*given, **more)
            for t in (given[2],) if fault == "kv_append" else (out,):
                t.view(-1)[0] = float("nan")
            return out

        monkeypatch.setattr(aimills_kernels, fault, spoiled)
    written = Written(tmp_path, "workloads", seconds=0.0)
    workloads.run(written.ctx)
    wrong = {e["detail"]["work"]: e["value"] for e in written.of("measure")
             if e["metric"] == "work.wrong"}  # fmt: skip
    assert {name for name, count in wrong.items() if count} == {work}
    assert set(wrong) == {"train", "decode", "video"}


def test_decoding_appends_and_begins_again(tmp_path: Path) -> None:
    written = Written(tmp_path, "workloads", options={"workloads.keys": 8})
    step, tokens = workloads.decoding(written.ctx)
    for _ in range(20):
        step()
    assert tokens == 2


# ---- kernels


def test_joules_of_one_case_of_every_op() -> None:
    for op in OPS:
        case = op.case(speed.energy_case(op))
        assert "accept" in case.tags
        assert "energy" in case.tags or not any(
            {"accept", "energy"} <= other.tags for other in op.cases
        )
