"""Linear layers with quantised weights, for inference, and layers that train in fp8.

quantize_(model, "w4-g128", filter=lambda name, layer: name != "lm_head")
convert_to_fp8_training(model, recipe="blockwise", filter=lambda name, layer: name != "lm_head")
"""

from aimills_kernels.nn._checkpoint import load_checkpoint
from aimills_kernels.nn._explain import LayerExplanation, ModelExplanation, explain_layers
from aimills_kernels.nn._quantized import SCHEMES, QuantLinear, quantize_
from aimills_kernels.nn._training import RECIPES, Fp8Linear, convert_to_fp8_training

__all__ = [
    "RECIPES",
    "SCHEMES",
    "Fp8Linear",
    "LayerExplanation",
    "ModelExplanation",
    "QuantLinear",
    "convert_to_fp8_training",
    "explain_layers",
    "load_checkpoint",
    "quantize_",
]
