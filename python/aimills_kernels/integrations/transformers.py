"""`attn_implementation="aimills"` in Transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.integrations._autocast import autocast_dtype
from aimills_kernels.integrations._masks import Mask, make_mask
from aimills_kernels.kernels.attention.op import attend
from aimills_kernels.ops.attention import attention, attention_varlen

# What some models leave to their implementation, and would come out wrong without.
_OTHER_MODELS = {
    "indices": "keys picked for each query",
    "block_indices": "blocks of keys picked for each query",
    "sinks": "sinks of each query",
}


def register_transformers(name: str = "aimills") -> None:
    """Make `attn_implementation=name` and `AimillsConfig` known to Transformers (from 5.0).

        aimills_kernels.register_transformers()
        model = AutoModel.from_pretrained(
            path,
            attn_implementation="aimills",
            quantization_config=aimills_kernels.AimillsConfig("fp8-row"),
        )

    Padding (left, right), causal and full attention, sliding windows, soft caps and sinks run on
    `attention`; sequences packed by `cu_seq_lens_q` and `cu_seq_lens_k` on `attention_varlen`. Keys
    of a padded batch are put in order first, which copies them. A mask of another pattern is handed
    to PyTorch as booleans.

    Raises:
        ImportError: Transformers is not installed, or older than its mask interface.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface

        from aimills_kernels.integrations import quantizer
    except ImportError as error:
        raise ImportError(
            "register_transformers needs the package transformers, 5.0 or newer: "
            "pip install transformers"
        ) from error
    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, make_mask)
    quantizer.register()


def forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [B, H, M, D], key [B, G, N, D], value [B, G, N, Dv] -> [B, M, H, Dv] and no weights."""
    _refuse(dropout, others)
    # Under autocast rotary embeddings leave queries and keys in float32, and values in 16 bits.
    q, k, v = (t.to(autocast_dtype(t)).transpose(1, 2) for t in (query, key, value))
    if s_aux is not None and s_aux.dtype not in (torch.float32, q.dtype):
        s_aux = s_aux.to(q.dtype)
    shared: dict[str, Any] = dict(scale=scaling, softcap=softcap or 0.0, sinks=s_aux)
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    if cu_seq_lens_q is not None and cu_seq_lens_k is not None:
        window = _window(sliding_window, is_causal)
        lens = (cu_seq_lens_q.int(), cu_seq_lens_k.int())
        return _packed(q, k, v, *lens, causal=is_causal, window=window, **shared), None
    if isinstance(attention_mask, Tensor):
        return _by_booleans(q, k, v, attention_mask, **shared), None
    if attention_mask is None:
        window = _window(sliding_window, is_causal)
        return attention(q, k, v, causal=is_causal, window=window, **shared), None
    if not isinstance(attention_mask, Mask):
        kind = type(attention_mask).__name__
        raise ValueError(f"attention_mask must be what this implementation made, got a {kind}")
    return _limited(q, k, v, attention_mask, **shared), None


def _refuse(dropout: float, others: dict[str, Any]) -> None:
    if dropout:
        raise ValueError(
            f"attention has no dropout, got {dropout}: set attention_dropout to 0 in the "
            f"model's configuration"
        )
    if others.get("output_attentions"):
        raise ValueError("attention returns no weights: output_attentions=True needs 'eager'")
    if others.get("position_bias") is not None:
        raise ValueError("attention has no position_bias: use attn_implementation='sdpa'")
    for name, what in _OTHER_MODELS.items():
        if others.get(name) is not None:
            raise ValueError(f"attention has no {what} ({name}): use attn_implementation='eager'")


def _window(sliding_window: int | None, causal: bool) -> tuple[int, int]:
    if sliding_window is None:
        return -1, -1
    if not causal:
        raise ValueError(
            "sliding_window without a causal mask can't be told from the mask that was not given"
        )
    return sliding_window - 1, 0


def _limited(q: Tensor, k: Tensor, v: Tensor, mask: Mask, **shared: Any) -> Tensor:
    if k.shape[1] != mask.shape[3]:
        raise ValueError(
            f"key must have the {mask.shape[3]} positions of its mask, has {k.shape[1]}"
        )
    if mask.keys is not None:
        k, v = _ordered(k, mask.keys), _ordered(v, mask.keys)
    if mask.queries is not None:
        q = _ordered(q, mask.queries)
    out = attention(
        q, k, v, causal=mask.right == 0, window=(mask.left, mask.right), seqused_k=mask.used,
        **shared,
    )  # fmt: skip
    return out if mask.back is None else _ordered(out, mask.back)


def _ordered(t: Tensor, order: Tensor) -> Tensor:
    return t.gather(1, order[:, :, None, None].expand(-1, -1, *t.shape[2:]))


def _packed(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, **shared: Any) -> Tensor:
    """Sequences one behind the other in a batch of one, or in the rows of a batch."""
    q_flat, k_flat, v_flat = (t.flatten(0, 1) for t in (q, k, v))
    out = attention_varlen(q_flat, k_flat, v_flat, cu_q, cu_k, **shared)
    return out.unflatten(0, q.shape[:2])


def _by_booleans(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float | None, softcap: float,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """Any mask [B or 1, 1 or H, M, N], booleans or numbers to add."""
    mask = mask[..., : k.shape[1]]
    if sinks is None and not softcap:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return found.transpose(1, 2)
    if mask.dtype != torch.bool or mask.shape[1] != 1:
        raise ValueError(
            "attention_mask must be booleans, the same for all heads, with a soft cap or sinks; "
            f"got {str(mask.dtype).removeprefix('torch.')}{list(mask.shape)}"
        )
    distance = mask.new_zeros((1, *mask.shape[2:]), dtype=torch.int64)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return attend(q, k, v, sinks, None, None, distance, mask[:, 0], factor, softcap, False)[0]
