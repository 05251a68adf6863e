"""Every provider that runs here, on shapes, strides and options that no case names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimills_kernels._op import Op, as_tuple
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import validate_each
from tests.drawn import CASES, ENOUGH, few, seeds


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


@pytest.mark.parametrize("name", ["attention", "attention_varlen", "attention_paged"])
@few(60)
@given(data=st.data())
def test_no_drawn_attention_has_a_handful_of_results(name: str, data: st.DataObject) -> None:
    """Of which the ratio of two errors says nothing."""
    op = get_op(name)
    case = data.draw(CASES[name])
    out = as_tuple(op.fake(*op.make_inputs(case, "cpu", 0)))[0]
    behind = case.get("tail", 0) * case.dims["H"]  # the last sequence: zeros
    rows = out.numel() // out.shape[-1] - behind
    assert rows == 0 or rows * out.shape[-1] >= ENOUGH, case.describe()
