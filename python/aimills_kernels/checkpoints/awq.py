"""AWQ, version "gemm": 4-bit codes packed along N, eight to a word in an order of its own.

qweight i32 [K, N / 8]   nibble i of a word holds column ORDER[i] of its eight
qzeros  i32 [G, N / 8]   likewise, the zero itself
scales      [G, N]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.checkpoints._bits import groups_of, unpack
from aimills_kernels.checkpoints._config import Config
from aimills_kernels.checkpoints._files import Part
from aimills_kernels.checkpoints._quantized import Quantized
from aimills_kernels.checkpoints.gptq import check_middle, integers

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Awq:
    """Layers of one AWQ checkpoint."""

    group_size: int  # -1: a whole row
    symmetric: bool
    words = frozenset({"qweight", "qzeros", "scales"})

    @property
    def title(self) -> str:
        groups = "whole rows" if self.group_size == -1 else f"groups of {self.group_size}"
        return f"AWQ gemm, 4 bits, {groups}"

    def read(self, part: Part) -> Quantized | None:
        if not any(word in part for word in self.words):
            return None
        words = part.matrix("qweight", torch.int32)
        K, N = words.shape[0], words.shape[1] * 8
        group_size = K if self.group_size == -1 else self.group_size
        G = groups_of(K, group_size)
        why = f"{K} inputs in groups of {group_size}, {N} outputs"
        scales = part.scales("scales", (G, N), why=why)
        zeros = None
        if not self.symmetric or "qzeros" in part:
            zeros = _ordered(part.read("qzeros", (torch.int32,), (G, N // 8), why=why))
        if self.symmetric and zeros is not None:
            check_middle(part, "qzeros", zeros, 4, "zero_point is false")
            zeros = None
        return integers(_ordered(words).T.contiguous(), 4, scales, zeros, None, group_size)


def _ordered(words: Tensor) -> Tensor:
    """[R, N / 8] i32 to codes [R, N] u8."""
    place = sorted(range(8), key=ORDER.__getitem__)
    codes = unpack(words, 4).unflatten(-1, (-1, 8))
    return codes[..., place].flatten(-2)


def parse(config: Config) -> Awq:
    name = next((n for n in ("version", "checkpoint_format", "format") if config.get(n)), "version")
    version = config.get(name, "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise config.error(name, f"is {shown(version)}, expected 'gemm'")
    config.one_of("bits" if config.get("bits") is not None else "w_bit", (4,))
    size = "group_size" if config.get("group_size") is not None else "q_group_size"
    return Awq(config.group_size(size, 128), not config.one_of("zero_point", (True, False), True))
