"""PyTorch's own backward of attention, from the flat arguments of `attention_backward`.

Each returns (dq, dk, dv), that op's first outputs, and takes no more than a scale and causal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa_backward(*args: Any) -> tuple[Tensor, ...]:
    """FlashAttention-2's backward as in PyTorch, from the saved output and lse."""
    with _deterministic(args[-1]):
        return _backward(*_plain(args))


def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool,
    scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
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
    with torch.enable_grad(), _deterministic(args[-1]):
        out = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in given), is_causal=causal, scale=scale,
            enable_gqa=q.shape[2] != k.shape[2],
        )  # fmt: skip
        return torch.autograd.grad(out, given, dout.transpose(1, 2))


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """PyTorch's deterministic kernels, for a row that asks for the same bits in each run. New
    tensors are not filled with NaN for it, which would be a pass more."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills


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
