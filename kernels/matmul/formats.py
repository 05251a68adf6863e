"""The dtypes of the matmul family, and what their values reach."""

import torch

WIDE = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CODES = {"e4m3": E4M3, "e5m2": E5M2}
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
