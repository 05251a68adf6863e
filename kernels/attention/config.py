"""Tile sizes of the Triton attention kernels: a pure function of the problem and the GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """As a launch takes them."""
        return {
            "BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }  # fmt: skip


def select_config(m: int, dim: int, itemsize: int, sm: int, aligned: bool = True) -> Config:
    """Tiles for `m` queries a sequence, a padded head dim and an element size in bytes.

    `aligned`: rows start at multiples of 16 elements, so that a load takes 16 bytes at once.
    Not tuned on a GPU yet: chosen so that ptxas reports no spill on any architecture.
    """
    if not aligned:
        return _unaligned(m, dim, itemsize, sm)
    if itemsize == 4:  # no tensor cores in full float32: registers hold the tiles
        if m <= 16:
            return Config(16, 32 if dim <= 128 else 16, 8, 2)
        return Config(32, 32, 8, 2) if dim <= 64 else Config(32, 16, 8, 1)
    if m <= 16:
        return Config(16, 32, 4, 3) if dim > 128 else Config(16, 64, 8, 2 if dim > 64 else 3)
    hopper, blackwell = sm == 90, sm // 10 == 10
    if dim > 128:
        return Config(128 if hopper else 64, 64 if blackwell else 32, 8, 2)
    if hopper:
        return Config(128, 128 if dim <= 64 else 64, 8, 3 if dim <= 64 else 2)
    if dim > 64:
        return Config(128 if m > 64 else 64, 64 if blackwell else 32, 8, 2)
    return Config(128, 128 if blackwell else 64, 8, 2) if m > 64 else Config(64, 64, 4, 2)


def _unaligned(m: int, dim: int, itemsize: int, sm: int) -> Config:
    """Element-wise loads keep an address a register each: the tiles above would spill."""
    if itemsize == 4:
        return Config(16, 16, 8, 1)
    if m <= 16:
        return Config(16, 32, 8, 2)
    if dim > 128:
        return Config(32, 32, 8, 1)
    return Config(64 if sm >= 90 else 32, 32, 8, 2)


def select_backward_config(
    dim: int, itemsize: int, sm: int, crowded: bool, aligned: bool = True
) -> tuple[Config, Config]:
    """Tiles of the kernel for dq, which holds `block_m` queries, and of that for dk and dv, which
    holds `block_n` keys. `crowded`: a soft cap or a padded head dim takes more registers. Chosen
    like the forward's."""
    if itemsize == 4:
        return Config(16, 16, 4, 1), Config(16, 16, 4, 1)
    if not aligned:
        if dim > 128:
            return Config(16, 16, 8, 1), Config(16, 16, 8, 1)
        return Config(32, 16, 8, 1), Config(16, 32, 8, 1)
    hopper, blackwell = sm == 90, sm // 10 == 10
    if dim > 128:
        if blackwell:
            return Config(128, 32, 8, 1), Config(32, 64, 8, 1)
        return Config(64 if hopper else 32, 32, 8, 1), Config(32, 32, 8, 1)
    if dim <= 64:
        if hopper or blackwell:
            return Config(128, 64, 8, 2), Config(64, 128, 8, 2)
        return Config(128, 32, 8, 2), Config(32, 128, 8, 2)
    if hopper:
        return Config(128, 64, 8, 2), Config(32, 64 if crowded else 128, 8, 2)
    if blackwell:
        return Config(128, 32, 8, 2), Config(32, 128, 8, 2)
    return Config(64, 64, 8, 2), Config(64, 64, 8, 1)
