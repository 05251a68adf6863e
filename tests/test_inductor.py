"""Each op amid what Inductor fuses. The graph itself is checked in test_ops.py, on every case."""

from __future__ import annotations

import pytest
import torch

from aimills_kernels._op import Op, as_tuple
from aimills_kernels._registry import OPS, torch_op


@pytest.mark.full
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("op", OPS, ids=str)
def test_compiles_with_inductor(op: Op, dynamic: bool, seed: int) -> None:
    overload = torch_op(op.name)

    def call(*args: object) -> list[torch.Tensor]:
        """Twice is exact, so that no order of operations shows."""
        return [2 * out.float() for out in as_tuple(overload(*args))]

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic)
    for case in (c for c in op.cases if c.name.startswith("tiny")):
        args = op.make_inputs(case, "cpu", seed)
        for got, want in zip(compiled(*args), call(*args), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
