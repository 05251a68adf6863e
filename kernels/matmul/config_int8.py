"""Tiles of the int8 matmul kernels: pure functions of problem and GPU. Not tuned on a GPU yet."""

from __future__ import annotations

from torch import Tensor

from aimills_kernels.kernels.hardware import shared_kib
from aimills_kernels.kernels.matmul.config import Config, Shape, _aligned, _cdiv

# An int32 holds so many products of -128 by -128.
DEEPEST = 2**17 - 1
_SMS = 132  # of an H100 or H200


def shape_of(a: Tensor, b: Tensor) -> Shape:
    (m, k), n = a.shape, b.shape[0]
    return Shape(m, n, k, decode=False, aligned=_aligned(a) and _aligned(b))


def select_w8_config(m: int, n: int, aligned: bool, sm: int) -> Config:
    """Tiles of [n, m], with the weights on the wide side: few rows of x cost no more than they are.

    `aligned`: rows of weights and x are contiguous and start at multiples of 16 bytes.
    """
    if m <= 16:
        block_m, block_n, block_k, warps = 16, 64 if _cdiv(n, 64) >= _SMS else 32, 128, 4
    elif not aligned or m <= 64 or _cdiv(m, 128) * _cdiv(n, 128) < _SMS:
        block_m, block_n, block_k, warps = 64, 64, 64, 4
    else:
        block_m, block_n, block_k, warps = 128, 128, 64, 8
    if not aligned:
        block_k, warps = 64, 8 if m > 16 else 4
    stage = (2 * block_m + block_n) * block_k
    copy = 2 * block_n * block_k  # of the weights in 16 bits, where a kernel puts it there
    stages = (shared_kib(sm) * 1024 - 4096 - copy) // stage
    return Config(block_m, block_n, block_k, warps, max(2, min(4, stages)))
