"""Matmul of int8 codes with one scale for each tensor or for each row, and zero points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.matmul import int_mm
from aimills_kernels.kernels.matmul.activations import check_end, finish
from aimills_kernels.kernels.matmul.cases import (
    BAD_OUT_DTYPE,
    SCALES,
    bad_bias,
    bad_end,
    bad_operands,
    bad_scale,
    dtypes_of,
    end_bytes,
    end_of,
    lay_out,
    odd_gate,
    scale_of,
    spoil,
    vary,
)
from aimills_kernels.kernels.matmul.checks import (
    check_bias,
    check_depth,
    check_matrix,
    check_numbers,
    check_out_dtype,
    check_scale,
)
from aimills_kernels.kernels.matmul.config import Config
from aimills_kernels.kernels.matmul.config_int8 import deepest, int8_candidates, shape_of

NAME = "matmul_int8"


def reference(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, residual: Tensor | None, activation: str,
    batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """activation(((a - zero_a) @ b.T) * scale_a * scale_b + bias) + residual: exact sums, the rest
    in float32 (float64 for float64 scales), rounded once.

    a        [M, K]             i8
    b        [N, K]             i8
    scale_a  [], [1] or [M, 1]  f32
    scale_b  [], [1] or [N, 1]  f32
    zero_a   [], [1] or [M, 1]  i32, -128 to 127, or None
    bias     [N]                bf16 | f16 | f32, or None
    residual  as the output     bf16 | f16 | f32, or None
    ->       [M, N]             out_dtype; [M, N / 2] with activation "swiglu"

    activation is one of those of `matmul_fp8`. `batch_invariant` says that one path serves every M.
    float64 holds the sums exactly, and a GPU has no matmul of integers that PyTorch would call.
    """
    wide = torch.promote_types(scale_a.dtype, torch.float32)
    codes = a.double() if zero_a is None else a.double() - zero_a.reshape(-1, 1)
    out = (codes @ b.double().T).to(wide)
    out = out * scale_a.reshape(-1, 1) * scale_b.reshape(1, -1)
    return finish(out, bias, activation, residual, out_dtype)


def fake(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, residual: Tensor | None, activation: str,
    batch_invariant: bool,
) -> Tensor:  # fmt: skip
    check_matrix(NAME, "a", a, torch.int8)
    check_matrix(NAME, "b", b, torch.int8)
    check_depth(NAME, a, b)
    M, N = a.shape[0], b.shape[0]
    check_numbers(NAME, "scale_a", scale_a, (M, 1))
    check_numbers(NAME, "scale_b", scale_b, (N, 1))
    if zero_a is not None:
        check_numbers(NAME, "zero_a", zero_a, (M, 1), dtype=torch.int32)
    check_bias(NAME, bias, N)
    check_out_dtype(NAME, out_dtype)
    return a.new_empty(check_end(NAME, M, N, activation, residual), dtype=out_dtype)


def values(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, zero_a: Tensor | None,
    bias: Tensor | None, out_dtype: torch.dtype, residual: Tensor | None, activation: str,
    batch_invariant: bool,
) -> None:  # fmt: skip
    check_scale(NAME, "scale_a", scale_a)
    check_scale(NAME, "scale_b", scale_b)
    if zero_a is not None and zero_a.numel():
        low, high = (int(end) for end in zero_a.aminmax())
        if low < -128 or high > 127:
            raise ValueError(f"{NAME}: zero_a must be -128 to 127, got {low} to {high}")


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Every row has a scale, a zero point and a bias of its own, so that a misplaced one shows.

    `fill`: uniform codes; one-hot rows of a, which pick a single column of b; every code an end of
    its range, so that all sums are as large as they get; scales of large and tiny magnitudes.
    `zero`: zero points over the range of codes; at its ends.
    """
    M, N, K, place = case.M, case.N, case.K, generator.device
    fill = case.one_of("fill", "uniform", "onehot", "ends", "magnitudes")
    zero = case.one_of("zero", None, "codes", "ends")
    bias_dtype, out_dtype = dtypes_of(case)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=place)

    a, b = integers(-128, 128, M, K), integers(-128, 128, N, K)
    scale_a, scale_b = ((1 + normal(max(n, 1), 1).abs()) / 64 for n in (M, N))
    zeros = integers(-128, 128, max(M, 1), 1)
    if zero == "ends":
        zeros = torch.where(zeros < 0, -128, 127)
    if fill == "onehot":
        target = integers(0, K, M, 1)
        target[0], target[-1] = K - 1, 0
        a = torch.zeros(M, K, device=place).scatter_(1, target, 3.0)
    elif fill == "ends":
        a, b = (torch.where(integers(0, 2, n, 1) > 0, -128, 127).expand(n, K) for n in (M, N))
    elif fill == "magnitudes":
        scale_a *= 2.0 ** integers(-60, 9, *scale_a.shape)
        scale_b *= 2.0 ** integers(-8, 9, *scale_b.shape)
        scale_b[::2] *= -1
    named = {
        "a": a.to(torch.int8),
        "b": b.to(torch.int8),
        "scale_a": scale_of(scale_a, case.one_of("scale_a", *SCALES), M),
        "scale_b": scale_of(scale_b, case.one_of("scale_b", *SCALES), N),
    }
    if zero is not None:
        kind = case.one_of("zeros", *SCALES)
        named["zero_a"] = scale_of(zeros.to(torch.int32), kind, M)
    if bias_dtype is not None:
        named["bias"] = (normal(N) * 8 + torch.arange(N, device=place) % 7).to(bias_dtype)
    named = {name: lay_out(case, name, t) for name, t in named.items()}
    end = end_of(case, generator)
    one = {"batch_invariant": case.get("invariant", False)}
    return {"zero_a": None, "bias": None, **named, "out_dtype": out_dtype, **end, **one}


def cost(case: Case) -> Cost:
    M, N, K = case.M, case.N, case.K
    columns = [("scale_a", M), ("scale_b", N)]
    if case.get("zero") is not None:
        columns.append(("zeros", M))
    scales = sum(n if case.get(name) == "row" else 1 for name, n in columns)
    bias_dtype, out_dtype = dtypes_of(case)
    bias = N * bias_dtype.itemsize if bias_dtype else 0
    moved = M * K + N * K + end_bytes(case, out_dtype) + 4 * scales + bias
    return Cost(2 * M * N * K, moved, "int8")


def _triton_rejects(p: Problem) -> str | None:
    K, zero = p.a.shape[1], p.zero_a is not None
    if (most := deepest(zero)) < K:
        kind = "with a zero point" if zero else "without a zero point"
        return f"its int32 sums hold K up to {most} {kind}, here {K}"
    return None


def _depends(p: Problem) -> str | None:
    """Its sums are exact in any order, and what it does element by element is the same for each;
    but a CPU takes the last few of a tensor in another way than those before."""
    if p.batch_invariant and p.device == "cpu" and p.activation not in ("none", "relu"):
        return f"on a CPU the last bits of its {p.activation} depend on M"
    return None


def _configs(p: Problem) -> tuple[Config, ...]:
    found = int8_candidates(shape_of(p.a, p.b), p.zero_a is not None, p.sm or 90)
    return found[:1] if p.batch_invariant else found


_LAYERS = {  # Llama-3 8B: N, K
    "qkv": (6144, 4096),
    "gate-up": (28672, 4096),
    "down": (4096, 14336),
}


def _layer_cases() -> tuple[Case, ...]:
    """Decode and prefill with a scale for each token and channel; prefill with zero points too."""
    found = []
    for layer, (N, K) in _LAYERS.items():
        for M, zero in ((1, None), (16, None), (4096, None), (4096, "codes")):
            small = dict(M=min(M, 32), N=N // 64, K=K // 8)
            tags = {"bench"} | ({"accept"} if M != 16 and not zero else set())
            tags |= {"aot"} if layer == "qkv" and M != 16 else set()
            tags |= {"energy"} if layer == "gate-up" and M == 4096 and not zero else set()
            name = f"llama3-8b-{layer}-{M}" + ("-zero" if zero else "")
            found.append(
                Case(name, M=M, N=N, K=K, **_ROWS, zero=zero, zeros="row", cpu=small, tags=tags)
            )
    return tuple(found)


_ROWS: dict[str, Any] = dict(scale_a="row", scale_b="row")
_ZEROS: dict[str, Any] = dict(zero="codes", zeros="row")
_I = {"interpret"}

CASES = (
    Case("tiny", M=16, N=32, K=32, **_ROWS, **_ZEROS, bias="bf16", tags=_I),
    Case("small-tensor", M=16, N=32, K=32, out="f16"),
    Case("aligned", M=128, N=96, K=160, **_ROWS, bias="bf16", tags=_I),
    Case("ragged", M=67, N=131, K=77, **_ROWS, **_ZEROS, out="f32", tags=_I),
    Case("uneven", M=67, N=131, K=77, scale_a="one", bias="f16", out="f16", tags=_I),
    Case("mixed-a", M=33, N=50, K=200, scale_a="row", scale_b="one", zero="codes", zeros="one",
         bias="f32", tags=_I),
    Case("mixed-b", M=33, N=50, K=200, scale_b="row", zero="codes", bias="bf16", out="f32"),
    Case("several-groups", M=600, N=65, K=32, **_ROWS, tags={"interpret", "full"}),
    Case("large-tiles", M=1500, N=1411, K=70, **_ROWS, out="f16", cpu=dict(M=300, N=270)),
    Case("one-row", M=1, N=130, K=290, **_ROWS, **_ZEROS, bias="bf16", tags=_I),
    Case("few-rows", M=9, N=65, K=260, out="f32"),
    Case("single-deep", M=20, N=35, K=1, **_ROWS, **_ZEROS, out="f32"),
    Case("single-column", M=300, N=1, K=130, **_ROWS, out="f16"),
    Case("k-empty", M=20, N=35, K=0, **_ROWS, **_ZEROS, bias="f16", tags=_I),
    Case("k-empty-plain", M=20, N=35, K=0, out="f32"),
    Case("m-empty", M=0, N=35, K=16, **_ROWS, **_ZEROS, bias="bf16", tags=_I),
    Case("n-empty", M=20, N=0, K=16, **_ROWS),
    Case("transposed", M=50, N=70, K=90, **_ROWS, **_ZEROS, layout="transposed"),
    Case("sliced", M=50, N=70, K=96, **_ROWS, **_ZEROS, bias="bf16", layout="sliced", tags=_I),
    Case("expanded", M=20, N=40, K=33, **_ROWS, layout="expanded", out="f16"),
    Case("sparse", M=5, N=9, K=40, **_ROWS, layout="sparse", tags=_I),
    Case("onehot", M=70, N=100, K=210, **_ROWS, fill="onehot", tags=_I),
    Case("onehot-zero", M=9, N=24, K=300, fill="onehot", zero="ends", zeros="row", out="f32",
         tags=_I),
    Case("zero-ends", M=24, N=40, K=100, **_ROWS, zero="ends", zeros="row", fill="ends", out="f32",
         tags=_I),
    Case("magnitudes", M=60, N=90, K=100, **_ROWS, fill="magnitudes", out="f32", tags=_I),
    Case("deepest", M=17, N=16, K=deepest(zero=False), fill="ends", out="f32"),
    Case("deepest-zero", M=17, N=16, K=deepest(zero=True), fill="ends", zero="ends", zeros="row",
         out="f32"),
    Case("deeper", M=17, N=16, K=deepest(zero=False) + 9, fill="ends", out="f32"),
    Case("residual", M=16, N=32, K=40, **_ROWS, residual="f32", act="gelu"),
    Case("invariant", M=17, N=48, K=200, **_ROWS, **_ZEROS, bias="bf16", invariant=True, tags=_I),
    Case("invariant-silu", M=3, N=50, K=90, **_ROWS, act="silu", bias="f32", invariant=True,
         tags={"interpret", "full"}),
    Case("gpt-oss", M=3, N=40, K=2880, **_ROWS, bias="bf16"),
    Case("qwen2.5-vl", M=70, N=20, K=3420, **_ROWS),
    Case("gated", M=19, N=70, K=45, **_ROWS, **_ZEROS, act="swiglu", bias="bf16", residual="f16",
         tags=_I),
    Case("activation", M=3, N=20, K=33, **_ROWS, act="silu", residual="bf16", out="f32",
         layout="sliced", tags={"interpret", "full"}),
    *_layer_cases(),
    Case("square-8192-8192", M=8192, N=8192, K=8192, **_ROWS, cpu=dict(M=32, N=128, K=512),
         tags={"bench"}),
    Case("llama3-8b-gate-up-4096-swiglu", M=4096, N=28672, K=4096, **_ROWS, act="swiglu",
         cpu=dict(M=32, N=448, K=512), tags={"bench", "aot"}),
    Case("aot-gated-zero", M=16, N=4096, K=1000, **_ROWS, **_ZEROS, act="swiglu", residual="bf16",
         cpu=dict(N=64), tags={"aot", "full"}),
    Case("aot-f32-bias", M=2048, N=2048, K=512, **_ZEROS, bias="f32", out="f32",
         cpu=dict(M=64, N=64), tags={"aot", "full"}),
    Case("aot-unaligned", M=513, N=513, K=1001, **_ZEROS, bias="f32", out="f32",
         cpu=dict(M=64, N=65), tags={"aot"}),
    Case("aot-unaligned-decode", M=8, N=4096, K=1000, **_ZEROS, cpu=dict(N=64), tags={"aot"}),
    Case("aot-transposed", M=512, N=512, K=512, **_ZEROS, layout="transposed",
         cpu=dict(M=64, N=64), tags={"aot", "full"}),
)  # fmt: skip

ERRORS = (
    *bad_operands("a", 32),
    *bad_scale("scale_a"),
    *bad_scale("scale_b"),
    *bad_bias(32),
    BAD_OUT_DTYPE,
    odd_gate(b=lambda a: a["b"][:-1], scale_b=lambda a: a["scale_b"][:-1]),
    *bad_end(32),
    Invalid("a is bf16", vary(a=lambda a: a["a"].bfloat16()), "a must be int8"),
    Invalid("b is uint8", vary(b=lambda a: a["b"].view(torch.uint8)), "b must be int8"),
    Invalid("zero_a is int8", vary(zero_a=lambda a: a["zero_a"].char()), "zero_a must be int32"),
    Invalid("zero_a of another length", vary(zero_a=lambda a: a["zero_a"][:-1]),
            r"zero_a must be \[\], \[1\] or \[16, 1\]"),
    Invalid("zero_a has a 128", spoil("zero_a", 128), "zero_a must be -128 to 127, got .* to 128",
            value=True),
    Invalid("zero_a has a -129", spoil("zero_a", -129), "zero_a must be -128 to 127, got -129",
            value=True),
)  # fmt: skip

matmul_int8 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Ratio(),),
    errors=ERRORS,
    values=values,
    backward="reference",
    reference_rejects=_depends,
    rows=("a", "scale_a", "zero_a", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_int8:launch",
            rejects=_triton_rejects,
            sources=(
                "kernels/matmul/config.py",
                "kernels/matmul/config_int8.py",
                "kernels/matmul/epilogue.py",
                "kernels/matmul/tiles.py",
                "kernels/matmul/triton_quantize.py",
                "kernels/hardware.py",
            ),
            configs=_configs,
        ),
        Provider(
            "int_mm",
            "aimills_kernels.kernels.matmul.int_mm:launch",
            rejects=int_mm.rejects,
            vendor=True,
        ),
    ),
)
