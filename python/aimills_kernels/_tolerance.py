"""How an output is held against the float64 oracle.

Bounds come from what the reference itself loses in the same dtype (`rounded`) and from where exact
values lie, so that they follow shape and dtype and can't be widened in silence (`docs/adr/0005`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EPS32 = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Judgement:
    """`used` is the share of the tolerance that the error takes: above 1 fails."""

    used: float
    error: float
    bound: float
    text: str

    @property
    def ok(self) -> bool:
        return self.used <= 1.0


class Tolerance(Protocol):
    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        """Hold `got` against `oracle` (float64); `rounded` is the reference in the op's dtypes."""
        ...


def _wrong(text: str) -> Judgement:
    return Judgement(float("inf"), float("inf"), 0.0, text)


def _where(mask: Tensor) -> str:
    first = [int(i) for i in mask.nonzero()[0]]
    return f"{int(mask.sum())} of {mask.numel()} elements, first at {first}"


def specials(got: Tensor, rounded: Tensor) -> Judgement | None:
    """NaN and infinity must stand exactly where the reference has them."""
    bad = (torch.isnan(got) != torch.isnan(rounded)) | (
        (torch.isinf(got) | torch.isinf(rounded)) & (got != rounded) & ~torch.isnan(rounded)
    )
    if not bool(bad.any()):
        return None
    nans = torch.isnan(got) & ~torch.isnan(rounded)
    what = "NaN where the reference has none" if bool(nans.any()) else "NaN or infinity differ"
    return _wrong(f"{what}: {_where(nans if bool(nans.any()) else bad)}")


@dataclass(frozen=True)
class Ratio:
    """Error at most `factor` times the reference's own error in the input dtype, in the largest
    element and in the root mean square (FlashAttention's rule), plus `floor` float32 roundings of
    the largest value, for dtypes in which the reference is as good as exact. The reference's
    largest error counts as half a step of the output's dtype at the largest value where luck made
    it less: over 300 seeds, luck alone used up to 1.2 of the tolerance of a right kernel."""

    factor: float = 2.0
    floor: float = 16.0

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if got.numel() == 0:
            return Judgement(0.0, 0.0, 0.0, "empty")
        half_step = torch.finfo(got.dtype).eps / 2
        got, rounded = got.double(), rounded.double()
        if special := specials(got, rounded):
            return special
        finite = torch.isfinite(rounded)
        if not bool(finite.any()):
            return Judgement(0.0, 0.0, 0.0, "no finite element, all as the reference")
        err, own, want = (
            t[finite] for t in ((got - oracle).abs(), (rounded - oracle).abs(), oracle)
        )
        largest = float(want.abs().max())
        slack = self.floor * EPS32 * largest
        half_step *= 2.0 ** (math.frexp(largest)[1] - 1) if largest else 0.0
        bound = self.factor * max(float(own.max()), half_step) + slack
        rms, own_rms = (float(t.square().mean().sqrt()) for t in (err, own))
        used = max(_share(float(err.max()), bound), _share(rms, self.factor * own_rms + slack))
        text = (
            f"max error {float(err.max()):.3g} of {bound:.3g}, rms {rms:.3g} against {own_rms:.3g}"
        )
        return Judgement(used, float(err.max()), bound, text)


def _share(error: float, bound: float) -> float:
    return 0.0 if error == 0.0 else error / bound if bound > 0 else float("inf")


@dataclass(frozen=True)
class Exact:
    """Bit for bit what the reference gives; a NaN is any NaN."""

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        both_nan = got.double().isnan() & rounded.double().isnan()
        differ = (_bits(got) != _bits(rounded)) & ~both_nan
        if bool(differ.any()):
            return _wrong(f"bits differ: {_where(differ)}")
        return Judgement(0.0, 0.0, 0.0, "exact")


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(t: Tensor) -> Tensor:
    return t.view(_INTEGERS[t.element_size()])


@dataclass(frozen=True)
class Levels:
    """For pictures rounded to u8 levels: the level of the oracle, or another one that arithmetic
    in float32 may round to there, because the exact value lies near a tie."""

    size: Callable[[tuple], Tensor]  # of one level in output units, broadcastable
    between: Callable[[tuple], tuple[Tensor, Tensor]]  # all that float32 may round to, as outputs

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if got.numel() == 0:
            return Judgement(0.0, 0.0, 0.0, "empty")
        kind = torch.finfo(got.dtype) if got.dtype.is_floating_point else None
        got, rounded, oracle = got.double(), rounded.double(), oracle.double()
        if special := specials(got, rounded):
            return special
        size = self.size(args)
        scale = torch.maximum(oracle.abs(), got.abs())
        # The affine step's float32 (255 levels are 1 / std), or half a unit of the output dtype.
        slack = 4 * EPS32 * (255 * size + scale)
        if kind is not None:
            slack = torch.maximum(slack, 0.51 * kind.eps * scale.clamp(min=kind.smallest_normal))
        err, missed = (got - oracle).abs(), 0
        if bool((err > slack).any()):
            low, high = self.between(args)
            level = ((got - low) / size).round().clamp_min(0)
            nearest = low + torch.minimum(level, ((high - low) / size).round()) * size
            missed = int((err > slack).sum())
            err = (got - nearest).abs()
        used = float((err / slack).max())
        levels = float((err / size).max())
        text = f"{levels:.3g} levels off at most"
        if missed:
            text += f", {missed} of {err.numel()} elements not the oracle's level"
        return Judgement(used, levels, float((slack / size).max()), text)
