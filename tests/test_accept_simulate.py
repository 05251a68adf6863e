"""Simulated pods: real journals, healthy ones accepted, and each fault found."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
from pathlib import Path

import pytest

from aimills_kernels.accept import evidence, journal, traces
from aimills_kernels.accept.criteria import Criteria, Rule, choose, load
from aimills_kernels.accept.findings import (
    ACCEPTED,
    FAIL,
    INCOMPLETE,
    PASS,
    REJECTED,
    UNKNOWN,
    WARN,
    code_of,
)
from aimills_kernels.accept.judge import judge
from aimills_kernels.accept.message_sizes import FIGURES, IN_ALL
from aimills_kernels.accept.simulate import FAULTS, MODELS, layout, node, simulate, write
from aimills_kernels.accept.simulate.faults import Conditions, conditions, fault_of
from aimills_kernels.accept.simulate.models import Layout
from aimills_kernels.accept.simulate.node import _FABRIC
from aimills_kernels.accept.simulate.schedule import collective_seconds, expected_seconds
from aimills_kernels.cli import main

NAMES = {
    "slow-gpu", "all-slow", "throttle-0x4", "throttle-0x48", "throttle-0x80", "ecc", "bit-flip",
    "nan", "hot-hbm", "missing-gpu", "dead-rank", "hang", "slow-link", "crash", "clock-jump",
    "lost-counter",
}  # fmt: skip
PODS = ("h200x4", "h100x8", "b200x4", "a100x8", "gb200x4", "l40sx4", "h200x2*3")
MANY = 200
_ALL_REDUCE = "collective.all_reduce"


def code(name: str, fault: str | None, seed: int, profile: str = "quick") -> int:
    own = criteria_of(name)
    made = simulate(layout(name), fault=fault, seed=seed, profile=profile, criteria=own)
    return code_of(judge(made, own))


def criteria_of(name: str) -> Criteria:
    """The shipped ones; with what their operator adds where those have no all-reduce."""
    pod = layout(name)
    found = load(pod.model.criteria)
    known = any(r.metric == _ALL_REDUCE and r.spans(pod.nodes) and r.applies_to(pod.world)
                for r in found.rules)  # fmt: skip
    rate = _FABRIC if pod.nodes > 1 else next(iter(pod.model.all_reduce.values()), 1.0)
    own = Rule("ours", _ALL_REDUCE, "floor", 0.5 * rate, "ours", gpus=(2, None),
               nodes=(pod.nodes, None), size=IN_ALL)  # fmt: skip
    return found if known else dataclasses.replace(found, rules=(*found.rules, own))


def test_an_all_reduce_without_a_figure_needs_a_rule_of_the_operator() -> None:
    for name, needs in (
        ("h200x2*3", True),
        ("gb200x4*2", True),
        ("gb200x4", True),
        ("l40sx4", True),
        ("gb200x1", False),
        ("h200x2", True),
        ("h200x4", False),
    ):
        findings = judge(simulate(layout(name)), load(layout(name).model.criteria))
        assert code_of(findings) == (INCOMPLETE if needs else ACCEPTED)
        unknown = {f.rule for f in findings if f.status == UNKNOWN}
        assert unknown == ({"collective.all_reduce.rule"} if needs else set())


@pytest.mark.parametrize(
    ("size", "profile", "verdict"),
    [(IN_ALL, "gate", ACCEPTED), (IN_ALL, "full", ACCEPTED), (None, "full", ACCEPTED),
     (FIGURES, "full", ACCEPTED), (None, "gate", INCOMPLETE)],
)  # fmt: skip
def test_no_rate_stands_for_another_size(size: int | None, profile: str, verdict: int) -> None:
    """PCIe has no time for 8 GiB in the gate, so a figure of that size is not met there."""
    own = Rule("ours", _ALL_REDUCE, "floor", 9e9, "ours", gpus=(2, None), size=size)
    known = load("l40s")
    criteria = dataclasses.replace(known, rules=(*known.rules, own))
    findings = judge(simulate(layout("l40sx8"), profile=profile, criteria=criteria), criteria)
    assert code_of(findings) == verdict
    unknown = {f.rule for f in findings if f.status == UNKNOWN}
    assert unknown == ({"ours"} if verdict == INCOMPLETE else set())


def test_every_fault_has_its_name() -> None:
    assert set(FAULTS) == NAMES


@pytest.mark.parametrize("name", [*PODS, "cpu"])
@pytest.mark.parametrize("profile", ["gate", "burn-in"])
def test_healthy_pods_are_accepted(name: str, profile: str) -> None:
    assert code(name, None, 1, profile) == ACCEPTED


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_is_found(fault: str) -> None:
    for seed, name in enumerate(("h200x4", "l40sx4", "h200x2*3")):
        assert code(name, fault, seed) == FAULTS[fault].code, (name, seed)


@pytest.mark.parametrize(
    ("word", "rule", "status", "verdict"),
    [
        ("0x0", None, None, ACCEPTED),
        ("0x1", "throttle.idle", WARN, ACCEPTED),
        ("0x2", "throttle.applications-clocks", WARN, ACCEPTED),
        ("0x4", None, None, ACCEPTED),
        ("0x8", "throttle.hw-slowdown", FAIL, REJECTED),
        ("0x10", "throttle.sync-boost", WARN, ACCEPTED),
        ("0x20", "throttle.sw-thermal", FAIL, REJECTED),
        ("0x40", "throttle.hw-thermal", FAIL, REJECTED),
        ("0x80", "throttle.power-brake", FAIL, REJECTED),
        ("0x100", "throttle.display-clock", WARN, ACCEPTED),
        ("0x200", "throttle.board-limit", FAIL, REJECTED),
        ("0x400", "throttle.reliability", WARN, ACCEPTED),
        ("0x800", "counter.reasons", UNKNOWN, INCOMPLETE),
        ("0x8000000000000000", "counter.reasons", UNKNOWN, INCOMPLETE),
    ],
)
def test_each_bit_of_a_word_of_reasons_counts_alone_and_beside_others(
    word: str, rule: str | None, status: str | None, verdict: int
) -> None:
    """Of one GPU of four. What it says is the same where 0x2 and 0x100 are set as well."""
    beside = {("throttle.applications-clocks", WARN), ("throttle.display-clock", WARN)}
    own = {(rule, status)} - {(None, None)}
    for mask, expected in ((int(word, 16), own), (int(word, 16) | 0x102, own | beside)):
        made = simulate(layout("h200x4"), fault=f"throttle-{mask:#x}", seed=3)
        findings = judge(made, load("h200"))
        assert code_of(findings) == verdict
        assert fault_of(f"throttle-{mask:#x}").code == verdict  # type: ignore[union-attr]
        told = {(f.rule, f.status) for f in findings if f.status != PASS
                and f.rule.startswith(("throttle.", "counter."))}  # fmt: skip
        assert told == expected


@pytest.mark.parametrize("fault", ["bit-flip", "nan", "crash", "clock-jump", "lost-counter"])
def test_faults_of_a_cpu(fault: str) -> None:
    for seed in range(5):
        assert code("cpu", fault, seed) == FAULTS[fault].code


@pytest.mark.full
def test_false_rejects_of_many_healthy_pods() -> None:
    rejected = [s for s in range(MANY) if code("h200x8", None, s) != ACCEPTED]
    assert len(rejected) < 0.01 * MANY, rejected
    rejected = [s for s in range(MANY) if code(PODS[s % len(PODS)], None, s) != ACCEPTED]
    assert len(rejected) < 0.01 * MANY, rejected


def misses(name: str, fault: str, seed: int, profile: str) -> str | None:
    """What the judge gets wrong of a pod with this fault: the verdict, or the place."""
    pod, known = layout(name), FAULTS[fault]
    own = criteria_of(name)
    made = simulate(pod, fault=fault, seed=seed, profile=profile, criteria=own)
    findings = list(judge(made, own))
    if (got := code_of(findings)) != known.code:
        return f"{name} {seed} {profile}: {got}"
    rng = random.Random(f"{seed}/{fault}/{pod.name}")  # as entries_of
    places = spoiled(pod, conditions(fault, pod, rng, profile))
    bad = [f.text for f in findings if f.status in (FAIL, UNKNOWN)]
    if known.code == ACCEPTED or any(place in text for text in bad for place in places):
        return None
    return f"{name} {seed} {profile}: none of {places} in {bad}"


def _named(pod: Layout, bad: Conditions) -> str:
    """The words for the only link that is slow."""
    ends = sorted({rank // pod.gpus for pair in bad.links for rank in pair})
    if len(bad.links) > 1:
        return "what links node node-{} and node node-{} is bad".format(*ends)
    ((a, b),) = bad.links
    said = [f"rank {r} (node node-{r // pod.gpus})" for r in (a, b)]
    return "the link between {} and {} is bad".format(*said)


def spoiled(pod: Layout, bad: Conditions) -> list[str]:
    """The names of the devices that have the fault; of the node where it has lost one."""
    ranks = {rank for rank, _ in (*bad.factors, *bad.values)}
    ranks |= {*bad.gone, *bad.cut, *bad.flipped, *bad.nans, *bad.hung.values()}
    if bad.links:
        return [_named(pod, bad)]
    nodes = {rank // pod.gpus for rank in (*bad.absent, *bad.gone, *bad.cut)} | {*bad.jumps}
    return [f"node-{r // pod.gpus} cuda:{r % pod.gpus}" for r in sorted(ranks)] + [
        f"node-{node}" for node in sorted(nodes)
    ]


@pytest.mark.full
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_is_found_and_named_in_many_pods(fault: str) -> None:
    wrong = [misses(PODS[s % len(PODS)], fault, s, "quick") for s in range(MANY)]
    assert [*filter(None, wrong)] == []


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_the_gate_finds_and_names_each_fault(fault: str) -> None:
    wrong = [misses(PODS[s % len(PODS)], fault, s, "gate") for s in range(len(PODS))]
    assert [*filter(None, wrong)] == []


def test_a_fault_with_another_place_is_no_find() -> None:
    pod = layout("h200x4")
    assert spoiled(pod, Conditions(gone={2})) == ["node-0 cuda:2", "node-0"]
    assert spoiled(pod, Conditions(factors={(3, "gemm.bf16"): 0.8})) == ["node-0 cuda:3"]


def test_journals_are_real_and_say_that_they_are_simulated(tmp_path: Path) -> None:
    pod = layout("h200x2*2")
    paths = write(pod, tmp_path, seed=3)
    assert [p.name for p in paths] == [
        "node-0-0.jsonl", "node-0-1.jsonl", "node-1-2.jsonl", "node-1-3.jsonl",
    ]  # fmt: skip
    for path in paths:
        begin = journal.read(path)[0]
        assert begin["kind"] == "begin"
        assert begin["simulated"] is True
    read = evidence.read(tmp_path)
    assert all(rank.simulated for rank in read.ranks)
    without = [[{k: v for k, v in e.items() if k != "prev"} for e in r.entries]
               for r in read.ranks]  # fmt: skip
    assert without == [list(r.entries) for r in simulate(pod, seed=3).ranks]
    with pytest.raises(FileExistsError):
        write(pod, tmp_path, seed=4)


def test_a_changed_byte_of_a_simulated_journal_is_found(tmp_path: Path) -> None:
    (path,) = write(layout("cpu"), tmp_path)
    path.write_text(path.read_text().replace('"sdc.differing"', '"sdc.differinG"', 1))
    with pytest.raises(journal.Damaged):
        evidence.read(tmp_path)


def test_a_crash_leaves_a_torn_line(tmp_path: Path) -> None:
    paths = write(layout("h200x1"), tmp_path, fault="crash")
    assert not paths[0].read_text().endswith("\n")
    assert evidence.read(tmp_path).ranks[0].ended is None


def test_a_seed_makes_the_same_pod_again() -> None:
    pod = layout("h200x2")
    assert simulate(pod, seed=5) == simulate(pod, seed=5)
    assert simulate(pod, seed=5) != simulate(pod, seed=6)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_have_criteria_that_know_them(name: str) -> None:
    made = simulate(layout(name if name == "cpu" else f"{name}x1"))
    assert choose(made).name == MODELS[name].criteria


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--simulate", "h20x8"], "did you mean h200?"),
        (["--simulate", "h200x9"], "at most 8 GPUs"),
        (["--simulate", "cpux2"], "a CPU is one device"),
        (["--simulate", "h200x8*2", "--nodes", "3"], "already says"),
        (["--simulate", "h200x8", "--nodes", "0"], "is not a number of nodes"),
        (["--simulate", "h200x8", "--fault", "none"], "there is no fault"),
        (["--simulate", "h200x8", "--fault", "throttle-0xg"], "throttle-0x with any word"),
        (["--simulate", "h200x8", "--fault", "throttle-0x10000000000000000"], "any word"),
        (["--simulate", "cpu", "--fault", "ecc"], "a CPU can't have ecc"),
        (["--simulate", "h200x1", "--fault", "hang"], "needs 2 devices"),
        (["--fault", "ecc"], "go with --simulate"),
        (["--simulate", "h200x8", "--stages", "memory"], "--stages does not go with --simulate"),
        (["--simulate", "h200x8", "--expect-gpus=8"], "--expect-gpus does not go with --simulate"),
        (["--simulate", "h200x8", "--resume"], "--resume does not go with --simulate"),
    ],
)
def test_wrong_words_are_answered(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["accept", *words, "--out", str(out)]) == 3
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("place", ["", "file", "file/under"])
def test_a_folder_that_can_be_none(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("theirs")
    assert main(["accept", "--simulate", "h200x1", "--out", place]) == 3
    said = capsys.readouterr().err
    assert "is empty" in said if not place else f"can't write to the folder {place!r}: " in said
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["accept", "--simulate", "h200x4", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert "no pod was tested" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "b"), "--fault", "ecc", "--seed", "7"]) == 1
    assert "uncorrected memory errors" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "c"), "--fault", "lost-counter"]) == 2
    before = (tmp_path / "a" / "journal" / "node-0-0.jsonl").read_bytes()
    assert main([*words, str(tmp_path / "a")]) == 3
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "a" / "journal" / "node-0-0.jsonl").read_bytes() == before
    entry = json.loads(before.splitlines()[0])
    assert entry["criteria"]["digest"] == load("h200").digest


@pytest.mark.parametrize(
    ("fault", "column", "apart"),
    [("hot-hbm", "memory_temperature_c", 5.0), ("slow-gpu", "sm_mhz", -100.0)],
)
def test_the_trace_shows_what_the_measure_says(fault: str, column: str, apart: float) -> None:
    made = simulate(layout("h200x4"), fault=fault, seed=7)
    ends = sorted(t[column][-1] for t in traces.traces(made))
    assert ends[-1] - ends[-2] > apart if apart > 0 else ends[0] - ends[1] < apart


def test_a_full_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(node.os, "fsync", full)
    out = tmp_path / "out"
    assert main(["accept", "--simulate", "h200x2", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"journals in {out} can't be written (No space left on device)" in said


def test_a_criteria_file_is_the_pods_for_merge_and_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine.toml", tmp_path / "out"
    mine.write_text('schema = 1\nname = "mine"\nversion = "1"\ntitle = "ours"\nextends = "h200"\n')
    words = ["accept", "--simulate", "h200x4", "--out", str(out), "--criteria", str(mine)]
    assert main(words) == 0
    begin = journal.read(out / "journal" / "node-0-0.jsonl")[0]
    assert begin["criteria_file"] == str(mine)
    assert main(["accept", "merge", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["criteria"]["name"] == "mine"
    (unjudged,) = [text for text in report["not_checked"] if "for want of a rule" in text]
    assert "all-to-all" in unjudged
    assert "all-reduce" not in unjudged, "it has a rule for 4 GPUs"


def test_expected_times_grow_with_collectives_alone(capsys: pytest.CaptureFixture[str]) -> None:
    alone = [expected_seconds("full", 8, n) - collective_seconds(8 * n) for n in (1, 64)]
    assert alone[1] < 1.05 * alone[0]
    assert main(["accept", "--simulate", "h200x8", "--times"]) == 0
    assert "512 nodes" in capsys.readouterr().out
