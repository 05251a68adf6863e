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
from aimills_kernels.kernels.attention.checks import DTYPES
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
N, SPAN, HEADS, GROUPS = 150, 64, 4, 2  # keys over three splits
# Of rows: with one tile a split LLVM puts zeros into the accumulators behind `wgmma.fence`.
WIDE_SPAN = 128


@dataclass(frozen=True)
class Cut:
    """How the last query of a sequence is worked out."""

    queries: int = 1  # of its sequence, it the last
    page: int = 16
    others: tuple[int, ...] = ()  # keys of the sequences beside it
    packed: bool = False
    split: bool = True  # its keys over several programs
    later: int = 0  # queries behind it
    op: str = "attention_paged"
    unused: int = 0  # keys in a batch that are behind it
    layout: str = "contiguous"


def _draw(seed: int, D: int, dtype: torch.dtype, Dv: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (N + 40, HEADS, D), (N + 40, GROUPS, D), (N + 40, GROUPS, Dv or D)
    return [torch.randn(s, generator=generator).to(dtype) for s in shapes]


def _last(cut: Cut, given: list[Tensor], seed: int, monkeypatch: Any, **features: Any) -> list:
    """out [H, D] and lse [H] of query N - 1."""
    op = get_op(cut.op)
    named = (_in_pages if cut.op == "attention_paged" else _in_rows)(cut, given, seed, features)
    for name in ("sinks", "alibi_slopes"):
        if named[name] is not None:
            named[name] = torch.linspace(0.1, 1.0, HEADS)
    args = op.flat(named)
    outs = tuple(torch.full_like(t, torch.nan) for t in as_tuple(op.fake(*args)))
    monkeypatch.setattr(config_paged, "sm_count", lambda device: 1000 if cut.split else 1)
    with executing(90, seed=seed) as done:
        _dispatch.load(op.provider("triton_invariant"))(outs, *args)
    assert len(done) == (2 if cut.split else 1)
    out, lse = outs
    if cut.packed:
        at = len(cut.others) * (cut.op == "attention_varlen") + cut.queries - 1
        return [out[at], lse[:, at]]
    return [out[0, cut.queries - 1], lse[0, :, cut.queries - 1]]


def _drawn(cut: Cut, D: int, dtype: torch.dtype, seed: int, **dims: Any) -> dict[str, Any]:
    """The arguments of a case, by name."""
    op = get_op(cut.op)
    case = Case(
        "cut", H=HEADS, G=GROUPS, D=D, causal=True, lse=True, invariant=True, **dims,
        dtype=next(name for name, t in DTYPES.items() if t == dtype),
    )  # fmt: skip
    return dict(zip(op.params, op.make_inputs(case, "cpu", seed), strict=True))


def _in_pages(cut: Cut, given: list[Tensor], seed: int, features: Any) -> dict[str, Any]:
    """The sequence first, the others behind it."""
    q, k, v = given
    keys, queries = N + cut.later, cut.queries + cut.later
    lens = {"q_lens": (queries, *[1] * len(cut.others))} if cut.packed else {"M": queries}
    named = _drawn(
        cut, q.shape[2], q.dtype, seed, n=(keys, *cut.others), page=cut.page, **lens, **features
    )
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
    return named


def _in_rows(cut: Cut, given: list[Tensor], seed: int, features: Any) -> dict[str, Any]:
    """The sequence first in a batch, last among packed ones."""
    q, k, v = given
    keys, queries, others = N + cut.later, cut.queries + cut.later, cut.others
    lens: dict[str, Any] = {
        "B": 1 + len(others), "M": queries, "N": keys + cut.unused,
        "used": (keys, *others) if cut.unused or others else None,
    }  # fmt: skip
    if cut.packed:
        lens = {"q_lens": (*[1] * len(others), queries), "k_lens": (*others, keys)}
    named = _drawn(cut, q.shape[2], q.dtype, seed, **lens, layout=cut.layout, **features)
    begin, first = (sum(others), len(others)) if cut.packed else (0, 0)
    for name, t, at in (("q", q[keys - queries : keys], first), ("k", k, begin), ("v", v, begin)):
        t = t[: min(len(t), keys)]
        (named[name] if cut.packed else named[name][0])[at : at + len(t)] = t
    return named


_WANTED: dict[str, list[Tensor]] = {}  # what a row alone gives, by the problem
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
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("one of a chunk", "pages of 1") else pytest.mark.full)
        for n in CUTS
    ],
)
def test_a_row_has_the_same_bits(name: str, features: Any, seed: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(config_paged, "SPAN", SPAN)
    _agree(CUTS[name], _draw(seed, 32, torch.bfloat16), monkeypatch, features)


ROWS = {
    "in a batch": Cut(queries=3, others=(9,), split=False, op="attention"),
    "packed": Cut(queries=3, others=(5,), packed=True, split=False, op="attention_varlen"),
    "one of a chunk": Cut(queries=37, unused=9, split=False, op="attention"),
    "first of a chunk": Cut(later=33, split=False, op="attention"),
    "packed alone": Cut(queries=37, packed=True, split=False, op="attention_varlen"),
    "strided": Cut(layout="heads_first", split=False, op="attention"),
    "packed beside a long one": Cut(
        others=(400,), packed=True, split=False, op="attention_varlen", layout="heads_first"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "D", "features"),
    [
        pytest.param("bf16", 16, {}, id="plain"),
        pytest.param("f16", 72, {"Dv": 40}, id="dims", marks=pytest.mark.full),
        pytest.param("f32", 16, {}, id="f32", marks=pytest.mark.full),
        pytest.param(
            "bf16", 32, {"window": (160, 0), "sinks": "f32", "softcap": 5.0, "alibi": "head"},
            id="features", marks=pytest.mark.full,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("in a batch", "packed") else pytest.mark.full)
        for n in ROWS
    ],
)
def test_rows_have_the_bits_of_pages(
    name: str, dtype: str, D: int, features: Any, seed: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(config_paged, "SPAN", WIDE_SPAN)
    _agree(ROWS[name], _draw(seed, D, DTYPES[dtype], features.get("Dv")), monkeypatch, features)


def _agree(cut: Cut, given: list[Tensor], monkeypatch: Any, features: Any) -> None:
    problem = str((features, config_paged.SPAN, [(t.dtype, t.shape) for t in given]))
    want = _WANTED.setdefault(problem, [])
    if not want:
        want += _last(Cut(), given, 1, monkeypatch, **features)
    got = _last(cut, given, 2, monkeypatch, **features)
    for a, b in zip(got, want, strict=True):
        assert a.isfinite().all()
        bits = [t.contiguous().view(torch.uint8) for t in (a, b)]
        assert torch.equal(*bits)
