"""Quantisation to fp8 with one scale for the tensor, for each row or for each block."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Exact
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul.cases import lay_out, vary
from aimills_kernels.kernels.matmul.config import (
    BLOCK,
    MAX_LEADING,
    blocks_of,
    leading_dims,
    tensor_tiles,
)
from aimills_kernels.kernels.matmul.formats import CODES, E4M3, LARGEST, WIDE

BLOCKWISE = ("1x128", "128x128")
GRANULARITIES = ("tensor", "row", *BLOCKWISE)
TINY = torch.finfo(torch.float32).tiny


def reference(x: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x_q * scale ~ x, in float32 (float64 for a float64 x), every step rounded to nearest-even.

    x    [..., K]  f16 | bf16 | f32; [N, K] for "128x128"
    ->   x_q       x's shape, dtype
         scale     f32, [] for "tensor", [..., 1] for "row", [ceil(K / 128), ...] for "1x128",
                   [ceil(N / 128), ceil(K / 128)] for "128x128": max|x| over the codes' largest
                   value, at least the smallest normal float32; 1 where all of x is 0 or there is
                   none
    Where x has a NaN or an infinity its scale is not finite and all codes under it are NaN. With
    "1x128" the rows' scales stand side by side: that is how cuBLASLt, TMA and our matmul read them.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = LARGEST[dtype]
    scale = scale_for(largest_magnitudes(x, granularity), dtype)
    each = spread(scale, granularity, x.shape)
    codes = torch.where(each.isfinite(), (x / each).clamp(-largest, largest), float("nan"))
    codes = codes.to(dtype).contiguous()
    return codes, scale.movedim(-1, 0) if granularity == "1x128" else scale


def scale_for(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """By a tensor: a GPU divides by a number with its reciprocal, and may miss the last bit."""
    scale = (amax / amax.new_full((), LARGEST[dtype])).clamp_min(TINY)
    return torch.where(amax == 0, 1.0, scale)


def scales_last(reference: Callable[..., Any]) -> Callable[[tuple, Sequence[Any]], tuple]:
    """`Op.presented`: (x_q, scale, ...) with the scales of a row in the last dim."""
    at = list(inspect.signature(reference).parameters).index("granularity")

    def presented(outs: tuple[Tensor, ...], args: Sequence[Any]) -> tuple[Tensor, ...]:
        if args[at] != "1x128":
            return outs
        scale = outs[1]
        return (outs[0], scale.mT if scale.dim() == 2 else scale.movedim(0, -1), *outs[2:])

    return presented


def largest_magnitudes(x: Tensor, granularity: str) -> Tensor:
    """max|x| over what has one scale; the blocks of a row in the last dim."""
    size, K = x.abs(), x.shape[-1]
    if granularity == "tensor":
        return size.amax() if size.numel() else x.new_zeros(())
    if granularity == "row":
        return size.amax(-1, keepdim=True) if K else x.new_zeros((*x.shape[:-1], 1))
    size = pad(size, (0, -K % BLOCK)).unflatten(-1, (blocks_of(K), BLOCK)).amax(-1)
    if granularity == "1x128":
        return size
    N = x.shape[0]
    return pad(size, (0, 0, 0, -N % BLOCK)).unflatten(0, (blocks_of(N), BLOCK)).amax(1)


def spread(scale: Tensor, granularity: str, shape: tuple[int, ...]) -> Tensor:
    """Each element's scale, in a shape that broadcasts with the tensor's."""
    if granularity == "128x128":
        scale = scale.repeat_interleave(BLOCK, 0)[: shape[0]]
    if granularity in BLOCKWISE:
        scale = scale.repeat_interleave(BLOCK, -1)[..., : shape[-1]]
    return scale


def fake(x: Tensor, granularity: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if x.dim() == 0:
        raise ValueError(f"quantize_fp8: x must have at least one dim, got {describe(x)}")
    if x.dtype not in WIDE.values():
        raise ValueError(f"quantize_fp8: x must be f16, bf16 or f32, got {describe(x)}")
    check_format("quantize_fp8", granularity, dtype)
    if granularity == "128x128" and x.dim() != 2:
        raise ValueError(
            f"quantize_fp8: x must be two-dimensional for granularity '128x128', got {describe(x)}"
        )
    shape = scale_shape(x.shape, granularity)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(shape, dtype=torch.float32)


def check_format(
    name: str, granularity: str, dtype: torch.dtype, known: tuple[str, ...] = GRANULARITIES
) -> None:
    if granularity not in known:
        *most, last = map(repr, known)
        raise ValueError(
            f"{name}: granularity must be {', '.join(most)} or {last}, got {shown(granularity)}"
        )
    if dtype not in LARGEST:
        raise ValueError(
            f"{name}: dtype must be float8_e4m3fn or float8_e5m2, got {describe(dtype)}"
        )


def scale_shape(shape: tuple[int, ...], granularity: str) -> tuple[int, ...]:
    """Of the op's output, not of the public function's."""
    *lead, K = shape
    if granularity == "tensor":
        return ()
    if granularity == "row":
        return (*lead, 1)
    if granularity == "1x128":
        return (blocks_of(K), *lead)
    return blocks_of(lead[0]), blocks_of(K)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal, each row and block of its own magnitude; ties of every code; zeros amid
    values; one impulse in the last element; NaN and infinity; magnitudes to the dtype's ends."""
    shape, dtype, place = case.shape, WIDE[case.one_of("dtype", *WIDE)], generator.device
    fill = case.one_of("fill", "normal", "ties", "zeros", "impulse", "specials", "magnitudes")
    codes_dtype = CODES[case.one_of("codes", *CODES)]
    x = torch.randn(shape, generator=generator, device=place)
    rows = (*shape[:-1], 1)
    if fill == "normal":
        x *= 2.0 ** torch.randint(-6, 7, rows, generator=generator, device=place)
        if case.granularity in BLOCKWISE:
            blocks = (*shape[:-1], blocks_of(shape[-1]))
            each = 2.0 ** torch.randint(-4, 5, blocks, generator=generator, device=place)
            x *= spread(each, "1x128", shape)
    elif fill == "ties":  # halfway between two codes for scale 1, which the first element sets
        last = 126 if codes_dtype == E4M3 else 123
        codes = torch.randint(0, last, shape, generator=generator, dtype=torch.uint8, device=place)
        low, high = codes.view(codes_dtype).float(), (codes + 1).view(codes_dtype).float()
        x = (low + high) / 2 * x.sign()
        if x.numel():
            x[..., ::BLOCK] = LARGEST[codes_dtype]
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
    x = lay_out(case, "x", x.to(dtype))
    return {"x": x, "granularity": case.granularity, "dtype": codes_dtype}


def cost(case: Case) -> Cost:
    """Each element is read once, compared, divided and written."""
    elements = math.prod(case.shape)
    scales = math.prod(scale_shape(case.shape, case.granularity))
    size = WIDE[case.one_of("dtype", *WIDE)].itemsize
    return Cost(2 * elements, elements * (size + 1) + 4 * scales, "f32")


def workspace(x: Tensor, granularity: str, dtype: torch.dtype) -> int:
    return tensor_tiles(x.shape) if granularity == "tensor" else 0


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


def _blocks(name: str, shape: tuple[int, ...], **dims: Any) -> tuple[Case, Case]:
    tags = dims.pop("tags", ())
    return (
        Case(f"{name}-1x128", shape=shape, granularity="1x128", tags=tags, **dims),
        Case(f"{name}-128x128", shape=shape, granularity="128x128", tags=tags, **dims),
    )


_I, _FULL = {"interpret"}, {"interpret", "full"}

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
    *_blocks("ragged", (67, 331), dtype="f32", tags=_I),
    *_blocks("tiny", (8, 32), codes="e5m2"),
    *_blocks("one", (1, 1)),
    *_blocks("empty-rows", (0, 300)),
    *_blocks("empty-k", (5, 0), dtype="f32", tags=_I),
    *_blocks("transposed", (137, 270), layout="transposed"),
    *_blocks("sliced", (130, 145), layout="sliced", dtype="f16", codes="e5m2", tags=_FULL),
    *_blocks("sparse", (3, 160), layout="sparse", dtype="f16"),
    *_blocks("ties", (16, 256), fill="ties", dtype="f32"),
    *_blocks("zeros", (5, 140), fill="zeros"),
    *_blocks("all-zero", (1, 40), fill="zeros"),
    *_blocks("impulse", (9, 300), fill="impulse"),
    *_blocks("specials", (6, 140), fill="specials", dtype="f16", tags=_FULL),
    *_blocks("magnitudes", (140, 190), fill="magnitudes"),
    Case("batched-1x128", shape=(3, 5, 7, 133), granularity="1x128", tags=_I),
    Case("permuted-1x128", shape=(3, 4, 5, 139), granularity="1x128", layout="permuted"),
    Case("vector-1x128", shape=(1000,), granularity="1x128", dtype="f16"),
    Case("e5m2-row", shape=(9, 70), granularity="row", codes="e5m2", tags=_I),
    Case("e5m2", shape=(9, 70), granularity="tensor", codes="e5m2", dtype="f32", tags=_I),
    Case("e5m2-ties", shape=(16, 256), granularity="row", codes="e5m2", fill="ties", dtype="f32",
         tags=_FULL),
    Case("e5m2-specials", shape=(6, 40), granularity="row", codes="e5m2", fill="specials"),
    Case("e5m2-magnitudes", shape=(40, 90), granularity="row", codes="e5m2", fill="magnitudes"),
    *_pair("llama3-8b-hidden", (4096, 4096), tags={"bench", "accept", "aot", "energy"},
           cpu=dict(shape=(64, 4096))),
    *_pair("llama3-8b-decode", (1, 14336), tags={"bench", "aot"}),
    *_pair("aot-long-rows", (64, 40007), dtype="f32", layout="sliced", tags={"aot"},
           cpu=dict(shape=(2, 40007))),
    *_pair("aot-permuted", (8, 64, 32, 200), dtype="f16", layout="permuted", tags={"aot"},
           cpu=dict(shape=(2, 3, 4, 200))),
    Case("deepseek-v3-hidden", shape=(4096, 7168), granularity="1x128", tags={"bench", "aot"},
         cpu=dict(shape=(16, 7168))),
    Case("deepseek-v3-decode", shape=(1, 7168), granularity="1x128", tags={"bench"}),
    Case("deepseek-v3-weight", shape=(7168, 16384), granularity="128x128",
         tags={"bench", "aot", "full"}, cpu=dict(shape=(200, 300))),
    Case("aot-e5m2", shape=(4096, 4096), granularity="1x128", codes="e5m2", dtype="f16",
         tags={"aot", "full"}, cpu=dict(shape=(64, 300))),
)  # fmt: skip


ERRORS = (
    Invalid("x has no dims", vary(x=lambda a: a["x"].sum()), "x must have at least one dim"),
    Invalid("x is float64", vary(x=lambda a: a["x"].double()), "x must be f16, bf16 or f32"),
    Invalid("x is integer", vary(x=lambda a: a["x"].int()), "x must be f16, bf16 or f32"),
    Invalid("x is fp8", vary(x=lambda a: a["x"].to(E4M3)), "x must be f16, bf16 or f32"),
    Invalid("granularity unknown", vary(granularity=lambda a: "block"), "granularity must be"),
    Invalid("granularity of other blocks", vary(granularity=lambda a: "1x64"),
            "granularity must be 'tensor', 'row', '1x128' or '128x128', got '1x64'"),
    Invalid("blocks of rows over three dims",
            vary(x=lambda a: a["x"][None], granularity=lambda a: "128x128"),
            "x must be two-dimensional for granularity '128x128'"),
    Invalid("blocks of rows of one dim",
            vary(x=lambda a: a["x"][0], granularity=lambda a: "128x128"),
            "x must be two-dimensional"),
    Invalid("dtype is int8", vary(dtype=lambda a: torch.int8),
            "dtype must be float8_e4m3fn or float8_e5m2"),
)  # fmt: skip

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
    presented=scales_last(reference),
    rows=("x",),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_quantize:launch",
            rejects=_triton_rejects,
            sources=("kernels/matmul/config.py", "kernels/hardware.py"),
            workspace=workspace,
        ),
    ),
)
