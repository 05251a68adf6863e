"""What the interfaces of FlashAttention-2 and -3 share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import describe
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
    **options: Any,
) -> Any:
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
    used = None if lengths is None else lengths.int()
    return attention(q, k_cache, v_cache, seqused_k=used, **options)


def _append(
    function: str, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor
) -> None:
    B, new = k.shape[:2]
    for name, t, cache in (("k", k, k_cache), ("v", v, v_cache)):
        wanted = (k_cache.shape[0], new, *cache.shape[2:])
        if tuple(t.shape) != wanted or t.dtype != cache.dtype:
            raise ValueError(
                f"{function}: {name} must be {list(wanted)} in the dtype of its cache, "
                f"{describe(cache)}, got {describe(t)}"
            )
    if lengths.shape != (B,):
        raise ValueError(
            f"{function}: cache_seqlens must be a number or [{B}], got {describe(lengths)}"
        )
    if not lengths.is_cuda and B:
        low, high = (int(n) for n in lengths.aminmax())
        if low < 0 or high + new > k_cache.shape[1]:
            raise ValueError(
                f"{function}: cache_seqlens must be 0 or more, and with {new} new keys fit into "
                f"the cache of {k_cache.shape[1]}, got {low} to {high}"
            )
    rows = torch.arange(B, device=k.device).view(B, 1)
    at = lengths.long().view(B, 1) + torch.arange(new, device=k.device)
    k_cache[rows, at] = k
    v_cache[rows, at] = v
