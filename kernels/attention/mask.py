"""Which keys a query sees: one rule for the reference, the costs and the kernels.

Of n keys in use, query i of M stands at p = i + n - M (aligned bottom-right) and sees the keys
from p - left to p + right that there are. A limit of -1 is none; causal is a right limit of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def limits(
    causal: bool, window_left: int, window_right: int, N: int
) -> tuple[int | None, int | None]:
    """Left and right, None where that side has no limit among N keys."""
    left = window_left if 0 <= window_left < N else None
    right = window_right if 0 <= window_right < N else None
    return left, 0 if causal else right


def distances(M: int, N: int, used: Tensor | None, device: torch.device) -> Tensor:
    """p - j for query and key: [1 or B, M, N], int64."""
    i, j = torch.arange(M, device=device), torch.arange(N, device=device)
    n = torch.full((1,), N, device=device) if used is None else used.to(torch.int64)
    return i.view(1, M, 1) - j.view(1, 1, N) + (n - M).view(-1, 1, 1)


def visible(
    distance: Tensor, used: Tensor | None, left: int | None, right: int | None
) -> Tensor | None:
    """Of `distances` and the keys in use [B, N]; None where every query sees every key."""
    if used is None and left is None and right is None:
        return None
    seen = torch.ones_like(distance, dtype=torch.bool)
    if used is not None:
        seen = seen & used[:, None, :]
    if right is not None:
        seen = seen & (distance >= -right)
    if left is not None:
        seen = seen & (distance <= left)
    return seen


def pairs(M: int, n: int, left: int | None, right: int | None) -> int:
    """How many pairs of a query and a key of n are visible."""
    p = torch.arange(n - M, n)
    first = (p - left).clamp_min(0) if left is not None else torch.zeros_like(p)
    last = (p + right).clamp_max(n - 1) if right is not None else torch.full_like(p, n - 1)
    return int((last - first + 1).clamp_min(0).sum())
