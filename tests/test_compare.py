"""`bench compare`: pairs, refusals, verdicts and exit codes. The statistics: test_stats.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels.cli import main
from aimills_kernels.harness import record as _record
from aimills_kernels.harness.compare import Comparison, compare_records, percent
from aimills_kernels.harness.pytest_rows import Rows
from tests import records


def side(*factors: float, seed: int = 0, noise: float = 0.01, **more: Any) -> dict[str, Any]:
    """A record with a row for each factor on its time."""
    rows = [
        records.row("triton", records.samples(400.0 * f, noise=noise, seed=seed + i), case=f"c{i}")
        for i, f in enumerate(factors)
    ]
    return records.record(rows, **more)


def said(found: Comparison) -> list[str]:
    return [v.verdict for v in found.verdicts]


def test_each_row_gets_its_verdict() -> None:
    found = compare_records(side(1, 1, 1), side(1, 1.1, 0.9, seed=100))
    assert said(found) == ["SAME", "SLOWER", "FASTER"]
    assert (found.code, found.counts) == (1, {"SLOWER": 1, "SAME": 1, "FASTER": 1})
    slower = found.verdicts[1]
    assert slower.ratio == pytest.approx(1.1, abs=0.01)
    assert slower.low < slower.ratio < slower.high  # type: ignore[operator]
    assert slower.p < 0.01  # type: ignore[operator]
    assert "c1 triton on cuda:0: SLOWER +" in str(slower)


def test_the_threshold_decides() -> None:
    base, new = side(1), side(1.1, seed=100)
    assert said(compare_records(base, new, 0.05)) == ["SLOWER"]
    assert said(compare_records(base, new, 0.25)) == ["SAME"]
    assert said(compare_records(base, new, 0.1)) == ["AMBIGUOUS"]
    for wrong in (0, -0.05, 10, float("nan")):
        with pytest.raises(ValueError, match="threshold must be"):
            compare_records(base, new, wrong)


@pytest.mark.parametrize(
    ("gpu", "why"),
    [
        ({"name": "NVIDIA H200"}, "another GPU: NVIDIA H100 80GB HBM3 and NVIDIA H200"),
        ({"pci_device": "0x232110DE"}, "another SKU of that name: 0x233010DE and 0x232110DE"),
        ({"driver": "590.1"}, "another driver: 580.0 and 590.1"),
        ({"power_limit_w": 500.0}, "another power limit: 700.0 and 500.0"),
        ({"clock_application_sm_mhz": 1200}, "another application clock: 1980 and 1200"),
        ({"clock_application_sm_mhz": None}, "another application clock: 1980 and not stated"),
        ({"ecc": "Disabled"}, "another ECC mode"),
        ({"mig": "Enabled"}, "another MIG mode"),
    ],
)
def test_another_machine_is_refused(gpu: dict[str, Any], why: str) -> None:
    """Though the times are far apart: no verdict, and the exit code says so."""
    found = compare_records(side(1, 1), side(2, 1, gpus=[records.H100 | gpu]))
    assert said(found) == ["REFUSED"] * 2
    assert why in found.verdicts[0].why
    assert found.code == 2
    assert found.verdicts[0].ratio is None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"torch": {"version": "2.12.0+cu130"}}, "another torch: 2.11.0+cu130 and 2.12.0+cu130"),
        ({"triton": "3.7.0"}, "another triton: 3.6.0 and 3.7.0"),
        ({"triton": None}, "another triton: 3.6.0 and not stated"),
    ],
)
def test_another_minor_version_is_refused(more: dict[str, Any], why: str) -> None:
    found = compare_records(side(1), side(1, **more))
    assert (said(found), found.code) == (["REFUSED"], 2)
    assert found.verdicts[0].why == why


def test_a_patch_release_is_named() -> None:
    found = compare_records(side(1), side(1, triton="3.6.1", python="3.12.9"))
    assert said(found) == ["SAME"]
    assert found.named == ("python 3.12.1 and 3.12.9", "triton 3.6.0 and 3.6.1")


@pytest.mark.parametrize("name", ["model", "usable_cores", "threads"])
@pytest.mark.parametrize("other", ["another", None])
def test_another_cpu_is_refused(name: str, other: str | None) -> None:
    sides = [records.record([records.row(device="cpu")]) for _ in range(2)]
    assert said(compare_records(*sides)) == ["SAME"]
    sides[1]["environment"]["cpu"][name] = other
    assert said(compare_records(*sides)) == ["REFUSED"]
    sides[0]["environment"]["cpu"][name] = other
    known = said(compare_records(*sides))
    assert known == (["SAME"] if other else ["REFUSED"])


def test_a_gpu_that_says_nothing_is_like_no_other() -> None:
    found = compare_records(side(1, gpus=[]), side(1, gpus=[]))
    assert said(found) == ["REFUSED"]
    assert "neither record says its GPU" in found.verdicts[0].why


def test_another_card_of_a_kind_is_named_and_widens_the_floor() -> None:
    other = records.H100 | {"uuid": "GPU-00000000-0000-0000-0000-000000000009"}
    base = side(1, 1, 1)
    found = compare_records(base, side(1, 1.08, 1.2, seed=100, gpus=[other]))
    assert said(found) == ["AMBIGUOUS", "SLOWER", "SLOWER"]
    assert found.named == ("another card of the same kind",)
    floors = [v.floor for v in found.verdicts]
    assert min(f for f in floors if f) >= 0.05
    near = compare_records(base, side(1, 1.055, 1, seed=100, gpus=[other]))
    assert said(near)[1] == "AMBIGUOUS"


@pytest.mark.parametrize(
    "changed", [{"dims": {"B": 2}}, {"scaled": {"M": 9}}, {"clock": None}, {"cold": False}]
)
def test_another_problem_under_the_same_name_is_refused(changed: dict[str, Any]) -> None:
    new = records.record([records.row(**changed)])
    found = compare_records(records.record([records.row()]), new)
    assert said(found) == ["REFUSED"]
    assert f"another `{next(iter(changed))}`" in found.verdicts[0].why


def test_a_row_that_was_right_and_is_wrong_is_a_regression() -> None:
    broken = records.without("triton", case="c0", failure="out: max error 0.5")
    found = compare_records(side(1, 1), records.record([broken, *side(1, 1)["rows"][1:]]))
    assert said(found) == ["BROKEN", "SAME"]
    assert found.code == 1
    assert "max error 0.5" in found.verdicts[0].why


def test_rows_of_one_side_are_listed_and_counted() -> None:
    base, new = side(1, 1, 1), side(1, 1, 1, 1)
    new["rows"][1] = records.without("triton", case="c1", skipped="cupy is not installed")
    del new["rows"][2]
    found = compare_records(base, new)
    assert said(found) == ["SAME", "MISSING", "MISSING", "NEW"]
    assert "cupy is not installed" in found.verdicts[1].why
    assert found.code == 2  # what was measured is no longer
    assert compare_records(new, base).counts == {"SAME": 1, "MISSING": 1, "NEW": 2}


def test_rows_without_a_time_on_either_side_change_nothing() -> None:
    base = records.record([*side(1)["rows"], records.without("nvrtc", skipped="no")])
    found = compare_records(base, base)
    assert (said(found), found.code) == (["SAME", "NOT TIMED"], 0)
    alone = records.record([records.without("nvrtc", skipped="no")])
    assert compare_records(alone, alone).code == 2  # nothing was compared


def test_few_samples_are_ambiguous() -> None:
    few = records.record([records.row(taken=[900.0, 901.0, 902.0, 903.0])])
    found = compare_records(records.record([records.row()]), few)
    assert said(found) == ["AMBIGUOUS"]
    assert "50 and 4 samples, 5 are the least" in found.verdicts[0].why


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [("hw_thermal_slowdown", "AMBIGUOUS"), ("hw_power_brake_slowdown", "AMBIGUOUS"),
     ("sw_thermal_slowdown", "AMBIGUOUS"), ("sw_power_cap", "SLOWER"), ("idle", "SLOWER")],
)  # fmt: skip
def test_a_throttled_run_is_not_held_against_the_kernel(reason: str, verdict: str) -> None:
    new = side(1.3)
    new["rows"][0]["telemetry"] = records.telemetry(throttle={reason: 0.6})
    found = compare_records(side(1), new)
    assert said(found) == [verdict]
    assert (reason in found.verdicts[0].why) == (verdict == "AMBIGUOUS")


@pytest.mark.parametrize(
    ("mhz", "throttle", "verdict"),
    [(1200.0, {}, "AMBIGUOUS"), (1200.0, {"sw_power_cap": 0.6}, "SLOWER"), (1700.0, {}, "SLOWER"),
     (None, {}, "SLOWER")],
)  # fmt: skip
def test_a_clock_that_was_locked_is_not_held_against_the_kernel(
    mhz: float | None, throttle: dict[str, float], verdict: str
) -> None:
    """One that a power cap brought down is: how much power a kernel takes is its own doing."""
    base, new = side(1), side(1.3)
    base["rows"][0]["telemetry"] = records.telemetry()
    new["rows"][0]["telemetry"] = records.telemetry(sm_mhz=mhz, throttle=throttle)
    found = compare_records(base, new)
    assert said(found) == [verdict]
    assert ("the SM clock was 1755 and 1200 MHz" in found.verdicts[0].why) == (
        verdict == "AMBIGUOUS"
    )


def test_a_verdict_that_flawed_samples_make_is_none() -> None:
    new = side(1)
    row = new["rows"][0]
    slow = [i for i in range(50) if i % 5]
    row["samples_us"] = [t * 1.3 if i in slow else t for i, t in enumerate(row["samples_us"])]
    base = side(1)
    assert said(compare_records(base, new)) == ["SLOWER"]
    row["flags"] = {"launch time": slow}
    found = compare_records(base, new)
    assert said(found) == ["AMBIGUOUS"]
    assert "SLOWER by all samples, SAME without the flawed: new 40 of 50 launch time" in (
        found.verdicts[0].why
    )


def test_runs_of_the_same_code_show_how_much_runs_differ() -> None:
    """The newest stands for its side; six older ones that scatter by 8 % widen the floor."""
    scattered = [
        side(f, seed=10 * i, created=f"2026-01-0{i + 1}T08:00:00+00:00")
        for i, f in enumerate((1, 1.08, 0.93, 1.05, 0.95, 1))
    ]
    new = side(1.1, seed=100)
    assert said(compare_records(scattered[-1], new)) == ["SLOWER"]
    found = compare_records(scattered, new)
    assert said(found) == ["AMBIGUOUS"]
    assert found.verdicts[0].floor == pytest.approx(0.17, abs=0.05)
    for i, one in enumerate(scattered):  # of different code they show nothing
        one["environment"]["git"]["commit"] = f"{i}" * 40
    assert said(compare_records(scattered, new)) == ["SLOWER"]


def test_of_several_records_the_newest_counts() -> None:
    old = side(2, 1, created="2026-01-01T08:00:00+00:00")
    newer = side(1, created="2026-01-02T08:00:00+00:00")
    assert said(compare_records([newer, old], side(1, 1))) == ["SAME", "SAME"]


def on(created: str, *factors: float, **more: Any) -> dict[str, Any]:
    return side(*factors, created=f"2026-01-{created}T08:00:00+00:00", **more)


@pytest.mark.parametrize(
    "gpu",
    [{"name": "NVIDIA H200"}, {"driver": "590.1"}, {"power_limit_w": 500.0},
     {"clock_application_sm_mhz": 1200}, {"power_limit_w": None}],
    ids=lambda gpu: next(iter(gpu)),
)  # fmt: skip
def test_the_base_is_the_newest_of_the_same_machine(gpu: dict[str, Any]) -> None:
    """Records of several machines lie in one folder; a faster one must not be the base."""
    base = [on("01", 3), on("02", 1), on("03", 0.5, gpus=[records.H100 | gpu])]
    assert said(compare_records(base, side(1, seed=100))) == ["SAME"]
    found = compare_records(base[2:], side(1))
    assert (said(found), found.code) == (["REFUSED"], 2)
    assert found.verdicts[0].why


def test_the_base_is_the_newest_that_has_a_time() -> None:
    """A run that failed, or had no time for the row, leaves what was measured before it."""
    base = [on("01", 1), on("02", 1)]
    for row in base[1]["rows"]:
        row |= records.without("triton", case=row["case"], skipped="no memory", gap=True)
    assert said(compare_records(base, side(1.2, seed=100))) == ["SLOWER"]
    broken = records.record([records.without("triton", case="c0", failure="max error")])
    assert said(compare_records(base, broken)) == ["BROKEN"]
    assert said(compare_records(base[1:], side(1))) == ["NEW"]


def test_records_are_in_the_order_of_their_times_in_any_zone() -> None:
    early = side(2, created="2026-01-02T01:00:00+08:00")  # 17:00 the day before, in UTC
    late = side(1, created="2026-01-01T20:00:00+00:00")
    assert said(compare_records([early, late], side(1, seed=100))) == ["SAME"]
    naive = side(2, created="2026-01-01T08:00:00")
    assert said(compare_records([naive, late], side(1, seed=100))) == ["SAME"]


@pytest.mark.parametrize("name", ["power_limit_w", "clock_application_sm_mhz"])
def test_a_limit_that_neither_says_is_named(name: str) -> None:
    gpus = [records.H100 | {name: None}]
    found = compare_records(side(1, gpus=gpus), side(1, gpus=gpus, seed=100))
    assert said(found) == ["SAME"]
    words = {"power_limit_w": "power limit"}.get(name, "application clock")
    assert found.named == (f"perhaps the {words}, which neither record says",)


# ---- the command


def saved(record: dict[str, Any], path: Path) -> str:
    _record.save(record, path)
    return str(path)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = saved(side(1, 1), tmp_path / "base.json")
    same = saved(side(1, 1, seed=100), tmp_path / "same.json")
    slow = saved(side(1, 1.1, seed=100), tmp_path / "slow.json")
    assert main(["bench", "compare", base, same]) == 0
    assert "2 SAME; the threshold is 5 %" in capsys.readouterr().out
    assert main(["bench", "compare", base, slow]) == 1
    assert "SLOWER" in capsys.readouterr().out
    assert main(["bench", "compare", base, slow, "--threshold", "25%"]) == 0
    other = saved(side(1, gpus=[records.H200]), tmp_path / "other.json")
    assert main(["bench", "compare", base, other]) == 2
    assert "REFUSED: attention c0 triton on cuda:0: another GPU" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["x", "0", "-5%", "nan", "", "1000%", "inf"])
def test_a_wrong_threshold(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "a", "b", f"--threshold={text}"]) == 3
    assert "is no share" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is no share"):
        percent(text)


def test_thresholds() -> None:
    assert [percent(t) for t in ("5%", "5", "0.5 %", "12.5%")] == [0.05, 0.05, 0.005, 0.125]


def test_what_is_no_record_is_named_and_the_rest_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    saved(side(1), folder / "good.json")
    (folder / "cut.json").write_text('{"schema": 2, "kind": "be')
    (folder / "old.json").write_text(json.dumps(side(1) | {"schema": 1}))
    new = saved(side(1, seed=100), tmp_path / "new.json")
    assert main(["bench", "compare", str(folder), new]) == 2
    text = capsys.readouterr().out
    assert "cut.json: not JSON, or cut short" in text
    assert "old.json: has schema 1, not 2" in text
    assert "1 SAME" in text
    slow = saved(side(1.2, seed=100), tmp_path / "slow.json")
    assert main(["bench", "compare", str(folder), slow]) == 1  # worse than a file left out


@pytest.mark.parametrize("base", ["nowhere.json", "empty"])
def test_no_baseline(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    new = saved(side(1), tmp_path / "new.json")
    assert main(["bench", "compare", str(tmp_path / base), new]) == 2
    text = capsys.readouterr().out
    assert "not read: " in text
    assert "1 NEW" in text


def test_text_of_a_record_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = records.without("triton", case="c0", failure="wrong\x1b[2J\x07\x9b2J")
    gpus = [records.H100 | {"driver": "590\x1b[31m"}]
    base, other = (
        saved(side(1), tmp_path / "a.json"),
        saved(side(1, gpus=gpus), tmp_path / "c.json"),
    )
    new = saved(records.record([wrong]), tmp_path / "b.json")
    assert main(["bench", "compare", base, new]) == 1
    assert main(["bench", "compare", base, other]) == 2
    assert main(["bench", "history", base, other]) == 0
    said = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert "wrong\N{REPLACEMENT CHARACTER}[2J" in said


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = saved(side(1), tmp_path / "a.json"), saved(side(1.1, seed=100), tmp_path / "b.json")
    assert main(["bench", "compare", base, new, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["code"], found["counts"]) == (1, {"SLOWER": 1})
    (row,) = found["verdicts"]
    assert row["verdict"] == "SLOWER"
    assert row["ratio"] == pytest.approx(1.1, abs=0.01)
    assert main(["bench", "compare", base, str(tmp_path / "no.json"), "--json"]) == 2
    assert "no.json" in json.loads(capsys.readouterr().out)["unread"][0]


def test_a_session_is_held_against_the_rows_that_it_has() -> None:
    """A baseline may hold other cases and other modes of the same row; neither is missing."""
    here = {"ceilings": records.CEILINGS | {"device": "cuda:0"}}
    graph = records.row("triton", mode="graph")
    base = [records.record([records.row("triton"), records.row("sdpa"), graph], **here)]
    session = Rows(0.1, records=[records.record([records.row("triton")], **here)])
    found, not_here = session.compared(base, 0.05)
    assert [v.verdict for v in found.verdicts] == ["SAME"]
    assert found.code == 0
    assert not_here == [("attention", "prefill", name) for name in ("sdpa", "triton")]
    lost = records.without("triton", skipped="no time", gap=True)
    found, _ = Rows(0.1, records=[records.record([lost], **here)]).compared(base, 0.05)
    assert (found.counts, found.code) == ({"MISSING": 1}, 2)
