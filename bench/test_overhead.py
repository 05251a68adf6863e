"""What a call through a public function costs the host, next to a no-op op of the same schema.

pytest --benchmark bench/test_overhead.py

It fails where the median over pairs is above the target in each of three tries. Where more programs
want to run than there are cores, it is skipped instead: they slow a call by more than the target.
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
def test_call(op: Op, which: str, benchmark: Any, request: pytest.FixtureRequest) -> None:
    with overhead.contestants(op, DEVICE) as calls:
        assert calls, "the public function takes other arguments than the schema"
        benchmark.group = f"{op}: a call's cost to the host, {DEVICE}"
        benchmark(calls[which])
        if which == "public" and request.config.option.benchmark_only:
            found = overhead.least(calls)
            benchmark.extra_info.update(found)
            said = f"{found['extra_us']:.1f} us, the target is {overhead.TARGET_US}"
            if not found["ok"] and (why := overhead.busy()):
                pytest.skip(f"not judged: {said}, and {why}")
            assert found["ok"], said
