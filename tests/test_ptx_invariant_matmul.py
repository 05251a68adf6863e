"""matmul_fp8(batch_invariant=True) as compiled for sm_90a: a row's bits, whatever is beside it.

The executor sums the products of an instruction exactly, so this is about tiles, instructions and
the order of blocks, and no evidence for the order in which a GPU's matrix instructions add.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Problem
from aimills_kernels._registry import get_op
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
OP = get_op("matmul_fp8")
KINDS = {"triton": ("row", "row"), "triton_block": ("1x128", "128x128")}
PLACES = {"first of two": (2, 0), "last of 17": (17, 16), "in a second tile": (70, 65)}


def _row(provider: str, seed: int, M: int, at: int, invariant: bool, odd: bool = False) -> Tensor:
    """The row of out that belongs to one row of a, which stands at `at` of M others.

    Terms of far magnitudes and a float32 output of fp8 tensor cores, so that an order shows.
    """
    scale_a, scale_b = KINDS[provider]
    case = Case(
        "cut", M=M, N=24, K=300, scale_a=scale_a, scale_b=scale_b, a="e5m2", b="e5m2", out="f32",
        fill="magnitudes", accum="fast", invariant=invariant,
        layout="sliced" if odd else "contiguous",
    )  # fmt: skip
    args = list(OP.make_inputs(case, "cpu", seed + M))
    (mine, _, scale, *_), (_, b, _, columns, *_) = (
        OP.make_inputs(Case("own", **{**case.dims, "M": 1, "layout": "contiguous"}), "cpu", seed)
        for _ in range(2)
    )
    args[0][at], args[2][at], args[1], args[3] = mine[0], scale[0], b, columns
    if odd:
        assert args[0].stride(0) % 16
    found = torch.full((M, 24), torch.nan)
    chosen = OP.provider(provider)
    with executing(90, seed=seed):
        assert _dispatch.why_not(chosen, Problem(OP, args, "cuda", 90)) is None
        _dispatch.load(chosen)((found,), *args)
    assert found.isfinite().all()
    return found[at]


@pytest.mark.parametrize(
    "place",
    [
        "first of two",
        *(
            pytest.param(p, marks=pytest.mark.full)
            for p in (*list(PLACES)[1:], "at an odd address")
        ),
    ],
)
@pytest.mark.parametrize("provider", KINDS)
def test_a_row_has_the_same_bits(provider: str, place: str, seed: int) -> None:
    want = _row(provider, seed, 1, 0, True)
    M, at = PLACES.get(place, (3, 1))
    got = _row(provider, seed, M, at, True, odd=place not in PLACES)
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))


@pytest.mark.full
def test_without_it_they_depend_on_the_rows_beside(seed: int) -> None:
    """Up to 16 rows the codes are multiplied as float16."""
    one, many = (_row("triton", seed, M, 0, False) for M in (1, 70))
    assert not torch.equal(one.view(torch.int32), many.view(torch.int32))


@pytest.mark.parametrize("name", ["scaled_mm", "reference"])
def test_what_depends_on_them_is_not_taken(name: str) -> None:
    args = OP.make_inputs(OP.case("invariant"), "cpu", 0)
    assert "depend on M" in str(OP.provider(name).rejects(Problem(OP, args, "cuda", 90)))
