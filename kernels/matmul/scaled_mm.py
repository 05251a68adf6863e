"""PyTorch's scaled matmul: cuBLASLt or CUTLASS, oneDNN on a CPU.

`torch._scaled_mm` and not `F.scaled_mm`, which runs the same kernels but takes no `out`: copying
its result would cost twice what writing it costs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def launch(
    outs: tuple[Tensor],
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None,
    out_dtype: torch.dtype,
) -> None:  # fmt: skip
    across = scale_b.T if scale_b.dim() == 2 else scale_b
    torch._scaled_mm(
        a, b.T, scale_a, across, bias=bias, out_dtype=out_dtype, use_fast_accum=False, out=outs[0]
    )
