"""Attention in CUDA graphs: recorded once, replayed on other data and other lengths.

Without a GPU the same steps run with a stand-in for the graph, which calls them again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels import _dispatch
from aimills_kernels._registry import get_op

Step = Callable[[], tuple[Tensor, ...]]
PLACES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    ]),
]  # fmt: skip
OURS = ("attention", "attention_backward", "attention_varlen", "attention_varlen_backward",
        "attention_paged", "kv_append")  # fmt: skip
DTYPE = torch.bfloat16
# Of bf16 results below 4 in size; what a graph keeps of another length or another page is off by
# the size of a value.
CLOSE = dict(rtol=0.03, atol=0.03)


@contextlib.contextmanager
def kernels(place: str) -> Iterator[None]:
    """Our kernels on a GPU, which without a record do not serve by themselves."""
    with contextlib.ExitStack() as stack:
        for op in OURS if place == "cuda" else ():
            stack.enter_context(ak.use_provider(op, "triton"))
        yield


def recorded(step: Step, place: str) -> Step:
    """Replays `step`, whose results stay where they are."""
    if place == "cpu":
        first = step()

        def again() -> tuple[Tensor, ...]:
            for into, new in zip(first, step(), strict=True):
                into.copy_(new)
            return first

        return again
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # compiles, and fills what is kept between calls
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = step()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outs

    return replay


def drawn(seed: int, place: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(place, DTYPE)


def ints(place: str, *values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=place)


def wanted(op: str, *args: object) -> tuple[Tensor, ...]:
    """By the reference, on a CPU and in float32."""
    moved = [a.cpu() if isinstance(a, Tensor) else a for a in args]
    wide = [a.float() if isinstance(a, Tensor) and a.dtype == DTYPE else a for a in moved]
    return get_op(op).reference(*wide)


def hold(found: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got.float().cpu(), expected.float(), **CLOSE)


SCALARS = (True, 0.125, -1, -1, 0.0)  # causal, scale, no window, no soft cap


@pytest.mark.parametrize("place", PLACES)
def test_one_graph_decodes_at_all_lengths(place: str, seed: int) -> None:
    """Append and attend, with the memory of a caller: lengths, pages and keys change freely."""
    B, size, listed, H, G, D = 3, 16, 40, 8, 2, 64
    caches = [torch.zeros(B * listed + 3, size, G, D, dtype=DTYPE, device=place) for _ in "kv"]
    table = torch.arange(B * listed, dtype=torch.int32, device=place).view(B, listed)
    lens, (q, k, v) = ints(place, *[0] * B), (drawn(0, place, B, 1, h, D) for h in (H, G, G))
    out = torch.empty_like(q)
    work = torch.empty(ak.attention_workspace(q, *caches, table), dtype=torch.uint8, device=place)

    def step() -> tuple[Tensor, ...]:
        ak.kv_append(k, v, *caches, table, lens)
        lens.add_(1)
        ak.attention_paged(q, *caches, table, lens, causal=True, workspace=work, out=out)
        return (out,)

    with kernels(place):
        replay = recorded(step, place)
    for i, lengths in enumerate(((0, 5, 639), (300, 0, 17), (1, 639, 255), (15, 16, 47))):
        for j, t in enumerate((q, k, v, *caches)):
            t.copy_(drawn(seed + 10 * i + j, place, *t.shape))
        order = torch.randperm(len(caches[0]), generator=torch.Generator().manual_seed(seed + i))
        table.copy_(order[: B * listed].view(B, listed))
        lens.copy_(ints(place, *lengths))
        before = [c.cpu().float() for c in caches]
        get_op("kv_append").reference(
            *(t.cpu().float() for t in (k, v)), *before, table.cpu(), lens.cpu(), None, None, None
        )
        found = replay()
        assert lens.tolist() == [n + 1 for n in lengths]
        for cache, appended in zip(caches, before, strict=True):
            assert torch.equal(cache.cpu().float(), appended)
        want = wanted(
            "attention_paged", q, *caches, table, lens, *[None] * 5, *SCALARS, False, False
        )
        hold(found, want[:1])


@pytest.mark.parametrize("place", PLACES)
def test_one_graph_trains_on_all_packed_lengths(place: str, seed: int) -> None:
    T, H, G, D = 160, 4, 2, 64
    q, k, v = (drawn(0, place, T, h, D).requires_grad_() for h in (H, G, G))
    sinks = torch.zeros(H, device=place, requires_grad=True)
    dout, cu = drawn(1, place, T, H, D), ints(place, 0, 0, 0, 0, T)

    def step() -> tuple[Tensor, ...]:
        out, lse = ak.attention_varlen(
            q, k, v, cu, cu, causal=True, scale=0.125, sinks=sinks, return_lse=True
        )
        return (out, lse, *torch.autograd.grad(out, (q, k, v, sinks), dout))

    with kernels(place):
        replay = recorded(step, place)
    for i, cuts in enumerate(((1, 1, 66), (0, 64, 128), (160, 160, 160), (31, 32, 159))):
        with torch.no_grad():
            for j, t in enumerate((q, k, v, dout, sinks)):
                t.copy_(drawn(seed + 10 * i + j, place, *t.shape))
        cu.copy_(ints(place, 0, *cuts, T))
        out, lse, *grads = (t.detach() for t in replay())
        given = (sinks, None, None, *SCALARS)
        detached = [t.detach() for t in (q, k, v)]
        want = wanted("attention_varlen", *detached, cu, cu, *given, True, False, False)
        hold((out, lse), want)
        saved = want[0].to(DTYPE), want[1]  # whose rounding is in each gradient, and no fault
        dq, dk, dv, dsinks, _ = wanted(
            "attention_varlen_backward", dout, *detached, cu, cu, *saved, None, *given, False, False
        )
        hold(tuple(grads[:3]), (dq, dk, dv))
        scale = dsinks.abs().max()  # a sum over all rows
        hold((grads[3] / scale.to(place),), (dsinks / scale,))


@pytest.mark.parametrize("place", PLACES)
def test_one_graph_trains_on_other_lengths_in_use(place: str, seed: int) -> None:
    B, M, N, H, G, D = 2, 70, 100, 4, 2, 64
    q, k, v = (
        drawn(0, place, B, n, h, D).requires_grad_() for n, h in ((M, H), (N, G), (N, G))
    )  # fmt: skip
    dout, used = drawn(1, place, B, M, H, D), ints(place, N, N)

    def step() -> tuple[Tensor, ...]:
        out = ak.attention(q, k, v, causal=True, scale=0.125, seqused_k=used)
        return (out, *torch.autograd.grad(out, (q, k, v), dout))

    with kernels(place):
        replay = recorded(step, place)
    for i, lengths in enumerate(((100, 0), (1, 99), (64, 65))):
        with torch.no_grad():
            for j, t in enumerate((q, k, v, dout)):
                t.copy_(drawn(seed + 10 * i + j, place, *t.shape))
        used.copy_(ints(place, *lengths))
        found = tuple(t.detach() for t in replay())
        given, detached = (None, None, used, *SCALARS), [t.detach() for t in (q, k, v)]
        out, lse = wanted("attention", *detached, *given, True, False, False)
        saved = out.to(DTYPE), lse  # whose rounding is in each gradient, and no fault
        grads = wanted("attention_backward", dout, *detached, *saved, None, *given, False, False)
        hold(found, (out, *grads[:3]))


@pytest.mark.parametrize("place", PLACES)
def test_a_callers_memory_is_all_that_paged_attention_takes(
    place: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = drawn(seed, place, 2, 1, 4, 64)
    caches = [drawn(seed + i, place, 40, 16, 1, 64) for i in (1, 2)]
    table = torch.arange(40, dtype=torch.int32, device=place).view(2, 20)
    lens, out = ints(place, 320, 17), torch.empty_like(q)
    work = torch.empty(ak.attention_workspace(q, *caches, table), dtype=torch.uint8, device=place)
    made = 0

    def counted(*args: object, **given: object) -> Tensor:
        nonlocal made
        t = torch.empty_like(*args, **given)
        made += t.numel()
        return t

    def call() -> None:
        ak.attention_paged(q, *caches, table, lens, causal=True, workspace=work, out=out)

    with kernels(place):
        call()
        monkeypatch.setattr(_dispatch, "_empty_like", counted)
        if place == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.memory_stats()["allocation.all.allocated"]
        call()
        if place == "cuda":
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert made == 0
