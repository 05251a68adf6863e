"""The cases of grouped fp8 matmul: those of `matmul_fp8`, with its rows and weights in groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost
from aimills_kernels.kernels.matmul import cases_fp8
from aimills_kernels.kernels.matmul.cases import lay_out
from aimills_kernels.kernels.matmul.config import BLOCK, blocks_of
from aimills_kernels.kernels.matmul.formats import WIDE
from aimills_kernels.kernels.matmul.groups import (
    end_bytes_of_groups,
    end_of_groups,
    lengths,
    rows_in,
    skewed,
    unowned,
)

SCALES_B = ("tensor", "one", "group", "row", "1x128", "128x128")


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Rows of no group have NaN codes, and NaN scales where they have their own."""
    E, N, K = len(case.counts), case.N, case.K
    lead, whole = rows_in(case), max(1, blocks_of(N)) * BLOCK  # no block of b is that of two groups
    kind = case.one_of("scale_b", *SCALES_B)
    plain = {name: v for name, v in case.dims.items() if name not in ("act", "residual")}
    flat = {**plain, "M": math.prod(lead), "N": E * whole, "layout": "contiguous",
            "scale_b": "row" if kind == "group" else kind}  # fmt: skip
    drawn = cases_fp8.inputs(Case(case.name, **flat), generator)
    given = lengths(case, generator)
    nobody = unowned(case, given)
    a = drawn["a"].view(*lead, K)
    a.view(torch.uint8).masked_fill_(nobody[..., None], 0x7F)
    scale_a, scale_b = drawn["scale_a"], drawn["scale_b"]
    if scale_a.dim() == 2:
        scale_a = scale_a.view(*lead, scale_a.shape[1])
        scale_a.masked_fill_(nobody[..., None], float("nan"))
    if scale_b.dim() == 2:
        each, kept = {"group": (whole, 1), "128x128": (whole // BLOCK, blocks_of(N))}.get(
            kind, (whole, N)
        )
        scale_b = scale_b.view(E, each, scale_b.shape[1])[:, :kept]
    named: dict[str, Tensor] = {
        "a": a,
        "b": _own(drawn["b"].view(E, whole, K)[:, :N]),
        "scale_a": scale_a,
        "scale_b": _own(scale_b),
    }
    if drawn["bias"] is not None:
        named["bias"] = _own(drawn["bias"].view(E, whole)[:, :N])
    return {
        "bias": None,
        **{name: lay_out(case, name, t) for name, t in named.items()},
        **given,
        "out_dtype": drawn["out_dtype"],
        "batch_invariant": drawn["batch_invariant"],
        **end_of_groups(case, generator, given),
    }


def _own(t: Tensor) -> Tensor:
    """Contiguous by its strides too where it is empty."""
    return t.clone(memory_format=torch.contiguous_format)


def cost(case: Case) -> Cost:
    """Of the rows that count and the weights that have any; all rows are written."""
    N, K, rows = case.N, case.K, sum(case.counts)
    active = sum(n > 0 for n in case.counts)
    scales = rows * blocks_of(K) if case.get("scale_a") == "1x128" else rows
    blocks = {"128x128": blocks_of(N) * blocks_of(K), "1x128": N * blocks_of(K), "row": N}
    scales += active * blocks.get(case.get("scale_b", "tensor"), 1)
    bias = active * N * WIDE[case.bias].itemsize if case.get("bias") else 0
    out = end_bytes_of_groups(case, WIDE[case.get("out", "bf16")])
    return Cost(2 * rows * N * K, rows * K + active * N * K + out + 4 * scales + bias, "fp8")


_BLOCKS: dict[str, Any] = dict(scale_a="1x128", scale_b="128x128")
_ROWS: dict[str, Any] = dict(scale_a="row", scale_b="row")
_I, _FULL = {"interpret"}, {"interpret", "full"}
_SMALL: dict[str, Any] = dict(counts=(5, 0, 20, 1), N=96, K=272)
_SMALL_MASKED: dict[str, Any] = dict(counts=(5, 0, 20), M=24, N=96, K=272)

CASES = (
    Case("tiny", counts=(3, 0, 6), N=32, K=32, **_ROWS, bias="bf16", tags=_I),
    Case("ragged", counts=(17, 0, 1, 5), N=19, K=77, **_ROWS, tail=7, bias="f32", tags=_I),
    Case("lead", counts=(0, 9, 2, 0), N=40, K=64, lead=True, tail=3, scale_b="group", tags=_I),
    Case("aligned", counts=(0, 17, 0, 30), N=48, K=272, **_ROWS, lead=True, tail=9),
    Case("one-group", counts=(0, 0, 80, 0, 0), N=33, K=130, tail=2, out="f16", tags=_FULL),
    Case("skewed", counts=skewed(9, 150), N=40, K=48, **_ROWS, out="f32"),
    Case("many-groups", counts=(1, 0) * 40, N=20, K=32, scale_a="row"),
    Case("all-empty", counts=(0, 0), N=20, K=40, **_ROWS, tail=5, tags=_I),
    Case("m-empty", counts=(0, 0), N=20, K=40, **_ROWS),
    Case("groups-empty", counts=(), N=20, K=40, tail=5, tags=_I),
    Case("n-empty", counts=(3, 2), N=0, K=40, **_ROWS),
    Case("k-empty", counts=(3, 0, 2), N=20, K=0, bias="f16", tail=1, tags=_I),
    Case("block", counts=(17, 0, 3), N=135, K=277, **_BLOCKS, tail=4, bias="bf16", tags=_I),
    Case("block-vectors", counts=(6, 9), N=30, K=260, scale_a="1x128", scale_b="1x128", tags=_FULL),
    Case("block-a-only", counts=(6, 9), N=30, K=260, scale_a="1x128", scale_b="group"),
    Case("masked", counts=(4, 0, 20), M=20, N=40, K=70, masked=True, **_ROWS, bias="bf16", tags=_I),
    Case("masked-block", counts=(1, 18, 0), M=19, N=140, K=200, masked=True, **_BLOCKS, tags=_I),
    Case("masked-one", counts=(0, 0, 3), M=3, N=20, K=40, masked=True, scale_a="row", tags=_FULL),
    Case("masked-none", counts=(0, 0), M=5, N=20, K=40, masked=True, scale_b="group", out="f16"),
    Case("onehot", counts=(20, 0, 31), N=40, K=300, **_ROWS, fill="onehot", tags=_FULL),
    Case("magnitudes", counts=(20, 3), N=40, K=90, **_ROWS, fill="magnitudes"),
    Case("nan", counts=(8, 8), N=20, K=70, **_ROWS, fill="nan"),
    Case("e5m2", counts=(8, 0, 8), N=20, K=70, **_ROWS, a="e5m2", out="f32"),
    Case("transposed", counts=(9, 4), N=30, K=50, **_ROWS, bias="f32", layout="transposed"),
    Case("sliced", counts=(9, 0, 4), N=30, K=50, **_ROWS, bias="f32", layout="sliced", tags=_I),
    Case("sliced-masked", counts=(9, 0, 4), M=9, N=30, K=50, masked=True, **_ROWS, layout="sliced"),
    Case("sparse", counts=(3, 2), N=9, K=40, **_ROWS, layout="sparse", tags=_I),
    Case("invariant", counts=(2, 0, 30), N=50, K=200, **_ROWS, invariant=True, tags=_FULL),
    Case("invariant-block", counts=(3, 0, 30), N=50, K=200, **_BLOCKS, invariant=True),
    Case("residual", counts=(5, 0, 12), N=32, K=40, tail=3, residual="f32", act="gelu"),
    Case("residual-masked", counts=(5, 0, 3), M=6, N=20, K=70, masked=True, **_ROWS,
         residual="bf16", act="relu", bias="f32", tags=_FULL),
    Case("residual-sliced", counts=(5, 2), tail=2, N=30, K=40, scale_a="row", residual="f16",
         out="f16", layout="sliced"),
    Case("gated", counts=(19, 0, 2), N=70, K=150, tail=3, **_ROWS, act="swiglu", bias="bf16",
         residual="f16", tags=_I),
    Case("gated-block", counts=(3, 18, 0), M=19, N=268, K=260, masked=True, **_BLOCKS, act="swiglu",
         bias="f32", tags=_FULL),
    Case("gated-block-whole", counts=(3, 18), N=256, K=260, **_BLOCKS, act="swiglu", tags=_FULL),
    Case("gated-vectors", counts=(3, 4), N=62, K=300, scale_a="1x128", scale_b="1x128",
         act="swiglu", out="f32"),
    Case("gated-invariant", counts=(3, 4), N=62, K=90, **_ROWS, act="swiglu", invariant=True,
         tags=_FULL),
    Case("gated-empty", counts=(0, 0), N=20, K=40, tail=5, act="swiglu", residual="bf16"),
    Case("activation", counts=(3, 4), N=33, K=60, **_ROWS, act="gelu_tanh", out="f32"),
    Case("activation-silu", counts=(3, 0, 4), M=4, N=20, K=600, masked=True, **_ROWS, act="silu",
         bias="f32", layout="transposed"),
    Case("deepseek-v3-gate-up-decode", counts=(16,) * 8, M=64, N=4096, K=7168, masked=True,
         **_BLOCKS, cpu=_SMALL_MASKED, tags={"bench", "accept"}),
    Case("deepseek-v3-down-decode", counts=(16,) * 8, M=64, N=7168, K=2048, masked=True,
         **_BLOCKS, cpu=_SMALL_MASKED, tags={"bench"}),
    Case("deepseek-v3-gate-up-8192", counts=(8192,) * 4, N=4096, K=7168, **_BLOCKS, cpu=_SMALL,
         tags={"bench"}),
    Case("qwen3-235b-gate-up-8192", counts=skewed(128, 8192), N=3072, K=4096, **_ROWS, cpu=_SMALL,
         tags={"bench", "accept"}),
    Case("gpt-oss-20b-gate-up-64", counts=skewed(32, 256), N=5760, K=2880, **_ROWS, bias="bf16",
         cpu=_SMALL, tags={"bench"}),
    Case("deepseek-v3-gate-up-decode-swiglu", counts=(16,) * 8, M=64, N=4096, K=7168, masked=True,
         **_BLOCKS, act="swiglu", cpu=_SMALL_MASKED, tags={"bench"}),
    Case("qwen3-235b-gate-up-8192-swiglu", counts=skewed(128, 8192), N=3072, K=4096, **_ROWS,
         act="swiglu", cpu=_SMALL, tags={"bench"}),
    Case("aot-gated-block", counts=(1024,) * 2, N=4096, K=512, **_BLOCKS, act="swiglu", cpu=_SMALL,
         tags={"aot"}),
    Case("aot-gated-ragged", counts=(1024,) * 2, N=4112, K=512, **_BLOCKS, act="swiglu",
         bias="f32", residual="bf16", cpu=_SMALL, tags={"aot", "full"}),
    Case("aot-vectors", counts=(1024,) * 2, N=4096, K=512, scale_a="1x128", scale_b="1x128",
         bias="f32", cpu=_SMALL, tags={"aot", "full"}),
    Case("aot-gated-rows", counts=(1024,) * 2, N=4096, K=512, **_ROWS, act="swiglu", bias="bf16",
         residual="bf16", cpu=_SMALL, tags={"aot"}),
    Case("aot-block", counts=(1024,) * 2, N=4096, K=512, **_BLOCKS, cpu=_SMALL, tags={"aot"}),
    Case("aot-masked", counts=(16,) * 2, M=64, N=512, K=512, masked=True, **_BLOCKS,
         cpu=_SMALL_MASKED, tags={"aot"}),
    Case("aot-rows", counts=(64,) * 4, N=512, K=512, **_ROWS, bias="bf16", cpu=_SMALL,
         tags={"aot"}),
    Case("aot-unaligned", counts=(512, 100), N=512, K=1000, **_ROWS, cpu=_SMALL,
         tags={"aot", "full"}),
    Case("aot-ragged", counts=(1024,) * 2, N=4102, K=512, **_ROWS, bias="f32", residual="bf16",
         cpu=_SMALL | dict(N=102), tags={"aot", "full"}),
    Case("aot-f32-ragged", counts=(1024,) * 2, N=4102, K=512, **_BLOCKS, out="f32", act="swiglu",
         bias="f32", residual="bf16", cpu=_SMALL | dict(N=102), tags={"aot", "full"}),
    Case("aot-f32-block", counts=(1024, 1024), N=1024, K=1024, **_BLOCKS, out="f32", cpu=_SMALL,
         tags={"aot", "full"}),
    Case("aot-invariant", counts=(8, 8), N=512, K=1024, **_ROWS, invariant=True, cpu=_SMALL,
         tags={"aot", "full"}),
)  # fmt: skip
