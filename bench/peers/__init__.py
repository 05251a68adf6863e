"""What is timed beside our kernels where it is installed: one file a library, listed here.

No file imports its library before a call: what isn't installed gives a row that says so.
"""

from . import (
    bitsandbytes,
    fa3,
    flash_attn,
    flashinfer,
    kornia_rs,
    opencv,
    pillow,
    pyav,
    pytorch,
    torchao,
    torchvision,
    transformers,
    xformers,
)

ADAPTERS = (
    flash_attn.ADAPTER,
    fa3.ADAPTER,
    flashinfer.ADAPTER,
    xformers.ADAPTER,
    pytorch.CUDNN,
    pytorch.SDPA_BACKWARD,
    pytorch.SDPA_WITH_FORWARD,
    pytorch.SCALED_MM,
    pytorch.INT4PACK,
    pytorch.DEQUANTIZED,
    pytorch.SCALED_MM_EACH,
    pytorch.SCALED_GROUPED_MM,
    pytorch.GROUPED_MM,
    torchao.ADAPTER,
    bitsandbytes.ADAPTER,
    opencv.ADAPTER,
    pytorch.FLOAT_VIDEO,
    pillow.ADAPTER,
    pyav.ADAPTER,
    torchvision.ADAPTER,
    transformers.ADAPTER,
    kornia_rs.ADAPTER,
)
