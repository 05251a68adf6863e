"""Matmul of groups of rows, each with a 4-bit weight of its own, as a mixture of experts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.matmul import op_w4
from aimills_kernels.kernels.matmul.activations import activate, check_activation
from aimills_kernels.kernels.matmul.cases import (
    bad_bias,
    bad_end,
    bad_scale_values,
    lay_out,
    odd_gate,
    spoil,
    vary,
)
from aimills_kernels.kernels.matmul.checks import check_bias, check_dtype, check_residual, depends
from aimills_kernels.kernels.matmul.config import rows_in_each
from aimills_kernels.kernels.matmul.config_w4 import Config, grouped_config_of
from aimills_kernels.kernels.matmul.groups import (
    bad_groups,
    by_group,
    check_groups,
    check_lengths,
    end_bytes_of_groups,
    end_of_groups,
    lengths,
    of_group,
    rows_in,
    skewed,
    unowned,
    with_residual,
)
from aimills_kernels.kernels.matmul.layout_w4 import dequantize

NAME = "grouped_matmul_w4"


def reference(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, offsets: Tensor | None, masked_m: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, group_size: int, offset: int, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """`matmul_w4` of the rows of each group e with weight e; 0 for rows of none.

    x         [T, K] or [E, M, K]  f16 | bf16
    codes, scales, zeros, perm, group_of   [E, ...] those of `matmul_w4`, for each weight
    offsets   [E] or [E + 1]       i32, where each group's rows of [T, K] end, a 0 before or not
    masked_m  [E]                  i32, in its place with [E, M, K]: the first so many rows count
    bias      [E, N]               f16 | bf16 | f32, or None
    residual  as the output        f16 | bf16 | f32, or None
    ->        x's shape with N, or with activation "swiglu" N / 2, in place of K  dtype of x
    """
    E, N, _ = codes.shape
    wide = torch.promote_types(x.dtype, torch.float32)

    def multiply(rows: Tensor, e: int, mine: Tensor) -> Tensor:
        """What is in other rows must not become a NaN in a gradient."""
        weight = dequantize(
            codes[e], scales[e], of_group(zeros, e, 3), of_group(perm, e, 2),
            of_group(group_of, e, 2), x.shape[-1], group_size, offset, wide,
        )  # fmt: skip
        made = rows.masked_fill(~mine, 0).to(wide) @ weight.T
        return made if bias is None else made + bias[e].to(wide)

    empty = x.new_empty((*x.shape[:-1], N), dtype=wide)
    made = activate(by_group(multiply, x, offsets, masked_m, E, empty), activation)
    return with_residual(made, residual, x, offsets, masked_m, E).to(x.dtype)


def fake(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, offsets: Tensor | None, masked_m: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, group_size: int, offset: int, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    check_dtype(NAME, "x", x, *op_w4.DTYPES.values())
    if codes.dim() != 3:
        raise ValueError(f"{NAME}: codes must be [E, N, width], got {describe(codes)}")
    E, N, _ = codes.shape
    rows = check_groups(NAME, "x", x, offsets, masked_m, E)
    one = []
    for name, t in (("codes", codes), ("scales", scales), ("zeros", zeros), ("perm", perm),
                    ("group_of", group_of)):  # fmt: skip
        if t is not None and (t.dim() == 0 or len(t) != E or not t.is_contiguous()):
            raise ValueError(
                f"{NAME}: {name} must be contiguous, [{E}, ...], as in PackedExperts, "
                f"got {describe(t)} with strides {tuple(t.stride())}"
            )
        one.append(None if t is None else t.new_empty(t.shape[1:]))
    assert one[0] is not None
    assert one[1] is not None
    op_w4.check_weight(
        NAME, x.shape[-1], one[0], one[1], one[2], one[3], one[4], group_size, offset
    )
    check_bias(NAME, bias, E, N)
    shape = (*rows, check_activation(NAME, activation, N, weight="codes"))
    check_residual(NAME, residual, *shape)
    return x.new_empty(shape)


def values(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    perm: Tensor | None,
    group_of: Tensor | None,
    offsets: Tensor | None,
    masked_m: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    group_size: int,
    *others: Any,
) -> None:
    check_lengths(NAME, x, offsets, masked_m, len(codes))
    for e in range(len(codes)):
        op_w4.check_weight_values(
            NAME, x.shape[-1], scales[e], of_group(zeros, e, 3), of_group(perm, e, 2),
            of_group(group_of, e, 2), group_size,
        )  # fmt: skip


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """As those of `matmul_w4`, each weight drawn anew, in a column order of its own where it has
    one. Rows of no group are NaN."""
    lead, E = rows_in(case), len(case.counts)
    plain = {**case.dims, "layout": "contiguous", "fill": "normal", "residual": None}
    drawn = [
        op_w4.inputs(Case(case.name, **{**plain, "M": 0}), generator) for _ in range(max(1, E))
    ]
    rows = Case(case.name, **{**plain, "fill": case.get("fill", "normal"), "M": math.prod(lead)})
    x = op_w4.inputs(rows, generator)["x"].view(*lead, case.K)
    given = lengths(case, generator)
    x = x.masked_fill(unowned(case, given)[..., None], float("nan"))
    stacked = {}
    for name in ("codes", "scales", "zeros", "perm", "group_of", "bias"):
        each = [d[name] for d in drawn]
        if name == "perm" and each[0] is not None:  # what is behind K may have no group
            each = [torch.cat((t[: case.K].roll(e), t[case.K :])) for e, t in enumerate(each)]
        stacked[name] = None if each[0] is None else torch.stack(each)[:E].contiguous()
    return {
        **drawn[0], **stacked, **given, "x": lay_out(case, "x", x),
        **end_of_groups(case, generator, given),
    }  # fmt: skip


def cost(case: Case) -> Cost:
    """Of the rows that count and the weights that have any; all rows are written."""
    rows, active = sum(case.counts), sum(n > 0 for n in case.counts)
    one = op_w4.cost(Case(case.name, **{**case.dims, "M": 0}))
    out = end_bytes_of_groups(case, torch.float16)
    return Cost(2 * rows * case.N * case.K, 2 * rows * case.K + active * one.bytes + out, "f16")


_I, _FULL = {"interpret"}, {"interpret", "full"}
_SMALL: dict[str, Any] = dict(counts=(5, 0, 20, 1), N=72, K=256)
_SMALL_MASKED: dict[str, Any] = dict(counts=(5, 0, 20), M=24, N=72, K=256)

CASES = (
    Case("tiny", counts=(3, 0, 6), N=20, K=128, bias="bf16", tags=_I),
    Case("ragged", counts=(9, 0, 1, 4), N=35, K=77, group=32, asym=True, tail=3, act="silu",
         dtype="f16", bias="f32", tags=_I),
    Case("lead", counts=(0, 9, 2, 0), N=20, K=200, group=64, scales="f32", lead=True, tags=_FULL),
    Case("all-empty", counts=(0, 0), N=20, K=64, group=32, tail=5, bias="f32", tags=_FULL),
    Case("groups-empty", counts=(), N=20, K=64, tail=5),
    Case("m-empty", counts=(0, 0), N=20, K=64),
    Case("n-empty", counts=(3, 2), N=0, K=64),
    Case("k-empty", counts=(3, 0, 2), N=20, K=0, bias="f16", tail=1),
    Case("channel", counts=(5, 20), N=40, K=220, group="channel", asym=True, act="gelu",
         tags=_FULL),
    Case("act-order", counts=(2, 3), N=20, K=150, group=64, order="act", tags=_I),
    Case("act-shard", counts=(2, 3), N=20, K=120, group=32, order="shard", asym=True, tags=_FULL),
    Case("offset", counts=(2, 3), N=20, K=150, offset=75, asym=True, tags=_FULL),
    Case("masked", counts=(4, 0, 6), M=7, N=20, K=130, masked=True, asym=True, bias="f16", tags=_I),
    Case("onehot", counts=(9, 0, 8), N=40, K=330, group=32, fill="onehot"),
    Case("magnitudes", counts=(9, 8), N=40, K=130, fill="magnitudes"),
    Case("transposed", counts=(3, 4), N=20, K=90, group=32, layout="transposed"),
    Case("sliced-masked", counts=(3, 4), M=4, N=20, K=96, group=32, masked=True, layout="sliced"),
    Case("sparse", counts=(3, 2), N=9, K=40, group=32, layout="sparse", tags=_FULL),
    Case("invariant", counts=(1, 40), N=20, K=200, invariant=True, tags=_FULL),
    Case("residual", counts=(3, 0, 4), N=20, K=40, group=32, tail=2, residual="f32", act="gelu"),
    Case("residual-masked", counts=(3, 4), M=5, N=30, K=70, group=32, masked=True, bias="f16",
         residual="f16", dtype="f16", layout="sliced"),
    Case("gated", counts=(9, 0, 2), N=70, K=77, tail=3, group=32, asym=True, act="swiglu",
         bias="bf16", residual="f16", tags=_I),
    Case("gated-masked", counts=(2, 0, 5), M=6, N=70, K=200, masked=True, act="swiglu",
         residual="bf16", dtype="f16", tags=_FULL),
    Case("gpt-oss-20b-gate-up-64", counts=skewed(32, 256), N=5760, K=2880, group=32, bias="bf16",
         cpu=_SMALL, tags={"bench"}),
    Case("qwen3-30b-gate-up-decode", counts=(4,) * 128, M=16, N=1536, K=2048, masked=True,
         cpu=_SMALL_MASKED, tags={"bench", "accept"}),
    Case("qwen3-30b-gate-up-8192", counts=skewed(128, 8192), N=1536, K=2048, asym=True, cpu=_SMALL,
         tags={"bench"}),
    Case("qwen3-30b-gate-up-decode-swiglu", counts=(4,) * 128, M=16, N=1536, K=2048, masked=True,
         act="swiglu", cpu=_SMALL_MASKED, tags={"bench"}),
    Case("aot-gated-decode", counts=(4,) * 4, M=16, N=512, K=512, masked=True, act="swiglu",
         cpu=_SMALL_MASKED, tags={"aot"}),
    Case("aot-gated-large", counts=(2048,) * 2, N=2048, K=512, asym=True, act="swiglu",
         bias="bf16", residual="bf16", cpu=_SMALL, tags={"aot"}),
    Case("aot-decode", counts=(4,) * 4, M=16, N=512, K=512, masked=True, cpu=_SMALL_MASKED,
         tags={"aot"}),
    Case("aot-large", counts=(2048,) * 2, N=2048, K=512, asym=True, cpu=_SMALL, tags={"aot"}),
    Case("aot-act-order", counts=(100, 100), N=1024, K=1024, order="act", cpu=_SMALL,
         tags={"aot", "full"}),
)  # fmt: skip


def _configs(p: Problem) -> tuple[Config, ...]:
    built_in = grouped_config_of(
        p.x, p.codes, p.perm, p.group_of, p.group_size, p.offset, p.batch_invariant, sm=p.sm
    )
    return op_w4.tiles_beside(p, built_in, rows_in_each(p.x, len(p.codes)))


ERRORS = (
    *bad_groups("x"),
    *bad_bias(20),
    *bad_scale_values("scales"),
    Invalid("x is f32", vary(x=lambda a: a["x"].float()), "x must be bfloat16 or float16"),
    Invalid("codes of one weight", vary(codes=lambda a: a["codes"][0]), r"codes must be \[E, N"),
    Invalid("scales of two weights", vary(scales=lambda a: a["scales"][:2]),
            r"scales must be contiguous, \[3, ...\]"),
    Invalid("codes are cut off", vary(codes=lambda a: a["codes"][..., :16].contiguous()),
            r"codes must be \[N, 32\]"),
    *bad_end(20),
    odd_gate(codes=lambda a: a["codes"][:, :-1].contiguous(),
             scales=lambda a: a["scales"][..., :-1].contiguous()),
    Invalid("zeros have a 17", spoil("zeros", 17), "zeros must be 0 to 16", base="ragged",
            value=True),
    Invalid("perm of a weight names a column twice", spoil("perm", 0), "perm must name each",
            base="act-order", value=True),
)  # fmt: skip

grouped_matmul_w4 = Op(
    name=NAME,
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Ratio(),),
    errors=ERRORS,
    values=values,
    backward="reference",
    reference_rejects=depends,
    rows=("x", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_grouped_w4:launch",
            configs=_configs,
            sources=(
                "kernels/matmul/config.py",
                "kernels/matmul/config_w4.py",
                "kernels/matmul/epilogue.py",
                "kernels/matmul/layout_w4.py",
                "kernels/matmul/segments.py",
                "kernels/matmul/tiles.py",
                "kernels/matmul/triton_quantize.py",
                "kernels/matmul/triton_w4.py",
                "kernels/hardware.py",
            ),
        ),
    ),
)
