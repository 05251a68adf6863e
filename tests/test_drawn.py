"""Every provider that runs here, on shapes, strides and options that no case names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimills_kernels._op import Op
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate_each
from tests.drawn import CASES, few, seeds


@pytest.mark.parametrize("op", OPS, ids=str)
@few(40)
@given(data=st.data(), seed=seeds())
def test_drawn_shapes_and_strides(op: Op, data: st.DataObject, seed: int) -> None:
    case = data.draw(CASES[op.name])
    results = list(validate_each(op, case, device="cpu", seed=seed))
    for result in results:
        assert result.ok or result.skipped, f"{case.describe()}: {result}"
    # The providers of a batch_invariant problem are GPU kernels, which the interpreter runs.
    assert any(result.ok for result in results) or case.get("invariant", False)
