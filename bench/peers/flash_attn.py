"""FlashAttention-2 (`flash-attn`)."""

from __future__ import annotations

from typing import Any

from aimills_kernels.harness.peers import Adapter

from ._attention import Call

NAME = "flash_attn"


def _options(call: Call) -> dict[str, Any]:
    call.refuse(NAME, "sinks", "seqused_k")
    return {
        "softmax_scale": call.scale, "causal": call.causal,
        "window_size": (call.left, call.right), "softcap": call.softcap,
        "alibi_slopes": call.alibi_slopes, "return_attn_probs": call.return_lse,
    }  # fmt: skip


def attention(*args: Any) -> Any:
    """FlashAttention-2: flash_attn_func."""
    from flash_attn import flash_attn_func

    call = Call.of(*args)
    found = flash_attn_func(call.q, call.k, call.v, **_options(call))
    return found[:2] if call.return_lse else found


def attention_varlen(*args: Any) -> Any:
    """FlashAttention-2: flash_attn_varlen_func, told the longest sequences."""
    from flash_attn import flash_attn_varlen_func

    call = Call.of_varlen(*args)
    found = flash_attn_varlen_func(
        call.q, call.k, call.v, call.cu_q, call.cu_k, *call.longest, **_options(call)
    )
    return found[:2] if call.return_lse else found


ADAPTER = Adapter(
    NAME,
    {"attention": attention, "attention_varlen": attention_varlen},
    needs={"flash_attn": "flash-attn"},
)
