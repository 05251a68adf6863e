"""How the codes of 4-bit weights are stored, and what they stand for.

Storage has whole blocks of 64 columns, 16 words of 16 bits of a row each: word j holds columns j,
j + 16, j + 32 and j + 48, the first in its lowest bits. So a nibble of all words is 16 neighbouring
columns of one group, and that of two words takes a mask and no shuffle to become two floats.

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
WORDS = BLOCK // 4
RUN = 32  # storage columns that are always of one group
SIZES = (32, 64, 128)  # of groups; any other is that of the one group of a channel
SYMMETRIC_ZERO = 8


def groups_in(columns: int, group_size: int, offset: int) -> int:
    return -(-(columns + offset) // group_size) if group_size in SIZES else 1


def words_for(columns: int) -> int:
    """Words of a row."""
    return -(-columns // BLOCK) * WORDS


def pack_nibbles(codes: Tensor) -> Tensor:
    """u8 [N, K] of 0..15 to i16 [N, K / 4]; K a multiple of 64."""
    N, K = codes.shape
    planes = codes.reshape(N, K // BLOCK, 4, WORDS).to(torch.int16).unbind(2)
    words = planes[0] | planes[1] << 4 | planes[2] << 8 | planes[3] << 12
    return words.reshape(N, K // 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    N, width = packed.shape
    words = packed.reshape(N, width // WORDS, WORDS)
    planes = torch.stack([words >> shift & 15 for shift in (0, 4, 8, 12)], 2)
    return planes.to(torch.uint8).reshape(N, 4 * width)


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
        return group_of.to(torch.int64)[at // RUN]
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
        blocks = -(-len(members[g]) // RUN)
        perm += members[g] + [-1] * (blocks * RUN - len(members[g]))
        group_of += [g] * blocks
    missing = 4 * words_for(len(perm)) - len(perm)
    return perm + [-1] * missing, group_of + [0] * (missing // RUN)
