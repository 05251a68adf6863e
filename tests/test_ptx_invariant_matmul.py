"""matmul_fp8, matmul_w8 and matmul_int8 with batch_invariant=True as compiled for sm_90a: a row's
bits, whatever is beside it.

The executor sums the products of an instruction exactly, so this is about tiles, instructions and
the order of blocks, and no evidence for the order in which a GPU's matrix instructions add.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
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
    """Up to 16 rows the codes are multiplied as float16. Of 24 values nine differ; that none does
    has a chance of 1e-5."""

    def differ(drawn: int) -> bool:
        one, many = (_row("triton", drawn, M, 0, False) for M in (1, 70))
        return not torch.equal(one.view(torch.int32), many.view(torch.int32))

    assert any(differ(seed + i) for i in range(4))


OF_INT8 = {
    "matmul_w8": dict(scale_b="row", bias="f32", residual="f32"),
    "matmul_int8": dict(scale_a="row", scale_b="row", zero="codes", zeros="row", out="f32",
                        act="silu", bias="f32", residual="f32"),
}  # fmt: skip
ROWS = {"matmul_w8": ("x", "residual"), "matmul_int8": ("a", "scale_a", "zero_a", "residual")}


def _row_of_int8(name: str, seed: int, M: int, at: int, invariant: bool, odd: bool) -> Tensor:
    """As `_row`: what belongs to the row is drawn by `seed`, and what is beside it is not. The 16
    bits of `matmul_w8` are those of its sum less what it is in float64, so that an order shows."""
    op = get_op(name)
    case = Case("cut", M=M, N=24, K=300, **OF_INT8[name], invariant=invariant,
                layout="odd rows" if odd else "contiguous")  # fmt: skip
    args = dict(zip(op.params, op.make_inputs(case, "cpu", seed + M), strict=True))
    own = Case("own", **{**case.dims, "M": 1, "layout": "contiguous"})
    for key, mine in zip(op.params, op.make_inputs(own, "cpu", seed), strict=True):
        if key in ROWS[name]:
            args[key][at] = mine[0]
        else:
            args[key] = mine
    if name == "matmul_w8":
        args["residual"][at] = -op.reference(
            *(
                args[key][at : at + 1].double()
                if key == "x"
                else None
                if key == "residual"
                else arg
                for key, arg in args.items()
            )
        )[0]
    assert odd == bool(args[ROWS[name][0]].stride(0) % 4)
    found = torch.full_like(op.fake(*args.values()), torch.nan)
    chosen = op.provider("triton")
    with executing(90, seed=seed):
        assert _dispatch.why_not(chosen, Problem(op, [*args.values()], "cuda", 90)) is None
        _dispatch.load(chosen)((found,), *args.values())
    assert found.isfinite().all()
    return found[at].float()


@pytest.mark.parametrize(
    "place",
    [
        "last of 17",
        *(
            pytest.param(p, marks=pytest.mark.full)
            for p in ("first of two", "in a second tile", "at an odd address")
        ),
    ],
)
@pytest.mark.parametrize("name", OF_INT8)
def test_a_row_by_int8_weights_has_the_same_bits(name: str, place: str, seed: int) -> None:
    """Those of int8 too, whose tiles M picks: their sums have no order, and every tile ends a row
    alike."""
    want = _row_of_int8(name, seed, 1, 0, True, False)
    M, at = PLACES.get(place, (3, 1))
    got = _row_of_int8(name, seed, M, at, True, place not in PLACES)
    assert torch.equal(got, want)


@pytest.mark.full
def test_without_it_those_by_int8_weights_depend_on_the_rows_beside(seed: int) -> None:
    """Two or three values in 24 do, and in one row of seven none."""

    def differ(drawn: int) -> bool:
        one, many = (_row_of_int8("matmul_w8", drawn, M, M - 1, False, False) for M in (1, 17))
        return not torch.equal(one, many)

    assert any(differ(seed + i) for i in range(40))


def test_without_it_the_sums_of_w8_follow_other_tiles() -> None:
    """Up to 16 rows other channels and another depth, by another instruction; with it all alike,
    and no other tiles are tried or tuned."""
    op = get_op("matmul_w8")
    found: dict[bool, set[tuple]] = {False: set(), True: set()}
    for invariant, tiles in found.items():
        for M in (1, 16, 17, 70, 4096):
            case = Case("c", M=M, N=64, K=64, scale_b="row", invariant=invariant)
            args = op.make_inputs(case, "meta", 0)
            triton = op.provider("triton")
            assert triton.configs is not None
            tiles.add(tuple(map(str, triton.configs(Problem(op, args, "cuda", 90)))))
    assert [len(tiles) for tiles in found[True]] == [1]
    assert len(found[False]) > 1


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("matmul_fp8", "scaled_mm"), ("matmul_fp8", "reference"), ("matmul_w8", "reference"),
        ("matmul_w4", "reference"),
    ],
)  # fmt: skip
def test_what_depends_on_them_is_not_taken(op: str, name: str) -> None:
    declared = get_op(op)
    args = declared.make_inputs(declared.case("invariant"), "cpu", 0)
    found = declared.provider(name).rejects(Problem(declared, args, "cuda", 90))
    assert re.search("depend on M", str(found))


@pytest.mark.parametrize("M", [1, 16, 17, 4096])
def test_one_path_of_int8_serves_every_number_of_rows(M: int) -> None:
    """PyTorch's takes more than 16 rows alone: with the option it serves none."""
    op = get_op("matmul_int8")
    took = {}
    for invariant in (False, True):
        case = Case("c", M=M, N=64, K=64, scale_a="row", scale_b="row", invariant=invariant)
        problem = Problem(op, op.make_inputs(case, "meta", 0), "cuda", 90)
        took[invariant] = [p.name for p in op.all_providers if p.rejects(problem) is None]
    assert took[True] == ["triton", "reference"]
    assert ("int_mm" in took[False]) == (M > 16)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_row_has_the_same_bits_on_a_cpu(activation: str, seed: int) -> None:
    """Of the reference, whose sums are exact; the end of a tensor has an exponential of its own."""
    op = get_op("matmul_int8")
    case = Case("cut", M=70, N=35, K=77, scale_a="row", scale_b="row", bias="f32", out="f32",
                act=activation, invariant=True)  # fmt: skip
    a, b, scale_a, *rest = op.make_inputs(case, "cpu", seed)
    whole = ak.matmul_int8(a, b, scale_a, rest[0], bias=rest[2], out_dtype=torch.float32,
                           activation=activation, batch_invariant=True)  # fmt: skip
    for i in (0, 34, 69):
        own = slice(i, i + 1)
        one = ak.matmul_int8(a[own], b, scale_a[own], rest[0], bias=rest[2],
                             out_dtype=torch.float32, activation=activation,
                             batch_invariant=True)  # fmt: skip
        assert torch.equal(one[0].view(torch.int32), whole[i].view(torch.int32))


def test_no_path_on_a_cpu_promises_what_it_can_not_hold() -> None:
    codes, x = torch.ones(4, 16, dtype=torch.int8), torch.ones(2, 16, dtype=torch.bfloat16)
    one = torch.ones(())
    with pytest.raises(ValueError, match="on a CPU the last bits of its silu depend on M"):
        ak.matmul_int8(codes, codes, one, one, activation="silu", batch_invariant=True)
    with pytest.raises(ValueError, match="a row's bits depend on M"):
        ak.matmul_w8(x, codes, one, batch_invariant=True)
    with pytest.raises(ValueError, match="matmul_w8: batch_invariant must be True or False, got 1"):
        ak.matmul_w8(x, codes, one, batch_invariant=1)  # type: ignore[arg-type]
