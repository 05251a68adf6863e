"""Small checkpoints of each layout, written and dequantised code by code.

Nothing here is shared with the reader: a code is put at a bit position by arithmetic on whole
Python integers, and the weight is computed from the codes before they are packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

NAME = "model.layers.0.mlp.up_proj"
# Where the nibble of column n lies in its word, AWQ's gemm layout.
AWQ_NIBBLE = {0: 0, 1: 4, 2: 1, 3: 5, 4: 2, 5: 6, 6: 3, 7: 7}


@dataclass
class Written:
    """Tensors of one layer, what config.json says of it, and the weight [N, K] in float64."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    want: Tensor


def write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None, shards: int = 1
) -> Path:
    whole = {"model_type": "llama"} | ({} if config is None else {"quantization_config": config})
    (folder / "config.json").write_text(json.dumps(whole))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    placed: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for index, (key, t) in enumerate(tensors.items()):
        placed[names[index * shards // len(tensors)]][key] = t
    for name, part in placed.items():
        save_file(part, folder / name)
    weight_map = {key: name for name, part in placed.items() for key in part}
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def layer(written: Written, name: str = NAME) -> dict[str, Tensor]:
    return {f"{name}.{word}": t.contiguous() for word, t in written.tensors.items()}


def words(codes: Tensor, bits: int, at: Callable[[int, int], tuple[int, int, int]]) -> Tensor:
    """Codes [a, b] into words; `at` gives the row, column and slot of a code."""
    sums: dict[tuple[int, int], int] = {}
    for a, row in enumerate(codes.tolist()):
        for b, code in enumerate(row):
            r, c, slot = at(a, b)
            sums[r, c] = sums.get((r, c), 0) + code * 2 ** (bits * slot)
    out = torch.zeros([1 + max(axis) for axis in zip(*sums, strict=True)], dtype=torch.int64)
    for place, value in sums.items():
        out[place] = value - 2**32 if value >= 2**31 else value
    return out.to(torch.int32)


def weight(codes: Tensor, zeros: Tensor, scales: Tensor, group: Callable[[int], int]) -> Tensor:
    """(code - zero) * scale in float64; codes [N, K], zeros and scales [G, N]."""
    of = [group(k) for k in range(codes.shape[1])]
    return (codes.double() - zeros.double().T[:, of]) * scales.double().T[:, of]


def _scales(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.rand(shape) * 0.02 + 0.005).to(dtype)


def gptq(
    bits: int = 4, group: int = 32, *, sym: bool = True, act: bool = False, version: int = 1,
    N: int = 16, K: int = 64,
) -> Written:  # fmt: skip
    top, p = 2**bits - 1, 32 // bits
    size = K if group == -1 else group
    G = K // size
    codes = torch.randint(0, top + 1, (N, K))
    zeros = torch.full((G, N), 2 ** (bits - 1)) if sym else torch.randint(1, top + 1, (G, N))
    scales = _scales(G, N)
    g_idx = torch.tensor([k // size for k in range(K)])
    if act:
        g_idx = g_idx[torch.randperm(K)]
    tensors = {
        "qweight": words(codes, bits, lambda n, k: (k // p, n, k % p)),
        "qzeros": words(zeros - int(version == 1), bits, lambda g, n: (g, n // p, n % p)),
        "scales": scales,
        "g_idx": g_idx.to(torch.int32),
        "bias": torch.randn(N).half(),
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym}
    config |= {"desc_act": act, "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
    return Written(tensors, config, weight(codes, zeros, scales, g_idx.tolist().__getitem__))


def awq(group: int = 32, *, N: int = 16, K: int = 64) -> Written:
    size = K if group == -1 else group
    codes, scales = torch.randint(0, 16, (N, K)), _scales(K // size, N)
    zeros = torch.randint(0, 16, (K // size, N))
    tensors = {
        "qweight": words(codes, 4, lambda n, k: (k, n // 8, AWQ_NIBBLE[n % 8])),
        "qzeros": words(zeros, 4, lambda g, n: (g, n // 8, AWQ_NIBBLE[n % 8])),
        "scales": scales,
    }
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    return Written(tensors, config, weight(codes, zeros, scales, lambda k: k // size))


def compressed(weights: dict[str, Any], form: str, **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "format": form}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return config | {"format": form, "quantization_status": "compressed"} | more


def packed(
    bits: int = 4, group: int = 32, *, sym: bool = False, act: bool = False, N: int = 20,
    K: int = 68,
) -> Written:  # fmt: skip
    """compressed-tensors' pack-quantized, ragged in both directions."""
    p, size, half = 32 // bits, K if group == -1 else group, 2 ** (bits - 1)
    G = -(-K // size)
    codes, scales = torch.randint(0, 2 * half, (N, K)), _scales(G, N, dtype=torch.bfloat16)
    zeros = torch.full((G, N), half) if sym else torch.randint(0, 2 * half, (G, N))
    g_idx = torch.tensor([k // size for k in range(K)])
    tensors = {
        "weight_packed": words(codes, bits, lambda n, k: (n, k // p, k % p)),
        "weight_scale": scales.T,
        "weight_shape": torch.tensor([N, K]),
    }
    if not sym:
        tensors["weight_zero_point"] = words(zeros, bits, lambda g, n: (n // p, g, n % p))
    if act:
        g_idx = g_idx[torch.randperm(K)]
        tensors["weight_g_idx"] = g_idx.to(torch.int32)
    weights = {"num_bits": bits, "type": "int", "symmetric": sym, "group_size": group}
    weights |= {"strategy": "channel" if group == -1 else "group"}
    weights |= {"actorder": "group"} if act else {}
    config = compressed(weights, "pack-quantized")
    return Written(tensors, config, weight(codes, zeros, scales, g_idx.tolist().__getitem__))


def integers(strategy: str = "channel", *, sym: bool = True, N: int = 20, K: int = 68) -> Written:
    """compressed-tensors' int-quantized."""
    size = {"tensor": K, "channel": K, "group": 34}[strategy]
    shape = (1,) if strategy == "tensor" else (N, K // size)
    codes = torch.randint(-128, 128, (N, K), dtype=torch.int8)
    scales = _scales(*shape, dtype=torch.float32)
    zeros = torch.zeros(shape) if sym else torch.randint(-128, 128, shape)
    tensors = {"weight": codes, "weight_scale": scales}
    if not sym:
        tensors["weight_zero_point"] = zeros.to(torch.int8)
    weights = {"num_bits": 8, "type": "int", "symmetric": sym, "strategy": strategy}
    weights |= {"group_size": size} if strategy == "group" else {}

    def each(t: Tensor) -> Tensor:
        return t.reshape(1, -1).expand(N, -1).T if strategy == "tensor" else t.T

    want = weight(codes, each(zeros), each(scales), lambda k: k // size)
    return Written(tensors, compressed(weights, "int-quantized"), want)


def fp8(
    kind: str = "block", *, N: int = 150, K: int = 260, block: tuple[int, int] = (128, 128)
) -> Written:
    """quant_method fp8; every code there is, and a scale of its own for each block."""
    finite = [b for b in range(256) if b & 127 != 127]
    bytes_ = torch.tensor(finite, dtype=torch.uint8)[torch.randint(0, len(finite), (N, K))]
    codes = bytes_.view(torch.float8_e4m3fn)
    config: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    rows, columns = {"block": block, "row": (1, K), "tensor": (N, K)}[kind]
    scales = _scales(-(-N // rows), -(-K // columns), dtype=torch.float32)
    if kind == "block":
        config["weight_block_size"] = list(block)
    of_row, of_column = [n // rows for n in range(N)], [k // columns for k in range(K)]
    want = codes.double() * scales.double()[of_row][:, of_column]
    name = "weight_scale_inv" if kind == "block" else "weight_scale"
    stored = scales.reshape(()) if kind == "tensor" else scales
    return Written({"weight": codes, name: stored}, config, want)
