"""RMSNorm and SwiGLU fused with the quantisation of what they give to fp8."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Exact, Judgement, specials
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul import op_quantize
from aimills_kernels.kernels.matmul.cases import lay_out, vary
from aimills_kernels.kernels.matmul.config import (
    LONGEST_NORM,
    LONGEST_SWIGLU,
    blocks_of,
    row_stride,
)
from aimills_kernels.kernels.matmul.formats import CODES, E4M3, WIDE
from aimills_kernels.kernels.matmul.op_quantize import scale_for, scale_shape, scales_last, spread

GRANULARITIES = ("row", "1x128")
SLACK = 2.0**-15  # of a value that is then rounded to a code, or of a scale; a code has 2^-4


# ---- what is computed


def rmsnorm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple:
    """The norm and the sum before it, in float32 or float64."""
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    if residual is not None:
        h = h + residual.to(h.dtype)
    return h * (h.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(h.dtype), h


def rmsnorm_reference(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, granularity: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x_q * scale ~ h / sqrt(mean(h^2) + eps) * weight, h = x + residual, in float32 throughout.

    x         [..., K]  f16 | bf16 | f32
    weight    [K]       f16 | bf16 | f32
    residual  x's shape and dtype, or None
    ->        x_q, scale as those of quantize_fp8 for "row" and "1x128"; h in x's dtype, of size 0
              without a residual
    """
    y, h = rmsnorm(x, weight, residual, eps)
    total = x.new_empty(0) if residual is None else h.to(x.dtype).contiguous()
    return *op_quantize.reference(y, granularity, dtype), total


def swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32)).chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


def swiglu_reference(
    gate_up: Tensor, granularity: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x_q * scale ~ gate / (1 + exp(-gate)) * up, in float32 throughout.

    gate_up  [..., 2 K]  f16 | bf16 | f32; the first half of the last dim is the gate
    ->       x_q [..., K] and scale as those of quantize_fp8 for "row" and "1x128"
    """
    return op_quantize.reference(swiglu(gate_up), granularity, dtype)


# ---- the checks


def _check(name: str, argument: str, x: Tensor, granularity: str, dtype: torch.dtype) -> None:
    if x.dim() == 0:
        raise ValueError(f"{name}: {argument} must have at least one dim, got {describe(x)}")
    if x.dtype not in WIDE.values():
        raise ValueError(f"{name}: {argument} must be f16, bf16 or f32, got {describe(x)}")
    check_format(name, granularity, dtype)


def check_format(name: str, granularity: str, dtype: torch.dtype) -> None:
    op_quantize.check_format(name, granularity, dtype, GRANULARITIES)


def rmsnorm_fake(
    x: Tensor, weight: Tensor, residual: Tensor | None, eps: float, granularity: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    name = "rmsnorm_quantize_fp8"
    _check(name, "x", x, granularity, dtype)
    if weight.dtype not in WIDE.values():
        raise ValueError(f"{name}: weight must be f16, bf16 or f32, got {describe(weight)}")
    if tuple(weight.shape) != (x.shape[-1],):
        raise ValueError(f"{name}: weight must be [{x.shape[-1]}], got {describe(weight)}")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(f"{name}: residual must be {describe(x)} as x, got {describe(residual)}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{name}: eps must be finite and at least 0, got {shown(eps)}")
    scale = x.new_empty(scale_shape(x.shape, granularity), dtype=torch.float32)
    total = x.new_empty(0 if residual is None else x.shape)
    return x.new_empty(x.shape, dtype=dtype), scale, total


def swiglu_fake(gate_up: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    name = "swiglu_quantize_fp8"
    _check(name, "gate_up", gate_up, granularity, dtype)
    *lead, twice = gate_up.shape
    if twice % 2:
        raise ValueError(
            f"{name}: the last dim of gate_up must be even, a gate and as many more, "
            f"got {describe(gate_up)}"
        )
    shape = (*lead, twice // 2)
    scale = gate_up.new_empty(scale_shape(shape, granularity), dtype=torch.float32)
    return gate_up.new_empty(shape, dtype=dtype), scale


# ---- inputs


def _draw(case: Case, width: int, generator: torch.Generator) -> Tensor:
    """`fill`: normal, each block of its own magnitude; small, so that eps counts; rows of zeros; an
    impulse in the last element; NaN and infinity."""
    fill = case.one_of("fill", "normal", "small", "zeros", "impulse", "specials")
    place, lead = generator.device, case.shape[:-1]
    x = torch.randn((*lead, width), generator=generator, device=place)
    if fill == "normal":
        blocks = (*lead, blocks_of(width))
        each = 2.0 ** torch.randint(-3, 4, blocks, generator=generator, device=place)
        x *= spread(each, "1x128", x.shape)
    elif fill == "small":
        x *= 1e-3
    elif fill == "zeros":
        x[::2] = 0.0
    elif fill == "impulse":
        x *= 1e-2
        x[-1, -1] = 100.0
    else:
        x[0, -1], x[1, 0] = float("nan"), float("inf")
    return x.to(WIDE[case.one_of("dtype", *WIDE)])


def _format(case: Case) -> dict[str, Any]:
    return {"granularity": case.granularity, "dtype": CODES[case.one_of("codes", *CODES)]}


def rmsnorm_inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    K, place = case.shape[-1], generator.device
    weight = 1 + torch.randn(K, generator=generator, device=place) / 4
    weight = weight.to(WIDE[case.one_of("weight", *WIDE)])
    residual = None
    if case.get("residual", False):
        residual = torch.randn(case.shape, generator=generator, device=place)
        residual = lay_out(case, "residual", residual.to(WIDE[case.one_of("dtype", *WIDE)]))
    return {
        "x": lay_out(case, "x", _draw(case, K, generator)),
        "weight": weight.repeat_interleave(2)[::2] if case.get("layout") == "sliced" else weight,
        "residual": residual,
        "eps": 1e-6,
        **_format(case),
    }


def swiglu_inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    gate_up = _draw(case, 2 * case.shape[-1], generator)
    return {"gate_up": lay_out(case, "x", gate_up), **_format(case)}


# ---- how an output is held


@dataclass(frozen=True)
class NearScale:
    """Within `SLACK` of the oracle's, scale by scale."""

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        return specials(got, rounded) or judged(got.double(), oracle, SLACK * oracle.abs())


@dataclass(frozen=True)
class NearCodes:
    """Of the two codes around the exact value the nearer one, where that is not within `SLACK` of
    the middle. `exact`: what is quantised, from the arguments in float64."""

    exact: Callable[..., Tensor]

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if special := specials(got.double(), rounded.double()):
            return special
        granularity, dtype = args[-2:]
        y = self.exact(*[a.double() if isinstance(a, Tensor) else a for a in args])
        scale = scale_for(op_quantize.largest_magnitudes(y, granularity), dtype)
        value = y / spread(scale, granularity, y.shape)
        value = torch.where(oracle.double().isnan(), float("nan"), value)
        return judged(got.double(), value, step_of(value, dtype) / 2 + SLACK * value.abs())


def step_of(value: Tensor, dtype: torch.dtype) -> Tensor:
    """From one code to the next where `value` lies."""
    digits, least = (3, 2.0**-6) if dtype == E4M3 else (2, 2.0**-14)
    return 2.0 ** (value.abs().clamp_min(least).log2().floor() - digits)


def judged(got: Tensor, want: Tensor, bound: Tensor) -> Judgement:
    alike = (got == want) | (got.isnan() & want.isnan())
    if got.numel() == 0 or bool(alike.all()):
        return Judgement(0.0, 0.0, 0.0, "exact")
    error = torch.where(alike, 0.0, (got - want).abs())
    used = torch.where(alike, 0.0, error / bound).nan_to_num(nan=float("inf"))
    worst = int(used.argmax())
    text = f"error {float(error.flatten()[worst]):.3g} of {float(bound.flatten()[worst]):.3g}"
    return Judgement(float(used.max()), float(error.max()), float(bound.flatten()[worst]), text)


# ---- the rest of the declarations


def _rmsnorm_rejects(p: Problem) -> str | None:
    return _rejects("x", p.x, p.x.shape[-1], LONGEST_NORM) or (
        None if p.residual is None else _rejects("residual", p.residual, 0, LONGEST_NORM)
    )


def _swiglu_rejects(p: Problem) -> str | None:
    return _rejects("gate_up", p.gate_up, p.gate_up.shape[-1] // 2, LONGEST_SWIGLU)


def _rejects(name: str, t: Tensor, K: int, longest: int) -> str | None:
    if longest < K:
        return f"a row of {K} elements is longer than the {longest} that it holds"
    return None if row_stride(t) is not None else f"the rows of {name} have no single stride"


def _size(case: Case) -> int:
    return WIDE[case.one_of("dtype", *WIDE)].itemsize


def _elements(case: Case) -> tuple[int, int]:
    """Of x_q, and scales."""
    return math.prod(case.shape), math.prod(scale_shape(case.shape, case.granularity))


def rmsnorm_cost(case: Case) -> Cost:
    count, scales = _elements(case)
    read = (3 if case.get("residual", False) else 1) * _size(case)  # and the sum is written
    weight = case.shape[-1] * WIDE[case.one_of("weight", *WIDE)].itemsize
    return Cost(6 * count, count * (read + 1) + 4 * scales + weight, "f32")


def swiglu_cost(case: Case) -> Cost:
    count, scales = _elements(case)
    return Cost(8 * count, count * (2 * _size(case) + 1) + 4 * scales, "f32")


_I, _FULL = {"interpret"}, {"interpret", "full"}


def _cases(longest: int, **residual: Any) -> tuple[Case, ...]:
    """Of either op; x_q has the shape that is given."""
    row: dict[str, Any] = dict(granularity="row")
    block: dict[str, Any] = dict(granularity="1x128")
    return (
        Case("tiny", shape=(4, 160), **block, **residual, tags=_I),
        Case("tiny-row", shape=(4, 32), **row, tags=_I),
        Case("ragged", shape=(5, 301), **block, dtype="f16", codes="e5m2", tags=_FULL),
        Case("ragged-row", shape=(5, 301), **row, dtype="f32", weight="f32", **residual, tags=_I),
        Case("vector", shape=(300,), **block),
        Case("batched", shape=(2, 3, 70), **block, **residual),
        Case("one", shape=(1, 1), **row, dtype="f32"),
        Case("empty-rows", shape=(0, 200), **block, **residual),
        Case("empty-k", shape=(3, 0), **row),
        Case("transposed", shape=(6, 140), **block, layout="transposed", **residual, tags=_FULL),
        Case("sliced", shape=(3, 5, 145), **row, layout="sliced", dtype="f16", **residual),
        Case("sparse", shape=(3, 140), **block, layout="sparse", dtype="f16"),
        Case("small", shape=(6, 200), **block, fill="small", dtype="f32", tags=_I),
        Case("zeros", shape=(5, 140), **block, fill="zeros", tags=_FULL),
        Case("impulse", shape=(5, 300), **row, fill="impulse"),
        Case("specials", shape=(4, 300), **block, fill="specials", dtype="f16", tags=_FULL),
        Case("long", shape=(2, longest + 1), **row, dtype="f16"),
        Case("deepseek-v3", shape=(4096, 7168), **block, **residual,
             tags={"bench", "accept", "aot"}, cpu=dict(shape=(8, 7168))),
        Case("llama3-70b", shape=(4096, 8192), **row, **residual, tags={"bench", "aot", "full"},
             cpu=dict(shape=(8, 8192))),
        Case("decode", shape=(1, 7168), **block, **residual, tags={"bench"}),
        Case("aot-longest", shape=(64, longest), **row, dtype="f32", **residual,
             tags={"aot", "full"}, cpu=dict(shape=(1, longest))),
    )  # fmt: skip


def _errors(x: str) -> tuple[Invalid, ...]:
    """Bad calls that both ops know; `x` is their first argument."""
    return (
        Invalid(f"{x} has no dims", vary(**{x: lambda a: a[x].sum()}),
                f"{x} must have at least one dim"),
        Invalid(f"{x} is float64", vary(**{x: lambda a: a[x].double()}),
                f"{x} must be f16, bf16 or f32"),
        Invalid("granularity of the tensor", vary(granularity=lambda a: "tensor"),
                "granularity must be 'row' or '1x128', got 'tensor'"),
        Invalid("dtype is int8", vary(dtype=lambda a: torch.int8), "dtype must be float8_e4m3fn"),
    )  # fmt: skip


_SOURCES = (
    "kernels/matmul/triton_quantize.py",
    "kernels/matmul/config.py",
    "kernels/hardware.py",
)

rmsnorm_quantize_fp8 = Op(
    name="rmsnorm_quantize_fp8",
    reference=rmsnorm_reference,
    fake=rmsnorm_fake,
    inputs=rmsnorm_inputs,
    cases=_cases(LONGEST_NORM, residual=True),
    cost=rmsnorm_cost,
    tolerance=(
        NearCodes(lambda x, weight, residual, eps, *_: rmsnorm(x, weight, residual, eps)[0]),
        NearScale(),
        Exact(),
    ),
    errors=(
        *_errors("x"),
        Invalid("weight of another length", vary(weight=lambda a: a["weight"][:-1]),
                r"weight must be \[160\]"),
        Invalid("weight of two dims", vary(weight=lambda a: a["weight"][None]),
                r"weight must be \[160\]"),
        Invalid("weight is integer", vary(weight=lambda a: a["weight"].int()),
                "weight must be f16, bf16 or f32"),
        Invalid("residual of another shape", vary(residual=lambda a: a["residual"][:-1]),
                r"residual must be bfloat16\[4, 160\] as x"),
        Invalid("residual of another dtype", vary(residual=lambda a: a["residual"].float()),
                "residual must be"),
        Invalid("eps is negative", vary(eps=lambda a: -1e-6), "eps must be finite and at least 0"),
        Invalid("eps is nan", vary(eps=lambda a: float("nan")), "eps must be finite"),
    ),
    outputs=("x_q", "scale", "residual_out"),
    presented=scales_last(rmsnorm_reference),
    rows=("x", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fused:launch_rmsnorm",
            rejects=_rmsnorm_rejects,
            sources=_SOURCES,
        ),
    ),
)  # fmt: skip

swiglu_quantize_fp8 = Op(
    name="swiglu_quantize_fp8",
    reference=swiglu_reference,
    fake=swiglu_fake,
    inputs=swiglu_inputs,
    cases=_cases(LONGEST_SWIGLU),
    cost=swiglu_cost,
    tolerance=(NearCodes(lambda gate_up, *_: swiglu(gate_up)), NearScale()),
    errors=(
        *_errors("gate_up"),
        Invalid("an odd row", vary(gate_up=lambda a: a["gate_up"][:, :-1]),
                "the last dim of gate_up must be even"),
    ),
    outputs=("x_q", "scale"),
    presented=scales_last(swiglu_reference),
    rows=("gate_up",),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fused:launch_swiglu",
            rejects=_swiglu_rejects,
            sources=_SOURCES,
        ),
    ),
)  # fmt: skip
