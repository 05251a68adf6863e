"""What is wrong with a checkpoint is said in one sentence that names the file and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aimills_kernels.checkpoints import CheckpointError, open_checkpoint
from tests import checkpoint_files as files
from tests.checkpoint_files import NAME, Written

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    torch.manual_seed(seed)


def refused(folder: Path) -> CheckpointError:
    """What opening or reading everything says: one sentence with a file."""
    with pytest.raises(CheckpointError) as caught:
        list(open_checkpoint(folder))
    text = str(caught.value)
    assert text.startswith(f"{caught.value.file}: ")
    assert caught.value.key in text
    assert "\n" not in text
    return caught.value


Change = Callable[[dict[str, Any]], Any]


def put(word: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors: tensors.update({word: change(tensors[word]).contiguous()})


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def changed(t: torch.Tensor) -> torch.Tensor:
        t = t.clone(memory_format=torch.contiguous_format)
        t.view(-1)[0] = value
        return t

    return changed


def drop(word: str) -> Change:
    return lambda tensors: tensors.pop(word)


def cut(t: torch.Tensor) -> torch.Tensor:
    return t[:-1]


BLOCK, ROW = (lambda: files.fp8(N=9, K=10, block=(4, 3))), (lambda: files.fp8("row", N=9, K=10))
# The layout, what is done to its tensors, the last word of the key, and what is said.
TENSORS: dict[str, tuple[Callable[[], Written], Change, str, str]] = {
    "gptq-no-scale": (files.gptq, drop("scales"), "scales", "is missing"),
    "gptq-no-zeros": (files.gptq, drop("qzeros"), "qzeros", "is missing"),
    "gptq-no-codes": (files.gptq, drop("qweight"), "qweight", "is missing"),
    "gptq-no-order": (lambda: files.gptq(act=True), drop("g_idx"), "g_idx", "is missing"),
    "gptq-empty-order": (lambda: files.gptq(act=True), put("g_idx", torch.zeros_like), "g_idx",
                         "is 0 throughout"),
    "gptq-order-unsaid": (files.gptq, put("g_idx", lambda t: t.flip(0)), "g_idx",
                          r"expected runs of 32: desc_act is false"),
    "gptq-order-beyond": (lambda: files.gptq(act=True), put("g_idx", first(2)), "g_idx",
                          "is 0 to 2, expected 0 to 1"),
    "gptq-order-short": (files.gptq, put("g_idx", cut), "g_idx", r"int32\[63\], expected \[64\]"),
    "gptq-scale-shape": (files.gptq, put("scales", lambda t: t.T), "scales",
                         r"float16\[16, 2\], expected \[2, 16\] \(64 inputs in groups of 32"),
    "gptq-zeros-shape": (files.gptq, put("qzeros", cut), "qzeros", r"int32\[1, 2\], expected"),
    "gptq-scale-nan": (files.gptq, put("scales", first(NAN)), "scales", "holds NaN or infinity"),
    "gptq-scale-inf": (files.gptq, put("scales", first(-INF)), "scales", "holds NaN or infinity"),
    "gptq-scale-0": (files.gptq, put("scales", first(0)), "scales", "is 0 in 1 of 32 places"),
    "gptq-dtype": (files.gptq, put("qweight", torch.Tensor.long), "qweight",
                   r"is int64\[8, 16\], expected int32"),
    "gptq-scale-dtype": (files.gptq, put("scales", torch.Tensor.int), "scales",
                         r"is int32\[2, 16\], expected float16 or bfloat16 or float32"),
    "gptq-sym-zero": (files.gptq, put("qzeros", first(0)), "qzeros", "holds zeros of 1 to 8"),
    "gptq-bias": (files.gptq, put("bias", cut), "bias", r"is float16\[15\], expected floats"),
    "gptq-two-weights": (files.gptq, lambda t: t.update(weight=torch.ones(16, 64)), "weight",
                         "is no part of a w4-g32 layer"),
    "gptq-foreign": (files.gptq, lambda t: t.update(weight_scale=torch.ones(16, 1)),
                     "weight_scale", "is no part of a w4-g32 layer"),
    "awq-scale-shape": (files.awq, put("scales", cut), "scales", r"\[1, 16\], expected \[2, 16\]"),
    "awq-scale-0": (files.awq, put("scales", torch.zeros_like), "scales", "is 0 in 32 of 32"),
    "awq-no-zeros": (files.awq, drop("qzeros"), "qzeros", "is missing"),
    "packed-no-scale": (files.packed, drop("weight_scale"), "weight_scale", "is missing"),
    "packed-no-zeros": (files.packed, drop("weight_zero_point"), "weight_zero_point", "is missing"),
    "packed-no-shape": (files.packed, drop("weight_shape"), "weight_shape", "is missing"),
    "packed-no-order": (lambda: files.packed(act=True), drop("weight_g_idx"), "weight_g_idx",
                        "is missing"),
    "packed-shape": (files.packed, put("weight_shape", lambda t: t + 8), "weight_packed",
                     r"is int32\[20, 9\], expected \[28, 10\]: 4 bits and weight_shape \[28, 76\]"),
    "packed-scale-shape": (files.packed, put("weight_scale", lambda t: t[:, :2]), "weight_scale",
                           r"bfloat16\[20, 2\], expected \[20, 3\] \(strategy group 32 of"),
    "packed-scale-nan": (files.packed, put("weight_scale", first(NAN)), "weight_scale", "NaN"),
    "packed-zeros-shape": (files.packed, put("weight_zero_point", cut), "weight_zero_point",
                           r"int32\[2, 3\], expected \[3, 3\] \(8 codes in a word, 20 rows\)"),
    "packed-zeros-unsaid": (lambda: files.packed(sym=True), lambda t: t.update(
        weight_zero_point=torch.zeros(3, 3, dtype=torch.int32)), "weight_zero_point",
        "is no part of a w4-g32 layer"),
    "int-no-scale": (files.integers, drop("weight_scale"), "weight_scale", "is missing"),
    "int-scale-shape": (files.integers, put("weight_scale", cut), "weight_scale",
                        r"float32\[19, 1\], expected \[20, 1\] or \[20\] \(strategy channel"),
    "int-dtype": (files.integers, put("weight", torch.Tensor.float), "weight",
                  r"is float32\[20, 68\], expected int8"),
    "int-zeros-dtype": (lambda: files.integers(sym=False),
                        put("weight_zero_point", torch.Tensor.int), "weight_zero_point",
                        r"is int32\[20, 1\], expected int8"),
    "fp8-no-scale": (ROW, drop("weight_scale"), "weight_scale", "is missing; this layer has"),
    "fp8-block-no-scale": (BLOCK, drop("weight_scale_inv"), "weight_scale_inv", "is missing"),
    "fp8-no-weight": (ROW, drop("weight"), "weight", "is missing"),
    "fp8-scale-shape": (BLOCK, put("weight_scale_inv", lambda t: t.T), "weight_scale_inv",
                        r"float32\[4, 3\], expected \[3, 4\] \(blocks of 4 x 3 of \[9, 10\]\)"),
    "fp8-row-scale-shape": (ROW, put("weight_scale", lambda t: t.T), "weight_scale",
                            r"float32\[1, 9\], expected \[\] or \[1\]"),
    "fp8-scale-0": (BLOCK, put("weight_scale_inv", first(0)), "weight_scale_inv", "is 0 in 1"),
    "fp8-scale-nan": (ROW, put("weight_scale", first(NAN)), "weight_scale", "holds NaN"),
    "fp8-code-nan": (BLOCK, put("weight", first(NAN)), "weight",
                     "holds NaN or infinity in 1 of 90 places, expected none"),
    "fp8-dtype": (ROW, put("weight", lambda t: t.view(torch.int8)), "weight",
                  r"is int8\[9, 10\], expected float8_e4m3fn"),
    "fp8-e5m2": (ROW, put("weight", lambda t: t.view(torch.float8_e5m2)), "weight",
                 r"is float8_e5m2\[9, 10\], expected float8_e4m3fn"),
    "fp8-two-scales": (ROW, lambda t: t.update(weight_scale_inv=torch.ones(9, 1)),
                       "weight_scale_inv", "weight_scale too"),
    "fp8-experts": (ROW, put("weight", lambda t: t[None]), "weight", "expected two dimensions"),
    "fp8-foreign": (ROW, lambda t: (t.clear(), t.update(qweight=torch.ones(2, 2))), "qweight",
                    "is of a quantised layer, expected none in: FP8"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors(case: str, tmp_path: Path) -> None:
    make, change, word, said = TENSORS[case]
    written = make()
    change(written.tensors)
    error = refused(files.write(tmp_path, files.layer(written), written.config))
    assert error.key == f"{NAME}.{word}"
    assert error.file == tmp_path / "model.safetensors"
    assert re.search(said, str(error)), str(error)


@pytest.mark.parametrize("version", [1, 2])
def test_v1_taken_for_v2_is_seen_where_zeros_are_known(version: int, tmp_path: Path) -> None:
    written = files.gptq(version=version)
    written.config["checkpoint_format"] = "gptq_v2" if version == 1 else "gptq"
    error = refused(files.write(tmp_path, files.layer(written), written.config))
    zero = 7 if version == 1 else 9
    assert f"qzeros holds zeros of {zero} to {zero}, expected 8" in str(error)


def group(**weights: Any) -> dict[str, Any]:
    known = {"num_bits": 4, "type": "int", "strategy": "channel"}
    return files.compressed(known | weights, "pack-quantized")


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
# A quantization_config, the key that is wrong in it, and what is said.
CONFIGS: dict[str, tuple[Any, str, str]] = {
    "no-object": ("gptq", "", "is 'gptq', expected a JSON object"),
    "no-method": ({}, ".quant_method", "is None, expected one of 'gptq', 'awq', 'compr"),
    "method": ({"quant_method": "bitsandbytes"}, ".quant_method", "is 'bitsandbytes', expected"),
    "bits": (GPTQ | {"bits": 3}, ".bits", "is 3, expected one of 4, 8"),
    "bits-text": (GPTQ | {"bits": "4"}, ".bits", "is '4', expected one of 4, 8"),
    "no-bits": ({"quant_method": "gptq"}, ".bits", "is None, expected one of 4, 8"),
    "group": (GPTQ | {"group_size": 0}, ".group_size", "is 0, expected a group size"),
    "format": (GPTQ | {"checkpoint_format": "marlin"}, ".checkpoint_format", "is 'marlin', exp"),
    "formats": (GPTQ | {"checkpoint_format": "gptq", "format": "gptq_v2"}, ".format", "gptq_v2"),
    "marlin": (GPTQ | {"is_marlin_format": True}, ".is_marlin_format", "expected GPTQ's own"),
    "sym": (GPTQ | {"sym": 1}, ".sym", "is 1, expected one of True, False"),
    "rule": (GPTQ | {"dynamic": {"+:(": {}}}, ".dynamic.+:(", "is no regular expression"),
    "rule-bits": (GPTQ | {"dynamic": {"a": {"bits": 2}}}, ".dynamic.a.bits", "is 2, expected one"),
    "awq-bits": (AWQ | {"bits": 8}, ".bits", "is 8, expected one of 4"),
    "awq-version": (AWQ | {"version": "gemv"}, ".version", "is 'gemv', expected 'gemm'"),
    "ct-format": (files.compressed({"num_bits": 4, "type": "float"}, "nvfp4-pack-quantized"),
                  ".config_groups.group_0.format", "is 'nvfp4-pack-quantized', expected one of"),
    "ct-float-packed": (group(type="float"), ".config_groups.group_0.format", "pack-quantized"),
    "ct-bits": (group(num_bits=3), ".config_groups.group_0.weights.num_bits", "is 3, expected one"),
    "ct-strategy": (group(strategy="block"), ".config_groups.group_0.weights.strategy", "block"),
    "ct-group": (group(strategy="group"), ".config_groups.group_0.weights.group_size", "is None"),
    "ct-targets": (group() | {"config_groups": {"a": ["Linear"]}}, ".config_groups.a",
                   "expected a JSON object"),
    "ct-status": (group() | {"quantization_status": "calibration"}, ".quantization_status", "cal"),
    "ct-sparse": (group() | {"sparsity_config": {"format": "sparse-24-bitmask"}},
                  ".sparsity_config", "expected dense weights"),
    "ct-transform": (group() | {"transform_config": {"a": 1}}, ".transform_config", "without tr"),
    "fp8-block": ({"quant_method": "fp8", "weight_block_size": [128]}, ".weight_block_size",
                  r"is [128], expected rows and columns"),
    "fp8-fmt": ({"quant_method": "fp8", "fmt": "e3m4"}, ".fmt", "is 'e3m4', expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, tmp_path: Path) -> None:
    config, key, said = CONFIGS[case]
    error = refused(files.write(tmp_path, {"a.weight": torch.ones(2, 2)}, config))
    assert error.file == tmp_path / "config.json"
    assert error.key == f"quantization_config{key}"
    assert said in str(error)


@pytest.mark.parametrize("make", [files.gptq, files.packed, files.integers, BLOCK])
def test_quantised_tensors_without_a_config(make: Callable[[], Written], tmp_path: Path) -> None:
    folder = files.write(tmp_path, files.layer(make()), None)
    assert "is of a quantised layer, expected none in: plain" in str(refused(folder))
    (folder / "config.json").unlink()
    assert "is of a quantised layer, expected none in: plain" in str(refused(folder))


def test_codes_that_are_no_weight(tmp_path: Path) -> None:
    """FP8 that is called otherwise than a weight never passes for a plain tensor."""
    codes = files.fp8("row", N=4, K=4).tensors["weight"]
    error = refused(files.write(tmp_path, {"experts.gate_up_proj": codes}, None))
    assert "experts.gate_up_proj is float8_e4m3fn[4, 4], expected" in str(error)
    error = refused(files.write(tmp_path, {"a.weight": codes.view(torch.int8)}, None))
    assert "a.weight is int8[4, 4] without scales" in str(error)


# ---- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors: dict[str, torch.Tensor] = {}
    for index in range(3):
        tensors |= files.layer(files.gptq(), f"layers.{index}")
    return files.write(tmp_path, tensors, files.gptq().config, 3)


def test_truncated_files(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 20, 4, 0):
        file.write_bytes(whole[:length])
        error = refused(folder)
        assert error.file == file
        assert f"{length} bytes" in str(error)
    file.write_bytes(whole[:-1])
    assert f"truncated: {len(whole) - 1} bytes found, {len(whole)} expected" in str(refused(folder))
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64)
    assert "this is no safetensors file" in str(refused(folder))
    file.write_bytes(whole + b"12345678")
    assert "is damaged" in str(refused(folder))


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_file(index: bool, folder: Path) -> None:
    gone = folder / "model-00002-of-00003.safetensors"
    gone.unlink()
    if not index:
        (folder / "model.safetensors.index.json").unlink()
    error = refused(folder)
    assert error.file == gone
    assert "missing" in str(error)


def test_an_index_at_odds_with_its_files(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    placed = whole["weight_map"]
    first, second, _ = sorted(folder.glob("*.safetensors"))

    def error(changed: Any) -> str:
        index.write_text(json.dumps({"weight_map": changed}))
        return str(refused(folder))

    key = "layers.0.scales"
    assert f"{first}: {key} is here, but" in error({**placed, key: second.name})
    assert "places it nowhere" in error({k: v for k, v in placed.items() if k != key})
    assert f"{first}: layers.9.scales is missing, although" in error(
        {**placed, "layers.9.scales": first.name}
    )
    for elsewhere in ("../other.safetensors", "", ".", "..", None):
        assert "expected a file of this folder" in error({**placed, key: elsewhere})
    (index.parent / "sub").mkdir()
    assert f"{index.parent / 'sub'}: this file can't be read" in error({**placed, "x": "sub"})
    assert "expected a file name for each tensor" in error([])
    index.write_text("{")
    assert f"{index}: this is no JSON" in str(refused(folder))


def test_a_key_in_two_files(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    save_file({"layers.0.scales": torch.ones(2)}, folder / "z.safetensors")
    error = refused(folder)
    assert "layers.0.scales is in model-00001-of-00003.safetensors too" in str(error)
    assert error.file == folder / "z.safetensors"


def test_nothing_to_open(tmp_path: Path) -> None:
    assert "there is no *.safetensors" in str(refused(tmp_path))
    assert "no such file or folder" in str(refused(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("[]")
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "this is list, expected a JSON object" in str(refused(tmp_path))
    with pytest.raises(ValueError, match=r"folder_or_file must be a path, got int"):
        open_checkpoint(3)  # type: ignore[arg-type]
