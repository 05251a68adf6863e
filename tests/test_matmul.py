"""What the matmul declarations can't say of themselves."""

from __future__ import annotations

import bisect
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import get_op, torch_op
from aimills_kernels._tolerance import Ratio
from aimills_kernels._validate import validate
from aimills_kernels.harness import specs
from aimills_kernels.kernels.hardware import SHARED_KIB
from aimills_kernels.kernels.matmul import op_fp8, op_fused
from aimills_kernels.kernels.matmul.config import (
    Shape,
    candidates,
    leading_dims,
    per_split,
    select_split_config,
)
from aimills_kernels.kernels.matmul.config_int8 import select_w8_config

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def _value(code: int) -> float:
    """An e4m3 code by its bits: sign, four of exponent with bias 7, three of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) / 8 * 2.0 ** (exponent - 7)
    return sign * size


VALUES = np.array([_value(c) for c in range(256)])
POSITIVE = [float(v) for v in VALUES[:127]]


def _nearest(x: float) -> int:
    """The code of the nearest value, of two equally near ones the even code."""
    size = min(abs(x), 448.0)
    high = bisect.bisect_left(POSITIVE, size)
    low = max(high - 1, 0)
    below, above = size - POSITIVE[low], POSITIVE[high] - size
    code = low if below < above or (below == above and low % 2 == 0) else high
    return code | (0x80 if np.signbit(x) else 0)


def _codes(t: Tensor) -> np.ndarray:
    return t.view(torch.uint8).numpy()


def _random_codes(rng: np.random.Generator, *shape: int) -> Tensor:
    finite = np.setdiff1d(np.arange(256), [0x7F, 0xFF]).astype(np.uint8)
    return torch.from_numpy(rng.choice(finite, shape)).view(E4M3)


# ---- what 14 bits of a sum do to a float16 output


def _fp8_sums(a: Tensor, b: Tensor, block: int) -> Tensor:
    """A model of Hopper's: in steps of 32 products, these and the sum so far are cut 13 bits below
    the largest of them; after `block` products it goes to a float32 sum and starts anew."""
    total = torch.zeros(a.shape[0], b.shape[0])
    for start in range(0, a.shape[1], block):
        sums = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
        for at in range(start, min(start + block, a.shape[1]), 32):
            step = slice(at, min(at + 32, start + block))
            terms = a[:, None, step].double() * b[None, :, step].double()
            terms = torch.cat([terms, sums[..., None]], -1)
            unit = 2.0 ** (terms.abs().amax(-1, keepdim=True).log2().floor() - 13)
            sums = (torch.trunc(terms / unit) * unit).sum(-1)
        total += sums.float()
    return total


@pytest.mark.parametrize(
    "name",
    ["tiny-tensor", "ragged-tensor", "aot-f16-bias", pytest.param("deep", marks=pytest.mark.full)],
)
def test_a_promoted_sum_is_right_and_an_unpromoted_one_is_not(name: str) -> None:
    op = get_op("matmul_fp8")
    args = op.make_inputs(op.case(name).on("cpu"), "cpu", 0)
    a, b, scale_a, scale_b, bias, dtype = args[:6]
    (oracle,), rounded = op.oracle(args), op.reference(*args)

    def is_right(block: int) -> bool:
        sums = _fp8_sums(a, b, block) * scale_a.reshape(-1, 1) * scale_b.reshape(1, -1)
        out = (sums if bias is None else sums + bias).to(dtype)
        return op_fp8.COARSE.judge(out, oracle, rounded, args).ok

    assert is_right(128)
    assert is_right(a.shape[1]) == (a.shape[1] < 1000)


@pytest.mark.parametrize("K", [32, 512, pytest.param(4096, marks=pytest.mark.full)])
def test_a_sum_left_in_the_tensor_core_is_within_its_own_bound(K: int, seed: int) -> None:
    """And one that lacks a step of 32 products is not. One scale for all: the bound goes by the
    largest element, beside which rows of small scales would hide the step."""
    op = get_op("matmul_fp8")
    case = Case("fast", M=24, N=40, K=K, out="f32", accum="fast")
    args = op.make_inputs(case, "cpu", seed)
    a, b, scale_a, scale_b = args[:4]
    (oracle,), rounded = op.oracle(args), op.reference(*args)
    sums = _fp8_sums(a, b, K) * scale_a * scale_b
    short = (_fp8_sums(a, b, K) - _fp8_sums(a[:, :32], b[:, :32], 32)) * scale_a * scale_b
    assert op_fp8.fast(K).judge(sums, oracle, rounded, args).ok
    assert not op_fp8.COARSE.judge(sums, oracle, rounded, args).ok or K < 512
    assert not op_fp8.fast(K).judge(short, oracle, rounded, args).ok


def test_only_fp8_tensor_cores_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sm = {"cuda:0": 80, "cuda:1": 89, "cuda:2": 90, "cuda:3": 100, "cuda:4": 120, "cpu": 90}
    monkeypatch.setattr(op_fp8, "sm_of", lambda device: sm[str(device)])

    def allowed(dtype: torch.dtype, accum: str) -> list[str]:
        made = {d: mock.Mock(dtype=dtype, device=torch.device(d)) for d in sm}
        return [d for d, got in made.items() if op_fp8.tolerance(got, accum, 4096) != Ratio()]

    coarse = ["cuda:1", "cuda:2", "cuda:4"]
    assert allowed(torch.float16, "promoted") == coarse
    assert allowed(torch.bfloat16, "promoted") == allowed(torch.float32, "promoted") == []
    assert all(allowed(t, "fast") == coarse for t in (torch.float16, torch.float32))


# ---- the error that the family's page publishes


FORMATS = {
    "tensor": dict(scale_a="tensor", scale_b="tensor"),
    "row": dict(scale_a="row", scale_b="row"),
    "1x128 x 128x128": dict(scale_a="1x128", scale_b="128x128"),
    "1x128 x 1x128": dict(scale_a="1x128", scale_b="1x128"),
    "row, e5m2 x e4m3": dict(scale_a="row", scale_b="row", a="e5m2"),
    "row, e5m2 x e5m2": dict(scale_a="row", scale_b="row", a="e5m2", b="e5m2"),
    "row, SwiGLU": dict(scale_a="row", scale_b="row", N=128, act="swiglu"),
    "row, residual": dict(scale_a="row", scale_b="row", residual="bf16"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_relative_mean_error_is_within_the_contract(name: str) -> None:
    """Against the exact product of the dequantised operands; the page has these figures."""
    op = get_op("matmul_fp8")
    args = op.make_inputs(Case(name, **{"M": 48, "N": 64, "K": 1024, **FORMATS[name]}), "cpu", 0)
    (exact,), got = op.oracle(args), op.reference(*args)
    error = float((got - exact).abs().mean() / exact.abs().mean())
    assert error <= 2e-3
    page = (Path(op_fp8.__file__).parent / "README.md").read_text()
    assert f"| {name} | {error:.2e} |" in page


# ---- the references against the definition of the format


@pytest.mark.parametrize(("rows_a", "rows_b"), [(True, True), (False, True), (False, False)])
def test_matmul_agrees_with_the_table(rows_a: bool, rows_b: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = _random_codes(rng, 7, 33), _random_codes(rng, 5, 33)
    scale_a, scale_b = (
        rng.uniform(0.1, 2, (n, 1) if rows else ()).astype(np.float32)
        for n, rows in ((7, rows_a), (5, rows_b))
    )
    bias = rng.normal(size=5).astype(np.float32)
    want = (VALUES[_codes(a)] * scale_a) @ (VALUES[_codes(b)] * scale_b).T + bias
    tensors = (torch.from_numpy(np.asarray(t)) for t in (scale_a, scale_b))
    got = ak.matmul_fp8(a, b, *tensors, bias=torch.from_numpy(bias), out_dtype=torch.float32)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_every_code_comes_back(granularity: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes & 0x7F != 0x7F].view(E4M3)
    x_q, scale = ak.quantize_fp8(codes.float() * 0.5, granularity)
    assert scale.item() == 0.5
    assert np.array_equal(_codes(x_q), _codes(codes))


def test_rounding_is_to_the_nearest_and_even(seed: int) -> None:
    """Midpoints of all neighbours, values next to them, and random ones, at scale 1."""
    rng = np.random.default_rng(seed)
    middles = np.array([(p + q) / 2 for p, q in itertools.pairwise(POSITIVE)])
    middles = middles.astype(np.float32)
    near = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    spread = (rng.uniform(1, 2, 4000) * 2.0 ** rng.integers(-12, 8, 4000)).clip(0, 448)
    x = np.concatenate([middles, *near, spread.astype(np.float32), [448.0, 0.0]]).astype(np.float32)
    x = np.concatenate([x, -x])
    x_q, scale = ak.quantize_fp8(torch.from_numpy(x))
    assert scale.item() == 1.0
    assert _codes(x_q).tolist() == [_nearest(float(v)) for v in x]


def test_gradients_are_those_of_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = _random_codes(rng, 6, 9), _random_codes(rng, 4, 9)
    scale_a = torch.tensor(0.25, requires_grad=True)
    scale_b = torch.rand(4, 1, requires_grad=True)
    bias = torch.zeros(4, requires_grad=True)
    weight = torch.from_numpy(rng.normal(size=(6, 4)).astype(np.float32))
    out = ak.matmul_fp8(a, b, scale_a, scale_b, bias=bias, out_dtype=torch.float32)
    out.backward(weight)
    w, scale = weight.numpy(), scale_b.detach().numpy()
    product = VALUES[_codes(a)] @ VALUES[_codes(b)].T
    np.testing.assert_allclose(bias.grad.numpy(), w.sum(0), rtol=1e-5, atol=1e-5)
    # Sums of terms that cancel: float32 loses some roundings of the terms, not of the sum.
    terms = w * product * scale.T
    np.testing.assert_allclose(scale_a.grad, terms.sum(), rtol=0, atol=1e-6 * np.abs(terms).sum())
    terms = 0.25 * w * product
    lost = np.abs(terms).sum(0).max()
    want = terms.sum(0)[:, None]
    np.testing.assert_allclose(scale_b.grad.numpy(), want, rtol=0, atol=1e-6 * lost)


# ---- what the docstrings say


def test_scale_of_nothing_and_of_next_to_nothing() -> None:
    assert ak.quantize_fp8(torch.zeros(4, 8))[1].item() == 1.0
    assert ak.quantize_fp8(torch.zeros(0, 8))[1].item() == 1.0
    assert ak.quantize_fp8(torch.zeros(3, 0), "row")[1].tolist() == [[1.0]] * 3
    assert ak.quantize_fp8(torch.full((2,), 1e-44))[1].item() == torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_never_become_numbers(bad: float) -> None:
    x = torch.ones(3, 8)
    x[1, 2] = bad
    x_q, scale = ak.quantize_fp8(x, "row")
    assert torch.isfinite(scale).flatten().tolist() == [True, False, True]
    assert torch.isnan(x_q.float()).all(1).tolist() == [False, True, False]
    x_q, scale = ak.quantize_fp8(x)
    assert torch.isnan(x_q.float()).all()
    assert not torch.isfinite(scale)


def test_quantised_product_is_near_the_product(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, 256, generator=generator) for n in (20, 30))
    (a, scale_a), (b, scale_b) = ak.quantize_fp8(x, "row"), ak.quantize_fp8(w, "row")
    got = ak.matmul_fp8(a, b, scale_a, scale_b, out_dtype=torch.float32)
    assert (got - x @ w.T).norm() < 0.05 * (x @ w.T).norm()


def test_no_depth_gives_the_bias() -> None:
    one, bias = torch.ones(()), torch.arange(5.0)
    a, b = torch.empty(3, 0, dtype=E4M3), torch.empty(5, 0, dtype=E4M3)
    got = ak.matmul_fp8(a, b, one, one, bias=bias)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, bias.expand(3, 5).bfloat16())


def test_codes_that_require_a_gradient_are_refused() -> None:
    a, b, one = torch.ones(2, 16).to(E4M3), torch.ones(3, 16).to(E4M3), torch.ones(())
    weight = torch.nn.Parameter(b)
    with pytest.raises(ValueError, match="b holds codes, to which no gradient flows"):
        ak.matmul_fp8(a, weight, one, one)
    with torch.no_grad():
        assert torch.equal(ak.matmul_fp8(a, weight, one, one), ak.matmul_fp8(a, b, one, one))
    args = (a, weight, one, one, None, torch.bfloat16, "promoted", False, None, "none")
    with pytest.raises(ValueError, match="no gradient flows"):
        torch.ops.aimills.matmul_fp8(*args).sum().backward()


def test_out_is_written_and_returned() -> None:
    a, b, one = torch.ones(2, 16).to(E4M3), torch.ones(3, 16).to(E4M3), torch.ones(1)
    out = torch.empty(2, 3, dtype=torch.float16)
    assert ak.matmul_fp8(a, b, one, one, out_dtype=torch.float16, out=out) is out
    assert torch.equal(out, torch.full((2, 3), 16.0, dtype=torch.float16))


# ---- the kernels


@pytest.mark.parametrize(("sm", "promoted"), [(90, True), (120, True), (100, False)])
def test_fp8_sums_leave_the_tensor_core_every_block(sm: int, promoted: bool) -> None:
    """sm_100 sums fp8 products in float32; the others add each block's sum in float32."""
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from tests.aot import compile_provider

    op = get_op("matmul_fp8")
    kernels = compile_provider(op, op.case("aot-f16-bias"), op.provider("triton"), sm)
    ptx = kernels[0].ptx
    adds = sum(1 + bool(x2) for x2 in re.findall(r"\badd(?:\.rn)?\.f32(x2)?\s", ptx))
    sums = 64 * 64 // (32 * kernels[0].warps)  # in a thread; the ragged end of K is a second copy
    assert (adds == 2 * sums) if promoted else (adds == 0)
    if sm == 90:
        starts = re.findall(
            r"wgmma\.mma_async\S+m64n64k32\.f32\.e4m3\.e4m3[^;]*, (\S+), 1, 1;", ptx
        )
        assert len(starts) == 8
        assert [i for i, flag in enumerate(starts) if flag == "0"] == [0, 4], "a sum starts at 0"


@pytest.mark.full
def test_sums_on_hopper_by_what_was_asked_for() -> None:
    """Blocks start at 0 and are multiplied and added; a fast sum never leaves the tensor core."""
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from tests.aot import compile_provider

    op = get_op("matmul_fp8")

    def ptx(case: str, provider: str) -> tuple[list[str], int]:
        (kernel,) = compile_provider(op, op.case(case), op.provider(provider), 90)
        starts = r"wgmma\.mma_async\S+k32\.f32\.e[45]m[23]\.e4m3[^;]*, (\S+), 1, 1;"
        kinds = r"\b(?:add|fma)(?:\.rn)?\.f32(x2)?\s"
        sums = sum(1 + bool(x2) for x2 in re.findall(kinds, kernel.ptx))
        return re.findall(starts, kernel.ptx), sums

    starts, sums = ptx("aot-e5m2-block", "triton_block")
    assert [i for i, flag in enumerate(starts) if flag == "0"] == [0, 4]
    assert sums == 2 * 64 * 64 // 128, "one multiply-add a sum; the ragged end is a second copy"
    starts, sums = ptx("aot-fast", "triton")
    assert len(starts) == 8
    assert "0" not in starts
    assert sums == 0


@pytest.mark.parametrize("sm", sorted(SHARED_KIB))
def test_tiles_fit_the_shared_memory(sm: int) -> None:
    for m in (1, 16, 17, 64, 65, 4096):
        for n in (1, 2048, 28672):
            for k in (0, 77, 4096):
                for decode, aligned in ((False, False), (False, True), (True, False), (True, True)):
                    for c in candidates(Shape(m, n, k, decode, aligned), False, sm):
                        stage = (c.block_m + c.block_n) * c.block_k
                        assert stage * (c.num_stages + 2 * decode) <= SHARED_KIB[sm] * 1024


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("sm", sorted(SHARED_KIB))
def test_splits_cover_k_and_are_few(blocks: bool, sm: int) -> None:
    for m, n, k in itertools.product(
        (1, 16, 64, 65), (64, 4096, 28672), (0, 77, 1100, 4096, 18432)
    ):
        shape = Shape(m, n, k, decode=False, aligned=k % 16 == 0)
        found = candidates(shape, blocks, sm)
        assert k > per_split(found[0], k) * (found[0].splits - 1) or k == 0
        for c in found:
            assert c.splits <= found[0].splits, "the workspace holds so many"
            assert per_split(c, k) * c.splits >= k
            assert per_split(c, k) % 128 == 0
            assert 8 * c.splits * m <= k / 4 or c.splits == 1
        assert select_split_config(replace(shape, fixed=True), blocks, sm).splits == 1
    few = Shape(1, 4096, 4096, decode=False, aligned=True)
    assert select_split_config(few, blocks, sm).splits == 4


def test_leading_dims_merge_where_memory_allows() -> None:
    x = torch.empty(2, 3, 4, 5, 6)
    assert leading_dims(x.shape, x.stride()) == ([120], [6])
    y = x.transpose(1, 3)
    assert leading_dims(y.shape, y.stride()) == ([2, 5, 4, 3], [360, 6, 30, 120])
    assert leading_dims((1, 1, 7), (9, 9, 1)) == ([], [])


def _change(**changes: Any) -> Problem:
    op = get_op("matmul_fp8")
    named = dict(zip(op.params, op.make_inputs(op.case("aligned-rows"), "cpu", 0), strict=True))
    named["bias"] = None
    return Problem(op, op.flat({**named, **changes}), "cuda", 90)


def test_scaled_mm_says_what_it_can_not_do_on_a_gpu() -> None:
    rejects = get_op("matmul_fp8").provider("scaled_mm").rejects
    one, wide = torch.ones(()), torch.zeros(128, 320).to(E4M3)
    assert rejects(_change()) is None
    assert rejects(_change(scale_a=one, scale_b=one, out_dtype=torch.float16)) is None
    for change, text in (
        (dict(out_dtype=torch.float32), "too coarse"),
        (dict(out_dtype=torch.float16), "bf16 only"),
        (dict(scale_a=one), "not a mix"),
        (dict(bias=torch.ones(96)), "dtype of the output"),
        (dict(a=wide[:, :150], b=wide[:96, :150]), "multiples of 16"),
        (dict(a=wide[:, 8:168]), "a must have contiguous rows"),
        (dict(b=wide[:96, ::2]), "b must have contiguous rows"),
        (dict(a=wide[:, :160].to(E5M2), b=wide[:96, :160].to(E5M2)), "e5m2 for both"),
        (dict(batch_invariant=True), "by M"),
        (dict(activation="silu"), "no activation and no residual"),
        (dict(residual=torch.ones(128, 96)), "no activation and no residual"),
    ):
        assert text in (rejects(_change(**change)) or "accepted"), change


def test_scaled_mm_says_which_scales_of_blocks_it_reads() -> None:
    rejects = get_op("matmul_fp8").provider("scaled_mm").rejects
    x, w = torch.zeros(128, 1024), torch.zeros(256, 1024)
    (a, scale_a), (b, scale_b) = ak.quantize_fp8(x, "1x128"), ak.quantize_fp8(w, "128x128")
    given = dict(a=a, b=b, scale_a=scale_a, scale_b=scale_b)
    vectors = ak.quantize_fp8(w, "1x128")[1]
    assert rejects(_change(**given)) is None
    assert rejects(_change(**{**given, "scale_b": vectors})) is None
    for change, text in (
        (dict(out_dtype=torch.float16), "bf16 only"),
        (dict(accum="fast"), "no fast accumulation"),
        (dict(scale_a=scale_a.contiguous()), "scale_a must have strides (1, 128)"),
        (dict(scale_b=vectors.contiguous()), "scale_b must have strides (1, 256)"),
        (dict(scale_b=scale_b.T.contiguous().T), "scale_b must be contiguous"),
        (dict(scale_b=torch.ones(256, 1)), "not a mix"),
        (dict(a=a[:, :640], b=b[:, :640], scale_a=scale_a[:, :5], scale_b=scale_b[:, :5]),
         "K must be a multiple of 512, here 640"),
        (dict(a=a[:, :1000], b=b[:, :1000]), "K must be a multiple of 128, here 1000"),
        (dict(a=a[:126], scale_a=ak.quantize_fp8(x[:126], "1x128")[1]), "multiples of 16 bytes"),
    ):  # fmt: skip
        assert text in (rejects(_change(**{**given, **change})) or "accepted"), change
    on_sm100 = Problem(get_op("matmul_fp8"), _change(**given).args, "cuda", 100)
    assert "sm_90 only" in (rejects(on_sm100) or "accepted")


OF_BLOCKS = [
    pytest.param(get_op(name), case, id=f"{name}-{case}")
    for name in ("matmul_fp8", "matmul_quantize_fp8", "grouped_matmul_fp8",
                 "grouped_matmul_quantize_fp8")
    for case in get_op(name).cases
    if case.get("scale_a") == "1x128" and case.get("layout", "contiguous") == "contiguous"
]  # fmt: skip


@pytest.mark.parametrize(("op", "case"), OF_BLOCKS)
def test_cases_have_scales_of_blocks_as_quantize_fp8_lays_them(op: Op, case: Case) -> None:
    """What is compiled, checked and timed is then what a user of quantize_fp8 runs."""
    args = dict(zip(op.params, op.meta_inputs(case.on("cpu")), strict=True))
    scale = ak.quantize_fp8(torch.zeros(args["a"].shape), "1x128")[1]
    assert args["scale_a"].stride() == scale.stride()


def test_pytorch_takes_the_benchmarks_of_blocks() -> None:
    """Else nothing stands beside our kernel there."""
    op, taken = get_op("matmul_fp8"), []
    for case in op.cases:
        if "bench" in case.tags and case.get("scale_a") == "1x128" and not case.get("act"):
            reason = op.provider("scaled_mm").rejects(Problem(op, op.meta_inputs(case), "cuda", 90))
            assert reason is None or case.M % 4, (case, reason)
            taken.append(case.name)
    assert len(taken) > 10


@pytest.mark.parametrize("name", ["matmul_fp8", "matmul_int8", "matmul_w8", "matmul_w4"])
def test_a_negative_scale_turns_the_sign(name: str, seed: int) -> None:
    op, generator = get_op(name), torch.Generator().manual_seed(seed)
    drawn = op.inputs(Case("turned", M=5, N=32, K=256, **TURNED[name]), generator)
    scale = "scales" if name == "matmul_w4" else "scale_b"
    args = [op.flat({**drawn, scale: s}) for s in (drawn[scale], -drawn[scale])]
    plain, turned = (torch_op(name)(*a) for a in args)
    assert plain.any()
    assert torch.equal(plain, -turned)


TURNED: dict[str, dict[str, Any]] = {
    "matmul_fp8": dict(scale_a="1x128", scale_b="128x128"),
    "matmul_int8": dict(scale_a="row", scale_b="row"),
    "matmul_w8": dict(scale_b="row"),
    "matmul_w4": dict(group=32),
}


# ---- faults that validate must see


def scale_of_the_next_row(outs: tuple[Tensor], *args: Any) -> None:
    a, b, scale_a, *rest = args
    outs[0].copy_(get_op("matmul_fp8").reference(a, b, scale_a.roll(1, 0), *rest))


def last_product_dropped(outs: tuple[Tensor], *args: Any) -> None:
    a, b, *rest = args
    outs[0].copy_(get_op("matmul_fp8").reference(a[:, :-1], b[:, :-1], *rest))


def largest_products_dropped(outs: tuple[Tensor], *args: Any) -> None:
    """The last ones may be too small to show in a row without a zero."""
    a, b, *rest = args
    kept = torch.arange(a.shape[1]) != a.float().abs().sum(0).argmax()
    factors = a.float()[:, kept], b.float()[:, kept]
    outs[0].copy_(get_op("matmul_fp8").reference(*factors, *rest))


def coarse_sum(outs: tuple[Tensor], *args: Any) -> None:
    """Sums kept in bf16 between blocks of K."""
    a, b, scale_a, scale_b, _, dtype = args[:6]
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.bfloat16)
    for start in range(0, a.shape[1], 512):
        step = slice(start, start + 512)
        total += (a[:, step].float() @ b[:, step].float().T).bfloat16()
    outs[0].copy_((total.float() * scale_a * scale_b.T).to(dtype))


def truncating_cast(outs: tuple[Tensor, Tensor], x: Tensor, *rest: Any) -> None:
    _, scale = get_op("quantize_fp8").reference(x, *rest)
    value = (x.float() / scale).clamp(-448, 448)
    codes = value.to(E4M3)
    bits = codes.view(torch.uint8)
    bits -= (codes.float().abs() > value.abs()).to(torch.uint8)
    outs[0].copy_(codes)
    outs[1].copy_(scale)


def scale_of_the_next_block(outs: tuple[Tensor], *args: Any) -> None:
    a, b, scale_a, scale_b, *rest = args
    outs[0].copy_(get_op("matmul_fp8").reference(a, b, scale_a, scale_b.roll(1, 1), *rest))


def scales_of_blocks_swapped(outs: tuple[Tensor], *args: Any) -> None:
    a, b, scale_a, *rest = args
    outs[0].copy_(get_op("matmul_fp8").reference(a, b, scale_a.flip(1), *rest))


def norm_without_eps(outs: tuple[Tensor, ...], *args: Any) -> None:
    x, weight, residual, _, *rest = args
    made = get_op("rmsnorm_quantize_fp8").reference(x, weight, residual, 0.0, *rest)
    for out, right in zip(outs, made, strict=True):
        out.copy_(right)


def norm_rounded_to_bf16(outs: tuple[Tensor, ...], *args: Any) -> None:
    x, weight, residual, eps, granularity, dtype = args
    y = op_fused.rmsnorm(x, weight, residual, eps)[0].bfloat16()
    made = get_op("quantize_fp8").reference(y, granularity, dtype)
    for out, right in zip(outs, made, strict=False):
        out.copy_(right)
    if residual is not None:
        outs[2].copy_(x + residual)


def scale_of_the_whole_tensor(outs: tuple[Tensor, Tensor], x: Tensor, *rest: Any) -> None:
    codes, scale = get_op("quantize_fp8").reference(x, "tensor", rest[1])
    outs[0].copy_(codes)
    outs[1].copy_(scale.expand(outs[1].shape))


@pytest.mark.parametrize(
    ("op", "case", "fault", "text"),
    [
        ("matmul_fp8", "ragged", scale_of_the_next_row, "out: max error"),
        ("matmul_fp8", "one-row", largest_products_dropped, "out: max error"),
        ("matmul_fp8", "onehot", last_product_dropped, "out: max error"),
        ("matmul_fp8", "deep", coarse_sum, "out: max error"),
        ("matmul_fp8", "block-ragged", scale_of_the_next_block, "out: max error"),
        ("matmul_fp8", "block-onehot", scales_of_blocks_swapped, "out: max error"),
        ("rmsnorm_quantize_fp8", "small", norm_without_eps, "scale: error"),
        ("rmsnorm_quantize_fp8", "tiny", norm_rounded_to_bf16, "scale: error"),
        ("rmsnorm_quantize_fp8", "tiny", norm_rounded_to_bf16, "x_q: error"),
        ("quantize_fp8", "tiny", truncating_cast, "x_q: bits differ"),
        ("quantize_fp8", "ties", truncating_cast, "x_q: bits differ"),
        ("quantize_fp8", "tiny", scale_of_the_whole_tensor, "scale: bits differ"),
    ],
)
def test_planted_fault_is_seen(op: str, case: str, fault: Any, text: str, seed: int) -> None:
    planted = Provider("planted", f"{__name__}:{fault.__name__}", devices=("cpu", "cuda"))
    result = validate(op, case, planted, device="cpu", seed=seed)
    assert any(text in failure for failure in result.failures), str(result)


@pytest.mark.parametrize("eps", ["1", None])
def test_eps_is_a_number(eps: Any) -> None:
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"rmsnorm_quantize_fp8: .* 'eps'"):
        ak.rmsnorm_quantize_fp8(x, x[0], eps=eps)


def test_the_least_times_in_the_readme_are_those_of_the_costs() -> None:
    text = (Path(op_fp8.__file__).parent / "README.md").read_text()
    cells = r" \| ".join([r"`(\w+)`", r"`(\S+)`", *[r"([\d.]+)"] * 3])
    rows = re.findall(rf"^\| {cells} \|", text, re.MULTILINE)
    assert len(rows) == 14
    peaks = specs.of("NVIDIA H200")
    assert peaks is not None
    for name, case, *shown in rows:
        cost = get_op(name).cost(get_op(name).case(case))
        flops, moved = cost.flops / 1e12, cost.bytes / 1e6
        least = max(flops / peaks[cost.unit], moved / 1e3 / peaks["copy"]) * 1e6
        for cell, value in zip(shown, (flops, moved, least), strict=True):
            digits = len(cell.partition(".")[2])
            assert float(cell) == round(value, digits), f"{name} {case}: {cell} for {value}"


@pytest.mark.parametrize("name", ["matmul_fp8", "matmul_int8"])
def test_the_square_that_others_publish_is_a_benchmark_and_little_for_a_cpu(name: str) -> None:
    op = get_op(name)
    case = op.case("square-8192-8192")
    assert "bench" in case.tags
    assert op.cost(case).flops == 2 * 8192**3
    assert op.cost(case.on("cpu")).flops <= 2**24


def test_price_of_batch_invariance_is_as_counted() -> None:
    """The table in the README: programs and megabytes loaded, without and with it, on sm_90."""
    text = (Path(op_fp8.__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| (\d+), (\d+), (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        n, k, m = map(int, row[:3])
        shapes = Shape(m, n, k, False, True), Shape(64, n, k, False, True, fixed=True)
        programs, loaded = [], []
        for c in (select_split_config(shape, False, 90) for shape in shapes):
            down, across = -(-m // c.block_m), -(-n // c.block_n)
            programs.append(down * across * c.splits)
            loaded.append(round((down * n * k + across * m * k) / 1e6))
        assert [*programs, *loaded] == [int(x) for x in row[3].split(" | ")], row


def test_price_of_batch_invariance_of_int8_weights_is_as_counted() -> None:
    text = (Path(op_fp8.__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| w8: (\d+), (\d+), (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    for row in rows:
        n, k, m = map(int, row[:3])
        programs, loaded = [], []
        for rows_of, fixed in ((m, False), (64, True)):
            c = select_w8_config(rows_of, n, True, fixed, 90)
            down, across = -(-m // c.block_m), -(-n // c.block_n)
            programs.append(down * across)
            loaded.append(round((down * n * k + across * 2 * m * k) / 1e6))
        assert [*programs, *loaded] == [int(x) for x in row[3].split(" | ")], row
