"""Quantised checkpoints loaded into whole models.

The files are written by `checkpoint_files`, and by compressed-tensors, whose dequantised model in
Transformers is what the loaded one is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("safetensors", reason="safetensors is not installed")

from aimills_kernels.checkpoints import CheckpointError, open_checkpoint
from aimills_kernels.nn import load_checkpoint, quantize_
from tests import checkpoint_files as files
from tests.checkpoint_files import Written

BF16 = torch.bfloat16
Make = Callable[[int, int], Written]
# What writes a weight [N, K], and the scheme that it loads as.
LAYOUTS: dict[str, tuple[Make, str]] = {
    "gptq": (lambda N, K: files.gptq(act=True, N=N, K=K), "w4-g32"),
    "awq": (lambda N, K: files.awq(N=N, K=K), "w4-g32-asym"),
    "packed": (lambda N, K: files.packed(N=N, K=K), "w4-g32-asym"),
    "int": (lambda N, K: files.integers(N=N, K=K), "int8-weight"),
    "fp8": (lambda N, K: files.fp8(N=N, K=K), "fp8-block"),
}


class Block(nn.Module):
    """Two linear layers that are quantised, a norm, a head tied to an embedding, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 64)
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64, bias=False)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.zeros(64))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.norm(x + self.down(self.up(x).relu()) + self.shift))


def block(dtype: torch.dtype = BF16, device: str = "cpu") -> Block:
    torch.manual_seed(0)
    made = Block().to(device, dtype)
    made.head.weight = made.embed.weight  # moving to meta unties them
    return made


def written(layout: str, folder: Path, shards: int = 3) -> tuple[Path, Block]:
    """A checkpoint of several files, and the model of its dequantised weights in float32."""
    torch.manual_seed(1)
    make, _ = LAYOUTS[layout]
    plain = block()
    tensors = {
        name: torch.randn(t.shape).to(BF16)
        for name, t in plain.state_dict().items()
        if name.split(".")[0] in ("embed", "norm", "shift")
    }
    up, down = make(96, 64), make(64, 96)
    for name, layer in (("up", up), ("down", down)):
        layer.tensors.pop("bias", None)
        tensors |= files.layer(layer, name)
    tensors["up.bias"] = torch.randn(96).to(BF16)
    files.write(folder, tensors, up.config, shards)
    want = block(torch.float32)
    state = {name: t.float() for name, t in tensors.items() if name in want.state_dict()}
    state |= {"up.weight": up.want.float(), "down.weight": down.want.float()}
    want.load_state_dict(state | {"head.weight": state["embed.weight"]})
    return folder, want


def relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def tokens() -> Tensor:
    return torch.arange(22).reshape(2, 11) % 11


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_of_each_layout(layout: str, device: str, tmp_path: Path) -> None:
    folder, want = written(layout, tmp_path)
    model = block(device=device)
    head = model.head
    made = load_checkpoint(model, folder)
    assert {name: layer.scheme for name, layer in made.items()} == {
        "up": LAYOUTS[layout][1], "down": LAYOUTS[layout][1]
    }  # fmt: skip
    assert model.up is made["up"]
    assert model.head is head
    assert head.weight is model.embed.weight
    for name in ("up", "down"):
        weight = getattr(want, name).weight
        assert torch.equal(getattr(model, name).dequantize(), weight)
    for name in ("embed.weight", "norm.weight", "norm.bias", "up.bias", "shift"):
        got = model.state_dict()[name]
        assert torch.equal(got.float(), want.state_dict()[name]), name
    with torch.no_grad():
        # bf16 activations: 2^-9 of each of a handful of roundings; those of fp8 2^-4 of an element
        room = 0.05 if layout == "fp8" else 0.01
        assert relative(model(tokens()), want(tokens())) < room


def test_nothing_is_left_of_the_files(tmp_path: Path) -> None:
    folder, _ = written("fp8", tmp_path)
    model = block()
    load_checkpoint(model, folder)
    with torch.no_grad():
        want = model(tokens())
        for file in folder.glob("*.safetensors"):
            file.write_bytes(b"\0" * file.stat().st_size)
        assert torch.equal(model(tokens()), want)


def test_options(tmp_path: Path) -> None:
    folder, _ = written("int", tmp_path)
    model = nn.Sequential()
    model.add_module("body", block())
    bias = model.body.up.bias
    made = load_checkpoint(
        model, folder, int8="int8", rename=lambda name: f"body.{name}",
        ignore=[r"up\.bias", r"body\.up\.bias", "norm.*", r"body\.norm.*"], batch_invariant=True,
    )  # fmt: skip
    assert all(layer.batch_invariant for layer in made.values())
    assert {name: layer.scheme for name, layer in made.items()} == {
        "body.up": "int8", "body.down": "int8"
    }  # fmt: skip
    assert made["body.up"].bias is bias
    assert torch.equal(model.body.norm.weight, torch.ones(64, dtype=BF16))


def changed(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """The checkpoint in one file, and that changed."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    change(tensors)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("norm.bias"), "norm.bias is missing here, the model has it"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("down")],
         "down.weight is missing here"),
        (lambda t: [t.pop(k) for k in list(t) if k[0] in "nes"],
         "shift, embed.weight, norm.weight, norm.bias, head.weight are missing here"),
        (lambda t: t.update({"down.bias": torch.zeros(64)}),
         "down.bias of model.safetensors is unknown to the model"),
        (lambda t: t.update({"more.qweight": t["up.qweight"].clone()}),
         "more.qweight of model.safetensors is unknown to the model"),
        (lambda t: t.update({"inv_freq": torch.zeros(3)}),
         "inv_freq of model.safetensors is unknown to the model"),
    ],
)  # fmt: skip
def test_keys_that_differ_change_nothing(change: Any, says: str, tmp_path: Path) -> None:
    folder = changed(written("gptq", tmp_path)[0], change)
    model = block()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(model, folder)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert type(model.up) is nn.Linear


def narrow(model: Block) -> None:
    model.up = nn.Linear(32, 96, dtype=BF16)


def other(model: Block) -> None:
    model.up = nn.Bilinear(4, 4, 4)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (narrow, r"up\.\w+ is of a weight \[96, 64\], the model's up has \[96, 32\]"),
        (other, r"up\.\w+ is quantised, the model's up is no nn.Linear but Bilinear"),
        (lambda model: setattr(model, "norm", nn.LayerNorm(32)),
         r"norm.\w+ is bfloat16\[64\], the model's is float32\[32\]"),
        (lambda model: model.float(), r"w4-g32, which takes f16 or bf16 .*, the model's up is"),
    ],
)  # fmt: skip
def test_a_layer_that_does_not_fit_is_said(spoil: Any, says: str, tmp_path: Path) -> None:
    folder, _ = written("gptq", tmp_path)
    model = block()
    spoil(model)
    with pytest.raises(CheckpointError, match=rf"safetensors: .*{says}"):
        load_checkpoint(model, folder)


def test_what_is_shared_is_filled_everywhere(tmp_path: Path) -> None:
    folder, _ = written("fp8", tmp_path)
    model = block()
    model.again = model.up
    made = load_checkpoint(model, folder)
    assert model.again is model.up is made["up"]


def test_a_tied_weight_is_not_filled_by_codes(tmp_path: Path) -> None:
    """A quantised head has no weight that an embedding could share."""
    folder, _ = written("packed", tmp_path)
    model = block()
    model.other = nn.Embedding(96, 64, dtype=BF16)
    model.other.weight = model.up.weight
    with pytest.raises(CheckpointError, match=r"other\.weight is missing here"):
        load_checkpoint(model, folder)


@pytest.mark.parametrize("kind", ["gptq", "fp8"])
def test_a_model_that_is_quantised_already_is_told(kind: str, tmp_path: Path) -> None:
    """Its scales would be said to be missing."""
    folder, _ = written(kind, tmp_path)
    for convert in (lambda m: load_checkpoint(m, folder), lambda m: quantize_(m, "fp8-row")):
        model = block()
        convert(model)
        before = {name: t.clone() for name, t in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"goes to \w+, which is quantised already \("):
            load_checkpoint(model, folder)
        now = model.state_dict()
        assert all(torch.equal(now[name], t) for name, t in before.items())


def test_part_of_a_checkpoint(tmp_path: Path) -> None:
    folder, want = written("gptq", tmp_path)
    model = block()
    before = model.up.weight.clone()
    made = load_checkpoint(model, folder, ignore=[r"up\.qzeros", r"up\.weight"])
    assert list(made) == ["down"]
    assert torch.equal(model.up.weight, before)
    assert torch.equal(model.up.bias.float(), want.up.bias)
    with pytest.raises(CheckpointError, match=r"down\.\w+ goes to up\.weight as up\.\w+ does"):
        load_checkpoint(block(), folder, rename=lambda name: "up" if name == "down" else name)


def test_what_has_no_layer_yet_is_said(tmp_path: Path) -> None:
    torch.manual_seed(1)
    layer = files.integers("group", N=96, K=68)
    files.write(tmp_path, files.layer(layer, "0"), layer.config)
    model = nn.Sequential(nn.Linear(68, 96, bias=False, dtype=BF16))
    with pytest.raises(CheckpointError, match=r"0\.weight does not fit: .*int8-g34 yet"):
        load_checkpoint(model, tmp_path)
    with pytest.raises(ValueError, match="int8 must be 'int8-weight' or 'int8', got 'w8a8'"):
        load_checkpoint(model, tmp_path, int8="w8a8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(ignore="up.*"), "ignore must be a list of regular expressions, got 'up"),
        (dict(ignore=["norm", "("]), r"ignore has '\(', no regular expression: missing \)"),
        (dict(rename=lambda name: None), "rename must give a name for 'embed', got None"),
        (dict(model=None), "model must be an nn.Module, got NoneType"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder, _ = written("gptq", tmp_path)
    model = block()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"load_checkpoint: {says}"):
        load_checkpoint(**{"model": model, "folder_or_file": folder, **given})
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_buffer_without_contents_is_said(tmp_path: Path) -> None:
    folder, _ = written("awq", tmp_path)
    model = block(device="meta")
    model.register_buffer("angles", torch.zeros(3, device="meta"), persistent=False)
    with pytest.raises(ValueError, match="angles is in the model on 'meta', and no checkpoint"):
        load_checkpoint(model, folder)


def test_file_by_file_and_each_tensor_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aimills_kernels.checkpoints import _files

    folder, _ = written("gptq", tmp_path)
    layers = open_checkpoint(folder)
    keys: list[str] = []
    read = _files.Shards.read

    def seen(self: Any, key: str) -> Tensor:
        keys.append(key)
        return read(self, key)

    monkeypatch.setattr(_files.Shards, "read", seen)
    load_checkpoint(block(), folder)
    assert [name for name in layers.names() for key in layers.files(name) if key in keys] == [
        name for key in keys for name in layers.names() if key in layers.files(name)
    ]
    assert len(keys) == len(set(keys)) == 13
    first = [next(iter(layers.files(name).values())) for name in layers.names()]
    assert first == sorted(first)


@pytest.mark.full
@pytest.mark.parametrize("form", ["packed-asym", "int-channel", "float-channel", "float-block"])
def test_a_decoder_that_compressed_tensors_wrote(form: str, tmp_path: Path) -> None:
    """The logits of the model that Transformers dequantises from the same folder."""
    reason = "not run: compressed-tensors is not installed"
    pytest.importorskip("compressed_tensors", reason=reason)
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    from tests.test_checkpoints_peers import COMPRESSED, calibrated

    name, weights, scheme = COMPRESSED[form]
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(BF16)
    group = {"targets": ["Linear"], "weights": weights, "format": name}
    settings = QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"])
    apply_quantization_config(model, settings)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and hasattr(layer, "quantization_scheme"):
            scale, zero = calibrated(layer.weight.detach(), layer.quantization_scheme.weights)
            layer.weight_scale.data, layer.weight_zero_point.data = scale, zero
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    compressor.update_config(str(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) > 2

    auto = transformers.AutoModelForCausalLM
    dequantise = transformers.CompressedTensorsConfig(run_compressed=False)
    want = auto.from_pretrained(tmp_path, dtype=BF16, quantization_config=dequantise)
    assert type(want.model.layers[0].mlp.up_proj.weight) is nn.Parameter
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    del read.quantization_config
    got = auto.from_config(read, dtype=BF16).eval()
    made = load_checkpoint(got, tmp_path)
    assert len(made) == 14
    known = {"int8-channel": "int8-weight", "fp8-block128x128": "fp8-block"}
    assert {layer.scheme for layer in made.values()} == {known.get(scheme, scheme)}
    inputs = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        found, expected = got(inputs).logits, want.float()(inputs).logits
    # Fourteen layers that round to bf16; fp8 rounds each activation to 2^-4 too.
    assert relative(found, expected) < (0.06 if scheme.startswith("fp8") else 0.015)
