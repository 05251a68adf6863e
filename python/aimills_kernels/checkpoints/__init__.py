"""Quantised checkpoints from safetensors, layer by layer: GPTQ, AWQ, compressed-tensors and FP8.

    for layer in open_checkpoint("Llama-3-8B-GPTQ"):
        print(layer.name, layer.weight.scheme, tuple(layer.weight.shape))

Needs torch and safetensors (`pip install aimills-kernels[checkpoints]`).
"""

from aimills_kernels.checkpoints._errors import CheckpointError
from aimills_kernels.checkpoints._quantized import Quantized
from aimills_kernels.checkpoints._reader import Checkpoint, Layer, open_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Layer", "Quantized", "open_checkpoint"]
