"""What the cases of the matmul ops share: layouts, scales, and calls that must be refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Invalid
from aimills_kernels.kernels.matmul.activations import ACTIVATIONS, GATED
from aimills_kernels.kernels.matmul.formats import WIDE

SCALES = ("tensor", "row", "one")
Change = Callable[[dict[str, Any]], dict[str, Any]]


def lay_out(case: Case, name: str, t: Tensor) -> Tensor:
    """`layout`: contiguous; transposed; slices at odd offsets, or of activations alone; no two
    leading dims merge; one row throughout; sparse."""
    layout = case.one_of(
        "layout", "contiguous", "transposed", "sliced", "odd rows", "permuted", "expanded", "sparse"
    )
    if layout == "odd rows":
        layout = "sliced" if name in ("a", "x") else "contiguous"
    if t.dim() == 0 or layout == "contiguous":
        return t
    if t.dim() == 1:
        return t.repeat_interleave(3)[::3] if layout == "sliced" else t
    if layout == "transposed":
        return rows_side_by_side(t)
    if layout == "sliced":  # rows of a wider tensor, at an odd offset
        *lead, K = t.shape
        wide = t.new_zeros(math.prod((*lead, K + 5)) + 3)[3:]
        return wide.view(*lead, K + 5)[..., :K].copy_(t)
    if layout == "permuted":  # and the last is strided
        return t.repeat_interleave(2, -1).transpose(0, -2).contiguous().transpose(0, -2)[..., ::2]
    if layout == "expanded" and name in ("a", "x", "scale_b"):
        return t[:1].expand(t.shape)
    if layout == "sparse" and name in ("a", "b", "x"):  # offsets of rows pass 2^31 elements
        step = 2**31 // max(1, t.shape[0] - 1) + 64
        strides = (step, *t.stride()[1:])
        return t.new_empty(step * t.shape[0]).as_strided(t.shape, strides).copy_(t)
    return t


def rows_side_by_side(t: Tensor) -> Tensor:
    """By a clone, as contiguous() leaves one column alone."""
    return t.mT.clone(memory_format=torch.contiguous_format).mT


def scale_of(values: Tensor, kind: str, rows: int) -> Tensor:
    return {"row": values[:rows], "tensor": values[0, 0], "one": values[0]}[kind].clone()


def dtypes_of(case: Case) -> tuple[torch.dtype | None, torch.dtype]:
    """Of the bias, None without one, and of the output."""
    return WIDE.get(case.one_of("bias", None, *WIDE)), WIDE[case.one_of("out", *WIDE)]


def width(case: Case) -> int:
    """Of the output."""
    return case.N // 2 if case.get("act") == GATED else case.N


def end_of(
    case: Case, generator: torch.Generator, rows: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """`act`, and `residual`, what dtype that has. `rows`: the dims of the output but its last."""
    drawn: dict[str, Any] = {"activation": case.one_of("act", *ACTIVATIONS, GATED)}
    if dtype := WIDE.get(case.one_of("residual", None, *WIDE)):
        shape = *((case.M,) if rows is None else rows), width(case)
        normal = torch.randn(shape, generator=generator, device=generator.device)
        drawn["residual"] = lay_out(case, "residual", (normal * 8).to(dtype))
    return {"residual": None, **drawn}


def end_bytes(case: Case, out: torch.dtype) -> int:
    """Of the output and what is added to it."""
    residual = WIDE[case.residual].itemsize if case.get("residual") else 0
    return case.M * width(case) * (out.itemsize + residual)


def vary(**change: Any) -> Change:
    """These arguments anew: what a function makes of all of them, or a value."""
    return lambda a: {**a, **{k: f(a) if callable(f) else f for k, f in change.items()}}


def spoil(name: str, value: float) -> Change:
    """Its last element."""

    def change(a: dict[str, Any]) -> dict[str, Any]:
        spoiled = a[name].clone()
        spoiled[(-1,) * spoiled.dim()] = value
        return {**a, name: spoiled}

    return change


def bad_operands(first: str, K: int) -> tuple[Invalid, ...]:
    return (
        Invalid(f"{first} has four dims", vary(**{first: lambda a: a[first][None, None]}),
                f"{first} must be two-dimensional"),
        Invalid("b has one dim", vary(b=lambda a: a["b"][0]), "b must be two-dimensional"),
        Invalid("depths differ", vary(b=lambda a: a["b"][:, :-1]), rf"b must be \[N, {K}\]"),
    )  # fmt: skip


def bad_scale(name: str) -> tuple[Invalid, ...]:
    """Of the case `tiny`, which has one for each row."""
    known = rf"{name} must be \[\], \[1\]"
    return (
        Invalid(f"{name} is bf16", vary(**{name: lambda a: a[name].bfloat16()}),
                f"{name} must be float32"),
        Invalid(f"{name} across", vary(**{name: lambda a: a[name].mT}), known),
        Invalid(f"{name} of another length", vary(**{name: lambda a: a[name][:-1]}), known),
        Invalid(f"{name} without its last dim", vary(**{name: lambda a: a[name][..., 0]}), known),
        *bad_scale_values(name),
    )  # fmt: skip


def bad_scale_values(name: str, base: str = "tiny") -> tuple[Invalid, ...]:
    wrong = {"a nan": math.nan, "an infinity": -math.inf, "a 0": 0.0}
    where = "" if base == "tiny" else f", {base}"
    return tuple(
        Invalid(f"{name} has {what}{where}", spoil(name, value),
                f"{name} must {'be finite' if value else 'not be 0'}", base=base, value=True)
        for what, value in wrong.items()
    )  # fmt: skip


def bad_bias(N: int) -> tuple[Invalid, ...]:
    shape = rf"bias must be \[.*{N}\]"
    return (
        Invalid("bias of another length", vary(bias=lambda a: a["bias"][..., :-1]), shape),
        Invalid("bias has a dim more", vary(bias=lambda a: a["bias"][None]), shape),
        Invalid("bias is integer", vary(bias=lambda a: a["bias"].int()), "bias must be bf16"),
    )


BAD_OUT_DTYPE = Invalid(
    "out_dtype is integer", vary(out_dtype=torch.int32), "out_dtype must be bf16"
)


def bad_end(N: int) -> tuple[Invalid, ...]:
    """Of the case `residual`: an even N, and a residual of [M, N]."""
    return (
        Invalid("activation unknown", vary(activation="tanh"),
                "activation must be one of none, relu, gelu, gelu_tanh, silu, swiglu, got 'tanh'"),
        Invalid("residual of all of N with a gate", vary(activation="swiglu"),
                rf"residual must be \[.*, {N // 2}\]", base="residual"),
        Invalid("residual is integer", vary(residual=lambda a: a["residual"].int()),
                "residual must be bf16, f16 or f32", base="residual"),
    )  # fmt: skip


def odd_gate(**short: Any) -> Invalid:
    """`short`: what makes the weight, named first, a row shorter."""
    change = vary(bias=None, activation="swiglu", **short)
    return Invalid("a gate for an odd N", change, f"{next(iter(short))} must have an even N for")
