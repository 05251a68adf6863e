"""Grouped matmul of fp8 codes whose result is quantised to fp8 again: what the next one reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider
from aimills_kernels.kernels.matmul import (
    cases_grouped_fp8,
    chosen,
    op_fp8,
    op_grouped_fp8,
    op_quantize,
)
from aimills_kernels.kernels.matmul.activations import GATED, activate
from aimills_kernels.kernels.matmul.cases import bad_bias, bad_scale, odd_gate, vary, width
from aimills_kernels.kernels.matmul.checks import depends
from aimills_kernels.kernels.matmul.config import Config, blocks_of
from aimills_kernels.kernels.matmul.groups import bad_groups, in_some, rows_in, skewed
from aimills_kernels.kernels.matmul.op_fp8_quantize import (
    BAD_FORMAT,
    Made,
    NearCodes,
    NearScale,
    to_codes,
)
from aimills_kernels.kernels.matmul.op_fused import check_format
from aimills_kernels.kernels.matmul.op_quantize import scale_shape, scales_last

NAME = "grouped_matmul_quantize_fp8"


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, activation: str, granularity: str,
    dtype: torch.dtype, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x_q * scale ~ activation((a * scale_a) @ (b[e] * scale_b[e]).T + bias[e]), in float32
    throughout, for the rows of each group e; codes 0 and scale 1 for rows of none.

    a to bias, activation and batch_invariant are those of `grouped_matmul_fp8`.
    ->  x_q, scale as those of `quantize_fp8` for "row" and "1x128"
    """
    sums = op_grouped_fp8.sums(a, b, scale_a, scale_b, offsets, masked_m, bias)
    return op_quantize.reference(activate(sums, activation), granularity, dtype)


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, activation: str, granularity: str,
    dtype: torch.dtype, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = op_grouped_fp8.check(NAME, a, b, scale_a, scale_b, offsets, masked_m, bias, activation)
    check_format(NAME, granularity, dtype)
    scale = a.new_empty(scale_shape(shape, granularity), dtype=torch.float32)
    return a.new_empty(shape, dtype=dtype), scale


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, *others: Any,
) -> None:  # fmt: skip
    op_grouped_fp8.check_values(NAME, a, b, scale_a, scale_b, offsets, masked_m)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    return to_codes(case, cases_grouped_fp8.inputs(case, generator))


def cost(case: Case) -> Cost:
    """Of the codes and scales in place of an output."""
    rows, F = math.prod(rows_in(case)), width(case)
    scales = rows * blocks_of(F) if case.get("granularity", "1x128") == "1x128" else rows
    plain = cases_grouped_fp8.cost(case)  # with an output in bf16
    return Cost(plain.flops, plain.bytes - rows * F + 4 * scales, plain.unit)


def made(got: Tensor, args: tuple) -> Made:
    """As `Made.of`."""
    a, b, scale_a, scale_b, offsets, masked_m, bias, activation, granularity, dtype, _ = args
    sums = op_grouped_fp8.sums(a, b, scale_a.double(), scale_b.double(), offsets, masked_m, bias)
    lost = op_fp8.sum_floor(got.device, "promoted", a.shape[-1])
    mine = in_some(a, offsets, masked_m, len(b))[..., None]
    return Made.of_sums(sums, lost, activation, granularity, dtype, mine)


def workspace(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, activation: str, granularity: str,
    dtype: torch.dtype, batch_invariant: bool,
) -> int:  # fmt: skip
    """Floats: the result, where no tile is a block of 128 columns."""
    found = chosen.for_codes_of_groups(
        a, b, scale_a, scale_b, batch_invariant, activation, granularity
    )
    F = b.shape[1] // 2 if activation == GATED else b.shape[1]
    return 0 if found.columns else math.prod(a.shape[:-1]) * F


def _configs(p: Problem) -> tuple[Config, ...]:
    return chosen.for_codes_of_groups(
        p.a, p.b, p.scale_a, p.scale_b, p.batch_invariant, p.activation, p.granularity, p.sm
    ).candidates()


_ROWS, _BLOCKS = cases_grouped_fp8._ROWS, cases_grouped_fp8._BLOCKS
_SMALL, _SMALL_MASKED = cases_grouped_fp8._SMALL, cases_grouped_fp8._SMALL_MASKED
_I, _FULL = {"interpret"}, {"interpret", "full"}
_ROW: dict[str, Any] = dict(granularity="row")

CASES = (
    Case("tiny", counts=(3, 0, 6), N=40, K=32, **_ROWS, bias="bf16", tags=_I),
    Case("tiny-row", counts=(3, 0, 6), N=40, K=32, tail=2, **_ROWS, **_ROW, act="silu",
         codes="e5m2", tags=_FULL),
    Case("ragged", counts=(17, 0, 1, 5), N=266, K=77, tail=7, **_ROWS, act="swiglu", bias="f32",
         tags=_I),
    Case("lead", counts=(0, 9, 2, 0), N=140, K=64, lead=True, tail=3, scale_b="group", act="relu"),
    Case("block", counts=(17, 0, 3), N=530, K=277, **_BLOCKS, tail=4, act="swiglu", tags=_FULL),
    Case("masked", counts=(4, 0, 20), M=20, N=150, K=70, masked=True, **_ROWS, bias="bf16",
         tags=_I),
    Case("masked-block", counts=(1, 18, 0), M=19, N=300, K=200, masked=True, **_BLOCKS,
         act="swiglu", codes="e5m2", tags=_FULL),
    Case("masked-row", counts=(4, 0, 2), M=5, N=62, K=90, masked=True, **_BLOCKS, **_ROW,
         act="swiglu", tags=_FULL),
    Case("all-empty", counts=(0, 0), N=140, K=40, **_ROWS, tail=5, tags=_FULL),
    Case("groups-empty", counts=(), N=140, K=40, tail=5, tags=_FULL),
    Case("groups-empty-row", counts=(), N=20, K=40, tail=5, **_ROW),
    Case("m-empty", counts=(0, 0), N=20, K=40, **_ROWS),
    Case("n-empty", counts=(3, 2), N=0, K=40, **_ROWS),
    Case("k-empty", counts=(3, 0, 2), N=20, K=0, bias="f16", tail=1, tags=_FULL),
    Case("onehot", counts=(20, 0, 31), N=140, K=300, **_ROWS, fill="onehot"),
    Case("magnitudes", counts=(20, 3), N=140, K=90, **_ROWS, fill="magnitudes"),
    Case("nan", counts=(8, 8), N=140, K=70, **_ROWS, fill="nan"),
    Case("transposed", counts=(9, 4), N=30, K=50, **_ROWS, bias="f32", layout="transposed"),
    Case("sliced-masked", counts=(9, 0, 4), M=9, N=30, K=50, masked=True, **_ROWS, act="gelu",
         layout="sliced"),
    Case("sparse", counts=(3, 2), N=9, K=40, **_ROWS, layout="sparse"),
    Case("invariant", counts=(2, 0, 30), N=150, K=200, **_ROWS, invariant=True, tags=_FULL),
    Case("deepseek-v3-gate-up-decode", counts=(16,) * 8, M=64, N=4096, K=7168, masked=True,
         **_BLOCKS, act="swiglu", cpu=_SMALL_MASKED, tags={"bench", "accept"}),
    Case("deepseek-v3-gate-up-8192", counts=(8192,) * 4, N=4096, K=7168, **_BLOCKS, act="swiglu",
         cpu=_SMALL, tags={"bench"}),
    Case("qwen3-235b-gate-up-8192", counts=skewed(128, 8192), N=3072, K=4096, **_ROWS, **_ROW,
         act="swiglu", cpu=_SMALL, tags={"bench"}),
    Case("aot-gated-block", counts=(1024,) * 2, N=4096, K=512, **_BLOCKS, act="swiglu", cpu=_SMALL,
         tags={"aot"}),
    Case("aot-vectors", counts=(1024,) * 2, N=4096, K=512, scale_a="1x128", scale_b="1x128",
         bias="f32", cpu=_SMALL, tags={"aot", "full"}),
    Case("aot-vectors-ragged", counts=(1024,) * 2, N=4102, K=512, scale_a="1x128",
         scale_b="1x128", bias="f32", cpu=_SMALL | dict(N=102), tags={"aot", "full"}),
    Case("aot-gated-masked", counts=(16,) * 2, M=64, N=512, K=512, masked=True, **_BLOCKS,
         act="swiglu", cpu=_SMALL_MASKED, tags={"aot"}),
    Case("aot-rows", counts=(1024,) * 2, N=1024, K=1024, **_ROWS, bias="bf16", cpu=_SMALL,
         tags={"aot", "full"}),
    Case("aot-unaligned", counts=(512, 100), N=514, K=1000, **_ROWS, act="swiglu", cpu=_SMALL,
         tags={"aot", "full"}),
)  # fmt: skip

ERRORS = (
    *bad_groups("a"),
    *bad_scale("scale_a"),
    *bad_scale("scale_b"),
    *bad_bias(40),
    *BAD_FORMAT,
    odd_gate(b=lambda a: a["b"][:, :-1], scale_b=lambda a: a["scale_b"][:, :-1]),
    Invalid("a is bf16", vary(a=lambda a: a["a"].bfloat16()), "a must be float8_e4m3fn"),
    Invalid("b has two dims", vary(b=lambda a: a["b"][0]), r"b must be \[E, N, K\]"),
    Invalid("depths differ", vary(b=lambda a: a["b"][..., :-1]), "a must have 31 columns"),
)


grouped_matmul_quantize_fp8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(NearCodes(made), NearScale(made)),
    errors=ERRORS,
    values=values,
    outputs=("x_q", "scale"),
    presented=scales_last(reference),
    reference_rejects=depends,
    rows=("a", "scale_a"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_grouped_fp8_quantize:launch",
            sources=(*op_grouped_fp8.SOURCES, "kernels/matmul/triton_grouped_fp8.py"),
            workspace=workspace,
            configs=_configs,
        ),
    ),
)
