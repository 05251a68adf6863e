"""Tile sizes of the Triton matmul and quantisation kernels: pure functions of problem and GPU.

Not tuned on a GPU yet: chosen so that ptxas reports no spill on any architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aimills_kernels._dispatch import interpreting
from aimills_kernels.kernels.hardware import shared_kib

_SMS = 132  # of an H100 or H200; fewer tiles than that leave some idle
INVARIANT_M = 64  # the M whose tiles serve every M with batch_invariant=True
MAX_SPLITS = 8
MAX_LEADING = 3
BLOCK = 128  # of K, and of rows with 128x128, that have one scale
GATES, EACH = 1, 2  # Shape.several


@dataclass(frozen=True)
class Config:
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 8  # tiles of M that share their tiles of b in L2
    splits: int = 1  # of K, each summed by a program of its own

    def __str__(self) -> str:
        tile = f"{self.block_m}x{self.block_n}x{self.block_k}"
        shape = f"{tile} {self.num_warps} warps {self.num_stages} stages"
        if self.splits > 1:
            shape += f" {self.splits} splits"
        return shape if self.group_m == 8 else f"{shape} groups of {self.group_m}"


@dataclass(frozen=True)
class Shape:
    """What the tiles of [m, k] by [n, k] follow from.

    `decode`: fp8 codes go to the tensor cores as float16. `aligned`: rows of both are contiguous
    and start at multiples of 16 bytes; else codes are loaded one by one, and each needs registers
    for its address: 128 codes in a thread spilled 2 KiB.
    """

    m: int
    n: int
    k: int
    decode: bool
    aligned: bool
    fixed: bool = False  # no other tiles than the built-in ones may serve
    several: int = 0  # scales of blocks for a tile's columns: EACH, or its GATES and those beside

    @classmethod
    def of(
        cls, a: Tensor, b: Tensor, out_dtype: torch.dtype, accum: str, batch_invariant: bool,
        sm: int, rows: int | None = None, several: int = 0,
    ) -> Shape:  # fmt: skip
        """sm_80 has no tensor cores for fp8; for a float32 output their sums are too coarse, unless
        the caller asks for them. Where a row's bits must not depend on the others, the tiles don't
        on a: neither on its rows, nor on where they lie. `rows`: of a, where not all are meant."""
        decode = sm < 89 or (out_dtype == torch.float32 and accum != "fast") or interpreting()
        (n, k), aligned = b.shape[-2:], rows_aligned(b)
        if batch_invariant:
            return cls(INVARIANT_M, n, k, decode, aligned, True, several)
        m, aligned = a.shape[0] if rows is None else rows, aligned and rows_aligned(a)
        return cls(m, n, k, decode, aligned, False, several)


def rows_aligned(t: Tensor) -> bool:
    """Contiguous ones that start at multiples of 16 elements and bytes."""
    *pitches, step = t.stride()
    return step == 1 and all(p % 16 == 0 for p in pitches) and t.data_ptr() % 16 == 0


def candidates(shape: Shape, blocks: bool, sm: int) -> tuple[Config, ...]:
    """The built-in tiles, and neighbours of them that fit the shared memory and the registers, with
    no more splits: so many sums the workspace holds."""
    built_in = select_split_config(shape, blocks, sm)
    fewer = [replace(built_in, splits=built_in.splits // 2)] if built_in.splits > 1 else []
    return built_in, *fewer, *_others(built_in, shape, sm)


def _others(built_in: Config, shape: Shape, sm: int) -> Iterator[Config]:
    if shape.fixed:
        return iter(())
    own = built_in.block_m * built_in.block_n // (32 * built_in.num_warps)
    most = _outputs_with_scales(sm) if shape.several == EACH else 32 if shape.several else 64
    sums = max(own, most)
    c = built_in
    stages = _stages(c.block_m, c.block_n, c.block_k, shape.decode, sm)
    return (c for c in _near(built_in, stages) if _fits(c, shape, sm, sums))


def _near(c: Config, stages: int = 4) -> Iterator[Config]:
    """A stage more, or one less where `stages` fit; other warps, widths, depths and groups."""
    if c.num_stages < min(4, stages):
        yield replace(c, num_stages=c.num_stages + 1)
    elif c.num_stages > 2:
        yield replace(c, num_stages=c.num_stages - 1)
    yield replace(c, num_warps=12 - c.num_warps)  # 4 and 8
    yield replace(c, block_n=2 * c.block_n)
    yield replace(c, block_k=c.block_k // 2)
    yield replace(c, group_m=4)


def _fits(c: Config, shape: Shape, sm: int, sums: int = 64) -> bool:
    """A block's sums are added to those before it, so a thread holds two of each, of `sums` at the
    most; with those it may hold 64 codes whose addresses it needs. Groups count where there are
    more tiles than in one."""
    if c.group_m < 8 and shape.m <= c.group_m * c.block_m:
        return False
    if c.block_k < 32 or (sm // 10 == 10 and shape.n % 16 and c.block_n > 64):
        return False
    threads, codes = 32 * c.num_warps, (c.block_m + c.block_n) * c.block_k
    if c.block_m * c.block_n > sums * threads:
        return False
    if not shape.aligned and codes > 64 * threads:
        return False
    return c.num_stages <= _stages(c.block_m, c.block_n, c.block_k, shape.decode, sm)


def _stages(block_m: int, block_n: int, block_k: int, decode: bool, sm: int) -> int:
    """So many fit the shared memory."""
    stage = (block_m + block_n) * block_k
    copies = 2 * stage if decode else 0  # in float16, where wgmma reads them from shared memory
    return (shared_kib(sm) * 1024 - 4096 - copies) // stage


def select_config(shape: Shape, sm: int) -> Config:
    """The built-in tiles."""
    m, n, k, decode, aligned = shape.m, shape.n, shape.k, shape.decode, shape.aligned
    block_k = 128 if sm // 10 in (9, 10) and not decode else 64
    if m <= 16:
        # One row of tiles that reads b once: many narrow ones, each with much of b in flight.
        block_m, block_n, warps = 16, 32 if _cdiv(n, 32) >= _SMS // 2 else 16, 4
        block_k = (128 if decode or k < 256 else 256) if aligned else 64
    elif not aligned:
        # A row alone has the bits that it has in a group, whose tiles are 32 deep here.
        block_m, block_n, block_k, warps = 64, 64, 32 if shape.fixed else 64, 8
    elif m <= 64 or _cdiv(m, 128) * _cdiv(n, 128) < _SMS or (sm // 10 == 10 and n % 16):
        # On sm_100 a thread stores whole rows of the tile; 64 unaligned addresses spilled 64 bytes,
        # and 32 of a float32 output, beside codes in float16 and a float32 bias, 8.
        block_m, block_n, warps = 64, 64, 8 if sm // 10 == 10 and n % 16 and decode else 4
    else:
        # Of outputs whose rows are not aligned each has an address: with a bias and a residual 64
        # of a thread spilled up to 880 bytes, 32 none.
        block_m, block_n, warps = 64 if n % 16 else 128, 128, 8
    stages = _stages(block_m, block_n, block_k, decode, sm)
    return Config(block_m, block_n, block_k, warps, max(2, min(4, stages)))


def select_block_config(shape: Shape, sm: int) -> Config:
    """The built-in tiles where each block of 128 of K has a scale."""
    found = select_config(shape, sm)
    # With a scale for each column 128 by 128 spilled up to 904 bytes, on each architecture.
    block_m, deepest = min(64, found.block_m) if shape.several else found.block_m, BLOCK
    if shape.several and shape.m > 16:
        # Beside these, codes that are read one by one, 64 deep, spilled up to 72 bytes on sm_90 and
        # 100, there 8 from 64 rows even of 32 deep; codes in float16 and unaligned outputs 32 on
        # sm_120.
        if not shape.aligned:
            block_m, deepest = 32 if sm // 10 == 10 else block_m, 32
        elif sm // 10 == 12 and shape.decode and shape.n % 16:
            deepest = 32
    found = replace(found, block_m=block_m, block_k=min(deepest, found.block_k))
    outputs = block_m * found.block_n // (32 * found.num_warps)
    if shape.several == EACH and outputs > _outputs_with_scales(sm):
        return replace(found, block_n=min(64, found.block_n), num_warps=8)
    return found


def _outputs_with_scales(sm: int) -> int:
    """Of a thread, where each column of a tile has a scale. On sm_100 a thread has parts of whole
    rows, and an address for each of their columns: 32 outputs spilled up to 352 bytes."""
    return 16 if sm // 10 == 10 else 32


def select_split_config(shape: Shape, blocks: bool, sm: int) -> Config:
    """The built-in tiles, and splits of K where tiles alone leave too little of b in flight.

    The sums of splits are written and read once: at most a quarter of the bytes of b.
    """
    found = select_block_config(shape, sm) if blocks else select_config(shape, sm)
    return _split(found, shape)


def select_codes_config(shape: Shape, blocks: bool, columns: int, sm: int) -> Config:
    """The built-in tiles where the output is quantised: `columns` wide, if not 0."""
    found = select_split_config(shape, blocks, sm)
    return found if columns == 0 or found.splits > 1 else _as_wide(found, shape, columns, sm)


def _as_wide(found: Config, shape: Shape, columns: int, sm: int) -> Config:
    """Half as many rows then need no more registers; of rows that are not aligned, as above, 64
    outputs of a thread spilled 56 bytes."""
    block_k = min(64 if shape.decode or columns > 128 else BLOCK, found.block_k)
    block_k = block_k if shape.aligned else 32
    block_m = min(found.block_m, (32 if shape.decode else 64) if shape.aligned else 16)
    warps = 8 if block_m * columns > 8192 or not shape.aligned or shape.n % 16 else 4
    stages = max(2, min(4, _stages(block_m, columns, block_k, shape.decode, sm)))
    return replace(found, block_m=block_m, block_n=columns, block_k=block_k, num_warps=warps,
                   num_stages=stages)  # fmt: skip


def codes_candidates(shape: Shape, blocks: bool, columns: int, sm: int) -> tuple[Config, ...]:
    """As `candidates`, for `select_codes_config`. Without splits a tile stores codes and a scale of
    each row: one of another width would store too many scales, past their end."""
    built_in = select_codes_config(shape, blocks, columns, sm)
    if columns == 0:
        return candidates(shape, blocks, sm)
    split = built_in.splits > 1
    found = candidates(shape, blocks, sm) if split else (built_in, *_others(built_in, shape, sm))
    return tuple(c for c in found if c.splits > 1 or c.block_n == columns)


def _split(found: Config, shape: Shape) -> Config:
    if shape.fixed or shape.m > INVARIANT_M:
        return found
    tiles = _cdiv(shape.m, found.block_m) * _cdiv(shape.n, found.block_n)
    most = min(
        4 * _SMS // max(1, tiles), shape.k // (2 * _depth(found)), shape.k // (32 * shape.m or 1),
        MAX_SPLITS,
    )  # fmt: skip
    blocks = _cdiv(shape.k, _depth(found))
    each = _cdiv(blocks, max(1, 1 << max(0, most.bit_length() - 1)))
    return replace(found, splits=max(1, _cdiv(blocks, max(1, each))))  # none of them empty


def _depth(c: Config) -> int:
    """A split is a multiple of that deep: no block of scales is that of two."""
    return max(BLOCK, c.block_k)


def per_split(c: Config, k: int) -> int:
    return _cdiv(_cdiv(k, _depth(c)), c.splits) * _depth(c)


def split_sums(c: Config, m: int, n: int) -> int:
    """Floats of the workspace."""
    return c.splits * m * n if c.splits > 1 else 0


def select_grouped_config(shape: Shape, blocks: bool, sm: int, columns: int = 0) -> Config:
    """The built-in tiles of rows in groups, `columns` wide if not 0. On sm_80, with codes in
    float16, spilled: 128 by 128 with scales of blocks (72 bytes) and 256 columns of four warps (8);
    where codes are read one by one and there are gates, 64 deep (104 on sm_90 with scales of
    blocks, 64 even of 32 deep on sm_80)."""
    found = select_block_config(shape, sm) if blocks else select_config(shape, sm)
    if blocks and shape.decode:
        # 128 columns with a scale of each spilled up to 72 bytes on sm_80.
        block_n = min(64 if shape.several == EACH else 128, found.block_n)
        found = replace(found, block_m=min(64, found.block_m), block_n=block_n)
    elif shape.n % 16 and sm // 10 != 9:
        # 32 outputs of a thread, whose rows are not aligned, spilled 56 bytes on sm_80, 40 on 120.
        found = replace(found, block_n=min(64, found.block_n))
    if not shape.aligned:
        found = replace(found, block_k=32, block_n=min(32 if blocks else 64, found.block_n))
    if columns:
        found = _as_wide(found, shape, columns, sm)
        found = replace(found, num_warps=8) if shape.decode and columns > 128 else found
    return found


def grouped_candidates(shape: Shape, blocks: bool, sm: int, columns: int = 0) -> tuple[Config, ...]:
    """As `candidates`, for `select_grouped_config`."""
    built_in = select_grouped_config(shape, blocks, sm, columns)
    others = _others(built_in, shape, sm)
    return built_in, *(c for c in others if columns in (0, c.block_n))


def blocks_of(n: int) -> int:
    return _cdiv(n, BLOCK)


def in_blocks(scale_a: Tensor, scale_b: Tensor, rows_b: int) -> bool:
    """Whether a scale is that of a block of K, or of 128 rows of b. With at most 128 of K a row's
    scale is its block's. Scales of groups may be one for all of a group: [E, 1, 1]."""
    if any(t.dim() > 1 and t.shape[-1] != 1 for t in (scale_a, scale_b)):
        return True
    one = scale_b.dim() == 3 and scale_b.shape[1] == 1
    return scale_b.dim() > 1 and not one and scale_b.shape[-2] != rows_b


def several_scales(
    scale_a: Tensor, scale_b: Tensor, rows_b: int, gated: bool, gates: int = 0
) -> int:
    """`Shape.several`. gates: so many a tile has at the most, where the kernel can read one scale
    for all of them and one for the columns beside."""
    of_128 = scale_b.dim() > 1 and scale_b.shape[-2] != rows_b
    if not in_blocks(scale_a, scale_b, rows_b) or (of_128 and not gated):
        return 0
    return GATES if of_128 and gates and rows_b // 2 % gates == 0 else EACH


def rows_in_each(x: Tensor, groups: int) -> int:
    """So many rows a group has, at the most or on average: [E, M, K] or [T, K]."""
    return x.shape[1] if x.dim() == 3 else _cdiv(x.shape[0], max(1, groups))


@dataclass(frozen=True)
class QuantizeConfig:
    block_r: int
    block_k: int
    num_warps: int


def select_quantize_config(k: int, by_row: bool) -> QuantizeConfig:
    """Tiles of [rows, k]; `by_row` holds rows of up to 16384 elements in registers whole."""
    block_k = max(16, _next_power_of_2(k))
    if block_k > (16384 if by_row else 4096):
        return QuantizeConfig(1, 4096, 8 if by_row else 4)
    block_r = max(1, 2048 // block_k)
    return QuantizeConfig(block_r, block_k, min(16, max(4, block_r * block_k // 1024)))


def tensor_tiles(shape: tuple[int, ...]) -> int:
    """Of one scale for all of a tensor: each leaves a maximum in the workspace."""
    count, k = math.prod(shape), shape[-1]
    if count == 0:
        return 0
    config = select_quantize_config(k, by_row=False)
    return _cdiv(count // k, config.block_r) * _cdiv(k, config.block_k)


def select_quantize_block_config(rows: int, by_row: bool) -> QuantizeConfig:
    """Tiles of [rows, 128]: several blocks of 1x128, or one of 128x128."""
    if not by_row:
        return QuantizeConfig(BLOCK, BLOCK, 16)
    block_r = min(16, _next_power_of_2(rows))
    return QuantizeConfig(block_r, BLOCK, 4 if block_r > 4 else 1)


# Rows that the fused kernels hold in registers. A norm of twice as many spilled 56 to 88 bytes.
LONGEST_NORM, LONGEST_SWIGLU = 16384, 32768


def fused_blocks(blocks: int) -> tuple[int, int]:
    """Blocks of 128 in the tile of a row, and warps: 32 elements a thread at the most."""
    tile = _next_power_of_2(blocks)
    return tile, min(32, max(1, tile // 8))


def row_stride(t: Tensor) -> int | None:
    """From row to row, over all dims but the last; None where there is no single one."""
    _, steps = leading_dims(t.shape, t.stride())
    return None if len(steps) > 1 else steps[0] if steps else 0


def leading_dims(shape: Sequence[int], stride: Sequence[int]) -> tuple[list[int], list[int]]:
    """Sizes and strides of all dims but the last, neighbours merged where memory allows it."""
    sizes: list[int] = []
    steps: list[int] = []
    for size, step in zip(shape[:-1], stride[:-1], strict=True):
        if size == 1:
            continue
        if sizes and steps[-1] == size * step:
            sizes[-1], steps[-1] = sizes[-1] * size, step
        else:
            sizes.append(size)
            steps.append(step)
    return sizes, steps


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
