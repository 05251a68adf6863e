"""`bench tune`: the choice by records, the table, and what dispatch and `explain` make of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import aimills_kernels
from aimills_kernels import _dispatch, _nearby, _records, _registry, _tuned
from aimills_kernels._explain import Explanation, explain_flat
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels.cli import main
from aimills_kernels.harness import bench, ceilings, env, tune
from aimills_kernels.harness import record as _record
from aimills_kernels.harness.env import ROOT
from tests import records

OP = _registry.get_op("attention")
CASE = OP.case("llama3-8b-prefill")
GPU = records.H100 | {"sm": 90, "compute_capability": 9.0}
TORCH = {"version": torch.__version__, "cuda": None}


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A table of its own for every op, and sources that no commit has changed."""
    path = tmp_path / "dispatch.json"
    monkeypatch.setattr(_tuned, "table_file", lambda op: path)
    monkeypatch.setattr(tune, "_changed", lambda provider, commit: None)
    _tuned._entries.cache_clear()
    yield path
    _tuned._entries.cache_clear()


def made(us: dict[str, float], *, gpu: dict[str, Any] = GPU, **more: Any) -> dict[str, Any]:
    """A record with a row for each provider."""
    rows = [row(provider, time) for provider, time in us.items()]
    given = {"torch": TORCH, "triton": _records._triton_minor() + ".0"}
    return records.record(rows, gpus=[gpu], **(given | more))


def row(provider: str, us: float, **more: Any) -> dict[str, Any]:
    work = {"op": OP.name, "case": CASE.name, "dims": json.loads(json.dumps(CASE.dims))}
    return records.row(provider, records.samples(us), **(work | more))


def entry(*found: dict[str, Any]) -> _tuned.Entry:
    tuning = tune.tune([(f"r{i}.json", r) for i, r in enumerate(found)])
    (chosen,) = tuning.chosen
    return chosen.entry


def explained(sm: int = 90) -> Explanation:
    with _dispatch.assume_sm(sm):
        return explain_flat(OP, OP.meta_inputs(CASE), torch.device("cuda"))


def why(found: Explanation, provider: str) -> str:
    return next(text for name, _, text in found.rows if name == provider)


# ---- the choice


@pytest.mark.parametrize(
    ("us", "chosen"),
    [
        ({"triton": 400, "sdpa": 500, "reference": 9000}, "triton"),
        ({"triton": 500, "sdpa": 400, "reference": 9000}, "sdpa"),
        ({"triton": 408, "sdpa": 400}, "triton"),  # within 3 %: the order of preference decides
        ({"triton": 416, "sdpa": 400}, "sdpa"),
        ({"sdpa": 400, "reference": 300}, "reference"),
        ({"flash_attn": 100, "triton": 400, "sdpa": 500}, "triton"),  # a peer can't serve
    ],
)
def test_the_choice(us: dict[str, float], chosen: str) -> None:
    found = entry(made(us))
    assert (found["provider"], found["sm"], found["op"]) == (chosen, 90, "attention")
    assert found["record"] == "r0.json (2026-01-05, 012345678, NVIDIA H100 80GB HBM3)"
    assert found["fastest_us"] <= found["median_us"] <= 1.03 * found["fastest_us"]


def test_a_newer_record_goes_before_an_older() -> None:
    old, new = made({"triton": 400, "sdpa": 500}), made({"triton": 600, "sdpa": 500})
    assert entry(old, new)["provider"] == "sdpa"
    assert entry(new, old)["provider"] == "triton"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"validated": False}, "fewer than two"),
        ({"suspect": "1.2 times the ceiling"}, "its time is suspect"),
        ({"n": 3, "samples_us": [1.0, 1.0, 1.0]}, "fewer than 5 samples"),
        ({"mode": "graph"}, "fewer than two"),
    ],
)
def test_a_time_that_does_not_count(changed: dict[str, Any], why: str) -> None:
    record = made({"triton": 400})
    record["rows"].append(row("sdpa", 100, **changed))
    found = tune.tune([("r.json", record)])
    assert not found.chosen
    assert any(why in reason for reason in found.left)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (made({"triton": 1, "sdpa": 2}, dirty=True), "not made by a clean checkout"),
        (made({"triton": 1, "sdpa": 2}, commit=""), "not made by a clean checkout"),
        (made({"triton": 1, "sdpa": 2}, gpu=records.H100), "compute capability"),
        (made({"triton": 1, "sdpa": 2}, torch=None), "does not say its version of torch"),
    ],
)
def test_a_record_that_does_not_count(record: dict[str, Any], why: str) -> None:
    found = tune.tune([("r.json", record)])
    assert not found.chosen
    assert not found.tables
    assert any(why in reason for reason in found.left)


def test_a_time_of_other_sources_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is the fastest."""
    monkeypatch.setattr(
        tune, "_changed", lambda provider, commit: "changed" if provider.name == "triton" else None
    )
    record = made({"triton": 100, "sdpa": 400, "reference": 500})
    assert entry(record)["provider"] == "sdpa"
    assert tune.tune([("r.json", record)]).left == {
        "changed": ["attention llama3-8b-prefill triton"]
    }


def test_rows_of_a_cpu_or_of_unknown_problems_are_left_out() -> None:
    record = made({"triton": 400, "sdpa": 500})
    record["rows"] += [row("reference", 1, device="cpu"), row("triton", 1, op="nothing"),
                       row("triton", 1, case="odd", dims={"B": 1})]  # fmt: skip
    found = tune.tune([("r.json", record)])
    assert len(found.chosen) == 1
    reasons = " / ".join(found.left)
    assert "a CPU has one path" in reasons
    assert "there is no such op" in reasons
    assert "its problem can't be made" in reasons


INVARIANT = OP.case("llama3-8b-prefill-invariant")


def test_a_provider_that_does_not_take_the_problem_is_not_chosen() -> None:
    """Though a record has it as right and fastest: it promises no bits that are alike for every
    batch. Who is left is alone, and its choice stands."""
    dims = json.loads(json.dumps(INVARIANT.dims))
    us = {"triton_invariant": 400, "sdpa": 100, "reference": 90}
    record = made({})
    record["rows"] += [row(p, t, case=INVARIANT.name, dims=dims) for p, t in us.items()]
    found = entry(record)
    assert (found["provider"], found["fastest"]) == ("triton_invariant", "triton_invariant")
    record["rows"] = record["rows"][1:]
    assert not tune.tune([("r.json", record)]).chosen


def test_a_provider_whose_sources_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Held against the commit that the record names."""
    monkeypatch.undo()
    monkeypatch.setattr(env, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "aimills_made_up.py"
    source.write_text("launch = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@n"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    provider = Provider("made-up", "aimills_made_up:launch")
    assert tune._changed(provider, commit) is None
    assert "can't be had as of" in str(tune._changed(provider, "f" * 40))
    source.write_text("launch = 2\n")
    tune._changed.cache_clear()
    _records.source_hash.cache_clear()
    assert f"changed since {commit[:9]}" in str(tune._changed(provider, commit))


# ---- all cases of an op


def uncovered(op: Op, sm: int, entries: Iterable[_tuned.Entry]) -> list[str]:
    """The cases of the benchmark whose problem has no entry."""
    known = {e["problem"] for e in entries if (e["op"], e["sm"]) == (op.name, sm)}
    cases = [c for c in op.cases if "bench" in c.tags]
    return [c.name for c in cases if _tuned.signature(op, op.meta_inputs(c)) not in known]


MATMULS = [op for op in _registry.OPS if ".matmul." in op.reference.__module__]


@pytest.mark.full
@pytest.mark.parametrize("op", MATMULS, ids=str)
def test_a_record_of_all_cases_makes_a_table_that_covers_them(op: Op) -> None:
    rows = []
    for case in (c for c in op.cases if "bench" in c.tags):
        here = Problem(op, op.meta_inputs(case), "cuda", 90)
        taken = [p.name for p in op.all_providers if _dispatch.why_not(p, here) is None]
        work = {"op": op.name, "case": case.name, "dims": json.loads(json.dumps(case.dims))}
        times = enumerate(taken, 100)
        rows += [records.row(name, records.samples(us), **work) for us, name in times]
    record = records.record(
        rows, gpus=[GPU], torch=TORCH, triton=_records._triton_minor() + ".0"
    )  # fmt: skip
    entries = [chosen.entry for chosen in tune.tune([("all.json", record)]).chosen]
    assert uncovered(op, 90, entries) == []
    assert len(uncovered(op, 90, entries[1:])) == 1


@pytest.mark.parametrize("op", MATMULS, ids=str)
def test_recorded_scales_of_blocks_are_those_of_quantize_fp8(op: Op) -> None:
    """A table counts for the strides that were measured, and PyTorch's path takes no others."""
    for case in (c for c in op.cases if "bench" in c.tags and c.get("scale_a") == "1x128"):
        named = dict(zip(op.params, op.meta_inputs(case), strict=True))
        x = torch.empty(named["a"].shape, device="meta")
        _, scale = aimills_kernels.quantize_fp8(x, granularity="1x128")
        assert named["scale_a"].shape == scale.shape
        assert named["scale_a"].stride() == scale.stride(), case


def test_committed_tables_cover_every_case() -> None:
    """Of each op and GPU that they name."""
    for path in ROOT.glob("kernels/*/dispatch.json"):
        entries = _tuned.read(path)
        for name, sm in {(e["op"], e["sm"]) for e in entries}:
            assert uncovered(_registry.get_op(name), sm, entries) == [], f"{path}: {name} sm_{sm}"


# ---- the table at work


def test_explain_names_the_record_and_dispatch_follows(table: Path) -> None:
    before = explained()
    assert before.provider == "sdpa"
    _tuned.write(table, [entry(made({"sdpa": 400, "reference": 300}))])
    after = explained()
    assert after.provider == "reference"
    assert "serves; the choice of r0.json (2026-01-05" in why(after, "reference")
    assert explained(100).provider == before.provider  # of another capability it says nothing


def test_other_problems_are_not_touched(table: Path) -> None:
    _tuned.write(table, [entry(made({"sdpa": 400, "reference": 300}))])
    other = OP.case("llama3-8b-full")
    with _dispatch.assume_sm(90):
        found = explain_flat(OP, OP.meta_inputs(other), torch.device("cuda"))
    assert found.provider == "sdpa"


def test_a_choice_is_no_record_of_correctness(table: Path) -> None:
    _tuned.write(table, [entry(made({"triton": 100, "sdpa": 400}))])
    found = explained()
    assert found.provider == "sdpa"
    assert why(found, "triton").startswith("no record shows it correct")
    assert "the choice of r0.json" in why(found, "triton")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"sources": "0" * 16}, "the sources of 'reference' changed since"),
        ({"torch": "2.0"}, "it was measured with torch 2.0"),
    ],
)
def test_a_stale_entry_does_not_count(table: Path, changed: dict[str, str], text: str) -> None:
    stale = entry(made({"sdpa": 400, "reference": 300})) | changed
    _tuned.write(table, [stale])
    found = explained()
    assert found.provider == "sdpa"
    assert f"does not count: {text}" in why(found, "reference")
    again = tune.tune([("r.json", made({"sdpa": 300, "reference": 400}))])
    assert [e["provider"] for e in again.tables[table]] == ["sdpa"]


def test_an_entry_of_a_provider_that_is_gone(table: Path) -> None:
    _tuned.write(table, [entry(made({"sdpa": 400, "reference": 300})) | {"provider": "gone"}])
    assert explained().provider == "sdpa"


def test_entries_stay_until_they_are_measured_anew(table: Path) -> None:
    first = entry(made({"sdpa": 400, "reference": 300}))
    kept = first | {"sm": 100}
    stale = first | {"sm": 80, "sources": "0" * 16}
    other = first | {"op": "attention_varlen"}
    _tuned.write(table, [first, kept, stale, other])
    found = tune.tune([("r.json", made({"sdpa": 300, "reference": 400}))])
    left = {(e["op"], e["sm"], e["provider"]) for e in found.tables[table]}
    assert left == {("attention", 90, "sdpa"), ("attention", 100, "reference"),
                    ("attention_varlen", 90, "reference")}  # fmt: skip
    assert any("an entry of before is dropped" in reason for reason in found.left)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema": 9, "entries": []}', '{"schema": 1}', '{"schema": 1, "entries": [3]}',
     '{"schema": 1, "entries": [{"op": "attention"}]}'],
)  # fmt: skip
def test_a_wrong_table_is_not_used_and_not_written_over(
    table: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(text)
    with pytest.warns(UserWarning, match=r"dispatch\.json: .*; it is not used"):
        assert explained().provider == "sdpa"
    path = tmp_path / "r.json"
    _record.save(made({"sdpa": 400, "reference": 300}), path)
    assert main(["bench", "tune", str(path)]) == 3
    assert str(table) in capsys.readouterr().err
    assert table.read_text() == text


# ---- the command


def test_the_command(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    _record.save(made({"sdpa": 400, "reference": 300}), path)
    assert main(["bench", "tune", str(path), "--dry-run"]) == 0
    assert not table.exists()
    assert "would be written" in capsys.readouterr().out
    assert main(["bench", "tune", str(path)]) == 0
    assert "choices of 1 problem" in capsys.readouterr().out
    assert explained().provider == "reference"
    first = table.read_text()
    assert main(["bench", "tune", str(path)]) == 0
    assert table.read_text() == first
    (tmp_path / "cut.json").write_text("{")
    assert main(["bench", "tune", str(path), str(tmp_path / "cut.json")]) == 2
    assert table.read_text() == first


def test_the_command_without_a_choice(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _record.save(made({"sdpa": 400}), tmp_path / "r.json")
    assert main(["bench", "tune", str(tmp_path / "r.json")]) == 2
    assert "nothing is written" in capsys.readouterr().out
    assert main(["bench", "tune", str(tmp_path / "nowhere")]) == 2
    assert not table.exists()


# ---- the whole way, from a run to what serves


FP8 = _registry.get_op("matmul_fp8")


def launch_exact(outs: tuple, *args: Any) -> None:
    outs[0].copy_(FP8.reference(*args))


def launch_loose(outs: tuple, *args: Any) -> None:
    """As from sums of few bits."""
    outs[0].copy_(FP8.reference(*args) * 1.02)


def planted(**vendors: str) -> Op:
    """The op with vendors' providers of these launches in place of its own."""
    made = (
        Provider(n, f"{__name__}:{t}", devices=("cpu", "cuda"), vendor=True, last=n == "last")
        for n, t in vendors.items()
    )
    return replace(FP8, providers=tuple(made))


def simulated(op: Op, us: dict[str, float]) -> dict[str, Any]:
    """A run of a CPU, whose rows are given times and made those of a GPU: what it found right and
    wrong is true, the rest is not."""
    run = bench.run(ops=[op], cases=["tiny"], device="cpu", budget_s=2.0, peers=False, least=6)
    for each in run["rows"]:
        timed = records.spread(records.samples(us[each["provider"]]))
        each |= {"device": "cuda:0", "mode": "stream", "suspect": None, **timed}
    stamps = {"torch": TORCH, "triton": _records._triton_minor() + ".0"}
    return records.record(run["rows"], gpus=[GPU], **stamps)


@pytest.mark.parametrize(
    ("us", "served"),
    [
        ({"exact": 400, "loose": 40, "last": 500, "reference": 9000}, "exact"),
        ({"exact": 400, "loose": 40, "last": 300, "reference": 9000}, "last"),
        ({"exact": 400, "loose": 40, "last": 350, "reference": 300}, "reference"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_what_a_run_found_right_and_fastest_serves(
    table: Path, monkeypatch: pytest.MonkeyPatch, us: dict[str, float], served: str
) -> None:
    """A path with a looser error is in the record, is ten times faster, and does not."""
    spec = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}
    monkeypatch.setattr(ceilings, "measure", lambda device: spec)
    op = planted(exact="launch_exact", loose="launch_loose", last="launch_exact")
    record = simulated(op, us)
    assert {r["provider"]: r["validated"] for r in record["rows"]} == {
        name: name != "loose" for name in us
    }
    made = tune.tune([("simulated.json", record)], [op])
    _tuned.write(table, made.tables[table])
    args = op.meta_inputs(op.case("tiny"))
    with _dispatch.assume_sm(90):
        found = explain_flat(op, args, torch.device("cuda"))
    assert found.provider == served
    assert "serves; the choice of simulated.json" in why(found, served)
    with _dispatch.assume_sm(100):
        elsewhere = explain_flat(op, args, torch.device("cuda"))
    assert elsewhere.provider == "exact"
    assert why(elsewhere, "exact") == "serves, by the built-in order"


# ---- other numbers of rows


def of_rows(rows: int, **more: Any) -> Case:
    return Case(
        f"rows-{rows}", M=rows, N=4096, K=4096, **({"scale_a": "row", "scale_b": "row"} | more)
    )


def fp8_entry(case: Case, provider: str, **more: Any) -> _tuned.Entry:
    """Simulated: nobody measured it."""
    return {
        "op": FP8.name, "sm": 90, "problem": _tuned.signature(FP8, FP8.meta_inputs(case)),
        "provider": provider, "record": f"simulated for {case.M} rows", "median_us": 1.0,
        "fastest": provider, "fastest_us": 1.0, "config": None,
        **_tuned.stamp(FP8, FP8.provider(provider)), **more,
    }  # fmt: skip


def fp8_choice(case: Case) -> tuple[str, str]:
    """The provider on sm_90 and where its choice comes from, were every kernel shown correct."""
    with _dispatch.assume_sm(90):
        found = explain_flat(FP8, FP8.meta_inputs(case), torch.device("cuda"))
    assert found.provider is not None
    return found.provider, why(found, found.provider)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_records, "missing", lambda op, provider, sm: None)


@pytest.mark.parametrize(
    ("rows", "served", "source"),
    [
        (64, "triton", "simulated for 64 rows"),
        (100, "triton", "simulated for 64 rows, made for 64 rows, the nearest recorded"),
        (16, "triton", "the nearest recorded"),
        (15, "triton", "built-in order"),
        (512, "scaled_mm", "made for 1024 rows, the nearest recorded"),
        (256, "scaled_mm", "made for 1024 rows"),  # as near to both
        (255, "triton", "made for 64 rows"),
        (4096, "scaled_mm", "made for 1024 rows"),
        (4097, "triton", "built-in order"),
    ],
)
def test_a_choice_serves_numbers_of_rows_nearby(
    table: Path, proven: None, rows: int, served: str, source: str
) -> None:
    _tuned.write(table, [fp8_entry(of_rows(64), "triton"), fp8_entry(of_rows(1024), "scaled_mm")])
    found, said = fp8_choice(of_rows(rows))
    assert found == served
    assert source in said


@pytest.mark.parametrize(
    "more",
    [{"scale_a": "tensor", "scale_b": "tensor"}, {"out": "f16"}, {"bias": "bf16"},
     {"act": "gelu"}, {"K": 4112}, {"accum": "fast"}, {"layout": "sliced"}],
    ids=str,
)  # fmt: skip
def test_what_differs_by_more_than_rows_is_not_near(
    table: Path, proven: None, more: dict[str, Any]
) -> None:
    """The reference would serve, if it were."""
    _tuned.write(table, [fp8_entry(of_rows(64), "reference")])
    assert fp8_choice(of_rows(65))[0] == "reference"
    case = of_rows(65)
    case.dims |= more
    assert fp8_choice(case)[0] == "triton"


def test_rows_whose_bits_must_not_depend_on_their_number_have_no_neighbours(table: Path) -> None:
    cases = [of_rows(rows, invariant=True) for rows in (64, 65)]
    _tuned.write(table, [fp8_entry(cases[0], "triton")])
    problems = [Problem(FP8, FP8.meta_inputs(case), "cuda", 90) for case in cases]
    assert [_tuned.tuned(FP8, p) is None for p in problems] == [False, True]


def test_rows_do_not_decide_who_serves_where_bits_must_be_alike(table: Path, proven: None) -> None:
    """The kernel and the reference each keep the promise of int8, and round differently."""
    op = _registry.get_op("matmul_int8")
    case = Case("rows", M=64, N=4096, K=4096, scale_a="row", scale_b="row", invariant=True)
    work = {"op": op.name, "case": case.name, "dims": json.loads(json.dumps(case.dims))}
    record = made({})
    record["rows"] = [
        records.row(name, records.samples(us), **work)
        for name, us in (("triton", 400), ("reference", 100))
    ]
    written = entry(record)
    assert (written["provider"], written["fastest"]) == ("triton", "reference")
    by_hand = written | {"provider": "reference"}
    by_hand |= _tuned.stamp(op, op.provider("reference"))
    _tuned.write(table, [by_hand])
    args = op.meta_inputs(case)
    with _dispatch.assume_sm(90):
        found = explain_flat(op, args, torch.device("cuda"))
    assert found.provider == "triton"
    assert "with batch_invariant=True 'triton' serves all rows" in why(found, "reference")
    plain = op.meta_inputs(Case("rows", **{**case.dims, "invariant": False}))
    _tuned.write(table, [by_hand | {"problem": _tuned.signature(op, plain)}])
    with _dispatch.assume_sm(90):
        assert explain_flat(op, plain, torch.device("cuda")).provider == "reference"


def test_scales_of_blocks_have_neighbours(table: Path, proven: None) -> None:
    """Their strides name the rows."""
    blocks = {"scale_a": "1x128", "scale_b": "128x128"}
    _tuned.write(table, [fp8_entry(of_rows(64, **blocks), "scaled_mm")])
    assert fp8_choice(of_rows(68, **blocks))[0] == "scaled_mm"
    assert fp8_choice(of_rows(66, **blocks))[0] == "triton_block"  # it takes rows by 4


@pytest.mark.parametrize("rows", [64, 65])
def test_tiles_go_along_where_they_are_declared(table: Path, proven: None, rows: int) -> None:
    """Elsewhere the built-in ones serve, and the choice of the provider stands."""
    provider = FP8.provider("triton")
    declared = [
        {str(c) for c in provider.configs(Problem(FP8, FP8.meta_inputs(case), "cuda", 90))}
        for case in (of_rows(64), of_rows(65))
    ]
    both, lost = declared[0] & declared[1], declared[0] - declared[1]
    for name in (*sorted(both), *sorted(lost)):
        _tuned.write(table, [fp8_entry(of_rows(64), "triton", config=name)])
        _, said = fp8_choice(of_rows(rows))
        tuned = name in both or rows == 64
        assert (f"tiles {name}, tuned" in said) == tuned
        assert tuned or "built in; the choice of simulated" in said
    assert both
    assert lost


def test_tiles_of_rows_nearby_are_compiled_ahead(
    table: Path, proven: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 265 rows serve 260 to 286, and no power of two lies there."""
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels import _precompile

    made: set[tuple[str, bool]] = set()

    def note(op: Op, args: tuple, provider: Provider, *_: Any) -> None:
        made.add((str(provider.config), args[0].shape[0] % 16 == 0))

    monkeypatch.setattr(_precompile._aot, "compile_provider", note)
    triton = FP8.provider("triton")
    tiles = list(map(str, triton.configs(Problem(FP8, FP8.meta_inputs(of_rows(300)), "cuda", 90))))
    chosen = {265: tiles[1], 310: tiles[2]}
    entries = [fp8_entry(of_rows(n), "triton", config=name) for n, name in chosen.items()]
    _tuned.write(table, [*entries, fp8_entry(of_rows(255), "triton")])
    _precompile.precompile([(FP8, of_rows(600))], 90, table.parent, lambda *_: None)
    assert made >= {(name, even) for name in chosen.values() for even in (False, True)}


@pytest.mark.parametrize("rows", [(64,), (3, 100), (64, 65, 300), (7, 8, 9, 1000)])
def test_where_another_choice_begins(rows: tuple[int, ...]) -> None:
    served = [_nearby.nearest(n, rows) for n in range(1, 5000)]
    changes = {n + 1 for n in range(1, 4999) if served[n] != served[n - 1]}
    assert changes - {1} <= _nearby.firsts(rows)
    assert changes


@pytest.mark.parametrize("op", MATMULS, ids=str)
def test_every_matmul_and_quantisation_names_its_rows(op: Op) -> None:
    """Twice as many rows of any recorded problem are near it, whatever its layout."""
    for case in (c for c in op.cases if "bench" in c.tags and not c.get("invariant", False)):
        more = Case(case.name)
        more.dims |= case.dims
        if "M" in case.dims:
            more.dims["M"] *= 2
        elif "shape" in case.dims:
            *lead, rows, k = case.shape
            more.dims["shape"] = (*lead, 2 * rows, k)
        else:
            more.dims["counts"] = tuple(2 * n for n in case.counts)
        texts = [_tuned.signature(op, op.meta_inputs(c)) for c in (case, more)]
        (one, rows), (two, twice) = (_nearby.but_rows(op, text) or ("", 0) for text in texts)
        assert twice == 2 * rows > 0
        assert one == two or rows == 1  # of which strides say nothing
