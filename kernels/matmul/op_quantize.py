"""Quantisation to fp8 with one scale for the tensor or one for each row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Exact
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul.config import MAX_LEADING, leading_dims

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
GRANULARITIES = ("tensor", "row")
E4M3 = torch.float8_e4m3fn
MAX_E4M3 = 448.0
TINY = torch.finfo(torch.float32).tiny


def reference(x: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x_q * scale ~ x, in float32 (float64 for a float64 x), every step rounded to nearest-even.

    x    [..., K]  f16 | bf16 | f32
    ->   x_q       x's shape, e4m3
         scale     f32, [] for "tensor", [..., 1] for "row": max|x| / 448, at least the smallest
                   normal float32; 1 where all of x is 0 or there is none
    Where x has a NaN or an infinity its scale is not finite and all codes under it are NaN.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    shape = (*x.shape[:-1], 1) if granularity == "row" else ()
    if x.numel():
        amax = x.abs().amax(-1, keepdim=True) if granularity == "row" else x.abs().amax()
    else:
        amax = x.new_zeros(shape)
    # By a tensor: a GPU divides by a number with its reciprocal, and may miss the last bit.
    scale = (amax / amax.new_full((), MAX_E4M3)).clamp_min(TINY)
    scale = torch.where(amax == 0, 1.0, scale)
    codes = torch.where(scale.isfinite(), (x / scale).clamp(-MAX_E4M3, MAX_E4M3), float("nan"))
    return codes.to(dtype).contiguous(), scale


def fake(x: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if x.dim() == 0:
        raise ValueError(f"quantize_fp8: x must have at least one dim, got {describe(x)}")
    if x.dtype not in DTYPES.values():
        raise ValueError(f"quantize_fp8: x must be f16, bf16 or f32, got {describe(x)}")
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"quantize_fp8: granularity must be 'tensor' or 'row', got {shown(granularity)}"
        )
    if dtype == torch.float8_e5m2:
        raise ValueError("quantize_fp8: dtype float8_e5m2 is not there yet, only float8_e4m3fn")
    if dtype != E4M3:
        raise ValueError(f"quantize_fp8: dtype must be float8_e4m3fn, got {describe(dtype)}")
    shape = (*x.shape[:-1], 1) if granularity == "row" else ()
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(shape, dtype=torch.float32)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal, each row of its own magnitude; ties of every code; zeros amid values; one
    impulse in the last element; NaN and infinity; magnitudes to both ends of the dtype."""
    shape, dtype, place = case.shape, DTYPES[case.one_of("dtype", *DTYPES)], generator.device
    fill = case.one_of("fill", "normal", "ties", "zeros", "impulse", "specials", "magnitudes")
    x = torch.randn(shape, generator=generator, device=place)
    rows = (*shape[:-1], 1)
    if fill == "normal":
        x *= 2.0 ** torch.randint(-6, 7, rows, generator=generator, device=place)
    elif fill == "ties":  # halfway between two codes for scale 1, which the first element sets
        codes = torch.randint(0, 126, shape, generator=generator, dtype=torch.uint8, device=place)
        low, high = codes.view(E4M3).float(), (codes + 1).view(E4M3).float()
        x = (low + high) / 2 * x.sign()
        if x.numel():
            x[..., 0] = MAX_E4M3
    elif fill == "zeros":
        x[0] = 0.0
        x[1:2, 1:] = 0.0
    elif fill == "impulse":
        x *= 1e-3
        x[-1, -1] = 1000.0
    elif fill == "specials":
        x[0, -1], x[1, 0], x[2, 3] = float("nan"), float("inf"), float("-inf")
        x[3, 1], x[3, 2] = float("inf"), float("nan")
    elif fill == "magnitudes":
        tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
        steps = torch.logspace(0, 1, shape[0], dtype=torch.float64, device=place)
        low, high = math.log2(tiny), math.log2(huge)
        exponents = low - 4 + (high - low + 4) * (steps - 1) / 9
        x = x.clamp(-4, 4).double() / 4 * 2.0 ** exponents[:, None]
    return {"x": _lay_out(case, x.to(dtype)), "granularity": case.granularity, "dtype": E4M3}


def _lay_out(case: Case, x: Tensor) -> Tensor:
    layout = case.one_of("layout", "contiguous", "transposed", "sliced", "permuted", "sparse")
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "sliced":  # rows of a wider tensor, at an odd offset
        *lead, K = x.shape
        wide = x.new_zeros(_product((*lead, K + 5)) + 3)[3:]
        return wide.view(*lead, K + 5)[..., :K].copy_(x)
    if layout == "permuted":  # no two leading dims merge, and the last is strided
        return x.repeat_interleave(2, -1).transpose(0, -2).contiguous().transpose(0, -2)[..., ::2]
    if layout == "sparse":  # rows so far apart that their offsets pass 2^31 elements
        step = 2**31 // (x.shape[0] - 1) + 64
        view = x.new_empty(step * x.shape[0]).as_strided(x.shape, (step, 1))
        return view.copy_(x)
    return x


def cost(case: Case) -> Cost:
    """Each element is read once, compared, divided and written."""
    elements = _product(case.shape)
    scales = elements // max(1, case.shape[-1]) if case.granularity == "row" else 1
    size = DTYPES[case.one_of("dtype", *DTYPES)].itemsize
    return Cost(2 * elements, elements * (size + 1) + 4 * scales, "f32")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _triton_rejects(p: Problem) -> str | None:
    found = len(leading_dims(p.x.shape, p.x.stride())[0])
    if found > MAX_LEADING:
        return f"the dims of x before the last merge into {found}, the kernel takes {MAX_LEADING}"
    return None


def _pair(name: str, shape: tuple[int, ...], **dims: Any) -> tuple[Case, Case]:
    tags = dims.pop("tags", {"interpret"})
    return (
        Case(name, shape=shape, granularity="row", tags=tags, **dims),
        Case(f"{name}-tensor", shape=shape, granularity="tensor", tags=tags, **dims),
    )


CASES = (
    *_pair("tiny", (8, 32)),
    *_pair("tiny-f16", (8, 32), dtype="f16"),
    *_pair("tiny-f32", (8, 32), dtype="f32"),
    *_pair("ragged", (67, 131), dtype="f32"),
    *_pair("vector", (1000,), dtype="f16"),
    *_pair("one", (1, 1)),
    *_pair("column", (259, 1), dtype="f32"),
    *_pair("batched", (3, 5, 7, 33)),
    *_pair("long-row", (2, 17003)),
    *_pair("empty-rows", (0, 64)),
    *_pair("empty-k", (5, 0), dtype="f32"),
    *_pair("transposed", (37, 70), layout="transposed"),
    *_pair("sliced", (3, 17, 45), layout="sliced", dtype="f16"),
    *_pair("permuted", (3, 4, 5, 19), layout="permuted"),
    *_pair("sparse", (3, 16), layout="sparse", dtype="f16"),
    *_pair("ties", (16, 256), fill="ties", dtype="f32"),
    *_pair("zeros", (5, 40), fill="zeros"),
    *_pair("all-zero", (1, 40), fill="zeros"),
    *_pair("impulse", (9, 300), fill="impulse"),
    *_pair("specials", (6, 40), fill="specials", dtype="f16"),
    *_pair("magnitudes", (40, 90), fill="magnitudes"),
    *_pair("magnitudes-f16", (40, 90), fill="magnitudes", dtype="f16"),
    *_pair("magnitudes-f32", (40, 90), fill="magnitudes", dtype="f32"),
    *_pair("llama3-8b-hidden", (4096, 4096), tags={"bench", "accept", "aot", "energy"},
           cpu=dict(shape=(64, 4096))),
    *_pair("llama3-8b-decode", (1, 14336), tags={"bench", "aot"}),
    *_pair("aot-long-rows", (64, 40007), dtype="f32", layout="sliced", tags={"aot"},
           cpu=dict(shape=(2, 40007))),
    *_pair("aot-permuted", (8, 64, 32, 200), dtype="f16", layout="permuted", tags={"aot"},
           cpu=dict(shape=(2, 3, 4, 200))),
)  # fmt: skip


def _with(**change: Any) -> Any:
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


ERRORS = (
    Invalid("x has no dims", _with(x=lambda a: a["x"].sum()), "x must have at least one dim"),
    Invalid("x is float64", _with(x=lambda a: a["x"].double()), "x must be f16, bf16 or f32"),
    Invalid("x is integer", _with(x=lambda a: a["x"].int()), "x must be f16, bf16 or f32"),
    Invalid("x is fp8", _with(x=lambda a: a["x"].to(E4M3)), "x must be f16, bf16 or f32"),
    Invalid("granularity unknown", _with(granularity=lambda a: "block"), "granularity must be"),
    Invalid("dtype is e5m2", _with(dtype=lambda a: torch.float8_e5m2), "not there yet"),
    Invalid("dtype is int8", _with(dtype=lambda a: torch.int8), "dtype must be float8_e4m3fn"),
)

quantize_fp8 = Op(
    name="quantize_fp8",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Exact(), Exact()),
    errors=ERRORS,
    outputs=("x_q", "scale"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_quantize:launch",
            rejects=_triton_rejects,
            sources=("kernels/matmul/config.py", "kernels/hardware.py"),
        ),
    ),
)
