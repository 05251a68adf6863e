"""Tiles, splits and scratch memory of attention that packs the query heads of a key head, paged or
not: pure functions of shapes and the GPU.

Nothing here reads a length, so that one CUDA graph serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from aimills_kernels._dispatch import sm_count, sm_of
from aimills_kernels.kernels.attention.config import Config, padded_dim
from aimills_kernels.kernels.hardware import shared_kib

MIN_KEYS = 256  # of a split: fewer cost more in merging than they save
MAX_SPLITS = 128
SPAN = 512  # keys of a split of `invariant_plan`, a multiple of each BLOCK_N
_WAVES = 4  # programs for each multiprocessor that the device's schedule aims at
_SLOTS = 2  # so many times as many may be used where lengths differ


@dataclass(frozen=True)
class Plan:
    """`splits` are the slots of the grid for the keys of one tile. The device shares all keys of
    the batch out over `share` pieces, and uses as many slots as a sequence then needs; in an
    invariant plan a split has `least` keys."""

    config: Config
    tiles: int  # of rows: of each sequence, or of all with packed queries
    slots: int  # tiles of the grid
    splits: int
    share: int
    least: int = MIN_KEYS


def plan(
    q: Tensor, k: Tensor, v: Tensor, B: int, capacity: int, packed: bool, aligned: bool
) -> Plan:
    """For B sequences of at most `capacity` keys each; heads and dim of k and v stand last."""
    H, G = q.shape[-2], k.shape[-2]
    R, dim = H // G, padded_dim(q, v)
    tokens = q.shape[0] if packed else q.shape[0] * q.shape[1]
    sm = sm_of(q.device) or 90
    config = select_paged_config(
        R * (tokens // max(B, 1)), dim, q.element_size(), k.element_size(), sm, aligned
    )
    tiles, slots = _tiles(tokens, B, R, config.block_m, packed)
    programs, wanted = max(1, slots * G), _WAVES * sm_count(q.device)
    splits = min(-(-_SLOTS * wanted // programs), -(-capacity // MIN_KEYS), MAX_SPLITS)
    return Plan(config, tiles, slots, max(1, splits), max(1, wanted * B // programs))


def invariant_plan(
    q: Tensor, k: Tensor, v: Tensor, B: int, capacity: int, packed: bool, aligned: bool
) -> Plan:
    """Tiles and splits that follow from head dims and dtypes. Only whether the splits of a tile go
    to several programs follows from the shapes, and that changes no bit."""
    H, G = q.shape[-2], k.shape[-2]
    config = select_invariant_config(padded_dim(q, v), q.element_size(), sm_of(q.device) or 90)
    tokens = q.shape[0] if packed else q.shape[0] * q.shape[1]
    tiles, slots = _tiles(tokens, B, H // G, config.block_m, packed)
    alone = slots * G >= 2 * sm_count(q.device)
    splits = 1 if alone else max(1, -(-capacity // SPAN))
    return Plan(config, tiles, slots, splits, share=1, least=SPAN)


def whole_plan(
    q: Tensor, k: Tensor, v: Tensor, B: int, capacity: int, packed: bool, aligned: bool
) -> Plan:
    """`invariant_plan` with all splits of a tile in one program, for keys that stand in rows: there
    the longest sequence of a packed batch is not known, and no split would be needless."""
    made = invariant_plan(q, k, v, B, capacity, packed, aligned)
    stages = min(made.config.num_stages, 2)
    return replace(made, config=replace(made.config, num_stages=stages), splits=1)


def _tiles(tokens: int, B: int, R: int, block_m: int, packed: bool) -> tuple[int, int]:
    """Of a sequence, or of all with packed queries; and in the grid."""
    tiles = -(-tokens // max(B, 1) * R // block_m)
    return tiles, tokens * R // block_m + B + 1 if packed else B * tiles


def workspace_of(planned: Callable[..., Plan], invariant: bool) -> Callable[..., int]:
    """Floats: a sum of values, a maximum and a sum of weights for each row and split; none for one
    split. Enough for tensors at any address."""

    def floats(
        q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor,
        cu_seqlens_q: Tensor | None, *others: Any,
    ) -> int:  # fmt: skip
        if others[-1] is not invariant:
            return 0
        packed, (B, listed) = cu_seqlens_q is not None, page_table.shape
        capacity = listed * k_cache.shape[1]
        splits = max(
            planned(q, k_cache, v_cache, B, capacity, packed, a).splits for a in (True, False)
        )
        rows = q.numel() // q.shape[-1]
        return splits * rows * (v_cache.shape[3] + 2) if splits > 1 else 0

    return floats


def select_paged_config(
    rows: int, dim: int, itemsize: int, cache_itemsize: int, sm: int, aligned: bool
) -> Config:
    """Tiles for `rows` of queries and heads of a sequence and key head, and a padded head dim.

    Not tuned on a GPU yet: chosen so that ptxas reports no spill on any architecture. Addresses
    come out of the page table, so of 5 stages Triton keeps two tiles of keys and values in flight,
    and of 4 or less none.
    """
    if itemsize == 4 or not aligned:
        return Config(16, 32 if dim <= 64 and aligned else 16, 8, 2 if aligned else 1)
    if rows <= 16:
        if dim > 128:
            return Config(16, 32, 4 if cache_itemsize == 2 else 8, 5)
        wide = sm >= 90 if cache_itemsize == 1 else shared_kib(sm) >= 128
        return Config(16, 64 if wide else 32, 4, 5)
    if dim > 128:
        return Config(64 if sm == 90 else 32, 32, 8, 5)
    if sm < 90 or sm >= 120:
        return Config(64, 32, 8, 5)
    return Config(64, 64, 4, 5) if rows <= 64 else Config(128, 64, 8, 5)


def select_invariant_config(dim: int, itemsize: int, sm: int) -> Config:
    """Tiles for a padded head dim. Not tuned on a GPU yet: chosen for no spills, where a program
    holds the sums of a split and those of all left of it."""
    if itemsize == 4:
        return Config(16, 16, 8, 1 if sm == 90 else 2)
    if dim > 128:
        stages = 5 if shared_kib(sm) >= 128 else 1
        return Config(64, 16, 8, stages) if sm == 90 else Config(32, 32, 8, stages)
    return Config(64, 32 if sm < 90 or sm >= 120 else 64, 8, 5)
