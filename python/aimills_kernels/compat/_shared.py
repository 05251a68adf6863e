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
        check_table(function, table_name, table)
    lengths = _lengths(function, cache_seqlens, k is not None, table, k_cache)
    try:
        if k is not None and v is not None:
            _tensors(function, k=k, v=v)
            if cu_new is None and k.dim() == 4 and k.shape[0] != table.shape[0]:
                raise ValueError(
                    f"{function}: k must have the batch of q, {table.shape[0]}, got {describe(k)}"
                )
            kv_append(k, v, k_cache, v_cache, table, _int32(lengths), cu_seqlens=cu_new)
            lengths = lengths + (k.shape[1] if cu_new is None else cu_new.diff())
        return attention_paged(q, k_cache, v_cache, table, _int32(lengths), **options)
    except ValueError as error:
        if rows is None or "page_table must name pages" not in str(error):
            raise
        wanted = str(error).partition("page_table must name pages")[2]
        raise ValueError(f"{function}: cache_batch_idx must name rows{wanted}") from None


def check_table(function: str, name: str, table: Any) -> None:
    _tensors(function, **{name: table})
    if table.dim() != 2 or table.dtype != torch.int32:
        raise ValueError(
            f"{function}: {name} must be int32 [batch, max_pages], got {describe(table)}"
        )


def key_counts(function: str, cu_seqlens_k: Any, sequences: int) -> Tensor:
    """Keys of each sequence, by where they would begin if they were packed."""
    _tensors(function, cu_seqlens_k=cu_seqlens_k)
    if tuple(cu_seqlens_k.shape) != (sequences + 1,) or cu_seqlens_k.dtype != torch.int32:
        raise ValueError(
            f"{function}: cu_seqlens_k must be int32 [{sequences + 1}], "
            f"got {describe(cu_seqlens_k)}"
        )
    return cu_seqlens_k.diff()


def _int32(lengths: Tensor) -> Tensor:
    """What an int64 holds beyond int32 stays out of every range, where a cast would bring it in."""
    if lengths.dtype == torch.int64:
        lengths = lengths.clamp(-1, 2**31 - 1)
    return lengths.int()


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
    return rows.unsqueeze(1)


def _lengths(
    function: str, given: int | Tensor | None, appends: bool, table: Tensor, k_cache: Tensor
) -> Tensor:
    """`cache_seqlens` as a tensor; all keys that there are by default."""
    if isinstance(given, Tensor):
        if given.dtype not in (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8):
            raise ValueError(
                f"{function}: cache_seqlens must be whole numbers, int32 or int64, "
                f"got {describe(given)}"
            )
        return given if given.dtype == torch.int64 else given.int()
    if given is None:
        if appends:
            raise ValueError(f"{function}: cache_seqlens must be given with k and v")
        given = table.shape[1] * (k_cache.shape[1] if k_cache.dim() > 1 else 1)
    if not isinstance(given, (int, torch.SymInt)) or isinstance(given, bool):
        raise ValueError(f"{function}: cache_seqlens must be a whole number, got {given!r}")
    if isinstance(given, int) and abs(given) >= 2**31:
        raise ValueError(f"{function}: cache_seqlens must be below 2^31, got {given}")
    return torch.full((table.shape[0],), given, dtype=torch.int32, device=table.device)


def _tensors(function: str, **given: Any) -> None:
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise ValueError(f"{function}: {name} must be a tensor, got {type(t).__name__}")
