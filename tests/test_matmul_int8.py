"""What the int8 declarations can't say of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Problem
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.matmul import int_mm
from aimills_kernels.kernels.matmul.config_int8 import deepest

ONE = torch.ones(())


def _codes(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.integers(-128, 128, shape, dtype=np.int8))


def _scales(rng: np.random.Generator, rows: int) -> Tensor:
    return torch.from_numpy(rng.uniform(0.1, 2, (rows, 1)).astype(np.float32))


def _exact(a: Tensor, b: Tensor, zero: Tensor | None = None) -> np.ndarray:
    left = a.numpy().astype(np.int64)
    if zero is not None:
        left = left - zero.numpy().astype(np.int64).reshape(-1, 1)
    return left @ b.numpy().astype(np.int64).T


@pytest.mark.parametrize("zeros", [None, "row", "tensor"])
def test_matmul_agrees_with_integers(zeros: str | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, scale_a, scale_b = (
        _codes(rng, 7, 33),
        _codes(rng, 5, 33),
        _scales(rng, 7),
        _scales(rng, 5),
    )
    zero = torch.tensor([-128, 127, 0, 1, -1, 5, 90], dtype=torch.int32)[:, None]
    zero_a = {None: None, "row": zero, "tensor": zero[0, 0]}[zeros]
    bias = torch.from_numpy(rng.normal(size=5).astype(np.float32))
    want = _exact(a, b, zero_a) * scale_a.double().numpy() * scale_b.double().numpy().T
    got = ak.matmul_int8(a, b, scale_a, scale_b, zero_a=zero_a, bias=bias, out_dtype=torch.float32)
    # An exact sum, then three roundings to float32 (6e-8 each), the last after a bias near it.
    np.testing.assert_allclose(got.numpy(), want + bias.numpy(), rtol=1e-5, atol=1e-5)


def test_sums_are_exact(seed: int) -> None:
    """Below 2^24 float32 holds each integer, so a scale of 1 shows the sums themselves."""
    rng = np.random.default_rng(seed)
    a, b = _codes(rng, 9, 500), _codes(rng, 11, 500)
    zero = torch.from_numpy(rng.integers(-128, 128, (9, 1), dtype=np.int32))
    got = ak.matmul_int8(a, b, ONE, ONE, zero_a=zero, out_dtype=torch.float32)
    assert np.array_equal(got.numpy().astype(np.int64), _exact(a, b, zero))


@pytest.mark.parametrize("zero", [None, 127])
def test_a_sum_may_be_as_large_as_codes_and_depth_make_it(zero: int | None) -> None:
    each = 128 * (128 if zero is None else 255)
    assert deepest(zero is not None) * each < 2**31 <= (deepest(zero is not None) + 1) * each
    zero_a = None if zero is None else torch.tensor(zero, dtype=torch.int32)
    for K in (deepest(zero is not None), deepest(zero is not None) + 1):
        ends = torch.full((1, K), -128, dtype=torch.int8)
        got = ak.matmul_int8(ends, ends, ONE, ONE, zero_a=zero_a, out_dtype=torch.float32)
        assert got.item() == torch.tensor(K * each).float().item()


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("deepest", None),
        ("deepest-zero", None),
        ("deeper", "up to 131071 without a zero point, here 131080"),
    ],
)
def test_depth_decides_who_serves(case: str, why: str | None) -> None:
    op = get_op("matmul_int8")
    problem = Problem(op, op.make_inputs(op.case(case), "meta", 0), "cuda", 90)
    found = op.provider("triton").rejects(problem)
    assert found is None if why is None else why in str(found)


@pytest.mark.parametrize(
    "case", ["aligned", "mixed-a", "uneven", "zero-ends", "one-row", "residual", "gated"]
)
def test_int_mm_is_right(case: str, seed: int) -> None:
    """On a CPU, with codes that no pair of products saturates 16 bits with."""
    op = get_op("matmul_int8")
    args = op.make_inputs(op.case(case), "cpu", seed)
    args = (args[0] // 2, args[1] // 2, *args[2:])
    out = op.fake(*args).fill_(math.nan)
    int_mm.launch((out,), *args)
    assert op.tolerance[0].judge(out, op.oracle(args)[0], op.reference(*args), args).ok


@pytest.mark.parametrize(
    ("M", "N", "K", "why"),
    [
        (32, 16, 32, None),
        (16, 16, 32, "more than 16 rows, here 16"),
        (32, 12, 32, "multiples of 8, here 32 and 12"),
        (32, 16, 40, "a must have contiguous rows"),
        (0, 16, 32, "the problem is empty"),
        (32, 16, 131072, "int32 sums hold K up to 131071, here 131072"),
    ],
)
def test_int_mm_says_what_it_can_not_do(M: int, N: int, K: int, why: str | None) -> None:
    op = get_op("matmul_int8")
    a, b = (torch.empty(n, K, dtype=torch.int8, device="meta") for n in (M, N))
    scale = torch.empty((), device="meta")
    args = (a, b, scale, scale, None, None, torch.bfloat16, None, "none", False)
    found = int_mm.rejects(Problem(op, args, "cuda", 90))
    assert found is None if why is None else why in str(found)


def test_weight_only_agrees_with_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, scale = _codes(rng, 5, 33), _scales(rng, 5)
    x = torch.from_numpy(rng.normal(size=(7, 33))).to(torch.bfloat16)
    want = x.double().numpy() @ (b.numpy() * scale.double().numpy()).T
    got = ak.matmul_w8(x, b, scale).double().numpy()
    # bf16 rounds by 2^-9 at most; a sum near 0 also has its float32 additions' errors.
    np.testing.assert_allclose(got, want, rtol=2**-8, atol=1e-5 * np.abs(want).max())


# ---- quantisation


def test_every_code_comes_back() -> None:
    codes = torch.arange(-127, 128)
    x_q, scale = ak.quantize_int8(codes * 0.5)
    assert scale.item() == 0.5
    assert x_q.tolist() == codes.tolist()
    codes = torch.arange(-128, 128)
    x_q, scale, zero = ak.quantize_int8((codes + 30) * 0.5, symmetric=False)
    assert (round(scale.item(), 6), zero.item()) == (0.5, -30)
    assert x_q.tolist() == codes.tolist()


def test_rounding_is_to_the_nearest_and_even() -> None:
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 126.5])
    assert ak.quantize_int8(x)[0].tolist() == [127, 0, 2, 2, 0, -2, -2, 0, 126]
    x = torch.tensor([-128.0, 127.0, 0.5, 1.5, -0.5])
    x_q, scale, zero = ak.quantize_int8(x, symmetric=False)
    assert (scale.item(), zero.item()) == (1.0, 0)
    assert x_q.tolist() == [-128, 127, 0, 2, 0]


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("middle", [-5.0, 0.0, 0.7, 5.0])
def test_values_come_back_within_half_a_step(granularity: str, middle: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 300, generator=generator) + middle
    for symmetric in (True, False):
        x_q, scale, *zero = ak.quantize_int8(x, granularity, symmetric=symmetric)
        back = (x_q.int() - (zero[0] if zero else 0)) * scale
        assert ((back - x).abs() <= scale * 0.5001).all()
        assert (back[x == 0] == 0).all()


def test_scale_of_nothing_and_of_next_to_nothing() -> None:
    for x in (torch.zeros(4, 8), torch.zeros(0, 8)):
        assert ak.quantize_int8(x)[1].item() == 1.0
        x_q, scale, zero = ak.quantize_int8(x, symmetric=False)
        assert (scale.item(), zero.item()) == (1.0, -128)
        assert (x_q == -128).all()
    assert ak.quantize_int8(torch.zeros(3, 0), "row")[1].tolist() == [[1.0]] * 3
    assert ak.quantize_int8(torch.full((2,), 1e-44))[1].item() == torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_become_numbers(bad: float, symmetric: bool) -> None:
    x = torch.ones(3, 8)
    x[1, 2] = bad
    x_q, scale, *zero = ak.quantize_int8(x, "row", symmetric=symmetric)
    back = (x_q.int() - (zero[0] if zero else 0)) * scale
    assert torch.isfinite(scale).flatten().tolist() == [True, False, True]
    assert torch.isnan(back).all(1).tolist() == [False, True, False]
    assert (x_q[1] == 0).all()
    x_q, scale, *_ = ak.quantize_int8(x, symmetric=symmetric)
    assert (x_q == 0).all()
    assert not torch.isfinite(scale)


@pytest.mark.parametrize("middle", [0.0, 3.0])
def test_quantised_product_is_near_the_product(middle: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, 256, generator=generator) for n in (20, 30))
    x += middle
    (a, scale_a, zero) = ak.quantize_int8(x, "row", symmetric=False)
    b, scale_b = ak.quantize_int8(w, "row")
    got = ak.matmul_int8(a, b, scale_a, scale_b, zero_a=zero, out_dtype=torch.float32)
    assert (got - x @ w.T).norm() < 0.02 * (x @ w.T).norm()
    got = ak.matmul_w8(x.bfloat16(), b, scale_b)
    assert (got - x @ w.T).norm() < 0.02 * (x @ w.T).norm()


def test_published_error_holds(seed: int) -> None:
    """Relative mean error after rounding to bf16, against float64 of the dequantised operands."""
    rng = np.random.default_rng(seed)
    a, b, scale_a, scale_b = (
        _codes(rng, 64, 512), _codes(rng, 96, 512), _scales(rng, 64), _scales(rng, 96),
    )  # fmt: skip
    want = (a.double() * scale_a) @ (b.double() * scale_b).T
    got = ak.matmul_int8(a, b, scale_a, scale_b).double()
    assert (got - want).abs().mean() <= 2e-3 * want.abs().mean()
    x = torch.from_numpy(rng.normal(size=(64, 512))).bfloat16()
    want = x.double() @ (b.double() * scale_b).T
    got = ak.matmul_w8(x, b, scale_b).double()
    assert (got - want).abs().mean() <= 2e-3 * want.abs().mean()
