"""Linear layers with quantised weights, and the conversion of a model to them.

| scheme | weights | activations | what multiplies |
|---|---|---|---|
| fp8-tensor, fp8-row | e4m3, a scale for the tensor or each channel | e4m3, likewise for each token | `matmul_fp8` |
| fp8-block | e4m3, a scale for 128x128 | e4m3, a scale for 1x128 | `matmul_fp8` |
| int8 | int8, a scale for each channel | int8, a scale for each token | `matmul_int8` |
| int8-weight | int8, a scale for each channel | f16 or bf16 as they are | `matmul_w8` |
| w4-g32, -g64, -g128, -channel, each also -asym | 4 bits, `PackedWeight` | f16 or bf16 as they are | `matmul_w4` |
"""  # noqa: E501

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aimills_kernels import _explain
from aimills_kernels._op import describe
from aimills_kernels._registry import get_op
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul.checks import check_scale
from aimills_kernels.kernels.matmul.formats import WIDE
from aimills_kernels.kernels.matmul.op_w4 import check_weight_values
from aimills_kernels.nn._layers import linears
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops.matmul import matmul_fp8, quantize_fp8
from aimills_kernels.ops.matmul_int8 import matmul_int8, matmul_w8, quantize_int8
from aimills_kernels.ops.matmul_w4 import matmul_w4
from aimills_kernels.packed import PackedWeight

if TYPE_CHECKING:
    from aimills_kernels.checkpoints import Quantized

_FP8 = {"fp8-tensor": ("tensor",) * 2, "fp8-row": ("row",) * 2, "fp8-block": ("1x128", "128x128")}
_W4 = tuple(
    f"w4-{size}{asym}" for size in ("g32", "g64", "g128", "channel") for asym in ("", "-asym")
)
SCHEMES = (*_FP8, "int8", "int8-weight", *_W4)
_WEIGHT_ONLY = ("int8-weight", *_W4)
_PARTS = tuple(f.name for f in fields(PackedWeight)[:5])


class QuantLinear(nn.Module):
    """y = x W^T + bias with W in few bits: an `nn.Linear` for inference.

    Made by `from_linear`; a `state_dict` holds the codes and scales, as buffers. x is [..., K] in
    f16, bf16 or, where activations are quantised too, f32; y has its dtype.

    Gradients flow to x and bias where activations stay as they are (int8-weight, w4); the other
    schemes refuse an x that requires one, since rounding has none.

    With `batch_invariant`, which may be set later too, the bits of a row of y depend on nothing but
    that row. It is the layer's, as the scheme is, and in no `state_dict`. fp8-tensor has it not:
    its x has one scale for all rows. On a CPU int8 alone promises it.
    """

    def __init__(
        self, in_features: int, out_features: int, scheme: str, *, batch_invariant: bool = False
    ) -> None:
        super().__init__()
        check_scheme("QuantLinear", scheme)
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        self.batch_invariant = batch_invariant
        self.group_size = self.offset = 0
        for name in ("weight", "scale", *_PARTS):
            self.register_buffer(name, None)
        self.bias: nn.Parameter | None
        self.register_parameter("bias", None)

    @property
    def batch_invariant(self) -> bool:
        return self._batch_invariant

    @batch_invariant.setter
    def batch_invariant(self, value: bool) -> None:
        check_invariant("QuantLinear", self.scheme, value)
        self._batch_invariant = value

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, scheme: str, *, batch_invariant: bool = False
    ) -> QuantLinear:
        """The weight of `linear`, quantised; the bias is shared with it. Of one on the meta device:
        a layer without contents, of the shapes that a `state_dict` of the scheme has."""
        if not isinstance(linear, nn.Linear):
            raise ValueError(
                f"QuantLinear: linear must be an nn.Linear, got {type(linear).__name__}"
            )
        sizes = linear.in_features, linear.out_features
        made = cls(*sizes, scheme, batch_invariant=batch_invariant)
        weight = linear.weight.detach()
        if not weight.is_meta and not bool(torch.isfinite(weight).all()):
            raise ValueError(
                "QuantLinear: the weight of linear must be finite, got NaN or infinity"
            )
        if weight.dtype == torch.float32 and not takes_float32(scheme):
            raise ValueError(
                f"QuantLinear: {scheme} takes f16 or bf16 activations, and the weight of linear is "
                f"{describe(weight)}; convert the model first, .bfloat16()"
            )
        if scheme in _FP8:
            made.weight, made.scale = quantize_fp8(weight, _FP8[scheme][1])  # type: ignore[arg-type]
        elif scheme in _W4:
            made._take(PackedWeight.pack(weight, scheme))
        else:
            made.weight, made.scale = quantize_int8(weight, "row")  # type: ignore[misc]
        made.bias = linear.bias
        return made.train(linear.training)

    @classmethod
    def from_quantized(
        cls, weight: Quantized, scheme: str | None = None, *, batch_invariant: bool = False
    ) -> QuantLinear:
        """A layer of a checkpoint (`aimills_kernels.checkpoints`), codes and scales as they are.

        scheme: None for that of the checkpoint, with activations as they are for int8 weights;
        "int8" also takes those, and rounds activations to int8.
        """
        checkpoints = sys.modules.get("aimills_kernels.checkpoints")  # there is none without it
        if checkpoints is None or not isinstance(weight, checkpoints.Quantized):
            raise ValueError(
                "QuantLinear: weight must be a Quantized of aimills_kernels.checkpoints, "
                f"got {type(weight).__name__}"
            )
        scheme = _scheme_of(weight, scheme)
        made = cls(weight.shape[1], weight.shape[0], scheme, batch_invariant=batch_invariant)
        assert weight.scales is not None
        if not weight.scales.is_meta:
            check_scale("QuantLinear", "weight.scales", weight.scales)
        if scheme in _W4:
            made._take(
                PackedWeight.pack(
                    weight.codes, scheme, scales=weight.scales, zeros=weight.zeros,
                    g_idx=weight.g_idx,
                )
            )  # fmt: skip
        else:
            scales = weight.scales.float()
            made.weight, made.scale = weight.codes, scales.T if weight.format == "int8" else scales
        if weight.bias is not None:
            made.bias = nn.Parameter(weight.bias, requires_grad=False)
        return made.eval()

    def _take(self, packed: PackedWeight) -> None:
        for name in _PARTS:
            setattr(self, name, getattr(packed, name))
        self.group_size, self.offset = packed.group_size, packed.offset

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Nothing of a layer is loaded whose scales or codes are none: a copy would cast int8 codes
        to fp8 ones in silence, and a GPU asks no scale whether it is NaN. Nor half a layer."""
        given = {
            name: state_dict.get(prefix + name) for name, own in self._buffers.items()
            if own is not None
        }  # fmt: skip
        try:
            self._check_whole(prefix, [n for n in self._buffers if prefix + n in state_dict])
            tensors = {n: t for n, t in given.items() if isinstance(t, Tensor)}
            self.check_loaded(
                prefix, tensors, local_metadata.get("assign_to_params_buffers", False)
            )
        except ValueError as error:
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _check_whole(self, prefix: str, given: list[str]) -> None:
        for name, own in self._buffers.items():
            if own is None and name in given:
                raise ValueError(
                    f"QuantLinear: {prefix}{name} is of another weight: this {self.scheme} layer "
                    "has none"
                )
            if own is not None and given and name not in given:
                raise ValueError(
                    f"QuantLinear: {prefix}{name} is missing, and {prefix}{given[0]} is there"
                )

    def check_loaded(self, prefix: str, given: dict[str, Tensor], assign: bool) -> None:
        """That these can be the buffers of this name, copied, or assigned as they are."""
        for name, t in given.items():
            own = self._buffers[name]
            assert own is not None
            if t.dtype not in self._loses_nothing(name, own, assign):
                hint = "; with assign=True the layer takes them" if name == "scales" else ""
                raise ValueError(
                    f"QuantLinear: {prefix}{name} must be {describe(own.dtype)} for {self.scheme}, "
                    f"got {describe(t)}{hint}"
                )
            if own.dim() == 0 and t.numel() != 1:
                raise ValueError(
                    f"QuantLinear: {prefix}{name} must be one number for {self.scheme}, "
                    f"got {describe(t)}"
                )
        # PyTorch tells of other shapes, and takes [1] for [].
        shapes = {n: self._buffers[n].shape for n in given}  # type: ignore[union-attr]
        fits = (t.shape in (shapes[n], shapes[n] or (1,)) for n, t in given.items())
        if any(t.is_meta for t in given.values()) or not all(fits):
            return
        for name in ("scale", "scales"):
            if name in given:
                check_scale("QuantLinear", prefix + name, given[name])
        if "scales" in given:
            parts = [given.get(name) for name in ("zeros", "perm", "group_of")]
            check_weight_values(
                f"QuantLinear {prefix.removesuffix('.')}", self.in_features, given["scales"],
                *parts, self.group_size,
            )  # fmt: skip

    def _loses_nothing(self, name: str, own: Tensor, assign: bool) -> tuple[torch.dtype, ...]:
        """What `own` may be loaded from. A copy casts: to float32 it keeps every number. What is
        assigned stays as it is, and `matmul_w4` reads scales of each dtype."""
        widened = name in ("scale", "scales") and own.dtype == torch.float32 and not assign
        return tuple(WIDE.values()) if widened or (name == "scales" and assign) else (own.dtype,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        """To another device as any module; to another dtype, as by `.half()`, with the bias alone:
        codes would be no codes, and scales would be rounded."""
        before = {name: t for name, t in self._buffers.items() if t is not None}
        super()._apply(fn, recurse)
        for name, t in before.items():
            now = self._buffers[name]
            assert now is not None
            if now.dtype != t.dtype:
                self._buffers[name] = t.to(now.device)
        return self

    @property
    def packed(self) -> PackedWeight:
        """The weight of a w4 scheme."""
        if self.scheme not in _W4:
            raise AttributeError(f"a QuantLinear of {self.scheme} has no packed weight")
        parts: dict[str, Any] = {name: getattr(self, name) for name in _PARTS}
        return PackedWeight(
            **parts, group_size=self.group_size, offset=self.offset, in_features=self.in_features
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._call(self._rows(x))().reshape(*x.shape[:-1], self.out_features)

    def _rows(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"QuantLinear: x must be a tensor, got {type(x).__name__}")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"QuantLinear: x must be [..., {self.in_features}], got {describe(x)}")
        return x.reshape(x.shape[:-1].numel(), self.in_features)

    def _call(self, x: Tensor) -> partial[Tensor]:
        """The matmul, bound to its arguments."""
        own: dict[str, Any] = {"bias": self.bias, "batch_invariant": self.batch_invariant}
        if self.scheme in _W4:
            return partial(matmul_w4, x, self.packed, **own)
        if self.scheme == "int8-weight":
            return partial(matmul_w8, x, self.weight, self.scale, **own)
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(
                f"QuantLinear: {self.scheme} rounds x, through which no gradient flows; detach it, "
                "or call under torch.no_grad()"
            )
        a: Tensor
        if self.scheme == "int8":
            a, scale = quantize_int8(x, "row")  # type: ignore[misc]
            function: Callable[..., Tensor] = matmul_int8
        else:
            a, scale = quantize_fp8(x, _FP8[self.scheme][0])  # type: ignore[arg-type]
            function = matmul_fp8
        given = (a, self.weight, scale, self.scale)
        return partial(function, *given, out_dtype=x.dtype, **own)

    def explain(self, x: Tensor, device: torch.device | None = None) -> _explain.Explanation:
        """Which provider multiplies for this x, and why the others don't; `device` is the one that
        meta tensors stand for."""
        with torch.no_grad():
            call = self._call(self._rows(x))
        name = call.func.__name__
        flat = _explain.flat_arguments(name, *call.args, **call.keywords)
        return _explain.explain_flat(get_op(name), flat, device)

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return next(self.buffers()).device

    def layout(self) -> tuple:
        """What a kernel's choice can depend on: shape, dtype, strides and device of each tensor."""
        parts = {**dict(self.named_buffers()), **dict(self.named_parameters())}
        return tuple((n, t.shape, t.dtype, t.stride(), t.device) for n, t in parts.items())

    def without_data(self) -> QuantLinear:
        """The same on the meta device, for `explain`."""
        sizes = self.in_features, self.out_features
        made = QuantLinear(*sizes, self.scheme, batch_invariant=self.batch_invariant)
        made.group_size, made.offset = self.group_size, self.offset
        for name, t in self.named_buffers():
            setattr(made, name, t.to("meta"))
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().to("meta"), requires_grad=False)
        return made

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] that codes and scales stand for."""
        if self.scheme in _W4:
            return self.packed.dequantize(dtype)
        scale = self.scale
        if self.scheme == "fp8-block":
            scale = scale.repeat_interleave(128, 0)[: self.out_features]
            scale = scale.repeat_interleave(128, 1)[:, : self.in_features]
        return (self.weight.float() * scale).to(dtype)

    def to_linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """An `nn.Linear` of the dequantised weight."""
        with torch.device("meta"):
            made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        made.weight = nn.Parameter(self.dequantize(dtype))
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().to(dtype))
        return made.train(self.training)

    def extra_repr(self) -> str:
        has = self.bias is not None
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        more = ", batch_invariant=True" if self.batch_invariant else ""
        return f"{sizes}, bias={has}, scheme={self.scheme!r}{more}"


def quantize_(
    model: nn.Module,
    scheme: str,
    *,
    filter: Callable[[str, nn.Linear], bool] | None = None,
    batch_invariant: bool = False,
) -> dict[str, QuantLinear]:
    """Replace the `nn.Linear` layers of `model`, in place, by `QuantLinear`.

    Args:
        model: changed in place; its other layers stay as they are.
        scheme: of the table at the head of this module.
        filter: called with each layer's name and the layer; those for which it is true are
            replaced. None: all.
        batch_invariant: the bits of a row depend on no other row, and on no number of rows; not for
            fp8-tensor. See `QuantLinear`.

    Returns:
        the new layers by name.

    Raises:
        ValueError: an unknown scheme, one that can't be batch-invariant, a model that is itself an
            `nn.Linear`, no layer to replace, a weight that is not finite or not of a dtype that the
            scheme takes; the message names the layer. Then no layer has been replaced.

    A weight that is tied to another module's stays there as it is.
    """
    check_scheme("quantize_", scheme)
    check_invariant("quantize_", scheme, batch_invariant)
    if isinstance(model, nn.Linear):
        raise ValueError("quantize_: model is an nn.Linear; QuantLinear.from_linear converts one")
    made: dict[str, QuantLinear] = {}
    seen: dict[int, QuantLinear] = {}
    for name, layer in linears("quantize_", model, filter).items():
        try:
            if id(layer) not in seen:
                seen[id(layer)] = QuantLinear.from_linear(
                    layer, scheme, batch_invariant=batch_invariant
                )
        except ValueError as error:
            raise ValueError(f"quantize_: {name}: {error}") from error
        made[name] = seen[id(layer)]
    for name, own in made.items():
        model.set_submodule(name, own)
    return made


def _scheme_of(weight: Quantized, scheme: str | None) -> str:
    """The scheme by which a checkpoint's weight is multiplied."""
    found = "fp8-block" if weight.scheme == "fp8-block128x128" else weight.scheme
    if weight.scheme == "int8-channel" and weight.g_idx is None:
        found = "int8-weight"
    if found not in SCHEMES:
        raise ValueError(f"QuantLinear: no layer multiplies by weights of {weight.scheme} yet")
    if scheme not in (None, found) and (found, scheme) != ("int8-weight", "int8"):
        raise ValueError(
            f"QuantLinear: scheme must be {found} for weights of {weight.scheme}, "
            f"got {shown(scheme)}"
        )
    return found if scheme is None else scheme


def takes_float32(scheme: str) -> bool:
    """Whether a model of float32 can have layers of this scheme."""
    return scheme not in _WEIGHT_ONLY


def check_scheme(what: str, scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"{what}: scheme must be one of {', '.join(SCHEMES)}, got {shown(scheme)}")


def check_invariant(what: str, scheme: str, batch_invariant: bool) -> None:
    check_bools(what, batch_invariant=batch_invariant)
    if batch_invariant and scheme == "fp8-tensor":
        raise ValueError(
            f"{what}: batch_invariant must be False for fp8-tensor, whose activations have one "
            "scale for all rows, got True; fp8-row has one for each"
        )
