"""Matmul of fp8 codes whose result is quantised to fp8 again: what the next matmul reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider
from aimills_kernels._tolerance import EPS32, Judgement, specials
from aimills_kernels.kernels.matmul import cases_fp8, chosen, op_fp8, op_quantize
from aimills_kernels.kernels.matmul.activations import GATED, activate
from aimills_kernels.kernels.matmul.cases import bad_bias, bad_operands, bad_scale, vary, width
from aimills_kernels.kernels.matmul.checks import check_scale, depends
from aimills_kernels.kernels.matmul.config import Config, blocks_of, split_sums
from aimills_kernels.kernels.matmul.formats import CODES, LARGEST
from aimills_kernels.kernels.matmul.op_fused import (
    GRANULARITIES,
    SLACK,
    check_format,
    judged,
    step_of,
)
from aimills_kernels.kernels.matmul.op_quantize import scale_shape, scales_last, spread

NAME = "matmul_quantize_fp8"


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, activation: str,
    granularity: str, dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x_q * scale ~ activation((a * scale_a) @ (b * scale_b).T + bias), in float32 throughout.

    a to bias, activation, accum and batch_invariant are those of `matmul_fp8`.
    ->  x_q, scale as those of `quantize_fp8` for "row" and "1x128"
    """
    sums = op_fp8.sums(a, b, scale_a, scale_b, bias)
    return op_quantize.reference(activate(sums, activation), granularity, dtype)


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, activation: str,
    granularity: str, dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = op_fp8.check(NAME, a, b, scale_a, scale_b, bias, activation, accum)
    check_format(NAME, granularity, dtype)
    scale = a.new_empty(scale_shape(shape, granularity), dtype=torch.float32)
    return a.new_empty(shape, dtype=dtype), scale


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, *others: Any,
) -> None:  # fmt: skip
    check_scale(NAME, "scale_a", scale_a)
    check_scale(NAME, "scale_b", scale_b)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    return to_codes(case, cases_fp8.inputs(case, generator))


def to_codes(case: Case, drawn: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a matmul, of one that gives codes: `granularity`, and `codes`, of what
    format."""
    kept = {name: value for name, value in drawn.items() if name not in ("residual", "out_dtype")}
    return {
        **kept,
        "granularity": case.one_of("granularity", *reversed(GRANULARITIES)),
        "dtype": CODES[case.one_of("codes", *CODES)],
    }


def cost(case: Case) -> Cost:
    """Of the codes and scales in place of an output."""
    M, F = case.M, width(case)
    scales = M * blocks_of(F) if case.get("granularity", "1x128") == "1x128" else M
    plain = cases_fp8.cost(case)  # with an output in bf16
    return Cost(plain.flops, plain.bytes - M * F + 4 * scales, plain.unit)


# ---- how an output is held


@dataclass(frozen=True)
class Made:
    """What is quantised, in float64, and by how much float32 sums may miss it: so many float32
    roundings of the largest sum as `matmul_fp8` is allowed, through the activation."""

    exact: Tensor
    error: Tensor
    scale: Tensor
    granularity: str
    dtype: torch.dtype

    @classmethod
    def of(cls, got: Tensor, args: tuple) -> Made:
        a, b, scale_a, scale_b, bias, activation, granularity, dtype, accum, _ = args
        sums = op_fp8.sums(a, b, scale_a.double(), scale_b.double(), bias)
        lost = op_fp8.sum_floor(got.device, accum, a.shape[1])
        return cls.of_sums(sums, lost, activation, granularity, dtype)

    @classmethod
    def of_sums(
        cls, sums: Tensor, lost: float, activation: str, granularity: str, dtype: torch.dtype,
        mine: Tensor | None = None,
    ) -> Made:  # fmt: skip
        """`lost`: of the largest one, in float32 roundings. Rows that are not `mine` are exact."""
        exact = activate(sums, activation)
        lost *= EPS32
        lost *= float(sums.abs().nan_to_num(0, 0).amax()) if sums.numel() else 0.0
        steepest = exact.new_full((), 1.13)  # no slope of an activation is more
        if activation == GATED:
            gate, up = sums.chunk(2, -1)
            steepest = 1.13 * up.abs() + torch.nn.functional.silu(gate).abs()
        error = (lost * steepest).expand(exact.shape)
        if mine is not None:
            error = error.masked_fill(~mine, 0)
        amax = op_quantize.largest_magnitudes(exact, granularity)
        return cls(exact, error, op_quantize.scale_for(amax, dtype), granularity, dtype)


@dataclass(frozen=True)
class NearScale:
    """The exact one, but for what the sums may miss; 1 where the result is 0 but for that: a gelu
    of -9 is no 0, and in float32 it is one. `made`: what is quantised, of an output and the
    arguments."""

    made: Callable[[Tensor, tuple], Made] = Made.of

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        made = self.made(got, args)
        error = op_quantize.largest_magnitudes(made.error, made.granularity) / LARGEST[made.dtype]
        if made.granularity == "1x128":  # blocks come first, or last as public functions have them
            first = error.movedim(-1, 0)
            alike = first.shape == error.shape
            error = torch.maximum(error, first) if alike else error
            error = error if error.shape == got.shape else first
        want = torch.where((got == 1) & (oracle <= error), 1.0, oracle)
        return specials(got, rounded) or judged(got.double(), want, SLACK * want.abs() + error)


@dataclass(frozen=True)
class NearCodes:
    """Of the two codes around the exact value the nearer one, where that is not so near to the
    middle that the sums, or the scale that follows from them, may have passed it."""

    made: Callable[[Tensor, tuple], Made] = Made.of

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if special := specials(got.double(), rounded.double()):
            return special
        made = self.made(got, args)
        granularity, dtype = made.granularity, made.dtype
        each = spread(made.scale, granularity, made.exact.shape)
        off = op_quantize.largest_magnitudes(made.error, granularity)
        off = spread(off / LARGEST[dtype], granularity, made.exact.shape) / each
        value = torch.where(oracle.double().isnan(), float("nan"), made.exact / each)
        bound = step_of(value, dtype) / 2 + (SLACK + off) * value.abs() + made.error / each
        return judged(got.double(), value, bound)


def workspace(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, activation: str,
    granularity: str, dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> int:  # fmt: skip
    """Floats: sums of splits, and the result where no tile makes codes."""
    found = chosen.for_codes(
        a, b, scale_a, scale_b, accum, batch_invariant, activation, granularity
    )
    M, N = len(a), len(b)
    result = 0 if found.columns else M * (N // 2 if activation == GATED else N)
    return split_sums(found.config(), M, N) + result


def _configs(p: Problem) -> tuple[Config, ...]:
    return chosen.for_codes(
        p.a, p.b, p.scale_a, p.scale_b, p.accum, p.batch_invariant, p.activation, p.granularity,
        p.sm,
    ).candidates()  # fmt: skip


_ROWS, _BLOCKS = cases_fp8._ROWS, cases_fp8._BLOCKS
_I, _FULL = {"interpret"}, {"interpret", "full"}
_ROW: dict[str, Any] = dict(granularity="row")

CASES = (
    Case("tiny", M=3, N=40, K=32, **_ROWS, bias="bf16", tags=_I),
    Case("tiny-row", M=3, N=40, K=32, **_ROWS, **_ROW, act="silu", codes="e5m2", tags=_FULL),
    Case("ragged", M=19, N=266, K=150, **_ROWS, act="swiglu", bias="f32", tags=_I),
    Case("ragged-block", M=18, N=530, K=260, **_BLOCKS, act="swiglu", codes="e5m2", tags=_FULL),
    Case("ragged-row", M=9, N=62, K=90, **_BLOCKS, **_ROW, act="swiglu", tags=_FULL),
    Case("many", M=70, N=150, K=96, act="relu", tags=_FULL),
    Case("split", M=2, N=274, K=1100, **_ROWS, act="swiglu", tags=_FULL),
    Case("split-row", M=3, N=60, K=1100, **_BLOCKS, **_ROW, bias="bf16", tags=_FULL),
    Case("nan", M=20, N=140, K=70, **_ROWS, fill="nan", bias="bf16", tags=_FULL),
    Case("onehot", M=20, N=140, K=300, **_ROWS, fill="onehot"),
    Case("magnitudes", M=20, N=140, K=70, **_ROWS, fill="magnitudes"),
    Case("fast", M=20, N=140, K=300, accum="fast"),
    Case("transposed", M=20, N=40, K=60, **_ROWS, layout="transposed", act="gelu"),
    Case("vanishing", M=60, N=1, K=5, **_ROWS, **_ROW, act="gelu"),
    Case("sliced", M=20, N=40, K=60, **_ROWS, layout="sliced", bias="bf16"),
    Case("sparse", M=5, N=9, K=40, **_ROWS, layout="sparse"),
    Case("invariant", M=3, N=150, K=200, **_ROWS, invariant=True, tags=_FULL),
    Case("m-empty", M=0, N=40, K=32, **_ROWS),
    Case("n-empty", M=3, N=0, K=32, **_ROWS),
    Case("k-empty", M=3, N=40, K=0, **_ROWS, bias="f16", tags=_FULL),
    Case("llama3-8b-gate-up-16", M=16, N=28672, K=4096, **_ROWS, **_ROW, act="swiglu",
         cpu=dict(N=448, K=512), tags={"bench"}),
    Case("deepseek-v3-gate-up-64", M=64, N=36864, K=7168, **_BLOCKS, act="swiglu",
         cpu=dict(M=16, N=576, K=1152), tags={"bench"}),
    Case("deepseek-v3-gate-up-4096", M=4096, N=36864, K=7168, **_BLOCKS, act="swiglu",
         cpu=dict(M=16, N=576, K=1152), tags={"bench", "accept", "aot"}),
    Case("aot-rows", M=1024, N=1024, K=1024, **_ROWS, bias="bf16", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
    Case("aot-gated-row", M=2048, N=4096, K=512, **_BLOCKS, act="swiglu", bias="f32",
         granularity="row", cpu=dict(M=24, N=96), tags={"aot", "full"}),
    Case("aot-vectors-ragged", M=2048, N=4102, K=512, scale_a="1x128", scale_b="1x128", bias="f32",
         cpu=dict(M=24, N=102), tags={"aot", "full"}),
    Case("aot-vectors-unaligned", M=2048, N=4102, K=1000, scale_a="1x128", scale_b="1x128",
         bias="f32", act="swiglu", **_ROW, cpu=dict(M=24, N=102), tags={"aot", "full"}),
    Case("aot-decode", M=16, N=4096, K=4096, **_BLOCKS, act="swiglu", cpu=dict(N=64, K=600),
         tags={"aot"}),
    Case("aot-unaligned", M=512, N=514, K=1000, **_ROWS, act="swiglu", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
)  # fmt: skip

BAD_FORMAT = (
    Invalid("activation unknown", vary(activation="tanh"), "activation must be one of none"),
    Invalid("granularity of the tensor", vary(granularity="tensor"),
            "granularity must be 'row' or '1x128', got 'tensor'"),
    Invalid("dtype is int8", vary(dtype=torch.int8), "dtype must be float8_e4m3fn"),
)  # fmt: skip
ERRORS = (
    *bad_operands("a", 32),
    *bad_scale("scale_a"),
    *bad_scale("scale_b"),
    *bad_bias(40),
    *BAD_FORMAT,
    Invalid("accum unknown", vary(accum="slow"), "accum must be 'promoted' or 'fast'"),
)  # fmt: skip


matmul_quantize_fp8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(NearCodes(), NearScale()),
    errors=ERRORS,
    values=values,
    outputs=("x_q", "scale"),
    presented=scales_last(reference),
    reference_rejects=depends,
    rows=("a", "scale_a"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fp8_quantize:launch",
            sources=(
                *op_fp8.SOURCES,
                "kernels/matmul/triton_fp8.py",
                "kernels/matmul/triton_fp8_block.py",
            ),
            workspace=workspace,
            configs=_configs,
        ),
    ),
)
