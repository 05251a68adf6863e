"""Criteria files: read strictly, held against physics, each figure with its source."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aimills_kernels.accept import units
from aimills_kernels.accept.criteria import CriteriaError, choose, diff, load, names
from aimills_kernels.accept.criteria.lint import lint
from aimills_kernels.accept.evidence import Rank, pod
from aimills_kernels.accept.simulate import FAULTS
from aimills_kernels.cli import main

HEAD = """schema = 1
name = "mine"
version = "1"
title = "Mine"
extends = "h200"
[sources]
own = "measured by us"
"""
RULE = '[rules."memory.copy.floor"]\nmetric = "memory.copy"\nfloor = "4.0 TB/s"\nsource = "own"\n'


def mine(tmp_path: Path, text: str = RULE) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    return path


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [("4.0 TB/s", 4e12, "B/s"), ("5 %", 0.05, "1"), ("80 GiB", 80 * 2**30, "B"),
     ("700 W", 700.0, "W"), ("95 degC", 95.0, "degC"), ("1.98GHz", 1.98e9, "Hz")],
)  # fmt: skip
def test_quantities_are_read(text: str, value: float, unit: str) -> None:
    got, base = units.parse(text)
    assert got == pytest.approx(value)
    assert base == unit


@pytest.mark.parametrize("text", ["4.0", "TB/s", "4 XB/s", "1e999 W", "nan W", ""])
def test_what_is_no_quantity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|number|finite"):
        units.parse(text)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(3.92e12, "B/s", "3.92 TB/s"), (2.5e15, "FLOP/s", "2.50 PFLOP/s"), (83.0, "degC", "83 °C"),
     (0, "1", "0"), (696.5, "W", "696 W"), (1.02e12, "FLOP/J", "1.02 TFLOP/J"),
     (0.1, "1", "0.1"), (0.4052, "1", "0.405")],
)  # fmt: skip
def test_quantities_are_shown_as_people_write_them(value: float, unit: str, shown: str) -> None:
    assert units.show(value, unit) == shown


@pytest.mark.parametrize("name", names())
def test_shipped_criteria_are_sound(name: str) -> None:
    found = load(name)
    assert lint(found) == []
    assert found.name == name
    assert all(rule.source for rule in found.rules)
    assert not any("/work" in rule.source for rule in found.rules)


@pytest.mark.parametrize("name", names())
def test_a_figure_that_was_chosen_says_so(name: str) -> None:
    """What needs no figure is equality, none at all, or one at least."""
    found = load(name)
    for rule in found.rules:
        if "no figure is needed" in rule.source:
            assert rule.test == "same" or rule.limit in (0, 1), rule.id
    rules = {rule.id: rule.source for rule in found.rules}
    if name == "unknown-gpu":  # what holds for every GPU, and nothing else
        for source in (rules["health.pcie-replays"], rules["inventory.gpus"]):
            assert source.startswith("chosen here")
    for rule in found.outliers:
        wide = "5 %" not in rule.source and rule.source.startswith("chosen here")
        assert wide is (rule.fail > 0.1), rule.metrics


def test_collectives_have_a_row_for_each_number_of_gpus() -> None:
    of = {r.id: r for r in load("h200").rules} | {f"b-{r.id}": r for r in load("b200").rules}
    assert of["collective.all-reduce.4"].of == 363e9
    assert of["collective.all-reduce.8"].of == pytest.approx(473e9, rel=1e-3)
    assert of["collective.all-gather.8"].of == 361e9
    assert of["b-collective.all-reduce.8"].of == 838e9
    assert of["b-collective.all-reduce.4"].of == 673e9
    assert of["collective.all-reduce.4"].gpus == (4, 4)


def test_a_file_changes_what_it_extends(tmp_path: Path) -> None:
    path = mine(tmp_path, 'without = ["health.xid"]\n' + RULE)
    path.write_text(path.read_text().replace('[sources]', "#").replace('own = "m', '#').replace(
        RULE, '[sources]\nown = "measured by us"\n' + RULE))  # fmt: skip
    found = load(path)
    rules = {r.id: r for r in found.rules}
    assert rules["memory.copy.floor"].limit == 4e12
    assert rules["memory.copy.floor"].source == "measured by us"
    assert "health.xid" not in rules
    assert "health.ecc" in rules
    assert found.digest != load("h200").digest
    assert {key for key, _, _ in diff.diff(load("h200"), found)} == {
        "name", "version", "title", "rules.memory.copy.floor", "rules.health.xid",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"4.0 TB/s"', '"4.0 GB"'), "rules.memory.copy.floor.floor: '4.0 GB' is not in B/s"),
        (('"4.0 TB/s"', "4.0"), "has no unit"),
        (('"4.0 TB/s"', '{ value = 4.0, unit = "XW" }'), "unknown unit 'XW'"),
        (('"4.0 TB/s"', "true"), "should be a number with its unit"),
        (("metric", "metrik"), "metrik: unknown key"),
        (('"memory.copy"\nf', '"memory.copi"\nf'), "'memory.copi' is no metric"),
        (('source = "own"\n', ""), "source: is missing"),
        (('source = "own"\n', 'source = "else"\n'), "not one of [sources]"),
        (("floor", "least"), "least: unknown key"),
        (('version = "1"', "version = 1"), "version: 1 should be a text"),
        (('version = "1"\n', ""), "version: is missing"),
        (("schema = 1", "schema = 2"), "schema: 2 should be 1"),
        (('extends = "h200"', 'extends = "h20"'), "unknown criteria 'h20'"),
        (('extends = "h200"', 'extends = "mine.toml"'), "extends itself"),
        (("[sources]", "[sources"), "is no TOML"),
        (('source = "own"', 'source = "own"\ngpus = 0'), "gpus: 0"),
        (('source = "own"', 'source = "own"\nsince = "later"'), "'later' should be one of gate"),
        (('source = "own"', 'source = "own"\nceiling = "5 TB/s"'), "needs one of floor"),
        (('source = "own"', 'source = "own"\nwarn = "3 TB/s"'), "warns only after"),
        (('source = "own"', 'source = "own"\ngpus = "0+"'), "gpus: '0+' should be"),
        (('source = "own"', 'source = "own"\ngpus = "²+"'), "gpus: '²+' should be"),
        (('source = "own"', 'source = "own"\nnodes = 2'), "nodes: goes with the bandwidth"),
        (('source = "own"', 'source = "own"\nsize = "8 GiB"'), "size: goes with the bandwidth"),
        (('"memory.copy"\nf', '["memory.copy"]\nf'), "['memory.copy'] is no metric"),
        (('version = "1"', 'version = ""'), "version: '' says nothing"),
        (("extends", 'devices = ["A", "A"]\nextends'), "a list of texts, each once"),
        (("extends", 'without = [["x"]]\nextends'), "there is no rule ['x'] to leave out"),
    ],
)
def test_bad_files_are_named_with_their_key(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = mine(tmp_path)
    before = path.read_text()
    assert change[0] in before
    path.write_text(before.replace(*change))
    with pytest.raises(CriteriaError) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value).rstrip()
    assert "toml" in str(caught.value) or "criteria" in str(caught.value)


XID = '[rules."health.xid"]\nmetric = "xid.count"\nceiling = {}\nsource = "own"\n'
SPREAD = """[outliers.x]
metrics = {}
warn = "5 %"
fail = "8 %"
always = "10 %"
deviations = {}
least = 3
source = "own"
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (XID.format("nan"), "rules.health.xid.ceiling: nan is not finite"),
        (XID.format("inf"), "rules.health.xid.ceiling: inf is not finite"),
        (XID.format("1" + 400 * "0"), "0000 is not finite"),
        (XID.format(5000 * "1"), "is no TOML"),
        (XID.format(9000 * "["), "is no TOML"),
        (SPREAD.format('["gemm.bf16"]', "nan"), "outliers.x.deviations: nan is not finite"),
        (SPREAD.format('"gemm.bf16"', 4), "should be a list of metrics"),
        (SPREAD.format("[]", 4), "should be a list of metrics"),
        (SPREAD.format('[["gemm.bf16"]]', 4), "is no metric of which more is better"),
    ],
)
def test_what_could_never_fail_is_no_criterion(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CriteriaError, match=re.escape(said)):
        load(mine(tmp_path, text))


@pytest.mark.parametrize(
    ("metric", "limit", "said"),
    [("throttle.hw_slowdown", "ceiling = 50", "more than all of the time"),
     ("burn.power", 'ceiling = "1 MW"', "beyond the physical peak of 700 W"),
     ("gpu.memory", 'floor = "141 MB"', "a floor is 30%"),
     ("gpu.memory", 'floor = "141 TB"', "beyond the physical peak"),
     ("xid.count", "ceiling = -1", "below 0"),
     ("power.idle", 'ceiling = "76 kW"', "beyond the physical peak of 700 W"),
     ("memory.copy_hot", 'floor = "0.9 %"\nof = "memory.copy"', "0.009 is no share of memory.copy"),
     ("work.train", 'floor = "0.9 %"\nof = "40000 1/s"', "0.009 is no share of its reference"),
     ("work.train", 'floor = "0 1/s"', "everything reaches 0"),
     ("burn.temperature", 'floor = "85 degC"', "less is better, so a floor passes the bad ones"),
     ("gemm.bf16", 'ceiling = "650 TFLOP/s"', "more is better, so a ceiling passes the bad ones"),
     ("throttle.hw_slowdown", "ceiling = 1", "longer than all of the time"),
     ("gemm.wrong", "ceiling = 1000", "1000 would pass wrong results; it should be 0"),
     ("pcie.width", "equal = 160", "160 is not from 1 to 16"),
     ("ecc.enabled", "one_of = [1, 100]", "100 is not from 0 to 1")],
)  # fmt: skip
def test_a_limit_that_physics_never_meets_judges_nobody(
    tmp_path: Path, metric: str, limit: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a real run nor a simulated one nor a merge begins with such a file."""
    rule = f'[rules.x]\nmetric = "{metric}"\n{limit}\nsource = "own"\n'
    path, out = mine(tmp_path, rule), tmp_path / "out"
    (found,) = lint(load(path))
    assert said in found
    for words in (["--device", "cpu"], ["--simulate", "h200x1"]):
        assert main(["accept", *words, "--criteria", str(path), "--out", str(out)]) == 3
        assert said in capsys.readouterr().err
        assert not out.exists()
    assert main(["accept", "--simulate", "h200x1", "--out", str(out)]) == 0
    before = (out / "report.json").read_bytes()
    assert main(["accept", "merge", str(out), "--criteria", str(path)]) == 3
    assert (out / "report.json").read_bytes() == before


def test_outliers_that_hide_a_device_at_half_the_rate_judge_nobody(tmp_path: Path) -> None:
    text = SPREAD.format('["gemm.bf16"]', 4)
    assert lint(load(mine(tmp_path, text.replace("10 %", "50 %")))) == []
    (found,) = lint(load(mine(tmp_path, text.replace("10 %", "80 %"))))
    assert "outliers.x.always: 80 % is too far below the median; 50 % at the most" in found


def test_criteria_without_a_rule_judge_nobody(tmp_path: Path) -> None:
    path = mine(tmp_path, "")
    path.write_text(path.read_text().replace('extends = "h200"', 'devices = ["NVIDIA H200"]'))
    assert "there are none" in lint(load(path))[0]


@pytest.mark.parametrize(
    ("floor", "said"),
    [("4.9 TB/s", "beyond the physical peak of 4.80 TB/s"), ("4.0 GB/s", "30%"),
     ("1.0 TB/s", "30%"), ("4000 TB/s", "beyond")],
)  # fmt: skip
def test_figures_beyond_physics_are_found(tmp_path: Path, floor: str, said: str) -> None:
    """A factor of 1000 between MB/s and GB/s made one shipped threshold of a peer a no-op."""
    path = mine(tmp_path, RULE.replace("4.0 TB/s", floor))
    found = lint(load(path))
    assert len(found) == 1
    assert said in found[0]
    assert "memory.copy.floor" in found[0]
    assert main(["criteria", "lint", str(path)]) == 1


def test_lint_of_what_is_not_there_is_a_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, says in (("h201", "unknown criteria 'h201'"), (str(tmp_path), "it is a folder"),
                       (str(tmp_path / "a.toml"), "no such criteria file")):  # fmt: skip
        assert main(["criteria", "lint", name]) == 3
        assert says in capsys.readouterr().err
    path = mine(tmp_path, RULE).rename(tmp_path / "b.toml")
    path.write_text(path.read_text().replace('extends = "h200"', 'extends = "h201"'))
    assert main(["criteria", "lint", str(path)]) == 1


@pytest.mark.parametrize(
    ("gpu", "metric", "limit", "said"),
    [("h200", "clock.max", 'floor = "1.99 GHz"', "beyond the physical peak of 1.98 GHz"),
     ("h200", "burn.clock", 'floor = "198 MHz"', "10 % of the physical peak"),
     ("h200", "clock.max", 'equal = "1980 GHz"', "beyond the physical peak"),
     ("h200", "energy.gemm", 'floor = "3 TFLOP/J"', "beyond the physical peak of 2.83 TFLOP/J"),
     ("h200", "energy.gemm", 'floor = "1 GFLOP/J"', "a floor is 15% of it"),
     ("l40s", "link.p2p", 'floor = "33 GB/s"', "beyond the physical peak of 31.5 GB/s"),
     ("l40s", "link.p2p", 'floor = "24 MB/s"', "a floor is 30% of it"),
     ("l40s", "collective.all_reduce", 'floor = "64 GB/s"', "beyond the physical peak of 63 GB/s"),
     ("gb200", "link.h2d", 'floor = "460 GB/s"', "beyond the physical peak of 450 GB/s"),
     ("gb200", "link.d2h", 'floor = "380 MB/s"', "a floor is 30% of it"),
     ("unknown-gpu", "clock.max", 'floor = "1980 GHz"', "no clock of a working GPU")],
)  # fmt: skip
def test_clocks_energy_and_links_have_a_physical_limit(
    tmp_path: Path, gpu: str, metric: str, limit: str, said: str
) -> None:
    path = mine(tmp_path, f'[rules.x]\nmetric = "{metric}"\n{limit}\nsource = "own"\n')
    path.write_text(path.read_text().replace('"h200"', f'"{gpu}"'))
    (found,) = lint(load(path))
    assert said in found
    assert "rules.x." in found


def test_a_network_may_be_slower_than_the_links_of_a_node(tmp_path: Path) -> None:
    rule = '[rules.x]\nmetric = "collective.all_reduce"\nfloor = "40 GB/s"\nsource = "own"\n'
    assert "15% of it" in lint(load(mine(tmp_path, rule)))[0]
    assert lint(load(mine(tmp_path, rule + 'nodes = "2+"\n'))) == []


def test_a_figure_is_of_buffers_that_are_measured(tmp_path: Path) -> None:
    rule = (
        '[rules.x]\nmetric = "collective.all_reduce"\nfloor = "{}"\nsource = "own"\nsize = "{}"\n'
    )
    criteria = load(mine(tmp_path, rule.format("40 GB/s", "8 MiB")))
    assert lint(criteria) == []
    (found,) = [r for r in criteria.rules if r.id == "x"]
    assert (found.size, found.text()) == (8 << 20, "at least 40 GB/s with 8.39 MB buffers")
    assert "15% of it" in lint(load(mine(tmp_path, rule.format("40 GB/s", "256 MiB"))))[0]
    with pytest.raises(CriteriaError, match=r"size: '3 GiB' is none that is measured; .* 256 MiB"):
        load(mine(tmp_path, rule.format("400 GB/s", "3 GiB")))


def test_a_reference_beyond_physics_is_found(tmp_path: Path) -> None:
    path = mine(tmp_path, RULE.replace('"4.0 TB/s"', '"90 %"\nof = "6 TB/s"'))
    assert any(".of" in said for said in lint(load(path)))


def test_devices_are_known_by_the_name_of_the_driver() -> None:
    def chosen(sku: str, device: str = "cuda:0") -> str:
        entry = {"kind": "begin", "sku": sku, "device": device, "rank": 0, "node": "n"}
        return choose(pod([Rank((entry,))])).name

    assert chosen("NVIDIA H100 80GB HBM3") == "h100-sxm"
    assert chosen("NVIDIA H200") == "h200"
    assert chosen("NVIDIA B200") == "b200"
    assert chosen("NVIDIA GB200") == "gb200"
    assert chosen("NVIDIA A100-SXM4-80GB") == "a100-sxm-80"
    assert chosen("NVIDIA L40S") == "l40s"
    assert chosen("Some CPU", "cpu") == "cpu"
    assert chosen("NVIDIA H100 PCIe") == "unknown-gpu"
    assert chosen("NVIDIA H100 80GB HBM3 MIG 1g.10gb") == "unknown-gpu"


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["criteria", "show"]) == 0
    assert "h100-sxm" in capsys.readouterr().out
    assert main(["criteria", "show", "gb200"]) == 0
    assert "no public figure" in capsys.readouterr().out
    assert main(["criteria", "diff", "h200", "h200"]) == 0
    assert main(["criteria", "diff", "h200"]) == 3
    assert main(["criteria", "show", "h300"]) == 3
    assert "did you mean h200?" in capsys.readouterr().err
    assert main(["criteria", "lint"]) == 0


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, aimills_kernels.cli.criteria, aimills_kernels.cli.accept_simulate\n"
        "import aimills_kernels.accept.judge, aimills_kernels.accept.simulate\n"
        "import aimills_kernels.accept.criteria.lint\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_digest_is_of_what_is_said() -> None:
    found = load("h200")
    assert dataclasses.replace(found).digest == found.digest
    assert dataclasses.replace(found, version="2").digest != found.digest


# ---- the page


PAGE = Path(__file__).resolve().parent.parent / "docs" / "acceptance" / "criteria.md"


def test_the_example_of_the_page_is_sound(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    path = tmp_path / "ours.toml"
    path.write_text(text)
    found = load(path)
    assert lint(found) == []
    rules = {r.id: r for r in found.rules}
    assert rules["inventory.gpus"].limit == 8
    assert "health.xid" not in rules
    assert rules["memory.copy.floor"].absolute(rules["memory.copy.floor"].limit) < 4e12


def test_the_page_names_all_criteria_and_faults() -> None:
    page = PAGE.read_text()
    assert all(f"| `{name}` |" in page for name in names())
    words = {0: "accepted", 1: "rejected", 2: "incomplete"}
    for name, fault in FAULTS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f"| {words[fault.code]} |")


def test_the_page_has_the_expected_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accept", "--simulate", "h200x8", "--times"]) == 0
    lines = [" ".join(line.split()) for line in PAGE.read_text().splitlines()]
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in shown if line.startswith(("gate", "quick", "full", "burn-in"))]
    assert len(rows) == 4
    assert set(rows) <= set(lines)


@pytest.mark.parametrize(
    ("of", "says"),
    [("4180 TB/s", "beyond the physical peak"), ("4.18 GB/s", "of it at the least"),
     ("4.18 GHz", "is not in B/s")],
)  # fmt: skip
def test_criteria_that_physics_contradicts_judge_nothing(
    of: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "ours.toml", tmp_path / "run"
    path.write_text(
        'schema = 1\nname = "ours"\nversion = "1"\ntitle = "ours"\nextends = "h200"\n'
        '[sources]\nours = "ours"\n[rules."memory.copy.floor"]\nmetric = "memory.copy"\n'
        f'floor = "95 %"\nof = "{of}"\nsource = "ours"\n'
    )
    for words in (["--simulate", "h200x2"], ["--device", "cpu"], ["merge"]):
        where = [str(out)] if words == ["merge"] else ["--out", str(out)]
        assert main(["accept", *words, *where, "--criteria", str(path)]) == 3
        said = capsys.readouterr().err
        assert says in said
        assert said.count("\n") == 1
    assert not (out / "journal").exists()
