"""The harness: no number for a wrong kernel, right statistics, records that can be trusted."""

from __future__ import annotations

import copy
import functools
import getpass
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case, Cost, Op
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import validate
from aimills_kernels.harness import (
    _guard,
    _rows,
    bench,
    ceilings,
    env,
    gpu,
    overhead,
    peers,
    timing,
)
from aimills_kernels.harness import record as record_file
from tests import faults, late_faults
from tools import measure_overheads

CEILINGS = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}


_measure_ceilings = ceilings.measure
_few_rounds = functools.partial(timing.time_interleaved, max_rounds=6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring them takes over a second, so only their own test does; and a few rounds will do."""
    monkeypatch.setattr(ceilings, "measure", lambda device: dict(CEILINGS))
    monkeypatch.setattr(bench, "time_interleaved", _few_rounds)


def one_run(op: Any, **more: Any) -> dict[str, Any]:
    options = {"cases": ["tiny"], "device": "cpu", "budget_s": 10.0, "peers": False, **more}
    return bench.run(ops=[op], **options)


def row_of(record: dict[str, Any], provider: str) -> dict[str, Any]:
    (row,) = [r for r in record["rows"] if r["provider"] == provider]
    return row


def clean(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "samples_us"}


# ---- the gate


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_wrong_kernel_gets_no_number(fault: str) -> None:
    row = row_of(one_run(faults.plant("attention", fault), providers=["planted"]), "planted")
    assert row["failure"], clean(row)
    assert row["median_us"] is None
    assert not row["samples_us"]
    assert not row["validated"]


@pytest.mark.parametrize("fault", late_faults.LATE_FAULTS)
def test_a_kernel_that_goes_wrong_while_timed_loses_its_number(fault: str) -> None:
    op = late_faults.plant("attention", fault)
    row = row_of(one_run(op, providers=["planted"]), "planted")
    assert late_faults.calls() > late_faults.GATE_CALLS, "the clock made no call"
    assert row["failure"], clean(row)
    assert row["median_us"] is None
    assert not row["samples_us"]
    assert not row["validated"]


@pytest.mark.parametrize("fault", late_faults.LATE_FAULTS)
def test_the_gate_alone_would_pass_it(fault: str) -> None:
    assert validate(late_faults.plant("attention", fault), "tiny", "planted", device="cpu").ok


def test_a_right_kernel_and_its_peers_get_one() -> None:
    record = one_run(late_faults.plant("attention", "none"))
    for name, peer in (("planted", False), ("reference", True)):
        row = row_of(record, name)
        assert row["failure"] is None
        assert row["validated"]
        assert row["peer"] is peer
        assert row["q1_us"] <= row["median_us"] <= row["q3_us"]
        assert row["min_us"] <= row["q1_us"]
        assert len(row["samples_us"]) == row["n"] > 1
        assert row["sol"] > 0
        assert row["error_used"] <= 1
        assert row["clock"] == "monotonic"


def test_an_op_that_writes_to_its_inputs_is_right_on_fresh_data_too() -> None:
    (row,) = one_run(get_op("kv_append"), providers=["reference"])["rows"]
    assert row["failure"] is None
    assert row["median_us"] > 0


def test_one_broken_contestant_does_not_stop_the_others() -> None:
    record = one_run(late_faults.plant("attention", "raises"))
    assert "illegal memory access" in row_of(record, "planted")["failure"]
    assert row_of(record, "reference")["median_us"] > 0


# ---- external peers


def peers_folder(folder: Path, body: str) -> Path:
    (folder / "peers").mkdir()
    (folder / "peers" / "__init__.py").write_text(
        "from aimills_kernels.harness.peers import Adapter\n" + body
    )
    return folder


def test_a_peer_is_judged_but_not_gated(tmp_path: Path) -> None:
    folder = peers_folder(
        tmp_path,
        "from aimills_kernels.kernels.attention.op import reference\n"
        "def off(*args):\n    'Half as much again.'\n    out, lse = reference(*args)\n"
        "    return out * 1.5, lse\n"
        "def broken(*args):\n    raise NotImplementedError('no such shape')\n"
        "found = {'good': reference, 'off': off, 'broken': broken}\n"
        "ADAPTERS = [Adapter(name, {'attention': f}) for name, f in found.items()]\n"
        "ADAPTERS.append(Adapter('absent', {'attention': reference}, {'no_such': 'such-1'}))\n",
    )
    record = one_run(get_op("attention"), providers=["reference"], peers=True, peers_folder=folder)
    good, off, broken = (row_of(record, n) for n in ("good", "off", "broken"))
    assert good["validated"]
    assert good["peer"]
    assert good["median_us"] > 0
    assert off["median_us"] > 0
    assert not off["validated"]
    assert off["failure"] is None
    assert "error" in off["note"]
    assert off["error_used"] > 1
    assert off["differing"] > 0.9
    assert off["apart"].startswith("against float64: out: ")
    assert off["about"] == "Half as much again."
    assert good["apart"] is good["differing"] is None
    assert "no such shape" in broken["skipped"]
    assert row_of(record, "absent")["skipped"] == "such-1 is not installed"
    assert [line[7] for line in bench.table(record) if line[2] == "off"] != ["-"]


def test_no_folder_means_no_peers(tmp_path: Path) -> None:
    assert peers.peers_of(get_op("attention"), tmp_path) == []


# ---- rooflines


PLACE = _rows.Place(
    "cuda:0", {**CEILINGS, "spec": {"copy_gbps": 20.0, "gemm_f16_tflops": 1.0}}, 1000
)


def timed_row(us: float, cost: Cost, **more: Any) -> dict[str, Any]:
    op = replace(get_op("attention"), cost=lambda case: cost)
    row = _rows.blank(op, Case("c"), "p", PLACE, False)
    taken = timing.summarise([us] * 9, clock="events", cold=True)
    _rows.put_time(row, taken, cost, PLACE, **more)
    return row


def test_roofline_of_bytes_and_of_flops() -> None:
    by_bytes = timed_row(200.0, Cost(0, 1e6, "f16"))
    assert by_bytes["sol"] == pytest.approx(0.5)
    assert by_bytes["sol_spec"] == pytest.approx(0.25)
    assert by_bytes["sol_bound"] == "bytes"
    by_flops = timed_row(20.0, Cost(1e6, 1e3, "f16"))
    assert by_flops["sol_bound"] == "flops"
    assert by_flops["sol"] == pytest.approx(0.5)  # f32 arithmetic can serve f16, and was faster
    assert by_flops["tflops"] == pytest.approx(0.05)


def test_above_the_measured_ceiling_is_suspect() -> None:
    assert "measured ceiling" in timed_row(80.0, Cost(0, 1e6, "f16"))["suspect"]
    assert timed_row(95.0, Cost(0, 1e6, "f16"))["suspect"] is None


def test_above_the_specification_is_suspect_before_it_is_an_error() -> None:
    within, beyond = timed_row(51.0, Cost(0, 1e6, "f16")), timed_row(48.0, Cost(0, 1e6, "f16"))
    assert "specification" not in within["suspect"]
    assert "1.04 times what the specification allows" in beyond["suspect"]
    assert beyond["failure"] is None


def test_faster_than_the_hardware_is_an_error() -> None:
    for row in (timed_row(40.0, Cost(0, 1e6, "f16")), timed_row(0.5, Cost(1e6, 1.0, "f16"))):
        assert "faster than the hardware" in row["failure"]
        assert row["median_us"] is None
    held_in_cache = timed_row(0.1, Cost(0, 3000, "f16"))
    assert held_in_cache["failure"] is None
    assert held_in_cache["suspect"]
    read = timed_row(0.1, Cost(0, 3000, "f16"), written=10)
    assert "its specification allows 0.149 us" in read["failure"]


def test_a_warm_time_may_beat_the_memory_and_not_the_arithmetic() -> None:
    op = replace(get_op("attention"), cost=lambda case: Cost(1e6, 1e6, "f16"))
    cold = timing.summarise([200.0] * 9, clock="events", cold=True)
    for us, wrong in ((2.0, False), (0.5, True)):
        row = _rows.blank(op, Case("c"), "p", PLACE, False)
        both = replace(cold, warm=timing.spread([us] * 9))
        _rows.put_time(row, both, op.cost(Case("c")), PLACE)
        assert ("faster than the hardware with warm caches" in str(row["failure"])) == wrong
        assert (row["median_us"] is None) == wrong
    row = _rows.blank(op, Case("c"), "p", PLACE, False)
    warm_only = timing.summarise([2.0] * 9, clock="events", cold=False)
    _rows.put_time(row, warm_only, op.cost(Case("c")), PLACE)
    assert row["failure"] is None


def test_an_arithmetic_without_a_ceiling_gives_no_share() -> None:
    assert _rows.floor_us(Cost(1.0, 1.0, "f16"), None) == (None, None)
    assert ceilings.peak_tflops({"gemm_f32_tflops": 2.0}, "fp8") == 2.0
    assert ceilings.peak_tflops({}, "fp8") is None


@pytest.mark.parametrize(
    ("name", "f16"),
    [("NVIDIA H200", 989.4), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H100 80GB HBM3", 989.4),
     ("NVIDIA B200", 2250.0), ("NVIDIA GB200", 2500.0), ("NVIDIA L40S", 362.05),
     ("NVIDIA A100-SXM4-80GB", 312.0)],
)  # fmt: skip
def test_known_gpus(name: str, f16: float) -> None:
    found = ceilings.spec(name)
    assert found is not None
    assert found["gemm_f16_tflops"] == f16


def test_unknown_gpus_have_no_specification() -> None:
    for name in (None, "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert ceilings.spec(name) is None


def test_ceilings_are_plausible() -> None:
    """By the CPU time of this thread, and with room for a machine that others work on too."""
    begin = time.thread_time()
    found = _measure_ceilings("cpu")
    assert time.thread_time() - begin < 10  # 2 s on an idle machine
    assert 0.01 < found["copy_gbps"] < 5000
    assert 1e-5 < found["gemm_f32_tflops"] < 100
    assert found["gemm_f16_tflops"] > 0
    assert "gemm_fp8_tflops" not in found
    assert found["spec"] is None
    json.dumps(found, allow_nan=False)


def test_ceilings_are_bytes_and_operations_over_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.CpuTimer, "sample", lambda *_: 1000.0)
    monkeypatch.setattr(ceilings, "_CPU_PART_S", 0.0)
    found = _measure_ceilings("cpu")
    size = max(ceilings._CPU_COPY_BYTES, 4 * timing.CpuTimer().cache_bytes)
    assert found["copy_gbps"] == pytest.approx(2 * size / 1e-3 / 1e9)  # read and written
    for unit in ("f32", "f16"):
        operations = 2 * ceilings._CPU_GEMM[unit] ** 3
        assert found[f"gemm_{unit}_tflops"] == pytest.approx(operations / 1e-3 / 1e12)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (-2.0, "the clock gave -2 us for a call"),
        (0.0, "the clock gave 0 us for a call"),
        (MemoryError("no memory"), "no memory"),
    ],
)
def test_a_ceiling_that_can_not_be_had_is_named(
    fault: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes backwards or too little memory costs the ceilings, and no row."""

    def sample(timer: Any, call: Any, repeats: int = 1) -> float:
        if isinstance(fault, Exception):
            raise fault
        return fault

    monkeypatch.setattr(timing.CpuTimer, "sample", sample)
    found = _measure_ceilings("cpu")
    assert f"copy: {says}" in found["missing"]
    assert f"f32: {says}" in found["missing"]
    assert set(found) == {"device", "missing", "spec"}


# ---- time


def test_statistics_of_known_samples() -> None:
    got = timing.summarise([5.0, 1.0, 2.0, 4.0, 3.0], clock="monotonic", cold=True)
    assert (got.median_us, got.q1_us, got.q3_us, got.min_us, got.n) == (3.0, 2.0, 4.0, 1.0, 5)
    assert got.noise == pytest.approx(2 / 3)
    one = timing.summarise([7.0], clock="events", cold=False)
    assert (one.median_us, one.q1_us, one.q3_us, one.noise) == (7.0, 7.0, 7.0, 0.0)
    with pytest.raises(ValueError, match="no samples"):
        timing.summarise([], clock="events", cold=False)


def test_outliers_stay() -> None:
    got = timing.summarise([1.0] * 9 + [100.0], clock="events", cold=True)
    assert max(got.samples_us) == 100.0
    assert got.n == 10


class Instant(timing.Timer):
    """A timer without a clock: what a call returns is its time."""

    clock = "monotonic"
    cache_bytes = 0

    def __init__(self) -> None:
        self.events: list[str] = []

    def flush(self) -> None:
        self.events.append("flush")

    def sample(self, call: Any, repeats: int = 1) -> float:
        return call()


def test_rounds_interleave_in_a_seeded_order() -> None:
    def orders(seed: int) -> list[list[str]]:
        timer, rounds = Instant(), {}
        names = {n: (lambda n=n: float(ord(n))) for n in "abcd"}

        def rotate(name: str, round_: int) -> None:
            rounds.setdefault(round_, []).append(name)
            timer.events.append("rotate")

        found = timing.time_interleaved(
            names, "cpu", budget_s=60, max_rounds=12, rotate=rotate, seed=seed, timer=timer,
            target=None, warm=False,
        )  # fmt: skip
        assert all(found[n].samples_us == [float(ord(n))] * 12 for n in names)
        assert timer.events == ["rotate", "flush"] * 48
        return list(rounds.values())

    first = orders(1)
    assert all(sorted(r) == list("abcd") for r in first)
    assert len({tuple(r) for r in first}) > 3
    assert first == orders(1)
    assert first != orders(2)


class Simulated(Instant):
    """Its own clock, which goes on by what each call is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_s = 0.0
        monkeypatch.setattr(timing, "_now", lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(_guard, "restore", lambda: None)  # it would put the real clock back

    def sample(self, call: Any, repeats: int = 1) -> float:
        begin = self.now_s
        for _ in range(repeats):
            self.now_s += call()
        return (self.now_s - begin) * 1e6 / repeats


def test_budget_is_kept_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that no busy machine holds up."""
    timer = Simulated(monkeypatch)
    found = timing.time_interleaved(
        {"slow": lambda: 0.02, "fast": lambda: 0.001}, "cpu", budget_s=0.5, timer=timer,
        target=None, warm=False,
    )  # fmt: skip
    assert 0.4 <= timer.now_s < 0.45  # all but the share of warm samples, and a call for each
    slow, fast = found["slow"], found["fast"]
    assert (slow.median_us, fast.median_us) == pytest.approx((20_000, 1000))
    assert fast.n > 100 > slow.n >= 5


def test_a_call_longer_than_the_budget_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_GRACE_S", 0.0)
    found = timing.time_interleaved({"a": lambda: time.sleep(0.05)}, "cpu", budget_s=0.01)
    assert found["a"].n == 1


def test_short_calls_are_repeated_and_said_to_be_warm() -> None:
    found = timing.time_interleaved({"a": lambda: None}, "cpu", budget_s=60, max_rounds=10)
    assert not found["a"].cold
    assert 0 < found["a"].median_us < 20


def test_a_replaced_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    assert timing.CpuTimer().sample(lambda: time.sleep(0.002)) > 1000


def test_the_flush_writes_twice_the_cache() -> None:
    """Held by bytes, not by time: on a shared machine a neighbour's load decides which of two times
    is larger."""
    timer = timing.CpuTimer()
    assert timer.cache_bytes > 0
    before = timer._other.clone()
    timer.flush()
    changed = int((timer._other != before).sum()) * timer._other.element_size()
    assert changed >= 2 * timer.cache_bytes


def test_no_timer_for_other_devices() -> None:
    with pytest.raises(ValueError, match="no timer"):
        timing.timer_for("meta")


def test_a_case_without_time_left_says_so() -> None:
    record = one_run("attention", cases=["tiny", "dim-1"], budget_s=0.0, providers=["reference"])
    assert {r["skipped"] for r in record["rows"]} == {"the time budget ended before this case"}


def test_a_short_budget_leaves_no_op_out() -> None:
    todo = bench._todo(None, None, None, "bench")
    turns = bench._across(todo)
    assert [op for op, _ in turns[: len(OPS)]] == list(OPS)
    assert sorted(map(str, turns)) == sorted(map(str, todo))
    ops, cases = [get_op("attention"), get_op("quantize_fp8")], ["tiny", "decode", "one"]
    rows = bench.run(
        ops=ops, cases=cases, providers=["reference"], device="cpu", budget_s=0.0, peers=False
    )["rows"]
    assert [r["op"] for r in rows] == sorted(r["op"] for r in rows)


def test_progress_counts_to_its_total() -> None:
    seen: list[tuple[str, int, int]] = []
    one_run("attention", progress=lambda *step: seen.append(step), providers=["reference"])
    assert [done for _, done, _ in seen] == [0, 1, 2, 3]
    assert {total for *_, total in seen} == {3}


@pytest.mark.parametrize(
    ("options", "match"),
    [({"ops": ["nope"]}, "unknown op"), ({"cases": ["nope"]}, "unknown case"),
     ({"providers": ["nope"]}, "unknown provider")],
)  # fmt: skip
def test_unknown_names_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        bench.run(**{"ops": ["attention"], "device": "cpu", **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        bench.run(ops=["attention"], device="cuda")
    assert gpu.run(tmp_path / "out", budget_s=1.0) == 3
    assert "NVIDIA GPU" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


# ---- files


def test_records_of_one_session_are_joined_with_what_they_spent() -> None:
    def part(op: str, lost: str | None) -> dict[str, Any]:
        return {"options": {"budget_s": 2.0, "seconds": {"timed": 1.5}, "lost": lost, "seed": 0},
                "rows": [{"op": op}]}  # fmt: skip

    made = record_file.joined([part("a", None), part("b", "after b")])
    assert made["options"] == {
        "budget_s": 4.0, "seconds": {"timed": 3.0}, "lost": "after b", "seed": 0,
    }  # fmt: skip
    assert [row["op"] for row in made["rows"]] == ["a", "b"]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "measure", lambda device: dict(CEILINGS))
        patch.setattr(bench, "time_interleaved", _few_rounds)
        return one_run("attention", providers=["reference"])


def test_round_trip(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    bench.save(record, path)
    assert bench.load(path) == json.loads(path.read_text()) == record
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_a_failed_save_leaves_the_old_file(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    bench.save(record, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        bench.save({**record, "rows": [{"sol": float("nan")}]}, path)
    assert path.read_bytes() == before


def test_truncated_and_foreign_files_are_refused(record: dict[str, Any], tmp_path: Path) -> None:
    whole = json.dumps(record)
    no_field, timed_failure, text = (copy.deepcopy(record) for _ in range(3))
    del no_field["rows"][0]["unit"]
    timed_failure["rows"][0]["failure"] = "wrong"
    text["rows"][0]["median_us"] = "fast"
    bad = {
        "cut short": whole[: len(whole) // 2], "not JSON": "", "not a benchmark record": "[1]",
        "not a benchmark": '{"benchmarks": []}',
        "has schema 9": json.dumps({**record, "schema": 9}),
        "lacks 'rows'": json.dumps({k: v for k, v in record.items() if k != "rows"}),
        r"rows\[0\] lacks 'unit'": json.dumps(no_field),
        r"rows\[0\] has a time": json.dumps(timed_failure),
        r"rows\[0\].median_us is 'fast'": json.dumps(text),
    }  # fmt: skip
    path = tmp_path / "record.json"
    for match, content in bad.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=match):
            bench.load(path)
    with pytest.raises(ValueError, match="can't be read"):
        bench.load(tmp_path / "none.json")


def test_table_has_a_line_a_row(record: dict[str, Any]) -> None:
    lines = bench.table(record)
    assert len(lines) == len(record["rows"])
    assert all(len(line) == len(bench.COLUMNS) for line in lines)


# ---- the environment


def test_the_stamp_is_json_and_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMILLS_TEST_SECRET", "hush-3f9a")
    found = env.stamp("cpu")
    text = json.dumps(found)
    assert "hush-3f9a" not in text
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text.replace(str(env.ROOT), "")
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text
    for name in ("time", "package", "git", "python", "torch", "triton", "numpy", "os",
                 "kernel", "cpu", "memory_gib", "gpus", "cuda_driver", "nvcc", "extension",
                 "missing"):  # fmt: skip
        assert name in found


def test_the_stamp_survives_a_bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("broken driver\nwith a traceback")

    for name in ("_output", "_torch", "_cpu_model", "_torch_gpus", "last_level_cache", "_os_name"):
        monkeypatch.setattr(env, name, fails)
    found = env.stamp()
    assert found["torch"] is None
    assert found["gpus"] == []
    assert "torch: broken driver" in found["missing"]


def test_nvidia_smi_with_absent_values() -> None:
    fields = ["name", "power.limit", "ecc.mode.current", "clocks.max.sm", "mig.mode.current"]
    fields += ["clocks.applications.graphics", "driver_version"]
    line = "NVIDIA H200, 700.00, [N/A], 1980, [Not Supported], [It is deprecated], 590.10"
    (row,) = env.parse_smi(line, fields)
    assert row == {
        "name": "NVIDIA H200", "power_limit_w": 700.0, "ecc": None, "clock_max_sm_mhz": 1980,
        "mig": None, "clock_application_sm_mhz": None, "driver": "590.10",
    }  # fmt: skip


def test_an_old_nvidia_smi_is_asked_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def query(fields: list[str]) -> str:
        if "pcie.link.gen.max" in fields:
            raise RuntimeError('Field "pcie.link.gen.max" is not a valid field to query.')
        return "\n".join(", ".join(f"{f}-{i}" for f in fields) for i in range(2))

    monkeypatch.setattr(env, "_query", query)
    first, second = env.smi()
    assert first["uuid"] == "uuid-0"
    assert second["driver"] == "driver_version-1"
    assert first["pcie_gen_max"] is None


def test_versions_are_read_without_an_import() -> None:
    code = (
        "import sys; from aimills_kernels.harness import env; env.stamp();"
        "assert not {'triton', 'cupy', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# ---- overhead


def test_overhead_is_measured_and_undone() -> None:
    before = {op.name: op.values for op in OPS}
    found = overhead.measure("cpu", rounds=3)
    assert found["ops"].keys() == {op.name for op in OPS}
    figures = found["ops"]["attention"]
    # The public call's short way may be quicker than the dispatcher's way to a no-op.
    assert all(0 < figures[name] < 1000 for name in ("noop_us", "public_us"))
    assert {op.name: op.values for op in OPS} == before
    args = get_op("attention").make_inputs(get_op("attention").case("tiny"), "cpu", 0)
    import aimills_kernels

    out = aimills_kernels.attention(*args[:3])
    assert bool(torch.isfinite(out).all())
    assert bool((out != 0).any())


def test_the_tool_of_overheads_holds_every_matmul_beside_its_no_op() -> None:
    found = measure_overheads.public_costs("matmul", rounds=2)
    assert found.keys() == {op.name for op in OPS if "matmul" in op.name}
    assert all(row["noop_us"] > 0 and row["public_us"] > 0 for row in found.values())


@pytest.mark.parametrize("op", OPS, ids=str)
def test_flags_are_checked_only_where_they_are_no_bools(
    op: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check of two is a tenth of what a call may cost; that they are bools, `type` tells."""
    call = overhead.public_call(op, op.make_inputs(op.case("tiny").on("cpu"), "cpu", 0))
    assert call is not None
    for name, module in list(sys.modules.items()):
        if name.startswith("aimills_kernels.ops.") and hasattr(module, "check_bools"):
            monkeypatch.setattr(module, "check_bools", lambda op, **_: pytest.fail(f"{op}: asked"))
    call()


def test_the_short_way_is_taken_by_plain_calls_only() -> None:
    """What watches ops must see `aimills::attention`; an ordinary call need not pay for that."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.profiler import profile

    import aimills_kernels

    q = torch.randn(1, 4, 2, 16)

    def call(x: torch.Tensor) -> torch.Tensor:
        return aimills_kernels.attention(x, x, x)

    for before_dispatch in (False, True):
        graph = make_fx(call, tracing_mode="real", pre_dispatch=before_dispatch)(q).graph
        assert "aimills.attention.default" in {str(n.target) for n in graph.nodes}
    with profile() as seen:
        call(q)
    assert "aimills::attention" in {e.key for e in seen.key_averages()}
    assert call(q.to("meta")).device.type == "meta"
    assert call(q.clone().requires_grad_()).requires_grad
    assert torch.equal(torch.vmap(call)(q[None])[0], call(q))
    assert torch.equal(
        aimills_kernels.attention(q, q, q, scale=1),
        aimills_kernels.attention(q, q, q, scale=1.0),
    )  # an int goes through the schema, which makes it a float
