"""PyTorch's scaled_dot_product_attention: cuDNN, FlashAttention-2 or its CPU kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Not by way of torch.nn.functional, whose function may lead back here (`register_sdpa`).
_sdpa = torch._C._nn.scaled_dot_product_attention


def _lower_right(q: Tensor, k: Tensor, v: Tensor, **others: Any) -> Tensor:
    M, N = q.shape[2], k.shape[2]
    if q.device.type == "cpu":
        mask = torch.ones(M, N, dtype=torch.bool).tril(N - M)
        return _sdpa(q, k, v, attn_mask=mask, **others)
    # Not at the top: the module pulls in torch._dynamo, and with it Triton.
    from torch.nn.attention.bias import CausalBias, causal_lower_right

    return CausalBias._dispatch(q, k, v, causal_lower_right(M, N), **others)


def launch(
    outs: tuple[Tensor, Tensor],
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, alibi_slopes: Tensor | None,
    seqused_k: Tensor | None, causal: bool, scale: float, *others: object,
) -> None:  # fmt: skip
    M, N, given = q.shape[1], k.shape[1], (q, k, v)
    q, k, v = (t.transpose(1, 2) for t in given)
    # is_causal is aligned top-left; ours is bottom-right, which is the same only for M == N.
    # A single query at the end sees every key.
    named: dict[str, Any] = dict(scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    if causal and M != N and M > 1:
        found = _lower_right(q, k, v, **named)
    else:
        found = _sdpa(q, k, v, is_causal=causal and M == N, **named)
    outs[0].copy_(found.transpose(1, 2))
    if q.device.type == "cpu":
        _restore_nan(outs[0], *given, causal, scale)


def _bounded(q: Tensor, k: Tensor, v: Tensor, scale: float) -> bool:
    """Whether no score can be infinite or NaN, and no value is."""
    most = q.abs().max().double() * k.abs().max().double() * q.shape[-1] * max(1.0, abs(scale))
    return bool(most < torch.finfo(torch.float32).max) and bool(v.isfinite().all())


def _restore_nan(out: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> None:
    """PyTorch's CPU kernel makes 0 of some rows whose scores are NaN: all of them for a query that
    holds one, where there are fewer keys than a vector register holds."""
    if not bool((out == 0).all(-1).any()) or _bounded(q, k, v, scale):
        return
    from aimills_kernels.kernels.attention.op import reference

    extras, scalars = (None,) * 3, (causal, scale, -1, -1, 0.0, False, False, False)
    right, _ = reference(q, k, v, *extras, *scalars)
    out.copy_(torch.where(right.isnan(), right, out))
