"""GPU kernels for AI pods: fused attention, quantized matmul, video preprocessing.

Importing this package imports neither torch, Triton nor the compiled extension: names are resolved
at first use (PEP 562), and the ops are registered then.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aimills_kernels._version import __version__

__all__ = [
    "PackedExperts",
    "PackedWeight",
    "__version__",
    "attention",
    "attention_backward",
    "attention_paged",
    "attention_varlen",
    "attention_varlen_backward",
    "attention_workspace",
    "explain",
    "grouped_matmul_fp8",
    "grouped_matmul_quantize_fp8",
    "grouped_matmul_w4",
    "kv_append",
    "matmul_fp8",
    "matmul_int8",
    "matmul_quantize_fp8",
    "matmul_w4",
    "matmul_w8",
    "merge_attention_states",
    "quantize_fp8",
    "quantize_int8",
    "register_sdpa",
    "register_transformers",
    "rmsnorm_quantize_fp8",
    "swiglu_quantize_fp8",
    "use_provider",
    "validate",
    "video_to_tensor",
    "video_to_tensor_ragged",
]

_HOMES = {
    "attention": "aimills_kernels.ops.attention",
    "attention_backward": "aimills_kernels.ops.attention_backward",
    "attention_paged": "aimills_kernels.ops.paged",
    "attention_varlen": "aimills_kernels.ops.attention",
    "attention_varlen_backward": "aimills_kernels.ops.attention_backward",
    "attention_workspace": "aimills_kernels.ops.paged",
    "kv_append": "aimills_kernels.ops.paged",
    "merge_attention_states": "aimills_kernels.ops.paged",
    "grouped_matmul_fp8": "aimills_kernels.ops.grouped",
    "grouped_matmul_quantize_fp8": "aimills_kernels.ops.grouped",
    "grouped_matmul_w4": "aimills_kernels.ops.grouped",
    "matmul_fp8": "aimills_kernels.ops.matmul",
    "matmul_quantize_fp8": "aimills_kernels.ops.matmul",
    "matmul_int8": "aimills_kernels.ops.matmul_int8",
    "matmul_w8": "aimills_kernels.ops.matmul_int8",
    "matmul_w4": "aimills_kernels.ops.matmul_w4",
    "PackedExperts": "aimills_kernels.packed_experts",
    "PackedWeight": "aimills_kernels.packed",
    "quantize_fp8": "aimills_kernels.ops.matmul",
    "quantize_int8": "aimills_kernels.ops.matmul_int8",
    "rmsnorm_quantize_fp8": "aimills_kernels.ops.fused",
    "swiglu_quantize_fp8": "aimills_kernels.ops.fused",
    "video_to_tensor": "aimills_kernels.ops.video",
    "video_to_tensor_ragged": "aimills_kernels.ops.video_ragged",
    "AimillsConfig": "aimills_kernels.integrations.quantizer",  # not in __all__: needs transformers
    "register_sdpa": "aimills_kernels.integrations.sdpa",
    "register_transformers": "aimills_kernels.integrations.transformers",
    "explain": "aimills_kernels._explain",
    "use_provider": "aimills_kernels._dispatch",
    "validate": "aimills_kernels._validate",
}

if TYPE_CHECKING:
    from aimills_kernels._dispatch import use_provider
    from aimills_kernels._explain import explain
    from aimills_kernels._validate import validate
    from aimills_kernels.integrations.quantizer import AimillsConfig as AimillsConfig
    from aimills_kernels.integrations.sdpa import register_sdpa
    from aimills_kernels.integrations.transformers import register_transformers
    from aimills_kernels.ops.attention import attention, attention_varlen
    from aimills_kernels.ops.attention_backward import (
        attention_backward,
        attention_varlen_backward,
    )
    from aimills_kernels.ops.fused import rmsnorm_quantize_fp8, swiglu_quantize_fp8
    from aimills_kernels.ops.grouped import (
        grouped_matmul_fp8,
        grouped_matmul_quantize_fp8,
        grouped_matmul_w4,
    )
    from aimills_kernels.ops.matmul import matmul_fp8, matmul_quantize_fp8, quantize_fp8
    from aimills_kernels.ops.matmul_int8 import matmul_int8, matmul_w8, quantize_int8
    from aimills_kernels.ops.matmul_w4 import matmul_w4
    from aimills_kernels.ops.paged import (
        attention_paged,
        attention_workspace,
        kv_append,
        merge_attention_states,
    )
    from aimills_kernels.ops.video import video_to_tensor
    from aimills_kernels.ops.video_ragged import video_to_tensor_ragged
    from aimills_kernels.packed import PackedWeight
    from aimills_kernels.packed_experts import PackedExperts


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aimills_kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
