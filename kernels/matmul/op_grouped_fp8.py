"""Matmul of fp8 codes in groups of rows, each with a weight of its own, as a mixture of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Invalid, Op, Problem, Provider, describe
from aimills_kernels.kernels.matmul import chosen, op_fp8, scaled_grouped_mm
from aimills_kernels.kernels.matmul.activations import activate, check_activation
from aimills_kernels.kernels.matmul.cases import (
    BAD_OUT_DTYPE,
    bad_bias,
    bad_end,
    bad_scale,
    odd_gate,
    vary,
)
from aimills_kernels.kernels.matmul.cases_grouped_fp8 import CASES, cost, inputs
from aimills_kernels.kernels.matmul.checks import (
    check_bias,
    check_dtype,
    check_no_gradient,
    check_numbers,
    check_out_dtype,
    check_residual,
    check_scale,
    depends,
)
from aimills_kernels.kernels.matmul.config import Config, blocks_of
from aimills_kernels.kernels.matmul.formats import LARGEST
from aimills_kernels.kernels.matmul.groups import (
    bad_groups,
    by_group,
    check_groups,
    check_lengths,
    in_some,
    of_group,
    with_residual,
)

NAME = "grouped_matmul_fp8"


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype, batch_invariant: bool,
    residual: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    """`matmul_fp8` of the rows of each group e with b[e], scale_b[e], bias[e]; 0 for rows of none.

    a         [T, K] or [E, M, K]  e4m3 | e5m2
    b         [E, N, K]            e4m3 | e5m2
    scale_a   [], [1] or a's shape with 1 or ceil(K / 128) in place of K  f32
    scale_b   [], [1], [E, 1, 1], [E, N, 1], [E, N, ceil(K / 128)]
              or [E, ceil(N / 128), ceil(K / 128)]  f32
    offsets   [E] or [E + 1]       i32, where each group's rows of [T, K] end, a 0 before or not
    masked_m  [E]                  i32, in its place with [E, M, K]: the first so many rows count
    bias      [E, N]               bf16 | f16 | f32, or None
    residual  as the output        bf16 | f16 | f32, or None
    ->        a's shape with N, or with activation "swiglu" N / 2, in place of K  out_dtype
    """
    made = activate(sums(a, b, scale_a, scale_b, offsets, masked_m, bias), activation)
    return with_residual(made, residual, a, offsets, masked_m, len(b)).to(out_dtype)


def sums(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """Not rounded, with the bias; 0 for rows of no group, as each activation leaves it."""
    E, N, _ = b.shape
    wide = torch.promote_types(scale_a.dtype, torch.float32)

    def multiply(rows: Tensor, e: int, mine: Tensor) -> Tensor:
        """What is in other rows must not become a NaN in a gradient."""
        scales = of_group(scale_a, e, 3)
        across = of_group(scale_b, e, 3)
        assert scales is not None
        assert across is not None
        if scales.dim() == 2:
            scales = scales.masked_fill(~mine, 1)
        if across.dim() == 2 and len(across) == 1:
            across = across[0] if across.shape[1] == 1 else across
        codes = rows.to(wide).masked_fill(~mine, 0)
        return op_fp8.sums(codes, b[e], scales, across, of_group(bias, e, 2))

    empty = scale_a.new_empty((*a.shape[:-1], N), dtype=wide)
    return by_group(multiply, a, offsets, masked_m, E, empty)


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype, batch_invariant: bool,
    residual: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    shape = check(NAME, a, b, scale_a, scale_b, offsets, masked_m, bias, activation)
    check_out_dtype(NAME, out_dtype)
    check_residual(NAME, residual, *shape)
    return a.new_empty(shape, dtype=out_dtype)


def check(
    op: str, a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, activation: str,
) -> tuple[int, ...]:  # fmt: skip
    """The shape of the output."""
    for name, t in (("a", a), ("b", b)):
        check_dtype(op, name, t, *LARGEST)
        check_no_gradient(op, name, t)
    if b.dim() != 3:
        raise ValueError(f"{op}: b must be [E, N, K], got {describe(b)}")
    E, N, K = b.shape
    rows = check_groups(op, "a", a, offsets, masked_m, E)
    if a.shape[-1] != K:
        raise ValueError(f"{op}: a must have {K} columns as b, got {describe(a)}")
    blocks = blocks_of(K)
    check_numbers(op, "scale_a", scale_a, (*rows, 1), (*rows, blocks))
    check_numbers(
        op, "scale_b", scale_b, (E, 1, 1), (E, N, 1), (E, N, blocks), (E, blocks_of(N), blocks)
    )
    check_bias(op, bias, E, N)
    return *rows, check_activation(op, activation, N)


def values(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    offsets: Tensor | None,
    masked_m: Tensor | None,
    *others: Any,
) -> None:
    check_values(NAME, a, b, scale_a, scale_b, offsets, masked_m)


def check_values(
    op: str, a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None,
) -> None:  # fmt: skip
    """Of scale_a only those of rows in a group: others are as garbage as their codes."""
    check_lengths(op, a, offsets, masked_m, len(b))
    used = scale_a if scale_a.dim() < 2 else scale_a[in_some(a, offsets, masked_m, len(b))]
    check_scale(op, "scale_a", used)
    check_scale(op, "scale_b", scale_b)


ERRORS = (
    *bad_groups("a"),
    *bad_scale("scale_a"),
    *bad_scale("scale_b"),
    *bad_bias(32),
    BAD_OUT_DTYPE,
    *bad_end(32),
    odd_gate(b=lambda a: a["b"][:, :-1], scale_b=lambda a: a["scale_b"][:, :-1]),
    Invalid("a is bf16", vary(a=lambda a: a["a"].bfloat16()), "a must be float8_e4m3fn"),
    Invalid("b is int8", vary(b=lambda a: a["b"].view(torch.int8)), "b must be float8_e4m3fn"),
    Invalid("b has two dims", vary(b=lambda a: a["b"][0]), r"b must be \[E, N, K\]"),
    Invalid("depths differ", vary(b=lambda a: a["b"][..., :-1]), "a must have 31 columns"),
    Invalid("scale_b of too few blocks", vary(scale_b=lambda a: a["scale_b"][..., :-1]),
            r"scale_b must be .*\[3, 2, 3\]", base="block"),
    Invalid("scale_a of a masked group is 0", vary(scale_a=lambda a: a["scale_a"] * 0),
            "scale_a must not be 0", base="masked", value=True),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    return chosen.for_groups(
        p.a, p.b, p.scale_a, p.scale_b, p.out_dtype, p.batch_invariant, p.activation, p.sm
    ).candidates()


SOURCES = (
    *op_fp8.SOURCES,
    "kernels/matmul/segments.py",
    "kernels/matmul/triton_fp8.py",
    "kernels/matmul/triton_fp8_block.py",
)

grouped_matmul_fp8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(op_fp8.Fp8Sum(),),
    errors=ERRORS,
    values=values,
    backward="reference",
    reference_rejects=depends,
    rows=("a", "scale_a", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_grouped_fp8:launch",
            sources=SOURCES,
            configs=_configs,
        ),
        Provider(
            "scaled_grouped_mm",
            "aimills_kernels.kernels.matmul.scaled_grouped_mm:launch",
            sm=(90,),
            rejects=scaled_grouped_mm.rejects,
            vendor=True,
            last=True,  # it was never run: what a GPU shows decides
        ),
    ),
)
