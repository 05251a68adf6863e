"""The gradients of `attention`, from what its forward saved: its output and lse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Provider
from aimills_kernels.kernels.attention import gradients, mask, op
from aimills_kernels.kernels.attention.checks import DTYPES, check_scalars
from aimills_kernels.kernels.attention.op import edit

NAME = "attention_backward"


def reference(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, dlse: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool,
    scale: float, window_left: int, window_right: int, softcap: float, need_dslopes: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients in float32 (float64 for float64 inputs), rounded once at the end.

    dout     [B, M, H, Dv]  dtype of q: gradient of out
    o        [B, M, H, Dv]  dtype of q: what the forward gave
    lse      [B, H, M]      f32: what the forward gave, or [0]: then it is worked out again
    dlse     [B, H, M]      f32: gradient of lse
    the others as in `attention`
    ->   dq, dk, dv  like q, k, v; 0 for keys not in use and queries without keys
         dsinks      like sinks; [0] without
         dslopes     like alibi_slopes if `need_dslopes`; else [0]
    """
    used, distance, seen = op.pairs_of(q, k, seqused_k, causal, window_left, window_right)
    found = []
    for heads in op.parts(q, k):
        *qkv, sink, slopes = heads.of(q, k, v, sinks, alibi_slopes)
        scores = op.scores_of(*qkv, slopes, used, distance, seen, scale, softcap)
        mine = heads.query
        found.append(gradients.gradients(
            scores, distance, dout[:, :, mine], o[:, :, mine],
            lse if lse.dim() == 1 else lse[:, mine], None if dlse is None else dlse[:, mine],
            sink, scale, softcap,
        ))  # fmt: skip
    dq, dk, dv = (torch.cat([each[i] for each in found], 2) for i in range(3))
    dsink, dslope = (torch.cat([each[i] for each in found], 1) for i in (3, 4))
    _, _, _, dsinks, dslopes = gradients.empty_grads(q, k, v, sinks, alibi_slopes, need_dslopes)
    if sinks is not None:
        dsinks = dsink.sum((0, 2)).to(sinks.dtype)
    if need_dslopes and alibi_slopes is not None:
        dslopes = dslope.sum(-1) if alibi_slopes.dim() == 2 else dslope.sum((0, 2))
        dslopes = dslopes.to(alibi_slopes.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dsinks, dslopes


def fake(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, dlse: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool,
    scale: float, window_left: int, window_right: int, softcap: float, need_dslopes: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    op.check(NAME, q, k, v, sinks, alibi_slopes, seqused_k)
    check_scalars(NAME, scale, window_left, window_right, softcap)
    B, M, H, _ = q.shape
    want = q.new_empty((B, M, H, v.shape[3]))
    gradients.check_grads(
        NAME, dout, o, lse, dlse, alibi_slopes, need_dslopes, want, (B, H, M)
    )  # fmt: skip
    return gradients.empty_grads(q, k, v, sinks, alibi_slopes, need_dslopes)


def values(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, dlse: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, *scalars: Any,
) -> None:  # fmt: skip
    op.check_values(NAME, k, seqused_k)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    forward = op.inputs(case, generator)
    pairs = case.B * case.H * case.M * case.N
    rows = (case.B, case.H, case.M)
    return gradients.drawn_grads(case, generator, forward, op.reference, pairs, rows)


def cost(case: Case) -> Cost:
    B, M, N, dtype = case.B, case.M, case.N, DTYPES[case.one_of("dtype", *DTYPES)]
    left, right = mask.limits(case.get("causal", False), *case.get("window", (-1, -1)), N)
    used = case.get("used", (N,) * B)
    pairs = sum(mask.pairs(M, n, left, right) for n in used)
    rows = B * M * case.H
    return gradients.cost_of(case, pairs, rows, sum(used) * case.G, rows, dtype)


_I = {"interpret"}

CASES = (
    Case("tiny", B=1, M=16, N=16, H=2, G=1, D=16, dtype="f32", dlse=True, tags=_I),
    Case("tiny-f16", B=1, M=16, N=16, H=2, G=1, D=16, dtype="f16", causal=True, tags=_I),
    Case("ragged", B=1, M=35, N=51, H=4, G=2, D=24, dtype="f16", causal=True, dlse=True, tags=_I),
    Case("ragged-f32", B=1, M=40, N=37, H=2, G=2, D=40, dtype="f32", tags=_I),
    Case("plain", B=1, M=33, N=140, H=2, G=1, D=64, causal=True, tags=_I),
    Case("dims", B=1, M=37, N=45, H=2, G=1, D=96, Dv=33),
    Case("dim-1", B=1, M=5, N=9, H=1, G=1, D=1, dtype="f32", dlse=True, tags=_I),
    Case("dim-256", B=1, M=70, N=40, H=1, G=1, D=256, tags=_I),
    Case("no-keys", B=1, M=140, N=17, H=2, G=1, D=32, causal=True, dlse=True, tags=_I),
    Case("keys-empty", B=1, M=9, N=0, H=2, G=1, D=32, sinks="f32", dlse=True, tags=_I),
    Case("batch-empty", B=0, M=16, N=16, H=2, G=2, D=64, sinks="f32", alibi="batch", dslopes=True,
         tags=_I),
    Case("queries-empty", B=2, M=0, N=16, H=2, G=2, D=64, tags=_I),
    Case("decode", B=2, M=1, N=150, H=3, G=1, D=32, causal=True),
    Case("packed", B=1, M=50, N=50, H=4, G=2, D=32, causal=True, layout="packed",
         grad="heads_first"),
    Case("strided", B=2, M=40, N=35, H=2, G=1, D=16, layout="heads_first", grad="expanded",
         tags=_I),
    Case("sparse", B=1, M=70, N=9, H=1, G=1, D=16, dtype="f16", layout="sparse", tags=_I),
    Case("no-lse", B=1, M=9, N=12, H=2, G=1, D=16, causal=True, sinks="q", saved="none",
         dtype="f32"),
    Case("onehot", B=1, M=60, N=150, H=1, G=1, D=64, fill="onehot", dlse=True, dtype="f32",
         tags=_I),
    Case("magnitudes", B=1, M=40, N=50, H=1, G=1, D=32, fill="magnitudes", dtype="f32", tags=_I),
    Case("scale-negative", B=1, M=20, N=30, H=1, G=1, D=32, scale=-0.7, causal=True),
    Case("window", B=1, M=150, N=280, H=2, G=1, D=32, window=(30, 10), tags=_I),
    Case("window-causal", B=1, M=200, N=200, H=2, G=1, D=32, window=(70, -1), causal=True,
         dtype="f16", tags=_I),
    Case("window-right", B=1, M=60, N=40, H=1, G=1, D=48, window=(-1, 3), dtype="f32", dlse=True,
         tags=_I),
    Case("window-one", B=1, M=50, N=50, H=2, G=1, D=16, window=(0, 0), dtype="f32"),
    Case("softcap", B=1, M=60, N=90, H=2, G=1, D=64, softcap=15.0),
    Case("softcap-f32", B=1, M=30, N=40, H=2, G=2, D=40, softcap=5.0, dtype="f32", scale=1.0,
         causal=True, dlse=True, tags=_I),
    Case("sinks", B=2, M=40, N=50, H=3, G=1, D=32, sinks="f32", causal=True, dlse=True),
    Case("sinks-no-keys", B=1, M=40, N=17, H=2, G=1, D=32, sinks="none", causal=True,
         dtype="f32", dlse=True, tags=_I),
    Case("alibi", B=2, M=33, N=40, H=2, G=1, D=32, alibi="batch", causal=True, dslopes=True,
         tags=_I),
    Case("alibi-full", B=2, M=20, N=37, H=2, G=2, D=16, alibi="head", dtype="f32", dslopes=True,
         tags=_I),
    Case("used", B=4, M=17, N=140, H=1, G=1, D=32, used=(140, 0, 1, 77), causal=True),
    Case("used-window", B=2, M=40, N=140, H=1, G=1, D=32, used=(20, 96), window=(40, 5),
         deterministic=True, tags=_I),
    Case("everything", B=2, M=33, N=40, H=2, G=1, D=40, Dv=24, sinks="q", alibi="batch",
         used=(40, 17), causal=True, window=(30, -1), softcap=30.0, dlse=True, dslopes=True,
         tags=_I),
    Case("llama3-8b-train", B=1, M=4096, N=4096, H=32, G=8, D=128, causal=True,
         cpu=dict(M=128, N=128, H=8, G=2), tags={"bench", "accept", "aot"}),
    Case("llama3-8b-train-short", B=4, M=1024, N=1024, H=32, G=8, D=128, causal=True,
         cpu=dict(B=1, M=64, N=64, H=8, G=2), tags={"bench"}),
    Case("llama3-70b-train", B=1, M=8192, N=8192, H=64, G=8, D=128, causal=True,
         cpu=dict(M=64, N=64, H=16, G=2), tags={"bench"}),
    Case("llama3-70b-train-deterministic", B=1, M=8192, N=8192, H=64, G=8, D=128, causal=True,
         deterministic=True, cpu=dict(M=64, N=64, H=16, G=2), tags={"bench"}),
    Case("gpt-oss-train", B=1, M=4096, N=4096, H=64, G=8, D=64, causal=True, window=(127, 0),
         sinks="q", cpu=dict(M=128, N=128, H=8, G=1), tags={"bench"}),
)  # fmt: skip

ERRORS = (
    Invalid("q has three dims", edit(q=lambda a: a["q"][0]), "q must be"),
    Invalid("k of another dtype", edit(k=lambda a: a["k"].half()), "k must have the dtype of q"),
    Invalid("batches differ", edit(k=lambda a: a["k"].repeat(2, 1, 1, 1)), "batch of q"),
    Invalid("dout of another shape", edit(dout=lambda a: a["dout"][:, 1:]),
            r"dout must be float32\[1, 16, 2, 16\]"),
    Invalid("dout of another dtype", edit(dout=lambda a: a["dout"].half()), "dout must be"),
    Invalid("o of another shape", edit(o=lambda a: a["o"][..., 1:]), "o must be"),
    Invalid("lse of another layout", edit(lse=lambda a: a["lse"].mT), "lse must be float32"),
    Invalid("lse is f16", edit(lse=lambda a: a["lse"].half()), "lse must be float32"),
    Invalid("dlse is empty", edit(dlse=lambda a: a["lse"].new_empty(0)), "dlse must be float32"),
    Invalid("slopes asked for without", edit(need_dslopes=lambda a: True), "need_dslopes asks"),
    Invalid("sinks of the key heads", edit(sinks=lambda a: torch.zeros(1)),
            r"sinks must be \[2\]"),
    Invalid("softcap is negative", edit(softcap=lambda a: -1.0), "softcap must be 0"),
    Invalid("window below -1", edit(window_left=lambda a: -2), "left side of window must be -1"),
    Invalid("scale is nan", edit(scale=lambda a: float("nan")), "scale must be finite"),
    Invalid("seqused_k beyond k", edit(seqused_k=lambda a: torch.tensor([17]).int()),
            "seqused_k must be 0 to 16", value=True),
)  # fmt: skip

attention_backward = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=gradients.TOLERANCE,
    errors=ERRORS,
    values=values,
    outputs=gradients.OUTPUTS,
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_bwd:launch",
            rejects=gradients.rejects,
            sources=gradients.SOURCES,
        ),
    ),
)
