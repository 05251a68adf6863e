"""What the declarations of attention's gradients can't say of themselves."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels import _dispatch
from aimills_kernels._op import Case
from aimills_kernels._registry import OPS, get_op

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "no-keys": {"causal": True, "M": 9, "N": 4},
    "window": {"window": (2, 1)},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": "f32"},
    "sinks-none": {"sinks": "none", "causal": True, "M": 9, "N": 4},
    "alibi": {"alibi": "batch"},
    "alibi-heads": {"alibi": "head", "causal": True},
    "used": {"used": (3, 0), "B": 2},
    "empty": {"N": 0, "sinks": "f32"},
    "everything": {"B": 2, "used": (5, 3), "sinks": "f32", "alibi": "batch", "softcap": 2.0,
                   "causal": True, "window": (3, -1)},
}  # fmt: skip
DENSE = {"B": 1, "M": 5, "N": 6, "H": 4, "G": 2, "D": 3, "Dv": 2, "dtype": "f32", "lse": True}


def _case(op: str, feature: str) -> Case:
    dims = {**DENSE, **FEATURES[feature]}
    if op == "attention_varlen":
        B, M, N = (dims.pop(n) for n in ("B", "M", "N"))
        dims |= {"q_lens": (M,) * B + (0, 2), "k_lens": (N,) * B + (1, 2), "tail": 1}
        if "used" in dims:
            dims["used"] = (*dims["used"], 1, 2)
    return Case(feature, **dims)


def _arguments(op: str, feature: str, seed: int) -> tuple[list[Any], list[int]]:
    """The forward's flat arguments in float64, and where those stand that have a gradient."""
    declared = get_op(op)
    args = list(declared.make_inputs(_case(op, feature), "cpu", seed))
    wanted = [
        i for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()
    ]  # fmt: skip
    for i in wanted:
        args[i] = args[i].double().requires_grad_()
    return args, wanted


def _grads_by_op(op: str, args: list[Any], dout: Tensor, dlse: Tensor, outs: tuple) -> list:
    """By the reference of the backward op, through the hooks that autograd uses."""
    forward = get_op(op)
    needs = tuple(isinstance(a, Tensor) and a.is_floating_point() for a in args)
    plain = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
    saved = tuple(o.detach() for o in outs)
    given = forward.backward.arguments(plain, saved, (dout, dlse), needs)
    results = get_op(forward.backward.op).reference(*given)
    return [g for g in forward.backward.gradients(plain, results, needs) if g is not None]


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
def test_the_formula_is_the_derivative_of_the_forward(op: str, feature: str, seed: int) -> None:
    """In float64, with every argument's gradient through out and lse; never NaN."""
    args, wanted = _arguments(op, feature, seed)
    out, lse = get_op(op).reference(*args)
    generator = torch.Generator().manual_seed(seed)
    dout = torch.randn(out.shape, generator=generator).double()
    dlse = torch.randn(lse.shape, generator=generator).double()
    seen = torch.isfinite(lse)
    loss = (out * dout).sum() + (lse[seen] * dlse[seen]).sum()
    want = torch.autograd.grad(loss, [args[i] for i in wanted], allow_unused=True)
    got = _grads_by_op(op, args, dout, torch.where(seen, dlse, 0.0), (out, lse))
    for g, w in zip(got, want, strict=True):
        assert bool(torch.isfinite(g).all())
        torch.testing.assert_close(g, torch.zeros_like(g) if w is None else w)


def test_finite_differences_of_the_public_function(seed: int) -> None:
    """gradcheck of the forward with the gradients of the backward op: a Function in float64."""
    args, wanted = _arguments("attention", "everything", seed)

    class InDouble(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            ctx.args = list(args)
            for i, t in zip(wanted, tensors, strict=True):
                ctx.args[i] = t.detach()
            ctx.outs = get_op("attention").reference(*ctx.args)
            return ctx.outs

        @staticmethod
        def backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple:
            return tuple(_grads_by_op("attention", ctx.args, dout, dlse, ctx.outs))

    # Keys that are not in use are NaN, and finite differences of what is not read say nothing.
    for i in (1, 2):
        args[i] = args[i].detach().nan_to_num(0.0).requires_grad_()
    assert torch.autograd.gradcheck(InDouble.apply, [args[i] for i in wanted])


def _public(op: str, seed: int, **given: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    """A call of q, k, v and sinks, and these."""
    g = torch.Generator().manual_seed(seed)
    dense = op == "attention"
    q, k, v = (
        torch.randn(*((2, 7) if dense else (14,)), h, 16, generator=g, requires_grad=True)
        for h in (4, 2, 2)
    )
    sinks = torch.randn(4, generator=g, requires_grad=True)
    cu = torch.tensor([0, 3, 3, 12], dtype=torch.int32)
    places = () if dense else (cu, cu)

    def call(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, **more: Any) -> Any:
        return getattr(ak, op)(q, k, v, *places, sinks=sinks, causal=True, **given, **more)

    return call, [q, k, v, sinks]


def _backward_ops(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backward ops that are launched while `call` runs."""
    seen: list[str] = []
    plan_for = _dispatch.plan_for

    def watched(op: Any, args: Any) -> Any:
        if op.name.endswith("_backward"):
            seen.append(op.name)
        return plan_for(op, args)

    with monkeypatch.context() as patch:
        patch.setattr(_dispatch, "plan_for", watched)
        call()
    return seen


@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
def test_a_backward_pass_runs_the_backward_op(
    op: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, given = _public(op, seed)
    loss = call(*given).square().sum()
    assert _backward_ops(loss.backward, monkeypatch) == [f"{op}_backward"]
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in given)


def test_a_backward_in_another_thread_takes_the_provider_asked_for(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As autograd has a thread for each GPU, which knows nothing of the block around the call."""
    call, given = _public("attention", seed)
    plan_for, asked = _dispatch.plan_for, []

    def watched(op: Any, args: Any) -> Any:
        asked.append((op.name, _dispatch.forced_provider(op.name)))
        return plan_for(op, args)

    with ak.use_provider("attention_backward", "reference"):
        loss = call(*given).square().sum()
        other = call(*given).square().sum()
    unasked = call(*given).square().sum()
    monkeypatch.setattr(_dispatch, "plan_for", watched)
    for each in (loss, unasked):
        thread = threading.Thread(target=each.backward)
        thread.start()
        thread.join()
    with (  # the last word, where it is heard
        ak.use_provider("attention_backward", "triton"),
        pytest.raises(ValueError, match="provider 'triton' was asked for"),
    ):
        other.backward()
    assert [name for _, name in asked] == ["reference", None, "triton"]


@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
def test_only_what_is_wanted_gets_a_gradient(op: str, seed: int) -> None:
    call, given = _public(op, seed)
    want = torch.autograd.grad(call(*given).square().sum(), given)
    for some in itertools.product((False, True), repeat=4):
        if not any(some):
            continue
        mine = [t.detach().requires_grad_(need) for t, need in zip(given, some, strict=True)]
        call(*mine).square().sum().backward()
        for t, need, expected in zip(mine, some, want, strict=True):
            assert (t.grad is not None) == need
            if need:
                assert torch.equal(t.grad, expected)


@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
@pytest.mark.parametrize("through", ["out", "lse", "both"])
def test_gradients_through_out_and_lse(op: str, through: str, seed: int) -> None:
    call, given = _public(op, seed, return_lse=True)

    def loss(*given: Tensor) -> Tensor:
        out, lse = call(*given)
        found = out.new_zeros(())
        if through != "lse":
            found = found + out.square().sum()
        if through != "out":
            found = found + lse.sin().sum()
        return found

    got = torch.autograd.grad(loss(*given), given)
    want = torch.autograd.grad(loss(*given), given, create_graph=True)  # by the reference
    # A sink's is a sum over all rows, which may cancel: its error goes with what is summed.
    largest = max(float(w.abs().max()) for w in want)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
def test_a_compiled_step_has_the_backward_op_in_its_graph(op: str, seed: int) -> None:
    call, given = _public(op, seed)
    names: list[str] = []

    def note(graph: Any, inputs: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *given: call(*given).square().sum(), fullgraph=True,
        backend=aot_autograd(fw_compiler=note, bw_compiler=note),
    )  # fmt: skip
    want = torch.autograd.grad(call(*given).square().sum(), given)
    got = torch.autograd.grad(compiled(*given), given)
    torch.testing.assert_close(got, want)
    assert f"aimills.{op}_backward.default" in names


@pytest.mark.parametrize("op", ["attention", "attention_varlen"])
def test_deterministic_changes_nothing_here_and_is_a_flag(op: str, seed: int) -> None:
    call, given = _public(op, seed)
    want = torch.autograd.grad(call(*given).square().sum(), given)
    got = torch.autograd.grad(call(*given, deterministic=True).square().sum(), given)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
    with pytest.raises(ValueError, match=f"{op}: deterministic must be True or False"):
        call(*given, deterministic=1)


def test_merged_states_give_the_parts_of_the_gradients(seed: int) -> None:
    """Half of the keys at a time, with the output and lse of all: the parts of one gradient."""
    g = torch.Generator().manual_seed(seed)
    q, k, v, dout = (torch.randn(1, 8, 2, 16, generator=g) for _ in range(4))
    o, lse = ak.attention(q, k, v, return_lse=True)
    dq, dk, dv, _, _ = ak.attention_backward(dout, q, k, v, o, lse)
    halves = [
        ak.attention_backward(dout, q, k[:, part], v[:, part], o, lse)
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(halves[0][0] + halves[1][0], dq)
    for i, whole in ((1, dk), (2, dv)):
        torch.testing.assert_close(torch.cat([h[i] for h in halves], 1), whole)


def test_a_half_of_two_flags_is_refused(seed: int) -> None:
    x = torch.randn(1, 4, 2, 16, generator=torch.Generator().manual_seed(seed))
    o, lse = ak.attention(x, x, x, return_lse=True)
    with pytest.raises(ValueError, match="attention_backward: need_dslopes must be True or False"):
        ak.attention_backward(x, x, x, x, o, lse, need_dslopes=1)


@pytest.mark.parametrize("name", [o.name for o in OPS if o.name.endswith("_backward")])
def test_what_was_not_saved_is_worked_out(name: str, seed: int) -> None:
    op = get_op(name)
    named = dict(zip(op.params, op.make_inputs(op.case("tiny"), "cpu", seed), strict=True))
    want = op.reference(*op.flat(named))
    got = op.reference(*op.flat({**named, "lse": torch.empty(0)}))
    torch.testing.assert_close(got, want)
    assert "did not save" in str(_explained(op, {**named, "lse": torch.empty(0)}))


def _explained(op: Any, named: dict[str, Any]) -> str | None:
    problem = _dispatch.Problem(op, op.flat(named), "cuda", 90)
    return _dispatch.why_not(op.provider("triton"), problem)
