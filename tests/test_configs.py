"""Tiles as candidates: checked and timed as rows of their own, chosen by `bench tune`, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels import _configs, _dispatch, _records, _registry, _tuned
from aimills_kernels._explain import Explanation, explain_flat
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels.cli import main
from aimills_kernels.harness import _problems, bench, ceilings, compare, isolated, model_bench, tune
from aimills_kernels.harness import record as _record
from aimills_kernels.kernels.hardware import SHARED_KIB
from aimills_kernels.report import chosen, steps
from tests import records

OP = _registry.get_op("attention")
CASE = OP.case("llama3-8b-prefill")
GPU = records.H100 | {"sm": 90, "compute_capability": 9.0}
BUILT_IN, OTHER, THIRD = (
    "128x64 8 warps 2 stages",
    "128x64 8 warps 3 stages",
    "64x64 8 warps 2 stages",
)
TILED = [(op, p) for op in _registry.OPS for p in op.providers if p.configs is not None]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A table of its own, sources that no commit has changed, and a record of correctness."""
    path = tmp_path / "dispatch.json"
    monkeypatch.setattr(_tuned, "table_file", lambda op: path)
    monkeypatch.setattr(tune, "_changed", lambda provider, commit: None)
    monkeypatch.setattr(_records, "missing", lambda op, provider, sm: None)
    _tuned._entries.cache_clear()
    yield path
    _tuned._entries.cache_clear()


def row(us: float, config: str | None = None, provider: str = "triton", **more: Any) -> dict:
    dims = json.loads(json.dumps(CASE.dims))
    name = f"{provider} {config}" if config else provider
    return records.row(
        name, records.samples(us), op=OP.name, case=CASE.name, dims=dims, config=config, **more
    )


def made(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A record of an H100 with these rows, and of a slower provider."""
    stamps = {
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda},
        "triton": _records._triton_minor() + ".0",
    }
    return records.record([*rows, row(900, provider="sdpa")], **({"gpus": [GPU]} | stamps | more))


def tuned(*rows: dict[str, Any]) -> tune.Tuning:
    return tune.tune([("r.json", made(*rows))])


def entry(*rows: dict[str, Any]) -> _tuned.Entry:
    (found,) = tuned(*rows).chosen
    return found.entry


def problem(sm: int, op: Op = OP, case: Any = CASE) -> Problem:
    return Problem(op, _arguments(op, case), "cuda", sm)


_arguments = lru_cache(maxsize=None)(_problems.arguments)  # the same for each architecture


# ---- the choice


@pytest.mark.parametrize(
    ("us", "config"),
    [
        ({None: 400, OTHER: 380}, OTHER),
        ({None: 400, OTHER: 390}, None),  # within 3 %
        ({None: 400, OTHER: 300, THIRD: 299}, THIRD),
        ({None: 400, OTHER: 500}, None),
    ],
)
def test_other_tiles_have_to_beat_the_built_in(
    table: Path, us: dict[str | None, float], config: str | None
) -> None:
    found = entry(*(row(time, name) for name, time in us.items()))
    assert (found["provider"], found["config"]) == ("triton", config)
    assert found["median_us"] == pytest.approx(us[config], rel=0.02)


@pytest.mark.parametrize(
    ("flaw", "why"),
    [
        ({"validated": False}, None),
        ({"suspect": "1.2 times the ceiling"}, "its time is suspect"),
        ({"n": 3, "samples_us": [1.0, 1.0, 1.0]}, "fewer than 5 samples"),
    ],
)
def test_a_wrong_or_flawed_candidate_is_never_written(
    table: Path, flaw: dict[str, Any], why: str | None
) -> None:
    found = tuned(row(400), row(100, OTHER, **flaw))
    (written,) = found.tables[table]
    assert written["config"] is None
    assert why is None or f"attention llama3-8b-prefill triton {OTHER}" in found.left[why]


def test_a_candidate_without_the_built_in_beside_it_does_not_count(table: Path) -> None:
    found = tuned(row(100, OTHER), row(950, provider="reference"))
    assert [e["provider"] for e in found.tables[table]] == ["sdpa"]
    assert any("the built-in tiles have no time" in why for why in found.left)


def test_tiles_that_are_none_now_are_left_out(table: Path) -> None:
    found = tuned(row(400), row(100, "8x8 1 warps 1 stages"))
    assert [e["config"] for e in found.tables[table]] == [None]
    assert any("there are no such tiles" in why for why in found.left)


def test_tiles_do_not_lift_a_provider_that_is_slower(table: Path) -> None:
    assert entry(row(2000), row(1500, OTHER))["provider"] == "sdpa"


# ---- what is launched


class FakeKernel:
    """In the place of a Triton kernel: keeps what it is launched with."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **options: self.seen.append(options)


def launched(monkeypatch: pytest.MonkeyPatch, sm: int = 90, op: Op = OP, case: Any = CASE) -> str:
    """The tiles with which a call's plan launches the forward kernel."""
    fwd = pytest.importorskip("aimills_kernels.kernels.attention.triton_fwd")
    fake = FakeKernel()
    monkeypatch.setattr(fwd, "_attention_fwd_kernel", fake)
    monkeypatch.setattr(_dispatch, "one_device", lambda op, args: torch.device("cuda", 0))
    args = problem(sm, op, case).args
    with _dispatch.assume_sm(sm):
        plan = _dispatch._make_plan(op, args)
        assert plan.provider.name == "triton"
        plan.launch(plan.templates, *args)
    (used,) = fake.seen
    tile = f"{used['BLOCK_M']}x{used['BLOCK_N']}"
    return f"{tile} {used['num_warps']} warps {used['num_stages']} stages"


def explained(sm: int = 90) -> Explanation:
    with _dispatch.assume_sm(sm):
        return explain_flat(OP, OP.meta_inputs(CASE), torch.device("cuda"))


def why(sm: int = 90) -> str:
    return next(text for name, _, text in explained(sm).rows if name == "triton")


def test_the_tuned_tiles_are_launched(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch) == BUILT_IN
    assert why() == f"serves, by the built-in order; tiles {BUILT_IN}, built in"
    _tuned.write(table, [entry(row(400), row(300, OTHER))])
    assert launched(monkeypatch) == OTHER
    assert why().startswith(f"serves; tiles {OTHER}, tuned; the choice of r.json")
    assert _configs.config("built in") == "built in", "what was given outlived the launch"


def test_they_are_launched_where_the_provider_is_asked_for(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tuned.write(table, [entry(row(400), row(300, OTHER))])
    with _dispatch.use_provider("attention", "triton"):
        assert launched(monkeypatch) == OTHER
        assert f"serves, as asked for; tiles {OTHER}, tuned" in why()


def test_other_gpus_and_problems_keep_the_built_in(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tuned.write(table, [entry(row(400), row(300, OTHER))])
    monkeypatch.setattr(_dispatch, "_hint", lambda *args: None)
    for sm, case in ((80, CASE), (100, CASE), (90, OP.case("llama3-8b-full"))):
        first = OP.provider("triton").configs(problem(sm, case=case))[0]
        assert launched(monkeypatch, sm, case=case) == str(first)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"sources": "0" * 16}, "the sources of 'triton' changed since"),
        ({"triton": "2.0"}, "it was measured with triton 2.0"),
        (
            {"config": "1x1 1 warps 1 stages"},
            "has no tiles '1x1 1 warps 1 stages' for this problem",
        ),
    ],
)
def test_an_entry_that_does_not_count(
    table: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], text: str
) -> None:
    _tuned.write(table, [entry(row(400), row(300, OTHER)) | changed])
    assert launched(monkeypatch) == BUILT_IN
    assert text in why()
    assert f"tiles {BUILT_IN}, built in" in why()


def test_a_damaged_entry_is_one_sentence(
    table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = entry(row(400), row(300, OTHER)) | {"config": {"block_m": 64}}
    _tuned.write(table, [damaged])
    text = r"dispatch\.json: entries\[0\] has 'config' as \{'block_m': 64\}"
    with pytest.raises(ValueError, match=text):
        _tuned.read(table)
    with pytest.warns(UserWarning, match=f"{text}; it is not used"):
        assert launched(monkeypatch) == BUILT_IN
    path = tmp_path / "record.json"
    _record.save(made(row(400), row(300, OTHER)), path)
    before = table.read_text()
    assert main(["bench", "tune", str(path)]) == 3
    assert table.read_text() == before


def test_a_table_of_before_has_the_built_in(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = entry(row(400), row(300, OTHER))
    del old["config"]
    _tuned.write(table, [old])
    assert launched(monkeypatch) == BUILT_IN


def test_what_is_compiled_ahead_has_the_tuned_tiles(
    table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton")
    from aimills_kernels import _precompile

    seen: list[Provider] = []
    monkeypatch.setattr(_precompile, "variants", lambda op, case, sm: [case])  # not of fewer rows
    monkeypatch.setattr(
        _precompile._aot, "compile_provider", lambda op, args, p, *rest: seen.append(p)
    )
    _tuned.write(table, [entry(row(400), row(300, OTHER))])
    for sm in (90, 100):
        _precompile.precompile([(OP, CASE)], sm, tmp_path, lambda *_: None)
    assert [str(p.config) for p in seen if p.name == "triton"] == [OTHER, "None"]


# ---- the candidates


@pytest.mark.parametrize(
    "sm",
    [
        pytest.param(sm, marks=() if sm == 90 else pytest.mark.full)
        for sm in (*sorted(SHARED_KIB), None)
    ],
)
@pytest.mark.parametrize(("op", "provider"), TILED, ids=str)
def test_candidates_are_few_and_named_apart(op: Op, provider: Provider, sm: int) -> None:
    for case in op.cases:
        if case.tags & {"bench", "aot", "interpret"}:
            here = problem(sm, op, case)
            if provider.rejects is not None and provider.rejects(here):
                continue
            configs = provider.configs(here)
            least = 8 if "w4" in op.name else 16  # of tl.dot; rows of x are its columns for w4
            assert all(min(c.block_m, c.block_n) >= least for c in configs)
            found = list(map(str, configs))
            assert len(set(found)) == len(found)
            assert 1 <= len(found) <= 7
            if case.get("invariant", False):
                assert len(found) == 1
            elif "bench" in case.tags:
                assert len(found) >= 3


@pytest.mark.parametrize("act", ["none", "swiglu"])
@pytest.mark.parametrize("M", [1, 16, 64])
@pytest.mark.parametrize("scales", [{}, {"scale_a": "1x128", "scale_b": "128x128"}], ids=str)
def test_a_candidate_that_stores_codes_is_as_wide_as_their_scales(
    scales: dict[str, str], M: int, act: str
) -> None:
    """One of half as many splits may have none, and then no second kernel that makes codes."""
    op, splits = _registry.get_op("matmul_quantize_fp8"), set()
    for N, K in ((256, 1024), (4096, 1152), (4096, 4096)):
        args = op.meta_inputs(Case("split", M=M, N=N, K=K, act=act, **scales))
        for sm in (80, 90, 100, 120):
            (provider,) = op.providers
            for config in _configs.every(provider, Problem(op, args, "cuda", sm)):
                splits.add(config.splits)
                assert config.splits > 1 or config.block_n == (256 if act == "swiglu" else 128)
    assert splits - {1}


def test_attention_takes_its_tiles_from_the_same_place_as_its_candidates(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of how tiles are picked reaches both."""
    for name in ("llama3-8b-decode", "aot-200", "aot-f32", "aot-72-decode"):
        for sm in (80, 90, 120):
            case = OP.case(name)
            first = OP.provider("triton").configs(problem(sm, case=case))[0]
            with _dispatch.use_provider("attention", "triton"):
                assert launched(monkeypatch, sm, case=case) == str(first)


# ---- the benchmark


@dataclass(frozen=True)
class Step:
    """A configuration of the op below."""

    by: int

    def __str__(self) -> str:
        return f"by {self.by}"


def launch_in_steps(outs: tuple, *args: Any) -> None:
    """The reference; wrong with steps of 3."""
    wanted = OP.results(args)
    step = _configs.config(Step(1)).by
    seen_steps.append(step)
    for out, value in zip(outs, wanted, strict=True):
        out.copy_(value if step != 3 else value + 1)


seen_steps: list[int] = []
STEPPED = replace(
    OP,
    providers=(
        Provider(
            "stepped", f"{__name__}:launch_in_steps", devices=("cpu",),
            configs=lambda problem: [Step(1), Step(2), Step(3)],
        ),
    ),
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}
    monkeypatch.setattr(ceilings, "measure", lambda device: spec)


def run(**options: Any) -> dict[str, Any]:
    return bench.run(
        ops=[STEPPED], cases=["tiny"], device="cpu", budget_s=2.0, peers=False, least=6, **options
    )


def test_each_candidate_is_a_row_and_a_wrong_one_has_no_time(quick: None) -> None:
    seen_steps.clear()
    record = run(configs=True)
    found = {r["provider"]: r for r in record["rows"]}
    assert {name: r["config"] for name, r in found.items()} == {
        "stepped": None, "stepped by 2": "by 2", "stepped by 3": "by 3", "reference": None,
    }  # fmt: skip
    assert found["stepped by 2"]["validated"]
    assert found["stepped by 2"]["median_us"] > 0
    assert found["stepped by 3"]["failure"]
    assert found["stepped by 3"]["median_us"] is None
    assert set(seen_steps) == {1, 2, 3}
    assert not any(r["peer"] for name, r in found.items() if name.startswith("stepped"))


def test_without_the_option_there_is_the_built_in_alone(quick: None) -> None:
    seen_steps.clear()
    assert [r["provider"] for r in run()["rows"]] == ["stepped", "reference"]
    assert set(seen_steps) == {1}


def test_a_candidate_that_ended_its_worker_is_left_out_and_named(quick: None) -> None:
    record = run(configs=True, without=["stepped by 2"])
    assert "stepped by 2" not in {r["provider"] for r in record["rows"]}
    blank = isolated._blank(STEPPED, STEPPED.case("tiny"), "stepped by 2", {"device": "cpu"})
    assert (blank["provider"], blank["config"], blank["peer"]) == ("stepped by 2", "by 2", False)
    other = isolated._blank(STEPPED, STEPPED.case("tiny"), "flash_attn", {"device": "cpu"})
    assert (other["config"], other["peer"]) == (None, True)


def test_the_option(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "quantize_fp8", "--configs", "--device", "cpu"]) == 3
    assert "no other tiles are declared for quantize_fp8" in capsys.readouterr().err


# ---- what is made of the rows


def verdicts(base: dict[str, Any], new: dict[str, Any]) -> compare.Comparison:
    return compare.compare_records(base, new)


def test_compare_takes_tiles_apart() -> None:
    base, new = made(row(400), row(300, OTHER)), made(row(400), row(450, OTHER))
    found = {v.provider: v.verdict for v in verdicts(base, new).verdicts}
    assert found == {"triton": "SAME", f"triton {OTHER}": "SLOWER", "sdpa": "SAME"}


def test_compare_leaves_out_tiles_that_one_side_tried() -> None:
    swept, plain = made(row(400), row(300, OTHER), row(500, THIRD)), made(row(400))
    for base, new in ((swept, plain), (plain, swept)):
        found = verdicts(base, new)
        assert [v.provider for v in found.verdicts] == ["triton", "sdpa"]
        assert found.code == 0
        assert "left out are rows of tiles that only one side tried (2)" in found.named


def test_history_and_report_take_tiles_apart() -> None:
    sources = [
        chosen.Source(f"{i}.json", made(row(400), row(us, OTHER), created=f"2026-01-0{i}"))
        for i, us in ((1, 300), (2, 450))
    ]
    (machine,) = chosen.machines(sources)
    found = {p.row["provider"]: p.steps[-1].verdict for p in steps.pasts(machine)}
    assert found["triton"].verdict == "SAME"
    assert found[f"triton {OTHER}"].verdict == "SLOWER"


def test_candidates_are_no_part_of_a_pass() -> None:
    ours, _ = model_bench._best([row(400), row(300, OTHER), row(900, provider="sdpa")])
    assert ours is not None
    assert ours["provider"] == "triton"
