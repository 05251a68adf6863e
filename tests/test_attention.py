"""What the attention declaration can't say of itself."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.harness import specs
from aimills_kernels.harness.env import ROOT
from aimills_kernels.kernels.attention import mask
from aimills_kernels.kernels.attention import op as attention

PLAIN = dict(
    sinks=None, alibi_slopes=None, seqused_k=None, causal=False, scale=0.3, window_left=-1,
    window_right=-1, softcap=0.0, return_lse=True, deterministic=False,
    batch_invariant=False,
)  # fmt: skip


def _by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, **given: Any):
    """The formula of the docstring in loops over queries and keys."""
    a = SimpleNamespace(**{**PLAIN, **given})
    (B, M, H, _), (N, G) = q.shape, k.shape[1:3]
    out, lse = np.zeros((B, M, H, v.shape[-1])), np.full((B, H, M), -np.inf)
    for b, h, i in itertools.product(range(B), range(H), range(M)):
        n, g, scores = N if a.seqused_k is None else a.seqused_k[b], h // (H // G), {}
        p = i + n - M
        for j in range(n):
            if a.causal and j > p:
                continue
            if (a.window_left >= 0 and j < p - a.window_left) or (
                a.window_right >= 0 and j > p + a.window_right
            ):
                continue
            score = a.scale * np.dot(q[b, i, h], k[b, j, g])
            if a.softcap:
                score = a.softcap * np.tanh(score / a.softcap)
            if a.alibi_slopes is not None:
                score -= np.broadcast_to(a.alibi_slopes, (B, H))[b, h] * abs(p - j)
            scores[j] = score
        logits = list(scores.values()) + ([] if a.sinks is None else [a.sinks[h]])
        if not logits or max(logits) == -np.inf:
            continue
        top = max(logits)
        total = sum(np.exp(x - top) for x in logits)
        lse[b, h, i] = top + np.log(total)
        for j, score in scores.items():
            out[b, i, h] += np.exp(score - top) / total * v[b, j, g]
    return out, lse


VARIANTS = [
    {}, {"causal": True}, {"window_left": 2}, {"window_right": 1},
    {"window_left": 0, "causal": True},
    {"window_left": 3, "window_right": 2, "causal": True}, {"softcap": 0.4},
    {"sinks": np.array([0.3, -1.0, 2.0, -np.inf, 0.0, 1.0])},
    {"sinks": np.array([0.3, -1.0, 2.0, -np.inf, 0.0, 1.0]), "causal": True, "window_left": 1},
    {"alibi_slopes": np.arange(1, 7) / 8}, {"alibi_slopes": np.arange(12).reshape(2, 6) / 9},
    {"alibi_slopes": np.arange(12).reshape(2, 6) / 9, "softcap": 0.7, "window_right": 2},
    {"seqused_k": "half"}, {"seqused_k": "half", "causal": True, "window_left": 2},
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v) or "plain")
@pytest.mark.parametrize(("M", "N"), [(5, 5), (3, 8), (8, 3), (4, 0), (1, 1)])
def test_reference_agrees_with_the_definition(M: int, N: int, variant: dict, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=s) for s in ((2, M, 6, 7), (2, N, 2, 7), (2, N, 2, 5)))
    given = {**PLAIN, **variant}
    if given["seqused_k"] == "half":
        given["seqused_k"] = np.array([N // 2, N], dtype=np.int32)
        k[0, N // 2 :], v[0, N // 2 :] = np.nan, np.nan
    want = _by_hand(q, k, v, **given)
    tensors = {n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in given.items()}
    op = get_op("attention")
    args = op.flat({"q": torch.from_numpy(q), "k": torch.from_numpy(k), "v": torch.from_numpy(v),
                    **tensors})  # fmt: skip
    for got, expected in zip(op.reference(*args), want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_public_function_hands_everything_over(seed: int) -> None:
    """Each argument changes the result in the way of the definition."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.normal(size=s).astype(np.float32) for s in ((2, 4, 4, 8), (2, 9, 2, 8), (2, 9, 2, 8))
    )
    extras = {
        "sinks": rng.normal(size=4).astype(np.float32),
        "alibi_slopes": np.array([0.5, 0.25, 0.125, 1.0], np.float32),
        "seqused_k": np.array([7, 9], np.int32),
    }  # fmt: skip
    named = dict(scale=0.2, causal=True, window_left=4, window_right=2, softcap=2.0)
    want, lse = _by_hand(q, k, v, **named, **extras)
    got = ak.attention(
        *map(torch.from_numpy, (q, k, v)), causal=True, scale=0.2, window=(4, 2), softcap=2.0,
        return_lse=True, **{n: torch.from_numpy(x) for n, x in extras.items()},
    )  # fmt: skip
    for found, expected in zip(got, (want, lse), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [3, (1,), (1, 2, 3), (1.0, 2), ("1", 2), None, (True, 1), -1])
def test_a_window_is_two_whole_numbers(window: Any) -> None:
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(ValueError, match=r"attention: window must be \(left, right\)"):
        ak.attention(q, q, q, window=window)


def test_gradients_by_finite_differences(seed: int) -> None:
    """Of every argument that has one, through out and lse, where some keys are not in use."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, h, 3, generator=g).double() for h in (4, 2, 2))
    sinks, slopes = torch.randn(4, generator=g).double(), torch.rand(2, 4, generator=g).double()
    used, op = torch.tensor([3, 2], dtype=torch.int32), get_op("attention")

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, s: torch.Tensor, a: torch.Tensor):
        pad = torch.full_like(k[:, :2], torch.nan)
        return op.reference(
            q, torch.cat([k, pad], 1), torch.cat([v, pad], 1), s, a, used, True, 0.7, 2, -1, 1.5,
            True, False, False,
        )  # fmt: skip

    given = [t.requires_grad_() for t in (q, k, v, sinks, slopes)]
    assert torch.autograd.gradcheck(call, given)


def test_gradients_are_those_of_the_definition(seed: int) -> None:
    """Against autograd through a plain float64 softmax, with queries that see no key."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, n, 2, 8, generator=generator, requires_grad=True) for n in (9, 5, 5))
    out, lse = ak.attention(q, k, v, causal=True, return_lse=True)
    seen = torch.isfinite(lse)
    (out.square().sum() + lse[seen].sum()).backward()
    q64, k64, v64 = (t.detach().double().requires_grad_() for t in (q, k, v))
    scores = torch.einsum("bmhd,bnhd->bhmn", q64, k64) * 8**-0.5
    visible = torch.ones(9, 5, dtype=torch.bool).tril(-4)
    rows = visible.any(-1)
    scores = scores[:, :, rows].masked_fill(~visible[rows], -torch.inf)
    want = torch.einsum("bhmn,bnhd->bmhd", scores.softmax(-1), v64)
    (want.square().sum() + scores.logsumexp(-1).sum()).backward()
    for got, expected in zip((q, k, v), (q64, k64, v64), strict=True):
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)


def test_second_derivatives(seed: int) -> None:
    """One tensor as query, key and value: its three gradients must not be gathered twice."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 1, 6, generator=generator).requires_grad_()
    (first,) = torch.autograd.grad(ak.attention(x, x, x).square().sum(), x, create_graph=True)
    (got,) = torch.autograd.grad(first.square().sum(), x)
    x64 = x.detach().double().requires_grad_()
    probs = (torch.einsum("bmhd,bnhd->bhmn", x64, x64) * 6**-0.5).softmax(-1)
    plain = torch.einsum("bhmn,bnhd->bmhd", probs, x64).square().sum()
    (first64,) = torch.autograd.grad(plain, x64, create_graph=True)
    (want,) = torch.autograd.grad(first64.square().sum(), x64)
    # Over 200 seeds float32 alone loses up to 1.3e-6 and 6.3e-5; a gradient gathered twice, all.
    for found, expected, bound in ((first, first64, 1e-5), (got, want, 1e-3)):
        assert (found - expected).abs().max() < bound * expected.abs().max()


def test_out_and_its_limits(seed: int) -> None:
    q = torch.randn(2, 5, 2, 16, generator=torch.Generator().manual_seed(seed))
    out = torch.full_like(q, torch.nan)
    assert ak.attention(q, q, q, out=out) is out
    torch.testing.assert_close(out, ak.attention(q, q, q), rtol=0, atol=0)
    with pytest.raises(ValueError, match="return_lse"):
        ak.attention(q, q, q, return_lse=True, out=out)
    with pytest.raises(ValueError, match="requires a gradient"):
        ak.attention(q.requires_grad_(), q, q, out=out)


@pytest.mark.parametrize("value", [2, 1, None, 0.0, "yes", np.True_, [True]], ids=repr)
@pytest.mark.parametrize("name", ["causal", "return_lse", "batch_invariant"])
def test_a_flag_is_true_or_false(name: str, value: object) -> None:
    q = torch.zeros(1, 2, 1, 8)
    if name != "batch_invariant":  # which no provider on a CPU has
        ak.attention(q, q, q, **{name: True})  # its plan must not serve a 1, which equals True
    with pytest.raises(ValueError, match=f"attention: {name} must be True or False, got"):
        ak.attention(q, q, q, **{name: value})


def test_batch_invariance_is_never_ignored() -> None:
    """Where no provider has it the call is refused, by PyTorch's path and the reference too."""
    q, cu = torch.zeros(1, 2, 1, 8), torch.tensor([0, 2], dtype=torch.int32)
    with pytest.raises(ValueError, match="sdpa: its bits depend on the batch; reference: its bits"):
        ak.attention(q, q, q, batch_invariant=True)
    with pytest.raises(ValueError, match=r"no provider takes.*reference: its bits depend"):
        ak.attention_varlen(q[0], q[0], q[0], cu, cu, batch_invariant=True)


@pytest.mark.parametrize("provider", ["sdpa", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("N", [5, 33, 70])
def test_nan_does_not_become_zero(N: int, dtype: torch.dtype, provider: str, seed: int) -> None:
    """PyTorch's CPU kernel drops it where there are few keys."""
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, n, 2, 8, generator=rng).to(dtype) for n in (3, N, N))
    q[0, 1, 0, 3] = float("nan")
    with ak.use_provider("attention", provider):
        out = ak.attention(q, k, v)
        assert torch.equal(out.isnan().all(-1).nonzero(), torch.tensor([[0, 1, 0]]))
        assert int(out.isnan().sum()) == 8
        mixed = q.nan_to_num().copysign(
            torch.tensor([1.0, -1.0] * 4, dtype=dtype)
        )  # inf - inf, not only -inf
        assert ak.attention(mixed, torch.full_like(k, float("inf")), v).isnan().all()
        assert not ak.attention(q.nan_to_num(), k, torch.zeros_like(v)).any()


def test_scale_is_no_flag() -> None:
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(ValueError, match="attention: scale must be a number, got True"):
        ak.attention(q, q, q, scale=True)


@pytest.mark.full
def test_a_symbolic_flag_compiles(seed: int) -> None:
    def call(q: torch.Tensor) -> torch.Tensor:
        return ak.attention(q, q, q, causal=q.shape[0] > 1)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (3, 2):
        q = torch.randn(batch, 5, 2, 16, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(compiled(q), call(q))


def test_public_call_compiles_with_gradients(seed: int) -> None:
    q = torch.randn(1, 8, 2, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)

    def loss(q: torch.Tensor) -> torch.Tensor:
        return ak.attention(q, q, q, causal=True).square().sum()

    (want,) = torch.autograd.grad(loss(q), q)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(q), q)
    torch.testing.assert_close(got, want)


@pytest.mark.full
def test_public_call_compiles_with_inductor(seed: int) -> None:
    q = torch.randn(1, 8, 2, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)

    def loss(q: torch.Tensor) -> torch.Tensor:
        return (2 * ak.attention(q, q, q, causal=True)).square().sum()

    (want,) = torch.autograd.grad(loss(q), q)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(q), q)
    # Inductor fuses what is around the op and sums in another order.
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_default_scale(seed: int) -> None:
    q = torch.randn(1, 4, 2, 64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(ak.attention(q, q, q), ak.attention(q, q, q, scale=0.125))


@pytest.mark.parametrize("window", [(None, None), (None, 0), (2, 0), (1, 3), (0, 0), (None, 2)])
def test_pairs_counts_the_mask(window: tuple[int | None, int | None]) -> None:
    for M, n in itertools.product(range(7), range(7)):
        seen = mask.visible(mask.distances(M, n, None, torch.device("cpu")), None, *window)
        assert mask.pairs(M, n, *window) == (M * n if seen is None else int(seen.sum()))


@pytest.mark.parametrize("case", ["everything", "alibi-full", "sinks-f16", "used"])
def test_many_scores_are_worked_out_by_key_heads(
    case: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the forward and in the gradients, of each argument; and never all scores at once."""
    largest = 0
    scores_of = attention.scores_of

    def watched(*args: Any) -> Any:
        nonlocal largest
        found = scores_of(*args)
        largest = max(largest, found[-1].numel())
        return found

    monkeypatch.setattr(attention, "scores_of", watched)
    for name in ("attention", "attention_backward"):
        op = get_op(name)
        dims = dict(get_op("attention").case(case).dims)
        if name == "attention_backward":
            dims |= {"dlse": True, "dslopes": "alibi" in dims}
        args = op.make_inputs(Case("many", **dims), "cpu", seed)
        whole = op.reference(*args)
        at_once, largest = largest, 0
        with monkeypatch.context() as patch:
            patch.setattr(attention, "AT_ONCE", at_once - 1)
            by_heads = op.reference(*args)
        assert largest == at_once // dims["G"]
        for got, want in zip(by_heads, whole, strict=True):
            torch.testing.assert_close(got, want, equal_nan=True)
        largest = 0


def test_the_least_times_in_the_readme_are_those_of_the_costs() -> None:
    text = (ROOT / "kernels" / "attention" / "README.md").read_text()
    rows = re.findall(r"^\| `(attention\w*)` \| `(\S+)` \| (\S+) \| (\S+) \| (\S+) \|", text, re.M)
    assert len(rows) >= 8
    peaks = specs.of("NVIDIA H200")
    assert peaks is not None
    for name, case, *shown in rows:
        cost = get_op(name).cost(get_op(name).case(case))
        flops, moved = cost.flops / 1e12, cost.bytes / 1e6
        least = max(flops / peaks["f16"], moved / 1e3 / peaks["copy"]) * 1e6
        for text, value in zip(shown, (flops, moved, least), strict=True):
            digits = len(text.partition(".")[2])
            assert float(text) == round(value, digits), f"{name} {case}: {text} for {value}"
