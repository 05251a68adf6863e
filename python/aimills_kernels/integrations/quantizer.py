"""`quantization_config=AimillsConfig("fp8-row")` in Transformers.

Imports Transformers; `register_transformers` makes it known there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.nn._quantized import QuantLinear, check_scheme, takes_float32

METHOD = "aimills"


class AimillsConfig(QuantizationConfigMixin):
    """The `nn.Linear` layers of a model as `QuantLinear`.

        aimills_kernels.register_transformers()
        config = aimills_kernels.AimillsConfig("fp8-row")
        model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config)
        model.save_pretrained(folder)  # codes and scales; from_pretrained(folder) needs no config

    Args:
        scheme: of `aimills_kernels.nn.quantize_`. w4 and int8-weight take a model of f16 or bf16.
        modules_to_not_convert: names, or ends or regular expressions of names, as in Transformers'
            own configurations. None: the output head and what is tied to another weight.

    Each weight is quantised as it is read, so that one layer at a time is in memory unquantised.
    """

    def __init__(
        self,
        scheme: str = "fp8-row",
        modules_to_not_convert: list[str] | None = None,
        quant_method: str = METHOD,
        **others: Any,
    ) -> None:
        if others:
            raise ValueError(f"AimillsConfig: unknown argument {shown(next(iter(others)))}")
        if quant_method != METHOD:
            raise ValueError(
                f"AimillsConfig: quant_method must be {METHOD!r}, got {shown(quant_method)}"
            )
        check_scheme("AimillsConfig", scheme)
        names = modules_to_not_convert
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(
                "AimillsConfig: modules_to_not_convert must be a list of names, "
                f"got {shown(modules_to_not_convert)}"
            )
        self.quant_method, self.scheme, self.modules_to_not_convert = METHOD, scheme, names


class AimillsQuantizer(HfQuantizer):
    """Makes `QuantLinear` layers of the weights that Transformers reads, or fills such layers from
    a folder that `save_pretrained` wrote."""

    quantization_config: AimillsConfig

    @property
    def quantized_element_size(self) -> float:
        return 0.5 if self.quantization_config.scheme.startswith("w4") else 1

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        scheme = self.quantization_config.scheme
        if dtype == torch.float32 and not takes_float32(scheme):
            raise ValueError(
                f"AimillsConfig: {scheme} takes a model of f16 or bf16, this one is float32; "
                "pass dtype=torch.bfloat16"
            )
        return dtype

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        config = self.quantization_config
        given = config.modules_to_not_convert
        names = [name for name, _ in model.named_modules()]
        for pattern in given or () if not self.pre_quantized else ():
            if all(should_convert_module(name, [pattern]) for name in names):
                raise ValueError(
                    f"AimillsConfig: modules_to_not_convert: {shown(pattern)} names no module of "
                    f"{type(model).__name__}"
                )
        skip = self.get_modules_to_not_convert(model, given, model._keep_in_fp32_modules)
        # In the file too, since what is skipped unasked depends on the class that loads it.
        config.modules_to_not_convert = sorted(skip)
        self.chosen = {
            name
            for name, layer in model.named_modules()
            if type(layer) is nn.Linear
            and all(should_convert_module(known, skip) for known in self._names(model, name))
        }
        if not self.chosen:
            raise ValueError(f"AimillsConfig: {type(model).__name__} has no nn.Linear to convert")
        self.empty: dict[str, QuantLinear] = {}
        if self.pre_quantized:
            for name in self.chosen:
                made = QuantLinear.from_linear(model.get_submodule(name), config.scheme)
                model.set_submodule(name, made)
                self.empty[name] = made.without_data()

    def _names(self, model: Any, name: str) -> set[str]:
        """Of a layer, also in a model that wraps this one or that this one wraps, as a folder may
        come from there."""
        prefix = f"{model.base_model_prefix}."
        more = {prefix + name, name.removeprefix(prefix)} if self.pre_quantized else set()
        return {name, *more}

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        name, _, word = param_name.rpartition(".")
        return not self.pre_quantized and word == "weight" and name in self.chosen

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype) -> torch.dtype | None:
        """Codes and scales stay as they are in the file: none are cast to another kind, or rounded,
        before they can be looked at."""
        name, _, word = converter.target_patterns[0].rpartition(".")
        if word != "bias" and name in self.empty:
            return None
        return super().get_new_dtype(converter, param, dtype)  # type: ignore[no-any-return]

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for name, layer in model.named_modules():
            if name in self.chosen and not isinstance(layer, QuantLinear):
                raise ValueError(f"AimillsConfig: no weight of {name} was found to quantise")
            if isinstance(layer, QuantLinear):
                for word, t in layer.named_buffers():
                    if not getattr(t, "_is_hf_initialized", not self.pre_quantized):
                        raise ValueError(
                            f"AimillsConfig: the checkpoint has no {name}.{word}, {describe(t)}; "
                            "a layer that is not quantised there belongs in modules_to_not_convert"
                        )
            if name in self.empty:
                self.empty[name].check_loaded(f"{name}.", dict(layer.named_buffers()), assign=True)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype) -> Any:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, QuantLinear):
                model.set_submodule(name, layer.to_linear(dtype))
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


class _Quantize(ConversionOps):
    """Puts a `QuantLinear` where the layer was, as its weight comes in."""

    def __init__(self, quantizer: AimillsQuantizer) -> None:
        self.scheme = quantizer.quantization_config.scheme

    def convert(
        self,
        input_dict: dict[str, list[Tensor]],
        full_layer_name: str = "",
        model: Any = None,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        (found,) = input_dict.values()
        name = full_layer_name.rpartition(".")[0]
        layer = model.get_submodule(name)
        value = found[0] if isinstance(found, list) else found
        layer.weight = nn.Parameter(value, requires_grad=False)
        model.set_submodule(name, QuantLinear.from_linear(layer, self.scheme))
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        return {}


def register() -> None:
    """Known to Transformers from then on; again has no effect."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(AimillsConfig)
        register_quantizer(METHOD)(AimillsQuantizer)
