"""What the cases of the int8 ops share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from aimills_kernels._op import Case

SCALES = ("tensor", "row", "one")


def lay_out(case: Case, name: str, t: Tensor) -> Tensor:
    """`layout`: contiguous; transposed; slices at odd offsets; no two leading dims merge; one row
    throughout; sparse."""
    layout = case.one_of(
        "layout", "contiguous", "transposed", "sliced", "permuted", "expanded", "sparse"
    )
    if t.dim() == 0 or layout == "contiguous":
        return t
    if t.dim() == 1:
        return t.repeat_interleave(3)[::3] if layout == "sliced" else t
    if layout == "transposed":
        return t.mT.contiguous().mT
    if layout == "sliced":  # rows of a wider tensor, at an odd offset
        *lead, K = t.shape
        wide = t.new_zeros(math.prod((*lead, K + 5)) + 3)[3:]
        return wide.view(*lead, K + 5)[..., :K].copy_(t)
    if layout == "permuted":  # and the last is strided
        return t.repeat_interleave(2, -1).transpose(0, -2).contiguous().transpose(0, -2)[..., ::2]
    if layout == "expanded" and name in ("a", "x", "scale_b"):
        return t[:1].expand(t.shape)
    if layout == "sparse" and name in ("a", "b", "x"):  # offsets of rows pass 2^31 elements
        step = 2**31 // (t.shape[0] - 1) + 64
        return t.new_empty(step * t.shape[0]).as_strided(t.shape, (step, 1)).copy_(t)
    return t


def scale_of(values: Tensor, kind: str, rows: int) -> Tensor:
    return {"row": values[:rows], "tensor": values[0, 0], "one": values[0]}[kind].clone()


def vary(**change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda a: {**a, **{k: f(a) for k, f in change.items()}}


def spoiled(scale: Tensor, value: float) -> Tensor:
    spoiled = scale.clone()
    spoiled.view(-1)[-1] = value
    return spoiled
