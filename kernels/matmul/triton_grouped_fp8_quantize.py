"""Grouped fp8 matmul whose result is quantised to fp8, in Triton, for any GPU from sm_80.

The kernel of `triton_grouped_fp8`. With a scale for each 1x128 a tile is one block of 128 columns
and stores codes. No tile sees all of a row: for scales of rows, and where codes are read byte by
byte, the result goes to the workspace in float32, and `triton_quantize` makes the codes. Rows of no
group have codes of 0 and scales of 1.
"""

import torch

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul import chosen, triton_grouped_fp8, triton_quantize
from aimills_kernels.kernels.matmul.epilogue import End
from aimills_kernels.kernels.matmul.triton_fp8 import promoted


def launch(
    outs: tuple[torch.Tensor, ...],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    offsets: torch.Tensor | None, masked_m: torch.Tensor | None, bias: torch.Tensor | None,
    activation: str, granularity: str, dtype: torch.dtype, batch_invariant: bool,
) -> None:  # fmt: skip
    codes, scale, *work = outs
    if codes.numel() == 0 or len(b) == 0:
        codes.view(torch.uint8).zero_()
        scale.fill_(1.0)
        return
    found = chosen.for_codes_of_groups(
        a, b, scale_a, scale_b, batch_invariant, activation, granularity
    )
    config = _configs.config(found.config())
    result = codes if found.columns else work[0].view(codes.shape)
    end = End(result, bias, activation, scale=scale if found.columns else None)
    triton_grouped_fp8.multiply(
        a, b, scale_a, scale_b, offsets, masked_m, found.shape, promoted("promoted", found.sm),
        config, end,
    )  # fmt: skip
    if not found.columns:
        triton_quantize.launch((codes, scale), result, granularity, dtype)
