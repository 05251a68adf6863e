"""The Triton providers under Triton's interpreter, in a process of their own.

Triton reads TRITON_INTERPRET when it is imported, so `make test` starts pytest on this folder with
the variable set. The interpreter runs a kernel's Python and sees neither races nor out-of-bounds
loads; what the compiler makes is checked in test_aot.py.
"""

from __future__ import annotations

import pytest

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate

if not _dispatch.interpreting():
    pytest.skip("not run: `make test` runs it with TRITON_INTERPRET=1", allow_module_level=True)


def _grid() -> list:
    return [
        pytest.param(op, case, provider, id=f"{op}-{case}-{provider}")
        for op in OPS
        for provider in op.providers
        if provider.interpret
        for case in op.cases
        if "interpret" in case.tags
    ]


def test_there_is_something_to_run() -> None:
    assert len(_grid()) > 20


@pytest.mark.parametrize(("op", "case", "provider"), _grid())
def test_kernel_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    result = validate(op, case, provider, device="cpu", seed=seed)
    assert result.skipped is None, str(result)
    assert result.ok, str(result)
