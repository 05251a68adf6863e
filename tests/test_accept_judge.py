"""The judge: each rule turns red at its own fault, and nothing that is unknown passes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

from aimills_kernels.accept import evidence
from aimills_kernels.accept.criteria import Criteria, load
from aimills_kernels.accept.evidence import Pod, Rank
from aimills_kernels.accept.findings import FAIL, PASS, UNKNOWN, WARN, Finding, code_of
from aimills_kernels.accept.judge import judge
from aimills_kernels.accept.judging import ranks
from aimills_kernels.accept.judging.view import View
from aimills_kernels.accept.message_sizes import IN_ALL
from aimills_kernels.accept.simulate import layout, simulate

Entry = dict[str, Any]
Change = Callable[[list[Entry]], Any]
H200 = load("h200")


@cache
def _made(name: str, profile: str) -> bytes:
    found = simulate(layout(name), profile=profile)
    return pickle.dumps([list(rank.entries) for rank in found.ranks])


def ranks_of(name: str = "h200x4", profile: str = "quick") -> list[list[Entry]]:
    """To be changed at will."""
    return pickle.loads(_made(name, profile))


def pod_of(ranks: list[list[Entry]]) -> Pod:
    return evidence.pod([Rank(tuple(entries)) for entries in ranks])


def judged(ranks: list[list[Entry]], criteria: Criteria = H200) -> list[Finding]:
    return judge(pod_of(ranks), criteria)


def measured(entries: list[Entry], metric: str) -> Entry:
    return next(e for e in entries if e["kind"] == "measure" and e["metric"] == metric)


def set_to(metric: str, value: Any) -> Change:
    def change(entries: list[Entry]) -> None:
        measured(entries, metric)["value"] = value

    return change


def set_at(metric: str, size: int, value: Any) -> Change:
    def change(entries: list[Entry]) -> None:
        measured(entries, metric)["detail"]["by_size"][str(size)] = value

    return change


def times(metric: str, factor: float) -> Change:
    def change(entries: list[Entry]) -> None:
        measured(entries, metric)["value"] *= factor

    return change


def without(metric: str) -> Change:
    return lambda entries: entries.remove(measured(entries, metric))


def stage_end(name: str, status: str) -> Change:
    def change(entries: list[Entry]) -> None:
        end = next(e for e in entries if e["kind"] == "stage" and e["name"] == name
                   and e["state"] == "end")  # fmt: skip
        end |= {"status": status, "failure": "it says why"}

    return change


def added(**entry: Any) -> Change:
    return lambda entries: entries.insert(-1, {**entry, "stage": entry.get("stage", "sdc")})


def changed(change: Change, rank: int = 1, name: str = "h200x4") -> list[Finding]:
    ranks = ranks_of(name)
    change(ranks[rank])
    return judged(ranks)


def bad(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(f.rule, f.status, f.where) for f in findings if f.status in (FAIL, UNKNOWN)]


def test_a_healthy_pod_is_accepted_with_every_rule_told() -> None:
    findings = judged(ranks_of())
    assert code_of(findings) == 0
    assert bad(findings) == []
    told = {f.rule for f in findings}
    due = {r.id for r in H200.rules if r.gpus is None or r.applies_to(4)}
    assert due <= told
    for finding in findings:
        if finding.rule == "gemm.bf16.floor":
            assert finding.threshold == pytest.approx(0.9 * 730e12)
            assert finding.measured > finding.threshold
            assert finding.unit == "FLOP/s"
            assert "gpu-fryer" in str(finding.source)
            assert "TFLOP/s" in finding.text


HERE = "node-0 cuda:1"


@pytest.mark.parametrize(
    ("change", "rule", "status"),
    [
        (times("gemm.bf16", 0.85), "gemm.bf16.floor", FAIL),
        (times("memory.copy", 0.5), "memory.copy.floor", FAIL),
        (times("link.h2d", 0.5), "link.h2d.floor", FAIL),
        (times("collective.all_reduce", 0.8), "collective.all-reduce.4", FAIL),
        (times("memory.copy_hot", 0.85), "memory.hot", FAIL),
        (times("work.train", 0.85), "outlier.work.train", FAIL),
        (set_to("ecc.uncorrected", 1), "health.ecc-uncorrected", FAIL),
        (set_to("ecc.enabled", 0), "health.ecc", FAIL),
        (set_to("remap.pending", 1), "health.remap-pending", FAIL),
        (set_to("remap.failed", 1), "health.remap-failed", FAIL),
        (set_to("xid.count", 1), "health.xid", FAIL),
        (set_to("burn.xid", 1), "burn.xid", FAIL),
        (set_to("work.wrong", 1), "work.wrong", FAIL),
        (set_to("pcie.generation", 4), "health.pcie-generation", FAIL),
        (set_to("pcie.width", 8), "health.pcie-width", FAIL),
        (set_to("nvlink.active", 17), "health.nvlink", FAIL),
        (set_to("mig.enabled", 1), "health.mig", FAIL),
        (set_to("gpu.driver", "570.1"), "inventory.driver", FAIL),
        (set_to("node.gpus", 7), "inventory.gpus", FAIL),
        (set_to("power.limit", 600), "inventory.power-limit", FAIL),
        (set_to("memory.wrong", 1), "memory.wrong", FAIL),
        (set_to("gemm.wrong", 1), "gemm.wrong", FAIL),
        (set_to("link.wrong", 1), "link.wrong", FAIL),
        (set_to("collective.wrong", 1), "collective.wrong", FAIL),
        (set_to("sdc.differing", 1), "sdc.differing", FAIL),
        (set_to("sdc.repeats", 0), "sdc.repeats", FAIL),
        (set_to("burn.temperature", 96.0), "burn.temperature", FAIL),
        (set_to("throttle.hw_slowdown", 0.02), "throttle.hw-slowdown", FAIL),
        (set_to("throttle.hw_thermal_slowdown", 0.02), "throttle.hw-thermal", FAIL),
        (set_to("throttle.hw_power_brake_slowdown", 1.0), "throttle.power-brake", FAIL),
        (set_to("throttle.sw_thermal_slowdown", 0.1), "throttle.sw-thermal", FAIL),
        (set_to("gemm.bf16", "nan"), "gemm.bf16.floor", FAIL),
        (set_to("gemm.bf16", None), "gemm.bf16.floor", UNKNOWN),
        (set_to("gemm.int8", "nan"), "physics.finite", FAIL),
        (set_to("work.decode", 0.0), "physics.work", FAIL),
        (set_to("memory.read", 9e12), "physics.peak", UNKNOWN),
        (set_at("collective.all_reduce", IN_ALL, 90e12), "physics.peak", UNKNOWN),
        (set_at("collective.all_gather", IN_ALL, 0.0), "physics.work", FAIL),
        (set_at("collective.all_to_all", IN_ALL, "nan"), "physics.finite", FAIL),
        (without("ecc.uncorrected"), "health.ecc-uncorrected", UNKNOWN),
        (without("gemm.bf16"), "gemm.bf16.floor", UNKNOWN),
        (without("memory.copy"), "memory.hot", UNKNOWN),
        (without("gpu.driver"), "inventory.driver", UNKNOWN),
        (without("throttle.hw_power_brake_slowdown"), "throttle.power-brake", UNKNOWN),
        (without("collective.all_reduce"), "collective.all-reduce.4", UNKNOWN),
        (without("sdc.repeats"), "sdc.repeats", UNKNOWN),
        (stage_end("memory", "wrong"), "stage.memory", FAIL),
        (stage_end("memory", "failed"), "stage.memory", UNKNOWN),
        (stage_end("memory", "not run"), "stage.memory", UNKNOWN),
        (added(kind="check", op="attention", case="x", provider="p", status="wrong",
               failures=["off"]), "check.wrong", FAIL),
        (added(kind="bench", record={"rows": [{"op": "o", "case": "c", "provider": "p",
               "failure": "wrong"}]}), "bench.wrong", FAIL),
        (added(kind="not_run", what="a check", reason="no package", gap=True), "gap.sdc", UNKNOWN),
        (added(kind="event", name="xid", text="the driver reported XID 79"), "event.xid", FAIL),
        (added(kind="event", name="sdc", text="bit 3 differs"), "event.sdc", FAIL),
        (added(kind="event", name="telemetry", text="it ended"), "event.telemetry", UNKNOWN),
    ],
)  # fmt: skip
def test_each_fault_is_found_where_it_is(change: Change, rule: str, status: str) -> None:
    found = bad(changed(change))
    assert (rule, status, HERE) in found
    assert all(where in (HERE, "node-0", "pod") for _, _, where in found)


def test_what_is_not_needed_changes_nothing() -> None:
    for change in (
        added(kind="not_run", what="the CPU", reason="it is none", gap=False),
        added(kind="event", name="counter", text="a counter can't be read"),
        stage_end("shapes", "excluded"),
        set_to("throttle.sw_power_cap", 1.0),
        times("work.train", 0.94),
    ):
        assert code_of(changed(change)) == 0


def test_warnings_do_not_reject() -> None:
    findings = changed(times("work.train", 0.93))
    assert ("outlier.work.train", WARN) in {(f.rule, f.status) for f in findings}
    assert code_of(findings) == 0
    findings = changed(set_to("gpu.vbios", "other"))
    assert ("inventory.vbios", WARN) in {(f.rule, f.status) for f in findings}


def test_each_throttle_bit_counts_on_its_own() -> None:
    """A peer looks for 0x8 or 0x40 alone, and takes 0x48 for no throttling."""
    for mask, hit in ((0x48, {"hw_slowdown", "hw_thermal_slowdown"}), (0x4, set()),
                      (0x80, {"hw_power_brake_slowdown"}), (0x4C, {"hw_slowdown",
                      "hw_thermal_slowdown"})):  # fmt: skip

        def change(entries: list[Entry], mask: int = mask) -> None:
            for entry in entries:
                if entry["kind"] == "sample":
                    entry["values"]["reasons"] = mask

        found = [f for f in changed(change) if f.rule == "counter.reasons"]
        assert {str(f.metric).removeprefix("throttle.") for f in found} == hit


def test_who_measures_again_until_it_fits_has_not_passed() -> None:
    def again(entries: list[Entry]) -> None:
        slow = copy.deepcopy(measured(entries, "gemm.bf16"))
        slow["value"] *= 0.8
        entries.insert(entries.index(measured(entries, "gemm.bf16")), slow)

    assert ("gemm.bf16.floor", FAIL, HERE) in bad(changed(again))


def test_small_sizes_of_a_collective_may_be_slow() -> None:
    def small(entries: list[Entry]) -> None:
        first = copy.deepcopy(measured(entries, "collective.all_reduce"))
        first["value"] *= 0.1
        first["detail"]["bytes"] = 1 << 20
        entries.insert(entries.index(measured(entries, "collective.all_reduce")), first)

    assert code_of(changed(small)) == 0


def test_collectives_are_judged_by_how_many_take_part() -> None:
    """A table for eight would fail each pod of four."""
    assert code_of(judged(ranks_of("h200x8"))) == 0
    ranks = ranks_of("h200x8")
    for entries in ranks:
        measured(entries, "collective.all_reduce")["value"] = 363e9
    assert "collective.all-reduce.8" in {rule for rule, _, _ in bad(judged(ranks))}


# ---- the pod


def test_two_devices_that_differ_are_both_named() -> None:
    ranks = ranks_of("h200x2")
    times("work.train", 0.8)(ranks[0])
    found = [f for f in judged(ranks) if f.rule == "outlier.work.train"]
    assert [(f.status, f.where) for f in found] == [(FAIL, "node-0 cuda:0 and node-0 cuda:1")]


def test_one_device_is_compared_with_nobody() -> None:
    findings = judged(ranks_of("h200x1"))
    assert code_of(findings) == 0
    assert not any(f.rule.startswith(("outlier", "collective.all")) for f in findings)


def test_a_spread_of_all_hides_no_device_that_is_far_below() -> None:
    ranks = ranks_of("h200x8")
    for place, entries in enumerate(ranks):
        measured(entries, "work.train")["value"] = 40e3 * (1 + 0.05 * (place - 4))
    found = {f.where: f.status for f in judged(ranks) if f.rule == "outlier.work.train"}
    assert found["node-0 cuda:0"] == FAIL
    assert found["node-0 cuda:7"] == PASS


def flipped(entries: list[Entry], text: str = "0" * 64) -> None:
    next(e for e in entries if e["kind"] == "checksum")["digest"] = text


def test_the_majority_names_the_device_with_other_bits() -> None:
    found = [f for f in changed(flipped) if f.rule == "sdc.checksum" and f.status == FAIL]
    assert [f.where for f in found] == [HERE]
    assert "3 of 4" in found[0].text


def test_without_a_majority_all_are_named() -> None:
    ranks = ranks_of("h200x2")
    flipped(ranks[0])
    found = [f for f in judged(ranks) if f.rule == "sdc.checksum" and f.status == FAIL]
    assert len(found) == 2
    ranks = ranks_of("h200x4")
    flipped(ranks[0])
    flipped(ranks[1])
    found = [f for f in judged(ranks) if f.rule == "sdc.checksum" and f.status == FAIL]
    assert len(found) == 4


def test_a_checksum_that_is_missing_is_unknown() -> None:
    def drop(entries: list[Entry]) -> None:
        entries.remove(next(e for e in entries if e["kind"] == "checksum"))

    assert bad(changed(drop)) == [("sdc.checksum", UNKNOWN, HERE)]


def test_other_drivers_may_make_other_bits() -> None:
    def other(entries: list[Entry]) -> None:
        flipped(entries)
        set_to("gpu.driver", "570.1")(entries)

    assert not any(f.rule == "sdc.checksum" and f.status == FAIL for f in changed(other))


def test_another_model_among_the_devices_is_named() -> None:
    def other(entries: list[Entry]) -> None:
        entries[0]["sku"] = "NVIDIA H100 80GB HBM3"

    assert ("device.model", FAIL, HERE) in bad(changed(other))


def test_an_unknown_gpu_is_measured_and_never_accepted() -> None:
    ranks = ranks_of()
    for entries in ranks:
        entries[0]["sku"] = "NVIDIA X900"
    findings = judged(ranks, load("unknown-gpu"))
    assert code_of(findings) == 2
    assert {rule for rule, _, _ in bad(findings)} == {"device.model", "collective.all_reduce.rule"}
    set_to("ecc.uncorrected", 1)(ranks[0])
    assert code_of(judged(ranks, load("unknown-gpu"))) == 1


def test_a_cpu_is_marked_and_judged_by_right_and_wrong_alone() -> None:
    ranks = ranks_of("cpu")
    findings = judged(ranks, load("cpu"))
    assert code_of(findings) == 0
    assert any("CPU, not pod hardware" in f.text for f in findings)
    times("gemm.f32", 0.001)(ranks[0])
    assert code_of(judged(ranks, load("cpu"))) == 0
    set_to("sdc.differing", 1)(ranks[0])
    assert code_of(judged(ranks, load("cpu"))) == 1


def test_criteria_of_a_cpu_pass_no_gpu() -> None:
    found = judged(ranks_of(), load("cpu"))
    assert code_of(found) == 1
    assert {f.where for f in found if f.rule == "device.model"} == {
        f"node-0 cuda:{n}" for n in range(4)
    }


def one_gpu_in_sight(ranks: list[list[Entry]]) -> list[list[Entry]]:
    """As a launcher starts them that lets each rank see its own GPU alone."""
    for entries in ranks:
        entries[0]["device"] = "cuda:0"
    return ranks


def test_devices_of_one_name_are_told_apart() -> None:
    ranks = one_gpu_in_sight(ranks_of())
    assert code_of(judged(ranks)) == 0
    times("work.train", 0.85)(ranks[2])
    flipped(ranks[3])
    assert [(r, w) for r, s, w in bad(judged(ranks)) if s == FAIL] == [
        ("outlier.work.train", "node-0 cuda:0 (rank 2)"),
        ("sdc.checksum", "node-0 cuda:0 (rank 3)"),
    ]


def test_a_rule_of_one_node_says_nothing_of_two() -> None:
    """Eight GPUs of one node, and eight of two, are not the same all-reduce."""
    name = "h200x4*2"
    found = judged(ranks_of(name))
    assert bad(found) == [("collective.all_reduce.rule", UNKNOWN, "pod")]
    assert "gpus = 8 and nodes = 2" in found[0].text
    rule = next(r for r in H200.rules if r.id == "collective.all-reduce.8")
    both = dataclasses.replace(H200, rules=(*H200.rules, dataclasses.replace(rule, nodes=(2, 2))))
    ranks = ranks_of(name)
    for entries in ranks:
        measured(entries, "collective.all_reduce")["value"] = 400e9
    assert {rule for rule, _, _ in bad(judged(ranks, both))} == {"collective.all-reduce.8"}
    for entries in ranks:
        without("collective.all_reduce")(entries)
    assert {(r, s) for r, s, _ in bad(judged(ranks, both))} == {
        ("collective.all-reduce.8", UNKNOWN)
    }


# ---- the processes


def lost(*gone: int, name: str = "h200x2*3") -> list[tuple[str, str]]:
    """What is said of ranks that left no journal, and of which node."""
    ranks = [entries for rank, entries in enumerate(ranks_of(name)) if rank not in gone]
    found = [f for f in judged(ranks) if f.rule == "rank.missing"]
    assert {f.status for f in found} == {FAIL}
    return [(f.where, f.text) for f in found]


@pytest.mark.parametrize("rank", range(6))
def test_a_missing_rank_fails_with_its_node(rank: int) -> None:
    """Its neighbour may be the last rank of another node."""
    node = f"node-{rank // 2}"
    assert lost(rank) == [(node, f"rank {rank} of 6 ({node}) left no journal")]


def test_of_a_node_that_is_all_missing_only_the_number_is_known() -> None:
    said = "node number 1, name unknown"
    assert lost(2, 3) == [("pod", f"rank {n} of 6 ({said}) left no journal") for n in (2, 3)]


def test_where_ranks_are_dealt_out_in_turn_no_node_is_guessed() -> None:
    ranks = ranks_of("h200x2*3")
    for rank, entries in enumerate(ranks):
        entries[0] |= {"node": f"node-{rank % 3}", "local_rank": rank // 3}
    del ranks[2]
    found = [f for f in judged(ranks) if f.rule == "rank.missing"]
    assert [(f.where, "its node is unknown" in f.text) for f in found] == [("pod", True)]


@pytest.mark.parametrize(("name", "tested"), [("h200x4", 4), ("h200x1", 1)])
def test_a_node_of_which_some_gpus_were_not_tested_is_not_accepted(name: str, tested: int) -> None:
    """Each of its ranks is well, and NVML counts more GPUs than they use."""
    ranks = ranks_of(name)
    for entries in ranks:
        measured(entries, "node.gpus")["value"] = 8
    findings = judged(ranks)
    assert bad(findings) == [("pod.coverage", UNKNOWN, "node-0")]
    assert code_of(findings) == 2
    found = next(f for f in findings if f.rule == "pod.coverage")
    assert found.text.startswith(f"node-0 has 8 GPUs, of which {tested} were tested: a run of some")
    assert (found.measured, found.threshold) == (tested, 8)


def test_a_process_without_an_end_has_died() -> None:
    found = bad(changed(lambda entries: entries.pop()))
    assert found == [("rank.died", FAIL, HERE)]


def test_a_stopped_run_is_incomplete() -> None:
    def stop(entries: list[Entry]) -> None:
        entries[-1] |= {"state": "stopped", "reason": "SIGTERM"}

    assert bad(changed(stop)) == [("rank.stopped", UNKNOWN, HERE)]


def test_a_resumed_run_says_so_and_may_pass() -> None:
    findings = changed(lambda entries: entries.insert(3, dict(entries[0], resumed=True)))
    assert code_of(findings) == 0
    assert ("rank.resumed", WARN, HERE) in {(f.rule, f.status, f.where) for f in findings}


def test_a_process_that_dies_again_and_again_is_no_pass() -> None:
    def change(entries: list[Entry]) -> None:
        again = dict(entries[0], resumed=True)
        entries[1:1] = [again, dict(again)]

    findings = changed(change)
    assert code_of(findings) == 2
    (finding,) = [f for f in findings if f.rule == "rank.deaths"]
    assert "died 2 times" in finding.text


def resumed(**before: Any) -> list[Finding]:
    """A first run that said this and went no further, and then a whole one."""

    def change(entries: list[Entry]) -> None:
        whole = [dict(e) for e in entries]
        entries[:] = [whole[0], before, dict(whole[0], resumed=True), *whole[1:]]

    return changed(change)


def test_a_rank_that_was_missed_once_warns_and_a_bad_link_fails() -> None:
    assert code_of(resumed(kind="event", name="stopped", stage="burn", text="cut short")) == 0
    missed = resumed(kind="event", name="missing", stage="", text="rank 2: no report")
    assert code_of(missed) == 0
    (finding,) = [f for f in missed if f.rule == "event.missing"]
    assert finding.status == WARN
    assert "rank 2: no report; that was before" in finding.text
    for name in ("timeout", "hang", "xid", "sdc"):
        assert code_of(resumed(kind="event", name=name, stage="", text="bad")) == 1


def test_a_gap_is_closed_by_the_stage_that_ran_later() -> None:
    gap = {"kind": "not_run", "name": "x", "what": "x", "reason": "lost", "gap": True}
    assert code_of(resumed(**gap, stage="interconnect")) == 0
    assert code_of(resumed(**gap, stage="power-sweep")) == 2


def test_journals_of_two_runs_are_no_pod() -> None:
    for key, value in (("run", "other"), ("profile", "gate"), ("simulated", False), ("world", 9)):

        def change(entries: list[Entry], key: str = key, value: Any = value) -> None:
            entries[0][key] = value

        assert (f"run.{key}", FAIL, "pod") in bad(changed(change))


def test_two_journals_of_one_rank_are_an_error() -> None:
    ranks = ranks_of()
    ranks.append(copy.deepcopy(ranks[2]))
    assert ("rank.twice", FAIL, "pod") in bad(judged(ranks))


@pytest.mark.parametrize(("by", "found"), [(2.0, True), (-2.0, True), (0.4, False)])
def test_a_clock_that_jumps_is_found(by: float, found: bool) -> None:
    def jump(entries: list[Entry]) -> None:
        for entry in entries[len(entries) // 2 :]:
            moved = datetime.fromisoformat(entry["time"]) + timedelta(seconds=by)
            entry["time"] = moved.isoformat(timespec="milliseconds")

    assert (("clock.jump", UNKNOWN, HERE) in bad(changed(jump))) is found


def test_a_counter_that_goes_back_was_lost() -> None:
    def back(entries: list[Entry]) -> None:
        samples = [e for e in entries if e["kind"] == "sample"]
        samples[-1]["values"]["energy_mj"] = 1

    assert bad(changed(back)) == [("counter.energy", UNKNOWN, HERE)]


def test_nothing_at_all_is_not_accepted() -> None:
    assert code_of(judge(Pod((), 1), H200)) == 1  # rank 0 is missing
    assert code_of(judge(Pod((), 0), H200)) == 2
    assert code_of(judged([ranks_of("h200x1")[0][:1]])) == 1
    only = [e for e in ranks_of("h200x1")[0] if e["kind"] in ("begin", "end")]
    assert code_of(judged([only])) == 2


def test_a_rule_of_a_longer_profile_waits_for_it() -> None:
    later = dataclasses.replace(
        H200,
        rules=tuple(
            dataclasses.replace(r, since="full") if r.metric == "burn.rate" else r
            for r in H200.rules
        ),
    )
    for profile, status in (("gate", set()), ("full", {UNKNOWN})):
        ranks = ranks_of(profile=profile)
        for entries in ranks:
            without("burn.rate")(entries)
        found = judged(ranks, later)
        assert {f.status for f in found if f.rule == "burn.rate.floor"} == status


def test_a_reason_without_a_name_is_told() -> None:
    view = View(Rank((
        {"kind": "begin", "node": "n", "device": "cuda:0"},
        {"kind": "sample", "stage": "burn", "values": {"reasons": 0x4}},
        {"kind": "sample", "stage": "burn", "values": {"reasons": 0x1004}},
    )))  # fmt: skip
    (found,) = ranks._reasons(view)
    assert (found.rule, found.status, found.where) == ("counter.reasons", UNKNOWN, "n cuda:0")
    assert "1 of the burn's 2 samples" in found.text
    assert "0x1000" in found.text
