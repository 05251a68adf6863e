"""Attention over sequences of any lengths, packed one behind the other."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.attention import mask
from aimills_kernels.kernels.attention.checks import (
    DTYPES,
    check_cu_values,
    check_extras,
    check_qkv,
    check_scalars,
    few,
)
from aimills_kernels.kernels.attention.config import (
    FORWARD_SOURCES,
    INVARIANT_SOURCES,
    Config,
    Shape,
    candidates,
    mean_queries,
)
from aimills_kernels.kernels.attention.gradients import fused_backward
from aimills_kernels.kernels.attention.op import (
    attend,
    depends,
    edit,
    extras_of,
    fill_in,
    invariant_only,
    lay_out,
)

NAME = "attention_varlen"


def reference(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool,
    scale: float, window_left: int, window_right: int, softcap: float, return_lse: bool,
    deterministic: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`attention` for each sequence b: queries cu_seqlens_q[b] to cu_seqlens_q[b + 1] on its keys.

    q             [T, H, D]        f16 | bf16 | f32
    k             [S, G, D]        dtype of q; H divisible by G
    v             [S, G, Dv]       dtype of q
    cu_seqlens_q  [B + 1]          i32, from 0, never falling, to at most T
    cu_seqlens_k  [B + 1]          i32, the same of S
    the others as in `attention`
    ->   out [T, H, Dv]  dtype of q; 0 for a query without keys or beyond the last sequence
         lse [H, T]      f32; [0] unless asked for

    One head group at a time, with a mask over all T x S pairs: no length is read by the host, so
    that its derivative can be traced.
    """
    G = k.shape[1]
    R = q.shape[1] // G
    used, distance, seen, seq_q = pairs_of(
        q, k, cu_seqlens_q, cu_seqlens_k, seqused_k, causal, window_left, window_right
    )
    slopes = None if alibi_slopes is None else slopes_of(alibi_slopes, cu_seqlens_q, q, seq_q)
    found = [
        attend(
            q[None, :, g * R : (g + 1) * R], k[None, :, g : g + 1], v[None, :, g : g + 1],
            None if sinks is None else sinks[g * R : (g + 1) * R],
            None if slopes is None else slopes[:, g * R : (g + 1) * R],
            used, distance, seen, scale, softcap, True,
        )
        for g in range(G)
    ]  # fmt: skip
    out = torch.cat([o for o, _ in found], 2)[0]
    if not return_lse:
        return out, q.new_empty(0, dtype=found[0][1].dtype)
    return out, torch.cat([lse for _, lse in found], 1)[0]


def pairs_of(
    q: Tensor, k: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, seqused_k: Tensor | None,
    causal: bool, window_left: int, window_right: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`used`, `distance` and `seen` as `attend` takes them, and the sequence of each query."""
    T, S = q.shape[0], k.shape[0]
    seq_q, i, M = _places(cu_seqlens_q, T)
    seq_k, j, n = _places(cu_seqlens_k, S)
    if seqused_k is not None:
        n = torch.cat([seqused_k.to(n.dtype), n.new_zeros(1)])
    left, right = mask.limits(causal, window_left, window_right, S)
    p = i + (n - M)[seq_q]
    distance = (p.view(T, 1) - j.view(1, S)).unsqueeze(0)
    used = (j < n[seq_k]).unsqueeze(0)
    seen = mask.visible(distance, used, left, right)
    assert seen is not None
    return used, distance, seen & (seq_q.view(T, 1) == seq_k.view(1, S)), seq_q


def slopes_of(alibi_slopes: Tensor, cu_seqlens_q: Tensor, q: Tensor, seq_q: Tensor) -> Tensor:
    """One a query: [1, H, T]."""
    each = alibi_slopes.expand(cu_seqlens_q.shape[0] - 1, q.shape[1])
    each = torch.cat([each, each.new_zeros(1, each.shape[1])])
    return each[seq_q].T.unsqueeze(0)


def _places(cu_seqlens: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each token its sequence and its place in it, and the lengths of all sequences. What lies
    beyond the last belongs to one more, which has a length of 0."""
    cu = cu_seqlens.to(torch.int64)
    token = torch.arange(total, device=cu.device)
    sequence = torch.searchsorted(cu[1:].contiguous(), token, right=True)
    lengths = torch.cat([cu[1:] - cu[:-1], cu.new_zeros(1)])
    return sequence, token - cu[sequence], lengths


def fake(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, causal: bool,
    scale: float, window_left: int, window_right: int, softcap: float, return_lse: bool,
    deterministic: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check(NAME, q, k, v, cu_seqlens_q, cu_seqlens_k, sinks, alibi_slopes, seqused_k)
    check_scalars(NAME, scale, window_left, window_right, softcap)
    T, H, _ = q.shape
    lse = q.new_empty((H, T) if return_lse else (0,), dtype=torch.float32)
    return q.new_empty((T, H, v.shape[2])), lse


def check(
    op: str, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None,
) -> None:  # fmt: skip
    check_qkv(op, q, k, v, "[tokens, heads, dim]")
    if v.shape[0] != k.shape[0]:
        raise ValueError(f"{op}: v must have the tokens of k, {k.shape[0]}, got {describe(v)}")
    for name, t in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if t.dim() != 1 or t.shape[0] < 1 or t.dtype != torch.int32:
            raise ValueError(f"{op}: {name} must be int32 [sequences + 1], got {describe(t)}")
    if cu_seqlens_k.shape != cu_seqlens_q.shape:
        raise ValueError(
            f"{op}: cu_seqlens_k must be as long as cu_seqlens_q, {cu_seqlens_q.shape[0]}, "
            f"got {describe(cu_seqlens_k)}"
        )
    check_extras(op, q, cu_seqlens_q.shape[0] - 1, sinks, alibi_slopes, seqused_k)


def values(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    sinks: Tensor | None, alibi_slopes: Tensor | None, seqused_k: Tensor | None, *scalars: Any,
) -> None:  # fmt: skip
    check_values(NAME, q, k, cu_seqlens_q, cu_seqlens_k, seqused_k)


def check_values(
    op: str, q: Tensor, k: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    seqused_k: Tensor | None,
) -> None:  # fmt: skip
    for name, t, total in (
        ("cu_seqlens_q", cu_seqlens_q, q.shape[0]), ("cu_seqlens_k", cu_seqlens_k, k.shape[0]),
    ):  # fmt: skip
        check_cu_values(op, name, t, total, "the tokens there are")
    if seqused_k is not None and seqused_k.numel():
        lengths = cu_seqlens_k.diff()
        if int(seqused_k.min()) < 0 or bool((seqused_k > lengths).any()):
            raise ValueError(
                f"{op}: seqused_k must be 0 to the length of each sequence's keys, "
                f"{few(lengths)}, got {few(seqused_k)}"
            )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`q_lens`, `k_lens` by sequence; `tail` tokens of NaN keys, and of queries, belong to none."""
    dtype, place = DTYPES[case.one_of("dtype", *DTYPES)], generator.device
    q_lens, k_lens, tail = case.q_lens, case.get("k_lens", case.q_lens), case.get("tail", 0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    T, S = sum(q_lens) + tail, sum(k_lens) + tail
    q, k, v = (t.to(dtype) for t in fill_in(case, normal, generator, 1, T, S))
    q, k, v = (t[0] for t in lay_out(case, [q, k, v]))
    cu_q, cu_k = (
        torch.tensor([0, *itertools.accumulate(lens)], dtype=torch.int32, device=place)
        for lens in (q_lens, k_lens)
    )
    used = case.get("used")
    read = torch.zeros(S, dtype=torch.bool, device=place)
    begins = itertools.accumulate(k_lens, initial=0)
    for begin, n in zip(begins, used or k_lens, strict=False):
        read[begin : begin + n] = True
    for t in (k, v):
        t[~read] = float("nan")
    return {
        "q": q, "k": k, "v": v, "cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k,
        **extras_of(case, len(q_lens), normal, dtype),
    }  # fmt: skip


def cost(case: Case) -> Cost:
    q_lens, k_lens = case.q_lens, case.get("k_lens", case.q_lens)
    Dv, dtype, S = case.get("Dv", case.D), DTYPES[case.one_of("dtype", *DTYPES)], sum(k_lens)
    left, right = mask.limits(case.get("causal", False), *case.get("window", (-1, -1)), S)
    n = case.get("used", k_lens)
    pairs = sum(mask.pairs(M, used, left, right) for M, used in zip(q_lens, n, strict=True))
    T = sum(q_lens) + case.get("tail", 0)
    elements = T * case.H * (case.D + Dv) + sum(n) * case.G * (case.D + Dv)
    lse = 4 * case.H * T if case.get("lse", False) else 0
    return Cost(
        2 * case.H * pairs * (case.D + Dv),
        elements * dtype.itemsize + lse + 8 * (len(q_lens) + 1),
        "f32" if dtype == torch.float32 else "f16",
    )


_I = {"interpret"}
_DOCS = (2048, 511, 1, 3001, 1300, 64, 1267)  # 8192 tokens of documents

CASES = (
    Case("tiny", q_lens=(5, 11), H=2, G=1, D=16, causal=True, lse=True, dtype="f32", tags=_I),
    Case("ragged", q_lens=(1, 67, 0, 70, 33), k_lens=(9, 67, 40, 140, 0), H=3, G=1, D=64,
         causal=True, lse=True, tags=_I),
    Case("ragged-f16", q_lens=(70, 3), k_lens=(40, 200), H=3, G=3, D=72, Dv=40, dtype="f16",
         tags=_I),
    Case("decode", q_lens=(1,) * 9, k_lens=(1, 30, 200, 7, 64, 128, 129, 0, 5), H=7, G=1, D=64,
         causal=True, tags=_I),
    Case("tail", q_lens=(20, 70), H=2, G=2, D=32, tail=70, causal=True, lse=True, tags=_I),
    Case("one-of-many", q_lens=(0, 0, 0, 40, 0, 0), H=2, G=1, D=16, lse=True, dtype="f16", tags=_I),
    Case("no-sequence", q_lens=(), H=2, G=1, D=16, tail=9, lse=True, tags=_I),
    Case("nothing", q_lens=(0, 0), H=2, G=1, D=16, alibi="head", lse=True, tags=_I),
    Case("packed", q_lens=(50, 21, 30), H=4, G=2, D=64, layout="packed", causal=True, tags=_I),
    Case("strided", q_lens=(40, 30), k_lens=(30, 70), H=4, G=2, D=32, layout="heads_first",
         tags=_I),
    Case("everything", q_lens=(33, 0, 80, 1), k_lens=(60, 9, 80, 90), used=(60, 0, 41, 77), H=6,
         G=2, D=72, Dv=40, sinks="q", alibi="batch", causal=True, window=(30, -1), softcap=30.0,
         tail=5, lse=True, tags=_I),
    Case("sparse", q_lens=(40, 30), k_lens=(5, 4), H=1, G=1, D=16, dtype="f16", layout="sparse",
         tags=_I),
    Case("onehot", q_lens=(100, 60), k_lens=(150, 60), H=2, G=1, D=64, fill="onehot", tags=_I),
    Case("invariant", q_lens=(1, 20, 0, 9), k_lens=(70, 40, 30, 9), H=3, G=1, D=32, causal=True,
         sinks="q", lse=True, tail=2, invariant=True, tags=_I),
    Case("invariant-ragged", q_lens=(3, 0, 18), k_lens=(21, 5, 37), H=2, G=1, D=40, dtype="f16",
         lse=True, invariant=True, tags=_I),
    Case("invariant-everything", q_lens=(33, 0, 80, 1), k_lens=(60, 9, 80, 90),
         used=(60, 0, 41, 77), H=6, G=2, D=72, Dv=40, sinks="q", alibi="batch", causal=True,
         window=(30, -1), softcap=30.0, tail=5, lse=True, invariant=True, tags=_I),
    Case("llama3-8b-docs", q_lens=_DOCS, H=32, G=8, D=128, causal=True,
         cpu=dict(q_lens=(128, 31, 1, 96), H=8, G=2), tags={"bench", "accept", "aot", "energy"}),
    Case("aot-everything", q_lens=(1001, 7), used=(700, 7), H=8, G=2, D=128, sinks="q",
         alibi="batch", causal=True, window=(300, -1), softcap=30.0, lse=True, tail=3,
         cpu=dict(q_lens=(65, 7), used=(40, 7)), tags={"aot"}),
    Case("aot-invariant-256", q_lens=(1001, 7), used=(700, 7), H=8, G=4, D=256, softcap=50.0,
         causal=True, invariant=True, cpu=dict(q_lens=(65, 7), used=(40, 7)), tags={"aot", "full"}),
    Case("aot-invariant-f32", q_lens=(1001, 7), H=8, G=2, D=128, dtype="f32", causal=True,
         invariant=True, cpu=dict(q_lens=(65, 7)), tags={"aot", "full"}),
    Case("aot-f32", q_lens=(1001, 7), H=8, G=2, D=64, dtype="f32", causal=True, lse=True,
         cpu=dict(q_lens=(65, 7)), tags={"aot"}),
)  # fmt: skip


def _ints(*values: int, dtype: torch.dtype = torch.int32) -> Any:
    return lambda a: torch.tensor(values, dtype=dtype)


ERRORS = (
    Invalid("q has four dims", edit(q=lambda a: a["q"][None]), "q must be"),
    Invalid("k of another dtype", edit(k=lambda a: a["k"].half()), "k must have the dtype of q"),
    Invalid("v is shorter", edit(v=lambda a: a["v"][:-1]), "v must have the tokens of k"),
    Invalid("heads do not divide", edit(
        k=lambda a: a["k"].repeat(1, 3, 1), v=lambda a: a["v"].repeat(1, 3, 1)
    ), "multiple of those of k"),
    Invalid("head dims differ", edit(k=lambda a: a["k"][..., :8]), "k must have the head dim"),
    Invalid("cu_seqlens_q is i64", edit(cu_seqlens_q=_ints(0, 5, 16, dtype=torch.int64)),
            "cu_seqlens_q must be int32"),
    Invalid("cu_seqlens_q is empty", edit(cu_seqlens_q=_ints()), "cu_seqlens_q must be int32"),
    Invalid("cu_seqlens_k is shorter", edit(cu_seqlens_k=_ints(0, 16)), "cu_seqlens_k must be as"),
    Invalid("sinks of another count", edit(sinks=lambda a: torch.zeros(5)), "sinks must be"),
    Invalid("slopes of another batch", edit(alibi_slopes=lambda a: torch.zeros(3, 2)),
            "alibi_slopes must be float32"),
    Invalid("seqused_k of another batch", edit(seqused_k=_ints(1)), "seqused_k must be int32"),
    Invalid("softcap is negative", edit(softcap=lambda a: -1.0), "softcap must be 0"),
    Invalid("window below -1", edit(window_left=lambda a: -2), "left side of window must be -1"),
    Invalid("cu_seqlens_q falls", edit(cu_seqlens_q=_ints(0, 12, 9)),
            r"cu_seqlens_q must rise .* got \[0, 12, 9\]", value=True),
    Invalid("cu_seqlens_k from 1", edit(cu_seqlens_k=_ints(1, 5, 16)), "cu_seqlens_k must rise",
            value=True),
    Invalid("cu_seqlens_q beyond q", edit(cu_seqlens_q=_ints(0, 5, 17)),
            "to at most 16", value=True),
    Invalid("seqused_k beyond its keys", edit(seqused_k=_ints(6, 11)),
            r"each sequence's keys, \[5, 11\], got \[6, 11\]", value=True),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    return candidates(Shape.of(p.q, p.k, p.v, mean_queries(p.q, p.cu_seqlens_q)), p.sm or 90)


attention_varlen = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Ratio(), Ratio()),
    errors=ERRORS,
    values=values,
    outputs=("out", "lse"),
    backward=fused_backward("attention_varlen_backward"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_fwd:launch_varlen",
            rejects=depends,
            sources=FORWARD_SOURCES,
            configs=_configs,
        ),
        Provider.triton(
            "triton_invariant",
            "aimills_kernels.kernels.attention.triton_invariant:launch_varlen",
            rejects=invariant_only,
            sources=INVARIANT_SOURCES,
        ),
    ),
    reference_rejects=depends,
)
