"""The gradients of `attention_varlen`, from what its forward saved: its output and lse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Provider
from aimills_kernels.kernels.attention import gradients, mask, op_varlen
from aimills_kernels.kernels.attention.checks import DTYPES, check_scalars
from aimills_kernels.kernels.attention.op import edit, scores_of

NAME = "attention_varlen_backward"


def reference(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    o: Tensor, lse: Tensor, dlse: Tensor | None, sinks: Tensor | None,
    alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool, scale: float,
    window_left: int, window_right: int, softcap: float, need_dslopes: bool, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`attention_backward` for each sequence of `attention_varlen`.

    dout     [T, H, Dv]  dtype of q: gradient of out
    o        [T, H, Dv]  dtype of q: what the forward gave
    lse      [H, T]      f32: what the forward gave, or [0]: then it is worked out again
    dlse     [H, T]      f32: gradient of lse
    the others as in `attention_varlen`
    ->   dq, dk, dv  like q, k, v; 0 for keys not in use and what lies beyond the last sequence
         dsinks      like sinks; [0] without
         dslopes     like alibi_slopes if `need_dslopes`; else [0]

    One head group at a time, with a mask over all T x S pairs.
    """
    G = k.shape[1]
    R = q.shape[1] // G
    used, distance, seen, seq_q = op_varlen.pairs_of(
        q, k, cu_seqlens_q, cu_seqlens_k, seqused_k, causal, window_left, window_right
    )
    slopes = None
    if alibi_slopes is not None:
        slopes = op_varlen.slopes_of(alibi_slopes, cu_seqlens_q, q, seq_q)
    found = []
    for g in range(G):
        heads = slice(g * R, (g + 1) * R)
        scores = scores_of(
            q[None, :, heads], k[None, :, g : g + 1], v[None, :, g : g + 1],
            None if slopes is None else slopes[:, heads], used, distance, seen, scale, softcap,
        )  # fmt: skip
        found.append(gradients.gradients(
            scores, distance, dout[None, :, heads], o[None, :, heads],
            lse if lse.dim() == 1 else lse[None, heads],
            None if dlse is None else dlse[None, heads],
            None if sinks is None else sinks[heads], scale, softcap,
        ))  # fmt: skip
    dq, dk, dv = (torch.cat([each[i] for each in found], 2)[0] for i in range(3))
    dsink, dslope = (torch.cat([each[i] for each in found], 1)[0] for i in (3, 4))
    _, _, _, dsinks, dslopes = gradients.empty_grads(q, k, v, sinks, alibi_slopes, need_dslopes)
    if sinks is not None:
        dsinks = dsink.sum(-1).to(sinks.dtype)
    if need_dslopes and alibi_slopes is not None:
        B = cu_seqlens_q.shape[0] - 1
        each = dslope.new_zeros(B + 1, q.shape[1]).index_add(0, seq_q, dslope.T)[:B]
        dslopes = (each if alibi_slopes.dim() == 2 else each.sum(0)).to(alibi_slopes.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dsinks, dslopes


def fake(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    o: Tensor, lse: Tensor, dlse: Tensor | None, sinks: Tensor | None,
    alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool, scale: float,
    window_left: int, window_right: int, softcap: float, need_dslopes: bool, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    op_varlen.check(NAME, q, k, v, cu_seqlens_q, cu_seqlens_k, sinks, alibi_slopes, seqused_k)
    check_scalars(NAME, scale, window_left, window_right, softcap)
    T, H, _ = q.shape
    want = q.new_empty((T, H, v.shape[2]))
    gradients.check_grads(NAME, dout, o, lse, dlse, alibi_slopes, need_dslopes, want, (H, T))
    return gradients.empty_grads(q, k, v, sinks, alibi_slopes, need_dslopes)


def values(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    o: Tensor, lse: Tensor, dlse: Tensor | None, sinks: Tensor | None,
    alibi_slopes: Tensor | None, seqused_k: Tensor | None, *scalars: Any,
) -> None:  # fmt: skip
    op_varlen.check_values(NAME, q, k, cu_seqlens_q, cu_seqlens_k, seqused_k)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    forward = op_varlen.inputs(case, generator)
    T, S = forward["q"].shape[0], forward["k"].shape[0]
    return gradients.drawn_grads(
        case, generator, forward, op_varlen.reference, case.H * T * S, (case.H, T)
    )


def cost(case: Case) -> Cost:
    q_lens, k_lens = case.q_lens, case.get("k_lens", case.q_lens)
    dtype, S = DTYPES[case.one_of("dtype", *DTYPES)], sum(k_lens)
    left, right = mask.limits(case.get("causal", False), *case.get("window", (-1, -1)), S)
    n = case.get("used", k_lens)
    pairs = sum(mask.pairs(M, used, left, right) for M, used in zip(q_lens, n, strict=True))
    rows = (sum(q_lens) + case.get("tail", 0)) * case.H
    return gradients.cost_of(case, pairs, rows, sum(n) * case.G, rows, dtype)


_I = {"interpret"}
_DOCS = (2048, 511, 1, 3001, 1300, 64, 1267)  # 8192 tokens of documents

CASES = (
    Case("tiny", q_lens=(5, 11), H=2, G=1, D=16, causal=True, dlse=True, dtype="f32", tags=_I),
    Case("ragged", q_lens=(1, 37, 0, 70, 3), k_lens=(9, 67, 40, 80, 0), H=2, G=1, D=32,
         causal=True, dlse=True, tags=_I),
    Case("ragged-f16", q_lens=(40, 3), k_lens=(40, 80), H=2, G=2, D=24, Dv=40, dtype="f16"),
    Case("decode", q_lens=(1,) * 4, k_lens=(1, 130, 0, 7), H=3, G=1, D=32, causal=True),
    Case("tail", q_lens=(20, 70), H=2, G=2, D=32, tail=70, causal=True, dlse=True, sinks="f32",
         tags=_I),
    Case("one-of-many", q_lens=(0, 0, 0, 40, 0, 0), H=2, G=1, D=16, dtype="f16"),
    Case("no-sequence", q_lens=(), H=2, G=1, D=16, tail=9, dlse=True, sinks="f32", tags=_I),
    Case("nothing", q_lens=(0, 0), H=2, G=1, D=16, alibi="head", dslopes=True, tags=_I),
    Case("packed", q_lens=(50, 21), H=2, G=1, D=32, layout="packed", causal=True,
         grad="heads_first"),
    Case("strided", q_lens=(40, 10), k_lens=(30, 20), H=2, G=1, D=16, layout="heads_first",
         grad="expanded"),
    Case("alibi", q_lens=(20, 33), k_lens=(20, 30), H=2, G=2, D=32, alibi="batch", dslopes=True,
         dtype="f32", tags=_I),
    Case("everything", q_lens=(33, 0, 20, 1), k_lens=(40, 9, 20, 30), used=(40, 0, 11, 27), H=2,
         G=1, D=40, Dv=24, sinks="q", alibi="batch", causal=True, window=(30, -1), softcap=30.0,
         tail=5, dlse=True, dslopes=True, tags=_I),
    Case("sparse", q_lens=(40, 30), k_lens=(5, 4), H=1, G=1, D=16, dtype="f16", layout="sparse",
         tags=_I),
    Case("no-lse", q_lens=(5, 4), k_lens=(7, 4), H=2, G=1, D=16, causal=True, sinks="q",
         saved="none", dtype="f32"),
    Case("llama3-8b-docs", q_lens=_DOCS, H=32, G=8, D=128, causal=True,
         cpu=dict(q_lens=(64, 31, 1, 32), H=8, G=2), tags={"bench", "accept"}),
    Case("aot-everything", q_lens=(1001, 7), used=(700, 7), H=8, G=2, D=128, sinks="q",
         alibi="batch", causal=True, window=(300, -1), softcap=30.0, dlse=True, dslopes=True,
         tail=3, cpu=dict(q_lens=(65, 7), used=(40, 7)), tags={"aot"}),
)  # fmt: skip


def _ints(*values: int, dtype: torch.dtype = torch.int32) -> Any:
    return lambda a: torch.tensor(values, dtype=dtype)


ERRORS = (
    Invalid("q has four dims", edit(q=lambda a: a["q"][None]), "q must be"),
    Invalid("v is shorter", edit(v=lambda a: a["v"][:-1]), "v must have the tokens of k"),
    Invalid("dout is shorter", edit(dout=lambda a: a["dout"][1:]),
            r"dout must be float32\[16, 2, 16\]"),
    Invalid("o of another dtype", edit(o=lambda a: a["o"].half()), "o must be"),
    Invalid("lse is transposed", edit(lse=lambda a: a["lse"].T), r"lse must be float32\[2, 16\]"),
    Invalid("dlse is f16", edit(dlse=lambda a: a["dlse"].half()), "dlse must be float32"),
    Invalid("slopes asked for without", edit(need_dslopes=lambda a: True), "need_dslopes asks"),
    Invalid("cu_seqlens_q is i64", edit(cu_seqlens_q=_ints(0, 5, 16, dtype=torch.int64)),
            "cu_seqlens_q must be int32"),
    Invalid("scale is nan", edit(scale=lambda a: float("nan")), "scale must be finite"),
    Invalid("cu_seqlens_q falls", edit(cu_seqlens_q=_ints(0, 12, 9)), "cu_seqlens_q must rise",
            value=True),
    Invalid("seqused_k beyond its keys", edit(seqused_k=_ints(6, 11)),
            "each sequence's keys", value=True),
)  # fmt: skip

attention_varlen_backward = Op(
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
            "aimills_kernels.kernels.attention.triton_bwd:launch_varlen",
            rejects=gradients.rejects,
            sources=gradients.SOURCES,
        ),
    ),
)
