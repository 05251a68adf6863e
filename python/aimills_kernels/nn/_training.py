"""Linear layers whose three matmuls run in fp8, for training.

| recipe | activations | weights | gradients |
|---|---|---|---|
| tensorwise | e4m3, one scale | e4m3, one scale | e5m2, one scale |
| rowwise | e4m3, a scale for each row of a matmul's operand | likewise | e4m3, likewise |
| blockwise | e4m3, a scale for 1x128 | e4m3, a scale for 128x128 | e4m3, a scale for 1x128 |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aimills_kernels import _dispatch, _explain
from aimills_kernels._op import describe
from aimills_kernels._registry import get_op
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul.formats import E4M3, E5M2, WIDE
from aimills_kernels.nn._layers import linears
from aimills_kernels.ops.matmul import matmul_fp8, quantize_fp8

Granularity: TypeAlias = Literal["tensor", "row", "1x128", "128x128"]
Operand: TypeAlias = tuple[Tensor, Tensor]  # codes and scales


class Recipe(NamedTuple):
    """Scales of what has a row for each token (or, in the weight's gradient, for each channel), and
    of the weight; codes of gradients. Activations and weights are e4m3."""

    rows: Granularity
    weight: Granularity
    gradient: torch.dtype


RECIPES = {
    "tensorwise": Recipe("tensor", "tensor", E5M2),
    "rowwise": Recipe("row", "row", E4M3),
    "blockwise": Recipe("1x128", "128x128", E4M3),
}
_MATMUL = get_op("matmul_fp8")


class Fp8Linear(nn.Linear):
    """y = x W^T + bias with the matmuls of forward and backward in fp8: an `nn.Linear` to train.

    Every operand is quantised at each call, with scales of its own values:

        y = q(x) q(W)^T + bias        dx = q(dy) q(W^T)^T        dW = q(dy^T) q(x^T)^T

    x is [..., K] in f16, bf16 or f32, or what torch.autocast makes of it; y and dx have its dtype.
    The parameters are those of `nn.Linear`, under the same names and in dtypes of their own (f16,
    bf16 or f32, whatever x is): an optimiser, a `state_dict` and a checkpoint see an `nn.Linear`.
    dW is rounded to x's dtype, then takes the weight's; the bias's gradient is summed in float32.
    x and W are kept for the backward as they are. NaN and infinity come out as NaN, as a gradient
    scaler expects. Gradients have no gradients.
    """

    recipe: str

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *,
        recipe: str = "tensorwise", device: Any = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        _check_recipe("Fp8Linear", recipe)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.recipe = recipe

    def forward(self, input: Tensor) -> Tensor:
        x, kind = self._checked(input), input.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        self._check_dtypes(x)
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        out = _Linear.apply(rows, self.weight, self.bias, self.recipe)
        return out.reshape(*x.shape[:-1], self.out_features)

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"Fp8Linear: x must be a tensor, got {type(x).__name__}")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"Fp8Linear: x must be [..., {self.in_features}], got {describe(x)}")
        return x

    def _check_dtypes(self, x: Tensor) -> None:
        for name, t in (("x", x), ("weight", self.weight)):
            if t.dtype not in WIDE.values():
                raise ValueError(f"Fp8Linear: {name} must be f16, bf16 or f32, got {describe(t)}")

    def explain(self, x: Tensor) -> dict[str, _explain.Explanation]:
        """Which provider makes "y", "dx" and "dw" for this x, and why the others don't. Of x only
        shape, dtype and device are read."""
        self._check_dtypes(self._checked(x))
        how, T = RECIPES[self.recipe], math.prod(x.shape[:-1])
        kind = dict(dtype=x.dtype, device="meta")
        rows = torch.empty(T, self.in_features, **kind)  # type: ignore[arg-type]
        grad = torch.empty(T, self.out_features, **kind)  # type: ignore[arg-type]
        weight = self.weight.detach().to("meta")
        bias = None if self.bias is None else self.bias.detach().to("meta")
        products = {
            "y": (_of_y(how, rows, weight), bias),
            "dx": (_of_dx(how, grad, weight), None),
            "dw": (_of_dw(how, grad, rows), None),
        }
        return {
            name: _explain.explain_flat(
                _MATMUL,
                (a[0], b[0], a[1], b[1], added, x.dtype, "promoted", False, None, "none"),
                None if x.is_meta else x.device,
            )
            for name, ((a, b), added) in products.items()
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.recipe!r}"


class _Linear(torch.autograd.Function):
    """x [T, K], weight [N, K], bias [N] -> [T, N]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, recipe: str) -> Tensor:
        how = RECIPES[recipe]
        return _product(*_of_y(how, x, weight), x.dtype, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, bias, ctx.recipe = inputs
        ctx.dtypes = [None if t is None else t.dtype for t in (x, weight, bias)]
        to_x, to_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if to_weight else None, weight if to_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        how = RECIPES[ctx.recipe]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.dtypes
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        dx = dw = db = None
        if to_x:
            dx = _product(*_of_dx(how, grad, weight), of_x)
        if to_weight:
            dw = _product(*_of_dw(how, grad, x), of_x).to(of_weight)
        if to_bias:
            db = grad.sum(0, dtype=torch.float32).to(of_bias)
        return dx, dw, db, None


def _of_y(how: Recipe, x: Tensor, weight: Tensor) -> tuple[Operand, Operand]:
    return _codes(x, how.rows, E4M3), _codes(weight, how.weight, E4M3)


def _of_dx(how: Recipe, grad: Tensor, weight: Tensor) -> tuple[Operand, Operand]:
    return _codes(grad, how.rows, how.gradient), _codes(weight.T, how.weight, E4M3)


def _of_dw(how: Recipe, grad: Tensor, x: Tensor) -> tuple[Operand, Operand]:
    return _codes(grad.T, how.rows, how.gradient), _codes(x.T, how.rows, E4M3)


def _codes(x: Tensor, granularity: Granularity, dtype: torch.dtype) -> Operand:
    codes, scale = quantize_fp8(x, granularity, dtype=dtype)
    if _dispatch.value_check(_MATMUL, x.device) is not None:
        # The check would refuse a scale that is not finite; the codes under it, NaN, carry on.
        scale.nan_to_num_(1.0, 1.0, 1.0)
    return codes, scale


def _product(a: Operand, b: Operand, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    return matmul_fp8(a[0], b[0], a[1], b[1], bias=bias, out_dtype=dtype)


def convert_to_fp8_training(
    model: nn.Module,
    *,
    recipe: str = "tensorwise",
    filter: Callable[[str, nn.Linear], bool] | None = None,
) -> dict[str, Fp8Linear]:
    """Make the `nn.Linear` layers of `model` multiply in fp8, forward and backward, in place.

    Args:
        model: changed in place. Layers, their parameters and their hooks stay the objects that they
            are, so an optimiser made before keeps working; only the class of a layer changes.
        recipe: of the table at the head of this module.
        filter: called with each layer's name and the layer; those for which it is true are
            converted, as `quantize_` does. None: all.

    Returns:
        the converted layers by name.

    Raises:
        ValueError: an unknown recipe, no layer to convert, a weight that is not f16, bf16 or f32;
            the message names the layer. Then no layer has been converted.
    """
    what = "convert_to_fp8_training"
    _check_recipe(what, recipe)
    found: dict[str, Any] = linears(what, model, filter)
    for name, layer in found.items():
        if layer.weight.dtype not in WIDE.values():
            raise ValueError(
                f"{what}: {name}: weight must be f16, bf16 or f32, got {describe(layer.weight)}"
            )
    for layer in found.values():
        layer.__class__, layer.recipe = Fp8Linear, recipe
    return found


def _check_recipe(what: str, recipe: str) -> None:
    if recipe not in RECIPES:
        raise ValueError(f"{what}: recipe must be one of {', '.join(RECIPES)}, got {shown(recipe)}")
