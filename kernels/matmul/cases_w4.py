"""Cases of `matmul_w4`, and calls of it that must fail."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels._op import Case, Invalid
from aimills_kernels.kernels.matmul.cases import (
    bad_bias,
    bad_end,
    bad_scale_values,
    odd_gate,
    spoil,
    vary,
)

_LAYERS = {  # Llama-3 8B, and a square one of 70B: N, K
    "llama3-8b-qkv": (6144, 4096),
    "llama3-8b-gate-up": (28672, 4096),
    "llama3-8b-down": (4096, 14336),
    "square-8192": (8192, 8192),
}


def _layer_cases() -> tuple[Case, ...]:
    found = []
    for layer, (N, K) in _LAYERS.items():
        for M in (1, 16) if layer.startswith("square") else (1, 16, 64, 4096):
            small = dict(M=min(M, 8), N=N // 128, K=K // 16)
            tags = {"bench"} | ({"accept"} if M != 64 else set())
            tags |= {"aot"} if layer.endswith("qkv") or layer.startswith("square") else set()
            found.append(Case(f"{layer}-{M}", M=M, N=N, K=K, cpu=small, tags=tags))
    return tuple(found)


_I = {"interpret"}
_SMALL: dict[str, Any] = dict(M=64, N=64)

CASES = (
    Case("tiny", M=3, N=20, K=128, bias="bf16", tags=_I),
    Case("f16", M=3, N=20, K=128, dtype="f16", scales="f16", asym=True, act="silu", tags=_I),
    Case("ragged", M=17, N=35, K=77, group=32, asym=True, bias="f32", tags=_I),
    Case("single-row", M=1, N=65, K=1420, scales="f32", tags=_I),
    Case("single-channel", M=16, N=1, K=200, group=64, dtype="f16", scales="f32", tags=_I),
    Case("rows", M=150, N=130, K=180, group=64, asym=True, act="gelu", tags=_I),
    Case("large-tiles", M=2000, N=1400, K=300, cpu=dict(M=300, N=35)),
    Case("channel", M=5, N=40, K=420, group="channel", asym=True, bias="f16", tags=_I),
    Case("act-order", M=5, N=40, K=300, group=64, order="act", act="gelu_tanh", tags=_I),
    Case("act-shard", M=5, N=40, K=200, group=32, order="shard", asym=True, act="relu", tags=_I),
    Case("offset", M=5, N=40, K=300, offset=75, tags=_I),
    Case("offset-32", M=2, N=40, K=90, group=32, offset=31, asym=True, dtype="f16", tags=_I),
    Case("onehot", M=40, N=40, K=330, group=32, fill="onehot", asym=True, tags=_I),
    Case("onehot-128", M=9, N=40, K=330, fill="onehot", tags=_I),
    Case("magnitudes", M=12, N=30, K=260, group=32, scales="f32", fill="magnitudes", tags=_I),
    Case("x-nan", M=3, N=20, K=70, group=32, fill="nan", tags=_I),
    Case("transposed", M=7, N=20, K=90, group=32, layout="transposed", tags=_I),
    Case("sliced", M=7, N=20, K=96, group=32, layout="sliced", tags=_I),
    Case("sparse", M=5, N=9, K=40, group=32, layout="sparse", tags=_I),
    Case("m-empty", M=0, N=35, K=64, group=32, tags=_I),
    Case("n-empty", M=20, N=0, K=64, group=32, tags=_I),
    Case("k-empty", M=20, N=35, K=0, group=32, bias="f16", tags=_I),
    Case("channel-of-none", M=2, N=3, K=0, group="channel", tags=_I),
    Case("invariant", M=3, N=70, K=1200, invariant=True, bias="bf16", act="silu", tags=_I),
    Case("invariant-walked", M=9000, N=70, K=600, group=32, invariant=True, cpu=dict(M=300)),
    Case("gpt-oss", M=16, N=2880, K=2880, group=32, bias="bf16", cpu=dict(N=40, K=360)),
    Case("qwen2.5-vl", M=4, N=1280, K=3420, cpu=dict(N=30)),
    Case("residual", M=3, N=20, K=40, group=32, residual="f32", act="gelu"),
    Case("gated", M=9, N=70, K=77, group=32, asym=True, act="swiglu", bias="bf16", residual="f16",
         tags=_I),
    Case("gated-split", M=2, N=70, K=1100, act="swiglu", residual="bf16", dtype="f16",
         tags={"interpret", "full"}),
    *_layer_cases(),
    Case("llama3-8b-gate-up-16-swiglu", M=16, N=28672, K=4096, act="swiglu",
         cpu=dict(M=8, N=224, K=256), tags={"bench", "aot"}),
    Case("llama3-8b-gate-up-4096-swiglu", M=4096, N=28672, K=4096, asym=True, act="swiglu",
         residual="bf16", cpu=dict(M=8, N=224, K=256), tags={"aot"}),
    Case("aot-32-asym", M=16, N=4096, K=4096, group=32, asym=True, cpu=dict(N=64, K=512),
         tags={"aot"}),
    Case("aot-64-f16", M=32, N=4096, K=4096, group=64, dtype="f16", scales="f16", asym=True,
         bias="f16", act="gelu", cpu=dict(N=64, K=512), tags={"aot"}),
    Case("aot-channel", M=2048, N=4096, K=4096, group="channel", act="silu", cpu=_SMALL,
         tags={"aot"}),
    Case("aot-32-large", M=2048, N=4096, K=1024, group=32, asym=True, dtype="f16", bias="f32",
         act="gelu_tanh", cpu=_SMALL, tags={"aot"}),
    Case("aot-act-order", M=256, N=4096, K=1024, order="act", cpu=_SMALL, tags={"aot"}),
    Case("aot-act-shard", M=8, N=4096, K=1000, group=32, order="shard", cpu=_SMALL, tags={"aot"}),
    Case("aot-ragged", M=2047, N=4095, K=3420, offset=70, asym=True, cpu=_SMALL, tags={"aot"}),
    Case("aot-odd-n", M=2048, N=4095, K=2048, group="channel", asym=True, bias="f32",
         cpu=dict(M=64, N=63), tags={"aot"}),
    Case("aot-invariant", M=8, N=4096, K=4096, invariant=True, cpu=dict(N=64), tags={"aot"}),
    Case("aot-invariant-walked", M=4096, N=4096, K=4096, invariant=True, asym=True, cpu=_SMALL,
         tags={"aot"}),
)  # fmt: skip


def _turned(t: Tensor) -> Tensor:
    return t.T.contiguous().T


ERRORS = (
    Invalid("x has three dims", vary(x=lambda a: a["x"][None]), "x must be two-dimensional"),
    Invalid("x is f32", vary(x=lambda a: a["x"].float()), "x must be bfloat16 or float16"),
    Invalid("x is wider", vary(x=lambda a: a["x"].repeat(1, 2)),
            r"codes must be \[N, 64\] for 256 columns of x"),
    Invalid("codes are bytes", vary(codes=lambda a: a["codes"].view(torch.uint8)),
            "codes must be two-dimensional int16"),
    Invalid("codes of one dim", vary(codes=lambda a: a["codes"][0]), "codes must be two-dim"),
    Invalid("codes are cut off", vary(codes=lambda a: a["codes"][:, :-1]), "codes must be"),
    Invalid("codes across", vary(codes=lambda a: _turned(a["codes"])), "codes must be contiguous"),
    Invalid("codes too few for perm", vary(codes=lambda a: a["codes"][:, :16].contiguous()),
            r"codes must be \[N, at least", base="act-order"),
    Invalid("scales are integer", vary(scales=lambda a: a["scales"].int()), "scales must be bf16"),
    Invalid("scales across", vary(scales=lambda a: a["scales"].T), r"scales must be \[1, 20\]"),
    Invalid("a group too many", vary(scales=lambda a: a["scales"].repeat(2, 1)),
            r"scales must be \[1, 20\]"),
    Invalid("no group", vary(scales=lambda a: a["scales"][:0], zeros=lambda a: a["zeros"][:0]),
            "scales must be", base="act-shard"),
    Invalid("zeros of one row", vary(zeros=lambda a: a["zeros"][:1]),
            r"zeros must be uint8\[3, 35\]", base="ragged"),
    Invalid("zeros are floats", vary(zeros=lambda a: a["zeros"].float()), "zeros must be uint8",
            base="ragged"),
    Invalid("perm too short", vary(perm=lambda a: a["perm"][:-1]), "perm must be int32",
            base="act-order"),
    Invalid("perm is int64", vary(perm=lambda a: a["perm"].long()), "perm must be int32",
            base="act-order"),
    Invalid("group_of is too long", vary(group_of=lambda a: a["group_of"].repeat(2)),
            "group_of must be int32", base="act-shard"),
    *bad_bias(20),
    Invalid("group_size is 48", vary(group_size=48), "group_size must be 32, 64, 128 or K, 128"),
    Invalid("offset is negative", vary(offset=-1), "offset must be at least 0 and less than 128"),
    Invalid("offset of a whole group", vary(offset=128), "offset must be at least 0"),
    Invalid("offset with perm", vary(offset=1), "offset must be at least 0 and less than 1",
            base="act-order"),
    odd_gate(codes=lambda a: a["codes"][:-1], scales=lambda a: a["scales"][:, :-1].contiguous()),
    *bad_end(20),
    *bad_scale_values("scales"),
    Invalid("zeros have a 17", spoil("zeros", 17), "zeros must be 0 to 16", base="ragged",
            value=True),
    Invalid("perm names a column twice", vary(perm=lambda a: a["perm"].clamp_min(1)),
            "perm must name each of the 300 columns", base="act-order", value=True),
    Invalid("perm names a column beyond", spoil("perm", 300), "perm must name", value=True,
            base="act-order"),
    Invalid("perm names a column where no group is",
            vary(codes=lambda a: a["codes"].repeat(1, 2),
                 perm=lambda a: F.pad(a["perm"], (320, 0), value=-1)),
            "perm must name columns in its first 320 places", base="act-order", value=True),
    Invalid("group_of is too large", spoil("group_of", 90), "group_of must be 0 to",
            base="act-shard", value=True),
)  # fmt: skip
