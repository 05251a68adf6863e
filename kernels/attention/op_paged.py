"""Attention over a paged KV cache: decode and chunked prefill in one op."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Op, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.attention import mask
from aimills_kernels.kernels.attention.cases_paged import CASES, ERRORS
from aimills_kernels.kernels.attention.checks import (
    DTYPES,
    check_cu_values,
    check_dtype,
    check_extras,
    check_heads,
    check_scalars,
)
from aimills_kernels.kernels.attention.config import INVARIANT_SOURCES, PAGED_SOURCES
from aimills_kernels.kernels.attention.config_paged import (
    invariant_plan,
    plan,
    workspace_of,
)
from aimills_kernels.kernels.attention.op import depends, extras_of, fill_in, invariant_only
from aimills_kernels.kernels.attention.op import reference as attend_batch
from aimills_kernels.kernels.attention.op_varlen import reference as attend_packed
from aimills_kernels.kernels.attention.pages import (
    E4M3,
    PageMap,
    check_cache,
    check_cu,
    check_lengths,
    check_scale,
    check_scale_values,
    check_table,
    lay_out,
)

NAME = "attention_paged"


def reference(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor,
    cu_seqlens_q: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, causal: bool, scale: float,
    window_left: int, window_right: int, softcap: float, return_lse: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`attention` on the keys that stand in pages, gathered, with those in use as `seqused_k`; with
    `cu_seqlens_q` `attention_varlen`.

    q              [B, M, H, D]                f16 | bf16 | f32; with cu_seqlens_q [T, H, D]
    k_cache        [pages, page_size, G, D]    dtype of q, or e4m3 for f16 and bf16
    v_cache        [pages, page_size, G, Dv]   dtype of k_cache
    page_table     [B, max_pages]              i32: key j of sequence b is in page
                                               page_table[b, j // page_size], at j % page_size
    cache_seqlens  [B]                         i32: keys in use, those of the queries counted
    cu_seqlens_q   [B + 1]                     i32
    k_scale        [] or [G]                   f32: a key is its code times this; v_scale likewise
    sinks, alibi_slopes and scalars as in `attention`
    ->   out [B, M, H, Dv] or [T, H, Dv], lse [B, H, M] or [H, T], as there

    Keys beyond those in use are not read, nor are those that stand before the window of their
    sequence's first query: their pages may be gone.
    """
    B, capacity = page_table.shape[0], page_table.shape[1] * k_cache.shape[1]
    first = first_keys(q, cache_seqlens, cu_seqlens_q, window_left, capacity)
    k = _gathered(k_cache, page_table, first, cache_seqlens, k_scale, q.dtype)
    v = _gathered(v_cache, page_table, first, cache_seqlens, v_scale, q.dtype)
    scalars = (causal, scale, window_left, window_right, softcap, return_lse, False, False)
    if cu_seqlens_q is None:
        return attend_batch(q, k, v, sinks, alibi_slopes, cache_seqlens, *scalars)
    ends = torch.arange(B + 1, device=q.device, dtype=torch.int32) * capacity
    return attend_packed(
        q, k.flatten(0, 1), v.flatten(0, 1), cu_seqlens_q, ends, sinks, alibi_slopes, cache_seqlens,
        *scalars,
    )  # fmt: skip


def first_keys(
    q: Tensor, cache_seqlens: Tensor, cu_seqlens_q: Tensor | None, window_left: int, capacity: int
) -> Tensor:
    """The first key of each sequence that a query sees, by the window: [B], int64."""
    n = cache_seqlens.to(torch.int64)
    if not 0 <= window_left < capacity:
        return torch.zeros_like(n)
    queries = q.shape[1] if cu_seqlens_q is None else cu_seqlens_q.to(torch.int64).diff()
    return (n - queries - window_left).clamp_min(0)


def _gathered(
    cache: Tensor, page_table: Tensor, first: Tensor, n: Tensor, scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """[B, capacity, G, D] in float32 at least; 0 where no key is to be read."""
    wide = torch.promote_types(dtype, torch.float32)
    pages, size, G, D = cache.shape
    (B, listed), place = page_table.shape, cache.device
    if pages == 0:
        return torch.zeros((B, listed * size, G, D), dtype=wide, device=place)
    at = page_table.to(torch.int64).clamp(0, pages - 1)
    codes = cache.view(torch.uint8) if cache.dtype == E4M3 else cache  # fp8 can't be indexed
    found = codes[at].view(cache.dtype).to(wide).flatten(1, 2)
    if scale is not None:
        found = found * scale.to(wide).view(-1, 1)
    j = torch.arange(listed * size, device=place)
    read = (j >= first.view(-1, 1)) & (j < n.view(-1, 1))
    return found.masked_fill(~read[:, :, None, None], 0.0)


def fake(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor,
    cu_seqlens_q: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, causal: bool, scale: float,
    window_left: int, window_right: int, softcap: float, return_lse: bool, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    packed = cu_seqlens_q is not None
    dims = 3 if packed else 4
    if q.dim() != dims:
        layout = "[tokens, heads, dim] with cu_seqlens_q" if packed else "[batch, seq, heads, dim]"
        raise ValueError(f"{NAME}: q must be {layout}, got {describe(q)}")
    check_dtype(NAME, "q", q)
    check_cache(NAME, k_cache, v_cache, q.dtype, "q")
    check_heads(NAME, q, k_cache, v_cache, "k_cache", "v_cache")
    B = page_table.shape[0] if page_table.dim() else 0
    check_table(NAME, k_cache, page_table, cache_seqlens)
    if cu_seqlens_q is not None:
        check_cu(NAME, "cu_seqlens_q", cu_seqlens_q, B)
    elif q.shape[0] != B:
        raise ValueError(
            f"{NAME}: page_table must have the batch of q, {q.shape[0]}, got {describe(page_table)}"
        )
    for name, t in (("k_scale", k_scale), ("v_scale", v_scale)):
        check_scale(NAME, name, t, k_cache)
    check_extras(NAME, q, B, sinks, alibi_slopes, None)
    check_scalars(NAME, scale, window_left, window_right, softcap)
    H = q.shape[-2]
    shape = (H, q.shape[0]) if packed else (B, H, q.shape[1])
    lse = q.new_empty(shape if return_lse else (0,), dtype=torch.float32)
    return q.new_empty((*q.shape[:-1], v_cache.shape[-1])), lse


def values(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor,
    cu_seqlens_q: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None,
    sinks: Tensor | None, alibi_slopes: Tensor | None, causal: bool, scale: float,
    window_left: int, *scalars: Any,
) -> None:  # fmt: skip
    if cu_seqlens_q is not None:
        check_cu_values(NAME, "cu_seqlens_q", cu_seqlens_q, q.shape[0], "the tokens there are")
    capacity = page_table.shape[1] * k_cache.shape[1]
    first = first_keys(q, cache_seqlens, cu_seqlens_q, window_left, capacity)
    check_lengths(NAME, "cache_seqlens", cache_seqlens, first, page_table, k_cache)
    for name, t in (("k_scale", k_scale), ("v_scale", v_scale)):
        check_scale_values(NAME, name, t, k_cache)


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`n`: keys of each sequence; `q_lens`: packed queries, else `M` of each. Pages are drawn from
    a pool with some to spare; what must not be read is NaN, and its pages' numbers are absurd.
    `cache`: None or e4m3; `scales`: None, tensor or head. `layout`: of the caches."""
    dtype, place = DTYPES[case.one_of("dtype", *DTYPES)], generator.device
    fp8, scales = case.one_of("cache", None, "e4m3"), case.one_of("scales", None, "tensor", "head")
    lens, q_lens, P = case.n, case.get("q_lens"), case.page
    B, capacity, G = (
        len(lens),
        -(-max([*lens, case.get("capacity", 0)], default=0) // P) * P,
        case.G,
    )

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    T = case.get("tail", 0) + sum(q_lens) if q_lens is not None else case.M
    if q_lens is None:
        q, k, v = fill_in(case, normal, generator, B, T, capacity)
    else:
        q = fill_in(case, normal, generator, 1, T, 0)[0][0]
        _, k, v = fill_in(case, normal, generator, B, 0, capacity)
    left = case.get("window", (-1, -1))[0]
    queries = q_lens if q_lens is not None else [T] * B
    first = [max(0, n - m - left) if 0 <= left < capacity else 0
             for n, m in zip(lens, queries, strict=True)]  # fmt: skip
    pages = PageMap(P, capacity // P, first, lens, case.get("spare", 2), generator)
    given: dict[str, Any] = {"q": _strided(q.to(dtype)) if case.get("q_strided") else q.to(dtype)}
    for name, keys in (("k", k), ("v", v)):
        each = None
        if scales is not None:
            each = 2.0 ** torch.arange(G, device=place).remainder(3).sub(1).float() * 0.75
            each = each if scales == "head" else each[:1].sum()  # of no dims, 0 for no head
        given[f"{name}_scale"] = each
        if each is not None:
            keys = (keys / each.view(-1, 1)).clamp(-448, 448)
        given[f"{name}_cache"] = pages.filled(keys).to(E4M3 if fp8 else dtype)
    k_cache, v_cache = lay_out(case, given["k_cache"], given["v_cache"])
    cu = None
    if q_lens is not None:
        cu = torch.tensor([0, *itertools.accumulate(q_lens)], dtype=torch.int32, device=place)
    extras = extras_of(case, B, normal, dtype)
    extras.pop("seqused_k")
    return {
        **given, "k_cache": k_cache, "v_cache": v_cache, "page_table": pages.table,
        "cache_seqlens": torch.tensor(lens, dtype=torch.int32, device=place), "cu_seqlens_q": cu,
        **extras,
    }  # fmt: skip


def _strided(t: Tensor) -> Tensor:
    """Every second element of a tensor with heads first, at an odd offset."""
    wide = t.transpose(-3, -2).repeat_interleave(2, -1)
    memory = wide.new_empty(wide.numel() + 1)[1:].view(wide.shape).copy_(wide)
    return memory[..., ::2].transpose(-3, -2)


def cost(case: Case) -> Cost:
    """Each key and value that is seen is read once, whatever the queries and heads that see it."""
    H, G, D, Dv, lens = case.H, case.G, case.D, case.get("Dv", case.D), case.n
    dtype = DTYPES[case.one_of("dtype", *DTYPES)]
    q_lens = case.get("q_lens")
    queries = [case.M] * len(lens) if q_lens is None else q_lens
    longest = max([1, *lens])
    left, right = mask.limits(case.get("causal", False), *case.get("window", (-1, -1)), longest)
    pairs = sum(mask.pairs(m, n, left, right) for m, n in zip(queries, lens, strict=True))
    read = sum(
        n - (max(0, n - m - left) if left is not None else 0)
        for m, n in zip(queries, lens, strict=True)
        if m
    )
    tokens = sum(queries) + (case.get("tail", 0) if q_lens is not None else 0)
    size = 1 if case.get("cache") else dtype.itemsize
    lse = 4 * H * tokens if case.get("lse", False) else 0
    return Cost(
        2 * H * pairs * (D + Dv),
        tokens * H * (D + Dv) * dtype.itemsize + read * G * (D + Dv) * size + lse
        + 4 * -(-read // case.page),
        "f32" if dtype == torch.float32 else "f16",
    )  # fmt: skip


attention_paged = Op(
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
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_paged:launch",
            rejects=depends,
            sources=PAGED_SOURCES,
            workspace=workspace_of(plan, False),
        ),
        Provider.triton(
            "triton_invariant",
            "aimills_kernels.kernels.attention.triton_invariant:launch",
            rejects=invariant_only,
            sources=INVARIANT_SOURCES,
            workspace=workspace_of(invariant_plan, True),
        ),
    ),
    reference_rejects=depends,
)
