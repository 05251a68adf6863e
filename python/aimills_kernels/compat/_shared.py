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
    table_name: str,
    cu_new: Tensor | None = None,
    rows: Tensor | None = None,
    **options: Any,
) -> Any:
    """Append k and v, if given, in place at `cache_seqlens`, then attend to what is in use.

    table: the pages of each sequence; without it a sequence has one page, its row of the caches,
    or the one that `rows` (cache_batch_idx) says.
    cu_new: packs new keys of several lengths.
    """
    _tensors(function, q=q, k_cache=k_cache, v_cache=v_cache)
    if (k is None) != (v is None):
        raise ValueError(f"{function}: k and v must be given together")
    if cu_new is not None and k is None:
        raise ValueError(f"{function}: cu_seqlens_k_new goes with k and v, got none")
    if table is None:
        table = _one_page_each(function, q, k_cache, rows)
    else:
        if rows is not None:
            raise ValueError(f"{function}: cache_batch_idx goes with caches without {table_name}")
        _tensors(function, **{table_name: table})
        if table.dim() != 2 or table.dtype != torch.int32:
            raise ValueError(
                f"{function}: {table_name} must be int32 [batch, max_pages], got {describe(table)}"
            )
    lengths = _lengths(function, cache_seqlens, k is not None, table, k_cache)
    if k is not None and v is not None:
        kv_append(k, v, k_cache, v_cache, table, lengths, cu_seqlens=cu_new)
        lengths = lengths + (k.shape[1] if cu_new is None else cu_new.diff())
    return attention_paged(q, k_cache, v_cache, table, lengths, **options)


def _one_page_each(function: str, q: Tensor, k_cache: Tensor, rows: Tensor | None) -> Tensor:
    B = q.shape[0] if q.dim() else 0
    if rows is None:
        if k_cache.dim() and k_cache.shape[0] < B:
            raise ValueError(
                f"{function}: k_cache must have at least the batch of q, {B}, "
                f"got {describe(k_cache)}"
            )
        rows = torch.arange(B, dtype=torch.int32, device=q.device)
    _tensors(function, cache_batch_idx=rows)
    if tuple(rows.shape) != (B,) or rows.dtype != torch.int32:
        raise ValueError(f"{function}: cache_batch_idx must be int32 [{B}], got {describe(rows)}")
    return rows.view(-1, 1)


def _lengths(
    function: str, given: int | Tensor | None, appends: bool, table: Tensor, k_cache: Tensor
) -> Tensor:
    """`cache_seqlens` as a tensor; all keys that there are by default."""
    if isinstance(given, Tensor):
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise ValueError(
                f"{function}: cache_seqlens must be whole numbers, got {describe(given)}"
            )
        return given.int()
    if given is None:
        if appends:
            raise ValueError(f"{function}: cache_seqlens must be given with k and v")
        given = table.shape[1] * (k_cache.shape[1] if k_cache.dim() > 1 else 1)
    if not isinstance(given, (int, torch.SymInt)) or isinstance(given, bool):
        raise ValueError(f"{function}: cache_seqlens must be a whole number, got {given!r}")
    return torch.full((table.shape[0],), given, dtype=torch.int32, device=table.device)


def _tensors(function: str, **given: Any) -> None:
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise ValueError(f"{function}: {name} must be a tensor, got {type(t).__name__}")
