"""What a call through a public function costs the host, next to a no-op op of the same schema.

pytest --benchmark bench/test_overhead.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aimills_kernels._op import Op
from aimills_kernels._registry import OPS
from aimills_kernels.harness import overhead

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("which", ["noop", "public"])
@pytest.mark.parametrize("op", OPS, ids=str)
def test_call(op: Op, which: str, benchmark: Any) -> None:
    with overhead._contestants(op, DEVICE) as calls:
        assert calls, "the public function takes other arguments than the schema"
        benchmark.group = f"{op}: a call's cost to the host, {DEVICE}"
        benchmark(calls[which])
