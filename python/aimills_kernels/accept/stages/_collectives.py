"""Collectives over all ranks: bus bandwidth as nccl-tests counts it, results checked.

Bus bandwidth is bytes / seconds times a factor that makes it comparable with a link's rate, for n
ranks: 2 (n - 1) / n for all-reduce, (n - 1) / n for the others, where the bytes are those of the
whole buffer (nccl-tests, doc/PERFORMANCE.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from aimills_kernels.accept import message_sizes
from aimills_kernels.accept.context import Context, Group
from aimills_kernels.accept.device_memory import free_bytes
from aimills_kernels.accept.message_sizes import CHECKS, SIZES
from aimills_kernels.accept.stages._tools import (
    is_gpu,
    option,
    reason,
    stopped,
    synchronize,
)

_CPU_SIZES = (64 << 10, 1 << 20)
# Data repeats after a prime number of elements, so that no power of two moves it onto itself.
_PERIOD = 997
_LEVELS = 8  # small integers: sums over thousands of ranks are exact in f32
_MOST_CALLS = 200
_COPIES = 4  # of the buffer that have to fit: in, out, and what comparing takes


@dataclass
class Problem:
    """Buffers of one size. `mine(round)` fills the input, `expected(round)` gives a period of each
    block of the result, a row a block."""

    ctx: Context
    group: Group
    count: int  # elements of a rank's block, a multiple of the period

    def table(self, rank: int, block: int, round_: int) -> Tensor:
        return self.base(round_).roll(31 * rank + 17 * block)

    def base(self, round_: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.ctx.seed + round_)
        return torch.randint(_LEVELS, (_PERIOD,), generator=generator).float()

    def totals(self, blocks: Iterable[int], round_: int) -> list[Tensor]:
        """Of these blocks the sum over all ranks. Blocks differ by a turn alone, so that a pod of
        thousands of ranks adds up once and not once for each block."""
        base, total = self.base(round_), torch.zeros(_PERIOD)
        for rank in range(self.group.world):
            total += base.roll(31 * rank)
        return [total.roll(17 * block) for block in blocks]

    def blocks(self, n: int) -> Tensor:
        return torch.empty(n * self.count, device=self.ctx.device)

    def fill(self, buffer: Tensor, tables: list[Tensor]) -> None:
        for part, table in zip(buffer.chunk(len(tables)), tables, strict=True):
            part.view(-1, _PERIOD).copy_(table)

    def wrong(self, buffer: Tensor, tables: list[Tensor]) -> int:
        """NaN is wrong: it equals nothing."""
        return sum(
            int((part.view(-1, _PERIOD) != table.to(part.device)).sum())
            for part, table in zip(buffer.chunk(len(tables)), tables, strict=True)
        )


Step = tuple[Callable[[int], None], Callable[[], None], Callable[[int], int]]


def all_reduce(p: Problem) -> Step:
    n = p.group.world
    buffer = p.blocks(n)
    return (
        lambda i: p.fill(buffer, [p.table(p.group.rank, b, i) for b in range(n)]),
        lambda: dist.all_reduce(buffer, group=p.group.data),
        lambda i: p.wrong(buffer, p.totals(range(n), i)),
    )


def all_gather(p: Problem) -> Step:
    n, own, out = p.group.world, p.blocks(1), p.blocks(p.group.world)
    return (
        lambda i: p.fill(own, [p.table(p.group.rank, 0, i)]),
        lambda: dist.all_gather_into_tensor(out, own, group=p.group.data),
        lambda i: p.wrong(out, [p.table(r, 0, i) for r in range(n)]),
    )


def reduce_scatter(p: Problem) -> Step:
    n, own, out = p.group.world, p.blocks(p.group.world), p.blocks(1)
    return (
        lambda i: p.fill(own, [p.table(p.group.rank, b, i) for b in range(n)]),
        lambda: dist.reduce_scatter_tensor(out, own, group=p.group.data),
        lambda i: p.wrong(out, p.totals([p.group.rank], i)),
    )


def all_to_all(p: Problem) -> Step:
    n, own, out = p.group.world, p.blocks(p.group.world), p.blocks(p.group.world)
    return (
        lambda i: p.fill(own, [p.table(p.group.rank, b, i) for b in range(n)]),
        lambda: dist.all_to_all_single(out, own, group=p.group.data),
        lambda i: p.wrong(out, [p.table(r, p.group.rank, i) for r in range(n)]),
    )


COLLECTIVES: dict[str, Callable[[Problem], Step]] = dict(
    zip(
        message_sizes.COLLECTIVES, (all_reduce, all_gather, reduce_scatter, all_to_all), strict=True
    )
)


def warm_up(ctx: Context, group: Group) -> None:
    dist.all_reduce(torch.ones(1, device=ctx.device), group=group.data)
    synchronize(ctx.device)


def run(ctx: Context, group: Group, sku: str = "") -> int:
    """Every collective at every size that GPUs of this name have the time for; the metric is the
    rate at the largest. Where one of the sizes did not run, there is none. How many ran."""
    done = 0
    for name, make in COLLECTIVES.items():
        sizes = _sizes(ctx, name, group.world, sku)
        rates: dict[int, float] = {}
        wrong = elements = moved = 0
        for size in sizes:
            if why := _why_not(ctx, group, size):
                ctx.not_run(f"collective.{name}", f"{name} of {size} bytes", why)
                continue
            share = message_sizes.seconds(ctx.seconds, sizes, size)
            try:
                took, moved, bad = _one(ctx, group, make, size, share)
            except RuntimeError as error:
                ctx.not_run(f"collective.{name}", f"{name} of {size} bytes", reason(error))
                break
            rates[size] = message_sizes.factor(name, group.world) * moved / took
            wrong, elements = wrong + bad, elements + CHECKS * moved // 4
        if not rates:
            continue
        done += 1
        if len(rates) == len(sizes):
            largest = max(rates)
            ctx.measure(
                f"collective.{name}", rates[largest], bytes=moved, size=largest,
                ranks=group.world, by_size={str(size): rate for size, rate in rates.items()},
            )  # fmt: skip
        ctx.measure("collective.wrong", wrong, what=name, elements=elements)
        if wrong:
            text = f"{name}: {wrong} of {elements} elements of the result are wrong"
            ctx.event("collective", text, what=name)
    return done


def _sizes(ctx: Context, name: str, ranks: int, sku: str) -> tuple[int, ...]:
    """No gap where one is left out: a rule for it says whether this profile needs it."""
    if not is_gpu(ctx):
        return option(ctx, "sizes", _CPU_SIZES)
    sizes = message_sizes.of_profile(ctx.profile, ctx.seconds, sku, name, ranks)
    for size in sorted({*SIZES[ctx.profile]} - {*sizes}):
        why = f"the links of {sku} take too long for it in the {ctx.seconds:g} s of the stage"
        ctx.not_run(f"collective.{name}", f"{name} of {size} bytes", why, gap=False)
    return sizes


def _why_not(ctx: Context, group: Group, size: int) -> str | None:
    """The same answer on every rank, or one would wait for the others for ever."""
    no = torch.tensor([int(stopped(ctx)), int(_COPIES * size > free_bytes(ctx.device))])
    dist.all_reduce(no, dist.ReduceOp.MAX, group=group.control)
    if int(no[0]):
        return "the run was stopped"
    return "a device has too little free memory for it" if int(no[1]) else None


def _one(
    ctx: Context,
    group: Group,
    make: Callable[[Problem], Step],
    size: int,
    seconds: float,
) -> tuple[float, int, int]:
    """Seconds a call, bytes of the whole buffer, wrong elements on this rank."""
    blocks = max(1, size // 4 // group.world // _PERIOD) * _PERIOD
    fill, call, wrong = make(Problem(ctx, group, blocks))
    bad = 0
    for round_ in range(CHECKS):
        fill(round_)
        call()
        bad += wrong(round_)
    took = _timed(ctx, group, call, 1)
    if calls := message_sizes.calls(took, seconds, _MOST_CALLS):
        took = _timed(ctx, group, call, calls)
    return took, 4 * blocks * group.world, bad


def _timed(ctx: Context, group: Group, call: Callable[[], None], calls: int) -> float:
    """Seconds a call, of the slowest rank and so the same on all."""
    synchronize(ctx.device)
    dist.barrier(group=group.control)
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(ctx.device)
    took = torch.tensor([(time.perf_counter() - begin) / calls], dtype=torch.float64)
    dist.all_reduce(took, dist.ReduceOp.MAX, group=group.control)
    return float(took)
