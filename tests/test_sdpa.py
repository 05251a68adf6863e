"""`register_sdpa`: PyTorch's function through the library, and back."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from aimills_kernels import register_sdpa
from aimills_kernels.integrations import sdpa

ORIGINAL = F.scaled_dot_product_attention


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The library's function is in place; what came to `attention`."""
    seen: list[dict[str, Any]] = []

    def attention(*args: Tensor, **options: Any) -> Tensor:
        seen.append(options)
        return served(*args, **options)

    served = sdpa.attention
    monkeypatch.setattr(sdpa, "attention", attention)
    with register_sdpa():
        yield seen
    assert F.scaled_dot_product_attention is ORIGINAL


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


Q, K = drawn(2, 4, 9, 16), drawn(2, 4, 9, 16)
LONG, FEW = drawn(2, 4, 12, 16), drawn(2, 2, 9, 16)

SERVED: dict[str, tuple[tuple, dict[str, Any]]] = {
    "plain": ((Q, K, K), {}),
    "causal": ((Q, K, K), dict(is_causal=True)),
    "scale": ((Q, K, K), dict(scale=0.7)),
    "gqa": ((Q, FEW, FEW), dict(enable_gqa=True, is_causal=True)),
    "more keys": ((Q, LONG, LONG), {}),
    "lower right": ((Q, LONG, LONG), dict(attn_mask=causal_lower_right(9, 12))),
    "upper left, square": ((Q, K, K), dict(attn_mask=causal_upper_left(9, 9))),
    "narrow values": ((Q, K, K[..., :5]), {}),
    "half": ((Q.half(), K.half(), K.half()), dict(is_causal=True)),
}
ONWARDS: dict[str, tuple[tuple, dict[str, Any], str]] = {
    "top-left": ((Q, LONG, LONG), dict(is_causal=True), "aligned top-left"),
    "upper left": ((Q, LONG, LONG), dict(attn_mask=causal_upper_left(9, 12)), "causal_upper_left"),
    "mask": ((Q, K, K), dict(attn_mask=torch.ones(9, 9).tril().bool()), "takes no mask"),
    "gradient": ((Q.clone().requires_grad_(), K, K), {}, "a gradient"),
    "three dims": ((Q[0], K[0], K[0]), {}, "four dims"),
    "f64": ((Q.double(), K.double(), K.double()), {}, "dtypes must be"),
    "broadcast": ((Q, K[:1], K[:1]), {}, "broadcast"),
    "wide": ((drawn(1, 1, 3, 300), drawn(1, 1, 3, 300), drawn(1, 1, 3, 300)), {}, "above 256"),
    "empty": ((Q[:, :, :0], K, K), {}, "empty"),
    "infinite scale": ((Q, K, K), dict(scale=math.inf), "not finite"),
    "huge scale": ((Q, K, K), dict(scale=-1e31), "not below 1e+30"),
}


@pytest.mark.parametrize("name", SERVED)
def test_served(name: str, calls: list[dict[str, Any]]) -> None:
    args, options = SERVED[name]
    found = F.scaled_dot_product_attention(*args, **options)
    assert len(calls) == 1
    torch.testing.assert_close(found, ORIGINAL(*args, **unregistered(options)))


@pytest.mark.parametrize("name", ONWARDS)
def test_onwards(name: str, calls: list[dict[str, Any]]) -> None:
    args, options, reason = ONWARDS[name]
    assert reason in str(sdpa.why_not(*args, **options))
    found = F.scaled_dot_product_attention(*args, **options)
    assert not calls
    wanted = ORIGINAL(*args, **unregistered(options))
    torch.testing.assert_close(found, wanted, equal_nan=True)


def unregistered(options: dict[str, Any]) -> dict[str, Any]:
    """With booleans for a bias, which looks for its function in torch.nn.functional."""
    mask = options.get("attn_mask")
    return options if not hasattr(mask, "_materialize") else {"attn_mask": mask._materialize()}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_torch(
    dtype: torch.dtype, compiled: bool, calls: list[dict[str, Any]]
) -> None:
    """float32 and mixed inputs come out in autocast's dtype, as PyTorch casts them."""

    def call(*args: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return F.scaled_dot_product_attention(*args, is_causal=True)

    torch._dynamo.reset()
    for args in ((Q, K, K), (Q, K, K.to(dtype)), (Q.half(), K.bfloat16(), K)):
        ours = torch.compile(call, backend="eager", fullgraph=True) if compiled else call
        found = ours(*args)
        with torch.autocast("cpu", dtype=dtype):
            wanted = ORIGINAL(*args, is_causal=True)
        assert found.dtype == wanted.dtype == dtype
        torch.testing.assert_close(found, wanted)
    assert compiled or len(calls) == 3


def test_autocast_leaves_doubles_to_torch(calls: list[dict[str, Any]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.scaled_dot_product_attention(Q.double(), K.double(), K.double()).dtype is (
            torch.float64
        )
    assert not calls


def test_dropout_goes_on(calls: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    found = F.scaled_dot_product_attention(Q, K, K, dropout_p=0.5)
    torch.manual_seed(0)
    assert torch.equal(found, ORIGINAL(Q, K, K, dropout_p=0.5))
    assert not calls


def test_errors_stay_those_of_torch(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(Q, K[..., :3], K)
    with pytest.raises(ValueError, match="CausalBias"):
        F.scaled_dot_product_attention(Q, K, K, attn_mask=causal_lower_right(9, 9), is_causal=True)
    assert not calls


def test_the_gradient_is_that_of_torch() -> None:
    grads = []
    for function in (ORIGINAL, None):
        q = Q.clone().requires_grad_()
        with register_sdpa():
            (function or F.scaled_dot_product_attention)(q, K, K).sum().backward()
        grads.append(q.grad)
    assert torch.equal(*grads)


def test_registered_twice_is_once() -> None:
    first = register_sdpa()
    ours = F.scaled_dot_product_attention
    assert register_sdpa() is first
    assert F.scaled_dot_product_attention is ours
    first.remove()
    first.remove()
    assert F.scaled_dot_product_attention is ORIGINAL


def test_a_patch_below_is_gone_on_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def theirs(*args: Any, **options: Any) -> Tensor:
        seen.append(args)
        return ORIGINAL(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", theirs)
    with register_sdpa():
        F.scaled_dot_product_attention(Q, K, K)
        assert not seen
        F.scaled_dot_product_attention(Q, K, K, attn_mask=torch.ones(9, 9).bool())
    assert len(seen) == 1
    assert F.scaled_dot_product_attention is theirs


def test_another_patch_on_top_is_left_alone() -> None:
    registration = register_sdpa()
    mine = lambda *args, **options: None  # noqa: E731
    F.scaled_dot_product_attention = mine
    registration.remove()
    assert F.scaled_dot_product_attention is mine
    F.scaled_dot_product_attention = ORIGINAL


def test_a_transformer_layer_comes_through(calls: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True).train()
    x = torch.randn(2, 6, 32)
    with torch.no_grad():
        found = layer(x, x, x, need_weights=False)[0]
    assert len(calls) == 1
    calls.clear()
    with torch.no_grad():
        wanted = layer.eval()(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(found, wanted)


def test_compiled(calls: list[dict[str, Any]]) -> None:
    torch._dynamo.reset()

    def function(q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, is_causal=True) + 1

    found = torch.compile(function, backend="eager", fullgraph=True)(Q, K)
    torch.testing.assert_close(found, ORIGINAL(Q, K, K, is_causal=True) + 1)
