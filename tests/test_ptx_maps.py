"""Keys and values by tensor maps: the forward's tiles with `tma` as compiled for sm_90a."""

from __future__ import annotations

from typing import Any

import pytest

from aimills_kernels import _configs
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import get_op
from aimills_kernels._validate import validate
from tests.ptx.project import on_executor
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx


def _mapped(op: Op, args: tuple, sm: int = 90) -> list[Provider]:
    problem = Problem(op, args, "cuda", sm)
    return [p for p in _configs.candidates(op.provider("triton"), problem) if p.config.tma]


@pytest.mark.full
@pytest.mark.parametrize(
    ("op", "case"),
    [
        ("attention", "tiny-f16"), ("attention", "used-window"), ("attention", "no-keys"),
        ("attention", "onehot-causal"), ("attention", "dim-256"), ("attention", "softcap"),
        ("attention", "sinks"), ("attention_varlen", "tiny"), ("attention_varlen", "ragged"),
        ("attention_varlen", "tail"), ("attention_varlen", "onehot"),
    ],
)  # fmt: skip
def test_they_bring_the_same_keys(op: str, case: str, seed: int) -> None:
    """NaN behind what is in use, and other sequences, lie within the map."""
    declared = get_op(op)
    (provider,) = _mapped(declared, declared.make_inputs(declared.case(case), "cpu", seed))
    alone, here = on_executor(declared, provider)
    with executing(90, seed=seed) as done:
        result = validate(alone, case, here, device="cpu", seed=seed)
    assert result.ok, str(result)
    for launch in done:
        assert any("cp.async.bulk.tensor" in instr.text for instr in launch.kernel.code)


@pytest.mark.parametrize(
    "changed",
    [{"D": 72}, {"Dv": 40}, {"N": 0}, {"layout": "heads_first"}, {"layout": "packed", "M": 16}],
    ids=str,
)  # fmt: skip
def test_not_where_a_map_can_not_describe_the_keys(changed: dict[str, Any]) -> None:
    op, dims = get_op("attention"), dict(B=1, M=4, N=16, H=2, G=2, D=64)
    whole, other = (
        op.make_inputs(Case("drawn", **{**dims, **more}), "cpu", 0) for more in ({}, changed)
    )
    assert len(_mapped(op, whole)) == 1
    assert not _mapped(op, whole, 80)
    assert not _mapped(op, whole, 100)
    assert not _mapped(op, other)
