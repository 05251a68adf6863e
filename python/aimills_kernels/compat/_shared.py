"""What the interfaces of FlashAttention-2 and -3 share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels.ops.paged import attention_paged, kv_append


def refuse(function: str, where: str = "", **given: tuple[Any, Any]) -> None:
    """ValueError for the first argument that is not what it is by default: (value, default). where:
    when it is refused, if not always."""
    for name, (value, default) in given.items():
        if value is default or (not isinstance(value, Tensor) and value == default):
            continue
        got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{function}: {name} is not supported{where}, only {default!r}; got {got}")


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
    table: Tensor | None,
    cu_new: Tensor | None = None,
    **options: Any,
) -> Any:
    """Append k and v, if given, in place at `cache_seqlens`, then attend to what is in use.

    table: the pages of each sequence; without it a sequence has one page, its row of the caches.
    cu_new: packs new keys of several lengths.
    """
    if table is None:
        if k_cache.shape[0] != q.shape[0]:
            raise ValueError(
                f"{function}: k_cache must have the batch of q, {q.shape[0]}, "
                f"got {describe(k_cache)}"
            )
        rows = torch.arange(k_cache.shape[0], dtype=torch.int32, device=q.device)
        table = rows.view(-1, 1)
    lengths = cache_seqlens
    if not isinstance(lengths, Tensor):
        if lengths is None and k is not None:
            raise ValueError(f"{function}: cache_seqlens must be given with k and v")
        full = table.shape[1] * k_cache.shape[1] if lengths is None else lengths
        lengths = torch.full((table.shape[0],), full, dtype=torch.int32, device=q.device)
    lengths = lengths.int()
    if (k is None) != (v is None):
        raise ValueError(f"{function}: k and v must be given together")
    if k is not None and v is not None:
        kv_append(k, v, k_cache, v_cache, table, lengths, cu_seqlens=cu_new)
        lengths = lengths + (k.shape[1] if cu_new is None else cu_new.diff())
    return attention_paged(q, k_cache, v_cache, table, lengths, **options)
