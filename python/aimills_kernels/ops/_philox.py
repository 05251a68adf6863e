"""Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011): numbers that are a function of a key and a counter, alike on every machine."""

from __future__ import annotations

_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four words of 32 bits."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        low, high = _MULTIPLY[0] * a, _MULTIPLY[1] * c
        a, b, c, d = (high >> 32) ^ b ^ first, high & _MASK, (low >> 32) ^ d ^ second, low & _MASK
        first, second = (first + _WEYL[0]) & _MASK, (second + _WEYL[1]) & _MASK
    return a, b, c, d


def two_uniforms(seed: int, stream: int, index: int) -> tuple[float, float]:
    """Two numbers from 0 to below 1, of 53 bits, by the seed, the stream (both of 64 bits) and a
    number within the stream."""
    words = philox(
        (index & _MASK, index >> 32 & _MASK, stream & _MASK, stream >> 32 & _MASK),
        (seed & _MASK, seed >> 32 & _MASK),
    )
    return _uniform(*words[:2]), _uniform(*words[2:])


def _uniform(high: int, low: int) -> float:
    return ((high >> 5) * 2**26 + (low >> 6)) / 2**53
