"""Matmuls of groups of rows by PyTorch's own ways. Each wants lengths, weights or scales in a form
of its own, which is made ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Prepared
from aimills_kernels.kernels.matmul.activations import GATED, activate, finish
from aimills_kernels.kernels.matmul.config import in_blocks
from aimills_kernels.kernels.matmul.groups import of_group
from aimills_kernels.kernels.matmul.layout_w4 import dequantize

from ._matmul import scaled_mm

Rows = tuple[tuple[int, slice | tuple[int, slice]], ...]


def _groups(offsets: Tensor | None, masked_m: Tensor | None, E: int) -> Rows:
    """Each group that is not empty, and where its rows are."""
    if masked_m is not None:
        return tuple((e, (e, slice(0, n))) for e, n in enumerate(masked_m.tolist()) if n)
    assert offsets is not None
    ends = offsets.tolist()[len(offsets) - E :]
    begins = [0, *ends[:-1]]
    pairs = enumerate(zip(begins, ends, strict=True))
    return tuple((e, slice(b, n)) for e, (b, n) in pairs if b < n)


def _promise(invariant: bool, name: str) -> None:
    if invariant:
        raise NotImplementedError(f"{name} promises no bits")


# ---- a call of F.scaled_mm for each group


def _ahead_of_each(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype, batch_invariant: bool,
    residual: Tensor | None, activation: str,
) -> tuple[Rows, Tensor]:  # fmt: skip
    _promise(batch_invariant, "F.scaled_mm")
    width = b.shape[1] // 2 if activation == GATED else b.shape[1]
    out = a.new_zeros((*a.shape[:-1], width), dtype=out_dtype)
    return _groups(offsets, masked_m, len(b)), out


def _each(made: tuple[Rows, Tensor], *args: Any) -> Tensor:
    """F.scaled_mm for each group in turn, whose lengths the host knows."""
    a, b, scale_a, scale_b, _, _, bias, out_dtype, _, residual, activation = args
    groups, out = made
    for e, rows in groups:
        scales = scale_a[rows] if scale_a.dim() > 1 else scale_a
        if scales.dim() == 2 and scales.shape[1] > 1:  # it reads blocks as many rows apart as given
            scales = scales.t().contiguous().t()
        across = of_group(scale_b, e, 3)
        across = across[0, 0] if across.shape[:1] == (1,) and across.dim() == 2 else across
        out[rows] = scaled_mm(
            a[rows], b[e], scales, across, of_group(bias, e, 2), out_dtype, "promoted", False,
            None if residual is None else residual[rows], activation,
        )  # fmt: skip
    return out


# ---- F.scaled_grouped_mm


def _ahead_of_scaled(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype, batch_invariant: bool,
    residual: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _promise(batch_invariant, "F.scaled_grouped_mm")
    E, N, K = b.shape
    if a.device.type != "cuda":
        raise NotImplementedError("F.scaled_grouped_mm runs on a GPU")
    if offsets is None or int(offsets[-1]) != len(a) or bias is not None:
        raise NotImplementedError(
            "F.scaled_grouped_mm takes rows by offsets, each in a group, and no bias"
        )
    rows = scale_a.shape == (len(a), 1) and scale_b.shape == (E, N, 1)
    if not rows or out_dtype != torch.bfloat16 or K % 16 or N % 16:
        raise NotImplementedError(
            "F.scaled_grouped_mm takes a scale for each row of both, K and N by 16, and gives bf16"
        )
    return offsets[len(offsets) - E :], scale_b[..., 0].contiguous()


def _scaled(
    made: tuple[Tensor, Tensor], a: Tensor, b: Tensor, scale_a: Tensor, *rest: Any
) -> Tensor:
    """F.scaled_grouped_mm: scales by row, rows by offsets; activation and residual behind it."""
    ends, across = made
    kind = F.ScalingType.RowWise
    out = F.scaled_grouped_mm(
        a, b.transpose(1, 2), scale_a[:, 0].contiguous(), kind, across, kind, offs=ends
    )
    return finish(out, None, rest[-1], rest[-2], out.dtype)


# ---- F.grouped_mm in bf16


def _wide(
    rows: Tensor, weights: Tensor, offsets: Tensor | None, masked_m: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    E, K, N = weights.shape
    if K % 8 or N % 8:
        raise NotImplementedError("F.grouped_mm takes K and N by 8")
    if offsets is not None and int(offsets[-1]) != len(rows):
        raise NotImplementedError("F.grouped_mm takes rows that are all in a group")
    if masked_m is not None:  # a batched matmul multiplies rows of no group too
        own = torch.arange(rows.shape[1], device=rows.device) < masked_m[:, None]
        rows = rows.masked_fill(~own[..., None], 0)
    return rows, weights, None if offsets is None else offsets[len(offsets) - E :]


def _ahead_of_codes(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, offsets: Tensor | None,
    masked_m: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype, batch_invariant: bool,
    residual: Tensor | None, activation: str,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    _promise(batch_invariant, "F.grouped_mm")
    plain = bias is None and residual is None and out_dtype == torch.bfloat16
    if in_blocks(scale_a, scale_b, b.shape[1]) or not plain:
        raise NotImplementedError(
            "F.grouped_mm is timed on scales by row or tensor, without a bias and a residual, with "
            "bf16 output"
        )
    wide = (a.float() * scale_a).bfloat16(), (b.float() * scale_b).bfloat16()
    return _wide(wide[0], wide[1].transpose(1, 2), offsets, masked_m)


def _grouped(made: tuple[Tensor, Tensor, Tensor | None], *args: Any) -> Tensor:
    """F.grouped_mm of both in bf16, or a batched matmul with masked_m; twice the bytes of fp8."""
    return _wide_matmul(made, args[10])


def _wide_matmul(made: tuple[Tensor, Tensor, Tensor | None], activation: str) -> Tensor:
    rows, weights, ends = made
    out = rows @ weights if ends is None else F.grouped_mm(rows, weights, offs=ends)
    return activate(out, activation)


def _ahead_of_w4(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, offsets: Tensor | None, masked_m: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, group_size: int, offset: int, activation: str, batch_invariant: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    _promise(batch_invariant, "F.grouped_mm")
    if bias is not None or residual is not None or x.dtype != torch.bfloat16:
        raise NotImplementedError("F.grouped_mm is timed in bf16, without a bias and a residual")
    weights = [
        dequantize(
            codes[e], scales[e], of_group(zeros, e, 3), of_group(perm, e, 2),
            of_group(group_of, e, 2), x.shape[-1], group_size, offset, torch.float32,
        ).to(x.dtype)
        for e in range(len(codes))
    ]  # fmt: skip
    return _wide(x, torch.stack(weights).transpose(1, 2), offsets, masked_m)


def _grouped_w4(made: tuple[Tensor, Tensor, Tensor | None], *args: Any) -> Tensor:
    """F.grouped_mm of weights in bf16, or a batched matmul with masked_m; four times the bytes."""
    return _wide_matmul(made, args[12])


each: Callable[..., Any] = Prepared(_ahead_of_each, _each)
scaled: Callable[..., Any] = Prepared(_ahead_of_scaled, _scaled)
grouped_fp8: Callable[..., Any] = Prepared(_ahead_of_codes, _grouped)
grouped_w4: Callable[..., Any] = Prepared(_ahead_of_w4, _grouped_w4)
