"""Activations that a matmul applies to its sums, as PyTorch has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.kernels.matmul.checks import check_residual

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda t: t,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
    "silu": F.silu,
}
GATED = "swiglu"


def check_activation(op: str, activation: str, N: int, weight: str = "b") -> int:
    """The columns of the output for N rows of `weight`."""
    if activation == GATED:
        if N % 2:
            raise ValueError(
                f"{op}: {weight} must have an even N for swiglu, a gate and as many, got {N}"
            )
        return N // 2
    if activation not in ACTIVATIONS:
        words = ", ".join((*ACTIVATIONS, GATED))
        raise ValueError(f"{op}: activation must be one of {words}, got {activation!r}")
    return N


def check_end(
    op: str, M: int, N: int, activation: str, residual: Tensor | None, weight: str = "b"
) -> tuple[int, int]:
    """The shape of the output for N rows of `weight`."""
    shape = M, check_activation(op, activation, N, weight=weight)
    check_residual(op, residual, *shape)
    return shape


def activate(sums: Tensor, activation: str) -> Tensor:
    """With "swiglu" silu(first half) * second half of the columns."""
    if activation != GATED:
        return ACTIVATIONS[activation](sums)
    gate, up = sums.chunk(2, -1)
    return F.silu(gate) * up


def finish(
    sums: Tensor, bias: Tensor | None, activation: str, residual: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """activation(sums + bias) + residual in the dtype of the sums, rounded once."""
    out = activate(sums if bias is None else sums + bias.to(sums.dtype), activation)
    return (out if residual is None else out + residual.to(out.dtype)).to(dtype)
