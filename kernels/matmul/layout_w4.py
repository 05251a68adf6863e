"""How the codes of 4-bit weights are stored, and what they stand for.

Storage has whole blocks of 64 columns, 32 bytes of a row each: byte j holds column j in its low
nibble and column j + 32 in its high one. So each nibble of 32 bytes is 32 neighbouring columns, all
in one group.

    column k of the weight is storage column  k + offset      or where perm names it
    storage column s belongs to group         s // group_size or group_of[s // 32]; all to group 0
                                              where group_size is no such size but K

`offset` keeps groups whole where a shard begins within one. A storage column that no column of the
weight is in has -1 in `perm`; its code may be anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64
HALF = BLOCK // 2
SIZES = (32, 64, 128)  # of groups; any other is that of the one group of a channel
SYMMETRIC_ZERO = 8


def padded(columns: int) -> int:
    return -(-columns // BLOCK) * BLOCK


def groups_in(columns: int, group_size: int, offset: int) -> int:
    return -(-(columns + offset) // group_size) if group_size in SIZES else 1


def pack_nibbles(codes: Tensor) -> Tensor:
    """u8 [N, K] of 0..15 to [N, K / 2]; K a multiple of 64."""
    N, K = codes.shape
    halves = codes.reshape(N, K // BLOCK, 2, HALF)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(N, K // 2)


def unpack_nibbles(packed: Tensor) -> Tensor:
    N, width = packed.shape
    blocks = packed.reshape(N, width // HALF, HALF)
    return torch.stack((blocks & 15, blocks >> 4), 2).reshape(N, 2 * width)


def places(columns: int, perm: Tensor | None, offset: int, device: torch.device) -> Tensor:
    """The storage column of each column of the weight: [K], int64."""
    if perm is None:
        return torch.arange(offset, offset + columns, device=device)
    nowhere = torch.where((perm < 0) | (perm >= columns), columns, perm).to(torch.int64)
    stored = torch.arange(perm.shape[0], device=device)
    return torch.zeros(columns + 1, dtype=torch.int64, device=device).scatter(0, nowhere, stored)[
        :columns
    ]


def group_index(at: Tensor, group_of: Tensor | None, group_size: int) -> Tensor:
    """The group of each storage column that `at` names: int64."""
    if group_of is not None:
        return group_of.to(torch.int64)[at // HALF]
    return at // group_size if group_size in SIZES else torch.zeros_like(at)


def dequantize(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, columns: int, group_size: int, offset: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """(code - zero) * scale in `dtype`: [N, K]."""
    at = places(columns, perm, offset, codes.device)
    groups = group_index(at, group_of, group_size)
    stored = unpack_nibbles(codes).index_select(1, at).to(dtype)
    zero = SYMMETRIC_ZERO if zeros is None else zeros.to(dtype).index_select(0, groups).T
    return (stored - zero) * scales.to(dtype).index_select(0, groups).T


def by_group(g_idx: list[int]) -> tuple[list[int], list[int]]:
    """perm and group_of for columns of these groups: each begins at a multiple of 32."""
    members: dict[int, list[int]] = {}
    for k, g in enumerate(g_idx):
        members.setdefault(g, []).append(k)
    perm: list[int] = []
    group_of: list[int] = []
    for g in sorted(members):
        blocks = -(-len(members[g]) // HALF)
        perm += members[g] + [-1] * (blocks * HALF - len(members[g]))
        group_of += [g] * blocks
    missing = padded(len(perm)) - len(perm)
    return perm + [-1] * missing, group_of + [0] * (missing // HALF)
