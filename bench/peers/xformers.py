"""xFormers: memory_efficient_attention, whichever of its kernels it picks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aimills_kernels.harness.peers import Adapter

from ._attention import Call, lengths

NAME = "xformers"


def _run(q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: float) -> Tensor:
    """Grouped heads are a dim of their own, with keys and values expanded over it."""
    from xformers.ops import memory_efficient_attention_forward

    B, M, H, _ = q.shape
    G = k.shape[2]
    if G != H:
        q = q.unflatten(2, (G, H // G))
        k, v = (t.unsqueeze(3).expand(-1, -1, -1, H // G, -1) for t in (k, v))
    found = memory_efficient_attention_forward(q, k, v, attn_bias=bias, scale=scale)
    return found.reshape(B, M, H, v.shape[-1])


def _checked(call: Call) -> Call:
    call.refuse(
        NAME, "sinks", "alibi_slopes", "seqused_k", "window", "softcap", "return_lse"
    )  # fmt: skip
    return call


def attention(*args: Any) -> Tensor:
    """xFormers: memory_efficient_attention_forward."""
    from xformers.ops import fmha

    call = _checked(Call.of(*args))
    bias = fmha.attn_bias.LowerTriangularFromBottomRightMask() if call.causal else None
    return _run(call.q, call.k, call.v, bias, call.scale)


def attention_varlen(*args: Any) -> Tensor:
    """xFormers: memory_efficient_attention_forward under a block-diagonal mask, made before."""
    call = _checked(Call.of_varlen(*args))
    assert call.cu_q is not None
    if not hasattr(call.cu_q, "xformers_bias"):
        call.cu_q.xformers_bias = _blocks(call)  # type: ignore[attr-defined]
    bias = call.cu_q.xformers_bias  # type: ignore[attr-defined]
    return _run(call.q[None], call.k[None], call.v[None], bias, call.scale)[0]


def _blocks(call: Call) -> Any:
    from xformers.ops import fmha

    assert call.cu_q is not None
    assert call.cu_k is not None
    blocks = fmha.attn_bias.BlockDiagonalMask.from_seqlens(lengths(call.cu_q), lengths(call.cu_k))
    return blocks.make_causal_from_bottomright() if call.causal else blocks


ADAPTER = Adapter(
    NAME,
    {"attention": attention, "attention_varlen": attention_varlen},
    needs={"xformers": "xformers"},
)
