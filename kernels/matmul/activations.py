"""Activations that a matmul applies to its sums, as PyTorch has them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda t: t,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
    "silu": F.silu,
}
GATED = "swiglu"


def check_activation(op: str, activation: str, N: int, gated: bool = True) -> int:
    """The columns of the output for N rows of b."""
    if activation == GATED and gated:
        if N % 2:
            raise ValueError(f"{op}: b must have an even N for swiglu, a gate and as many, got {N}")
        return N // 2
    if activation not in ACTIVATIONS:
        words = ", ".join((*ACTIVATIONS, GATED) if gated else ACTIVATIONS)
        raise ValueError(f"{op}: activation must be one of {words}, got {activation!r}")
    return N


def activate(sums: Tensor, activation: str) -> Tensor:
    """With "swiglu" silu(first half) * second half of the columns."""
    if activation != GATED:
        return ACTIVATIONS[activation](sums)
    gate, up = sums.chunk(2, -1)
    return F.silu(gate) * up
