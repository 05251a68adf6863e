"""Quantised checkpoints: each layout is read as it was written, streamed, whole or refused.

`checkpoint_files` writes them; `test_checkpoints_peers` reads what other packages write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels import matmul_fp8, quantize_fp8
from aimills_kernels.checkpoints import CheckpointError, Quantized, _files, open_checkpoint
from tests import checkpoint_files as files
from tests.checkpoint_files import NAME, Written

LAYOUTS: dict[str, tuple[Any, str]] = {
    "gptq": (lambda: files.gptq(), "w4-g32"),
    "gptq-v2": (lambda: files.gptq(version=2), "w4-g32"),
    "gptq-asym": (lambda: files.gptq(sym=False), "w4-g32-asym"),
    "gptq-v2-asym": (lambda: files.gptq(sym=False, version=2), "w4-g32-asym"),
    "gptq-act-order": (lambda: files.gptq(act=True, sym=False), "w4-g32-asym"),
    "gptq-channel": (lambda: files.gptq(group=-1), "w4-channel"),
    "gptq-8": (lambda: files.gptq(8, act=True), "int8-g32"),
    "gptq-8-asym": (lambda: files.gptq(8, sym=False), "int8-g32-asym"),
    "awq": (lambda: files.awq(), "w4-g32-asym"),
    "awq-channel": (lambda: files.awq(-1), "w4-channel-asym"),
    "packed": (lambda: files.packed(), "w4-g32-asym"),
    "packed-sym": (lambda: files.packed(sym=True), "w4-g32"),
    "packed-channel": (lambda: files.packed(group=-1), "w4-channel-asym"),
    "packed-act-order": (lambda: files.packed(act=True), "w4-g32-asym"),
    "packed-8": (lambda: files.packed(8), "int8-g32-asym"),
    "int-channel": (lambda: files.integers(), "int8-channel"),
    "int-channel-asym": (lambda: files.integers(sym=False), "int8-channel-asym"),
    "int-tensor-asym": (lambda: files.integers("tensor", sym=False), "int8-channel-asym"),
    "int-group": (lambda: files.integers("group"), "int8-g34"),
    "fp8-block": (lambda: files.fp8(), "fp8-block128x128"),
    "fp8-small-block": (lambda: files.fp8(N=9, K=10, block=(4, 3)), "fp8-block4x3"),
    "fp8-row": (lambda: files.fp8("row", N=9, K=10), "fp8-row"),
    "fp8-tensor": (lambda: files.fp8("tensor", N=9, K=10), "fp8-tensor"),
}


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    torch.manual_seed(seed)


def read(folder: Path, written: Written) -> Quantized:
    return open_checkpoint(files.write(folder, files.layer(written), written.config))[NAME].weight


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_each_layout(layout: str, tmp_path: Path) -> None:
    make, scheme = LAYOUTS[layout]
    written = make()
    got = read(tmp_path, written)
    assert got.scheme == scheme
    assert got.shape == written.want.shape
    assert torch.equal(got.dequantize(torch.float64), written.want)
    assert torch.equal(got.dequantize(), written.want.float())
    if "bias" in written.tensors:
        assert torch.equal(got.bias, written.tensors["bias"])


@pytest.mark.parametrize("layout", ["gptq-act-order", "packed", "awq", "gptq-8-asym"])
def test_parts_have_the_layout_that_is_documented(layout: str, tmp_path: Path) -> None:
    got = read(tmp_path, LAYOUTS[layout][0]())
    N, K = got.shape
    eight = got.format == "int8"
    assert got.codes.dtype == (torch.int8 if eight else torch.uint8)
    assert got.codes.is_contiguous()
    groups = -(-K // got.group_size)
    assert got.scales.shape == got.zeros.shape == (groups, N)
    assert got.scales.dtype in (torch.float16, torch.bfloat16)
    assert got.zeros.dtype == (torch.int16 if eight else torch.uint8)
    assert (got.g_idx is not None) == ("act" in layout)
    if got.g_idx is not None:
        assert got.g_idx.dtype == torch.int32


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_of_0_in_v1_is_whole_only_from_gptqmodel(bits: int, tmp_path: Path) -> None:
    """It takes 1 from each zero by one subtraction from the word, which borrows."""
    written = files.gptq(bits, sym=False, version=2)
    zeros = torch.randint(0, 2**bits, (2, 16))
    zeros[:, ::3] = 0
    p = 32 // bits
    words = files.words(zeros, bits, lambda g, n: (g, n // p, n % p))
    ones = sum(1 << b for b in range(0, 32, bits))
    written.tensors["qzeros"] = (words.long() - ones).to(torch.int32)
    written.config |= {"checkpoint_format": "gptq", "meta": {"quantizer": ["gptqmodel:5.0.0"]}}
    got = read(tmp_path, written).zeros
    assert torch.equal(got.int() + (128 if bits == 8 else 0), zeros.int())
    written.config["meta"] = {"quantizer": "autogptq"}
    with pytest.raises(CheckpointError, match=rf"{NAME}.qzeros holds {2**bits - 1} in"):
        read(tmp_path, written)


def test_gptq_without_order(tmp_path: Path) -> None:
    """No g_idx, or one that the writer left at zero, is none where desc_act is false."""
    written = files.gptq()
    written.tensors["g_idx"].zero_()
    assert read(tmp_path, written).g_idx is None
    del written.tensors["g_idx"]
    assert torch.equal(read(tmp_path, written).dequantize(torch.float64), written.want)


def test_gptq_rules_for_single_layers(tmp_path: Path) -> None:
    one, other = files.gptq(), files.gptq(8, 16)
    rules = {r"-:.*lm_head": {}, r"+:.*down_proj": {"bits": 8, "group_size": 16}}
    tensors = files.layer(one) | files.layer(other, "a.down_proj")
    tensors["lm_head.weight"] = torch.randn(4, 4)
    got = open_checkpoint(files.write(tmp_path, tensors, one.config | {"dynamic": rules}))
    assert [got[name].weight.scheme for name in (NAME, "a.down_proj", "lm_head")] == [
        "w4-g32", "int8-g16", "plain",
    ]  # fmt: skip
    assert torch.equal(got["a.down_proj"].weight.dequantize(torch.float64), other.want)
    rules[rf"-:{NAME}"] = {}
    got = open_checkpoint(files.write(tmp_path, tensors, one.config | {"dynamic": rules}))
    with pytest.raises(CheckpointError, match=r"is there, although dynamic has"):
        got[NAME]


def test_compressed_groups_by_name(tmp_path: Path) -> None:
    four, eight = files.packed(), files.integers()
    config = four.config | {"format": "mixed-precision"}
    groups = config["config_groups"]
    groups["group_1"] = eight.config["config_groups"]["group_0"] | {"targets": ["re:.*down_proj$"]}
    tensors = files.layer(four) | files.layer(eight, "a.down_proj")
    got = open_checkpoint(files.write(tmp_path, tensors, config))
    assert torch.equal(got[NAME].weight.dequantize(torch.float64), four.want)
    assert torch.equal(got["a.down_proj"].weight.dequantize(torch.float64), eight.want)
    groups["group_1"]["targets"] = ["Embedding"]
    got = open_checkpoint(files.write(tmp_path, tensors, config))
    with pytest.raises(CheckpointError, match=r"one group of config_groups.*group_0, group_1"):
        got[NAME]


def test_naive_codes_of_4_bits_and_e8m0_scales(tmp_path: Path) -> None:
    written = files.integers("group")
    four = (written.tensors["weight"] >> 4).contiguous()
    scales = written.tensors["weight_scale"]
    written.tensors["weight"] = four
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 34}
    written.config = files.compressed(weights, "naive-quantized")
    got = read(tmp_path, written)
    assert got.scheme == "w4-g34"
    want = files.weight(four, torch.zeros(2, 20), scales.T, lambda k: k // 34)
    assert torch.equal(got.dequantize(torch.float64), want)

    written = files.fp8(N=9, K=10, block=(4, 3))
    powers = 2.0 ** torch.randint(-9, 9, (3, 4))
    written.tensors["weight_scale_inv"] = powers.to(torch.float8_e8m0fnu)
    got = read(tmp_path, written)
    assert torch.equal(got.scales, powers)


@pytest.mark.parametrize("kind", ["row", "tensor", "block"])
def test_fp8_layers_fit_matmul_fp8(kind: str, tmp_path: Path) -> None:
    written = files.fp8(kind, N=140, K=150)
    name = "weight_scale_inv" if kind == "block" else "weight_scale"
    written.tensors[name] = written.tensors[name].bfloat16()
    weight = read(tmp_path, written)
    a, scale_a = quantize_fp8(torch.randn(3, 150), "1x128" if kind == "block" else "row")
    got = matmul_fp8(a, weight.codes, scale_a, weight.scales, out_dtype=torch.float32)
    spread = scale_a.repeat_interleave(128, 1)[:, :150] if kind == "block" else scale_a
    want = (a.double() * spread) @ weight.dequantize(torch.float64).T
    assert float((got - want).abs().max()) < 1e-5 * float(want.abs().max())


# ---- folders


def model() -> dict[str, torch.Tensor]:
    tensors = {"model.embed.weight": torch.randn(6, 4), "model.rope.inv_freq": torch.randn(4)}
    for index in range(4):
        tensors |= files.layer(files.gptq(), f"model.layers.{index}.up_proj")
    return tensors | {"model.norm.weight": torch.ones(4).bfloat16()}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_in_a_layer_once(shards: int, tmp_path: Path) -> None:
    """Also where a layer lies in two files, and of those that are no weight."""
    tensors = model()
    folder = files.write(tmp_path, tensors, files.gptq().config, shards)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.scheme == "GPTQ v1, 4 bits, groups of 32"
    assert set(checkpoint.names()) == {
        "model.embed", "model.rope.inv_freq", "model.norm",
        *(f"model.layers.{index}.up_proj" for index in range(4)),
    }  # fmt: skip
    layers = {layer.name: layer for layer in checkpoint}
    assert tuple(layers) == checkpoint.names()
    assert len(layers) == len(checkpoint) == 7
    for name in ("model.embed", "model.norm"):
        assert layers[name].weight.format == "plain"
        assert torch.equal(layers[name].weight.codes, tensors[f"{name}.weight"])
    inv_freq = layers["model.rope.inv_freq"].weight.dequantize()
    assert torch.equal(inv_freq, tensors["model.rope.inv_freq"])
    alone = open_checkpoint(next(iter(sorted(folder.glob("*.safetensors")))))
    assert set(alone.names()) <= set(checkpoint.names())


def test_layers_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads no tensor, and a file is opened once for the layers in it."""
    checkpoint = open_checkpoint(files.write(tmp_path, model(), files.gptq().config, 3))
    seen: list[str] = []
    opened: list[Path] = []
    read, handle = _files.Shards.read, _files.Shards._handle

    def watched(self: Any, key: str) -> torch.Tensor:
        seen.append(key)
        return read(self, key)

    def counted(self: Any, file: Path) -> Any:
        if self._open is None or self._open[0] != file:
            opened.append(file)
        return handle(self, file)

    monkeypatch.setattr(_files.Shards, "read", watched)
    monkeypatch.setattr(_files.Shards, "_handle", counted)
    for layer in checkpoint:
        assert seen
        assert all(key.startswith(layer.name) for key in seen)
        seen.clear()
    straddling = 2
    assert len(opened) <= 3 + 2 * straddling


def test_scales_of_activations_are_kept(tmp_path: Path) -> None:
    written = files.fp8("tensor", N=4, K=8)
    written.tensors["input_scale"] = torch.tensor(0.5)
    folder = files.write(tmp_path, files.layer(written), written.config)
    assert open_checkpoint(folder)[NAME].extra == {"input_scale": torch.tensor(0.5)}
    written.tensors["input_scale"] = torch.tensor(float("nan"))
    files.write(tmp_path, files.layer(written), written.config)
    with pytest.raises(CheckpointError, match=r"input_scale holds NaN"):
        open_checkpoint(folder)[NAME]


def test_config_of_a_text_model_inside(tmp_path: Path) -> None:
    written = files.awq()
    folder = files.write(tmp_path, files.layer(written), None)
    inner = {"text_config": {"quantization_config": written.config}}
    (folder / "config.json").write_text(json.dumps(inner))
    got = open_checkpoint(folder)[NAME].weight
    assert torch.equal(got.dequantize(torch.float64), written.want)


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install aimills-kernels\[checkpoints\]"):
        open_checkpoint(tmp_path)


def test_an_unknown_name_is_told_the_near_ones(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(files.write(tmp_path, model(), files.gptq().config))
    with pytest.raises(KeyError, match=r"close to it: model.norm"):
        checkpoint["model.nrm"]
