"""4-bit weights of experts in one stack, each of them a `PackedWeight` as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.packed import PackedWeight

_TENSORS = tuple(f.name for f in fields(PackedWeight)[:5])
_SIZES = tuple(f.name for f in fields(PackedWeight)[5:])


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """Weights [E, N, K] of 4-bit codes. Tensors are those of `PackedWeight` with the experts first.

    `stack` makes one. `experts[e]` is the PackedWeight of one expert, a view: what
    grouped_matmul_w4 multiplies by, matmul_w4 takes too.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    perm: Tensor | None
    group_of: Tensor | None
    group_size: int
    offset: int
    in_features: int

    @classmethod
    def stack(cls, weights: Sequence[PackedWeight]) -> PackedExperts:
        """Of the same shape, scheme and dtypes; ValueError, which names the first that is not."""
        listed = isinstance(weights, Sequence) and len(weights) > 0
        if not listed or not all(isinstance(w, PackedWeight) for w in weights):
            raise ValueError(
                "PackedExperts.stack: weights must be a list of PackedWeights, at least one"
            )
        first, *others = weights
        for e, w in enumerate(others, 1):
            if (found := _difference(first, w)) is not None:
                name, wanted, got = found
                raise ValueError(
                    f"PackedExperts.stack: weights[{e}] must have the {name} of weights[0], "
                    f"{wanted}, got {got}"
                )
        parts: dict[str, Any] = {n: getattr(first, n) for n in _SIZES}
        for name in _TENSORS:
            each = [getattr(w, name) for w in weights]
            parts[name] = None if each[0] is None else torch.stack(each)
        return cls(**parts)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, e: int) -> PackedWeight:
        if not isinstance(e, int) or not -len(self) <= e < len(self):
            raise IndexError(f"PackedExperts: there are {len(self)} experts, got {shown(e)}")
        found: dict[str, Any] = {n: getattr(self, n) for n in _SIZES}
        for name in _TENSORS:
            t = getattr(self, name)
            found[name] = None if t is None else t[e]
        return PackedWeight(**found)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, N, K)."""
        return len(self.codes), self.codes.shape[1], self.in_features

    def to(self, device: str | torch.device) -> PackedExperts:
        """The same on another device."""
        found: dict[str, Any] = {n: getattr(self, n) for n in _SIZES}
        for name in _TENSORS:
            t = getattr(self, name)
            found[name] = None if t is None else t.to(device)
        return PackedExperts(**found)


def _difference(a: PackedWeight, b: PackedWeight) -> tuple[str, str, str] | None:
    """The name of what is another, and both."""
    for name in (*_SIZES, *_TENSORS):
        mine, other = (_kind(getattr(w, name)) for w in (a, b))
        if mine != other:
            return name, mine, other
    return None


def _kind(part: Tensor | int | None) -> str:
    return f"{describe(part)} on {part.device}" if isinstance(part, Tensor) else str(part)
