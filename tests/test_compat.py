"""FlashAttention's names, arguments and meaning, against its documentation and a formula of our
own."""

import inspect
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels.compat import flash_attn as fa2
from aimills_kernels.compat import flash_attn_interface as fa3

# As the two packages document them.
_FA2_TAIL = (
    "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
    "alibi_slopes=None, deterministic=False, return_attn_probs=False"
)
_FA3_TAIL = (
    "softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, "
    "window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, "
    "deterministic=False, sm_margin=0, return_attn_probs=False"
)
DOCUMENTED = {
    (fa2, "flash_attn_func"): f"q, k, v, {_FA2_TAIL}",
    (fa2, "flash_attn_kvpacked_func"): f"q, kv, {_FA2_TAIL}",
    (fa2, "flash_attn_qkvpacked_func"): f"qkv, {_FA2_TAIL}",
    (fa2, "flash_attn_varlen_func"): (
        f"q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, {_FA2_TAIL}, "
        "block_table=None"
    ),
    (fa2, "flash_attn_varlen_kvpacked_func"): (
        f"q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, {_FA2_TAIL}"
    ),
    (fa2, "flash_attn_varlen_qkvpacked_func"): f"qkv, cu_seqlens, max_seqlen, {_FA2_TAIL}",
    (fa2, "flash_attn_with_kvcache"): (
        "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, "
        "cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None, "
        "softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
        "rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False"
    ),
    (fa3, "flash_attn_func"): f"q, k, v, {_FA3_TAIL}",
    (fa3, "flash_attn_varlen_func"): (
        "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, "
        f"seqused_k=None, {_FA3_TAIL}"
    ),
    (fa3, "flash_attn_with_kvcache"): (
        "q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None, "
        "cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None, "
        "cu_seqlens_q=None, cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None, "
        "q_descale=None, k_descale=None, v_descale=None, softmax_scale=None, causal=False, "
        "window_size=(-1, -1), attention_chunk=0, softcap=0.0, rotary_interleaved=True, "
        "scheduler_metadata=None, num_splits=0, pack_gqa=None, sm_margin=0, "
        "return_softmax_lse=False"
    ),
}


def each(keys: Any) -> list[Any]:
    return [pytest.param(*k, id=f"{k[0].__name__.rpartition('.')[2]}-{k[1]}") for k in keys]


@pytest.mark.parametrize(("module", "name"), each(DOCUMENTED))
def test_signature(module: ModuleType, name: str) -> None:
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    empty = inspect.Parameter.empty
    written = [p.name if p.default is empty else f"{p.name}={p.default!r}" for p in parameters]
    assert ", ".join(written) == DOCUMENTED[module, name]


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, causal: bool = False,
    window: tuple[int, int] = (-1, -1), softcap: float = 0.0, slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One query at a time in float64: out [M, H, Dv] and lse [H, M] of one sequence."""
    (M, H, D), (N, G) = q.shape, k.shape[:2]
    out, lse = torch.zeros(M, H, v.shape[-1]).double(), torch.full((H, M), -torch.inf).double()
    for i in range(M):
        p = i + N - M
        low = 0 if window[0] < 0 else max(p - window[0], 0)
        right = 0 if causal else window[1]
        high = N if right < 0 else min(p + right + 1, N)
        for h in range(H):
            if high <= low:
                continue
            g = h // (H // G)
            score = k[low:high, g].double() @ q[i, h].double() * (scale or D**-0.5)
            if softcap:
                score = softcap * (score / softcap).tanh()
            if slopes is not None:
                score = score - slopes[h] * (p - torch.arange(low, high)).abs()
            out[i, h] = score.softmax(0) @ v[low:high, g].double()
            lse[h, i] = score.logsumexp(0)
    return out, lse


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype = torch.float32) -> None:
    bound = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, atol=bound, rtol=bound)


OPTIONS = {
    "plain": {},
    "causal": dict(causal=True),
    "scale": dict(softmax_scale=0.3, causal=True),
    "window": dict(window_size=(3, 1)),
    "softcap": dict(softcap=2.0, causal=True),
}


def formula(options: dict[str, Any]) -> dict[str, Any]:
    names = {"softmax_scale": "scale", "window_size": "window", "alibi_slopes": "slopes"}
    return {names.get(k, k): v for k, v in options.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
def test_func(module: ModuleType, options: dict[str, Any]) -> None:
    q, k, v = drawn(2, 5, 4, 16), drawn(2, 9, 2, 16), drawn(2, 9, 2, 16)
    out, lse = module.flash_attn_func(q, k, v, **options, return_attn_probs=True)[:2]
    torch.testing.assert_close(module.flash_attn_func(q, k, v, **options), out)
    for b in range(2):
        wanted = softmax_attention(q[b], k[b], v[b], **formula(options))
        close(out[b], wanted[0])
        close(lse[b], wanted[1])


def test_func_has_slopes() -> None:
    q, k, v, slopes = drawn(2, 5, 4, 16), drawn(2, 9, 2, 16), drawn(2, 9, 2, 16), drawn(2, 4).abs()
    out = fa2.flash_attn_func(q, k, v, causal=True, alibi_slopes=slopes)
    for b in range(2):
        close(out[b], softmax_attention(q[b], k[b], v[b], causal=True, slopes=slopes[b])[0])


def test_probabilities_are_none_without_dropout() -> None:
    q = drawn(1, 4, 2, 8)
    assert fa2.flash_attn_func(q, q, q, return_attn_probs=True)[2] is None


def test_packed_tensors_are_the_same_call() -> None:
    qkv = drawn(2, 6, 3, 4, 8)
    wanted = fa2.flash_attn_func(*qkv.unbind(2), causal=True)
    assert torch.equal(fa2.flash_attn_qkvpacked_func(qkv, causal=True), wanted)
    found = fa2.flash_attn_kvpacked_func(qkv[:, :, 0], qkv[:, :, 1:], causal=True)
    assert torch.equal(found, wanted)
    assert torch.equal(fa3.flash_attn_qkvpacked_func(qkv, causal=True), wanted)
    heads = qkv.flatten(2, 3)
    assert torch.equal(fa3.flash_attn_qkvpacked_func(heads, causal=True, num_heads_q=4), wanted)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
def test_varlen(module: ModuleType, options: dict[str, Any]) -> None:
    q, k, v = drawn(9, 4, 16), drawn(12, 2, 16), drawn(12, 2, 16)
    cu_q, cu_k = torch.tensor([0, 5, 5, 9]).int(), torch.tensor([0, 4, 6, 12]).int()
    out, lse = module.flash_attn_varlen_func(
        q, k, v, cu_q, cu_k, 5, 6, **options, return_attn_probs=True
    )[:2]
    for (a, b), (c, d) in zip(
        cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True
    ):
        wanted = softmax_attention(q[a:b], k[c:d], v[c:d], **formula(options))
        close(out[a:b], wanted[0])
        close(lse[:, a:b], wanted[1])


def test_varlen_packed_tensors_are_the_same_call() -> None:
    qkv, cu = drawn(9, 3, 4, 8), torch.tensor([0, 5, 9]).int()
    wanted = fa2.flash_attn_varlen_func(*qkv.unbind(1), cu, cu, 5, 5, causal=True)
    assert torch.equal(fa2.flash_attn_varlen_qkvpacked_func(qkv, cu, 5, causal=True), wanted)
    found = fa2.flash_attn_varlen_kvpacked_func(qkv[:, 0], qkv[:, 1:], cu, cu, 5, 5, causal=True)
    assert torch.equal(found, wanted)


def test_varlen_of_parts_in_use() -> None:
    q, k, v, cu = drawn(4, 2, 8), drawn(9, 2, 8), drawn(9, 2, 8), torch.tensor([0, 2, 4]).int()
    used = torch.tensor([3, 2]).int()
    out = fa3.flash_attn_varlen_func(
        q, k, v, cu, torch.tensor([0, 5, 9]).int(), 2, 5, seqused_k=used, causal=True
    )
    close(out[:2], softmax_attention(q[:2], k[:3], v[:3], causal=True)[0])
    close(out[2:], softmax_attention(q[2:], k[5:7], v[5:7], causal=True)[0])


@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
@pytest.mark.parametrize("lengths", [[3, 6], 4], ids=["each", "one"])
def test_cache_is_appended_in_place(module: ModuleType, lengths: Any) -> None:
    q, k, v = drawn(2, 2, 4, 8), drawn(2, 2, 2, 8), drawn(2, 2, 2, 8)
    k_cache, v_cache = drawn(2, 9, 2, 8), drawn(2, 9, 2, 8)
    before = k_cache.clone(), v_cache.clone()
    given = torch.tensor(lengths).int() if isinstance(lengths, list) else lengths
    out, lse = module.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=given, causal=True, return_softmax_lse=True
    )
    for b in range(2):
        n = lengths[b] if isinstance(lengths, list) else lengths
        for cache, old, new in zip((k_cache, v_cache), before, (k, v), strict=True):
            wanted = old[b].clone()
            wanted[n : n + 2] = new[b]
            assert torch.equal(cache[b], wanted)
        wanted_out, wanted_lse = softmax_attention(
            q[b], k_cache[b, : n + 2], v_cache[b, : n + 2], causal=True
        )
        close(out[b], wanted_out)
        close(lse[b], wanted_lse)
    assert isinstance(given, int) or given.tolist() == lengths


@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_paged_cache_is_the_same_cache(module: ModuleType, size: int) -> None:
    """Under FlashAttention-2 the table is `block_table`, under 3 `page_table`."""
    q, k, v = drawn(2, 2, 4, 8), drawn(2, 2, 2, 8), drawn(2, 2, 2, 8)
    dense = drawn(2, 18, 2, 8), drawn(2, 18, 2, 8)
    pages = -(-18 // size)
    table = torch.randperm(2 * pages).view(2, pages).int()
    paged = tuple(torch.full((2 * pages, size, 2, 8), torch.nan) for _ in dense)
    j = torch.arange(18)
    for into, cache in zip(paged, dense, strict=True):
        into[table[:, j // size].long(), j % size] = cache
    lengths = torch.tensor([3, 16]).int()
    options = dict(cache_seqlens=lengths, causal=True, window_size=(7, 0))
    want = module.flash_attn_with_kvcache(q, *dense, k, v, **options)
    name = "block_table" if module is fa2 else "page_table"
    close(
        module.flash_attn_with_kvcache(q, *paged, k, v, **options, **{name: table}), want.double()
    )
    for into, cache in zip(paged, dense, strict=True):
        assert torch.equal(into[table[:, j // size].long(), j % size], cache)


def test_packed_queries_and_new_keys_of_a_paged_cache() -> None:
    q, k, v, cache = drawn(5, 4, 8), drawn(5, 2, 8), drawn(5, 2, 8), drawn(8, 4, 2, 8)
    table, cu = torch.randperm(8).view(2, 4).int(), torch.tensor([0, 2, 5]).int()
    k_cache, v_cache = cache.clone(), cache.clone()
    out = fa3.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=torch.tensor([6, 9]).int(), page_table=table,
        cu_seqlens_q=cu, cu_seqlens_k_new=cu, causal=True,
    )  # fmt: skip
    for b, (begin, end, held) in enumerate(((0, 2, 6), (2, 5, 9))):
        keys, values = (
            torch.cat([cache[table[b].long()].flatten(0, 1)[:held], new[begin:end]])
            for new in (k, v)
        )
        close(out[begin:end], softmax_attention(q[begin:end], keys, values, causal=True)[0])


def test_varlen_over_pages() -> None:
    q, cache, table = drawn(5, 4, 8), drawn(8, 4, 2, 8), torch.randperm(8).view(2, 4).int()
    cu_q, cu_k = torch.tensor([0, 2, 5]).int(), torch.tensor([0, 7, 23]).int()
    out = fa2.flash_attn_varlen_func(
        q, cache, cache, cu_q, cu_k, 3, 16, causal=True, block_table=table
    )
    for b, (begin, end, n) in enumerate(((0, 2, 7), (2, 5, 16))):
        keys = cache[table[b].long()].flatten(0, 1)[:n]
        close(out[begin:end], softmax_attention(q[begin:end], keys, keys, causal=True)[0])


def test_cache_without_new_keys() -> None:
    q, cache = drawn(1, 1, 2, 8), drawn(1, 7, 2, 8)
    out = fa2.flash_attn_with_kvcache(q, cache, cache, cache_seqlens=5)
    close(out[0], softmax_attention(q[0], cache[0, :5], cache[0, :5])[0])
    whole = fa2.flash_attn_with_kvcache(q, cache, cache)
    close(whole[0], softmax_attention(q[0], cache[0], cache[0])[0])


@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
@pytest.mark.parametrize("rows", [[3, 1], None], ids=["given", "first"])
def test_a_cache_of_more_rows(module: ModuleType, rows: list[int] | None) -> None:
    """`cache_batch_idx` picks them; without it they are the first."""
    q, k, v = drawn(2, 2, 4, 8), drawn(2, 2, 2, 8), drawn(2, 2, 2, 8)
    k_cache, v_cache = drawn(4, 9, 2, 8), drawn(4, 9, 2, 8)
    before, lengths = k_cache.clone(), (3, 6)
    out = module.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=torch.tensor(lengths).int(), causal=True,
        cache_batch_idx=None if rows is None else torch.tensor(rows).int(),
    )  # fmt: skip
    for b, (row, n) in enumerate(zip(rows or (0, 1), lengths, strict=True)):
        before[row, n : n + 2] = k[b]
        keys, values = k_cache[row, : n + 2], v_cache[row, : n + 2]
        assert torch.equal(values[n:], v[b])
        close(out[b], softmax_attention(q[b], keys, values, causal=True)[0])
    assert torch.equal(k_cache, before)


def test_a_cache_that_does_not_fit() -> None:
    q, cache = drawn(1, 2, 2, 8), drawn(1, 7, 2, 8)
    v_cache, before = cache.clone(), cache.clone()
    one, half = q[:, :, :1], q.half()
    for k, v, lengths, says in (
        (q, q, 6, r"cache_seqlens with the new tokens must be 0 to 7, .* got \[8\]"),
        (q, q, -1, "cache_seqlens must not be negative"),
        (q, q, None, "cache_seqlens must be given"),
        (q, None, 1, "k and v must be given together"),
        (one, q, 1, "v must have the dtype, tokens and heads of k"),
        (q, one, 1, r"v must "),
        (half, half, 1, "k_cache must have the dtype of k"),
        (q, q, torch.ones(2).int(), r"cache_seqlens must be int32 \[1\]"),
    ):
        with pytest.raises(ValueError, match=says):
            fa2.flash_attn_with_kvcache(q, cache, v_cache, k, v, cache_seqlens=lengths)
    assert torch.equal(cache, before)
    assert torch.equal(v_cache, before)


@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
def test_what_a_cache_is_not_given(module: ModuleType) -> None:
    q, cache = drawn(2, 2, 2, 8), drawn(2, 7, 2, 8)
    name = "block_table" if module is fa2 else "page_table"
    table, rows = torch.tensor([[0], [1]]).int(), torch.tensor([1, 0]).int()
    for given, says in (
        (dict(q=None), "q must be a tensor, got NoneType"),
        (dict(k_cache=[cache]), "k_cache must be a tensor, got list"),
        (dict(k_cache=cache[:1]), r"k_cache must have at least the batch of q, 2"),
        (dict(cache_seqlens=2.5), "cache_seqlens must be a whole number, got 2.5"),
        (dict(cache_seqlens=True), "cache_seqlens must be a whole number, got True"),
        (dict(cache_seqlens=torch.tensor([1.5, 2])), "cache_seqlens must be whole numbers"),
        (dict(cache_batch_idx=rows[:1]), r"cache_batch_idx must be int32 \[2\]"),
        (dict(cache_batch_idx=rows.long()), "cache_batch_idx must be int32"),
        (dict(cache_batch_idx=[1, 0]), "cache_batch_idx must be a tensor"),
        (dict(cache_batch_idx=rows + 1), "cache_batch_idx must name rows from 0 to 1, got 2 at"),
        (dict(k=q[:1], v=q[:1]), "k must have the batch of q, 2"),
        (dict(cache_seqlens=2**40), r"cache_seqlens must be below 2\^31, got 1099511627776"),
        (dict(cache_seqlens=torch.tensor([2**32, 3])), r"cache_seqlens must .* got \[2147483647"),
        (dict(cache_seqlens=torch.tensor([-(2**32), 3])), r"cache_seqlens must .* got \[-1"),
        ({name: table, "cache_batch_idx": rows}, f"goes with caches without {name}"),
        ({name: [[0], [1]]}, f"{name} must be a tensor, got list"),
        ({name: table.long()}, f"{name} must be int32"),
        ({name: table[0]}, f"{name} must be int32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            module.flash_attn_with_kvcache(
                **{"q": q, "k_cache": cache, "v_cache": cache, "cache_seqlens": 3, **given}
            )
    with pytest.raises(ValueError, match="cu_seqlens_k_new goes with k and v, got none"):
        fa3.flash_attn_with_kvcache(
            q, cache, cache, page_table=table, cu_seqlens_k_new=torch.tensor([0, 1, 2]).int()
        )


def test_pages_leave_no_argument_out() -> None:
    q, cache, table = drawn(5, 4, 8), drawn(8, 4, 2, 8), torch.arange(8).view(2, 4).int()
    cu = torch.tensor([0, 2, 5]).int()
    for cu_k, pages, says in (
        (None, table, "cu_seqlens_k must be a tensor, got NoneType"),
        (cu[0], table, r"cu_seqlens_k must be int32 \[3\], got int32\[\]"),
        (cu[1:], table, r"cu_seqlens_k must be int32 \[3\]"),
        (cu.float(), table, r"cu_seqlens_k must be int32 \[3\], got float32\[3\]"),
        (cu, table.long(), r"block_table must be int32 \[batch, max_pages\], got int64\[2, 4\]"),
    ):
        with pytest.raises(ValueError, match=f"flash_attn_varlen_func: {says}"):
            fa2.flash_attn_varlen_func(q, cache, cache, cu, cu_k, 3, 16, block_table=pages)
    with pytest.raises(ValueError, match="deterministic must be True or False, got 7"):
        fa2.flash_attn_varlen_func(
            q, cache, cache, cu, cu, 3, 16, block_table=table, deterministic=7
        )


@pytest.mark.parametrize("module", [fa2, fa3], ids=["fa2", "fa3"])
def test_lse_is_worked_out_only_where_asked_for(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's path gives none, so a call that asks for it would go by a slower one."""
    asked: list[bool] = []
    served = module.attention

    def attention(*args: Tensor, **options: Any) -> Any:
        asked.append(options["return_lse"])
        return served(*args, **options)

    monkeypatch.setattr(module, "attention", attention)
    q = drawn(1, 4, 2, 8)
    module.flash_attn_func(q, q, q)
    module.flash_attn_func(q, q, q, return_attn_probs=True)
    assert asked == [False, True]


def test_gradients_are_those_of_the_formula() -> None:
    q, k, v = (drawn(1, 5, 2, 8).requires_grad_() for _ in range(3))
    fa2.flash_attn_func(q, k, v, causal=True).square().sum().backward()
    found = [t.grad for t in (q, k, v)]
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    scores = torch.einsum("bmhd,bnhd->bhmn", wide[0], wide[1]) * 8**-0.5
    scores = scores.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1), wide[2]).square().sum().backward()
    for a, b in zip(found, wide, strict=True):
        assert a is not None
        assert b.grad is not None
        close(a, b.grad)


# What FlashAttention has and this library does not: named, never ignored.
_T = torch.zeros(1)
REFUSED = {
    (fa2, "flash_attn_func"): dict(dropout_p=0.1),
    (fa2, "flash_attn_varlen_func"): dict(dropout_p=0.1),
    (fa2, "flash_attn_with_kvcache"): dict(
        rotary_cos=_T, rotary_sin=_T, cache_leftpad=_T
    ),
    (fa3, "flash_attn_func"): dict(
        qv=_T, q_descale=_T, k_descale=_T, v_descale=_T, attention_chunk=4, sm_margin=1,
    ),
    (fa3, "flash_attn_varlen_func"): dict(
        seqused_q=_T, qv=_T, q_descale=_T, k_descale=_T, v_descale=_T, attention_chunk=4,
        sm_margin=1,
    ),
    (fa3, "flash_attn_with_kvcache"): dict(
        qv=_T, rotary_cos=_T, rotary_sin=_T, cache_leftpad=_T,
        cu_seqlens_q=_T, cu_seqlens_k_new=_T, rotary_seqlens=_T, q_descale=_T, k_descale=_T,
        v_descale=_T, attention_chunk=4, sm_margin=1,
    ),
}  # fmt: skip
HONOURED = {
    "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "deterministic",
    "return_attn_probs", "return_softmax_lse", "num_splits", "pack_gqa", "scheduler_metadata",
    "max_seqlen_q", "seqused_k", "cache_seqlens", "cache_batch_idx", "k", "v",
    "block_table", "page_table",
    "rotary_interleaved",  # says how to read rotary_cos, which is refused
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), each(REFUSED))
def test_each_argument_is_honoured_or_refused(module: ModuleType, name: str) -> None:
    function = getattr(module, name)
    parameters = inspect.signature(function).parameters.values()
    optional = {p.name for p in parameters if p.default is not inspect.Parameter.empty}
    assert optional - HONOURED == set(REFUSED[module, name])
    q = drawn(1, 4, 2, 8)
    given: tuple[Any, ...] = (q, q, q)
    if "varlen" in name:
        cu = torch.tensor([0, 4]).int()
        given = (q[0], q[0], q[0], cu, cu, 4, 4)
    for argument, value in REFUSED[module, name].items():
        with pytest.raises(ValueError, match=f"{name}: {argument} is not supported"):
            function(*given, **{argument: value})


def test_packed_tensors_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"qkv must be \[\.\.\., 3, heads, dim\]"):
        fa2.flash_attn_qkvpacked_func(drawn(2, 6, 2, 4, 8))
    with pytest.raises(ValueError, match=r"kv must be \[\.\.\., 2, heads, dim\]"):
        fa2.flash_attn_kvpacked_func(drawn(2, 6, 4, 8), drawn(2, 6, 3, 4, 8))
    for qkv, heads, says in (
        (drawn(2, 6, 4, 8), 3, r"qkv must be \[batch, seq, 3 \+ 2 \* key heads, dim\]"),
        (drawn(2, 6, 4, 8), 4, r"qkv must be .*, got \[2, 6, 4, 8\]"),
        (None, 4, "qkv must be .*, got NoneType"),
        (drawn(2, 6, 4, 8), -2, "num_heads_q must be a whole number from 1, got -2"),
        (drawn(2, 6, 4, 8), 2.0, "num_heads_q must be a whole number from 1, got 2.0"),
    ):
        with pytest.raises(ValueError, match=says):
            fa3.flash_attn_qkvpacked_func(qkv, num_heads_q=heads)


def test_no_plan_is_needed() -> None:
    assert fa3.get_scheduler_metadata(1, 2, 3, num_splits=4) is None
