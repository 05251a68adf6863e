"""`matmul_fp8` with few rows, as compiled for sm_90a: K in splits, and what they read and write."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.matmul import config
from tests.ptx.triton import executing

pytestmark = [pytest.mark.ptx, pytest.mark.full]
OP = get_op("matmul_fp8")
KINDS = {"triton": ("row", "row"), "triton_block": ("1x128", "128x128")}


def _case(provider: str, **dims: Any) -> Case:
    scale_a, scale_b = KINDS[provider]
    return Case("split", scale_a=scale_a, scale_b=scale_b, **dims)


def _run(provider: str, args: tuple, seed: int, count: bool = False) -> tuple[Tensor, list]:
    out = torch.full_like(OP.fake(*args), torch.nan)
    with executing(90, seed=seed, count=count) as done:
        _dispatch.load(OP.provider(provider))((out,), *args)
    return out, done


def _chosen(provider: str, args: tuple) -> config.Config:
    shape = config.Shape.of(args[0], args[1], args[5], "promoted", False, 90)
    return config.select_split_config(shape, provider == "triton_block", 90)


@pytest.mark.parametrize("provider", KINDS)
def test_weights_are_read_once(provider: str, seed: int) -> None:
    """On top come a tile of a for each tile of columns, scales by each lane that holds a part of
    their row or column, and the sums of splits, written and read once."""
    case = _case(provider, M=2, N=64, K=1024)
    args = OP.make_inputs(case, "cpu", seed)
    _, done = _run(provider, args, seed, count=True)
    first, second = (r.counters for r in done)
    chosen = _chosen(provider, args)
    sums = 4 * chosen.splits * case.M * case.N
    assert first.stored["global"] == second.loaded["global"] == sums
    assert second.stored["global"] == 2 * case.M * case.N
    tiles, threads = case.N // chosen.block_n, 32 * chosen.num_warps
    a = tiles * chosen.block_m * case.K
    scales = 12 * threads * tiles * case.K // 128
    assert 0 < first.loaded["global"] - args[1].nbytes - a <= scales


@pytest.mark.parametrize("provider", KINDS)
def test_splits_are_added_in_their_order(provider: str, seed: int) -> None:
    """Bit by bit the sum, from the first to the last, of calls with a split of K each."""
    # Splits of like sizes: where one is far the largest, no order changes a bit.
    case = _case(provider, M=3, N=24, K=1100, out="f32")
    args = OP.make_inputs(case, "cpu", seed)
    got, done = _run(provider, args, seed)
    assert len(done) == 2
    again, _ = _run(provider, args, seed + 1)
    assert torch.equal(got, again)
    a, b, scale_a, scale_b, *rest = args
    chosen = _chosen(provider, args)
    step = config.per_split(chosen, 1100)
    parts = []
    for begin in range(0, 1100, step):
        k, blocks = slice(begin, begin + step), slice(begin // 128, (begin + step) // 128)
        scales = (s[:, blocks] if s.shape[1] > 1 else s for s in (scale_a, scale_b))
        parts.append(_run(provider, (a[:, k], b[:, k], *scales, *rest), seed)[0])
    assert len(parts) == chosen.splits > 1
    want = parts[0]
    for part in parts[1:]:
        want = want + part
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))
    other = sum(reversed(parts[:-1]), start=parts[-1])
    assert chosen.splits == 2 or not torch.equal(got, other), "an order that changes no bit"
