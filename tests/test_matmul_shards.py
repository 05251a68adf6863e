"""Shards of an fp8 weight that begin within a block of 128x128, as tensor parallelism cuts it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op

M, N, K = 5, 384, 512


def _drawn(seed: int) -> dict[str, Tensor]:
    """Neighbouring blocks differ in scale, so that one of another block shows."""
    case = Case("shards", M=M, N=N, K=K, scale_a="1x128", scale_b="128x128")
    a, b, scale_a, scale_b, *_ = get_op("matmul_fp8").make_inputs(case, "cpu", seed)
    steps = torch.arange(scale_b.numel()).view_as(scale_b)
    return dict(a=a, b=b, scale_a=scale_a, scale_b=scale_b * 4.0 ** (steps % 3))


@pytest.mark.parametrize(("begin", "end"), [(0, 192), (192, 384), (64, 194), (100, 101)])
def test_rows_of_a_weight_by_a_scale_for_each(begin: int, end: int, seed: int) -> None:
    x = _drawn(seed)
    whole = ak.matmul_fp8(**x, out_dtype=torch.float32)
    each = x["scale_b"].repeat_interleave(128, 0)[begin:end]
    part = ak.matmul_fp8(x["a"], x["b"][begin:end], x["scale_a"], each, out_dtype=torch.float32)
    torch.testing.assert_close(part, whole[:, begin:end], rtol=1e-5, atol=1e-5 * whole.abs().max())


@pytest.mark.parametrize("cut", [64, 200, 256, 500])
def test_columns_of_a_weight_in_two_calls(cut: int, seed: int) -> None:
    """A shard of the columns from `cut`: up to where its first block ends, and the rest."""
    x = _drawn(seed)

    def multiply(begin: int, end: int, residual: Tensor | None = None) -> Tensor:
        blocks = slice(begin // 128, -(-end // 128))
        return ak.matmul_fp8(
            x["a"][:, begin:end], x["b"][:, begin:end], x["scale_a"][:, blocks],
            x["scale_b"][:, blocks], out_dtype=torch.float32, residual=residual,
        )  # fmt: skip

    whole = multiply(0, K)
    first = -(-cut // 128) * 128
    shard = multiply(cut, first) if first > cut else None
    shard = multiply(first, K, shard) if first < K else shard
    both = multiply(0, cut, shard)
    torch.testing.assert_close(both, whole, rtol=1e-5, atol=1e-5 * whole.abs().max())


@pytest.mark.parametrize("dim", [0, 1])
def test_scales_of_one_block_too_many_are_refused(dim: int, seed: int) -> None:
    """128 rows or columns from 64 on touch two blocks, where 128 have one."""
    x = _drawn(seed)
    x["b"] = x["b"].narrow(dim, 64, 128)
    x["scale_b"] = x["scale_b"].narrow(dim, 0, 2)
    if dim == 1:
        x["a"], x["scale_a"] = x["a"][:, 64:192], x["scale_a"][:, :1]
    with pytest.raises(ValueError, match=r"matmul_fp8: scale_b must be .* got"):
        ak.matmul_fp8(**x)
