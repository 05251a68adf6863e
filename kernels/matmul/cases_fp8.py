"""The cases of fp8 matmul: shapes, and arguments drawn for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost
from aimills_kernels.kernels.matmul.cases import (
    dtypes_of,
    end_bytes,
    end_of,
    lay_out,
    rows_side_by_side,
)
from aimills_kernels.kernels.matmul.config import blocks_of
from aimills_kernels.kernels.matmul.formats import CODES, LARGEST

ACCUMS = ("promoted", "fast")
SCALES = ("tensor", "row", "one", "1x128", "128x128")


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Every row has a bias of its own, every row or block a scale, so that a misplaced one shows.

    `fill`: normal, over most codes; one-hot rows of a, which pick a single column of b; the same
    with a bias that takes away all but a 64th of each sum, so that a sum rounded before the bias
    shows; codes and scales of large and tiny magnitudes; rows with NaN codes.
    `layout`: contiguous, but scales of 1x128 with the rows side by side; transposed; slices at odd
    offsets; sparse.
    """
    M, N, K, place = case.M, case.N, case.K, generator.device
    fill = case.one_of("fill", "normal", "onehot", "cancelled", "magnitudes", "nan")
    bias_dtype, out_dtype = dtypes_of(case)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def power(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return 2.0 ** torch.randint(low, high, shape, generator=generator, device=place)

    kind_a, kind_b = (CODES[case.one_of(name, *CODES)] for name in ("a", "b"))

    def codes(values: Tensor, kind: torch.dtype) -> Tensor:
        return values.clamp(-LARGEST[kind], LARGEST[kind]).to(kind)

    a, b = codes(normal(M, K) * 60, kind_a), codes(normal(N, K) * 60, kind_b)
    blocks = max(1, blocks_of(K))
    scale_a, scale_b = ((1 + normal(max(n, 1), blocks).abs()) / 64 for n in (M, N))
    bias = normal(N) * 8 + torch.arange(N, device=place) % 7 if bias_dtype else None
    if fill in ("onehot", "cancelled"):
        target = torch.randint(0, K, (M, 1), generator=generator, device=place)
        target[0], target[-1] = K - 1, 0
        if fill == "cancelled":  # every row alike
            target, scale_a = target[:1].expand(M, 1), scale_a[:1].expand(M, blocks)
        a = torch.zeros(M, K, device=place).scatter_(1, target, 3.0).to(kind_a)
    elif fill == "magnitudes":
        a = codes(normal(M, K) * power(-8, 8, (M, 1)), kind_a)
        b = codes(normal(N, K) * power(-8, 8, (1, K)), kind_b)
        scale_a *= power(-30, 8, scale_a.shape)
        scale_b *= power(-8, 8, scale_b.shape)
        scale_b[::2] *= -1
    elif fill == "nan":
        a.view(torch.uint8)[1, K - 1], b.view(torch.uint8)[N - 1, 0] = 0x7F, 0xFF
    named = {
        "a": a,
        "b": b,
        "scale_a": _scale(scale_a, case.one_of("scale_a", *SCALES), M, K),
        "scale_b": _scale(scale_b, case.one_of("scale_b", *SCALES), N, K),
    }
    if fill == "cancelled":
        row, columns = named["scale_a"].reshape(-1)[:1], named["scale_b"].reshape(-1)
        bias = (a[:1].float() @ b.float().T)[0] * row * columns * (-63 / 64)
    if bias is not None:
        named["bias"] = bias.to(bias_dtype)
    named = {name: lay_out(case, name, t) for name, t in named.items()}
    limits = {
        "accum": case.one_of("accum", *ACCUMS),
        "batch_invariant": case.get("invariant", False),
        **end_of(case, generator),
    }
    return {"bias": None, **named, "out_dtype": out_dtype, **limits}


def _scale(values: Tensor, kind: str, rows: int, K: int) -> Tensor:
    """`values` has one for each block of each row."""
    if kind in ("tensor", "one"):
        return values[0, 0].clone() if kind == "tensor" else values[0, :1].clone()
    down, across = _scales(kind, rows, K)
    made = values[:down, :across]
    if kind == "1x128":  # as quantize_fp8 leaves them, and cuBLASLt alone reads them
        return rows_side_by_side(made)
    return made.contiguous()


def _scales(kind: str, rows: int, K: int) -> tuple[int, int]:
    """How many, down and across."""
    return {
        "tensor": (1, 1),
        "one": (1, 1),
        "row": (rows, 1),
        "1x128": (rows, blocks_of(K)),
        "128x128": (blocks_of(rows), blocks_of(K)),
    }[kind]


def cost(case: Case) -> Cost:
    M, N, K = case.M, case.N, case.K
    down_across = (_scales(case.get(f"scale_{t}", "tensor"), n, K) for t, n in (("a", M), ("b", N)))
    scales = sum(down * across for down, across in down_across)
    bias_dtype, out_dtype = dtypes_of(case)
    bias = N * bias_dtype.itemsize if bias_dtype else 0
    moved = M * K + N * K + end_bytes(case, out_dtype) + 4 * scales + bias
    return Cost(2 * M * N * K, moved, "fp8")


_LAYERS = {  # Llama-3 8B: N, K
    "qkv": (6144, 4096),
    "gate-up": (28672, 4096),
    "down": (4096, 14336),
}


def _layer_cases() -> tuple[Case, ...]:
    """Decode with a scale for each token and channel, prefill the same and with single scales."""
    found = []
    for layer, (N, K) in _LAYERS.items():
        for M, kind in ((1, "row"), (16, "row"), (4096, "row"), (4096, "tensor")):
            small = dict(M=min(M, 32), N=N // 64, K=K // 8)
            tags = {"bench"} | ({"accept"} if M != 16 else set())
            tags |= {"aot"} if layer == "qkv" and M != 16 and kind == "row" else set()
            tags |= {"energy"} if layer == "gate-up" and M == 4096 and kind == "row" else set()
            name = f"llama3-8b-{layer}-{M}" + ("" if kind == "row" else "-tensor")
            found.append(
                Case(name, M=M, N=N, K=K, scale_a=kind, scale_b=kind, cpu=small, tags=tags)
            )
    return tuple(found)


_DEEPSEEK_V3 = {  # N, K
    "q-a-kv-a": (2112, 7168),
    "q-b": (24576, 1536),
    "o": (7168, 16384),
    "gate-up": (36864, 7168),
    "down": (7168, 18432),
}
_BLOCKS: dict[str, Any] = dict(scale_a="1x128", scale_b="128x128")
_VECTORS: dict[str, Any] = dict(scale_a="1x128", scale_b="1x128")
_ROWS: dict[str, Any] = dict(scale_a="row", scale_b="row")
_I, _FULL = {"interpret"}, {"interpret", "full"}


def _block_cases() -> tuple[Case, ...]:
    """A scale for each block; two or three blocks of K, and of N where there are any."""
    found = [
        Case("block-tiny", M=16, N=32, K=256, **_BLOCKS, tags=_I),
        Case("block-ragged", M=17, N=135, K=277, **_BLOCKS, bias="bf16", tags=_I),
        Case("block-vectors", M=17, N=51, K=277, **_VECTORS, out="f32", tags=_I),
        Case("block-f16", M=20, N=150, K=300, **_BLOCKS, out="f16", bias="f16"),
        Case("block-one-row", M=1, N=130, K=260, **_BLOCKS, tags=_I),
        Case("block-one-column", M=140, N=1, K=260, **_BLOCKS, out="f16"),
        Case("block-shallow", M=20, N=200, K=60, **_BLOCKS, tags=_I),
        Case("block-shallow-vectors", M=20, N=40, K=60, **_VECTORS, layout="transposed"),
        Case("block-a-only", M=20, N=40, K=300, scale_a="1x128", scale_b="row", bias="f32"),
        Case("block-b-only", M=17, N=140, K=200, scale_b="128x128", tags=_FULL),
        Case("block-no-depth", M=20, N=35, K=0, **_BLOCKS, bias="f16", tags=_I),
        Case("block-no-rows", M=0, N=135, K=160, **_BLOCKS, tags=_I),
        Case("block-no-columns", M=20, N=0, K=160, **_VECTORS),
        Case("block-transposed", M=20, N=140, K=190, **_BLOCKS, layout="transposed", tags=_FULL),
        Case("block-sliced", M=50, N=170, K=296, **_VECTORS, bias="bf16", layout="sliced"),
        Case("block-sparse", M=5, N=9, K=240, **_BLOCKS, layout="sparse"),
        Case("block-onehot", M=40, N=140, K=300, **_BLOCKS, fill="onehot", tags=_FULL),
        Case("block-onehot-vectors", M=70, N=60, K=400, **_VECTORS, fill="onehot", out="f32"),
        Case("block-magnitudes", M=30, N=140, K=200, **_BLOCKS, fill="magnitudes"),
        Case("block-nan", M=20, N=40, K=170, **_BLOCKS, fill="nan", bias="bf16"),
        Case("block-e5m2", M=17, N=40, K=170, **_VECTORS, a="e5m2", out="f32", tags=_FULL),
        Case("block-deep", M=24, N=40, K=16384, **_BLOCKS, out="f16"),
    ]
    for layer, (N, K) in _DEEPSEEK_V3.items():
        for M in (1, 64, 4096):
            tags = {"bench"} | ({"accept"} if layer == "o" and M == 4096 else set())
            tags |= {"aot"} if layer == "o" and M == 4096 else set()
            tags |= {"aot", "full"} if layer == "o" and M == 1 else set()
            small = dict(M=min(M, 16), N=N // 64, K=min(K, 1152))
            name = f"deepseek-v3-{layer}-{M}"
            found.append(Case(name, M=M, N=N, K=K, **_BLOCKS, cpu=small, tags=tags))
    return tuple(found)


CASES = (
    Case("tiny", M=16, N=32, K=32, **_ROWS, bias="bf16", tags=_I),
    Case("tiny-tensor", M=16, N=32, K=32, out="f16", tags=_I),
    Case("tiny-f32", M=16, N=32, K=32, **_ROWS, bias="f32", out="f32", tags=_I),
    Case("aligned", M=128, N=96, K=160, tags=_I),
    Case("aligned-rows", M=128, N=96, K=160, **_ROWS, bias="bf16", tags=_I),
    Case("ragged", M=67, N=131, K=77, **_ROWS, tags=_I),
    Case("ragged-tensor", M=67, N=131, K=77, scale_a="one", bias="f16", out="f16", tags=_I),
    Case("mixed-a", M=33, N=50, K=200, scale_a="row", scale_b="one", bias="f32", tags=_I),
    Case("mixed-b", M=33, N=50, K=200, scale_b="row", bias="bf16", out="f32", tags=_I),
    Case("several-groups", M=600, N=65, K=32, **_ROWS, tags=_I),
    Case("large-tiles", M=1500, N=1411, K=70, **_ROWS, out="f16", cpu=dict(M=300, N=270)),
    Case("one-row", M=1, N=130, K=290, **_ROWS, bias="bf16", tags=_I),
    Case("few-rows", M=9, N=65, K=260, out="f32", tags=_I),
    Case("one-deep", M=20, N=35, K=1, **_ROWS, out="f32", tags=_I),
    Case("one-column", M=300, N=1, K=130, **_ROWS, out="f16", tags=_I),
    Case("k-empty", M=20, N=35, K=0, **_ROWS, bias="f16", tags=_I),
    Case("k-empty-plain", M=20, N=35, K=0, out="f32", tags=_I),
    Case("m-empty", M=0, N=35, K=16, **_ROWS, bias="bf16", tags=_I),
    Case("n-empty", M=20, N=0, K=16, **_ROWS, tags=_I),
    Case("transposed", M=50, N=70, K=90, **_ROWS, layout="transposed", tags=_I),
    Case("sliced", M=50, N=70, K=96, **_ROWS, bias="bf16", layout="sliced", tags=_I),
    Case("expanded", M=20, N=40, K=33, **_ROWS, layout="expanded", out="f16", tags=_I),
    Case("sparse", M=5, N=9, K=40, **_ROWS, layout="sparse", tags=_I),
    Case("onehot", M=70, N=100, K=210, **_ROWS, fill="onehot", tags=_I),
    Case("onehot-f32", M=9, N=40, K=1025, fill="onehot", out="f32", tags=_I),
    Case("cancelled", M=48, N=64, K=96, fill="cancelled", bias="bf16", tags=_I),
    Case("cancelled-f16", M=48, N=64, K=96, fill="cancelled", bias="f16", out="f16", tags=_I),
    Case("cancelled-rows", M=48, N=64, K=96, **_ROWS, fill="cancelled", bias="bf16", tags=_I),
    Case("magnitudes", M=60, N=90, K=100, **_ROWS, fill="magnitudes", tags=_I),
    Case("magnitudes-f32", M=60, N=90, K=100, **_ROWS, fill="magnitudes", out="f32", tags=_I),
    Case("nan", M=20, N=40, K=70, **_ROWS, fill="nan", bias="bf16", tags=_I),
    Case("e5m2", M=33, N=50, K=200, **_ROWS, a="e5m2", bias="bf16", tags=_I),
    Case("e5m2-b", M=33, N=50, K=70, b="e5m2", out="f16"),
    Case("e5m2-both", M=33, N=50, K=70, **_ROWS, a="e5m2", b="e5m2", out="f32", tags=_FULL),
    Case("e5m2-magnitudes", M=20, N=40, K=70, **_ROWS, a="e5m2", b="e5m2", fill="magnitudes"),
    Case("e5m2-nan", M=20, N=40, K=70, a="e5m2", fill="nan"),
    Case("fast", M=33, N=50, K=300, **_ROWS, accum="fast", bias="bf16", tags=_FULL),
    Case("fast-f32", M=20, N=30, K=1100, accum="fast", out="f32"),
    Case("fast-block", M=20, N=30, K=300, **_BLOCKS, accum="fast", out="f32"),
    Case("invariant", M=17, N=50, K=200, **_ROWS, invariant=True, bias="bf16", tags=_I),
    Case("invariant-block", M=3, N=50, K=200, **_BLOCKS, invariant=True, tags=_FULL),
    Case("gpt-oss", M=3, N=40, K=2880, **_ROWS, bias="bf16"),
    Case("qwen2.5-vl", M=70, N=20, K=3420, **_ROWS),
    Case("block-qwen2.5-vl", M=3, N=140, K=3420, **_BLOCKS),
    Case("aot-fast", M=1024, N=1024, K=1024, **_ROWS, accum="fast", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
    Case("aot-invariant-unaligned", M=9, N=512, K=1000, invariant=True, cpu=dict(N=64),
         tags={"aot", "full"}),
    Case("aot-invariant-block", M=9, N=512, K=1024, **_BLOCKS, invariant=True, cpu=dict(N=64),
         tags={"aot", "full"}),
    Case("residual", M=16, N=32, K=40, residual="f32", act="gelu", tags=_FULL),
    Case("residual-relu", M=20, N=30, K=70, **_ROWS, residual="bf16", act="relu", bias="f32"),
    Case("gated", M=19, N=70, K=150, **_ROWS, act="swiglu", bias="bf16", residual="f16", tags=_I),
    Case("gated-block", M=18, N=268, K=260, **_BLOCKS, act="swiglu", tags=_FULL),
    Case("gated-vectors", M=3, N=62, K=300, **_VECTORS, act="swiglu", out="f32", layout="sliced"),
    Case("gated-invariant", M=3, N=62, K=90, **_ROWS, act="swiglu", invariant=True, tags=_FULL),
    Case("activation", M=17, N=33, K=60, **_ROWS, act="gelu_tanh", out="f32"),
    Case("activation-silu", M=5, N=20, K=600, **_ROWS, act="silu", bias="f32", layout="transposed"),
    Case("split", M=2, N=37, K=1100, **_ROWS, bias="bf16", residual="bf16", tags=_I),
    Case("split-gated-block", M=3, N=34, K=1100, **_BLOCKS, act="swiglu", out="f32", tags=_FULL),
    Case("split-magnitudes", M=1, N=40, K=2100, **_ROWS, fill="magnitudes", out="f32", tags=_FULL),
    Case("split-onehot-block", M=3, N=140, K=700, **_BLOCKS, fill="onehot", out="f32", tags=_FULL),
    Case("deep", M=24, N=40, K=14336, **_ROWS, out="f16"),
    *_layer_cases(),
    *_block_cases(),
    Case("llama3-8b-gate-up-4096-fast", M=4096, N=28672, K=4096, **_ROWS, accum="fast",
         cpu=dict(M=32, N=448, K=512), tags={"bench"}),
    Case("llama3-8b-gate-up-16-invariant", M=16, N=28672, K=4096, **_ROWS, invariant=True,
         cpu=dict(N=448, K=512), tags={"bench", "aot", "full"}),
    Case("llama3-8b-gate-up-4096-invariant", M=4096, N=28672, K=4096, **_ROWS, invariant=True,
         cpu=dict(M=32, N=448, K=512), tags={"bench"}),
    Case("llama3-8b-gate-up-16-swiglu", M=16, N=28672, K=4096, **_ROWS, act="swiglu",
         cpu=dict(N=448, K=512), tags={"bench"}),
    Case("llama3-8b-gate-up-4096-swiglu", M=4096, N=28672, K=4096, **_ROWS, act="swiglu",
         cpu=dict(M=32, N=448, K=512), tags={"bench", "aot"}),
    Case("deepseek-v3-gate-up-4096-swiglu", M=4096, N=36864, K=7168, **_BLOCKS, act="swiglu",
         cpu=dict(M=16, N=576, K=1152), tags={"bench", "aot", "full"}),
    Case("llama3-8b-down-4096-residual", M=4096, N=4096, K=14336, **_ROWS, residual="bf16",
         cpu=dict(M=32, N=64, K=512), tags={"bench"}),
    *(Case(f"square-4096-{M}", M=M, N=4096, K=4096, **_ROWS, cpu=dict(M=min(M, 4), N=64, K=1024),
           tags={"bench", *(("aot",) if M == 16 else ())}) for M in (1, 16, 64)),
    Case("square-8192-8192", M=8192, N=8192, K=8192, **_ROWS, cpu=dict(M=32, N=128, K=512),
         tags={"bench"}),
    Case("aot-f32-large", M=2048, N=2048, K=512, out="f32", cpu=dict(M=64, N=64),
         tags={"aot"}),
    Case("aot-f32-ragged", M=2048, N=2049, K=512, bias="f32", out="f32", cpu=dict(M=64, N=65),
         tags={"aot", "full"}),
    Case("aot-f32-decode", M=8, N=4096, K=512, out="f32", cpu=dict(N=64), tags={"aot"}),
    Case("aot-f16-bias", M=1024, N=1024, K=1024, bias="f16", out="f16", cpu=dict(M=64, N=64),
         tags={"aot"}),
    Case("aot-unaligned", M=512, N=512, K=1000, bias="bf16", cpu=dict(M=64, N=64), tags={"aot"}),
    Case("aot-unaligned-decode", M=8, N=4096, K=1000, cpu=dict(N=64), tags={"aot"}),
    Case("aot-e5m2", M=1024, N=1024, K=1024, **_ROWS, a="e5m2", cpu=dict(M=64, N=64), tags={"aot"}),
    Case("aot-e5m2-block", M=1024, N=1024, K=1024, **_BLOCKS, a="e5m2", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
    Case("aot-block-f32", M=1024, N=1024, K=1024, **_BLOCKS, out="f32", cpu=dict(M=64, N=64),
         tags={"aot", "full"}),
    Case("aot-gated-block", M=2048, N=4096, K=512, **_BLOCKS, act="swiglu", bias="f32",
         residual="bf16", cpu=dict(M=24, N=96), tags={"aot", "full"}),
    Case("aot-block-unaligned", M=512, N=512, K=1000, **_BLOCKS, bias="bf16",
         cpu=dict(M=64, N=64), tags={"aot", "full"}),
    Case("aot-block-vectors", M=1024, N=1024, K=1024, **_VECTORS, layout="transposed",
         cpu=dict(M=64, N=64), tags={"aot", "full"}),
    Case("aot-block-vectors-large", M=4096, N=4096, K=1024, **_VECTORS, cpu=dict(M=64, N=64),
         tags={"aot"}),
    Case("aot-transposed", M=512, N=512, K=512, layout="transposed", cpu=dict(M=64, N=64),
         tags={"aot"}),
)  # fmt: skip
