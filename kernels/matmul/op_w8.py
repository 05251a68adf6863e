"""Matmul of 16-bit activations with int8 weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.matmul.activations import check_end, finish
from aimills_kernels.kernels.matmul.cases import (
    SCALES,
    bad_bias,
    bad_end,
    bad_operands,
    bad_scale,
    end_bytes,
    end_of,
    lay_out,
    odd_gate,
    scale_of,
    vary,
)
from aimills_kernels.kernels.matmul.checks import (
    check_bias,
    check_depth,
    check_matrix,
    check_numbers,
    check_scale,
    depends,
)
from aimills_kernels.kernels.matmul.config import Config
from aimills_kernels.kernels.matmul.config_int8 import w8_candidates, w8_shape_of
from aimills_kernels.kernels.matmul.formats import WIDE

NAME = "matmul_w8"
DTYPES = {name: dtype for name, dtype in WIDE.items() if dtype.itemsize == 2}


def reference(
    x: Tensor, b: Tensor, scale_b: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """activation((x @ b.T) * scale_b + bias) + residual in float32 (float64 for a float64 x),
    rounded once.

    x        [M, K]             f16 | bf16
    b        [N, K]             i8
    scale_b  [], [1] or [N, 1]  f32
    bias     [N]                bf16 | f16 | f32, or None
    residual  as the output     bf16 | f16 | f32, or None
    ->       [M, N]             dtype of x; [M, N / 2] with activation "swiglu"

    activation is one of those of `matmul_fp8`. `batch_invariant` says how a kernel may sum.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    out = (x.to(wide) @ b.to(wide).T) * scale_b.reshape(1, -1)
    return finish(out, bias, activation, residual, x.dtype)


def fake(
    x: Tensor, b: Tensor, scale_b: Tensor, bias: Tensor | None, residual: Tensor | None,
    activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    check_matrix(NAME, "x", x, *DTYPES.values())
    check_matrix(NAME, "b", b, torch.int8)
    check_depth(NAME, x, b, "x")
    M, N = x.shape[0], b.shape[0]
    check_numbers(NAME, "scale_b", scale_b, (N, 1))
    check_bias(NAME, bias, N)
    return x.new_empty(check_end(NAME, M, N, activation, residual))


def values(x: Tensor, b: Tensor, scale_b: Tensor, *others: Any) -> None:
    check_scale(NAME, "scale_b", scale_b)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Every channel has a scale and a bias of its own, so that a misplaced one shows.

    `fill`: normal x; one-hot rows of x, which pick a single column of b; x and scales of large and
    tiny magnitudes; NaN in x.
    """
    M, N, K, place = case.M, case.N, case.K, generator.device
    fill = case.one_of("fill", "normal", "onehot", "magnitudes", "nan")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=place)

    x, b = normal(M, K), integers(-128, 128, N, K).to(torch.int8)
    scale = (1 + normal(max(N, 1), 1).abs()) / 64
    if fill == "onehot":
        target = integers(0, K, M, 1)
        target[0], target[-1] = K - 1, 0
        x = torch.zeros(M, K, device=place).scatter_(1, target, 3.0)
    elif fill == "magnitudes":
        x *= 2.0 ** integers(-8, 9, M, 1)
        scale *= 2.0 ** integers(-6, 5, *scale.shape)
        scale[::2] *= -1
    elif fill == "nan":
        x[1, K - 1] = float("nan")
    named = {
        "x": x.to(DTYPES[case.one_of("dtype", *DTYPES)]),
        "b": b,
        "scale_b": scale_of(scale, case.one_of("scale_b", *SCALES), N),
    }
    bias_dtype = WIDE.get(case.one_of("bias", None, *WIDE))
    if bias_dtype is not None:
        named["bias"] = (normal(N) + torch.arange(N, device=place) % 7).to(bias_dtype)
    named = {name: lay_out(case, name, t) for name, t in named.items()}
    one = {"batch_invariant": case.get("invariant", False)}
    return {"bias": None, **named, **end_of(case, generator), **one}


def cost(case: Case) -> Cost:
    M, N, K = case.M, case.N, case.K
    bias = N * WIDE[case.bias].itemsize if case.get("bias") else 0
    scales = 4 * (N if case.get("scale_b") == "row" else 1)
    moved = 2 * M * K + N * K + end_bytes(case, torch.float16) + scales + bias
    return Cost(2 * M * N * K, moved, "f16")


def _configs(p: Problem) -> tuple[Config, ...]:
    return w8_candidates(*w8_shape_of(p.x, p.b, p.batch_invariant), p.sm or 90)


def _layer_cases() -> tuple[Case, ...]:
    """Llama-3 8B: qkv and down, from decode to prefill."""
    found = []
    for layer, N, K in (("qkv", 6144, 4096), ("down", 4096, 14336)):
        for M in (1, 16, 64, 4096):
            small = dict(M=min(M, 32), N=N // 64, K=K // 8)
            tags = {"bench"} | ({"accept"} if M in (1, 4096) else set())
            tags |= {"aot"} if layer == "qkv" and M != 16 else set()
            name = f"llama3-8b-{layer}-{M}"
            found.append(Case(name, M=M, N=N, K=K, scale_b="row", cpu=small, tags=tags))
    return tuple(found)


_I: dict[str, Any] = dict(scale_b="row", tags={"interpret"})

CASES = (
    Case("tiny", M=16, N=32, K=32, bias="bf16", **_I),
    Case("small-f16", M=16, N=32, K=32, dtype="f16"),
    Case("ragged", M=67, N=131, K=77, **_I),
    Case("uneven-f16", M=67, N=131, K=77, scale_b="one", dtype="f16", bias="f16",
         tags={"interpret"}),
    Case("large-tiles", M=1500, N=1411, K=70, scale_b="row", cpu=dict(M=300, N=270)),
    Case("one-row", M=1, N=130, K=290, bias="f32", **_I),
    Case("single-deep", M=20, N=35, K=1, scale_b="row"),
    Case("single-column", M=300, N=1, K=130, dtype="f16"),
    Case("k-empty", M=20, N=35, K=0, bias="f16", **_I),
    Case("m-empty", M=0, N=35, K=16, **_I),
    Case("n-empty", M=20, N=0, K=16, scale_b="row"),
    Case("transposed", M=50, N=70, K=90, scale_b="row", layout="transposed"),
    Case("sliced", M=50, N=70, K=96, bias="bf16", layout="sliced", **_I),
    Case("expanded", M=20, N=40, K=33, scale_b="row", layout="expanded", dtype="f16"),
    Case("sparse", M=5, N=9, K=40, layout="sparse", **_I),
    Case("onehot", M=70, N=100, K=210, fill="onehot", **_I),
    Case("magnitudes", M=60, N=90, K=100, fill="magnitudes", **_I),
    Case("nan-in-x", M=20, N=40, K=70, fill="nan", bias="bf16", scale_b="row"),
    Case("deep", M=24, N=40, K=14336, scale_b="row"),
    Case("residual", M=16, N=32, K=40, scale_b="row", residual="f32", act="gelu"),
    Case("invariant", M=17, N=50, K=200, bias="bf16", invariant=True, **_I),
    Case("invariant-gated", M=3, N=62, K=90, act="swiglu", invariant=True, scale_b="row",
         tags={"interpret", "full"}),
    Case("gpt-oss", M=3, N=40, K=2880, scale_b="row", bias="bf16"),
    Case("qwen2.5-vl", M=70, N=20, K=3420, scale_b="row"),
    Case("gated", M=19, N=70, K=45, act="swiglu", bias="bf16", residual="f16", **_I),
    Case("activation", M=3, N=20, K=33, dtype="f16", act="silu", residual="bf16", layout="sliced",
         scale_b="row", tags={"interpret", "full"}),
    *_layer_cases(),
    Case("llama3-8b-gate-up-16-swiglu", M=16, N=28672, K=4096, scale_b="row", act="swiglu",
         cpu=dict(N=448, K=512), tags={"bench", "aot"}),
    Case("llama3-8b-gate-up-4096-swiglu", M=4096, N=28672, K=4096, scale_b="row", act="swiglu",
         residual="bf16", cpu=dict(M=32, N=448, K=512), tags={"aot", "full"}),
    Case("aot-f16-bias", M=1024, N=1024, K=1024, dtype="f16", bias="f32", scale_b="row",
         cpu=dict(M=64, N=64), tags={"aot", "full"}),
    Case("aot-odd-n", M=4096, N=4097, K=1024, dtype="f16", bias="f32", scale_b="row",
         cpu=dict(M=64, N=67), tags={"aot"}),
    Case("aot-unaligned", M=512, N=512, K=1000, scale_b="row", cpu=dict(M=64, N=64), tags={"aot"}),
    Case("aot-unaligned-decode", M=8, N=4096, K=1000, cpu=dict(N=64), tags={"aot"}),
    Case("aot-invariant", M=1, N=4096, K=4096, scale_b="row", invariant=True, cpu=dict(N=64),
         tags={"aot"}),
    Case("aot-invariant-unaligned", M=9, N=512, K=1000, invariant=True, cpu=dict(N=64),
         tags={"aot", "full"}),
    Case("aot-invariant-odd-rows", M=9, N=513, K=1024, layout="odd rows", invariant=True,
         bias="f32", dtype="f16", cpu=dict(N=64), tags={"aot", "full"}),
    Case("aot-transposed", M=512, N=512, K=512, layout="transposed", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
)  # fmt: skip

ERRORS = (
    *bad_operands("x", 32),
    *bad_scale("scale_b"),
    *bad_bias(32),
    odd_gate(b=lambda a: a["b"][:-1], scale_b=lambda a: a["scale_b"][:-1]),
    *bad_end(32),
    Invalid("x is float32", vary(x=lambda a: a["x"].float()), "x must be bfloat16 or float16"),
    Invalid("b is bf16", vary(b=lambda a: a["b"].bfloat16()), "b must be int8"),
)  # fmt: skip

matmul_w8 = Op(
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
    reference_rejects=depends,
    rows=("x", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_w8:launch",
            configs=_configs,
            sources=(
                "kernels/matmul/config.py",
                "kernels/matmul/config_int8.py",
                "kernels/matmul/epilogue.py",
                "kernels/matmul/tiles.py",
                "kernels/matmul/triton_quantize.py",
                "kernels/hardware.py",
            ),
        ),
    ),
)
