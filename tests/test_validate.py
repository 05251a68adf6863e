"""validate() itself: every planted fault turns it red, and the reference stays green."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from aimills_kernels import _validate
from aimills_kernels._op import Case, Op
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._tolerance import Exact, Ratio
from aimills_kernels._validate import NO_MEMORY, validate, validate_each
from tests.faults import FAULTS, plant
from tests.late_faults import plant as plant_right

SAYS = {
    "nan_in_the_tail": "NaN|bits|codes|off",
    "unwritten_tail": "NaN|bits|codes|off",
    "stale_output": "differs from run to run",
    "overwrites_an_input": "an input was written to",
    "writes_beyond_the_output": "written outside of the output",
    "writes_beyond_an_input": "written beyond an input",
    "writes_before_an_input": "written beyond an input",
    "differs_from_run_to_run": "differs from run to run",
    "raises": "illegal memory access",
    "fails_to_compile": "CompilationError: at 12:3",
}

OF_OUTPUTS = ("stale_output", "writes_beyond_the_output")  # which an op that mutates has not


# What a count of misses, or a ratio to the largest output, would let pass in a small case.
FINE = {
    "quantize_fp8": "last_codes_off_by_one",
    "video_to_tensor": "last_elements_a_level_off",
    "matmul_fp8": "rounds_before_the_bias",
}


def _case(op: Op) -> Case:
    return op.case("ragged")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("op", OPS, ids=str)
def test_planted_fault_is_caught(op: Op, fault: str, seed: int) -> None:
    if op.mutates and fault == "unwritten_tail":
        pytest.skip("what the op writes to has a tail that it leaves as it is")
    result = validate(plant(op.name, fault), _case(op), "planted", device="cpu", seed=seed)
    assert result.skipped is None
    assert not result.ok, str(result)
    assert "WRONG" in str(result)
    if fault in SAYS and not (op.mutates and fault in OF_OUTPUTS):
        assert any(re.search(SAYS[fault], said) for said in result.failures), result.failures


@pytest.mark.parametrize("fault", ["nan_in_the_tail", "overwrites_an_input", "raises"])
def test_a_quick_round_catches_what_is_wrong_at_once(fault: str, seed: int) -> None:
    planted = plant("quantize_fp8", fault)
    result = validate(planted, "ragged", "planted", device="cpu", seed=seed, quick=True)
    assert not result.ok, str(result)


def test_a_quick_round_launches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = _validate._run

    def run(*args: Any) -> None:
        calls.append(1)
        original(*args)

    monkeypatch.setattr(_validate, "_run", run)
    assert validate("quantize_fp8", "tiny", "reference", device="cpu", quick=True).ok
    assert len(calls) == 1
    assert validate("quantize_fp8", "tiny", "reference", device="cpu").ok
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("op", "case"),
    [
        pytest.param(
            op, case, id=f"{op}-{case}",
            marks=pytest.mark.full if case.name in ("wide", "tall", "impulses", "pitched") else (),
        )
        for op in ("quantize_fp8", "video_to_tensor")
        for case in get_op(op).cases
        if "empty" not in case.name and not case.tags & {"bench", "aot"}
    ],
)  # fmt: skip
def test_neighbouring_values_are_wrong_in_every_case(op: str, case: Case, seed: int) -> None:
    result = validate(plant(op, FINE[op]), case, "planted", device="cpu", seed=seed)
    assert result.failures, str(result)


@pytest.mark.parametrize("case", ["cancelled", "cancelled-f16", "cancelled-rows"])
def test_a_sum_that_is_rounded_before_the_bias_is_wrong(case: str, seed: int) -> None:
    planted = plant("matmul_fp8", FINE["matmul_fp8"])
    result = validate(planted, case, "planted", device="cpu", seed=seed)
    assert any("error" in said for said in result.failures), str(result)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_reference_is_right(op: Op, seed: int) -> None:
    result = validate(op, _case(op), "reference", device="cpu", seed=seed)
    assert result.ok, str(result)
    assert "right" in str(result)


@pytest.mark.parametrize("case", ["tiny", "strided", "sparse-long"])
@pytest.mark.parametrize("fault", ["overwrites_an_input", "writes_beyond_the_output", "raises"])
def test_the_next_provider_is_not_blamed(fault: str, case: str, seed: int) -> None:
    """`sparse-long` is too long for copies between fences: all providers get the same tensors."""
    op = plant("attention", fault)
    found = list(validate_each(op, case, ["planted", "reference"], device="cpu", seed=seed))
    assert [r.ok for r in found] == [False, True], [str(r) for r in found]


@pytest.mark.parametrize(
    ("op", "case"), [("matmul_fp8", "sliced"), ("quantize_fp8", "sliced"), ("attention", "packed"),
                     ("video_to_tensor", "pitched")],
)  # fmt: skip
def test_writes_into_the_gaps_of_an_input_are_caught(op: str, case: str, seed: int) -> None:
    planted = plant(op, "writes_between_rows")
    result = validate(planted, case, "planted", device="cpu", seed=seed)
    assert any("into its gaps" in said for said in result.failures), str(result)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_many_providers_share_an_oracle_and_are_judged_as_alone(op: Op, seed: int) -> None:
    calls: list[int] = []

    @functools.wraps(op.reference)
    def counted(*args: Any) -> Any:
        calls.append(1)
        return op.reference(*args)

    shared = replace(plant_right(op.name, "none"), reference=counted)
    found = list(validate_each(shared, "ragged", device="cpu", seed=seed))
    assert len(calls) == 4  # two rounds, each with an oracle and the reference's own error
    assert sum(r.ok for r in found) >= 2
    for result in found:
        alone = validate(shared, "ragged", result.provider, device="cpu", seed=seed)
        assert str(result) == str(alone)


def test_a_dropped_key_shows(seed: int) -> None:
    """The key that query 0 points at is left out: one of 300, which normal data would hide."""
    op = get_op("attention")
    q, k, v, *scalars = op.make_inputs(op.case("onehot"), "cpu", seed)
    oracle, rounded = op.oracle((q, k, v, *scalars))[0], op.reference(q, k, v, *scalars)[0]
    target = int((k[0, :, 0].float() @ q[0, 0, 0].float()).argmax())
    kept = [i for i in range(k.shape[1]) if i != target]
    got = op.reference(q, k[:, kept], v[:, kept], *scalars)[0]
    assert not Ratio().judge(got, oracle, rounded, ()).ok


def test_unknown_names_are_said() -> None:
    with pytest.raises(ValueError, match="unknown op"):
        validate("atention", "tiny", "reference")
    with pytest.raises(ValueError, match=r"no case 'ragged-f3'; close to it: ragged-f32, .* all"):
        validate("attention", "ragged-f3", "reference")
    with pytest.raises(ValueError, match="no case None; `aimills-kernels ops` lists all"):
        validate("attention", None, "reference")  # type: ignore[arg-type]
    for op, case, provider in ((None, None, None), ("attention", "tiny", None), (3, "tiny", "")):
        with pytest.raises(ValueError, match=r"unknown op|no provider"):
            validate(op, case, provider)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no provider"):
        validate("attention", "tiny", "cutlass")


@pytest.mark.parametrize("seed", ["a", None, 1.5, True, -1, 2**80])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\^62, got"):
        validate("attention", "tiny-f16", "reference", seed=seed)


@pytest.mark.parametrize("device", [None, 1.5, "tpu", "meta", 2**70])
def test_a_device_that_is_none_is_refused(device: Any) -> None:
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda', got"):
        validate("attention", "tiny-f16", "reference", device=device)


def test_a_provider_that_can_t_run_is_skipped_not_passed() -> None:
    result = validate("attention", "tiny", "sdpa", device="cpu")
    assert result.skipped
    assert not result.ok
    assert "not run" in str(result)


def test_out_of_memory_is_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(op: str, outs: tuple, args: tuple) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(FAULTS, "hungry", hungry)
    result = validate(plant("attention", "hungry"), "tiny", "planted", device="cpu")
    assert result.skipped == NO_MEMORY
    assert not result.ok


def test_ratio_counts_specials_and_scale() -> None:
    oracle = torch.tensor([1.0, 2.0, float("inf")], dtype=torch.float64)
    rounded = oracle.float()
    assert Ratio().judge(rounded.clone(), oracle, rounded, ()).ok
    inf, nan = float("inf"), float("nan")
    for wrong in ([1.0, nan, inf], [1.0, 2.0, 3.0], [1.0, 2.0, -inf], [1.0, 2.0001, inf]):
        assert not Ratio().judge(torch.tensor(wrong), oracle, rounded, ()).ok


def test_ratio_counts_one_rounding_at_the_largest_value() -> None:
    """Though the reference happened to be exact: half a step is 2^-7 between 2 and 4, twice that
    is allowed. Where all is 0 nothing is."""
    oracle = torch.tensor([[3.0] * 64 + [0.0] * 64], dtype=torch.float64)
    rounded = oracle.bfloat16()
    got = rounded.clone()
    got[0, 0] += 2**-6
    assert not Ratio().judge(got, oracle, rounded, ()).ok, "the root mean square is held too"
    noisy = rounded.clone()
    noisy[0, 1:64:2] += 2**-6  # the reference's own root mean square, at exact values elsewhere
    assert Ratio().judge(got, oracle, noisy, ()).ok
    got[0, 0] += 2**-5
    assert not Ratio().judge(got, oracle, rounded, ()).ok
    zero = torch.zeros(4, dtype=torch.float64)
    tiny = torch.full((4,), 1e-30, dtype=torch.bfloat16)
    assert not Ratio().judge(tiny, zero, zero.bfloat16(), ()).ok


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32, torch.int64])
def test_exact_sees_one_bit_of_one_element(dtype: torch.dtype) -> None:
    want = torch.arange(9).to(dtype)
    got = want.clone()
    assert Exact().judge(got, want, want, ()).ok
    got.view(torch.uint8)[-got.element_size()] ^= 1
    assert not Exact().judge(got, want, want, ()).ok


def test_exact_takes_a_nan_for_any_other() -> None:
    codes = torch.tensor([0x7F, 0xFF, 0x10], dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert Exact().judge(codes[[1, 0, 2]], codes, codes, ()).ok
    assert not Exact().judge(codes[[2, 1, 2]], codes, codes, ()).ok


def test_exact_tells_the_sign_of_zero() -> None:
    zero = torch.zeros(3)
    assert Exact().judge(zero.clone(), zero.double(), zero, ()).ok
    assert not Exact().judge(-zero, zero.double(), zero, ()).ok
