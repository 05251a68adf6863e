"""Public matmuls of groups of rows, each with a weight of its own: a mixture of experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.matmul import Activation
from aimills_kernels.packed_experts import PackedExperts


def grouped_matmul_fp8(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    *,
    offsets: Tensor | None = None,
    masked_m: Tensor | None = None,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul of fp8 codes, each group of rows by its own weight: for the rows of group e
    activation((a * scale_a) @ (b[e] * scale_b[e]).T + bias[e]) + residual, rounded once; 0 for a
    row of no group.

    Shapes and dtypes:
        a         [T, K]             float8_e4m3fn | float8_e5m2; with offsets
                  [E, M, K]          with masked_m
        b         [E, N, K]          float8_e4m3fn | float8_e5m2; the weights of E nn.Linear
        scale_a   [..., ceil(K / 128)]  f32; for each block of 1x128, [..., 1] for each row, [] or
                                     [1] for the tensor; the first dims are those of a
        scale_b   [E, N, ceil(K / 128)]  f32; likewise, [E, N, 1], [E, 1, 1] for each weight, [] or
                                     [1], or for each block of 128x128
                                     [E, ceil(N / 128), ceil(K / 128)]
        offsets   [E] or [E + 1]     i32; where each group ends, as torch's `offs`, or the same with
                                     a 0 in front, as cu_seqlens: group e begins where the one
                                     before it ends
        masked_m  [E]                i32; the first masked_m[e] rows of a[e] are group e
        bias      [E, N]             bf16 | f16 | f32
        residual  [T, N]             bf16 | f16 | f32, or [E, M, N]
        out       [T, N]             out_dtype, or [E, M, N]; with activation="swiglu" it has N / 2
                                     columns, as has residual

    Any T, M, N, K and E, groups of any size, empty ones too, and any strides. Lengths are read by
    the GPU alone, and the grid follows from shapes: one CUDA graph serves all lengths.

    Args:
        offsets: one of offsets and masked_m must be given. Rows behind the last end are in no
            group, whatever they hold.
        masked_m: see there; rows of a[e] behind the first masked_m[e] are in no group.
        bias: added in float32, before the activation.
        activation: as in matmul_fp8; "swiglu" takes weights [gate; up], in each expert.
        residual: added in float32 behind the activation; any strides. What it holds for a row of no
            group is not read.
        out_dtype: torch.bfloat16, torch.float16 or torch.float32.
        batch_invariant: the bits of a row of out then follow from that row and its weight, not from
            the other rows, its place, or their number, as one choice of tiles serves all. Only our
            own kernels do that. Not checked on a GPU yet.
        out: written and returned in place of a new tensor.

    Returns:
        out. Rows of no group are 0, so that nothing in it is ever undefined.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a or b requires a gradient; on a CPU,
            and on a GPU with AIMILLS_CHECK=1, also where offsets fall or pass T, masked_m passes M
            or is negative, or a scale (of a: of a row in a group) is NaN, infinite or 0; the
            message names the argument. Unchecked, a group whose end falls is empty, those behind it
            begin where the one before them ends, and none passes the rows.

    Sums and their precision are those of matmul_fp8. Layouts: DeepGEMM's m_grouped contiguous and
    masked ones; contiguous groups need no padding here. Gradients of scale_a, scale_b, bias and
    residual are those of the PyTorch reference, which multiplies every row by every weight; codes
    have none. torch.autocast changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("grouped_matmul_fp8", batch_invariant=batch_invariant)
    args = (
        a, b, scale_a, scale_b, offsets, masked_m, bias, out_dtype, batch_invariant, residual,
        "none" if activation is None else activation,
    )  # fmt: skip
    return run("grouped_matmul_fp8", args, out)


def grouped_matmul_quantize_fp8(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    granularity: Literal["row", "1x128"] = "1x128",
    *,
    offsets: Tensor | None = None,
    masked_m: Tensor | None = None,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
    batch_invariant: bool = False,
) -> tuple[Tensor, Tensor]:
    """grouped_matmul_fp8, quantised to fp8: what the next grouped_matmul_fp8 takes as its a and
    scale_a, as the two matmuls of a mixture of experts do.

    Shapes and dtypes:
        a         [T, K]             float8_e4m3fn | float8_e5m2; or [E, M, K] with masked_m
        b         [E, N, K]          float8_e4m3fn | float8_e5m2
        scale_a   [..., ceil(K / 128)]   f32; or others, as in grouped_matmul_fp8
        scale_b   [E, N, ceil(K / 128)]  f32; or others, as in grouped_matmul_fp8
        offsets   [E] or [E + 1]     i32; as in grouped_matmul_fp8
        masked_m  [E]                i32; as in grouped_matmul_fp8
        bias      [E, N]             bf16 | f16 | f32
        x_q       [T, N]             dtype, or [E, M, N]; N / 2 columns with activation="swiglu"
        scale     [T, ceil(N / 128)] f32, of x_q's columns, or [E, M, ...]; [..., 1] for "row"

    Args:
        granularity: as in matmul_quantize_fp8.
        offsets: as in grouped_matmul_fp8.
        masked_m: as in grouped_matmul_fp8.
        bias: as in grouped_matmul_fp8.
        activation: as in grouped_matmul_fp8.
        dtype: of x_q; torch.float8_e4m3fn or torch.float8_e5m2.
        batch_invariant: as in grouped_matmul_fp8.

    Returns:
        (x_q, scale): x_q * scale ~ activation((a * scale_a) @ (b[e] * scale_b[e]).T + bias[e]),
        which is in float32 until it becomes codes. Rows of no group have codes of 0 and scales of
        1. The scales lie in memory as those of quantize_fp8.

    Raises:
        ValueError: as in grouped_matmul_fp8, or a granularity or dtype that does not fit; the
            message names the argument.

    Carries no gradient. torch.autocast changes nothing. Sums are those of grouped_matmul_fp8.
    """
    if type(batch_invariant) is not bool:
        check_bools("grouped_matmul_quantize_fp8", batch_invariant=batch_invariant)
    args = (
        a, b, scale_a, scale_b, offsets, masked_m, bias,
        "none" if activation is None else activation, granularity, dtype, batch_invariant,
    )  # fmt: skip
    return run("grouped_matmul_quantize_fp8", args)


def grouped_matmul_w4(
    x: Tensor,
    packed: PackedExperts,
    *,
    offsets: Tensor | None = None,
    masked_m: Tensor | None = None,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul with 4-bit weights, each group of rows by its own: for the rows of group e
    activation(x @ packed[e].dequantize().T + bias[e]) + residual, rounded once; 0 for a row of no
    group.

    Shapes and dtypes:
        x         [T, K]         f16 | bf16; with offsets
                  [E, M, K]      with masked_m
        packed    [E, N, K]      `PackedExperts`, on the device of x
        offsets   [E] or [E + 1] i32; as in grouped_matmul_fp8
        masked_m  [E]            i32; as in grouped_matmul_fp8
        bias      [E, N]         f16 | bf16 | f32
        residual  [T, N]         f16 | bf16 | f32, or [E, M, N]
        out       [T, N]         dtype of x, or [E, M, N]; with activation="swiglu" it has N / 2
                                 columns, as has residual

    Any T, M and E, groups of any size, empty ones too, and any strides of x and bias. Lengths are
    read by the GPU alone, and the grid follows from shapes: one CUDA graph serves all lengths.

    Args:
        offsets: one of offsets and masked_m must be given. Rows behind the last end are in no
            group, whatever they hold.
        masked_m: see there; rows of x[e] behind the first masked_m[e] are in no group.
        bias: added in float32, before the activation.
        activation, residual: as in grouped_matmul_fp8.
        batch_invariant: the bits of a row then do not depend on other rows, its place or their
            number. No path on a CPU promises that. Not checked on a GPU yet.
        out: written and returned in place of a new tensor.

    Returns:
        out. Rows of no group are 0, so that nothing in it is ever undefined.

    Raises:
        ValueError: a shape, dtype, device, activation or a kind of `packed` that does not fit; on a
            CPU, and on a GPU with AIMILLS_CHECK=1, also where offsets fall or pass T, or masked_m
            passes M or is negative; the message names the argument. What unchecked lengths do is
            said at grouped_matmul_fp8.

    Sums are those of matmul_w4 without splits of K. Group-wise 4-bit weights: Frantar et al., GPTQ,
    arXiv:2210.17323. Gradients of x, bias, residual and scales are those of the PyTorch reference,
    which multiplies every row by every weight. torch.autocast changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("grouped_matmul_w4", batch_invariant=batch_invariant)
    if not isinstance(packed, PackedExperts):
        kind = type(packed).__name__
        raise ValueError(f"grouped_matmul_w4: packed must be PackedExperts, got {kind}")
    if not isinstance(x, Tensor):
        raise ValueError(f"grouped_matmul_w4: x must be a tensor, got {type(x).__name__}")
    if x.shape[-1:] != (packed.in_features,):
        raise ValueError(
            f"grouped_matmul_w4: x must have {packed.in_features} columns as packed, "
            f"got shape {[*x.shape]}"
        )
    args = (
        x, packed.codes, packed.scales, packed.zeros, packed.perm, packed.group_of, offsets,
        masked_m, bias, residual, packed.group_size, packed.offset,
        "none" if activation is None else activation, batch_invariant,
    )  # fmt: skip
    return run("grouped_matmul_w4", args, out)
