"""The functions of `flash_attn_interface` (FlashAttention-3) with its names, arguments and meaning.

    from aimills_kernels.compat.flash_attn_interface import flash_attn_func

in place of `from flash_attn_interface import flash_attn_func`. What stands in
`aimills_kernels.compat.flash_attn` about layouts and masks holds here too. `pack_gqa`, `num_splits`
and `scheduler_metadata` only say how the work is divided, and are left to this library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.compat._shared import refuse, unpack, with_cache
from aimills_kernels.ops.attention import attention, attention_varlen

Window = tuple[int, int]


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False,
    qv: Tensor | None = None, q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, window_size: Window = (-1, -1), attention_chunk: int = 0,
    softcap: float = 0.0, num_splits: int = 1, pack_gqa: bool | None = None,
    deterministic: bool = False, sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`attention`. With `return_attn_probs`: (out, lse)."""
    refuse(
        "flash_attn_func", qv=(qv, None), q_descale=(q_descale, None), k_descale=(k_descale, None),
        v_descale=(v_descale, None), attention_chunk=(attention_chunk, 0),
        sm_margin=(sm_margin, 0),
    )  # fmt: skip
    options: dict[str, Any] = dict(
        causal=causal, scale=softmax_scale, window=window_size, softcap=softcap,
        return_lse=return_attn_probs,
        deterministic=deterministic,
    )  # fmt: skip
    return attention(q, k, v, **options)


def flash_attn_qkvpacked_func(
    qkv: Tensor, softmax_scale: float | None = None, causal: bool = False,
    q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, window_size: Window = (-1, -1), attention_chunk: int = 0,
    softcap: float = 0.0, deterministic: bool = False, num_heads_q: int | None = None,
    sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`flash_attn_func` of qkv [batch, seq, 3, heads, dim] or, with `num_heads_q`, of
    [batch, seq, heads of q, k and v, dim]."""
    name = "flash_attn_qkvpacked_func"
    if num_heads_q is None:
        q, k, v = unpack(name, "qkv", qkv, 3)
    else:
        q, k, v = _heads_in_a_row(name, qkv, num_heads_q)
    return flash_attn_func(
        q, k, v, softmax_scale, causal, None, q_descale, k_descale, v_descale, window_size,
        attention_chunk, softcap, deterministic=deterministic, sm_margin=sm_margin,
        return_attn_probs=return_attn_probs,
    )  # fmt: skip


def _heads_in_a_row(function: str, qkv: Tensor, num_heads_q: int) -> tuple[Tensor, ...]:
    whole = isinstance(num_heads_q, (int, torch.SymInt)) and not isinstance(num_heads_q, bool)
    if not whole or num_heads_q < 1:
        raise ValueError(
            f"{function}: num_heads_q must be a whole number from 1, got {num_heads_q!r}"
        )
    known = isinstance(qkv, Tensor) and qkv.dim() == 4
    rest = qkv.shape[2] - num_heads_q if known else 0
    if rest < 2 or rest % 2:
        got = list(qkv.shape) if isinstance(qkv, Tensor) else type(qkv).__name__
        raise ValueError(
            f"{function}: qkv must be [batch, seq, {num_heads_q} + 2 * key heads, dim], got {got}"
        )
    return qkv.split([num_heads_q, rest // 2, rest // 2], dim=2)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor,
    max_seqlen_q: int, max_seqlen_k: int, seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None, softmax_scale: float | None = None, causal: bool = False,
    qv: Tensor | None = None, q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, window_size: Window = (-1, -1), attention_chunk: int = 0,
    softcap: float = 0.0, num_splits: int = 1, pack_gqa: bool | None = None,
    deterministic: bool = False, sm_margin: int = 0, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """`attention_varlen`; the largest lengths are not needed."""
    refuse(
        "flash_attn_varlen_func", seqused_q=(seqused_q, None), qv=(qv, None),
        q_descale=(q_descale, None), k_descale=(k_descale, None), v_descale=(v_descale, None),
        attention_chunk=(attention_chunk, 0), sm_margin=(sm_margin, 0),
    )  # fmt: skip
    options: dict[str, Any] = dict(
        causal=causal, scale=softmax_scale, window=window_size, softcap=softcap,
        seqused_k=seqused_k, return_lse=return_attn_probs,
        deterministic=deterministic,
    )  # fmt: skip
    return attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, **options)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = None, v: Tensor | None = None,
    qv: Tensor | None = None, rotary_cos: Tensor | None = None, rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None, cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None, page_table: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None, cu_seqlens_k_new: Tensor | None = None,
    max_seqlen_q: int | None = None, rotary_seqlens: Tensor | None = None,
    q_descale: Tensor | None = None, k_descale: Tensor | None = None,
    v_descale: Tensor | None = None, softmax_scale: float | None = None, causal: bool = False,
    window_size: Window = (-1, -1), attention_chunk: int = 0, softcap: float = 0.0,
    rotary_interleaved: bool = True, scheduler_metadata: Tensor | None = None,
    num_splits: int = 0, pack_gqa: bool | None = None, sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> Any:  # fmt: skip
    """Append k and v to the caches in place, at `cache_seqlens`, and attend to what they hold then.
    `cache_batch_idx` says which row of the caches each sequence has; with `page_table` the caches
    are pages, of any size, and `cu_seqlens_q` and `cu_seqlens_k_new` pack queries and new keys of
    several lengths. No gradient passes."""
    name = "flash_attn_with_kvcache"
    refuse(
        name, qv=(qv, None), rotary_cos=(rotary_cos, None), rotary_sin=(rotary_sin, None),
        cache_leftpad=(cache_leftpad, None), rotary_seqlens=(rotary_seqlens, None),
        q_descale=(q_descale, None), k_descale=(k_descale, None), v_descale=(v_descale, None),
        attention_chunk=(attention_chunk, 0), sm_margin=(sm_margin, 0),
    )  # fmt: skip
    if page_table is None:
        refuse(
            name, " without page_table", cu_seqlens_q=(cu_seqlens_q, None),
            cu_seqlens_k_new=(cu_seqlens_k_new, None),
        )  # fmt: skip
    return with_cache(
        name, q, k_cache, v_cache, k, v, cache_seqlens, page_table, "page_table", cu_seqlens_k_new,
        cache_batch_idx, cu_seqlens_q=cu_seqlens_q, causal=causal, scale=softmax_scale,
        window=window_size, softcap=softcap, return_lse=return_softmax_lse,
    )  # fmt: skip


def get_scheduler_metadata(*args: Any, **kwargs: Any) -> None:
    """No plan is needed: None, which `scheduler_metadata` takes."""
