"""4-bit weights by PyTorch's own ways: each wants a weight of its own, which is made ahead."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.harness.peers import Prepared
from aimills_kernels.kernels.matmul.activations import finish
from aimills_kernels.kernels.matmul.layout_w4 import SIZES, dequantize, unpack_nibbles


def _dequantized(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, residual: Tensor | None, group_size: int,
    offset: int, activation: str, batch_invariant: bool,
) -> tuple[Tensor]:  # fmt: skip
    if batch_invariant:
        raise NotImplementedError("PyTorch's matmul promises no bits")
    weight = dequantize(
        codes, scales, zeros, perm, group_of, x.shape[1], group_size, offset, torch.float32
    )
    return (weight.to(x.dtype),)


def _matmul(made: tuple[Tensor], x: Tensor, *rest: Any) -> Tensor:
    """The matmul of the weight in x's dtype: four times the bytes, and each weight rounded."""
    bias = rest[5].to(x.dtype) if isinstance(rest[5], Tensor) else None
    return _end(F.linear(x, made[0], bias), rest)


def _end(out: Tensor, rest: tuple[Any, ...]) -> Tensor:
    residual, activation = rest[6], rest[9]
    return finish(out, None, activation, residual, out.dtype)


def _packed(
    x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor | None, perm: Tensor | None,
    group_of: Tensor | None, bias: Tensor | None, residual: Tensor | None, group_size: int,
    offset: int, activation: str, batch_invariant: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    N, K = codes.shape[0], x.shape[1]
    if batch_invariant or perm is not None or group_of is not None or offset:
        raise NotImplementedError("_weight_int4pack_mm takes groups in order and promises no bits")
    if x.dtype != torch.bfloat16 or scales.dtype != torch.bfloat16 or group_size not in SIZES:
        raise NotImplementedError("_weight_int4pack_mm takes bf16 and groups of 32, 64 and 128")
    if K % 128 or N % 64:
        raise NotImplementedError("_weight_int4pack_mm takes K by 128, and N by 64 on a CPU")
    found = unpack_nibbles(codes)[:, :K]
    zero = 8.0 if zeros is None else zeros.float()
    tables = torch.stack((scales.float(), (8.0 - zero) * scales.float()), 2).bfloat16()
    if x.device.type == "cuda":
        pairs = (found[:, ::2] << 4 | found[:, 1::2]).contiguous()
        return torch.ops.aten._convert_weight_to_int4pack(pairs, 8), tables
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(found.int(), 1), tables


def _int4pack(made: tuple[Tensor, Tensor], x: Tensor, *rest: Any) -> Tensor:
    """_weight_int4pack_mm, with its scales and zeros in bf16; bias and activation on top."""
    bias, group_size = rest[5], rest[7]
    ops = torch.ops.aten
    gpu = x.device.type == "cuda"
    multiply = ops._weight_int4pack_mm if gpu else ops._weight_int4pack_mm_for_cpu
    out = multiply(x.contiguous(), made[0], group_size, made[1])
    return _end(out + bias.to(x.dtype) if isinstance(bias, Tensor) else out, rest)


dequantized = Prepared(_dequantized, _matmul)
int4pack = Prepared(_packed, _int4pack)
