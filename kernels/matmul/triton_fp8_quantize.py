"""fp8 matmul whose result is quantised to fp8, in Triton, for any GPU from sm_80.

The kernels of `triton_fp8` and `triton_fp8_block`. With a scale for each 1x128 a tile is one block
of 128 columns and stores codes. No tile sees all of a row: for scales of rows the result goes to
the workspace in float32, and `triton_quantize` makes the codes.
"""

import torch

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul import chosen, triton_fp8, triton_fp8_block, triton_quantize
from aimills_kernels.kernels.matmul.config import split_sums
from aimills_kernels.kernels.matmul.epilogue import End


def launch(
    outs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor,
    bias: torch.Tensor | None, activation: str, granularity: str, dtype: torch.dtype, accum: str,
    batch_invariant: bool,
) -> None:  # fmt: skip
    codes, scale, work = outs
    if codes.numel() == 0:
        scale.fill_(1.0)
        return
    found = chosen.for_codes(
        a, b, scale_a, scale_b, accum, batch_invariant, activation, granularity
    )
    shape, built_in = found.shape, found.config()
    config = _configs.config(built_in)
    behind = split_sums(built_in, len(a), len(b))
    result = codes if found.columns else work[behind:].view(codes.shape)
    end = End(result, bias, activation, scale=scale if found.columns else None)
    if found.blocks:
        triton_fp8_block.multiply(a, b, scale_a, scale_b, shape, config, work, end)
    else:
        promote = triton_fp8.promoted(accum, found.sm)
        triton_fp8.multiply(a, b, scale_a, scale_b, shape, promote, config, work, end)
    if not found.columns:
        triton_quantize.launch((codes, scale), result, granularity, dtype)
