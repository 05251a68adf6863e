"""cuDNN's attention in PyTorch, where `sdpa` may take another kernel."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._attention import Call

NAME = "cuDNN in PyTorch"


def cudnn(*args: Any) -> Tensor:
    """F.scaled_dot_product_attention held to cuDNN."""
    if args[0].device.type != "cuda":
        raise NotImplementedError("cuDNN needs a GPU")
    return held_to(SDPBackend.CUDNN_ATTENTION, *args)


def held_to(backend: SDPBackend, *args: Any) -> Tensor:
    call = Call.of(*args)
    call.refuse(
        NAME, "sinks", "alibi_slopes", "seqused_k", "window", "softcap", "return_lse"
    )  # fmt: skip
    M, N = call.q.shape[1], call.k.shape[1]
    if call.causal and 1 < M != N:
        raise NotImplementedError(f"{NAME} takes no causal mask aligned bottom-right")
    q, k, v = (t.transpose(1, 2) for t in (call.q, call.k, call.v))
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=call.causal and M == N, scale=call.scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
    return out.transpose(1, 2)
