"""The report of a pod: what follows from journals and findings, in each of its files."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from aimills_kernels import _files
from aimills_kernels.accept import evidence, facts, page, prometheus, report, schema, traces
from aimills_kernels.accept.criteria import load
from aimills_kernels.accept.diff import diff
from aimills_kernels.accept.findings import FAIL, PASS, Finding
from aimills_kernels.accept.judge import judge
from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.accept.simulate import layout, simulate
from aimills_kernels.cli import main
from tests import pod_journals

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "<b>\"q\" & 'x' \\ \n \x00 \x1b </script> %s {0}"
_SAMPLE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\} '
    r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
)


def _built(**more: Any) -> dict[str, Any]:
    pod = pod_journals.pod(pod_journals.eight(**more))
    return report.build(pod, pod_journals.judge(pod), pod_journals.CRITERIA)


def _files_of(ranks: list[list[dict[str, Any]]]) -> dict[str, str]:
    pod = pod_journals.pod(ranks)
    return report.rendered(pod, pod_journals.judge(pod), pod_journals.CRITERIA)


def _cpu(**more: Any) -> list[list[dict[str, Any]]]:
    return [pod_journals.entries(0, world=1, device="cpu", sku="a CPU", **more)]


# ---- the data


def test_schema_is_the_committed_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    assert json.loads((ROOT / "docs" / "accept.schema.json").read_text()) == schema.schema()


@pytest.mark.parametrize("text", ["plain", HOSTILE], ids=["plain", "hostile"])
@pytest.mark.parametrize("ranks", ["pod", "cpu", "none"])
def test_report_is_as_its_schema_says(ranks: str, text: str) -> None:
    made = {"pod": lambda: pod_journals.eight(text=text), "cpu": lambda: _cpu(text=text),
            "none": list}[ranks]()  # fmt: skip
    pod = pod_journals.pod(made)
    data = report.build(pod, pod_journals.judge(pod), None)
    jsonschema.Draft202012Validator(schema.schema()).validate(data)
    json.dumps(data, allow_nan=False)


def test_report_follows_from_journals_alone(tmp_path: Path) -> None:
    folder = pod_journals.write(tmp_path, pod_journals.eight())
    pod = evidence.read(folder)
    made = [
        report.rendered(p, pod_journals.judge(p), pod_journals.CRITERIA)
        for p in (pod, evidence.read(folder))
    ]
    assert made[0] == made[1]
    assert json.loads(made[0]["report.json"])["created"] == max(
        e["time"] for r in pod.ranks for e in r.entries
    )


def test_verdict_and_reasons_are_those_of_the_findings() -> None:
    data = _built()
    assert (data["verdict"], data["exit_code"]) == ("rejected", 1)
    assert data["headline"] == "rejected (8 x NVIDIA H200)"
    assert len(data["reasons"]) == 5
    assert all(r.startswith("node-0 cuda:3: ") for r in data["reasons"])
    assert data["warnings"] == ["node-0 cuda:5: 86 °C is warm"]
    assert data["criteria"]["digest"] == data["criteria"]["at_the_run"]


def test_what_devices_have_in_the_same_words_is_one_reason() -> None:
    """Seven ranks that miss the eighth hide nothing else."""
    pod = simulate(layout("h200x8"), fault="hang", seed=7)
    data = report.build(pod, judge(pod, load("h200")), load("h200"))
    said = "rank 3 (node-0 cuda:3) gave no answer for 60 s"
    first = ", ".join(f"node-0 cuda:{i}" for i in range(8) if i != 3) + f": {said}"
    assert next(text for text in data["reasons"] if text.endswith(f": {said}")) == first
    assert "node-0 cuda:3: the process died during interconnect and left no word" in data["reasons"]
    assert len(data["reasons"]) == len(set(data["reasons"])) < 60


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n cuda:1: no word from rank 2 (n cuda:10)", "n cuda:1: no word from rank 2 (n cuda:10)"),
        ("n cuda:1: n cuda:1 was lost", "n cuda:1: n cuda:1 was lost"),
        ("no word from n cuda:10", "n cuda:1: no word from n cuda:10"),
        ("no word from n cuda:1", "no word from n cuda:1"),
    ],
)
def test_a_reason_has_the_name_of_its_device(text: str, reason: str) -> None:
    pod = pod_journals.pod([pod_journals.entries(0, world=1)])
    data = report.build(pod, [Finding("r", FAIL, "n cuda:1", text)])
    assert data["reasons"] == [reason]


def test_without_a_finding_nothing_is_accepted() -> None:
    pod = pod_journals.pod([pod_journals.entries(0, world=1)])
    data = report.build(pod, [])
    assert (data["verdict"], data["exit_code"]) == ("incomplete", 2)


def test_what_no_number_is_becomes_null() -> None:
    pod = pod_journals.pod([pod_journals.entries(0, world=1)])
    found = [Finding("r", FAIL, "pod", "not finite", "memory.copy", float("nan"), float("inf"))]
    (row,) = report.build(pod, found)["findings"]
    assert (row["measured"], row["threshold"]) == (None, None)


def test_missing_ranks_and_crashes_are_events() -> None:
    ranks = [pod_journals.entries(r, crashed=r == 2, resumed=r == 1) for r in range(7)]
    pod = pod_journals.pod(ranks)
    data = report.build(pod, pod_journals.judge(pod))
    assert data["missing"] == [7]
    assert "1 of 8 missing" in data["headline"]
    told = {(e["where"], e["name"]) for e in data["events"]}
    assert told == {("rank 7", "no journal"), ("node-0 cuda:2", "no end"),
                    ("node-0 cuda:1", "crash"), ("node-0 cuda:1", "resumed")}  # fmt: skip
    (burn,) = [s for s in data["stages"] if s["name"] == "burn"]
    assert burn["status"] == "cut"
    assert "node-0 cuda:2" in burn["failure"]
    assert data["energy"]["pod"]["limit_w"] is None, "no sum without the eighth device"


def test_equal_checks_of_devices_are_counted_and_wrong_ones_stand_alone() -> None:
    ranks = [pod_journals.entries(r) for r in range(8)]
    for entry in (e for found in ranks[4:6] for e in found):
        if entry["kind"] == "check" and entry["case"] == "tiny":
            entry |= {"status": "wrong", "failures": ["off"], "used": None}
        elif entry["kind"] == "check":
            entry["used"] = 0.9
    data = report.build(pod_journals.pod(ranks), [])
    found = {(c["case"], c["status"]): c for c in data["validations"]}
    assert len(data["validations"]) == 4
    assert found["tiny", "right"]["devices"] == 6
    assert (found["plain", "right"]["devices"], found["plain", "right"]["used"]) == (8, 0.9)


def test_digests_that_differ_name_their_devices() -> None:
    ranks = [pod_journals.entries(r) for r in range(8)]
    next(e for e in ranks[6] if e["kind"] == "checksum")["digest"] = "00"
    (row,) = facts.checksums(pod_journals.pod(ranks))
    assert [(d["devices"], d["where"]) for d in row["digests"]][1] == (1, "node-0 cuda:6")


# ---- what is no pod's says so everywhere


@pytest.mark.parametrize(
    ("hardware", "ranks", "says"),
    [
        ("simulated", lambda: pod_journals.eight(simulated=True), "SIMULATED 8 x NVIDIA H200"),
        ("cpu", _cpu, "CPU, not pod hardware"),
        ("pod", pod_journals.eight, None),
    ],
)
def test_every_file_is_marked(hardware: str, ranks: Any, says: str | None) -> None:
    files = _files_of(ranks())
    data = json.loads(files["report.json"])
    assert data["hardware"] == hardware
    assert data["simulated"] is (hardware == "simulated")
    assert ('class="banner"' in files["report.html"]) is (says is not None)
    assert f'<property name="hardware" value="{hardware}" />' in files["junit.xml"]
    samples = [x for x in files["metrics.prom"].splitlines() if x[0] != "#"]
    assert all(f'hardware="{hardware}"' in x for x in samples)
    if says:
        assert says in data["headline"]
        assert says in files["junit.xml"]
        assert "not pod hardware" in data["headline"]


def test_one_simulated_rank_makes_all_of_it_simulated() -> None:
    ranks = [pod_journals.entries(r, simulated=r == 7) for r in range(8)]
    assert facts.hardware(pod_journals.pod(ranks)) == facts.SIMULATED


# ---- junit and Prometheus


@pytest.mark.parametrize("text", ["plain", HOSTILE], ids=["plain", "hostile"])
def test_junit_has_a_case_for_each_finding(text: str) -> None:
    pod = pod_journals.pod(pod_journals.eight(text=text))
    found = [*pod_journals.judge(pod), Finding(text, "unknown", text, text)]
    root = ElementTree.fromstring(report.rendered(pod, found)["junit.xml"])
    rules, checks = root.findall("testsuite")
    assert len(rules.findall("testcase")) == int(rules.get("tests", "")) == len(found)
    assert len(checks.findall("testcase")) == 1
    for suite in (rules, checks):
        assert next(c.tag for c in suite) == "properties"
        for tag, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert len(suite.findall(f"testcase/{tag}")) == int(suite.get(key, ""))
    assert (rules.get("failures"), rules.get("errors")) == ("5", "1")
    assert all(c.get("name") and c.get("classname") for c in root.iter("testcase"))


def test_junit_without_findings_is_red() -> None:
    root = ElementTree.fromstring(report.rendered(pod_journals.pod([]), [])["junit.xml"])
    assert root.get("errors") == "1"


def test_what_is_told_of_several_measures_is_what_was_judged() -> None:
    """The worst of them, or the sum, and never the last because it is the last."""
    ranks = [list(r.entries) for r in simulate(layout("h200x2")).ranks]
    wrong = next(e for e in ranks[1] if e.get("metric") == "memory.wrong")
    place = ranks[1].index(wrong)
    first, last = wrong | {"value": 7, "detail": {"pass": 1}}, wrong | {"detail": {"pass": 2}}
    more = [e | {"metric": "ours", "value": v} for e, v in ((wrong, 2), (wrong, 1))]
    repeats = next(e for e in ranks[1] if e.get("metric") == "sdc.repeats")
    ranks[1][place : place + 1] = [first, last, *more, repeats]
    pod = pod_journals.pod(ranks)
    findings = judge(pod, load("h200"))
    data = report.build(pod, findings, load("h200"))
    judged = next(f for f in data["findings"] if f["rule"] == "memory.wrong")
    told = data["devices"][1]["measures"]
    assert told["memory.wrong"] == {"value": 7, "unit": "1", "n": 2, "detail": {"pass": 1}}
    assert (judged["status"], judged["measured"]) == (FAIL, 7)
    assert (told["sdc.repeats"]["value"], told["sdc.repeats"]["n"]) == (128, 2)
    assert told["ours"]["value"] == 1  # no metric of ours: nobody knows which is the worse
    assert data["comparison"]["memory.wrong"]["high"]["value"] == 7
    lines = prometheus.render(data).splitlines()
    name = prometheus.name_of("memory.wrong")
    assert [x.rsplit(" ", 1)[1] for x in lines if x.startswith(name + "{")] == ["0", "7"]
    well = report.build(simulate(layout("h200x2")), [], load("h200"))
    changed = {c["metric"]: (c["old"], c["new"]) for c in diff(well, data).values}
    assert changed["memory.wrong"] == (0, 7)


def test_prometheus_names_are_valid_and_told_apart() -> None:
    names = [prometheus.name_of(m.name) for m in METRICS.values() if m.unit != "text"]
    assert len({*names}) == len(names)
    assert all(re.fullmatch("[a-z_][a-z0-9_]*", n) for n in names)
    assert prometheus.name_of("memory.copy") == "aimills_accept_memory_copy_bytes_per_second"
    assert prometheus.name_of("throttle.sw_power_cap").endswith("_sw_power_cap_ratio")


def test_prometheus_text_is_well_formed() -> None:
    ranks = pod_journals.eight(without=("gemm.fp8",))
    for found in ranks:
        found[0]["sku"] = HOSTILE
        next(e for e in found if e.get("metric") == "gemm.bf16")["value"] = "none"
    lines = report.rendered(pod_journals.pod(ranks), [])["metrics.prom"].splitlines()
    samples = [x for x in lines if x[0] != "#"]
    assert all(_SAMPLE.fullmatch(x) for x in samples), next(
        x for x in samples if not _SAMPLE.fullmatch(x)
    )
    assert len({x.rsplit(" ", 1)[0] for x in samples}) == len(samples)
    text = "\n".join(lines)
    assert "gemm_fp8" not in text
    assert "gemm_bf16" not in text
    assert not re.search(r"\bnan\b|\binf\b", text, re.I)
    helps = [x.split()[2] for x in lines if x.startswith("# HELP")]
    assert helps == [x.split()[2] for x in lines if x.startswith("# TYPE")]
    assert len({*helps}) == len(helps)


# ---- traces, energy, comparison


def test_traces_are_thinned_and_bits_stand_alone() -> None:
    data = _built()
    assert {t["where"] for t in data["traces"]} == {f"node-0 cuda:{i}" for i in range(8)}
    hot = data["traces"][5]
    assert {*hot["throttle"]} == {"sw_power_cap", "hw_thermal_slowdown"}
    assert hot["throttle"]["hw_thermal_slowdown"][0] == 0.0
    assert hot["throttle"]["hw_thermal_slowdown"][-1] == 1.0
    assert {*data["traces"][0]["throttle"]} == {"sw_power_cap"}
    assert len(hot["seconds"]) == len(hot["power_w"]) <= traces.POINTS
    assert traces.BITS["hw_power_brake_slowdown"] == 0x80


@pytest.mark.parametrize("known", [True, False])
def test_the_burn_of_a_cpu_is_drawn_where_it_told_something(known: bool) -> None:
    (entries,) = _cpu()
    values = {"cpu_mhz": 2400.0, "cpu_share": 0.97} if known else {"cpu_mhz": None}
    entries = [{**e, "values": values} if e["kind"] == "sample" else e for e in entries]
    drawn = _files_of([pod_journals.chained(entries)])["report.html"]
    for text in ("The burn over time", "CPU clock over the burn", "Load of the CPU over the burn"):
        assert (text in drawn) is known


def test_energy_is_the_counter_and_a_counter_that_fell_is_none() -> None:
    (energy,) = report.build(pod_journals.pod([pod_journals.entries(0, world=1)]), [])["energy"][
        "devices"
    ]
    assert energy["burn_joules"] == pytest.approx(23 * 6950.0)
    found = pod_journals.entries(0, world=1)
    [e for e in found if e["kind"] == "sample"][12]["values"]["energy_mj"] = 5
    (energy,) = report.build(pod_journals.pod([found]), [])["energy"]["devices"]
    assert energy["burn_joules"] is None


def test_a_power_sweep_is_a_curve() -> None:
    """Each limit, and none of them lost behind the last; without a counter there is no energy."""
    found = pod_journals.entries(0, world=1)
    end = found.pop()
    for watts, rate, joules in ((700.0, 7e14, 1e12), (490.0, 6e14, 1.2e12), (420.0, 5e14, None)):
        for metric, value in (("sweep.rate", rate), ("sweep.energy", joules)):
            if value is not None:
                found.append({"kind": "measure", "stage": "power-sweep", "metric": metric,
                              "value": value, "unit": "FLOP/s", "detail": {"watts": watts},
                              "time": end["time"], "clock": end["clock"]})  # fmt: skip
    data = report.build(pod_journals.pod([[*found, end]]), [])
    assert [(s["limit_w"], s["rate"], s["per_joule"]) for s in data["energy"]["sweep"]] == [
        (700.0, 7e14, 1e12), (490.0, 6e14, 1.2e12), (420.0, 5e14, None),
    ]  # fmt: skip
    text = page.render(data)
    assert "490 W" in text
    assert "1.20 TFLOP/J" in text
    assert "power limit</th>" not in page.render(_built())


def test_fields_for_the_eu_say_what_is_measured() -> None:
    fields = {f["field"]: f for f in _built()["eu_2024_1364"]}
    assert fields["PDIT"]["value"] == pytest.approx(5.6)
    assert (fields["PDIT"]["point"], fields["PDIT"]["unit"]) == ("Annex II, 1(a)", "kW")
    assert fields["EIT"]["measured"] == "partly"
    assert all(f["measured"] in ("partly", "no") for f in fields.values())
    assert fields["EDC"]["value"] is None
    none = report.build(pod_journals.pod([pod_journals.entries(0, world=2)]), [])["eu_2024_1364"]
    assert {f["measured"] for f in none} == {"no"}, "of half a pod nothing is said"


def test_comparison_finds_the_median_and_who_is_far() -> None:
    found = _built()["comparison"]["memory.copy"]
    assert found["low"]["where"] == "node-0 cuda:3"
    assert found["n"] == 8
    assert found["median"] == pytest.approx(4.02e12, rel=0.01)
    assert "gpu.driver" not in _built()["comparison"]


def test_page_shows_each_rule_with_its_figures_and_source() -> None:
    page = _files_of(pod_journals.eight())["report.html"]
    for text in ("memory.copy.floor", "3.53 TB/s", "3.60 TB/s", "90 % of the SKU", "86 °C",
                 "The burn over time", "Reasons to run slower", "2024/1364", "went down",
                 "GPU-00000003-0000-4000-8000"):  # fmt: skip
        assert text in page
    assert page.count('class="dot wrong"') == 5
    assert page.count('class="curve failed"') >= 4


# ---- files


def test_files_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write({"report.html": "old", "report.json": "old"}, tmp_path)
    written: list[int] = []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        report.write({"report.html": "new", "report.json": "new"}, tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "report.html": "old", "report.json": "old",
    }  # fmt: skip


@pytest.mark.parametrize("name", [*report.FILES, evidence.SIGNATURE])
@pytest.mark.parametrize("words", [["--device", "cpu"], ["--simulate", "h200x1"]])
def test_a_file_of_someone_else_is_not_written_over(
    name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the junit.xml of the tests, in the folder of a CI."""
    (tmp_path / name).write_text("theirs")
    assert main(["accept", *words, "--out", str(tmp_path)]) == 3
    assert f"holds a file {name} already" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {name: "theirs"}


def test_report_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tests import pod_journals as p\n"
        "from aimills_kernels.accept import report\n"
        "pod = p.pod([p.entries(0, world=1)])\n"
        "print(sorted(report.rendered(pod, p.judge(pod))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(report.FILES)), done.stderr


# ---- two reports


def _saved(folder: Path, ranks: list[list[dict[str, Any]]]) -> Path:
    pod = pod_journals.pod(ranks)
    data = report.build(pod, pod_journals.judge(pod), pod_journals.CRITERIA)
    report.write({report.DATA: json.dumps(data)}, folder)
    return folder


def test_diff_of_a_repair() -> None:
    before, after = _built(), _built(slow=1.0)
    after["devices"][3]["uuid"] = "GPU-new"
    found = diff(before, after)
    assert found.code == 0
    assert found.devices == (
        "node-0 cuda:3 was exchanged: GPU-00000003-0000-4000-8000 before, GPU-new now",
    )
    changed = {(v["where"], v["metric"]): v for v in found.values}
    assert changed["node-0 cuda:3", "memory.copy"]["better"] is True
    assert changed["node-0 cuda:3", "memory.copy"]["change"] == pytest.approx(0.136, abs=0.001)
    assert {(f["rule"], f["old"], f["new"]) for f in found.findings} >= {
        ("memory.copy.floor", FAIL, PASS)
    }
    assert diff(after, before).code == 1


@pytest.mark.parametrize(
    ("fault", "back"),
    [("dead-rank", 1), ("hang", 1), ("crash", 1), ("nan", 1), ("missing-gpu", 1),
     ("lost-counter", 1), ("clock-jump", 2)],
)  # fmt: skip
def test_diff_of_a_fault_that_is_gone(fault: str, back: int) -> None:
    """What only a bad run tells of is no loss where B is silent of it."""
    pods = [simulate(layout("h200x8"), fault=name, seed=7) for name in (fault, None)]
    bad, good = (report.build(p, judge(p, load("h200")), load("h200")) for p in pods)
    assert diff(bad, good).code == 0
    assert diff(good, bad).code == back
    assert "both are simulated: no pod was tested" in diff(good, bad).notes
    other = good | {"criteria": good["criteria"] | {"digest": "0" * 64, "name": "ours"}}
    assert any("A was judged by criteria h200" in text for text in diff(good, other).notes)


def test_diff_of_what_was_not_measured_again() -> None:
    assert diff(_built(), _built(without=("gemm.fp8",))).code in (1, 2)
    good = [pod_journals.entries(r) for r in range(8)]
    less = [pod_journals.entries(r, without=("work.train",)) for r in range(8)]
    built = [report.build(p, pod_journals.judge(p)) for p in map(pod_journals.pod, (good, less))]
    assert diff(*built).code == 2
    assert diff(built[0], built[0]).code == 0


@pytest.mark.parametrize(
    ("other", "says"),
    [({"sku": "NVIDIA H100"}, "of NVIDIA H200 and B of NVIDIA H100"),
     ({"simulated": True}, "hardware 'pod' and B of hardware 'simulated'")],
)  # fmt: skip
def test_diff_refuses_other_hardware(
    other: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = _saved(tmp_path / "a", pod_journals.eight())
    b = _saved(tmp_path / "b", pod_journals.eight(**other))
    assert main(["accept", "diff", str(a), str(b)]) == 3
    said = capsys.readouterr().err
    assert says in said or says.replace("B of hardware", "B of") in said
    assert said.count("\n") == 1


def test_diff_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _saved(tmp_path / "a", pod_journals.eight())
    b = _saved(tmp_path / "b", pod_journals.eight(slow=1.0))
    assert main(["accept", "diff", str(a), str(b / "report.json")]) == 0
    said = capsys.readouterr().out
    assert "memory.copy.floor: fail -> pass" in said
    assert "better" in said
    assert main(["accept", "diff", str(b), str(a), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == 1
    assert main(["accept", "diff", str(a), str(tmp_path / "none")]) == 3


def test_page_says_what_each_rule_asks_and_lists_a_source_once() -> None:
    pod = simulate(layout("h200x2"), seed=7)
    found = judge(pod, load("h200"))
    page = report.rendered(pod, found, load("h200"))["report.html"]
    assert "uncorrected memory errors since boot: at most 0" in page
    sources = {f.source for f in found if f.source}
    assert len(sources) > 5
    for number in range(1, len(sources) + 1):
        assert page.count(f'id="source-{number}"') == 1
        assert f'href="#source-{number}"' in page
    assert all(page.count(html.escape(s)) == 1 for s in sources)


@pytest.mark.parametrize(
    ("more", "mark"),
    [({"simulated": True}, "SIMULATED, not pod hardware"), ({"device": "cpu"}, "CPU, not pod"),
     ({"device": "tpu:0"}, "Not pod hardware"), ({}, '@top-left { content: "";')],
)  # fmt: skip
def test_each_sheet_of_a_print_has_the_mark(more: dict[str, Any], mark: str) -> None:
    page = _files_of([pod_journals.entries(0, world=1, **more)])["report.html"]
    style = page[page.index("<style>") : page.index("</style>")]
    assert mark in style
