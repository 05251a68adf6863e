"""Tile sizes of the Triton attention kernels: pure functions of the problem and the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from aimills_kernels.kernels.hardware import shared_kib

FORWARD_SOURCES = (  # what its results and times depend on, beside its own file
    "kernels/attention/config.py", "kernels/attention/mask.py", "kernels/hardware.py",
)  # fmt: skip
PAGED_SOURCES = (
    *FORWARD_SOURCES, "kernels/attention/config_paged.py", "kernels/attention/triton_fwd.py",
    "kernels/attention/rows.py",
)  # fmt: skip
INVARIANT_SOURCES = (*PAGED_SOURCES, "kernels/attention/triton_paged.py")


@dataclass(frozen=True)
class Config:
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    tma: bool = False  # keys and values come by tensor maps: the forward's, on sm_90

    def options(self) -> dict[str, int]:
        """As a launch takes them."""
        return {
            "BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }  # fmt: skip

    def __str__(self) -> str:
        tile = f"{self.block_m}x{self.block_n}"
        way = " tma" if self.tma else ""
        return f"{tile} {self.num_warps} warps {self.num_stages} stages{way}"


@dataclass(frozen=True)
class Shape:
    """What the forward's tiles follow from: queries a sequence, padded head dim, element size in
    bytes. `aligned`: rows start at multiples of 16 elements, so that a load takes 16 bytes."""

    m: int
    dim: int
    itemsize: int
    aligned: bool = True
    mapped: bool = False  # whether tensor maps can describe k and v

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, m: int) -> Shape:
        aligned = all(is_aligned(t) for t in (q, k, v))
        mapped = aligned and all(_can_be_mapped(t) for t in (k, v))
        return cls(m, padded_dim(q, v), q.element_size(), aligned, mapped)


def padded_dim(q: Tensor, v: Tensor) -> int:
    """The head dim that tiles are made for: a power of 2, 16 at the least."""
    return max(16, 1 << (max(q.shape[-1], v.shape[-1]) - 1).bit_length())


def queries_of(q: Tensor, k: Tensor) -> int:
    """That tiles are chosen for. Triton makes one key a constant and its loop straight code, in
    which LLVM sets registers of the sums between the fence and a `wgmma` that reads them: so the
    tiles of a single query, which have none."""
    return q.shape[1] if k.shape[1] != 1 else 1


def mean_queries(q: Tensor, cu_seqlens_q: Tensor) -> int:
    """Of a packed sequence."""
    return q.shape[0] // max(cu_seqlens_q.shape[0] - 1, 1)


def is_aligned(t: Tensor) -> bool:
    """Whether Triton sees that each row starts at a multiple of 16 bytes: it knows of an address or
    a stride only whether 16 divides it."""
    *rows, last = t.stride()
    return last == 1 and t.data_ptr() % 16 == 0 and all(step % 16 == 0 for step in rows)


def _can_be_mapped(t: Tensor) -> bool:
    """With a tile of a whole row, whose elements are a power of 2; a map has no empty dim, and
    strides below 2^40 bytes."""
    dim = t.shape[-1]
    steps = (step * t.element_size() for step in t.stride()[:-1])
    return (
        t.numel() > 0 and dim >= 16 and dim & (dim - 1) == 0 and all(0 < s < 2**40 for s in steps)
    )


def candidates(shape: Shape, sm: int) -> tuple[Config, ...]:
    """The built-in tiles, and neighbours of them that fit the shared memory and the registers."""
    built_in = select_config(shape, sm)
    near = (c for c in _near(built_in) if _fits(c, shape, sm))
    # On sm_100 and sm_120 these put some bytes on the stack.
    mapped = (replace(built_in, tma=True),) if shape.mapped and sm == 90 else ()
    return built_in, *mapped, *near


def _near(c: Config) -> Iterator[Config]:
    yield replace(c, num_stages=c.num_stages + 1)
    yield replace(c, num_warps=12 - c.num_warps)  # 4 and 8
    yield replace(c, block_n=2 * c.block_n)
    yield replace(c, block_n=c.block_n // 2)
    yield replace(c, block_m=c.block_m // 2)


def _fits(c: Config, shape: Shape, sm: int) -> bool:
    """Queries, weights and each stage's keys and values in shared memory; sums and scores, which
    are float32, in half of a thread's registers."""
    if min(c.block_m, c.block_n) < 16:
        return False
    elements = c.block_m * (shape.dim + c.block_n) + 2 * c.num_stages * c.block_n * shape.dim
    held = c.block_m * (shape.dim + c.block_n) / (32 * c.num_warps)
    return elements * shape.itemsize <= 1024 * shared_kib(sm) and held <= 128


def select_config(shape: Shape, sm: int) -> Config:
    """The built-in tiles. Not tuned on a GPU yet: chosen so that ptxas reports no spill on any
    architecture."""
    m, dim, itemsize = shape.m, shape.dim, shape.itemsize
    if not shape.aligned:
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
    if dim > 128 and (itemsize == 4 or not aligned):
        return Config(16, 16, 8, 2 if itemsize == 4 else 1), Config(16, 16, 8, 1)
    if itemsize == 4 or not aligned:
        return Config(32, 16, 8, 1), Config(16, 32, 8, 1)
    hopper, blackwell = sm == 90, sm // 10 == 10
    if dim > 128:
        if blackwell:
            return Config(128, 32, 8, 1), Config(32, 64, 8, 1)
        return Config(64, 32, 8, 1) if hopper else Config(32, 32, 8, 2), Config(32, 32, 8, 1)
    if dim <= 64:
        if hopper or blackwell:
            return Config(128, 64, 8, 2), Config(64, 128, 8, 2)
        return Config(128, 32, 8, 2), Config(32, 128, 8, 2)
    if hopper:
        return Config(128, 64, 8, 2), Config(32, 64 if crowded else 128, 8, 2)
    if blackwell:
        return Config(128, 32, 8, 2), Config(32, 128, 8, 2)
    return Config(64, 64, 8, 2), Config(64, 64, 8, 1)
