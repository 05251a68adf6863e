"""`torch.nn.functional.scaled_dot_product_attention` through the library."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aimills_kernels.integrations._autocast import autocast_dtype
from aimills_kernels.kernels.attention.checks import DTYPES, MAX_HEAD_DIM, MAX_SCALE
from aimills_kernels.ops.attention import attention

# PyTorch's own, whatever stands in torch.nn.functional by now.
_torch_sdpa = torch._C._nn.scaled_dot_product_attention


class Registration:
    """Takes the registration back: `remove()`, or the end of a `with` block."""

    def __init__(self, before: Any, ours: Any):
        self._before, self._ours = before, ours

    def remove(self) -> None:
        """Once is enough; later calls do nothing."""
        if F.scaled_dot_product_attention is self._ours:
            F.scaled_dot_product_attention = self._before  # type: ignore[assignment]

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def register_sdpa() -> Registration:
    """From now on `F.scaled_dot_product_attention` runs on `attention` where it can.

    What `attention` can't express, or would not serve better, goes on to PyTorch as before;
    `why_not` says so for one call. Code that took the function out of `torch.nn.functional` before
    keeps PyTorch's. `torch.nn.attention.sdpa_kernel` picks among PyTorch's kernels and has no say
    over ours. A second call changes nothing.
    """
    if isinstance(getattr(F.scaled_dot_product_attention, "registration", None), Registration):
        return F.scaled_dot_product_attention.registration  # type: ignore[attr-defined]
    before = F.scaled_dot_product_attention

    @functools.wraps(before)
    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        args = (query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        if why_not(*args) is not None:
            return _onwards(before, *args)
        q, k, v = (t.to(autocast_dtype(t)).transpose(1, 2) for t in (query, key, value))
        causal = is_causal or attn_mask is not None
        return attention(q, k, v, causal=causal, scale=scale).transpose(1, 2)

    registration = Registration(before, scaled_dot_product_attention)
    scaled_dot_product_attention.registration = registration  # type: ignore[attr-defined]
    F.scaled_dot_product_attention = scaled_dot_product_attention  # type: ignore[assignment]
    return registration


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str | None:
    """Why PyTorch serves this call of `scaled_dot_product_attention`; None where `attention` does.

    `attention` is aligned bottom-right and `is_causal` top-left: they are one for as many queries
    as keys. Gradients stay with PyTorch, whose backward is fused.
    """
    tensors = (query, key, value)
    if any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors) or any(
        t.is_nested for t in tensors
    ):
        return "a tensor is of a subclass, or nested"
    if any(t.dim() != 4 for t in tensors):
        return "query, key and value must have four dims"
    (B, H, M, D), (G, N) = query.shape, key.shape[1:3]
    dtypes = {autocast_dtype(t) for t in tensors}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES.values()):
        return "dtypes must be one of f16, bf16 and f32"
    if key.shape[0] != B or value.shape[:3] != key.shape[:3] or key.shape[3] != D:
        return "shapes are to be broadcast, or don't fit"
    if 0 in query.shape or 0 in key.shape or 0 in value.shape:
        return "it is empty"
    if max(D, value.shape[3]) > MAX_HEAD_DIM:
        return f"the head dim is above {MAX_HEAD_DIM}"
    if H != G and not (enable_gqa and H % G == 0):
        return "the heads differ without enable_gqa"
    if dropout_p:
        return "attention has no dropout"
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "a gradient is wanted"
    if scale is not None and not abs(scale) < MAX_SCALE:
        return f"the scale is not finite, or not below {MAX_SCALE:g}"
    if is_causal and M != N:
        return "is_causal is aligned top-left, attention bottom-right"
    return None if attn_mask is None else _other_mask(attn_mask, is_causal, M, N)


def _other_mask(attn_mask: Tensor, is_causal: bool, M: int, N: int) -> str | None:
    other = "attention takes no mask but causal_lower_right"
    if type(attn_mask) is Tensor or is_causal:
        return other
    from torch.nn.attention.bias import CausalBias, CausalVariant

    if not isinstance(attn_mask, CausalBias):
        return other
    if attn_mask.variant == CausalVariant.UPPER_LEFT and M != N:
        return "causal_upper_left is aligned top-left, attention bottom-right"
    if (attn_mask.seq_len_q, attn_mask.seq_len_kv) != (M, N):
        return "the mask is of another shape"
    return None


def _onwards(
    before: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any, *rest: Any
) -> Tensor:
    """To the function that stood there before ours."""
    if before is _torch_sdpa and attn_mask is not None and type(attn_mask) is not Tensor:
        from torch.nn.attention.bias import CausalBias

        if isinstance(attn_mask, CausalBias):
            # It knows PyTorch's function by what torch.nn.functional holds, which is ours.
            return attn_mask._dispatch(query, key, value, attn_mask, *rest)
    dropout_p, is_causal, scale, enable_gqa = rest
    return before(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
