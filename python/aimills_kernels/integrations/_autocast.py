"""What torch.autocast makes of the tensors that PyTorch's own attention takes."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(t: Tensor) -> torch.dtype:
    """The dtype that a tensor comes to `scaled_dot_product_attention` in: autocast turns all
    floating-point numbers but float64 into its own."""
    kind = t.device.type
    if kind == "meta" or not t.is_floating_point() or t.dtype == torch.float64:
        return t.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else t.dtype
