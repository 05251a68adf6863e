"""FlashAttention-3, as the wheel `fa3-fwd` has it: forward only, built without some features."""

from __future__ import annotations

from typing import Any

import torch

from aimills_kernels.harness.peers import Adapter

from ._attention import Call

NAME = "fa3"


def _options(call: Call) -> dict[str, Any]:
    from fa3_fwd_config import CONFIG

    call.refuse(NAME, "sinks", "alibi_slopes")
    left_out = CONFIG["build_flags"]
    if left_out["FLASHATTENTION_DISABLE_LOCAL"]:
        call.refuse("this build of fa3", "window")
    if left_out["FLASHATTENTION_DISABLE_FP16"] and call.q.dtype == torch.float16:
        raise NotImplementedError("this build of fa3 takes no float16")
    return {
        "softmax_scale": call.scale, "causal": call.causal,
        "window_size": (call.left, call.right), "softcap": call.softcap,
        "return_attn_probs": call.return_lse,
    }  # fmt: skip


def attention(*args: Any) -> Any:
    """FlashAttention-3: flash_attn_func."""
    from fa3_fwd_interface import flash_attn_func

    call = Call.of(*args)
    call.refuse("flash_attn_func of fa3", "seqused_k")
    found = flash_attn_func(call.q, call.k, call.v, **_options(call))
    return found[:2] if call.return_lse else found


def attention_varlen(*args: Any) -> Any:
    """FlashAttention-3: flash_attn_varlen_func, told the longest sequences."""
    from fa3_fwd_interface import flash_attn_varlen_func

    call = Call.of_varlen(*args)
    found = flash_attn_varlen_func(
        call.q, call.k, call.v, call.cu_q, call.cu_k, *call.longest,
        seqused_k=call.seqused_k, **_options(call),
    )  # fmt: skip
    return found[:2] if call.return_lse else found


ADAPTER = Adapter(
    NAME,
    {"attention": attention, "attention_varlen": attention_varlen},
    needs={"fa3_fwd_interface": "fa3-fwd"},
)
