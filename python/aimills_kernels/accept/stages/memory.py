"""Device memory: its bandwidth, and patterns that are written and read back."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from aimills_kernels.accept.context import Context
from aimills_kernels.accept.device_memory import free_bytes
from aimills_kernels.accept.stages._tools import (
    first_difference,
    is_gpu,
    option,
    over,
    synchronize,
)
from aimills_kernels.harness.ceilings import sustained_us
from aimills_kernels.harness.timing import Timer, timer_for

Pattern = Callable[[Tensor, int], Tensor]

_GPU_BYTES = 4 << 30  # of one buffer of the bandwidth tests
_CPU_BYTES = 256 << 20
_CACHES = 4  # a buffer is so many times the last level of cache at the least
_SHARE = {"gate": 0.1, "quick": 0.3, "full": 0.9, "burn-in": 0.9}  # of free memory, for patterns
_CPU_PATTERN_BYTES = 32 << 20
_CHUNK = 1 << 24  # words at a time; expected ones are made anew when they are read back
_PART = 0.15  # of the stage's time for each bandwidth
_MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # splitmix64's, as int64


def run(ctx: Context) -> str:
    rate = bandwidths(ctx)
    wrong, held, rounds = patterns(ctx, ctx.seconds * (1 - 3 * _PART))
    return (
        f"copies at {rate / 1e9:.4g} GB/s; {wrong} wrong bytes in {rounds} rounds of patterns over "
        f"{held / 2**20:.0f} MiB"
    )


# ---- bandwidth


def bandwidths(ctx: Context) -> float:
    """Copy, read and write, each as the median of samples; the rate of copying."""
    timer = timer_for(ctx.device)
    source, target = buffers(ctx, timer)
    size = source.numel() * source.element_size()
    copied = copy_rate(ctx, timer, source, target, ctx.seconds * _PART)
    ctx.measure("memory.copy", copied, bytes=size)
    for metric, call in (
        ("memory.read", lambda: source.sum(dtype=torch.float32)),
        ("memory.write", lambda: target.fill_(1.0)),
    ):
        ctx.measure(metric, size / _median_s(timer, call, ctx.seconds * _PART), bytes=size)
    return copied


def buffers(ctx: Context, timer: Timer) -> tuple[Tensor, Tensor]:
    """Two that no cache holds; by one option, "memory.bytes", in the burn too."""
    default = min(_GPU_BYTES, free_bytes(ctx.device) // 8) if is_gpu(ctx) else _CPU_BYTES
    size = ctx.options.get("memory.bytes", max(default, _CACHES * timer.cache_bytes))
    source = torch.ones(size // 4, dtype=torch.float32, device=ctx.device)
    return source, torch.empty_like(source)


def copy_rate(ctx: Context, timer: Timer, source: Tensor, target: Tensor, seconds: float) -> float:
    """Bytes read and written a second."""
    moved = 2 * source.numel() * source.element_size()
    return moved / _median_s(timer, lambda: target.copy_(source), seconds)


def _median_s(timer: Timer, call: Callable[[], object], seconds: float) -> float:
    samples = sorted(sustained_us(timer, call, seconds))
    return samples[len(samples) // 2] / 1e6


# ---- patterns: each is a function of a word's place, so that it needs no second copy


def address(place: Tensor, seed: int) -> Tensor:
    """Each word holds its own place, so that a word that went elsewhere is found."""
    return place.clone()


def complement(place: Tensor, seed: int) -> Tensor:
    return ~place


def walking_one(place: Tensor, seed: int) -> Tensor:
    """One bit set; the next word has the next bit, the next round begins with another."""
    return torch.ones_like(place) << ((place + seed) & 63)


def walking_zero(place: Tensor, seed: int) -> Tensor:
    return ~walking_one(place, seed)


def random(place: Tensor, seed: int) -> Tensor:
    """Numbers of splitmix64 (Steele et al., OOPSLA 2014): `place` of the sequence of `seed`."""
    x = seed + place * _MIX[0]
    x = (x ^ _shifted(x, 30)) * _MIX[1]
    x = (x ^ _shifted(x, 27)) * _MIX[2]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, as if without a sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


PATTERNS: dict[str, Pattern] = {
    "address": address,
    "complement of the address": complement,
    "walking one": walking_one,
    "walking zero": walking_zero,
    "random": random,
}


def patterns(ctx: Context, seconds: float) -> tuple[int, int, int]:
    """Write each pattern over the whole buffer, then read it back; again until the time is up, once
    at the least. Wrong bytes, bytes held, rounds."""
    end = time.monotonic() + seconds
    share = int(_SHARE[ctx.profile] * free_bytes(ctx.device))
    size = option(ctx, "pattern_bytes", share if is_gpu(ctx) else _CPU_PATTERN_BYTES)
    words = torch.empty(size // 8, dtype=torch.int64, device=ctx.device)
    wrong = dict.fromkeys(PATTERNS, 0)
    rounds = 0
    with ctx.progress("patterns", None) as step:
        while not rounds or not over(ctx, end):
            for name, pattern in PATTERNS.items():
                step(name)
                seed = ctx.seed + rounds
                write(words, pattern, seed)
                synchronize(ctx.device)
                wrong[name] += read_back(ctx, words, name, pattern, seed)
            rounds += 1
    for name, count in wrong.items():
        ctx.measure("memory.wrong", count, pattern=name, bytes=8 * words.numel(), rounds=rounds)
    return sum(wrong.values()), 8 * words.numel(), rounds


def write(words: Tensor, pattern: Pattern, seed: int) -> None:
    for begin, part in _chunks(words):
        part.copy_(pattern(_places(part, begin), seed))


def read_back(ctx: Context, words: Tensor, name: str, pattern: Pattern, seed: int) -> int:
    """Bytes that are not as they were written; the first of a chunk is an event."""
    wrong = 0
    for begin, part in _chunks(words):
        expected = pattern(_places(part, begin), seed)
        if not bool((part != expected).any()):
            continue
        wrong += int((part.view(torch.uint8) != expected.view(torch.uint8)).sum())
        where = first_difference(expected, part) or {}
        where["index"] = begin + where.get("index", 0)
        ctx.event("memory", f"{name}: word {where['index']} is not as written", **where)
    return wrong


def _chunks(words: Tensor) -> list[tuple[int, Tensor]]:
    parts = words.split(_CHUNK)
    return [(i * _CHUNK, part) for i, part in enumerate(parts)]


def _places(part: Tensor, begin: int) -> Tensor:
    return torch.arange(begin, begin + part.numel(), device=part.device)
