"""Tiles of the int8 matmul kernels: pure functions of problem and GPU. Not tuned on a GPU yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from aimills_kernels.kernels.hardware import shared_kib
from aimills_kernels.kernels.matmul.config import (
    INVARIANT_M,
    Config,
    Shape,
    _cdiv,
    _fits,
    _near,
    rows_aligned,
    select_config,
)

_SMS = 132  # of an H100 or H200


def deepest(zero: bool) -> int:
    """The K whose sums an int32 holds: of 128 by 128, with a zero point of 255 by 128."""
    return (2**31 - 1) // ((255 if zero else 128) * 128)


def shape_of(a: Tensor, b: Tensor) -> Shape:
    (m, k), n = a.shape, b.shape[0]
    return Shape(m, n, k, decode=False, aligned=rows_aligned(a) and rows_aligned(b))


def select_int8_config(shape: Shape, zero: bool, sm: int) -> Config:
    """The built-in tiles. With a zero point the codes of b are in registers once more; loaded one
    by one, 64 of K spilled 48 bytes on sm_80."""
    found = select_config(shape, sm)
    return replace(found, block_k=32) if zero and not shape.aligned else found


def int8_candidates(shape: Shape, zero: bool, sm: int) -> tuple[Config, ...]:
    """The built-in tiles, and neighbours of them that fit the shared memory and the registers."""
    built_in = select_int8_config(shape, zero, sm)
    return built_in, *(c for c in _near(built_in) if _fits(c, shape, sm))


def w8_shape_of(x: Tensor, b: Tensor, batch_invariant: bool) -> tuple[int, int, bool, bool]:
    """m, n, whether rows are aligned, and whether no other tiles than the built-in ones may serve:
    where a row's bits must not depend on the others, tiles don't on x."""
    if batch_invariant:
        return INVARIANT_M, len(b), rows_aligned(b), True
    return len(x), len(b), rows_aligned(x) and rows_aligned(b), False


def select_w8_config(m: int, n: int, aligned: bool, fixed: bool, sm: int) -> Config:
    """Tiles of [n, m], with the weights on the wide side: few rows of x cost no more than they are.

    `aligned`: rows of weights and x are contiguous and start at multiples of 16 bytes; those of the
    weights, where the tiles are `fixed`.
    """
    if m <= 16:
        wide = _cdiv(n, 64) >= _SMS and sm != 90  # 64 channels there are a `wgmma`'s: below
        block_m, block_n, block_k, warps = 16, 64 if wide else 32, 128, 4
    elif not aligned or m <= 64 or n % 16 or _cdiv(m, 128) * _cdiv(n, 128) < _SMS:
        # Addresses of an output whose rows are not aligned spilled 8 bytes on sm_120 in 128x128.
        block_m, block_n, block_k, warps = 64, 64, 64, 4
    else:
        block_m, block_n, block_k, warps = 128, 128, 64, 8
    if not aligned:
        block_k, warps = 64, 8 if m > 16 else 4
    elif fixed:  # rows of x may still be read one by one: with 4 warps up to 32 bytes spilled
        warps = 8
    stage = (2 * block_m + block_n) * block_k
    copy = 2 * block_n * block_k  # of the weights in 16 bits, where a kernel puts it there
    stages = (shared_kib(sm) * 1024 - 4096 - copy) // stage
    if sm == 90 and m > 16:
        # In a pipelined loop Triton 3.6 converts the next weights into registers that a `wgmma`
        # still reads; the executor found it.
        return Config(block_m, block_n, block_k, warps, 1)
    return Config(block_m, block_n, block_k, warps, max(2, min(4, stages)))


def w8_candidates(m: int, n: int, aligned: bool, fixed: bool, sm: int) -> tuple[Config, ...]:
    """The built-in tiles, and neighbours of them that fit the shared memory and the registers."""
    built_in = select_w8_config(m, n, aligned, fixed, sm)
    return (built_in,) if fixed else (built_in, *_near_w8(built_in, m, n, aligned, sm))


def _near_w8(built_in: Config, m: int, n: int, aligned: bool, sm: int) -> Iterator[Config]:
    for c in _near(built_in):
        threads, step = 32 * c.num_warps, (2 * c.block_m + c.block_n) * c.block_k
        shared = step * c.num_stages + 2 * c.block_n * c.block_k
        if c.block_k < 32 or c.block_m * c.block_n > 64 * threads:
            continue
        if (not aligned and step > 64 * threads) or (n % 16 and c.block_n > 64):
            continue
        if c.group_m < 8 and m <= c.group_m * c.block_m:
            continue
        if sm == 90 and c.block_n >= 64 and c.num_stages > 1:  # what a `wgmma` reads: above
            continue
        if shared <= shared_kib(sm) * 1024 - 4096:
            yield c
