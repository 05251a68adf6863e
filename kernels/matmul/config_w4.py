"""Tiles and splits of the matmul with 4-bit weights: pure functions of the problem and the GPU.

Not tuned on a GPU yet: chosen so that ptxas reports no spill on any architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from aimills_kernels._dispatch import sm_of
from aimills_kernels.kernels.hardware import shared_kib
from aimills_kernels.kernels.matmul.config import rows_in_each
from aimills_kernels.kernels.matmul.layout_w4 import SIZES, WORDS

_SMS = 132  # of an H100 or H200
_PROGRAMS = 4 * _SMS  # small ones, side by side, that keep enough weights in flight
_LEAST_STEPS = 4  # of a split: fewer cost more in its sums than they save
MAX_SPLITS = 32


@dataclass(frozen=True)
class Config:
    """`splits` of K, each summed on its own; `walked` by one program one after the other, in place
    of a program each and a sum in the workspace. The bits are the same."""

    block_n: int
    block_m: int
    step: int  # words of a row of codes that are read at once
    num_warps: int
    num_stages: int
    splits: int = 1
    walked: bool = False

    def __str__(self) -> str:
        tile = f"{self.block_n}x{self.block_m}x{4 * self.step}"
        shape = f"{tile} {self.num_warps} warps {self.num_stages} stages"
        return shape if self.splits == 1 else f"{shape} {self.splits} splits"


def config_of(
    x: Tensor, codes: Tensor, perm: Tensor | None, group_of: Tensor | None, group_size: int,
    offset: int, invariant: bool, rows: int | None = None, sm: int | None = None,
) -> Config:  # fmt: skip
    """`rows` of x, where not all are meant."""
    sm = sm or sm_of(x.device) or 90
    step = WORDS if group_of is not None or group_size in SIZES[:2] else 2 * WORDS
    aligned = reads_wide(x, perm, offset)
    m = x.shape[0] if rows is None else rows
    return select_config(m, codes.shape[-2], codes.shape[-1], step, aligned, invariant, sm)


def reads_wide(x: Tensor, perm: Tensor | None, offset: int) -> bool:
    """16 bytes of a row of x at a time."""
    return perm is None and offset % 16 == 0 and x.shape[-1] % 16 == 0 and _aligned(x)


def _aligned(x: Tensor) -> bool:
    *pitches, step = x.stride()
    return step == 1 and all(p % 8 == 0 for p in pitches) and x.data_ptr() % 16 == 0


def grouped_config_of(
    x: Tensor, codes: Tensor, perm: Tensor | None, group_of: Tensor | None, group_size: int,
    offset: int, invariant: bool, sm: int | None = None,
) -> Config:  # fmt: skip
    """Groups give programs enough: K is not split."""
    rows = rows_in_each(x, len(codes))
    found = config_of(x, codes, perm, group_of, group_size, offset, invariant, rows, sm)
    return replace(found, splits=1)


def select_config(
    m: int, n: int, width: int, step: int, aligned: bool, invariant: bool, sm: int
) -> Config:
    """For `m` rows and `n` channels of `width` words each. `aligned`: x is read 16 bytes at a time;
    else each element needs registers for its address.

    An invariant choice has one tile for all `m`, and its splits follow from `n` and `width` alone:
    only who sums a split follows from `m`.
    """
    steps = -(-width // step)
    if invariant:
        block_n, block_m, warps = 64, 32, 4
        tiles = -(-n // block_n)
        splits = _splits(tiles, steps)
        walked = tiles * -(-m // block_m) >= 2 * _SMS
    else:
        block_n, block_m, warps = _tile(m, n, aligned, sm)
        tiles = -(-n // block_n) * -(-m // block_m)
        splits, walked = _splits(tiles, steps) if m <= 64 else 1, False
    stages = _stages(block_n, block_m, step, sm)
    return Config(block_n, block_m, step, warps, stages, splits, walked and splits > 1)


def _tile(m: int, n: int, aligned: bool, sm: int) -> tuple[int, int, int]:
    """Channels, rows, warps."""
    if m <= 8:
        return 64, 8, 4
    if m <= 32 or not aligned:
        return 64, 16 if m <= 16 else 32, 4
    # An odd row of the output is stored element by element: 128 by 128 spilled 160 bytes.
    if m <= 64 or n % 8 or -(-m // 128) * -(-n // 128) < _SMS:
        return 64, 64, 4
    # On sm_100 each of a step's four products has sums of its own in tensor memory, of 512 columns;
    # without wgmma, 128 by 128 spilled 32 bytes.
    return (128, 128, 8) if sm // 10 == 9 else (128, 64, 8)


def _splits(tiles: int, steps: int) -> int:
    return max(1, min(_PROGRAMS // max(1, tiles), steps // _LEAST_STEPS, MAX_SPLITS))


def _stages(block_n: int, block_m: int, step: int, sm: int) -> int:
    """So many fit the shared memory, where x takes eight bytes for each word."""
    stage = step * (2 * block_n + 8 * block_m)
    return max(2, min(5, (shared_kib(sm) * 1024 - 4096 - 4 * block_n * block_m) // stage))


def candidates(
    built_in: Config, m: int, n: int, aligned: bool, invariant: bool, sm: int
) -> tuple[Config, ...]:
    """The built-in tiles, and neighbours of them that fit the shared memory and the registers, with
    no more splits: so many sums the workspace holds. The invariant choice has none."""
    near = () if invariant else _near(built_in)
    return built_in, *(c for c in near if _fits(c, m, n, aligned, sm))


def _near(c: Config) -> Iterator[Config]:
    for stages in {2: (3, 4), 3: (2, 4), 4: (2, 3)}.get(c.num_stages, (3, 4)):
        yield replace(c, num_stages=stages)
    yield replace(c, block_m=2 * c.block_m)
    yield replace(c, block_n=128, num_warps=8) if c.block_n < 128 else replace(c, block_n=64)
    yield replace(c, block_m=c.block_m // 2)
    if c.splits > 1:
        yield replace(c, splits=c.splits // 2)


def _fits(c: Config, m: int, n: int, aligned: bool, sm: int) -> bool:
    if c.block_m < 8 or (c.block_m > 8 and c.block_m >= 2 * max(m, 8)):
        return False
    if c.block_m > ((128 if sm // 10 == 9 else 64) if aligned and n % 8 == 0 else 32):
        return False
    if c.block_n * c.block_m > 64 * 32 * c.num_warps or (n % 8 and c.block_n > 64):
        return False
    return c.num_stages <= _stages(c.block_n, c.block_m, c.step, sm)


def workspace(x: Tensor, codes: Tensor, *rest: Any) -> int:
    """Floats: a sum of each element and split, where splits go to several programs."""
    _, _, perm, group_of, _, _, group_size, offset, _, invariant = rest
    config = config_of(x, codes, perm, group_of, group_size, offset, invariant)
    alone = config.splits == 1 or config.walked
    return 0 if alone else config.splits * x.shape[0] * codes.shape[0]
