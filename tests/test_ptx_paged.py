"""Paged attention as compiled for sm_90a: what it reads, and what it does with bad page numbers.

The executor stops at each access outside of a tensor.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, as_tuple
from aimills_kernels._registry import get_op
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
# Of bf16 outputs: the other sequence is there, and is not the wrong one; how exact it is the
# declared cases say.
ROUGHLY = dict(rtol=0.02, atol=0.02)
DECODE: dict[str, Any] = dict(M=1, page=16, H=4, G=1, D=16, causal=True, lse=True)


def _run(case: Case, seed: int, **changed: Any) -> tuple[tuple[Tensor, ...], tuple, list]:
    """Outputs (NaN where nothing is written, as an integer -1), arguments and launches."""
    op = get_op("attention_paged")
    named = dict(zip(op.params, op.make_inputs(case, "cpu", seed), strict=True))
    args = op.flat({n: changed[n](x) if n in changed else x for n, x in named.items()})
    outs = tuple(torch.full_like(t, 7.0) for t in as_tuple(op.fake(*args)))
    with executing(90, seed=seed, count=True) as done:
        _dispatch.load(op.provider("triton"))(outs, *args)
    return outs, op.flat(named), done


@pytest.mark.parametrize(
    ("fp8", "few"),
    [
        pytest.param(False, 0.03, id="bf16"),
        pytest.param(True, 0.1, id="fp8", marks=pytest.mark.full),
    ],
)
def test_decode_reads_each_key_once_for_all_its_heads(fp8: bool, few: float, seed: int) -> None:
    """And of the page table one number a tile: `few` of the least bytes."""
    cache = dict(cache="e4m3", scales="head") if fp8 else {}
    case = Case("decode", n=(256, 192), M=1, page=64, H=8, G=2, D=64, causal=True, **cache)
    _, _, done = _run(case, seed)
    moved = sum(r.counters.loaded["global"] + r.counters.stored["global"] for r in done)
    least = get_op("attention_paged").cost(case).bytes
    assert least <= moved <= (1 + few) * least


def _entry(row: int, column: int, page: int) -> Any:
    def changed(table: Tensor) -> Tensor:
        table = table.clone()
        table[row, column] = page
        return table

    return changed


@pytest.mark.parametrize("page", [16, pytest.param(64, marks=pytest.mark.full)])
@pytest.mark.parametrize("bad", [-1, pytest.param(99, marks=pytest.mark.full), 2**31 - 1])
def test_a_page_out_of_range_is_not_followed(bad: int, page: int, seed: int) -> None:
    """Its sequence becomes NaN, the other stays right. By vectors of lookups, and by one a tile."""
    case = Case("bad", n=(100, 70), **{**DECODE, "page": page})
    (out, lse), args, _ = _run(case, seed, page_table=_entry(0, 1, bad))
    want, want_lse = get_op("attention_paged").reference(*args)
    assert out[0].isnan().all()
    assert lse[0].isnan().all()
    torch.testing.assert_close(out[1], want[1], **ROUGHLY)
    torch.testing.assert_close(lse[1], want_lse[1])


@pytest.mark.parametrize(
    "n", [(-5, 70), pytest.param((113, 70), marks=pytest.mark.full), (2**31 - 1, 70)], ids=str
)
def test_a_length_that_can_not_be_makes_its_sequence_nan(n: tuple[int, int], seed: int) -> None:
    case = Case("bad", n=(112, 70), **DECODE)
    lens = lambda _: torch.tensor(n, dtype=torch.int32)  # noqa: E731
    (out, _), args, _ = _run(case, seed, cache_seqlens=lens)
    want, _ = get_op("attention_paged").reference(*args)
    assert out[0].isnan().all()
    torch.testing.assert_close(out[1], want[1], **ROUGHLY)


def test_splits_with_a_bad_page_are_merged_into_nan(seed: int) -> None:
    case = Case("bad", n=(600, 300), **{**DECODE, "page": 64})
    (out, _), args, done = _run(case, seed, page_table=_entry(0, 7, 1000))
    assert len(done) == 2, "the keys were not split"
    want, _ = get_op("attention_paged").reference(*args)
    assert out[0].isnan().all()
    torch.testing.assert_close(out[1], want[1], **ROUGHLY)


@pytest.mark.parametrize(
    "cu",
    [(0, 3, 1), pytest.param((0, 9, 9), marks=pytest.mark.full), (-4, 1, 3), (2, 1, 0)],
    ids=str,
)
def test_packed_lengths_that_can_not_be_write_nowhere_else(cu: tuple[int, ...], seed: int) -> None:
    """Whatever comes out; the executor watches each access."""
    case = Case("bad", n=(40, 30), q_lens=(1, 2), **{k: v for k, v in DECODE.items() if k != "M"})
    _run(case, seed, cu_seqlens_q=lambda _: torch.tensor(cu, dtype=torch.int32))


def test_an_append_out_of_range_is_left_out(seed: int) -> None:
    op = get_op("kv_append")
    case = Case("bad", n=(3, 14, 6), new=3, page=4, G=1, D=16, spare=2)
    named = dict(zip(op.params, op.make_inputs(case, "cpu", seed), strict=True))
    want = op.with_own(op.flat(named))
    op.reference(*want)
    bad = op.with_own(op.flat(named))
    table, lens = named["page_table"].clone(), named["cache_seqlens"].clone()
    table[0, 1], lens[1], lens[2] = 999, 18, -9  # of these appends nothing, or a part, has a place
    bad = (*bad[:4], table, lens, *bad[6:])
    with executing(90, seed=seed):
        _dispatch.load(op.provider("triton"))((), *bad)
    first = named["page_table"][0, 0]
    torch.testing.assert_close(bad[2][first, 3], want[2][first, 3], rtol=0, atol=0)
    changed = (bad[2] != named["k_cache"]).any(-1).sum()
    reference = op.with_own((*op.flat(named)[:4], table, lens, *op.flat(named)[6:]))
    op.reference(*reference)
    torch.testing.assert_close(bad[2], reference[2], rtol=0, atol=0)
    assert changed < 9
