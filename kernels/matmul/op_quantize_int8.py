"""Quantisation to int8 with one scale for the tensor or for each row, and zero points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Exact
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul.cases import lay_out, vary
from aimills_kernels.kernels.matmul.config import MAX_LEADING, leading_dims, tensor_tiles
from aimills_kernels.kernels.matmul.formats import WIDE

NAME = "quantize_int8"
GRANULARITIES = ("tensor", "row")
TINY = torch.finfo(torch.float32).tiny


def reference(x: Tensor, granularity: str, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(x_q - zero) * scale ~ x, in float32 (float64 for a float64 x), rounded to nearest-even.

    x    [..., K]  f16 | bf16 | f32
    ->   x_q       x's shape, i8
         scale     f32, [] for "tensor", [..., 1] for "row": max|x| / 127 if symmetric, else
                   max(x, 0) / 255 - min(x, 0) / 255; at least the smallest normal float32; 1 where
                   all of x is 0 or there is none
         zero      i32, the shape of scale, or [0] if symmetric: -128 - round(min(x, 0) / scale),
                   within -128..127

    x_q = round(x / scale) + zero, within -127..127 if symmetric, else -128..127. Where x has a NaN
    or an infinity its scale is not finite, and the codes and the zero point under it are 0.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    high, low = extremes(x, granularity)
    # By a tensor: a GPU divides by a number with its reciprocal, and may miss the last bit.
    steps = high.new_full((), 127.0 if symmetric else 255.0)
    scale = torch.maximum(high, -low) / steps if symmetric else high / steps - low / steps
    scale = torch.where((high == 0) & (low == 0), 1.0, scale.clamp_min(TINY))
    finite = scale.isfinite()
    codes = (x / scale).round()
    if symmetric:
        zero = high.new_empty(0, dtype=torch.int32)
        codes = codes.clamp(-127, 127)
    else:
        zero = (-128 - (low / scale).round()).clamp(-128, 127)
        codes = (codes + zero).clamp(-128, 127)
        zero = torch.where(finite, zero, 0.0).to(torch.int32)
    codes = torch.where(finite, codes, 0.0).to(torch.int8)
    return codes.contiguous(), scale, zero


def extremes(x: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    """The largest and the smallest of x and 0 over what has one scale. NaN is carried through."""
    whole = granularity == "tensor"
    if x.numel() == 0:
        nothing = x.new_zeros(() if whole else (*x.shape[:-1], 1))
        return nothing, nothing
    high, low = x.clamp_min(0), x.clamp_max(0)
    if whole:
        return high.amax(), low.amin()
    return high.amax(-1, keepdim=True), low.amin(-1, keepdim=True)


def fake(x: Tensor, granularity: str, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    if x.dim() == 0:
        raise ValueError(f"{NAME}: x must have at least one dim, got {describe(x)}")
    if x.dtype not in WIDE.values():
        raise ValueError(f"{NAME}: x must be f16, bf16 or f32, got {describe(x)}")
    if granularity not in GRANULARITIES:
        raise ValueError(f"{NAME}: granularity must be 'tensor' or 'row', got {shown(granularity)}")
    shape = () if granularity == "tensor" else (*x.shape[:-1], 1)
    return (
        x.new_empty(x.shape, dtype=torch.int8),
        x.new_empty(shape, dtype=torch.float32),
        x.new_empty((0,) if symmetric else shape, dtype=torch.int32),
    )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal, each row of its own magnitude and middle; ties of every code; zeros amid
    values; one impulse in the last element; all of one sign; NaN and infinity; magnitudes to the
    dtype's ends."""
    shape, dtype, place = case.shape, WIDE[case.one_of("dtype", *WIDE)], generator.device
    fill = case.one_of(
        "fill", "normal", "ties", "zeros", "impulse", "one-sided", "specials", "magnitudes"
    )
    symmetric = case.get("symmetric", True)
    x = torch.randn(shape, generator=generator, device=place)
    rows = (*shape[:-1], 1)
    if fill == "normal":
        x += torch.randn(rows, generator=generator, device=place)
        x *= 2.0 ** torch.randint(-6, 7, rows, generator=generator, device=place)
    elif fill == "ties":  # halfway between two codes for scale 1, which the first elements set
        x = torch.randint(-126, 126, shape, generator=generator, device=place) + 0.5
        if x.numel():
            x[..., 0], x[..., 1] = 127.0, -127.0 if symmetric else -128.0
    elif fill == "zeros":
        x[0] = 0.0
        x[1:2, 1:] = 0.0
    elif fill == "impulse":
        x *= 1e-3
        x[-1, -1] = 1000.0
    elif fill == "one-sided":
        x = 1 + x.abs()
        x[::2] *= -1
    elif fill == "specials":
        x[0, -1], x[1, 0], x[2, 3] = math.nan, math.inf, -math.inf
        x[3, 1], x[3, 2] = math.inf, math.nan
        x[4, 5] = -math.nan
    elif fill == "magnitudes":
        low, high = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
        first, last = math.log2(low) - 4, math.log2(high)
        steps = torch.arange(shape[0], dtype=torch.float64, device=place) / (shape[0] - 1)
        x = x.clamp(-4, 4).double() / 4 * 2.0 ** (first + (last - first) * steps[:, None])
    x = lay_out(case, "x", x.to(dtype))
    return {"x": x, "granularity": case.granularity, "symmetric": symmetric}


def cost(case: Case) -> Cost:
    """Each element is read once, compared, divided and written."""
    elements, rows = math.prod(case.shape), math.prod(case.shape[:-1])
    scales = rows if case.granularity == "row" else 1
    each = 4 if case.get("symmetric", True) else 8
    size = WIDE[case.one_of("dtype", *WIDE)].itemsize
    return Cost(2 * elements, elements * (size + 1) + each * scales, "f32")


def workspace(x: Tensor, granularity: str, symmetric: bool) -> int:
    return (1 if symmetric else 2) * tensor_tiles(x.shape) if granularity == "tensor" else 0


def _triton_rejects(p: Problem) -> str | None:
    found = len(leading_dims(p.x.shape, p.x.stride())[0])
    if found > MAX_LEADING:
        return f"the dims of x before the last merge into {found}, the kernel takes {MAX_LEADING}"
    return None


def _pair(name: str, shape: tuple[int, ...], **dims: Any) -> tuple[Case, Case]:
    """By row and symmetric, by tensor and asymmetric."""
    return (
        Case(name, shape=shape, granularity="row", **dims),
        Case(f"{name}-tensor", shape=shape, granularity="tensor", symmetric=False, **dims),
    )


def _four(name: str, shape: tuple[int, ...], **dims: Any) -> tuple[Case, ...]:
    return (
        *_pair(name, shape, **dims),
        Case(f"{name}-zero", shape=shape, granularity="row", symmetric=False, **dims),
        Case(f"{name}-tensor-plain", shape=shape, granularity="tensor", **dims),
    )


_I: dict[str, Any] = dict(tags={"interpret"})

CASES = (
    *_four("tiny", (8, 32), **_I),
    *_pair("ragged", (67, 131), dtype="f32", **_I),
    *_pair("vector", (1000,), dtype="f16"),
    *_pair("single", (1, 1)),
    *_pair("column", (259, 1), dtype="f32"),
    *_pair("batched", (3, 5, 7, 33)),
    *_pair("long-row", (2, 17003), **_I),
    *_pair("empty-rows", (0, 64), **_I),
    *_pair("empty-k", (5, 0), dtype="f32"),
    *_pair("transposed", (37, 70), layout="transposed"),
    *_pair("sliced", (3, 17, 45), layout="sliced", dtype="f16"),
    *_pair("permuted", (3, 4, 5, 19), layout="permuted", **_I),
    *_pair("sparse", (3, 16), layout="sparse", dtype="f16"),
    *_four("ties", (6, 256), fill="ties", dtype="f32", **_I),
    *_pair("zeros", (5, 40), fill="zeros"),
    *_pair("all-zero", (1, 40), fill="zeros", **_I),
    *_pair("impulse", (9, 300), fill="impulse"),
    *_four("same-sign", (6, 70), fill="one-sided"),
    *_four("nonfinite", (6, 40), fill="specials", dtype="f16", **_I),
    *_four("magnitudes", (40, 90), fill="magnitudes"),
    *_pair("magnitudes-f16", (40, 90), fill="magnitudes", dtype="f16"),
    *_four("magnitudes-f32", (40, 90), fill="magnitudes", dtype="f32", **_I),
    *_four("llama3-8b-hidden", (4096, 4096), tags={"bench", "accept", "aot", "energy"},
           cpu=dict(shape=(64, 4096))),
    *_pair("llama3-8b-decode", (1, 14336), tags={"bench", "aot"}),
    *_four("aot-long-rows", (64, 40007), dtype="f32", layout="sliced", tags={"aot", "full"},
           cpu=dict(shape=(2, 40007))),
    *_pair("aot-permuted", (8, 64, 32, 200), dtype="f16", layout="permuted", tags={"aot", "full"},
           cpu=dict(shape=(2, 3, 4, 200))),
)  # fmt: skip

ERRORS = (
    Invalid("x has no dims", vary(x=lambda a: a["x"].sum()), "x must have at least one dim"),
    Invalid("x is float64", vary(x=lambda a: a["x"].double()), "x must be f16, bf16 or f32"),
    Invalid("x is integer", vary(x=lambda a: a["x"].char()), "x must be f16, bf16 or f32"),
    Invalid("granularity unknown", vary(granularity=lambda a: "1x128"),
            "granularity must be 'tensor' or 'row', got '1x128'"),
)  # fmt: skip

quantize_int8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Exact(), Exact(), Exact()),
    errors=ERRORS,
    outputs=("x_q", "scale", "zero"),
    rows=("x",),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_quantize_int8:launch",
            rejects=_triton_rejects,
            sources=(
                "kernels/matmul/config.py",
                "kernels/matmul/triton_quantize.py",
                "kernels/hardware.py",
            ),
            workspace=workspace,
        ),
    ),
)
