"""The functions of `flash_attn` (FlashAttention-2) with its names, arguments and meaning.

    from aimills_kernels.compat.flash_attn import flash_attn_func

in place of `from flash_attn import flash_attn_func`. Layouts are [batch, seq, heads, dim] and, for
packed sequences, [tokens, heads, dim]; `causal` and `window_size` are aligned bottom-right. An
argument that this library can't honour raises a ValueError. `max_seqlen_q` and `max_seqlen_k` are
taken and not needed. A log-sum-exp is float32 [batch, heads, seq] or [heads, tokens]. An
error that this library's own ops raise has their names: `scale` is `softmax_scale`, `window` is
`window_size`, and `page_table` is `block_table`.

The arguments are those that https://github.com/Dao-AILab/flash-attention documents for 2.8.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aimills_kernels.compat._shared import check_table, key_counts, refuse, unpack, with_cache
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops.attention import attention, attention_varlen
from aimills_kernels.ops.paged import attention_paged

Window = tuple[int, int]


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None,
    causal: bool = False, window_size: Window = (-1, -1), softcap: float = 0.0,
    alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`attention`. With `return_attn_probs`: (out, lse, None); the probabilities themselves exist
    only under dropout, which is refused."""
    refuse("flash_attn_func", dropout_p=(dropout_p, 0.0))
    options: dict[str, Any] = dict(
        causal=causal, scale=softmax_scale, window=window_size, softcap=softcap,
        alibi_slopes=alibi_slopes, return_lse=return_attn_probs,
        deterministic=deterministic,
    )  # fmt: skip
    found = attention(q, k, v, **options)
    return (*found, None) if return_attn_probs else found


def flash_attn_kvpacked_func(
    q: Tensor, kv: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None,
    causal: bool = False, window_size: Window = (-1, -1), softcap: float = 0.0,
    alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`flash_attn_func` of kv [batch, seq, 2, heads, dim]."""
    k, v = unpack("flash_attn_kvpacked_func", "kv", kv, 2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal,
        window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_qkvpacked_func(
    qkv: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: Window = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`flash_attn_func` of qkv [batch, seq, 3, heads, dim]."""
    q, k, v = unpack("flash_attn_qkvpacked_func", "qkv", qkv, 3)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal,
        window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = 0.0,
    softmax_scale: float | None = None, causal: bool = False, window_size: Window = (-1, -1),
    softcap: float = 0.0, alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False, block_table: Tensor | None = None,
) -> Any:  # fmt: skip
    """`attention_varlen`; the largest lengths are not needed. With `block_table` k and v are pages
    of a cache, and no gradient passes."""
    refuse("flash_attn_varlen_func", dropout_p=(dropout_p, 0.0))
    options: dict[str, Any] = dict(
        causal=causal, scale=softmax_scale, window=window_size, softcap=softcap,
        alibi_slopes=alibi_slopes, return_lse=return_attn_probs,
    )  # fmt: skip
    if block_table is None:
        options["deterministic"] = deterministic
        found = attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, **options)
    else:
        check_bools("flash_attn_varlen_func", deterministic=deterministic)
        check_table("flash_attn_varlen_func", "block_table", block_table)
        lengths = key_counts("flash_attn_varlen_func", cu_seqlens_k, block_table.shape[0])
        found = attention_paged(q, k, v, block_table, lengths, cu_seqlens_q=cu_seqlens_q, **options)
    return (*found, None) if return_attn_probs else found


def flash_attn_varlen_kvpacked_func(
    q: Tensor, kv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
    max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None,
    causal: bool = False, window_size: Window = (-1, -1), softcap: float = 0.0,
    alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`flash_attn_varlen_func` of kv [tokens, 2, heads, dim]."""
    k, v = unpack("flash_attn_varlen_kvpacked_func", "kv", kv, 2)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k,
        max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, dropout_p: float = 0.0,
    softmax_scale: float | None = None, causal: bool = False, window_size: Window = (-1, -1),
    softcap: float = 0.0, alibi_slopes: Tensor | None = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`flash_attn_varlen_func` of qkv [tokens, 3, heads, dim]."""
    q, k, v = unpack("flash_attn_varlen_qkvpacked_func", "qkv", qkv, 3)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens,
        max_seqlen, max_seqlen, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = None, v: Tensor | None = None,
    rotary_cos: Tensor | None = None, rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None, cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None, block_table: Tensor | None = None,
    softmax_scale: float | None = None, causal: bool = False, window_size: Window = (-1, -1),
    softcap: float = 0.0, rotary_interleaved: bool = True, alibi_slopes: Tensor | None = None,
    num_splits: int = 0, return_softmax_lse: bool = False,
) -> Any:  # fmt: skip
    """Append k and v to the caches in place, at `cache_seqlens`, and attend to what they hold then.
    `cache_batch_idx` says which row of the caches each sequence has; with `block_table` the caches
    are pages, of any size. No gradient passes.

    `num_splits` only says how the work is divided, and is left to this library.
    """
    name = "flash_attn_with_kvcache"
    refuse(
        name, rotary_cos=(rotary_cos, None), rotary_sin=(rotary_sin, None),
        cache_leftpad=(cache_leftpad, None),
    )  # fmt: skip
    return with_cache(
        name, q, k_cache, v_cache, k, v, cache_seqlens, block_table, "block_table",
        rows=cache_batch_idx, causal=causal, scale=softmax_scale, window=window_size,
        softcap=softcap, alibi_slopes=alibi_slopes, return_lse=return_softmax_lse,
    )  # fmt: skip
