"""Matmul of fp8 codes with one scale for each tensor, each row or each block of 128 of K."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import sm_of
from aimills_kernels._op import Invalid, Op, Problem, Provider
from aimills_kernels._tolerance import Judgement, Ratio
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul import chosen, scaled_mm
from aimills_kernels.kernels.matmul.activations import check_activation, finish
from aimills_kernels.kernels.matmul.cases import (
    BAD_OUT_DTYPE,
    bad_bias,
    bad_end,
    bad_operands,
    bad_scale,
    bad_scale_values,
    odd_gate,
    vary,
)
from aimills_kernels.kernels.matmul.cases_fp8 import ACCUMS, CASES, cost, inputs
from aimills_kernels.kernels.matmul.checks import (
    check_bias,
    check_depth,
    check_matrix,
    check_no_gradient,
    check_numbers,
    check_out_dtype,
    check_residual,
    check_scale,
    depends,
)
from aimills_kernels.kernels.matmul.config import (
    BLOCK,
    Config,
    blocks_of,
    in_blocks,
    split_sums,
)
from aimills_kernels.kernels.matmul.formats import E4M3, LARGEST

NAME = "matmul_fp8"


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> Tensor:  # fmt: skip
    """activation((a * scale_a) @ (b * scale_b).T + bias) + residual in float32 (float64 for float64
    scales), rounded once.

    a        [M, K]         e4m3 | e5m2
    b        [N, K]         e4m3 | e5m2
    scale_a  [], [1], [M, 1] or [M, ceil(K / 128)]  f32
    scale_b  [], [1], [N, 1], [N, ceil(K / 128)] or [ceil(N / 128), ceil(K / 128)]  f32
    bias     [N]            bf16 | f16 | f32, or None
    residual  as the output  bf16 | f16 | f32, or None
    ->       [M, N]         out_dtype; [M, N / 2] with activation "swiglu"

    activation is "none", "relu", "gelu", "gelu_tanh", "silu", or "swiglu": silu of the first half
    of the columns times the second. The scales are applied to the sums, of all of K or of a block:
    so operands stay codes, which even tf32 holds exactly. `accum` and `batch_invariant` say how a
    kernel may sum.
    """
    made = sums(a, b, scale_a, scale_b, bias)
    return finish(made, None, activation, residual, out_dtype)


def sums(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None
) -> Tensor:  # fmt: skip
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
    return out if bias is None else out + bias.to(wide)


def _column(scale: Tensor, k: int, rows: int) -> Tensor:
    """The scales of block `k`, one for all rows or one for each."""
    if scale.dim() < 2:
        return scale.reshape(1, 1)
    column = scale[:, k : k + 1] if scale.shape[1] > 1 else scale
    return column if len(scale) == rows else column.repeat_interleave(BLOCK, 0)[:rows]


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> Tensor:  # fmt: skip
    shape = check(NAME, a, b, scale_a, scale_b, bias, activation, accum)
    check_out_dtype(NAME, out_dtype)
    check_residual(NAME, residual, *shape)
    return a.new_empty(shape, dtype=out_dtype)


def check(
    op: str, a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    activation: str, accum: str,
) -> tuple[int, int]:  # fmt: skip
    """The shape of the output."""
    for name, t in (("a", a), ("b", b)):
        check_matrix(op, name, t, *LARGEST)
        check_no_gradient(op, name, t)
    check_depth(op, a, b)
    (M, K), N = a.shape, b.shape[0]
    blocks = blocks_of(K)
    check_numbers(op, "scale_a", scale_a, (M, 1), (M, blocks))
    check_numbers(op, "scale_b", scale_b, (N, 1), (N, blocks), (blocks_of(N), blocks))
    check_bias(op, bias, N)
    if accum not in ACCUMS:
        raise ValueError(f"{op}: accum must be 'promoted' or 'fast', got {shown(accum)}")
    return M, check_activation(op, activation, N)


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    *others: Any,
) -> None:  # fmt: skip
    check_scale(NAME, "scale_a", scale_a)
    check_scale(NAME, "scale_b", scale_b)


@dataclass(frozen=True)
class Fp8Sum:
    """Ratio; where fp8 tensor cores keep 14 bits of a sum, 2^-13 of the largest value more for a
    float16 output (`docs/adr/0009`). bf16 rounds more away, and a float32 output is summed in
    float32. With accum="fast" more, for every output (`docs/adr/0013`)."""

    accum_at: int | None = None  # where among the arguments accum is, if it is

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        accum = "promoted" if self.accum_at is None else args[self.accum_at]
        return tolerance(got, accum, args[0].shape[-1]).judge(got, oracle, rounded, args)


def sum_floor(device: torch.device, accum: str, K: int) -> float:
    """How far a float32 sum may be off, in float32 roundings of the largest one."""
    if device.type != "cuda" or sm_of(device) not in _FOURTEEN_BITS:
        return Ratio().floor
    return (fast(K) if accum == "fast" else COARSE).floor


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


def workspace(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype, accum: str, batch_invariant: bool, residual: Tensor | None,
    activation: str,
) -> int:  # fmt: skip
    """Floats: a sum of each element and split."""
    found = chosen.for_rows(a, b, scale_a, scale_b, out_dtype, accum, batch_invariant, activation)
    return split_sums(found.config(), len(a), len(b))


def _triton_rejects(p: Problem) -> str | None:
    if in_blocks(p.scale_a, p.scale_b, p.b.shape[0]):
        return "it takes a scale for each tensor or row, not for each block of 128 of K"
    return None


def _triton_block_rejects(p: Problem) -> str | None:
    if not in_blocks(p.scale_a, p.scale_b, p.b.shape[0]):
        return "no scale is that of a block of 128 of K"
    return None


ERRORS = (
    *bad_operands("a", 32),
    *bad_scale("scale_a"),
    *bad_scale("scale_b"),
    *(row for base in ("tiny-tensor", "block-tiny") for row in bad_scale_values("scale_a", base)),
    *(row for base in ("tiny-tensor", "block-tiny") for row in bad_scale_values("scale_b", base)),
    *bad_bias(32),
    BAD_OUT_DTYPE,
    Invalid("a is bf16", vary(a=lambda a: a["a"].bfloat16()), "a must be float8_e4m3fn"),
    Invalid("b is int8", vary(b=lambda a: a["b"].view(torch.int8)),
            "b must be float8_e4m3fn or float8_e5m2"),
    Invalid("scale_a in blocks", vary(scale_a=lambda a: a["scale_a"].repeat(1, 2)),
            "scale_a must be"),
    Invalid("scale_a with a block too few", vary(scale_a=lambda a: a["scale_a"][:, :-1]),
            r"scale_a must be \[\], \[1\], \[17, 1\] or \[17, 3\]", base="block-ragged"),
    Invalid("scale_a by 128 rows", vary(scale_a=lambda a: a["scale_a"][:1]), "scale_a must be",
            base="block-ragged"),
    Invalid("scale_b with a block too few", vary(scale_b=lambda a: a["scale_b"][:-1]),
            r"scale_b must be \[\], \[1\], \[135, 1\], \[135, 3\] or \[2, 3\]",
            base="block-ragged"),
    Invalid("scale_b across in blocks", vary(scale_b=lambda a: a["scale_b"][:, :2].T),
            "scale_b must be", base="block-ragged"),
    Invalid("out_dtype is fp8", vary(out_dtype=E4M3), "out_dtype must be bf16"),
    odd_gate(b=lambda a: a["b"][:-1], scale_b=lambda a: a["scale_b"][:-1]),
    *bad_end(32),
    Invalid("accum unknown", vary(accum="slow"),
            "accum must be 'promoted' or 'fast', got 'slow'"),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    return chosen.for_rows(
        p.a, p.b, p.scale_a, p.scale_b, p.out_dtype, p.accum, p.batch_invariant, p.activation, p.sm
    ).candidates()


SOURCES = (
    "kernels/matmul/chosen.py",
    "kernels/matmul/config.py",
    "kernels/matmul/epilogue.py",
    "kernels/matmul/tiles.py",
    "kernels/matmul/triton_quantize.py",
    "kernels/hardware.py",
)


matmul_fp8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Fp8Sum(accum_at=6),),
    errors=ERRORS,
    values=values,
    backward="reference",
    reference_rejects=depends,
    rows=("a", "scale_a", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_fp8:launch",
            rejects=_triton_rejects,
            sources=SOURCES,
            configs=_configs,
            workspace=workspace,
        ),
        Provider.triton(
            "triton_block",
            "aimills_kernels.kernels.matmul.triton_fp8_block:launch",
            rejects=_triton_block_rejects,
            sources=(*SOURCES, "kernels/matmul/triton_fp8.py"),
            configs=_configs,
            workspace=workspace,
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
