"""Every own GPU kernel, compiled for sm_90a and run on the PTX executor, held against the oracle.

Unlike Triton's interpreter this runs what the compiler made: its bounds, barriers, shared memory
and tensor core instructions. It shows no speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate
from tests.ptx.project import on_executor, own, why_not
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
# The others are long, and part of `make test-full`.
_SHORT = ("tiny", "ragged")
_SHORT_OF = {  # of those whose op's first cases go to another kernel
    "triton_block": ("block-tiny", "block-ragged"),
    "triton_invariant": ("invariant", "invariant-ragged"),
    "nvrtc": ("pil13-tiny", "pil13", "many"),  # integers, the picture turned; clips in a table
}


def grid() -> Iterator[Any]:
    for op in OPS:
        for provider in own(op):
            for case in op.cases:
                if case.tags & {"bench", "accept", "aot"} or "sparse" in case.name:
                    continue  # the sparse views span gigabytes, which the executor would copy
                short = (*_SHORT, *_SHORT_OF.get(provider.name, ()))
                marks = () if case.name in short else pytest.mark.full
                name = f"{op}-{case}-{provider}"
                yield pytest.param(op, case, provider, id=name, marks=marks)


def _runs(op: Op, case: Case, provider: Provider) -> bool:
    alone, here = on_executor(op, provider)
    return why_not(alone, here, op.make_inputs(case.on("cpu"), "cpu", 0), 90) is None


def test_every_kernel_runs_small_and_ragged_in_the_short_suite():
    ran = {
        (op.name, provider.name, "ragged" if "ragged" in case.name else "tiny")
        for op, case, provider in (p.values for p in grid() if not p.marks)
        if _runs(op, case, provider)
    }
    wanted = {(op.name, p.name, how) for op in OPS for p in own(op) for how in ("tiny", "ragged")}
    assert wanted == ran


@pytest.mark.parametrize(("op", "case", "provider"), grid())
def test_compiled_kernel_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    alone, here = on_executor(op, provider)
    with executing(90, seed=seed):
        # One round of a larger case: whatever would differ in a second, the tiny cases show.
        quick = "tiny" not in case.name
        result = validate(alone, case, here, device="cpu", seed=seed, quick=quick)
    if result.skipped is not None:
        pytest.skip(f"not run: {result.skipped}")
    assert result.ok, str(result)
