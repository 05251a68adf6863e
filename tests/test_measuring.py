"""How times are taken: a GPU that isn't there, kernels that cheat, clocks that fail."""

from __future__ import annotations

import functools
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case, Op
from aimills_kernels.harness import (
    _guard,
    _reading,
    _rows,
    _timers,
    bench,
    ceilings,
    nvml,
    record,
    timing,
)
from tests import late_faults
from tests.fake_cuda import FakeCuda
from tests.fake_nvml import Library

CEILINGS = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "measure", lambda device: dict(CEILINGS))
    few = functools.partial(timing.time_interleaved, max_rounds=12)
    monkeypatch.setattr(bench, "time_interleaved", few)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """In place of the CPU's timer, one for a GPU that runs kernels as the fake does."""
    fake = FakeCuda()

    def timer_for(device: Any, mode: Any = "stream") -> _timers.Timer:
        return _timers.HostTimer(fake) if mode == "host" else _timers.CudaTimer(fake, mode)

    # The host's clock tells of work after the end: one sample in 10 000 of a busy host seemed so.
    monkeypatch.setattr(_timers, "_TAIL_US", math.inf)
    monkeypatch.setattr(timing, "_WARM_UP_SHARE", 0.01)  # of times of 0, which never settle
    monkeypatch.setattr(bench, "timer_for", timer_for)
    late_faults.device.append(fake)
    yield fake
    late_faults.device.pop()


def one_run(fault: str, case: str = "tiny", **more: Any) -> dict[str, Any]:
    op = late_faults.plant("attention", fault)
    # On a GPU that isn't there the rounds end it, and on a busy host no budget before that.
    budget_s = 60.0 if late_faults.device else 5.0
    options = {"cases": [case], "device": "cpu", "budget_s": budget_s, "peers": False,
               "providers": ["planted", "reference"], **more}  # fmt: skip
    found = bench.run(ops=[op], **options)
    assert record.mistake_in(found, record.RECORD, "") is None
    return found


def rows_of(found: dict[str, Any]) -> tuple[Row, Row]:
    """Those of the planted provider and of the reference."""
    planted, reference = found["rows"]
    assert (planted["provider"], reference["provider"]) == ("planted", "reference")
    return planted, reference


# ---- on a GPU that isn't there


@pytest.mark.parametrize("mode", ["stream", "graph"])
def test_a_kernel_is_timed_by_events_behind_a_spinning_one(cuda: FakeCuda, mode: Any) -> None:
    row, _ = rows_of(one_run("on_its_stream", mode=mode))
    assert row["failure"] is row["skipped"] is None
    assert (row["mode"], row["clock"], row["cold"]) == (mode, "events", True)
    assert row["samples_us"] == [10.0] * row["n"]
    assert row["n"] == 10  # no noise, so it stops at the fewest samples that tell
    assert (row["median_us"], row["low_us"], row["high_us"]) == (10.0, 10.0, 10.0)
    assert row["warm"]["median_us"] == 10.0
    assert row["host_us"] > 0
    assert row["touched_bytes"] > 0
    assert row["flags"] == {}
    assert cuda.spins > row["n"]
    assert (cuda.replays > 0) == (mode == "graph")


def test_host_mode_times_the_host_and_gives_no_share(cuda: FakeCuda) -> None:
    row, _ = rows_of(one_run("on_its_stream", mode="host"))
    assert (row["mode"], row["clock"], row["cold"], row["warm"]) == (
        "host", "monotonic", False, None,
    )  # fmt: skip
    assert row["median_us"] > 0
    assert row["sol"] is row["gbps"] is row["tflops"] is None
    assert bench.table({"rows": [row]})[0][5] == "-"


def test_launches_that_came_too_late_are_flagged_and_kept(cuda: FakeCuda) -> None:
    cuda.slow_host = True
    row, _ = rows_of(one_run("on_its_stream"))
    assert row["flags"]["launch time"] == list(range(row["n"]))
    assert f"{row['n']} of {row['n']} samples hold launch time" in row["suspect"]


@pytest.mark.parametrize(
    ("fault", "mode", "says"),
    [
        ("work_on_a_side_stream", "stream", "a thread that the clock does not see"),
        ("work_on_a_side_stream", "graph", "NaN"),
        ("misses_the_graph", "graph", "NaN"),
    ],
)
def test_work_that_the_clock_misses_is_found(
    cuda: FakeCuda, fault: str, mode: Any, says: str
) -> None:
    row, _ = rows_of(one_run(fault, mode=mode))
    assert says in row["failure"]
    assert row["median_us"] is None


def test_work_left_after_the_end_is_flagged(cuda: FakeCuda, monkeypatch: Any) -> None:
    def slow() -> None:
        time.sleep(0.002)

    timer = _timers.CudaTimer(cuda)
    assert timer.sample(lambda: cuda.launch(lambda: None, 10.0)) == 10.0
    monkeypatch.setattr(_timers, "_TAIL_US", 1000.0)
    timer.sample(lambda: cuda.launch(slow, 10.0, side=True))
    assert _timers.AFTER_ITS_END in timer.flaws


def test_a_lost_device_is_blamed_on_one(cuda: FakeCuda) -> None:
    found = one_run("kills_the_device", cases=["tiny", "dim-1"])
    first, second, *later = found["rows"]
    assert "illegal memory access" in first["failure"]
    assert not first["validated"]
    for row in (second, *later):
        assert row["skipped"] == "cpu can't be used any more, after attention tiny planted"
        assert row["gap"]
        assert row["failure"] is None
    assert found["options"]["lost"] == second["skipped"]


def test_a_device_lost_in_the_checks_is_blamed_on_one(cuda: FakeCuda, monkeypatch: Any) -> None:
    monkeypatch.setattr(bench.OfProvider, "check", lambda *_: cuda.kill())
    first, second = rows_of(one_run("on_its_stream"))
    assert "illegal memory access" in first["failure"]
    assert second["failure"] is None
    assert second["skipped"] == "cpu can't be used any more, after attention tiny planted"


def test_clocks_and_reasons_stand_in_the_row(cuda: FakeCuda, monkeypatch: Any) -> None:
    masks = iter([0x4] * 3 + [0x48] + [0x0] * 10_000)
    counters = nvml.Nvml(Library(reasons=lambda: next(masks)), "gpu")
    monkeypatch.setattr(nvml, "counters_of", lambda device: counters)
    (row,) = one_run("on_its_stream", providers=["planted"])["rows"]
    held = row["telemetry"]
    assert held["reasons_samples"] == [4] * 3 + [0x48] + [0] * (row["n"] - 4)
    assert len(held["sm_mhz_samples"]) == row["n"]
    assert row["flags"] == {
        "sw_power_cap": [0, 1, 2], "hw_slowdown": [3], "hw_thermal_slowdown": [3],
    }  # fmt: skip
    assert held["sm_mhz"] == 1755


def test_what_slowed_warm_samples_is_flagged_too(cuda: FakeCuda, monkeypatch: Any) -> None:
    masks = iter([0x0] * 10 + [0x0, 0x40, 0x80] + [0x0] * 10_000)  # ten cold samples
    counters = nvml.Nvml(Library(reasons=lambda: next(masks)), "gpu")
    monkeypatch.setattr(nvml, "counters_of", lambda device: counters)
    (row,) = one_run("on_its_stream", providers=["planted"])["rows"]
    assert row["flags"] == {}
    assert row["warm"]["flags"] == {
        "hw_thermal_slowdown": [1], "hw_power_brake_slowdown": [2],
    }  # fmt: skip


def test_without_nvml_the_rows_still_run(cuda: FakeCuda, monkeypatch: Any) -> None:
    monkeypatch.setattr(nvml, "counters_of", lambda device: nvml.NoCounters("not installed"))
    row, _ = rows_of(one_run("on_its_stream"))
    assert row["median_us"] == 10.0
    assert row["telemetry"]["missing"] == ["nvml: not installed"]


# ---- energy


def _tagged(fault: str, tag: str = "energy") -> Op:
    op = late_faults.plant("attention", fault)
    from dataclasses import replace

    case = Case("tiny", tags={tag}, **op.case("tiny").dims)
    return replace(op, cases=(case,))


@pytest.mark.parametrize(
    ("asked", "counters", "says"),
    [
        (False, None, "it was not asked for"),
        (True, None, "a CPU has no counter that NVML reads"),
        (True, nvml.NoCounters("not installed"), "nvml: not installed"),
    ],
)
def test_a_tagged_case_without_energy_says_why(
    cuda: FakeCuda, monkeypatch: Any, asked: bool, counters: Any, says: str
) -> None:
    monkeypatch.setattr(nvml, "counters_of", lambda device: counters)
    (row,) = bench.run(ops=[_tagged("on_its_stream")], tag="energy", device="cpu", budget_s=60.0,
                       peers=False, providers=["planted"], with_energy=asked)["rows"]  # fmt: skip
    assert row["energy"] is None
    assert row["energy_missing"] == says
    assert row["median_us"] == 10.0


def test_energy_has_an_end(cuda: FakeCuda, monkeypatch: Any) -> None:
    monkeypatch.setattr(nvml, "counters_of", lambda device: nvml.Nvml(Library(energy=1), "gpu"))
    (row,) = bench.run(
        ops=[_tagged("on_its_stream")], tag="energy", device="cpu", budget_s=60.0, peers=False,
        providers=["planted"], with_energy=True, energy_s=4.9,
    )["rows"]  # fmt: skip
    assert row["energy_missing"] == "the time for energy ended before it"


@pytest.mark.parametrize(
    ("tag", "named"),
    [("energy", None), ("accept", ["attention/tiny"]), ("energy", ["attention/other"])],
)
def test_a_tagged_or_named_case_has_joules(
    cuda: FakeCuda, monkeypatch: Any, tag: str, named: list[str] | None
) -> None:
    from aimills_kernels.harness import energy

    monkeypatch.setattr(energy, "WINDOW_S", 0.02)
    monkeypatch.setattr(energy, "_BATCH_S", 0.001)
    monkeypatch.setattr(energy, "_IDLE_S", 0.0)
    # A counter that steps with the time of the kernels, which no host holds up.
    monkeypatch.setattr(energy, "_now", lambda: cuda.now_us / 1e6)
    counter = Library(energy=lambda: 640 * int(cuda.now_us / 1e3))
    monkeypatch.setattr(nvml, "counters_of", lambda device: nvml.Nvml(counter, "gpu"))
    (row,) = bench.run(
        ops=[_tagged("on_its_stream", tag)], tag=tag, device="cpu", budget_s=60.0, peers=False,
        providers=["planted"], with_energy=True, energy_cases=named,
    )["rows"]  # fmt: skip
    assert row["energy_missing"] is None
    if named == ["attention/other"]:
        assert row["energy"] is None
        return
    assert row["energy"]["joules"] == pytest.approx(640 * 10e-6, rel=0.1)
    assert row["energy"]["watts"] == pytest.approx(640, rel=0.1)
    assert row["validated"]


# ---- bad input


def test_too_little_memory_is_a_gap_and_not_wrong() -> None:
    row, other = rows_of(one_run("out_of_memory"))
    assert row["skipped"] == "the device has too little memory for it"
    assert row["gap"]
    assert row["failure"] is None
    assert other["median_us"] > 0


def test_a_case_that_cannot_be_set_up_leaves_the_others(monkeypatch: Any) -> None:
    stage = bench.Stage

    def fails(op: Op, case: Case, *rest: Any) -> Any:
        if case.name == "tiny":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you")
        return stage(op, case, *rest)

    monkeypatch.setattr(bench, "Stage", fails)
    found = one_run("no_fault", cases=["tiny", "dim-1"], providers=["reference"])
    first, second = found["rows"]
    assert (first["skipped"], first["gap"]) == ("the device has too little memory for it", True)
    assert second["median_us"] > 0


class Scripted(timing.Timer):
    """A timer that shows what it is told to."""

    clock = "monotonic"
    cache_bytes = 0

    def flush(self) -> None: ...

    def sample(self, call: Any, repeats: int = 1) -> float:
        return call()


class Simulated(Scripted):
    """Its own clock, which goes on by what each step of the harness is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_us, self.steps = 0.0, Counter[str]()
        monkeypatch.setattr(timing, "_now", self.read)
        # It would put the real clock back.
        monkeypatch.setattr(_guard, "restore", lambda: self.takes("guard", 1.0))

    def read(self) -> int:
        self.takes("read", 0.0)
        return round(self.now_us * 1e3)

    def takes(self, step: str, us: float) -> None:
        self.steps[step] += 1
        self.now_us += us

    def flush(self) -> None:
        self.takes("flush", 30.0)

    def sample(self, call: Any, repeats: int = 1) -> float:
        self.takes("sample", 4.0)
        begin = self.now_us
        for _ in range(repeats):
            call()
        return (self.now_us - begin) / repeats

    def run(self, names: str, rounds: int) -> list[timing.Timing]:
        found = timing.time_interleaved(
            {name: lambda: self.takes("call", 100.0) for name in names}, "cpu", budget_s=10.0,
            rotate=lambda *_: self.takes("rotate", 2.0), at=lambda name: self.takes("at", 0.5),
            timer=self, target=None, max_rounds=rounds, warm=False,
        )  # fmt: skip
        timings = [t for t in found.values() if isinstance(t, timing.Timing)]
        assert len(timings) == len(names)
        return timings


def test_the_harness_counts_its_own_time_to_the_last_microsecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timer = Simulated(monkeypatch)
    timings, n = timer.run("abc", 20), timer.steps
    seconds = {name: sum(getattr(t, f"{name}_s") for t in timings) for name in bench.SECONDS}
    assert seconds == pytest.approx({
        "timed": n["call"] * 100e-6, "flushed": n["flush"] * 30e-6, "spent": timer.now_us / 1e6,
    })  # fmt: skip
    own = n["sample"] * 4.0 + n["rotate"] * 2.0 + n["at"] * 0.5 + n["guard"]
    assert _reading.own_share(seconds) == pytest.approx(own / (n["call"] * 100.0))


def test_what_is_done_for_a_sample_does_not_grow_with_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By count, since no bound on a time would hold on a busy machine."""
    counts = []
    for rounds in (40, 80):
        timer = Simulated(monkeypatch)
        timer.run("a", rounds)
        counts.append(timer.steps)
    few, many = counts
    assert {step: (many[step] - few[step]) / 40 for step in many} == {
        "at": 1, "rotate": 1, "flush": 1, "sample": 1, "call": 1, "guard": 1, "read": 7,
    }  # fmt: skip


@pytest.mark.parametrize(("calls", "said"), [(1, "1 call had"), (12, "12 calls had")])
def test_a_warm_up_that_did_not_settle_is_told(calls: int, said: str) -> None:
    made = timing.summarise([1.0] * 9, clock="monotonic", cold=True, warmup_calls=calls,
                            settled=False)  # fmt: skip
    (why,) = _rows._suspicions({"sol": None, "sol_spec": None}, made)
    assert why == f"the warm-up of {said} not settled"


def test_the_share_of_the_harness_is_told() -> None:
    seconds = {"timed": 10.0, "flushed": 3.0, "spent": 13.5}
    assert _reading.own_share(seconds) == pytest.approx(0.05)
    assert _reading.own_share_text(seconds) == (
        "the harness's own part: 5.0% of the 10.00 s that were timed; cache flushes aside, which "
        "took 3.00 s"
    )
    assert _reading.own_share({}) is _reading.own_share_text({}) is None


def test_a_clock_that_goes_backwards_ends_one_contestant() -> None:
    steps = iter([1.0] * 12 + [-3.0] * 50)
    found = timing.time_interleaved(
        {"back": lambda: next(steps), "on": lambda: 2.0, "none": lambda: 0.0}, "cpu",
        budget_s=10.0, timer=Scripted(),
    )  # fmt: skip
    assert found["back"] == timing.NoTime("the clock went backwards, by 3 us a call", gap=True)
    assert found["none"] == timing.NoTime(
        "its time is below what the clock can tell", gap=True, ran=True
    )
    assert isinstance(found["on"], timing.Timing)
    assert found["on"].median_us == 2.0


def test_every_sample_is_kept_and_its_flaws_flagged() -> None:
    times = iter([1.0] * 10 + [0.0, 500.0, 1.0, 2.0] * 10)
    found = timing.time_interleaved(
        {"a": lambda: next(times)}, "cpu", budget_s=10.0, max_rounds=20, timer=Scripted(),
        target=None, warm=False,
    )["a"]  # fmt: skip
    assert isinstance(found, timing.Timing)
    assert found.samples_us == [0.0, 500.0, 1.0, 2.0] * 5
    assert found.flags == {timing.NO_TIME_PASSED: [0, 4, 8, 12, 16]}
    assert found.settled


def test_a_warm_up_that_does_not_settle_is_told(monkeypatch: Any) -> None:
    ever = itertools.count()
    found = timing.time_interleaved(
        {"a": lambda: 2.0 ** (next(ever) % 900)}, "cpu", budget_s=0.2, max_rounds=6,
        timer=Scripted(), warm=False,
    )["a"]  # fmt: skip
    assert isinstance(found, timing.Timing)
    assert not found.settled
    assert found.warmup_calls >= 1


def test_noise_keeps_it_going_until_the_time_is_up() -> None:
    drawn = random.Random(0)
    found = timing.time_interleaved(
        {"steady": lambda: 5.0, "shaky": lambda: drawn.uniform(5, 9)}, "cpu", budget_s=10.0,
        max_rounds=60, timer=Scripted(), warm=False,
    )  # fmt: skip
    assert {n: t.n for n, t in found.items() if isinstance(t, timing.Timing)} == {
        "steady": 10, "shaky": 60,
    }  # fmt: skip


def test_what_replaces_a_clock_is_named_and_undone() -> None:
    true, elapsed = time.perf_counter_ns, torch.cuda.Event.elapsed_time
    assert _guard.restore() is None
    row, other = rows_of(one_run("patched_timer"))
    assert row["failure"] == "it replaced time.perf_counter_ns, Event.elapsed_time"
    assert other["median_us"] > 0
    assert time.perf_counter_ns is true
    assert torch.cuda.Event.elapsed_time is elapsed


def test_who_replaced_a_clock_is_blamed_and_no_other() -> None:
    def patches() -> float:
        time.monotonic = lambda: 0.0  # type: ignore[assignment]
        return 1.0

    found = timing.time_interleaved(
        {"good": lambda: 2.0, "patches": patches}, "cpu", budget_s=10.0, timer=Scripted()
    )
    assert found["patches"] == timing.NoTime("it replaced time.monotonic")
    assert isinstance(found["good"], timing.Timing)


def test_the_last_timed_output_is_looked_at() -> None:
    """The checks afterwards call it twice on the same data, and the clock more often."""
    row, _ = rows_of(one_run("skips_what_it_knows_well"))
    assert row["failure"].startswith("the last timed output: out: NaN")
    assert row["median_us"] is None


def _timed(fault: str) -> tuple[bench.Stage, bench.OfProvider]:
    """As they are behind the timed loop."""
    op = late_faults.plant("attention", fault)
    stage = bench.Stage(op, op.case("tiny"), torch.device("cpu"), 0, 1)
    contestant = bench.OfProvider(stage, op.provider("planted"))
    for round_ in range(late_faults.GATE_CALLS + 3):
        contestant.rotate(round_)
        contestant()
    return stage, contestant


def test_a_second_call_on_the_same_data_must_write_too() -> None:
    _, contestant = _timed("skips_the_same_again")
    _, wrong = contestant.check(timing.CpuTimer())
    assert wrong
    assert all(w.startswith("called again on the same data: ") for w in wrong)


def test_what_a_machine_does_to_who_has_just_worked_is_no_reuse(monkeypatch: Any) -> None:
    """Whoever has drawn data is stopped: that has to meet calls on seen data as well."""
    stage, contestant = _timed("no_fault")
    drawn, draw = [False], stage._random

    class Stops(timing.CpuTimer):
        def sample(self, call: Any, repeats: int = 1) -> float:
            stopped, drawn[0] = drawn[0], False
            return super().sample(call, repeats) + 1e6 * stopped

    monkeypatch.setattr(stage, "_random", lambda: (drawn.__setitem__(0, True), draw())[1])
    assert contestant.check(Stops(), known_us=1.0)[1] == []
    _, cheat = _timed("cached_by_data")
    assert cheat.check(timing.CpuTimer(), known_us=1.0)[1][0].startswith("it reuses results: ")


def test_cold_is_claimed_only_where_the_cache_was_overwritten(monkeypatch: Any) -> None:
    class Forgets(timing.CpuTimer):
        def __init__(self) -> None:
            super().__init__()
            self.flushed_bytes = 0

        def repeats(self, median_us: float) -> int:
            return 1

    monkeypatch.setattr(bench, "timer_for", lambda device, mode: Forgets())
    row, _ = rows_of(one_run("no_fault"))
    assert row["cold"] is False
    assert "the caches were not cold: " in row["suspect"]


def test_modes_are_for_a_gpu() -> None:
    with pytest.raises(ValueError, match="mode 'graph' is for a GPU"):
        bench.run(ops=["attention"], device="cpu", mode="graph")


# ---- on a real one


class RealCuda:
    """What `late_faults` asks of a device."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def launch(self, work: Any, us: float, side: bool = False) -> None:
        if not side:
            work()
            return
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(200_000)
            work()

    def capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("fault", "mode", "right"),
    [
        ("on_its_stream", "stream", True),
        ("on_its_stream", "graph", True),
        ("on_its_stream", "host", True),
        ("work_on_a_side_stream", "stream", False),
        ("misses_the_graph", "graph", False),
    ],
)
def test_on_a_gpu(fault: str, mode: Any, right: bool) -> None:
    late_faults.device.append(RealCuda())
    try:
        found = one_run(fault, device="cuda", providers=["planted"], mode=mode)
    finally:
        late_faults.device.pop()
    (row,) = found["rows"]
    assert (row["failure"] is None) == right, row["failure"]
    assert (row["median_us"] is not None) == right
