"""Linear layers with quantised weights, and models converted to them."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from torch import nn

from aimills_kernels.nn import SCHEMES, QuantLinear, explain_layers, quantize_

# Relative error of a layer's output for normal weights and activations: what the formats' own
# rounding makes, measured 0.4 to 0.9 of these.
LOSS = {"fp8": 0.045, "int8": 0.015, "w4-g32": 0.13, "w4": 0.19}


def loss_of(scheme: str) -> float:
    return next(LOSS[name] for name in LOSS if scheme.startswith(name))


def linear(N: int = 70, K: int = 150, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N, dtype=dtype)


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach(), want.detach()
    return float((got.float() - want.float()).norm() / want.float().norm())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_multiplies_by_its_dequantised_weight(scheme: str) -> None:
    plain = linear()
    made = QuantLinear.from_linear(plain, scheme)
    x = torch.randn(2, 9, 150).bfloat16()
    with torch.no_grad():
        got, want = made(x), plain(x)
    assert got.shape == want.shape
    assert got.dtype == torch.bfloat16
    assert 0 < relative(got, want) < loss_of(scheme)
    weight = made.dequantize()
    assert weight.shape == (70, 150)
    assert relative(weight, plain.weight) < loss_of(scheme)
    rounding = 5e-3 if scheme.startswith(("w4", "int8-weight")) else loss_of(scheme)
    assert relative(got, nn.functional.linear(x.float(), weight, plain.bias.float())) < rounding


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_state_goes_from_one_layer_to_another(scheme: str) -> None:
    first = QuantLinear.from_linear(linear(), scheme)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other = linear()
    nn.init.zeros_(other.weight)
    second = QuantLinear.from_linear(other, scheme)
    second.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(3, 150).bfloat16()
    with torch.no_grad():
        assert torch.equal(first(x), second(x))
    assert scheme in repr(first)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 0.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scale_that_is_none_is_not_loaded(scheme: str, wrong: float) -> None:
    """And with it nothing of its layer."""
    model = nn.Sequential(nn.ReLU(), QuantLinear.from_linear(linear(), scheme))
    before = copy.deepcopy(model.state_dict())
    name = "1.scales" if scheme.startswith("w4") else "1.scale"
    state = copy.deepcopy(before)
    state[name].view(-1)[-1] = wrong
    says = f"QuantLinear: {name} must {'be finite' if wrong else 'not be 0'}"
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=says):
            model.load_state_dict(state, assign=assign)
    after = model.state_dict()
    assert all(torch.equal(t.view(-1).view(torch.uint8), after[n].view(-1).view(torch.uint8))
               for n, t in before.items())  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_of_another_size_is_not_loaded(scheme: str) -> None:
    """PyTorch's sentence tells of it, not one on values that don't fit."""
    other = QuantLinear.from_linear(nn.Linear(150, 33, dtype=torch.bfloat16), scheme)
    with pytest.raises(RuntimeError, match="size mismatch for"):
        QuantLinear.from_linear(linear(), scheme).load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("gone", "more", "says"),
    [
        ([], ["perm"], "part.perm is of another weight: this w4-g32-asym layer has none"),
        (["zeros"], [], "part.zeros is missing, and part.codes is there"),
        (["codes"], [], "part.codes is missing, and part.scales is there"),
    ],
)
def test_half_a_layer_is_not_loaded(gone: list[str], more: list[str], says: str) -> None:
    """Not even where the caller lets keys be missing: its codes would get the scales, zeros or
    places of another weight."""
    made = nn.ModuleDict({"part": QuantLinear.from_linear(linear(), "w4-g32-asym")})
    state = {n: t for n, t in made.state_dict().items() if n.rpartition(".")[2] not in gone}
    state |= {f"part.{name}": torch.zeros(3) for name in more}
    with pytest.raises(RuntimeError, match=says):
        made.load_state_dict(state, strict=False)
    made.load_state_dict({"part.bias": torch.ones(70)}, strict=False)


@pytest.mark.parametrize(
    ("scheme", "change", "says"),
    [
        ("fp8-row", dict(weight=torch.ones(70, 150, dtype=torch.int8)),
         "part.weight must be float8_e4m3fn for fp8-row, got int8"),
        ("int8", dict(weight=torch.ones(70, 150).to(torch.float8_e4m3fn)),
         "part.weight must be int8 for int8, got float8"),
        ("w4-g32-asym", dict(zeros=torch.full((5, 70), 17, dtype=torch.uint8)),
         "QuantLinear part: zeros must be 0 to 16, got 17"),
    ],
)  # fmt: skip
def test_codes_of_another_kind_are_not_loaded(scheme: str, change: dict, says: str) -> None:
    made = nn.ModuleDict({"part": QuantLinear.from_linear(linear(), scheme)})
    changed = {f"part.{name}": t for name, t in change.items()}
    with pytest.raises(RuntimeError, match=says):
        made.load_state_dict(made.state_dict() | changed)


@pytest.mark.parametrize(
    ("scheme", "name", "dtype"),
    [("w4-g32", "scales", torch.float16), ("w4-g64-asym", "scales", torch.float32),
     ("fp8-row", "scale", torch.float64), ("int8", "scale", torch.float64)],
)  # fmt: skip
def test_scales_are_not_rounded_as_they_are_loaded(
    scheme: str, name: str, dtype: torch.dtype
) -> None:
    made = nn.ModuleDict({"part": QuantLinear.from_linear(linear(), scheme)})
    before = made.part.dequantize()
    state = made.state_dict()
    state[f"part.{name}"] = (state[f"part.{name}"] * 1.01).to(dtype)
    kind = "bfloat16" if name == "scales" else "float32"
    says = f"part.{name} must be {kind} for {scheme}, got float"
    with pytest.raises(RuntimeError, match=says):
        made.load_state_dict(state)
    assert torch.equal(made.part.dequantize(), before)
    if name == "scale":  # of which the matmul takes float32 alone
        with pytest.raises(RuntimeError, match=says):
            made.load_state_dict(state, assign=True)
    else:
        made.load_state_dict(state, assign=True)
        assert torch.equal(made.part.scales, state["part.scales"])
        assert made.part(torch.randn(3, 150).bfloat16()).isfinite().all()


def test_narrow_scales_are_loaded_into_wide_ones() -> None:
    """Which keeps every number."""
    made = QuantLinear.from_linear(linear(), "fp8-row")
    narrow = made.scale.bfloat16()
    made.load_state_dict(made.state_dict() | {"scale": narrow})
    assert torch.equal(made.scale, narrow.float())


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (torch.tensor([torch.nan]), "scale must be finite"),
        (torch.ones(70), "scale must be one number for fp8-tensor, got float32"),
    ],
)
def test_the_scale_of_a_tensor_is_one_number(scale: torch.Tensor, says: str) -> None:
    """PyTorch takes [1] for []."""
    made = QuantLinear.from_linear(linear(), "fp8-tensor")
    with pytest.raises(RuntimeError, match=says):
        made.load_state_dict(made.state_dict() | {"scale": scale})
    made.load_state_dict(made.state_dict() | {"scale": torch.tensor([0.25])})
    assert float(made.scale) == 0.25


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_and_scales_keep_their_dtypes(scheme: str) -> None:
    """Where the rest of a model is cast."""
    want = QuantLinear.from_linear(linear(), scheme)
    made = nn.Sequential(copy.deepcopy(want)).half()[0]
    assert made.bias is not None
    assert made.bias.dtype == torch.float16
    assert {n: t.dtype for n, t in made.named_buffers()} == {
        n: t.dtype for n, t in want.named_buffers()
    }
    assert torch.equal(made.dequantize(), want.dequantize())
    assert made(torch.randn(3, 150).half()).dtype == torch.float16
    assert all(t.is_meta for t in made.to("meta", torch.bfloat16).buffers())


@pytest.mark.parametrize("scheme", ["w4-g32", "int8-weight"])
def test_gradients_flow_where_activations_stay(scheme: str) -> None:
    made = QuantLinear.from_linear(linear(), scheme)
    x = torch.randn(3, 150).bfloat16().requires_grad_()
    made(x).float().sum().backward()
    assert x.grad is not None
    assert relative(x.grad, made.dequantize().sum(0).expand(3, 150)) < 1e-2
    assert made.bias is not None
    assert torch.equal(made.bias.grad, torch.full_like(made.bias, 3))


@pytest.mark.parametrize("scheme", ["fp8-row", "int8"])
def test_no_gradient_is_lost_in_silence(scheme: str) -> None:
    made = QuantLinear.from_linear(linear(), scheme)
    with pytest.raises(ValueError, match=f"{scheme} rounds x, through which no gradient flows"):
        made(torch.randn(3, 150, requires_grad=True))


def test_a_model_is_converted_in_place() -> None:
    model = nn.Sequential(linear(150, 150), nn.GELU(), nn.Sequential(linear(), nn.ReLU()))
    shared = copy.deepcopy(model)
    shared.append(shared[0])
    made = quantize_(model, "fp8-row", filter=lambda name, layer: layer.out_features == 70)
    assert list(made) == ["2.0"]
    assert model[2][0] is made["2.0"]
    assert type(model[0]) is nn.Linear
    made = quantize_(shared, "int8")
    assert shared[0] is shared[3] is made["0"] is made["3"]
    assert "matmul_int8" in str(made["0"].explain(torch.randn(4, 150).bfloat16()))


def test_a_compiled_layer_is_one_graph() -> None:
    made = QuantLinear.from_linear(linear(), "w4-g64")
    x = torch.randn(3, 150).bfloat16()
    with torch.no_grad():
        compiled = torch.compile(made, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), made(x))


def test_each_layer_says_what_serves() -> None:
    model = nn.Sequential(linear(), linear(70, 70), linear(), linear())
    quantize_(model, "fp8-row", filter=lambda name, layer: name in "02")
    quantize_(model, "w4-g32", filter=lambda name, layer: name == "1")
    found = explain_layers(model, (0, 17))
    assert [(e.names, e.scheme, e.shape) for e in found.layers] == [
        (("0", "2"), "fp8-row", (70, 150)), (("1",), "w4-g32", (70, 70))
    ]  # fmt: skip
    assert found.plain == ("3",)
    x = torch.randn(17, 150).bfloat16()
    assert str(found.layers[0].by_rows[17]) == str(model[0].explain(x))
    assert [line.split() for line in str(found).splitlines()[1:]] == [
        ["2", "as", "0", "fp8-row", "70", "x", "150", "cpu", "reference", "scaled_mm"],
        ["1", "as", "1", "w4-g32", "70", "x", "70", "cpu", "reference", "reference"],
        ["1", "nn.Linear", "as", "3"],
    ]
    elsewhere = explain_layers(model, (17,), sm=90)
    assert {e.device for e in elsewhere.layers} == {"cuda sm_90"}
    assert "no record shows it correct on sm_90" in str(elsewhere.layers[1].by_rows[17])
    refused = explain_layers(model, (17,), dtype=torch.float32)
    assert "x must be bfloat16 or float16" in str(refused.layers[1].by_rows[17])
    assert str(refused).splitlines()[2].split()[-1] == "refused"
    with pytest.raises(ValueError, match="explain_layers: rows must be whole numbers from 0, got"):
        explain_layers(model, (1, -1))
    with pytest.raises(ValueError, match="explain_layers: dtype must be f16, bf16 or f32, got"):
        explain_layers(model, dtype=torch.float64)
    for wrong in (4, (), (True,), "12"):
        with pytest.raises(ValueError, match="explain_layers: rows must be whole numbers from 0"):
            explain_layers(model, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="explain_layers: sm must be as 90 for an H200, got '90'"):
        explain_layers(model, sm="90")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"explain_layers: model must be an nn\.Module, got None"):
        explain_layers(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"QuantLinear: x must be \[\.\.\., 150\], got bfloat16"):
        model[0].explain(torch.zeros(2, 9).bfloat16())
    with pytest.raises(ValueError, match="explain_layers: model has no QuantLinear"):
        explain_layers(linear())


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "fp8-tensor"])
def test_a_batch_invariant_layer_has_the_same_state(scheme: str) -> None:
    """And asks its matmul for it: on a CPU int8 alone promises it."""
    model = nn.Sequential(linear())
    plain = QuantLinear.from_linear(model[0], scheme)
    quantize_(model, scheme, batch_invariant=True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    empty = nn.Sequential(
        QuantLinear.from_linear(linear().to("meta"), scheme, batch_invariant=True)
    )
    empty.load_state_dict(plain.state_dict(prefix="0."), assign=True)
    for made in (model, copy.deepcopy(model), torch.load(file, weights_only=False), empty):
        state = made.state_dict()
        assert state.keys() == {f"0.{name}" for name in plain.state_dict()}
        for name, t in plain.state_dict().items():
            assert torch.equal(state[f"0.{name}"].view(torch.uint8), t.view(torch.uint8))
        assert made[0].batch_invariant
        assert made[0].without_data().batch_invariant
        assert "batch_invariant=True" in repr(made)
        x = torch.randn(3, 150).bfloat16()
        with torch.no_grad():
            if scheme == "int8":
                assert torch.equal(made(x), plain(x))
                assert torch.equal(made(x)[1:2], made(x[1:2]))
                continue
            with pytest.raises(ValueError, match="bits depend on M"):
                made(x)
            made[0].batch_invariant = False
            assert torch.equal(made(x), plain(x))
    assert not plain.batch_invariant
    assert "batch_invariant" not in repr(plain)


def test_a_layer_that_cannot_be_batch_invariant_is_said() -> None:
    says = "batch_invariant must be False for fp8-tensor, whose activations have one scale"
    model = nn.Sequential(linear())
    with pytest.raises(ValueError, match=f"quantize_: {says}"):
        quantize_(model, "fp8-tensor", batch_invariant=True)
    assert type(model[0]) is nn.Linear
    made = QuantLinear.from_linear(model[0], "fp8-tensor")
    with pytest.raises(ValueError, match=f"QuantLinear: {says}"):
        made.batch_invariant = True
    with pytest.raises(ValueError, match="quantize_: batch_invariant must be True or False, got 1"):
        quantize_(model, "int8", batch_invariant=1)  # type: ignore[arg-type]


def test_batch_invariant_layers_are_told_apart() -> None:
    model = nn.Sequential(linear(), linear(), linear())
    quantize_(model, "int8", filter=lambda name, layer: name == "1")
    quantize_(model, "int8", filter=lambda name, layer: name != "1", batch_invariant=True)
    found = explain_layers(model, (17,), sm=90)
    assert [(e.names, e.batch_invariant) for e in found.layers] == [(("0", "2"), True),
                                                                    (("1",), False)]  # fmt: skip
    lines = str(found).splitlines()
    assert "int8, batch-invariant" in lines[1]
    assert "invariant" not in lines[2]
    assert "M decides who rounds" in str(found.layers[0].by_rows[17])
    assert "M decides who rounds" not in str(found.layers[1].by_rows[17])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_of_no_depth_gives_its_bias(scheme: str) -> None:
    plain = linear(5, 1)
    plain.in_features, plain.weight = 0, nn.Parameter(plain.weight.detach()[:, :0])
    made = QuantLinear.from_linear(plain, scheme)
    with torch.no_grad():
        got = made(torch.zeros(2, 3, 0).bfloat16())
    assert torch.equal(got, plain.bias.detach().expand(2, 3, 5))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_without_contents_has_the_shapes_of_one_with(scheme: str) -> None:
    """What a state is loaded into: made of a layer on meta."""
    want = QuantLinear.from_linear(linear(), scheme)
    meta = QuantLinear.from_linear(linear().to("meta"), scheme)
    for made in (meta, want.without_data()):
        state = made.state_dict()
        assert {n: (t.shape, t.dtype, t.stride()) for n, t in state.items()} == {
            n: (t.shape, t.dtype, t.stride()) for n, t in want.state_dict().items()
        }
        assert all(t.is_meta for t in state.values())
    meta.load_state_dict(want.state_dict(), assign=True)
    x = torch.randn(3, 150).bfloat16()
    with torch.no_grad():
        assert torch.equal(meta(x), want(x))
        plain = want.to_linear(torch.bfloat16)
        assert torch.equal(plain.weight, want.dequantize(torch.bfloat16))
        assert torch.equal(plain(x), nn.functional.linear(x, plain.weight, want.bias))


@pytest.mark.parametrize(
    ("scheme", "model", "says"),
    [
        ("w5", nn.Sequential(linear()), "scheme must be one of fp8-tensor, .*, got 'w5'"),
        ("int8", nn.Sequential(nn.ReLU()), "model has no nn.Linear"),
        ("int8", linear(), "QuantLinear.from_linear converts one"),
        ("w4-g32", nn.Sequential(linear(dtype=torch.float32)), "0: .* w4-g32 takes f16 or bf16"),
    ],
)
def test_what_cannot_be_converted_is_said(scheme: str, model: nn.Module, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quantize_(model, scheme)


def test_what_is_no_model_is_said() -> None:
    with pytest.raises(ValueError, match=r"quantize_: model must be an nn\.Module, got int"):
        quantize_(3, "int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantize_: filter must be a function or None, got 3"):
        quantize_(nn.Sequential(linear()), "int8", filter=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"linear must be an nn\.Linear, got int"):
        QuantLinear.from_linear(3, "int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight must be a Quantized of .*, got int"):
        QuantLinear.from_quantized(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="QuantLinear: x must be a tensor, got list"):
        QuantLinear.from_linear(linear(), "int8")([1])


def test_a_bad_layer_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(linear(), linear(70, 70))
    with torch.no_grad():
        model[1].weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"quantize_: 1: .* must be finite"):
        quantize_(model, "fp8-row")
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]
    with pytest.raises(ValueError, match=r"x must be \[..., 150\], got bfloat16\[2, 9\]"):
        QuantLinear.from_linear(linear(), "int8")(torch.zeros(2, 9).bfloat16())


@pytest.mark.parametrize(
    ("scheme", "made_of"),
    [
        ("w4-g32-asym", {"group_size": 32}),
        ("w4-channel", {"group_size": 150}),
        ("int8-weight", {"group_size": 150}),
        ("fp8-tensor", {"block": None}),
        ("fp8-row", {"block": (1, 150)}),
        ("fp8-block", {"block": (128, 128)}),
    ],
)
def test_a_layer_of_a_checkpoint_multiplies_as_it_stands(scheme: str, made_of: dict) -> None:
    checkpoints = pytest.importorskip("aimills_kernels.checkpoints", reason="no safetensors")
    want = QuantLinear.from_linear(linear(), scheme)
    if scheme.startswith("w4"):
        codes, scales, zeros, _ = want.packed.unpack()
        weight = checkpoints.Quantized("w4", codes, scales, zeros, **made_of)
    else:
        scales = want.scale.T if scheme == "int8-weight" else want.scale
        weight = checkpoints.Quantized(scheme[:4].rstrip("-"), want.weight, scales, **made_of)
    got = QuantLinear.from_quantized(dataclasses.replace(weight, bias=want.bias))
    assert got.scheme == scheme
    x = torch.randn(3, 150).bfloat16()
    with torch.no_grad():
        assert torch.equal(got(x), want(x))
    assert torch.equal(got.dequantize(), weight.dequantize())


def test_a_checkpoint_s_scheme_is_kept() -> None:
    checkpoints = pytest.importorskip("aimills_kernels.checkpoints", reason="no safetensors")
    made = QuantLinear.from_linear(linear(), "int8-weight")
    weight = checkpoints.Quantized("int8", made.weight, made.scale.T, group_size=150)
    assert QuantLinear.from_quantized(weight, "int8").scheme == "int8"
    with pytest.raises(ValueError, match="scheme must be int8-weight for weights of int8-channel"):
        QuantLinear.from_quantized(weight, "fp8-row")
    with pytest.raises(ValueError, match=r"QuantLinear: weight\.scales must not be 0"):
        QuantLinear.from_quantized(dataclasses.replace(weight, scales=0 * weight.scales))
    groups = dataclasses.replace(weight, scales=torch.ones(2, 70), group_size=75)
    with pytest.raises(ValueError, match="no layer multiplies by weights of int8-g75 yet"):
        QuantLinear.from_quantized(groups)
