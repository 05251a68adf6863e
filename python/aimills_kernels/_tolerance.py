"""How an output is held against the float64 oracle.

Every kind compares with what the reference itself loses in the same dtype (`rounded`), so that a
bound follows shape and dtype and can't be widened in silence (`docs/adr/0005`).
"""

from __future__ import annotations

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


def _specials(got: Tensor, rounded: Tensor) -> Judgement | None:
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
    the largest value, for dtypes in which the reference is as good as exact."""

    factor: float = 2.0
    floor: float = 16.0

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if got.numel() == 0:
            return Judgement(0.0, 0.0, 0.0, "empty")
        got, rounded = got.double(), rounded.double()
        if special := _specials(got, rounded):
            return special
        finite = torch.isfinite(rounded)
        if not bool(finite.any()):
            return Judgement(0.0, 0.0, 0.0, "no finite element, all as the reference")
        err, own, want = (
            t[finite] for t in ((got - oracle).abs(), (rounded - oracle).abs(), oracle)
        )
        slack = self.floor * EPS32 * float(want.abs().max())
        bound = self.factor * float(own.max()) + slack
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
    """Bit for bit what the reference gives."""

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        differ = _flat_bytes(got) != _flat_bytes(rounded)
        if bool(differ.any()):
            return _wrong(f"bits differ: {_where(differ)}")
        return Judgement(0.0, 0.0, 0.0, "exact")


@dataclass(frozen=True)
class Levels:
    """For pictures rounded to u8 levels: at most `max_levels` away (a tie that fell the other way),
    and misses of more than the output dtype's rounding in at most `factor` times the reference's
    own share of elements plus `share`."""

    unit: Callable[[tuple], Tensor]  # the size of one level in output units, broadcastable
    max_levels: float = 1.0
    factor: float = 2.0
    share: float = 1e-5

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if got.numel() == 0:
            return Judgement(0.0, 0.0, 0.0, "empty")
        eps = torch.finfo(got.dtype).eps
        got, rounded = got.double(), rounded.double()
        if special := _specials(got, rounded):
            return special
        unit = self.unit(args).to(oracle)
        size = torch.maximum(oracle.abs(), got.abs())
        # Half a unit of the output dtype, and the affine step's float32 (255 levels are 1 / std).
        slack = torch.maximum(0.51 * eps * size, 4 * EPS32 * (255 * unit.abs() + size))
        err, own = ((t - oracle).abs() for t in (got, rounded))
        levels = float(((err - slack).clamp_min(0) / unit.abs()).max())
        missed, own_missed = (float((t > slack).double().mean()) for t in (err, own))
        allowed = self.factor * own_missed + max(self.share, 2.5 / err.numel())
        # One level is what a tie costs; how many there are is what tells kernels apart.
        used = missed / allowed if levels <= self.max_levels else levels / self.max_levels
        text = (
            f"{levels:.3g} levels at most, {missed:.2e} of the elements off (allowed {allowed:.2e})"
        )
        return Judgement(used, levels, self.max_levels, text)


@dataclass(frozen=True)
class Codes:
    """For quantised values: neighbouring codes at most (a tie that fell the other way), and those
    in at most `share` of the elements plus `factor` times the reference's own."""

    factor: float = 2.0
    share: float = 1e-4

    def judge(self, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple) -> Judgement:
        if got.numel() == 0:
            return Judgement(0.0, 0.0, 0.0, "empty")
        if special := _specials(got.double(), rounded.double()):
            return special
        steps = (_order(got) - _order(oracle.to(got.dtype))).abs()
        own = (_order(rounded) - _order(oracle.to(got.dtype))).abs()
        steps, own = (t.masked_fill(torch.isnan(rounded.float()), 0) for t in (steps, own))
        missed, own_missed = (float((t > 0).double().mean()) for t in (steps, own))
        allowed = self.factor * own_missed + max(self.share, 2.5 / steps.numel())
        worst = float(steps.max())
        text = f"{worst:.0f} codes away at most, {missed:.2e} of them (allowed {allowed:.2e})"
        used = missed / allowed if worst <= 1 else worst
        return Judgement(used, worst, 1.0, text)


def _order(codes: Tensor) -> Tensor:
    """8-bit floats as integers in the order of their values; both zeros are 0."""
    bits = codes.view(torch.uint8).to(torch.int16)
    return torch.where(bits >= 128, -(bits - 128), bits)


def _flat_bytes(t: Tensor) -> Tensor:
    return t.contiguous().view(-1).view(torch.uint8)
