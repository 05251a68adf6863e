"""Codes out of 32-bit words. The first code of a word has its lowest bits, and a word its lowest
byte first, as safetensors stores it."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack(words: Tensor, bits: int) -> Tensor:
    """[R, C] i32 to [R, C * 32 / bits] u8, for 4 or 8 bits."""
    stored = words.contiguous().view(torch.uint8)
    if bits == 8:
        return stored
    return torch.stack((stored & 15, stored >> 4), dim=-1).flatten(-2)


def per_word(bits: int) -> int:
    return 32 // bits


def signed(codes: Tensor) -> Tensor:
    """u8 with its zero at 128 to i8 with its zero at 0."""
    return (codes ^ 128).view(torch.int8)


def groups_of(K: int, group_size: int) -> int:
    return -(-K // group_size) if group_size else 0
