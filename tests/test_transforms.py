"""The public functions under torch.func, forward-mode differentiation and torch.vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp
from torch.utils._pytree import tree_leaves

import aimills_kernels as ak
from aimills_kernels._op import Op
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import validate_each

SCALE = 8**-0.5


def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out, lse = ak.attention(q, k, v, causal=True, return_lse=True)
    return out.square().sum() + lse.sum()


def plain_loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out, lse = get_op("attention").reference(
        q, k, v, None, None, None, True, SCALE, -1, -1, 0.0, True, False, False
    )
    return out.square().sum() + lse.sum()


def _qkv(seed: int, *batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*batch, 1, 4, 2, 8, generator=generator) for _ in range(3))


def _assert_near(got: Any, want: Any) -> None:
    """Over 60 seeds the largest difference was 8e-7 of the largest derivative."""
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


ALL = (0, 1, 2)
TRANSFORMS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., object]]] = {
    "grad": lambda f: grad(f, ALL),
    "vjp": lambda f: lambda *qkv: vjp(f, *qkv)[1](torch.tensor(2.0)),
    "jacrev": lambda f: jacrev(f, ALL),
    "grad of grad": lambda f: grad(lambda *qkv: grad(f, 1)(*qkv).square().sum(), ALL),
    "jacrev of grad": lambda f: jacrev(grad(f, 2), ALL),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f), ALL),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives_are_those_of_the_reference(name: str, seed: int) -> None:
    transform, qkv = TRANSFORMS[name], _qkv(seed)
    _assert_near(transform(loss)(*qkv), transform(plain_loss)(*qkv))


def test_derivatives_below_and_above_vmap(seed: int) -> None:
    qkv = _qkv(seed, 3)
    want = torch.vmap(grad(plain_loss, ALL))(*qkv)
    _assert_near(torch.vmap(grad(loss, ALL))(*qkv), want)
    summed = grad(lambda *qkv: torch.vmap(loss)(*qkv).sum(), ALL)
    _assert_near(summed(*qkv), want)


def test_derivatives_of_a_module_compile(seed: int) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(8) / 2)

        def forward(self, x: Tensor) -> Tensor:
            return loss(x @ self.weight, x, x)

    layer, (x, _, _) = Layer(), _qkv(seed)
    layer(x).backward()

    def functional(weight: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight}, (x,))

    weight = layer.weight.detach()
    _assert_near(grad(functional)(weight), layer.weight.grad)
    compiled = torch.compile(grad(functional), fullgraph=True, backend="aot_eager")
    _assert_near(compiled(weight), layer.weight.grad)


def test_gradients_of_scales_and_bias(seed: int) -> None:
    op = get_op("matmul_fp8")
    args = op.make_inputs(op.case("aligned-rows"), "cpu", seed)
    a, b, *real = args[:5]

    def ours(*real: Tensor) -> Tensor:
        return ak.matmul_fp8(a, b, *real[:2], bias=real[2], out_dtype=torch.float32).sum()

    def plain(*real: Tensor) -> Tensor:
        return op.reference(a, b, *real, torch.float32, "promoted", False, None, "none").sum()

    _assert_near(grad(ours, ALL)(*real), grad(plain, ALL)(*real))


NO_FORWARD_MODE = "attention: has no forward-mode derivative"


def test_forward_mode_is_refused(seed: int) -> None:
    qkv = _qkv(seed)
    loss(*qkv)  # so that the calls below could take the short way
    for call in (
        lambda: jvp(loss, qkv, qkv),
        lambda: jacfwd(loss)(*qkv),
        lambda: hessian(loss)(*qkv),
    ):
        with pytest.raises(ValueError, match=NO_FORWARD_MODE):
            call()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(qkv[0], qkv[1])
        with pytest.raises(ValueError, match=NO_FORWARD_MODE):
            loss(dual, *qkv[1:])
        loss(*qkv)  # without a tangent it is an ordinary call


def test_vmap_over_planes_and_options(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 256, (3, 2, 6, 8), generator=generator, dtype=torch.uint8)
    uv = torch.randint(0, 256, (2, 3, 4, 2, 3), generator=generator, dtype=torch.uint8)

    def call(y: Tensor, uv: Tensor) -> Tensor:
        return ak.video_to_tensor((y, uv), size=(4, 5))

    want = torch.stack([call(y[i], uv[..., i]) for i in range(3)])
    assert torch.equal(torch.vmap(call, in_dims=(0, -1))(y, uv), want)
    shared = torch.vmap(call, in_dims=(0, None))(y, uv[..., 0])
    assert torch.equal(shared[1], call(y[1], uv[..., 0]))
    with pytest.raises(ValueError, match=r"video_to_tensor: torch\.vmap over an empty dimension"):
        torch.vmap(call, in_dims=(0, -1))(y[:0], uv[..., :0])


def test_vmap_takes_no_out(seed: int) -> None:
    (q, _, _), outs = _qkv(seed, 3), torch.empty(3, 1, 4, 2, 8)
    for out_dim, out in ((0, outs), (None, outs[0])):
        with pytest.raises(ValueError, match=r"attention: out= can't be used under torch\.vmap"):
            torch.vmap(lambda q, o: ak.attention(q, q, q, out=o), (0, out_dim))(q, out)


def test_vmap_over_several_outputs(seed: int) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    codes, scale = torch.vmap(lambda x: ak.quantize_fp8(x, "row"))(x)
    want = ak.quantize_fp8(x, "row")
    assert torch.equal(codes.view(torch.uint8), want[0].view(torch.uint8))
    assert torch.equal(scale, want[1])


@pytest.mark.parametrize("provider", ["sdpa", "reference"])
def test_autocast_changes_nothing(provider: str, seed: int) -> None:
    """Not what is computed, nor its gradient, eager or compiled, into `out` or not."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ak.attention(q, k, v, causal=True)

    def loss(*qkv: Tensor) -> Tensor:
        return call(*qkv).square().sum()

    qkv, compiled = _qkv(seed), torch.compile(call, backend="aot_eager")
    taken = [t.clone().requires_grad_() for t in qkv]
    out = torch.empty_like(qkv[0])
    with ak.use_provider("attention", provider):
        want, slopes = call(*qkv), torch.autograd.grad(loss(*taken), taken)
        of_grad = grad(loss, ALL)(*qkv)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for got in (call(*qkv), call(*qkv), compiled(*qkv)):
                assert torch.equal(got, want)
            ak.attention(*qkv, causal=True, out=out)
            for got, slope in zip(torch.autograd.grad(loss(*taken), taken), slopes, strict=True):
                assert torch.equal(got, slope)
            for got, slope in zip(grad(loss, ALL)(*qkv), of_grad, strict=True):
                assert torch.equal(got, slope)
    assert torch.equal(out, want)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_autocast_does_not_change_a_verdict(op: Op, seed: int) -> None:
    plain = list(validate_each(op, "ragged", device="cpu", seed=seed))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [str(r) for r in validate_each(op, "ragged", device="cpu", seed=seed)] == [
            str(r) for r in plain
        ]
