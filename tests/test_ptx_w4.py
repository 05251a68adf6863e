"""`matmul_w4` as compiled for sm_90a: what it reads, and one row's bits however it is cut.

The executor sums products exactly, so the bits are about tiles, splits and how they are added, and
no evidence for the order in which a GPU's matrix instructions add.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, as_tuple
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.matmul import config_w4
from tests.ptx.triton import executing

pytestmark = [pytest.mark.ptx, pytest.mark.full]
OP = get_op("matmul_w4")


def _run(named: dict[str, Any], seed: int, count: bool = False) -> tuple[Tensor, list]:
    args = OP.flat(named)
    outs = tuple(torch.full_like(t, torch.nan) for t in as_tuple(OP.fake(*args)))
    with executing(90, seed=seed, count=count) as done:
        _dispatch.load(OP.provider("triton"))(outs, *args)
    return outs[0], done


@pytest.mark.parametrize(
    "dims",
    [dict(M=1, N=128, K=2048, group=128), dict(M=16, N=128, K=1024, group=32, asym=True)],
    ids=str,
)
def test_weights_are_read_once(dims: dict[str, Any], seed: int, monkeypatch: Any) -> None:
    """What comes on top: x for the second tile of channels, scales by each of the four lanes that
    hold parts of one channel (one access for the GPU), and the sums of splits."""
    case = Case("read", **dims)
    monkeypatch.setattr(config_w4, "MAX_SPLITS", 2)
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    _, done = _run(named, seed, count=True)
    assert len(done) == 2
    moved = sum(r.counters.loaded["global"] + r.counters.stored["global"] for r in done)
    sums = 4 * 2 * 2 * case.M * case.N
    scales = sum(named[n].nbytes for n in ("scales", "zeros") if named[n] is not None)
    least = OP.cost(case).bytes
    assert least <= moved - sums <= least + named["x"].nbytes + 4 * scales


@pytest.mark.parametrize(
    "dims",
    [
        dict(K=1100, group=128),
        dict(K=700, group=32, asym=True, act="gelu_tanh"),
        dict(K=1300, group="channel", act="silu"),
    ],
    ids=str,
)
def test_a_row_has_the_same_bits(dims: dict[str, Any], seed: int, monkeypatch: Any) -> None:
    """Alone or beside others, at any place of a tile, its splits in one program or in several."""
    # About half of the channels show whether there are splits; of 20, by chance none may.
    case = Case("rows", M=40, N=60, invariant=True, **dims)
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    x = named["x"]
    # What the bias leaves of a sum is how it was rounded.
    named["bias"] = -OP.reference(*OP.flat({**named, "x": x.double(), "activation": "none"}))[37]
    named["bias"] = named["bias"].float()
    want, done = _run({**named, "x": x[37:38].clone()}, seed)
    assert len(done) == 2
    beside, done = _run({**named, "x": x[20:].clone()}, seed)
    assert len(done) == 2
    monkeypatch.setattr(config_w4, "_SMS", 1)
    walked, done = _run(named, seed)
    assert len(done) == 1
    assert torch.equal(beside[17], want[0])
    assert torch.equal(walked[37], want[0])
    monkeypatch.setattr(config_w4, "MAX_SPLITS", 1)
    whole, _ = _run({**named, "x": x[37:38].clone()}, seed)
    assert not torch.equal(whole, want), "splits that change no bit show nothing"


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("group", [32, 128, "channel"])
def test_mean_error_is_within_the_contract(group: Any, dtype: str, seed: int) -> None:
    """2e-3 of the mean magnitude against float64; rounding to bf16 alone makes 1.4e-3."""
    case = Case("error", M=16, N=64, K=1024, group=group, asym=True, dtype=dtype)
    args = OP.make_inputs(case, "cpu", seed)
    got, _ = _run(dict(zip(OP.params, args, strict=True)), seed)
    (want,) = OP.oracle(args)
    bound = 2e-3 if dtype == "bf16" else 2.5e-4
    assert (got.double() - want).abs().mean() <= bound * want.abs().mean()
