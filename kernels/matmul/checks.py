"""Checks of arguments that the matmul ops share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aimills_kernels._op import Problem, describe
from aimills_kernels.kernels.matmul.formats import WIDE


def check_matrix(op: str, name: str, t: Tensor, *dtypes: torch.dtype) -> None:
    if t.dim() != 2:
        raise ValueError(f"{op}: {name} must be two-dimensional, got {describe(t)}")
    check_dtype(op, name, t, *dtypes)


def check_dtype(op: str, name: str, t: Tensor, *dtypes: torch.dtype) -> None:
    if t.dtype not in dtypes:
        known = " or ".join(describe(d) for d in dtypes)
        raise ValueError(f"{op}: {name} must be {known}, got {describe(t)}")


def check_no_gradient(op: str, name: str, t: Tensor) -> None:
    if torch.is_grad_enabled() and t.requires_grad:
        raise ValueError(f"{op}: {name} holds codes, to which no gradient flows; detach it")


def check_depth(op: str, a: Tensor, b: Tensor, of: str = "a") -> None:
    K = a.shape[1]
    if b.shape[1] != K:
        raise ValueError(f"{op}: b must be [N, {K}], as wide as {of}, got {describe(b)}")


def check_numbers(
    op: str, name: str, t: Tensor, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    """Of shape [], [1], or one of these."""
    check_dtype(op, name, t, dtype)
    if tuple(t.shape) not in ((), (1,), *shapes):
        known = [str(list(s)) for s in dict.fromkeys(shapes)]
        *most, last = ["[]", "[1]", *known]
        raise ValueError(f"{op}: {name} must be {', '.join(most)} or {last}, got {describe(t)}")


def check_bias(op: str, bias: Tensor | None, *shape: int) -> None:
    if bias is None:
        return
    if bias.dtype not in WIDE.values():
        raise ValueError(f"{op}: bias must be bf16, f16 or f32, got {describe(bias)}")
    if tuple(bias.shape) != shape:
        raise ValueError(f"{op}: bias must be {list(shape)}, got {describe(bias)}")


def check_residual(op: str, residual: Tensor | None, *shape: int) -> None:
    if residual is None:
        return
    if residual.dtype not in WIDE.values():
        raise ValueError(f"{op}: residual must be bf16, f16 or f32, got {describe(residual)}")
    if tuple(residual.shape) != shape:
        raise ValueError(f"{op}: residual must be {list(shape)}, as out, got {describe(residual)}")


def check_out_dtype(op: str, out_dtype: torch.dtype) -> None:
    if out_dtype not in WIDE.values():
        raise ValueError(f"{op}: out_dtype must be bf16, f16 or f32, got {describe(out_dtype)}")


def check_scale(op: str, name: str, scale: Tensor) -> None:
    """Values: finite and not 0. aminmax carries a NaN through; 3 to 6 us where isfinite().all()
    takes 9 to 23, item() 0.5."""
    if scale.numel() == 0:
        return
    ends = (scale,) if scale.numel() == 1 else scale.aminmax()
    low, high = ends[0].item(), ends[-1].item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"{op}: {name} must be finite, got NaN or infinity among {describe(scale)}"
        )
    if low <= 0.0 <= high and bool((scale == 0).any()):
        raise ValueError(f"{op}: {name} must not be 0, got a 0 among {describe(scale)}")


def depends(p: Problem) -> str | None:
    """Of a path that has no promise for a row's bits."""
    why = "a row's bits depend on M, which batch_invariant=True excludes"
    return why if p.batch_invariant else None
