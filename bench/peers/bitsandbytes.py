"""bitsandbytes, which multiplies int8 and 4-bit codes."""

from __future__ import annotations

from typing import Any

from aimills_kernels.harness.peers import Adapter


def matmul_fp8(*args: Any) -> Any:
    """Nothing of bitsandbytes."""
    raise NotImplementedError("bitsandbytes multiplies int8 and 4-bit codes, not fp8")


ADAPTER = Adapter(
    "bitsandbytes", {"matmul_fp8": matmul_fp8}, needs={"bitsandbytes": "bitsandbytes"}
)
