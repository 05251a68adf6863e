"""batch_invariant=True as compiled for sm_90a: one row's bits, however its problem is cut.

The executor sums products exactly, so this is about splits, masks and merging, and no evidence for
the order in which a GPU's matrix instructions add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, as_tuple
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.attention import config_paged
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
OP = get_op("attention_paged")
N, SPAN, HEADS, GROUPS = 150, 64, 4, 2  # keys over three splits


@dataclass(frozen=True)
class Cut:
    """How the last query of a sequence is worked out."""

    queries: int = 1  # of its sequence, it the last
    page: int = 16
    others: tuple[int, ...] = ()  # keys of the sequences beside it
    packed: bool = False
    split: bool = True  # its keys over several programs
    later: int = 0  # queries behind it


def _draw(seed: int, D: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (N + 40, HEADS, D), (N + 40, GROUPS, D), (N + 40, GROUPS, D)
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def _last(cut: Cut, given: list[Tensor], seed: int, monkeypatch: Any, **features: Any) -> list:
    """out [H, D] and lse [H] of query N - 1."""
    q, k, v = given
    keys, queries = N + cut.later, cut.queries + cut.later
    lens = (keys, *cut.others)
    case = Case(
        "cut", n=lens, page=cut.page, H=HEADS, G=GROUPS, D=q.shape[2], causal=True, lse=True,
        dtype={torch.bfloat16: "bf16", torch.float16: "f16"}[q.dtype], invariant=True,
        **({"q_lens": (queries, *[1] * len(cut.others))} if cut.packed else {"M": queries}),
        **features,
    )  # fmt: skip
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    mine = q[keys - queries : keys]
    if cut.packed:
        named["q"][:queries] = mine
    else:
        named["q"][0] = mine
    first = max(0, keys - queries - features.get("window", (keys, 0))[0])
    j = torch.arange(first, keys)
    pages = named["page_table"][0, j // cut.page].long()
    for name, t in (("k_cache", k), ("v_cache", v)):
        named[name][pages, j % cut.page] = t[first:keys].to(named[name].dtype)
    for name in ("sinks", "alibi_slopes"):
        if named[name] is not None:
            named[name] = torch.linspace(0.1, 1.0, HEADS)
    args = OP.flat(named)
    outs = tuple(torch.full_like(t, torch.nan) for t in as_tuple(OP.fake(*args)))
    monkeypatch.setattr(config_paged, "SPAN", SPAN)
    monkeypatch.setattr(config_paged, "sm_count", lambda device: 1000 if cut.split else 1)
    with executing(90, seed=seed) as done:
        _dispatch.load(OP.provider("triton_invariant"))(outs, *args)
    assert len(done) == (2 if cut.split else 1)
    at = cut.queries - 1
    out, lse = outs
    return [out[at], lse[:, at]] if cut.packed else [out[0, at], lse[0, :, at]]


_WANTED: dict[str, list[Tensor]] = {}  # of one seed: by the features, what a row alone gives
CUTS = {
    "in one program": Cut(split=False),
    "one of a chunk": Cut(queries=37),
    "one of a chunk, in one program": Cut(queries=21, split=False),
    "first of a chunk": Cut(later=33, split=False),
    "beside others": Cut(others=(90, 1)),
    "packed beside others": Cut(queries=7, others=(30, 5), packed=True),
    "pages of 1": Cut(page=1),
    "pages of 64": Cut(page=64, queries=3),
}


@pytest.mark.parametrize(
    "features",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            {"window": (100, 0), "sinks": "f32"}, id="window-sinks", marks=pytest.mark.full
        ),
        pytest.param({"softcap": 5.0, "alibi": "head"}, id="softcap-alibi", marks=pytest.mark.full),
        pytest.param({"cache": "e4m3", "scales": "tensor"}, id="fp8", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("name", CUTS)
def test_a_row_has_the_same_bits(name: str, features: Any, seed: int, monkeypatch: Any) -> None:
    given = _draw(seed, 32, torch.bfloat16)
    want = _WANTED.setdefault(str(features), [])
    if not want:
        want += _last(Cut(), given, 1, monkeypatch, **features)
    got = _last(CUTS[name], given, 2, monkeypatch, **features)
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all()
        bits = [t.contiguous().view(torch.uint8) for t in (a, b)]
        assert torch.equal(*bits)
