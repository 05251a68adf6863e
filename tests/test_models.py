"""Real models by name: their weights against published numbers, their calls against arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimills_kernels._registry import OPS, get_op
from aimills_kernels.cli import main
from aimills_kernels.harness import bench, ceilings, model_bench
from aimills_kernels.harness._forward import ELEMENTWISE, Forward, forward
from aimills_kernels.harness._layers import active, parameters
from aimills_kernels.harness.models import MODELS, Model, get_model
from aimills_kernels.harness.record import blank, load

# What transformers 5.24 and diffusers 0.42 count for these configurations; DeepSeek-V3 with the
# 14,848 correction biases that they hold as buffers.
COUNTED = {
    "llama3-8b": 8030261248,
    "llama3-70b": 70553706496,
    "qwen3-8b": 8190735360,
    "qwen3-32b": 32762123264,
    "qwen3-30b-a3b": 30532122624,
    "qwen3-235b-a22b": 235093634560,
    "deepseek-v3": 671026404352 + 14848,
    "gpt-oss-20b": 20914757184,
    "gpt-oss-120b": 116829156672,
    "qwen2.5-vl-7b": 8292166656,
    "wan2.1-t2v-14b": 14288491584,
}
LANGUAGE = [m for m in MODELS if m.decoder]
each = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
each_language = pytest.mark.parametrize("model", LANGUAGE, ids=lambda m: m.name)


def rounded(text: str) -> tuple[float, float]:
    """A published number such as 70.6B, and half of its last digit."""
    digits = text.removesuffix("B")
    places = len(digits.partition(".")[2])
    return float(digits) * 1e9, 0.5 * 10.0**-places * 1e9


@each
def test_weights_are_those_that_were_published(model: Model) -> None:
    assert parameters(model) == COUNTED[model.name]
    published, half = rounded(model.parameters)
    assert abs(parameters(model) - published) <= half


@pytest.mark.parametrize("model", [m for m in MODELS if m.active], ids=lambda m: m.name)
def test_active_weights_are_those_that_were_published(model: Model) -> None:
    """Publishers count an embedding's row, both embeddings whole, or neither: within 10 %."""
    assert model.active
    published, _ = rounded(model.active)
    assert active(model) == pytest.approx(published, rel=0.1)


@each_language
def test_a_token_costs_two_operations_a_weight(model: Model) -> None:
    found = forward(model, "decode", context=1)
    flops = sum(c.count * get_op(c.op).cost(c.case).flops for c in found.calls if "matmul" in c.op)
    flops += sum(g.count * g.cost.flops for g in found.gaps if "attention" not in g.what)
    flops += sum(g.count * g.cost.flops for g in found.gaps if "absorbed" in g.what)
    assert flops == pytest.approx(2 * active(model), rel=1e-3)


@each
def test_every_case_can_be_made_and_belongs_to_an_op(model: Model) -> None:
    for phase in model.phases:
        for call in forward(model, phase).calls:
            op = get_op(call.op)
            op.fake(*op.meta_inputs(call.case))
            assert op.cost(call.case.on("cpu")).flops <= 2**31, "too much for a CPU"


def work(found: Forward) -> float:
    made = sum(c.count * get_op(c.op).cost(c.case).flops for c in found.calls if "q" not in c.op)
    return made + sum(g.count * g.cost.flops for g in found.gaps if "router" not in g.what)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["llama3-8b", "llama3-70b", "gpt-oss-120b", "qwen3-8b"])
@pytest.mark.parametrize("tp", [2, 8])
def test_gpus_share_the_work_evenly(name: str, phase: str, tp: int) -> None:
    """With no more GPUs than key-value heads, nothing but the router is done twice."""
    one, some = (forward(get_model(name), phase, tp=n, context=1024) for n in (1, tp))
    assert work(some) * tp == pytest.approx(work(one), rel=1e-9)


def dims(found: Forward, name: str) -> dict[str, Any]:
    (case,) = [c.case for c in found.calls if c.case.name == f"{found.model} {name}"]
    return case.dims


def test_shapes_of_llama3_70b_on_eight_gpus() -> None:
    found = forward(get_model("llama3-70b"), "decode", tp=8, batch=16, context=8192)
    wanted = {"B": 16, "M": 1, "N": 8192, "H": 8, "G": 1, "D": 128, "Dv": 128, "causal": True}
    assert dims(found, "tp8 decode attention") == wanted
    rows = {"scale_a": "row", "scale_b": "row"}
    assert dims(found, "tp8 decode qkv") == {"M": 16, "N": 1280, "K": 8192, **rows}
    assert dims(found, "tp8 decode o") == {"M": 16, "N": 8192, "K": 1024, **rows}
    assert dims(found, "tp8 decode gate_up") == {"M": 16, "N": 7168, "K": 8192, **rows}
    assert dims(found, "tp8 decode down") == {"M": 16, "N": 8192, "K": 3584, **rows}
    counts = {c.case.name.removeprefix("llama3-70b tp8 decode "): c.count for c in found.calls}
    assert counts["quantize 16x8192"] == 2 * 80  # before qkv and before gate_up
    assert counts["attention"] == counts["quantize 16x1024"] == 80


def test_key_value_heads_are_repeated_where_there_are_more_gpus() -> None:
    found = forward(get_model("llama3-70b"), "prefill", tp=16)
    attention = dims(found, "tp16 prefill attention")
    assert (attention["H"], attention["G"]) == (4, 1)
    assert dims(found, "tp16 prefill qkv")["N"] == (4 + 1 + 1) * 128


@pytest.mark.parametrize(
    ("name", "tp", "said"),
    [
        ("llama3-8b", 3, "does not divide the 32 heads of llama3-8b"),
        ("llama3-70b", 12, "does not divide the 64 heads"),
        ("qwen2.5-vl-7b", 8, "does not divide the 3420"),
        ("qwen3-235b-a22b", 3, "does not divide"),
    ],
)
def test_a_tp_that_does_not_divide_is_a_sentence(name: str, tp: int, said: str) -> None:
    model = get_model(name)
    with pytest.raises(ValueError, match=said):
        forward(model, model.phases[0], tp=tp)


def test_what_is_not_covered_is_named() -> None:
    for name, phase, words in (
        ("gpt-oss-20b", "decode", ["sliding-window attention, attention sinks", "grouped matmul"]),
        ("deepseek-v3", "decode", ["latent attention", "grouped matmul", "router"]),
        ("llama3-8b", "prefill", ["lm_head"]),
        ("wan2.1-t2v-14b", "denoise", ["text_embedding", "head"]),
    ):
        said = "; ".join(forward(get_model(name), phase).not_covered())
        assert ELEMENTWISE in said
        for word in words:
            assert word in said, said
    assert not [c for c in forward(get_model("gpt-oss-20b"), "decode").calls if c.op == "attention"]


def test_prefill_of_deepseek_attends_with_made_keys() -> None:
    found = forward(get_model("deepseek-v3"), "prefill", tp=8, context=4096)
    attention = dims(found, "tp8 prefill attention")
    assert (attention["H"], attention["G"], attention["D"], attention["Dv"]) == (16, 16, 192, 128)


def test_sliding_window_costs_its_window() -> None:
    """Of a decode over 8192 keys, 128 are seen."""
    near, far = forward(get_model("gpt-oss-20b"), "decode", context=8192).gaps[:2]
    assert near.count == far.count == 12
    assert far.cost.flops == 64 * near.cost.flops
    prefill = forward(get_model("gpt-oss-20b"), "prefill", context=300).gaps[0]
    pairs = sum(min(i + 1, 128) for i in range(300))
    assert prefill.cost.flops == 4 * 64 * 64 * pairs


# ---- the sum


def row(case: str, provider: str, us: float, **more: Any) -> dict[str, Any]:
    found = blank(op="matmul_fp8", case=case, provider=provider, device="cuda:0", peer=False)
    return found | {"median_us": us, "validated": True, "count": 3, "n": 9} | more


STATED = {
    "model": "m", "phase": "decode", "tp": 1, "layers": 3, "not_covered": ["a gap"],
    "calls": {"a": {"flops": 60, "bytes": 10}, "b": {"flops": 20, "bytes": 10}},
    "gaps": {"flops": 20, "bytes": 20},
}  # fmt: skip


def test_the_sum_is_over_the_fastest_right_kernels() -> None:
    rows = [
        row("a", "triton", 10.0),
        row("a", "wrong", 1.0, validated=False),
        row("a", "scaled_mm", 12.0, peer=True),
        row("a", "coarse", 2.0, peer=True, validated=False),
        row("a", "reference", 5.0, peer=True),
        row("b", "scaled_mm", 7.0, peer=True),
        row("b", "other", 6.0, peer=True),
    ]
    found = model_bench.summed({"rows": rows}, STATED)
    assert [line["ours"]["provider"] for line in found["lines"]] == ["triton", "scaled_mm"]
    assert [line["peer"]["provider"] for line in found["lines"]] == ["scaled_mm", "other"]
    assert found["pass_us"] == 3 * 10 + 3 * 7
    assert found["layer_us"] == 17
    assert found["against_peers"] == pytest.approx((12 + 6) / (10 + 7))
    assert found["covers"] == {"flops": 0.8, "bytes": 0.5}


def test_a_call_without_a_time_is_named_and_not_covered() -> None:
    rows = [row("a", "triton", 10.0), row("b", "triton", 0.0, median_us=None, validated=False)]
    found = model_bench.summed({"rows": rows}, STATED)
    assert found["missing"] == ["b"]
    assert found["covers"]["flops"] == 0.6
    said = " ".join(model_bench.sentences(found, STATED, scaled=False))
    assert "missing from the sum: b" in said
    assert "not covered: a gap" in said
    assert "60.0% of the operations" in said
    assert "scaled down" not in said


# ---- the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "gemm_f16_tflops": 0.05, "spec": None}
    monkeypatch.setattr(ceilings, "measure", lambda device: figures)


def test_bench_model_times_a_pass_and_sums_it(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    argv = ["bench", "quantize_fp8", "--model", "qwen3-8b", "--phase", "decode", "--device", "cpu"]
    assert main([*argv, "--tp", "8", "--budget", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "qwen3-8b tp8 decode: the sum" in said
    assert "shapes were scaled down" in said
    assert "not covered: lm_head" in said
    record = load(out)
    timed = [r for r in record["rows"] if r["median_us"]]
    assert timed
    assert {r["model"] for r in record["rows"]} == {"qwen3-8b"}
    assert {r["count"] for r in timed} <= {36, 72}
    (stated,) = record["options"]["model"]
    assert stated["layers"] == 36


@pytest.mark.full  # some seconds a process
def test_a_pass_may_be_timed_in_a_process_that_can_be_ended() -> None:
    asked = {"name": "qwen3-8b", "phase": "decode", "tp": 8}
    apart = {"timeout_s": 120.0, "fresh": False, "model": asked}
    record = model_bench.run(
        model_bench.passes(**asked), ops=[get_op("quantize_fp8")], device="cpu", budget_s=60.0,
        target=1.0, peers=False, apart=apart, providers=["reference"],
    )  # fmt: skip
    assert record["options"]["isolated"] == "all cases"
    assert record["rows"]
    for row in record["rows"]:
        assert (row["model"], row["skipped"], row["failure"]) == ("qwen3-8b", None, None)
        assert row["median_us"] > 0


def test_rows_say_what_was_scaled(quick: None) -> None:
    found = model_bench.passes("llama3-8b", "prefill", tp=8)
    record = model_bench.run(
        found, ops=[get_op("quantize_fp8")], device="cpu", budget_s=0.5, peers=False
    )
    full = {c.case.name: c.case.dims for c in found[0].calls}
    assert record["rows"]
    for r in record["rows"]:
        assert {**r["dims"], **r["scaled"]} == full[r["case"]]
        assert r["scaled"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "lama3-8b"], "close to it: llama3-8b"),
        (["--model", "llama3-8b", "--phase", "train"], "has no phase 'train'; it has: prefill"),
        (["--model", "llama3-8b", "--tp", "5"], "--tp 5 does not divide"),
        (["--model", "llama3-8b", "--tp", "0"], "--tp: '0' is not a whole number"),
        (["--model", "llama3-8b", "--case", "tiny"], "--case names an op's own cases"),
        (["--tp", "8"], "--tp belongs to a model"),
    ],
)
def test_wrong_use_is_a_sentence(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *argv]) == 3
    assert said in capsys.readouterr().err


def test_list_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list-models"]) == 0
    said = capsys.readouterr().out
    for model in MODELS:
        assert model.name in said


def test_the_ops_themselves_keep_their_cases() -> None:
    """A pass brings its problems along as cases of a copy."""
    found = model_bench.passes("llama3-8b", "decode")
    assert model_bench.with_cases(OPS[0], found).cases != OPS[0].cases
    own = [case for case in OPS[0].cases if "bench" in case.tags]
    assert [case for _, case in bench._todo([OPS[0]], None, None, "bench")] == own
