"""New keys and values into a paged cache."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Provider, describe, overlaps_itself
from aimills_kernels._tolerance import Exact
from aimills_kernels.kernels.attention.checks import DTYPES, check_cu_values
from aimills_kernels.kernels.attention.op import edit
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
    share_memory,
)

NAME = "kv_append"
MAX_E4M3 = 448.0


def reference(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor,
    cache_seqlens: Tensor, cu_seqlens: Tensor | None, k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:  # fmt: skip
    """Token i of sequence b goes to place p = cache_seqlens[b] + i: page
    page_table[b, p // page_size], at p % page_size.

    k              [B, M, G, D]               f16 | bf16 | f32; with cu_seqlens [T, G, D]
    v              [B, M, G, Dv]              dtype of k; likewise
    k_cache        [pages, page_size, G, D]   dtype of k, or e4m3 for f16 and bf16; written to
    v_cache        [pages, page_size, G, Dv]  dtype of k_cache; written to
    page_table     [B, max_pages]             i32
    cache_seqlens  [B]                        i32: keys in use before
    cu_seqlens     [B + 1]                    i32
    k_scale        [] or [G]                  f32: e4m3 caches hold k / k_scale, rounded to
                                              nearest-even and within +-448; v_scale likewise
    Tokens behind the last sequence go nowhere. No length is read by the host.
    """
    tokens = k.shape[0] * (1 if cu_seqlens is not None else k.shape[1])
    if tokens == 0 or k_cache.shape[0] == 0:
        return
    slots, valid = _slots(k, k_cache, page_table, cache_seqlens, cu_seqlens)
    for x, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        x = x.reshape(tokens, *x.shape[-2:])
        into = cache
        if cache.dtype == E4M3:
            wide = x.float()
            if scale is not None:
                wide = wide / scale.view(-1, 1)
            x, into = (
                wide.clamp(-MAX_E4M3, MAX_E4M3).to(E4M3).view(torch.uint8),
                cache.view(torch.uint8),
            )
        _put(into, slots, valid, x)


def _slots(
    k: Tensor, cache: Tensor, page_table: Tensor, cache_seqlens: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """For each token its place among all of the cache's, and whether it has one."""
    (pages, size), (B, listed) = cache.shape[:2], page_table.shape
    n = cache_seqlens.to(torch.int64)
    if cu_seqlens is None:
        b = torch.arange(B, device=k.device).repeat_interleave(k.shape[1])
        at = n[b] + torch.arange(k.shape[1], device=k.device).repeat(B)
    else:
        cu = cu_seqlens.to(torch.int64)
        token = torch.arange(k.shape[0], device=k.device)
        b = torch.searchsorted(cu[1:].contiguous(), token, right=True)
        at = token - cu[b] + torch.cat([n, n.new_zeros(1)])[b]
    valid = (b < B) & (at >= 0) & (at < listed * size)
    if B == 0 or listed == 0:
        return torch.zeros_like(at), torch.zeros_like(valid)
    page = page_table[b.clamp_max(B - 1), (at // size).clamp(0, listed - 1)].to(torch.int64)
    valid = valid & (page >= 0) & (page < pages)
    return page * size + at % size, valid


def _put(cache: Tensor, slots: Tensor, valid: Tensor, x: Tensor) -> None:
    """cache[slots] = x where `valid`. The others repeat the first that is, or, where none is, what
    stands in slot 0: so that shapes don't depend on data."""
    size = cache.shape[1]
    first, some = valid.to(torch.int8).argmax(), valid.any()
    instead = torch.where(some, slots[first], 0)
    at = torch.where(valid, slots, instead)
    other = torch.where(some, x[first], cache[0, 0])
    cache[at // size, at % size] = torch.where(valid[:, None, None], x, other)


def fake(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor,
    cache_seqlens: Tensor, cu_seqlens: Tensor | None, k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:  # fmt: skip
    packed = cu_seqlens is not None
    layout = "[tokens, heads, dim] with cu_seqlens" if packed else "[batch, seq, heads, dim]"
    for name, t in (("k", k), ("v", v)):
        if t.dim() != (3 if packed else 4):
            raise ValueError(f"{NAME}: {name} must be {layout}, got {describe(t)}")
        if t.dtype not in DTYPES.values():
            raise ValueError(f"{NAME}: {name} must be f16, bf16 or f32, got {describe(t)}")
    check_cache(NAME, k_cache, v_cache, k.dtype, "k")
    if v.dtype != k.dtype or v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"{NAME}: v must have the dtype, tokens and heads of k, got {describe(v)}")
    for name, t, cache in (("k", k, k_cache), ("v", v, v_cache)):
        if t.shape[-2:] != cache.shape[-2:]:
            raise ValueError(
                f"{NAME}: {name} must have the heads and dim of {name}_cache, "
                f"{list(cache.shape[-2:])}, got {describe(t)}"
            )
        if overlaps_itself(cache):
            raise ValueError(
                f"{NAME}: {name}_cache is written to and must not overlap itself, got strides "
                f"{tuple(cache.stride())} for {tuple(cache.shape)}"
            )
    B = page_table.shape[0] if page_table.dim() else 0
    check_table(NAME, k_cache, page_table, cache_seqlens)
    if cu_seqlens is not None:
        check_cu(NAME, "cu_seqlens", cu_seqlens, B)
    elif k.shape[0] != B:
        raise ValueError(
            f"{NAME}: page_table must have the batch of k, {k.shape[0]}, got {describe(page_table)}"
        )
    for name, t in (("k_scale", k_scale), ("v_scale", v_scale)):
        check_scale(NAME, name, t, k_cache)


def values(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor,
    cache_seqlens: Tensor, cu_seqlens: Tensor | None, k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> None:  # fmt: skip
    if share_memory(k_cache, v_cache):
        raise ValueError(
            f"{NAME}: v_cache must not be k_cache nor share an element with it, both are written "
            f"to; got k_cache {describe(k_cache)} and v_cache {describe(v_cache)} that do"
        )
    new: int | Tensor = k.shape[1]
    if cu_seqlens is not None:
        check_cu_values(NAME, "cu_seqlens", cu_seqlens, k.shape[0], "the tokens there are")
        new = cu_seqlens.diff()
    first = cache_seqlens.to(torch.int64)
    if first.numel() and int(first.min()) < 0:
        raise ValueError(f"{NAME}: cache_seqlens must not be negative, got {int(first.min())}")
    what = "cache_seqlens with the new tokens"
    check_lengths(NAME, what, first + new, first, page_table, k_cache)
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        check_scale_values(NAME, name, scale, k_cache)
    if k.numel() and k_cache.shape[0]:
        slots, valid = _slots(k, k_cache, page_table, cache_seqlens, cu_seqlens)
        taken, count = slots[valid].unique(return_counts=True)
        if bool((count > 1).any()):
            slot = int(taken[count > 1][0])
            raise ValueError(
                f"{NAME}: page_table must give each new token a place of its own, and page "
                f"{slot // k_cache.shape[1]} gets several at {slot % k_cache.shape[1]}"
            )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`n`: keys of each sequence before; `new` tokens for each of them, or `q_lens`. Both caches
    hold values already. `fill`: normal; specials has what e4m3 saturates, NaN and ties."""
    dtype, place = DTYPES[case.one_of("dtype", *DTYPES)], generator.device
    fp8, scales = case.one_of("cache", None, "e4m3"), case.one_of("scales", None, "tensor", "head")
    fill = case.one_of("fill", "normal", "specials")
    before, q_lens, P, G, tail = case.n, case.get("q_lens"), case.page, case.G, case.get("tail", 0)
    lens = tuple(map(sum, zip(before, q_lens or [case.get("new", 0)] * len(before), strict=True)))
    capacity = -(-max([*lens, 0]) // P) * P
    first = [n // P * P for n in before]  # pages of older keys are not written to
    pages = PageMap(P, capacity // P, first, lens, case.get("spare", 2), generator)
    shape = (sum(q_lens) + tail, G) if q_lens is not None else (len(before), case.new, G)
    given: dict[str, Any] = {}
    for name, D in (("k", case.D), ("v", case.get("Dv", case.D))):
        x = torch.randn((*shape, D), generator=generator, device=place)
        if fill == "specials":
            x = x * 2.0 ** torch.randint(-12, 12, x.shape, generator=generator, device=place)
            x.view(-1)[0::7] = (x.view(-1)[0::7] * 16).round() / 16
            x.view(-1)[3::29], x.view(-1)[5::31] = float("nan"), float("-inf")
        each = None
        if scales is not None:
            each = torch.arange(1, G + 1, device=place).float() * 0.75
            each = each if scales == "head" else each[-1:].sum()
        old = torch.randn((pages.pages, P, G, D), generator=generator, device=place)
        given |= {name: x.to(dtype), f"{name}_cache": old.to(E4M3 if fp8 else dtype),
                  f"{name}_scale": each}  # fmt: skip
    if case.get("strided"):
        given["k"] = given["k"].repeat_interleave(2, -1)[..., ::2]
    k_cache, v_cache = lay_out(case, given["k_cache"], given["v_cache"])
    cu = None
    if q_lens is not None:
        cu = torch.tensor([0, *itertools.accumulate(q_lens)], dtype=torch.int32, device=place)
    return {
        **given, "k_cache": k_cache, "v_cache": v_cache, "page_table": pages.table,
        "cache_seqlens": torch.tensor(before, dtype=torch.int32, device=place), "cu_seqlens": cu,
    }  # fmt: skip


def cost(case: Case) -> Cost:
    """Each element is read once and written once."""
    dtype = DTYPES[case.one_of("dtype", *DTYPES)]
    q_lens = case.get("q_lens")
    tokens = sum(q_lens) if q_lens is not None else len(case.n) * case.new
    elements = tokens * case.G * (case.D + case.get("Dv", case.D))
    fp8 = case.get("cache") is not None
    return Cost(
        2 * elements if fp8 else 0,
        elements * (dtype.itemsize + (1 if fp8 else dtype.itemsize)) + 8 * len(case.n),
        "f32",
    )


_I = {"interpret"}

CASES = (
    Case("tiny", n=(3, 0), new=2, page=4, G=2, D=16, dtype="f32", tags=_I),
    Case("tiny-e4m3", n=(3, 9), new=3, page=4, G=2, D=16, cache="e4m3", scales="head", tags=_I),
    Case("ragged", n=(7, 0, 30, 5), q_lens=(1, 5, 0, 7), page=3, G=3, D=40, Dv=24, tail=4,
         dtype="f16", tags=_I),
    Case("page-1", n=(5, 2), new=7, page=1, G=1, D=8, tags=_I),
    Case("page-64", n=(100, 63), new=10, page=64, G=2, D=64, tags=_I),
    Case("decode", n=(100, 1, 0, 255), new=1, page=16, G=8, D=128, tags=_I),
    Case("fp8-tensor", n=(20, 4), new=5, page=16, G=2, D=64, dtype="f16", cache="e4m3",
         scales="tensor", tags=_I),
    Case("fp8-plain", n=(20, 4), q_lens=(3, 9), page=16, G=2, D=64, cache="e4m3", tags=_I),
    Case("specials", n=(20, 4), new=6, page=8, G=2, D=64, cache="e4m3", scales="head",
         fill="specials", tags=_I),
    Case("specials-f16", n=(2, 4), new=6, page=8, G=1, D=64, dtype="f16", cache="e4m3",
         fill="specials", tags=_I),
    Case("packed-cache", n=(20, 4), new=6, page=8, G=2, D=32, layout="packed", tags=_I),
    Case("heads-first", n=(20, 4), new=6, page=8, G=2, D=32, layout="heads_first", strided=True,
         cache="e4m3", scales="head", tags=_I),
    Case("sparse", n=(5, 2), new=3, page=4, G=1, D=16, dtype="f16", layout="sparse", tags=_I),
    Case("batch-empty", n=(), new=1, page=4, G=2, D=16, tags=_I),
    Case("nothing", n=(3, 4), new=0, page=4, G=2, D=16, tags=_I),
    Case("only-tail", n=(3,), q_lens=(0,), page=4, G=2, D=16, tail=5, spare=1, tags=_I),
    Case("llama3-8b-decode", n=(8191,) * 32, new=1, page=64, G=8, D=128,
         cpu=dict(n=(191, 100)), tags={"bench", "accept", "aot"}),
    Case("llama3-8b-prefill", n=(0,), q_lens=(8192,), page=64, G=8, D=128, cache="e4m3",
         scales="head", cpu=dict(q_lens=(200,)), tags={"bench", "accept", "aot"}),
    Case("aot-odd", n=(10, 3), q_lens=(70, 1), page=5, G=3, D=72, Dv=40, dtype="f16", cache="e4m3",
         scales="tensor", layout="heads_first", tags={"aot"}),
)  # fmt: skip


def _ints(*values: int) -> Any:
    return lambda a: torch.tensor(values, dtype=torch.int32)


def _same_page(a: dict[str, Any]) -> Tensor:
    """Both sequences write to the page of the first."""
    table = a["page_table"].clone()
    table[1, 0] = table[0, 0]
    return table


def _a_page_apart(a: dict[str, Any]) -> dict[str, Any]:
    """Both caches in one buffer, the values one page behind the keys."""
    pages, *page = a["k_cache"].shape
    both = a["k_cache"].new_zeros(pages + 1, *page)
    return {**a, "k_cache": both[:pages], "v_cache": both[1:]}


def _half_a_key_apart(a: dict[str, Any]) -> dict[str, Any]:
    """Both caches in one buffer, the values half a key behind the keys."""
    *rows, D = a["k_cache"].shape
    both = a["k_cache"].new_zeros(*rows, 2 * D)
    return {**a, "k_cache": both[..., :D], "v_cache": both[..., D // 2 : D // 2 + D]}


ERRORS = (
    Invalid("k has three dims", edit(k=lambda a: a["k"][0]), "k must be \\[batch"),
    Invalid("k is float64", edit(k=lambda a: a["k"].double()), "k must be f16, bf16 or f32"),
    Invalid("cache of another dtype", edit(k_cache=lambda a: a["k_cache"].half()),
            "k_cache must have the dtype of k"),
    Invalid("f32 into e4m3", edit(k=lambda a: a["k"].float(), v=lambda a: a["v"].float()),
            "k_cache of e4m3 needs f16 or bf16 in k", base="tiny-e4m3"),
    Invalid("v has fewer tokens", edit(v=lambda a: a["v"][:, 1:]), "v must have the dtype, tokens"),
    Invalid("heads differ", edit(k=lambda a: a["k"][..., :1, :], v=lambda a: a["v"][..., :1, :]),
            "k must have the heads and dim of k_cache"),
    Invalid("dims differ", edit(v=lambda a: a["v"][..., :8]), "v must have the heads and dim of v"),
    Invalid("a cache of one page, expanded", edit(
        k_cache=lambda a: a["k_cache"][:1].expand(a["k_cache"].shape)),
            "k_cache is written to and must not overlap itself"),
    Invalid("table of another batch", edit(page_table=lambda a: a["page_table"][:1],
                                           cache_seqlens=_ints(3)), "must have the batch of k"),
    Invalid("lengths are i64", edit(cache_seqlens=lambda a: a["cache_seqlens"].long()),
            "cache_seqlens must be int32"),
    Invalid("cu of another batch", edit(cu_seqlens=_ints(0, 1)), "cu_seqlens must be int32",
            base="ragged"),
    Invalid("a scale without fp8", edit(k_scale=lambda a: torch.ones(())), "k_scale goes with"),
    Invalid("one cache for keys and values", edit(v_cache=lambda a: a["k_cache"]),
            "v_cache must not be k_cache", value=True),
    Invalid("caches one page apart", _a_page_apart, "nor share an element with it", value=True),
    Invalid("caches half a key apart", _half_a_key_apart, "nor share an element", value=True),
    Invalid("no room", edit(cache_seqlens=_ints(7, 0)),
            r"cache_seqlens with the new tokens must be 0 to 8, .* got \[9, 2\]", value=True),
    Invalid("a negative length", edit(cache_seqlens=_ints(-1, 0)), "must not be negative, got -1",
            value=True),
    Invalid("a page out of range", edit(page_table=lambda a: a["page_table"] + 5),
            "page_table must name pages from 0 to 4", value=True),
    Invalid("two tokens in one place", edit(page_table=_same_page, cache_seqlens=_ints(0, 0)),
            "gets several at 0", value=True),
    Invalid("cu falls", edit(cu_seqlens=_ints(0, 9, 8, 20, 21)), "cu_seqlens must rise",
            base="ragged", value=True),
    Invalid("a scale of 0", edit(k_scale=lambda a: torch.zeros(())), "k_scale must be positive",
            base="tiny-e4m3", value=True),
)  # fmt: skip

kv_append = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Exact(), Exact()),
    errors=ERRORS,
    values=values,
    outputs=("k_cache", "v_cache"),
    mutates=("k_cache", "v_cache"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_append:launch",
        ),
    ),
)
