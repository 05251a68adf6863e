"""What the declaration of attention_varlen can't say of itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import aimills_kernels as ak

Q_LENS, K_LENS = (3, 0, 7, 1, 4), (5, 2, 7, 9, 0)


def _cu(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


@pytest.mark.parametrize("given", [
    {}, {"causal": True}, {"window": (2, 1)}, {"softcap": 2.0, "causal": True},
    {"sinks": True}, {"alibi_slopes": True, "causal": True}, {"seqused_k": True, "window": (3, 0)},
], ids=lambda g: "-".join(g) or "plain")  # fmt: skip
def test_each_sequence_is_an_attention_of_its_own(given: dict[str, Any], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(sum(Q_LENS) + 2, 4, 8, generator=g)
    k, v = (torch.randn(sum(K_LENS) + 3, 2, d, generator=g) for d in (8, 6))
    given = dict(given)
    if given.get("sinks"):
        given["sinks"] = torch.randn(4, generator=g)
    if given.get("alibi_slopes"):
        given["alibi_slopes"] = torch.rand(5, 4, generator=g)
    if given.get("seqused_k"):
        given["seqused_k"] = torch.tensor([5, 1, 0, 4, 0], dtype=torch.int32)
    out, lse = ak.attention_varlen(q, k, v, _cu(Q_LENS), _cu(K_LENS), return_lse=True, **given)
    begin_q, begin_k = _cu(Q_LENS).tolist(), _cu(K_LENS).tolist()
    for b in range(len(Q_LENS)):
        mine = {n: x[b : b + 1] if n in ("alibi_slopes", "seqused_k") else x
                for n, x in given.items()}  # fmt: skip
        rows, keys = (slice(s[b], s[b + 1]) for s in (begin_q, begin_k))
        want, want_lse = ak.attention(
            q[None, rows], k[None, keys], v[None, keys], return_lse=True, **mine
        )
        torch.testing.assert_close(out[rows], want[0])
        torch.testing.assert_close(lse[:, rows], want_lse[0])
    assert not out[begin_q[-1] :].any()
    sinks = given.get("sinks", torch.full((4,), -torch.inf))
    torch.testing.assert_close(lse[:, begin_q[-1] :], sinks[:, None].expand(4, 2))


def test_lengths_need_no_recompilation_and_no_sync(seed: int) -> None:
    """A training step in one graph; other lengths of as many tokens run the same graph."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(12, h, 8, generator=g, requires_grad=True) for h in (4, 2, 2))
    graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph

    def step(cu: torch.Tensor) -> torch.Tensor:
        return ak.attention_varlen(q, k, v, cu, cu, causal=True).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    watched = torch.compile(step, fullgraph=True, backend=count)
    for lengths in ((5, 7), (12, 0), (1, 11)):
        cu = _cu(lengths)
        want = torch.autograd.grad(step(cu), (q, k, v))
        got = torch.autograd.grad(compiled(cu), (q, k, v))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(watched(cu), step(cu))
    assert graphs == 1


def test_gradients_stop_at_the_sequence(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(9, 2, 8, generator=g, requires_grad=True) for _ in range(3))
    cu = _cu((4, 5))
    ak.attention_varlen(q, k, v, cu, cu)[:4].square().sum().backward()
    for t in (q, k, v):
        assert t.grad is not None
        assert t.grad[:4].abs().sum() > 0
        assert not t.grad[4:].any()
