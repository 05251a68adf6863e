"""4-bit weights by PyTorch's own ways: each wants a weight of its own, which is prepared ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from aimills_kernels.kernels.matmul.layout_w4 import SIZES, dequantize, unpack_nibbles
from aimills_kernels.kernels.matmul.op_w4 import ACTIVATIONS

_PREPARED: WeakIdKeyDictionary = WeakIdKeyDictionary()


def dequantized(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, group_size: int, offset: int, activation: str,
    batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """The matmul of the weight in x's dtype: four times the bytes, and each weight rounded."""
    if batch_invariant:
        raise NotImplementedError("PyTorch's matmul promises no bits")

    def prepare() -> Tensor:
        return dequantize(
            codes, scales, zeros, perm, group_of, x.shape[1], group_size, offset, torch.float32
        ).to(x.dtype)  # fmt: skip

    weight = _ahead("dequantized", prepare, codes, scales)
    return ACTIVATIONS[activation](F.linear(x, weight, None if bias is None else bias.to(x.dtype)))


def int4pack(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, group_size: int, offset: int, activation: str,
    batch_invariant: bool,
) -> Tensor:  # fmt: skip
    """_weight_int4pack_mm, with its scales and zeros in bf16; bias and activation on top."""
    N, K = codes.shape[0], x.shape[1]
    if batch_invariant or perm is not None or group_of is not None or offset:
        raise NotImplementedError("_weight_int4pack_mm takes groups in order and promises no bits")
    if x.dtype != torch.bfloat16 or scales.dtype != torch.bfloat16 or group_size not in SIZES:
        raise NotImplementedError("_weight_int4pack_mm takes bf16 and groups of 32, 64 and 128")
    if K % 128 or N % 64:
        raise NotImplementedError("_weight_int4pack_mm takes K by 128, and N by 64 on a CPU")
    gpu = x.device.type == "cuda"

    def prepare() -> tuple[Tensor, Tensor]:
        found = unpack_nibbles(codes)[:, :K]
        shift = 8.0 if zeros is None else zeros.float()
        tables = torch.stack((scales.float(), (8.0 - shift) * scales.float()), 2).bfloat16()
        if gpu:
            pairs = (found[:, ::2] << 4 | found[:, 1::2]).contiguous()
            return torch.ops.aten._convert_weight_to_int4pack(pairs, 8), tables
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(found.int(), 1), tables

    packed, tables = _ahead("int4pack", prepare, codes, scales)
    ops = torch.ops.aten
    multiply = ops._weight_int4pack_mm if gpu else ops._weight_int4pack_mm_for_cpu
    out = multiply(x.contiguous(), packed, group_size, tables)
    return ACTIVATIONS[activation](out if bias is None else out + bias.to(x.dtype))


def _ahead(name: str, prepare: Callable[[], Any], codes: Tensor, scales: Tensor) -> Any:
    """Made once for a weight, and anew where it was written to since."""
    seen = (codes._version, scales._version, scales.data_ptr())
    kept = _PREPARED.setdefault(codes, {})
    if kept.get(name, (None, None))[0] != seen:
        if codes.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise NotImplementedError("its weight is prepared ahead, which a graph would leave out")
        kept[name] = (seen, prepare())
    return kept[name][1]
