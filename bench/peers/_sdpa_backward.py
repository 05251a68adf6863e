"""PyTorch's own backward of attention, from the flat arguments of `attention_backward`.

Each returns (dq, dk, dv), that op's first outputs, and takes no more than a scale and causal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa_backward(*args: Any) -> tuple[Tensor, ...]:
    """FlashAttention-2's backward as in PyTorch, from the saved output and lse."""
    dout, q, k, v, o, lse, causal, scale = _plain(args)
    if q.device.type == "cuda":
        none, state = (
            torch.empty(0, device=q.device),
            torch.zeros(2, dtype=torch.int64).to(q.device),
        )
        return torch.ops.aten._flash_attention_backward(
            dout, q, k, v, o, lse, None, None, q.shape[1], k.shape[1], 0.0, causal, state, none,
            scale=scale,
        )  # fmt: skip
    groups = q.shape[2] // k.shape[2]
    wide = (t.repeat_interleave(groups, 2) for t in (k, v))
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *(t.transpose(1, 2) for t in (dout, q, *wide, o)), lse.transpose(1, 2).contiguous().mT,
        0.0, causal, scale=scale,
    )  # fmt: skip
    dk, dv = (t.unflatten(1, (k.shape[2], groups)).sum(2) for t in (dk, dv))
    return tuple(t.transpose(1, 2) for t in (dq, dk, dv))


def sdpa_with_forward(*args: Any) -> tuple[Tensor, ...]:
    """F.scaled_dot_product_attention forward and backward, whichever kernel PyTorch takes."""
    dout, q, k, v, _, _, causal, scale = _plain(args)
    given = [t.detach().requires_grad_() for t in (q, k, v)]
    with torch.enable_grad():
        out = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in given), is_causal=causal, scale=scale,
            enable_gqa=q.shape[2] != k.shape[2],
        )  # fmt: skip
        return torch.autograd.grad(out, given, dout.transpose(1, 2))


def _plain(args: tuple) -> tuple[Any, ...]:
    """What PyTorch takes; NotImplementedError for what it has not."""
    dout, q, k, v, o, lse, dlse, sinks, slopes, used, causal, scale, left, right, softcap = args[
        :15
    ]
    extras = {
        "gradient of lse": dlse is not None, "sinks": sinks is not None,
        "alibi_slopes": slopes is not None, "seqused_k": used is not None,
        "window": left >= 0 or right >= 0, "softcap": softcap != 0,
        "bottom-right causal mask": causal and q.shape[1] != k.shape[1],
    }  # fmt: skip
    for name, wanted in extras.items():
        if wanted:
            raise NotImplementedError(f"PyTorch's SDPA takes no {name}")
    return dout, q, k, v, o, lse, causal, scale
