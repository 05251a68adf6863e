"""Matmul of fp8 codes with one scale for each tensor, each row or each block of 128 of K."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import sm_of
from aimills_kernels._op import Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Judgement, Ratio
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul import scaled_mm
from aimills_kernels.kernels.matmul.cases_fp8 import ACCUMS, CASES, cost, inputs
from aimills_kernels.kernels.matmul.config import (
    BLOCK,
    Config,
    Shape,
    block_candidates,
    blocks_of,
    candidates,
    in_blocks,
)
from aimills_kernels.kernels.matmul.formats import E4M3, LARGEST, WIDE

NAN, INF = float("nan"), float("inf")


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """(a * scale_a) @ (b * scale_b).T + bias in float32 (float64 for float64 scales), rounded once.

    a        [M, K]         e4m3 | e5m2
    b        [N, K]         e4m3 | e5m2
    scale_a  [], [1], [M, 1] or [M, ceil(K / 128)]  f32
    scale_b  [], [1], [N, 1], [N, ceil(K / 128)] or [ceil(N / 128), ceil(K / 128)]  f32
    bias     [N]            bf16 | f16 | f32, or None
    ->       [M, N]         out_dtype

    The scales are applied to the sums, of all of K or of a block: so operands stay codes, which
    even tf32 holds exactly. `accum` and `batch_invariant` say how a kernel may sum.
    """
    wide = torch.promote_types(scale_a.dtype, torch.float32)
    M, N = a.shape[0], b.shape[0]
    if in_blocks(scale_a, scale_b, N):
        out = scale_a.new_zeros((M, N))
        for k in range(blocks_of(a.shape[1])):
            part = slice(k * BLOCK, (k + 1) * BLOCK)
            sums = a[:, part].to(wide) @ b[:, part].to(wide).T
            out = out + sums * _column(scale_a, k, M) * _column(scale_b, k, N).T
    else:
        out = a.to(wide) @ b.to(wide).T
        out = out * _column(scale_a, 0, M) * _column(scale_b, 0, N).T
    if bias is not None:
        out = out + bias.to(wide)
    return out.to(out_dtype)


def _column(scale: Tensor, k: int, rows: int) -> Tensor:
    """The scales of block `k`, one for all rows or one for each."""
    if scale.dim() < 2:
        return scale.reshape(1, 1)
    column = scale[:, k : k + 1] if scale.shape[1] > 1 else scale
    return column if len(scale) == rows else column.repeat_interleave(BLOCK, 0)[:rows]


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    for name, t in (("a", a), ("b", b)):
        if t.dim() != 2:
            raise ValueError(f"matmul_fp8: {name} must be two-dimensional, got {describe(t)}")
        if t.dtype not in LARGEST:
            raise ValueError(
                f"matmul_fp8: {name} must be float8_e4m3fn or float8_e5m2, got {describe(t)}"
            )
        if torch.is_grad_enabled() and t.requires_grad:
            raise ValueError(
                f"matmul_fp8: {name} holds codes, to which no gradient flows; detach it"
            )
    (M, K), N = a.shape, b.shape[0]
    if b.shape[1] != K:
        raise ValueError(f"matmul_fp8: b must be [N, {K}], as wide as a, got {describe(b)}")
    blocks = blocks_of(K)
    _check_scale("scale_a", scale_a, (M, 1), (M, blocks))
    _check_scale("scale_b", scale_b, (N, 1), (N, blocks), (blocks_of(N), blocks))
    if bias is not None:
        if bias.dtype not in WIDE.values():
            raise ValueError(f"matmul_fp8: bias must be bf16, f16 or f32, got {describe(bias)}")
        if tuple(bias.shape) != (N,):
            raise ValueError(f"matmul_fp8: bias must be [{N}], got {describe(bias)}")
    if out_dtype not in WIDE.values():
        raise ValueError(
            f"matmul_fp8: out_dtype must be bf16, f16 or f32, got {describe(out_dtype)}"
        )
    if accum not in ACCUMS:
        raise ValueError(f"matmul_fp8: accum must be 'promoted' or 'fast', got {shown(accum)}")
    return a.new_empty((M, N), dtype=out_dtype)


def _check_scale(name: str, scale: Tensor, *shapes: tuple[int, int]) -> None:
    if scale.dtype != torch.float32:
        raise ValueError(f"matmul_fp8: {name} must be float32, got {describe(scale)}")
    if tuple(scale.shape) not in ((), (1,), *shapes):
        known = [str(list(s)) for s in dict.fromkeys(shapes)]
        *most, last = ["[]", "[1]", *known]
        raise ValueError(
            f"matmul_fp8: {name} must be {', '.join(most)} or {last}, got {describe(scale)}"
        )


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool,
) -> None:  # fmt: skip
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        if scale.numel() and not _ends_are_finite(scale):
            raise ValueError(
                f"matmul_fp8: {name} must be finite, got NaN or infinity among {describe(scale)}"
            )


def _ends_are_finite(t: Tensor) -> bool:
    """aminmax carries a NaN through; 3 to 6 us where isfinite().all() takes 9 to 23, item() 0.5."""
    if t.numel() == 1:
        return math.isfinite(t.item())
    low, high = t.aminmax()
    return math.isfinite(low.item()) and math.isfinite(high.item())


@dataclass(frozen=True)
class Fp8Sum:
    """Ratio; where fp8 tensor cores keep 14 bits of a sum, 2^-13 of the largest value more for a
    float16 output (`docs/adr/0009`). bf16 rounds more away, and a float32 output is summed in
    float32. With accum="fast" more, for every output (`docs/adr/0013`)."""

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        a, accum = args[0], args[6]
        return tolerance(got, accum, a.shape[1]).judge(got, oracle, rounded, args)


def tolerance(got: Tensor, accum: str, K: int) -> Ratio:
    if got.device.type != "cuda" or sm_of(got.device) not in _FOURTEEN_BITS:
        return Ratio()
    if accum == "fast":
        return fast(K)
    return COARSE if got.dtype == torch.float16 else Ratio()


def fast(K: int) -> Ratio:
    """n + 16 sqrt(n) units of 2^-13 of the largest value, for a sum of n steps of 32 products."""
    n = -(-K // 32)
    return Ratio(floor=1024.0 * (n + 16 * math.sqrt(n)))


COARSE = Ratio(floor=1024.0)
_FOURTEEN_BITS = (89, 90, 120, 121)


def _triton_rejects(p: Problem) -> str | None:
    if in_blocks(p.scale_a, p.scale_b, p.b.shape[0]):
        return "it takes a scale for each tensor or row, not for each block of 128 of K"
    return None


def _triton_block_rejects(p: Problem) -> str | None:
    if not in_blocks(p.scale_a, p.scale_b, p.b.shape[0]):
        return "no scale is that of a block of 128 of K"
    return None


def _with(**change: Any) -> Any:
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


def _spoiled(scale: Tensor, value: float) -> Tensor:
    spoiled = scale.clone()
    spoiled.view(-1)[-1] = value
    return spoiled


ERRORS = (
    Invalid("a has three dims", _with(a=lambda a: a["a"][None]), "a must be two-dimensional"),
    Invalid("b has one dim", _with(b=lambda a: a["b"][0]), "b must be two-dimensional"),
    Invalid("a is bf16", _with(a=lambda a: a["a"].bfloat16()), "a must be float8_e4m3fn"),
    Invalid("b is int8", _with(b=lambda a: a["b"].view(torch.int8)),
            "b must be float8_e4m3fn or float8_e5m2"),
    Invalid("depths differ", _with(b=lambda a: a["b"][:, :-1]), r"b must be \[N, 32\]"),
    Invalid("scale_a is bf16", _with(scale_a=lambda a: a["scale_a"].bfloat16()),
            "scale_a must be float32"),
    Invalid("scale_b of another length", _with(scale_b=lambda a: a["scale_b"][:-1]),
            r"scale_b must be \[\], \[1\], \[32, 1\] or \[1, 1\]"),
    Invalid("scale_a without its second dim", _with(scale_a=lambda a: a["scale_a"][:, 0]),
            "scale_a must be"),
    Invalid("scale_b across", _with(scale_b=lambda a: a["scale_b"].T), "scale_b must be"),
    Invalid("scale_a in blocks", _with(scale_a=lambda a: a["scale_a"].repeat(1, 2)),
            "scale_a must be"),
    Invalid("scale_a with a block too few", _with(scale_a=lambda a: a["scale_a"][:, :-1]),
            r"scale_a must be \[\], \[1\], \[17, 1\] or \[17, 3\]", base="block-ragged"),
    Invalid("scale_a by 128 rows", _with(scale_a=lambda a: a["scale_a"][:1]), "scale_a must be",
            base="block-ragged"),
    Invalid("scale_b with a block too few", _with(scale_b=lambda a: a["scale_b"][:-1]),
            r"scale_b must be \[\], \[1\], \[135, 1\], \[135, 3\] or \[2, 3\]",
            base="block-ragged"),
    Invalid("scale_b across in blocks", _with(scale_b=lambda a: a["scale_b"][:, :2].T),
            "scale_b must be", base="block-ragged"),
    Invalid("bias of another length", _with(bias=lambda a: a["bias"][:-1]), r"bias must be \[32\]"),
    Invalid("bias of two dims", _with(bias=lambda a: a["bias"][None]), r"bias must be \[32\]"),
    Invalid("bias is integer", _with(bias=lambda a: a["bias"].int()), "bias must be bf16"),
    Invalid("out_dtype is fp8", _with(out_dtype=lambda a: E4M3), "out_dtype must be bf16"),
    Invalid("out_dtype is integer", _with(out_dtype=lambda a: torch.int32), "out_dtype must be"),
    Invalid("accum unknown", _with(accum=lambda a: "slow"),
            "accum must be 'promoted' or 'fast', got 'slow'"),
    Invalid("scale_a has a nan", _with(scale_a=lambda a: _spoiled(a["scale_a"], NAN)),
            "scale_a must be finite", value=True),
    Invalid("scale_b has an infinity", _with(scale_b=lambda a: _spoiled(a["scale_b"], -INF)),
            "scale_b must be finite", value=True),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    sm = p.sm or 90
    return candidates(Shape.of(p.a, p.b, p.out_dtype, p.accum, p.batch_invariant, sm), sm)


def _block_configs(p: Problem) -> tuple[Config, ...]:
    sm = p.sm or 90
    return block_candidates(Shape.of(p.a, p.b, p.out_dtype, p.accum, p.batch_invariant, sm), sm)


def _depends(p: Problem) -> str | None:
    return "a row's bits depend on M" if p.batch_invariant else None


_SOURCES = ("kernels/matmul/config.py", "kernels/matmul/tiles.py", "kernels/hardware.py")


matmul_fp8 = Op(
    name="matmul_fp8",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Fp8Sum(),),
    errors=ERRORS,
    values=values,
    backward="reference",
    reference_rejects=_depends,
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fp8:launch",
            rejects=_triton_rejects,
            sources=_SOURCES,
            configs=_configs,
        ),
        Provider.triton(
            "triton_block",
            "aimills_kernels.kernels.matmul.triton_fp8_block:launch",
            rejects=_triton_block_rejects,
            sources=_SOURCES,
            configs=_block_configs,
        ),
        Provider(
            "scaled_mm",
            "aimills_kernels.kernels.matmul.scaled_mm:launch",
            devices=("cpu", "cuda"),
            rejects=scaled_mm.rejects,
            vendor=True,
        ),
    ),
)  # fmt: skip
