"""Checkpoints against independent implementations, on files that those write: compressed-tensors
and Transformers' FP8 write, and what they dequantise is what must be read.

Their imports take ten seconds and more, hence `full`. For AWQ compressed-tensors has a reader and
no writer: it reads what `checkpoint_files` wrote. For GPTQ neither has one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aimills_kernels.checkpoints import open_checkpoint
from tests import checkpoint_files as files
from tests.checkpoint_files import NAME

pytestmark = pytest.mark.full


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    torch.manual_seed(seed)


def _int(bits: int, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", **more}


_FP8 = {"num_bits": 8, "type": "float"}
COMPRESSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "packed": ("pack-quantized", _int(4, strategy="group", group_size=32), "w4-g32"),
    "packed-asym": (
        "pack-quantized", _int(4, symmetric=False, strategy="group", group_size=64), "w4-g64-asym",
    ),
    "packed-channel": ("pack-quantized", _int(4, strategy="channel"), "w4-channel"),
    "packed-8": ("pack-quantized", _int(8, symmetric=False, strategy="channel"),
                 "int8-channel-asym"),
    "packed-tensor": ("pack-quantized", _int(4, strategy="tensor"), "w4-channel"),
    "int-channel": ("int-quantized", _int(8, strategy="channel"), "int8-channel"),
    "int-asym": ("int-quantized", _int(8, symmetric=False, strategy="channel"),
                 "int8-channel-asym"),
    "int-tensor-asym": ("int-quantized", _int(8, symmetric=False, strategy="tensor"),
                        "int8-channel-asym"),
    "int-group": ("int-quantized", _int(8, strategy="group", group_size=64), "int8-g64"),
    "float-tensor": ("float-quantized", {**_FP8, "strategy": "tensor"}, "fp8-tensor"),
    "float-channel": ("float-quantized", {**_FP8, "strategy": "channel"}, "fp8-row"),
    "float-block": (
        "float-quantized", {**_FP8, "strategy": "block", "block_structure": [128, 128]},
        "fp8-block128x128",
    ),
    "naive-4": ("naive-quantized", _int(4, strategy="group", group_size=32), "w4-g32"),
    "naive-float": ("naive-quantized", {**_FP8, "strategy": "channel"}, "fp8-row"),
}  # fmt: skip


def calibrated(weight: Tensor, args: Any) -> tuple[Tensor, Tensor]:
    """Scales and zeros by compressed-tensors from the range of each of its blocks."""
    from compressed_tensors.quantization.utils import calculate_qparams

    N, K = weight.shape
    rows, columns = {
        "tensor": (N, K), "channel": (1, K), "group": (1, args.group_size),
        "block": tuple(args.block_structure or ()),
    }[args.strategy]  # fmt: skip
    padded = nn.functional.pad(weight, (0, -K % columns, 0, -N % rows))
    blocks = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
    low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    if args.strategy == "tensor":
        low, high = low.reshape(1), high.reshape(1)
    return calculate_qparams(low, high, args)


@pytest.mark.parametrize("case", COMPRESSED)
def test_what_compressed_tensors_writes(case: str, tmp_path: Path) -> None:
    reason = "not run: compressed-tensors is not installed"
    pytest.importorskip("compressed_tensors", reason=reason)
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    form, weights, scheme = COMPRESSED[case]
    N, K = (150, 260) if "block" in case else (20, 128) if "group_size" in weights else (20, 37)
    model = nn.Sequential(nn.Linear(K, N), nn.LayerNorm(N), nn.Linear(N, 4, bias=False)).bfloat16()
    group = {"targets": ["Linear"], "weights": weights, "format": form}
    config = QuantizationConfig(config_groups={"group_0": group}, ignore=["2"])
    apply_quantization_config(model, config)
    linear = model[0]
    scale, zero = calibrated(linear.weight.detach(), linear.quantization_scheme.weights)
    linear.weight_scale.data, linear.weight_zero_point.data = scale, zero
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    compressor.update_config(str(tmp_path))
    compressor.decompress_model(model)

    checkpoint = open_checkpoint(tmp_path)
    assert form in checkpoint.scheme
    layers = {layer.name: layer.weight for layer in checkpoint}
    assert sorted(layers) == ["0", "1", "2"]
    assert layers["0"].scheme == scheme
    assert torch.equal(layers["0"].dequantize(model[0].weight.dtype), model[0].weight)
    assert torch.equal(layers["0"].bias, model[0].bias)
    assert layers["2"].scheme == "plain"
    assert torch.equal(layers["2"].codes, model[2].weight)


@pytest.mark.parametrize("group", [32, -1])
def test_what_compressed_tensors_reads_of_awq(group: int, tmp_path: Path) -> None:
    reason = "not run: compressed-tensors is not installed"
    pytest.importorskip("compressed_tensors", reason=reason)
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.entrypoints.convert.converters import AutoAWQConverter

    written = files.awq(group, N=24, K=96)
    tensors = files.layer(written)
    got = open_checkpoint(files.write(tmp_path, tensors, written.config))[NAME].weight
    size = 96 if group == -1 else group
    converter = AutoAWQConverter.from_autoawq_config({**written.config, "group_size": size})
    state = {k.removeprefix(f"{NAME}."): t for k, t in converter.process(dict(tensors)).items()}
    scheme = converter.update_config(None).config_groups["config_group_0"]
    packed = BaseCompressor.get_value_from_registry("pack-quantized")
    want = packed.decompress(state, scheme)["weight"]
    assert torch.equal(got.dequantize(want.dtype), want)


class _Quantizer:
    """What Transformers' conversions ask of the object that holds the configuration."""

    def __init__(self, config: Any):
        self.quantization_config = config


@pytest.mark.parametrize("block", [(128, 128), None])
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_what_transformers_writes_in_fp8(
    block: tuple[int, int] | None, scale_fmt: str, tmp_path: Path
) -> None:
    reason = "not run: transformers is not installed"
    pytest.importorskip("transformers", reason=reason)
    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

    config = FineGrainedFP8Config(weight_block_size=block, scale_fmt=scale_fmt)
    quantizer = _Quantizer(config)
    weight = torch.randn(256, 384) * torch.rand(256, 1)
    tensors = Fp8Quantize(quantizer).convert({f"{NAME}.weight": weight})
    save_file(tensors, tmp_path / "model.safetensors")
    whole = {"quantization_config": json.loads(config.to_json_string(use_diff=False))}
    (tmp_path / "config.json").write_text(json.dumps(whole, default=str))

    got = open_checkpoint(tmp_path)[NAME].weight
    assert got.scheme == ("fp8-tensor" if block is None else "fp8-block128x128")
    pair = {
        "weight": tensors[f"{NAME}.weight"],
        "weight_scale_inv": tensors[f"{NAME}.weight_scale_inv"],
    }
    want = Fp8Dequantize(quantizer).convert(pair)["weight"]
    assert torch.equal(got.dequantize(want.dtype), want)


def test_what_transformers_dequantises_of_ragged_blocks(tmp_path: Path) -> None:
    """Its writer leaves such weights alone; its backward dequantises them."""
    reason = "not run: transformers is not installed"
    pytest.importorskip("transformers", reason=reason)
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    written = files.fp8(N=200, K=330)
    got = open_checkpoint(files.write(tmp_path, files.layer(written), written.config))[NAME].weight
    tensors = written.tensors
    want = _dequantize_fp8_weight(
        tensors["weight"], tensors["weight_scale_inv"], [128, 128], torch.float32
    )
    assert torch.equal(got.dequantize(), want)
