"""Matmul of 16-bit activations with 4-bit weights."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Op, Problem, Provider, describe
from aimills_kernels._tolerance import Ratio
from aimills_kernels.kernels.matmul.activations import check_end, finish
from aimills_kernels.kernels.matmul.cases import end_bytes, end_of, lay_out
from aimills_kernels.kernels.matmul.cases_w4 import CASES, ERRORS
from aimills_kernels.kernels.matmul.checks import check_bias, check_matrix, check_scale, depends
from aimills_kernels.kernels.matmul.config_w4 import (
    Config,
    candidates,
    config_of,
    reads_wide,
    workspace,
)
from aimills_kernels.kernels.matmul.formats import WIDE
from aimills_kernels.kernels.matmul.layout_w4 import (
    RUN,
    SIZES,
    WORDS,
    by_group,
    dequantize,
    groups_in,
    words_for,
)

NAME = "matmul_w4"
DTYPES = {name: dtype for name, dtype in WIDE.items() if dtype.itemsize == 2}


def reference(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, residual: Tensor | None, group_size: int,
    offset: int, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """activation(x @ ((code - zero) * scale).T + bias) + residual in float32, rounded once.

    x         [M, K]             f16 | bf16
    codes     [N, width]         i16, four codes a word: see `layout_w4`
    scales    [G, N]             f16 | bf16 | f32
    zeros     [G, N]             u8, or None: 8 throughout
    perm      [4 width]          i32, the column of each storage column, or None: as `offset` says
    group_of  [width / 8]        i32, the group of each 32 storage columns, or None: by `group_size`
    bias      [N]                f16 | bf16 | f32, or None
    residual  as the output      f16 | bf16 | f32, or None
    ->        [M, N]             dtype of x; [M, N / 2] with activation "swiglu"

    group_size is 32, 64, 128 or K, which is one group for all; activation is one of those of
    `matmul_fp8`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = dequantize(
        codes, scales, zeros, perm, group_of, x.shape[1], group_size, offset, wide
    )  # fmt: skip
    return finish(x.to(wide) @ weight.T, bias, activation, residual, x.dtype)


def fake(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, residual: Tensor | None, group_size: int,
    offset: int, activation: str, batch_invariant: bool,
) -> Tensor:  # fmt: skip
    check_matrix(NAME, "x", x, *DTYPES.values())
    N = codes.shape[0] if codes.dim() else 0
    check_weight(NAME, x.shape[1], codes, scales, zeros, perm, group_of, group_size, offset)
    check_bias(NAME, bias, N)
    return x.new_empty(check_end(NAME, x.shape[0], N, activation, residual, "codes"))


def check_weight(
    op: str, K: int, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, group_size: int, offset: int,
) -> None:  # fmt: skip
    """And what goes with it, for x of K columns."""
    if group_size not in (*SIZES, K):
        raise ValueError(f"{op}: group_size must be 32, 64, 128 or K, {K}, got {group_size}")
    limit = group_size if group_size in SIZES and perm is None and group_of is None else 1
    if not 0 <= offset < limit:
        raise ValueError(f"{op}: offset must be at least 0 and less than {limit}, got {offset}")
    _check_packed(op, K, codes, scales, zeros, perm, group_of, group_size, offset)


def _check_packed(
    op: str, K: int, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, group_size: int, offset: int,
) -> None:  # fmt: skip
    width = words_for(K + offset)
    if codes.dim() != 2 or codes.dtype != torch.int16:
        raise ValueError(f"{op}: codes must be two-dimensional int16, got {describe(codes)}")
    N, found = codes.shape
    if found != width if perm is None else found % WORDS or 4 * found < K:
        least = "at least " if perm is not None else ""
        raise ValueError(
            f"{op}: codes must be [N, {least}{width}] for {K} columns of x, got {describe(codes)}"
        )
    if scales.dtype not in WIDE.values():
        raise ValueError(f"{op}: scales must be bf16, f16 or f32, got {describe(scales)}")
    groups = groups_in(K, group_size, offset)
    fits = scales.dim() == 2 and scales.shape[1] == N
    if not fits or (scales.shape[0] == 0 and K > 0) or (
        group_of is None and scales.shape[0] != groups
    ):  # fmt: skip
        wanted = groups if group_of is None else "groups"
        raise ValueError(f"{op}: scales must be [{wanted}, {N}], got {describe(scales)}")
    for name, t, shape, dtype in (
        ("zeros", zeros, tuple(scales.shape), torch.uint8),
        ("perm", perm, (4 * found,), torch.int32),
        ("group_of", group_of, (4 * found // RUN,), torch.int32),
    ):
        if t is not None and (tuple(t.shape) != shape or t.dtype != dtype):
            kind = describe(dtype)
            raise ValueError(f"{op}: {name} must be {kind}{list(shape)}, got {describe(t)}")
    for name, t in (
        ("codes", codes), ("scales", scales), ("zeros", zeros), ("perm", perm),
        ("group_of", group_of),
    ):  # fmt: skip
        if t is not None and not t.is_contiguous():
            raise ValueError(
                f"{op}: {name} must be contiguous, as in a PackedWeight, got strides {t.stride()}"
            )


def values(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, residual: Tensor | None, group_size: int,
    *others: Any,
) -> None:  # fmt: skip
    check_weight_values(NAME, x.shape[1], scales, zeros, perm, group_of, group_size)


def check_weight_values(
    op: str, K: int, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, group_size: int,
) -> None:  # fmt: skip
    check_scale(op, "scales", scales)
    if zeros is not None and zeros.numel() and int(zeros.max()) > 16:
        raise ValueError(f"{op}: zeros must be 0 to 16, got {int(zeros.max())}")
    if perm is not None:
        named = perm[perm >= 0].to(torch.int64)
        # Of numbers beyond K there is no count to make, which might take gigabytes.
        right = not named.numel() or int(named.max()) < K
        if not right or not bool((torch.bincount(named, minlength=K) == 1).all()):
            raise ValueError(
                f"{op}: perm must name each of the {K} columns of x once, and no other"
            )
        last = int((perm >= 0).nonzero().max()) if K else 0
        if group_of is None and last >= len(scales) * group_size:
            raise ValueError(
                f"{op}: perm must name columns in its first {len(scales) * group_size} places, "
                f"which have a row of scales, got one at {last}"
            )
    if group_of is not None and group_of.numel():
        low, high = group_of.aminmax()
        if int(low) < 0 or int(high) >= scales.shape[0]:
            raise ValueError(
                f"{op}: group_of must be 0 to {scales.shape[0] - 1}, a row of scales, "
                f"got {int(low)} to {int(high)}"
            )


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """Every group and channel has a scale of its own, so that a misplaced one shows. Storage
    columns that are no column of the weight hold random codes, which must not count.

    `group`: 32, 64, 128 or "channel". `order`: of columns: by group; "act", in any order with whole
    groups; "shard", with groups of any length, some of them empty. `offset`: where the first column
    lies in its group. `fill`: normal; one-hot rows of x, which pick a column; large and tiny
    magnitudes; NaN in x. `layout`: of x.
    """
    M, N, K, place = case.M, case.N, case.K, generator.device
    dtype = DTYPES[case.one_of("dtype", *DTYPES)]
    scale_dtype = WIDE[case.one_of("scales", *WIDE)]
    bias_dtype = WIDE.get(case.one_of("bias", None, *WIDE))
    fill = case.one_of("fill", "normal", "onehot", "magnitudes", "nan")
    order, offset = case.one_of("order", "by group", "act", "shard"), case.get("offset", 0)
    group = case.one_of("group", 128, 64, 32, "channel")
    group_size = K if group == "channel" else group
    perm, group_of, groups, columns = None, None, groups_in(K, group_size, offset), K + offset
    if order != "by group":
        stored, starts = _shuffled(K, group_size, order)
        perm = torch.tensor(stored, dtype=torch.int32, device=place)
        columns, groups = len(stored), -(-K // group_size)
        if order == "shard":
            groups += 2
            group_of = torch.tensor(starts, dtype=torch.int32, device=place)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=place)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=place)

    x = normal(M, K)
    scales = (1 + normal(groups, N).abs()) / 64
    if fill == "onehot" and M and K:
        target = torch.randint(0, K, (M, 1), generator=generator, device=place)
        target[0], target[-1] = K - 1, 0
        x = torch.zeros(M, K, device=place).scatter_(1, target, 3.0)
    elif fill == "magnitudes":
        x *= 2.0 ** torch.randint(-8, 9, (M, 1), generator=generator, device=place)
        scales *= 2.0 ** torch.randint(-6, 5, scales.shape, generator=generator, device=place)
        scales[:, ::2] *= -1
    elif fill == "nan":
        x[1, K - 1] = float("nan")
    bias = None
    if bias_dtype is not None:
        bias = (normal(N) + torch.arange(N, device=place) % 7).to(bias_dtype)
    return {
        "x": lay_out(case, "x", x.to(dtype)),
        "codes": integers(-(2**15), 2**15, N, words_for(columns)).to(torch.int16),
        "scales": scales.to(scale_dtype),
        "zeros": integers(0, 17, groups, N).to(torch.uint8) if case.get("asym", False) else None,
        "perm": perm, "group_of": group_of, "bias": bias, "group_size": group_size,
        "offset": offset, "batch_invariant": case.get("invariant", False),
        **end_of(case, generator),
    }  # fmt: skip


def _shuffled(K: int, group_size: int, order: str) -> tuple[list[int], list[int]]:
    """perm and group_of of columns whose groups are mixed, the same for every seed."""
    mixed = list(range(K))
    random.Random(K).shuffle(mixed)
    if order == "act":
        return mixed + [-1] * (4 * words_for(K) - K), []
    g_idx = [0] * K
    for i, k in enumerate(mixed):
        g_idx[k] = 1 + int(i * i / K / group_size)  # group 0 is empty, early ones are long
    return by_group(g_idx)


def cost(case: Case) -> Cost:
    M, N, K = case.M, case.N, case.K
    group = K if case.get("group", 128) == "channel" else case.get("group", 128)
    offset, order = case.get("offset", 0), case.get("order")
    groups = groups_in(K, group, offset) if order is None else -(-K // group)
    each = WIDE[case.get("scales", "bf16")].itemsize + case.get("asym", False)
    bias = N * WIDE[case.bias].itemsize if case.get("bias") else 0
    moved = 2 * M * K + N * K / 2 + groups * N * each + bias + end_bytes(case, torch.float16)
    return Cost(2 * M * N * K, moved + (0 if order is None else 4 * K), "f16")


def _configs(p: Problem) -> tuple[Config, ...]:
    built_in = config_of(
        p.x, p.codes, p.perm, p.group_of, p.group_size, p.offset, p.batch_invariant, sm=p.sm
    )
    return tiles_beside(p, built_in, len(p.x))


def tiles_beside(p: Problem, built_in: Config, rows: int) -> tuple[Config, ...]:
    aligned, N = reads_wide(p.x, p.perm, p.offset), p.codes.shape[-2]
    return candidates(built_in, rows, N, aligned, p.batch_invariant, p.sm or 90)


matmul_w4 = Op(
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
    rows=("x", "residual"),
    providers=(
        Provider.triton(
            "triton",
            "aimills_kernels.kernels.matmul.triton_w4:launch",
            sources=(
                "kernels/matmul/config_w4.py",
                "kernels/matmul/epilogue.py",
                "kernels/matmul/layout_w4.py",
                "kernels/matmul/tiles.py",
                "kernels/matmul/triton_quantize.py",
                "kernels/hardware.py",
            ),
            workspace=workspace,
            configs=_configs,
        ),
    ),
    reference_rejects=depends,
)
