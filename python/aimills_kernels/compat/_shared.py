"""What the interfaces of FlashAttention-2 and -3 share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.ops.attention import attention


def refuse(function: str, **given: tuple[Any, Any]) -> None:
    """ValueError for the first argument that is not what it is by default: (value, default)."""
    for name, (value, default) in given.items():
        if value is default or (not isinstance(value, Tensor) and value == default):
            continue
        got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{function}: {name} is not supported, only {default!r}; got {got}")


def unpack(function: str, name: str, packed: Tensor, n: int) -> tuple[Tensor, ...]:
    """The tensors packed in dim -3 (..., n, heads, dim)."""
    if not isinstance(packed, Tensor) or packed.dim() < 4 or packed.shape[-3] != n:
        got = list(packed.shape) if isinstance(packed, Tensor) else type(packed).__name__
        raise ValueError(f"{function}: {name} must be [..., {n}, heads, dim], got {got}")
    return packed.unbind(-3)


def with_cache(
    function: str,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cache_seqlens: int | Tensor | None,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    """Append k and v, if given, in place at `cache_seqlens`, then attend to what is in use."""
    B = k_cache.shape[0]
    lengths = cache_seqlens
    if isinstance(lengths, int):
        lengths = torch.full((B,), lengths, dtype=torch.int32, device=q.device)
    if (k is None) != (v is None):
        raise ValueError(f"{function}: k and v must be given together")
    if k is not None and v is not None:
        if lengths is None:
            raise ValueError(f"{function}: cache_seqlens must be given with k and v")
        _append(function, k, v, k_cache, v_cache, lengths)
        lengths = lengths + k.shape[1]
    return attention(
        q, k_cache, v_cache, seqused_k=None if lengths is None else lengths.int(),
        return_lse=True, **others,
    )  # fmt: skip


def _append(
    function: str, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor
) -> None:
    B, new = k.shape[:2]
    if k_cache.shape[0] != B or v.shape[:2] != k.shape[:2] or lengths.shape != (B,):
        raise ValueError(
            f"{function}: k, v and cache_seqlens must have the batch of the cache, "
            f"{k_cache.shape[0]}, got {B}, {v.shape[0]} and {list(lengths.shape)}"
        )
    if not lengths.is_cuda and B and int(lengths.max()) + new > k_cache.shape[1]:
        raise ValueError(
            f"{function}: cache_seqlens + {new} new keys must fit into the cache of "
            f"{k_cache.shape[1]}, got {int(lengths.max())}"
        )
    rows = torch.arange(B, device=k.device).view(B, 1)
    at = lengths.long().view(B, 1) + torch.arange(new, device=k.device)
    k_cache[rows, at] = k.to(k_cache.dtype)
    v_cache[rows, at] = v.to(v_cache.dtype)
