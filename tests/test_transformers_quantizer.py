"""`quantization_config=AimillsConfig(...)`: what `quantize_` makes, saved and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimills_kernels import AimillsConfig, register_transformers
from aimills_kernels.nn import SCHEMES, QuantLinear, quantize_
from tests import test_nn_model

transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
register_transformers()
BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder in bf16, head of its own."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=136, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        attention_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(BF16).save_pretrained(path)
    return path


def load(path: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options)


def logits(model: Any) -> Tensor:
    tokens = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(tokens).logits


QUICK = ("fp8-row", "w4-g32-asym")
OTHERS = [pytest.param(s, marks=pytest.mark.full) for s in SCHEMES if s not in QUICK]


@pytest.mark.parametrize("scheme", [*QUICK, *OTHERS])
def test_loaded_saved_and_loaded_again(scheme: str, folder: Path, tmp_path: Path) -> None:
    want = load(folder, dtype=BF16)
    quantize_(want, scheme, filter=lambda name, layer: name != "lm_head")
    got = load(folder, dtype=BF16, quantization_config=AimillsConfig(scheme))
    assert torch.equal(logits(got), logits(want))
    got.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved == {
        "quant_method": "aimills", "scheme": scheme, "modules_to_not_convert": ["lm_head"]
    }  # fmt: skip
    again = load(tmp_path)
    assert type(again.lm_head) is nn.Linear
    states = [model.state_dict() for model in (want, got, again)]
    assert [list(state) for state in states[1:]] == [list(states[0])] * 2
    for name, t in states[0].items():
        for other in states[1:]:
            assert other[name].dtype == t.dtype, name
            assert torch.equal(other[name].float(), t.float()), name
    assert torch.equal(logits(again), logits(want))


def test_layers_that_are_left_alone(folder: Path, tmp_path: Path) -> None:
    config = AimillsConfig("int8-weight", modules_to_not_convert=["down_proj", "model.layers.0"])
    model = load(folder, dtype=BF16, quantization_config=config)
    names = {name for name, layer in model.named_modules() if isinstance(layer, QuantLinear)}
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj"]
    assert names == {f"model.layers.1.{part}" for part in parts} | {"lm_head"}
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    again = load(tmp_path)
    assert torch.equal(logits(again), logits(model))
    body = transformers.AutoModel.from_pretrained(tmp_path)  # keys have a prefix that it lacks
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        want = model.model(tokens).last_hidden_state
        assert torch.equal(body(tokens).last_hidden_state, want)


def test_a_folder_of_the_body_alone(folder: Path, tmp_path: Path) -> None:
    config = AimillsConfig("int8", modules_to_not_convert=["layers.0"])
    auto = transformers.AutoModel
    body = auto.from_pretrained(folder, dtype=BF16, quantization_config=config)
    body.save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.quantization_config["modules_to_not_convert"].append("lm_head")
    whole = load(tmp_path, config=config)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        want = body(tokens).last_hidden_state
        assert torch.equal(whole.model(tokens).last_hidden_state, want)
    with pytest.raises(ValueError, match=r"the checkpoint has no lm_head\.weight"):
        load(tmp_path)


def test_a_tied_head_stays(tmp_path: Path, folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).to(BF16).save_pretrained(tmp_path / "plain")
    model = load(tmp_path / "plain", dtype=BF16, quantization_config=AimillsConfig("fp8-block"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "quantised")
    again = load(tmp_path / "quantised")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(logits(again), logits(model))


def test_back_to_plain_layers(folder: Path) -> None:
    model = load(folder, dtype=BF16, quantization_config=AimillsConfig("fp8-row"))
    layer = model.model.layers[0].self_attn.q_proj
    weight, bias = layer.dequantize(BF16), layer.bias
    plain = model.dequantize()
    assert not any(isinstance(module, QuantLinear) for module in plain.modules())
    layer = plain.model.layers[0].self_attn.q_proj
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, bias)
    assert not hasattr(plain.config, "quantization_config")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "fp4"}, "AimillsConfig: scheme must be one of fp8-tensor, .*, got 'fp4'"),
        ({"bits": 4}, "AimillsConfig: unknown argument 'bits'"),
        ({"quant_method": "awq"}, "AimillsConfig: quant_method must be 'aimills', got 'awq'"),
        ({"modules_to_not_convert": "lm_head"}, "must be a list of names, got 'lm_head'"),
    ],
)
def test_a_bad_config_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AimillsConfig(**options)


def test_what_does_not_fit_is_said(folder: Path, tmp_path: Path) -> None:
    config = AimillsConfig("w4-g32")
    with pytest.raises(ValueError, match=r"w4-g32 takes a model of .*dtype=torch.bfloat16"):
        load(folder, dtype=torch.float32, quantization_config=config)
    config = AimillsConfig("int8", modules_to_not_convert=["lm_haed"])
    with pytest.raises(ValueError, match="'lm_haed' names no module of LlamaForCausalLM"):
        load(folder, quantization_config=config)
    config = AimillsConfig("int8", modules_to_not_convert=["model", "lm_head"])
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no nn\.Linear to convert"):
        load(folder, quantization_config=config)


@pytest.mark.parametrize("word", ["weight", "scale"])
def test_a_folder_that_lacks_a_part_is_refused(word: str, folder: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="no safetensors")
    load(folder, quantization_config=AimillsConfig("int8")).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.load_file(file)
    del tensors[f"model.layers.1.mlp.up_proj.{word}"]
    safetensors.save_file(tensors, file, {"format": "pt"})
    says = rf"the checkpoint has no model.layers.1.mlp.up_proj.{word}, .*modules_to_not_convert"
    with pytest.raises(ValueError, match=says):
        load(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "other", "says"),
    [
        ("int8", "fp8-row", "weight must be float8_e4m3fn for fp8-row, got int8"),
        ("fp8-row", "int8", "weight must be int8 for int8, got float8_e4m3fn"),
        ("int8", "int8", "scale must be finite, got NaN"),
    ],
)
def test_no_code_or_scale_of_another_kind_is_taken(
    scheme: str, other: str, says: str, folder: Path, tmp_path: Path
) -> None:
    """Transformers would cast it."""
    model = load(folder, dtype=BF16, quantization_config=AimillsConfig(scheme))
    layer = model.model.layers[0].self_attn.q_proj
    if scheme == other:
        layer.scale[3] = torch.nan
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["scheme"] = other
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"QuantLinear: model\.layers\..*proj\.{says}"):
        load(tmp_path)


def test_scales_keep_their_dtype(folder: Path, tmp_path: Path) -> None:
    """One that float16 does not hold would be rounded to 0."""
    model = load(folder, dtype=BF16, quantization_config=AimillsConfig("w4-g32"))
    layer = model.model.layers[1].mlp.up_proj
    layer.scales[0, 0] = 1e-9
    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype=torch.float16).model.layers[1].mlp.up_proj
    assert again.bias is None
    assert again.scales.dtype == BF16
    assert torch.equal(again.dequantize(), layer.dequantize())


def test_a_weight_that_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="no safetensors")
    tensors = safetensors.load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    safetensors.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no weight of model\.layers\.0\.mlp\.up_proj was found"):
        load(tmp_path, quantization_config=AimillsConfig("fp8-row"))


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["fp8-row", "int8", "w4-g128-asym"])
def test_a_real_model(scheme: str, tmp_path: Path) -> None:
    make, batch = test_nn_model.model_and_texts()
    want = make()
    quantize_(want, scheme)
    path = want.config.name_or_path
    config = AimillsConfig(scheme, modules_to_not_convert=[])
    got = transformers.AutoModel.from_pretrained(path, dtype=BF16, quantization_config=config)
    exact = test_nn_model.embeddings(want, batch)
    assert torch.equal(test_nn_model.embeddings(got.eval(), batch), exact)
    got.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(test_nn_model.embeddings(again, batch), exact)
