"""Two states of attention over different keys into the one over all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.attention.checks import DTYPES
from aimills_kernels.kernels.attention.op import edit

NAME = "merge_attention_states"


def reference(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """out = (e^lse_a out_a + e^lse_b out_b) / (e^lse_a + e^lse_b), lse = log of that sum.

    out_a  [B, M, H, Dv]  f16 | bf16 | f32; or [T, H, Dv]
    lse_a  [B, H, M]      f32; or [H, T]
    out_b, lse_b          like out_a, lse_a
    ->     out, lse       like out_a, lse_a

    A lse of -inf is a state without keys: its out counts for nothing, whatever it is; without
    another out is 0 and lse -inf.
    """
    wide = torch.promote_types(out_a.dtype, torch.float32)
    a, b = lse_a.to(wide), lse_b.to(wide)
    top = torch.maximum(a, b).detach().nan_to_num(
        nan=float("nan"), posinf=float("inf"), neginf=0.0
    )  # fmt: skip
    weights = [(x - top).exp() for x in (a, b)]
    total = weights[0] + weights[1]
    none = total == 0
    total = torch.where(none, 1.0, total)
    parts = []
    for x, w in zip((out_a, out_b), weights, strict=True):
        share = (w / total).transpose(-1, -2).unsqueeze(-1)
        parts.append(share * x.to(wide).masked_fill(share == 0, 0.0))
    lse = torch.where(none, float("-inf"), top + total.log())
    return (parts[0] + parts[1]).to(out_a.dtype).contiguous(), lse.contiguous()


def fake(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    if out_a.dim() not in (3, 4) or out_a.dtype not in DTYPES.values():
        raise ValueError(
            f"{NAME}: out_a must be f16, bf16 or f32 [batch, seq, heads, dim] or "
            f"[tokens, heads, dim], got {describe(out_a)}"
        )
    if out_b.shape != out_a.shape or out_b.dtype != out_a.dtype:
        raise ValueError(f"{NAME}: out_b must be like out_a, {describe(out_a)}, "
                         f"got {describe(out_b)}")  # fmt: skip
    *batch, M, H, _ = out_a.shape
    for name, lse in (("lse_a", lse_a), ("lse_b", lse_b)):
        if tuple(lse.shape) != (*batch, H, M) or lse.dtype != torch.float32:
            raise ValueError(
                f"{NAME}: {name} must be float32 {[*batch, H, M]}, got {describe(lse)}"
            )
    return (
        out_a.new_empty(out_a.shape),
        out_a.new_empty((*batch, H, M), dtype=torch.float32),
    )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: normal; empty has states without keys, with NaN for their out; far has one state of
    much more weight than the other."""
    dtype, place = DTYPES[case.one_of("dtype", *DTYPES)], generator.device
    fill = case.one_of("fill", "normal", "empty", "far")
    *batch, M, H, _ = case.shape
    given = {}
    for i, name in enumerate("ab"):
        out = torch.randn(case.shape, generator=generator, device=place)
        lse = torch.randn((*batch, H, M), generator=generator, device=place) * 2
        if fill == "far":
            lse = lse * 40
        if fill == "empty":
            gone = (torch.arange(M, device=place) // (i + 1)) % 2 == 0
            lse[..., gone] = float("-inf")
            out.movedim(-3, 0)[gone] = float("nan")
        given[f"out_{name}"], given[f"lse_{name}"] = out.to(dtype), lse
    layout = case.one_of("layout", "contiguous", "strided", "sparse")
    for name in ("out_a", "lse_b", "out_b") if layout == "strided" else ():
        t = given[name]
        given[name] = t.transpose(0, -1).repeat_interleave(2, 0)[::2].transpose(0, -1)
    if layout == "sparse":
        t = given["out_a"]
        step = 2**31 // (t.shape[0] - 1) + 64
        view = t.new_empty(step * t.shape[0]).as_strided(t.shape, (step, *t.stride()[1:]))
        given["out_a"] = view.copy_(t)
    return given


def cost(case: Case) -> Cost:
    elements, rows = math.prod(case.shape), math.prod(case.shape[:-1])
    size = DTYPES[case.one_of("dtype", *DTYPES)].itemsize
    return Cost(4 * elements, 3 * elements * size + 12 * rows, "f32")


_I = {"interpret"}

CASES = (
    Case("tiny", shape=(2, 3, 2, 16), dtype="f32", tags=_I),
    Case("tiny-f16", shape=(7, 2, 16), dtype="f16", tags=_I),
    Case("ragged", shape=(67, 3, 33), tags=_I),
    Case("ragged-f32", shape=(3, 17, 5, 72), dtype="f32", tags=_I),
    Case("one", shape=(1, 1, 1), dtype="f32", tags=_I),
    Case("no-keys", shape=(2, 12, 3, 40), fill="empty", dtype="f32", tags=_I),
    Case("no-keys-bf16", shape=(9, 3, 40), fill="empty", tags=_I),
    Case("far", shape=(2, 30, 3, 40), fill="far", dtype="f16", tags=_I),
    Case("strided", shape=(2, 12, 3, 40), layout="strided", tags=_I),
    Case("sparse", shape=(2, 3, 2, 16), layout="sparse", dtype="f16", tags=_I),
    Case("tokens-empty", shape=(0, 3, 40), tags=_I),
    Case("dim-256", shape=(5, 2, 256), tags=_I),
    Case("llama3-8b-chunk", shape=(4096, 32, 128), cpu=dict(shape=(200, 8, 128)),
         tags={"bench", "accept", "aot"}),
    Case("aot-strided", shape=(2, 120, 3, 72), layout="strided", dtype="f32", tags={"aot"}),
)  # fmt: skip

ERRORS = (
    Invalid("out_a has two dims", edit(out_a=lambda a: a["out_a"][0, 0]), "out_a must be"),
    Invalid("out_a is float64", edit(out_a=lambda a: a["out_a"].double()), "out_a must be"),
    Invalid("out_b is shorter", edit(out_b=lambda a: a["out_b"][:, 1:]), "out_b must be like"),
    Invalid("out_b of another dtype", edit(out_b=lambda a: a["out_b"].half()), "out_b must be"),
    Invalid("lse_a by query", edit(lse_a=lambda a: a["lse_a"].mT), "lse_a must be float32"),
    Invalid("lse_b is f16", edit(lse_b=lambda a: a["lse_b"].half()), "lse_b must be float32"),
)  # fmt: skip

merge_attention_states = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Ratio(), Ratio()),
    errors=ERRORS,
    outputs=("out", "lse"),
    backward="reference",
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.attention.triton_merge:launch",
        ),
    ),
)
