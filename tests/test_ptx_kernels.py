"""Every own GPU kernel, compiled for sm_90a and run on the PTX executor, held against the oracle.

Unlike Triton's interpreter this runs what the compiler made: its bounds, barriers, shared memory
and tensor core instructions. It shows no speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate
from aimills_kernels.kernels.video import op as video
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
# Cases by the start of their names; the others are long, and part of `make test-full`.
_SHORT = (
    "tiny",
    "ragged",
    "decode",
    "onehot",
    "one",
    "k-empty",
    "queries-empty",
    "specials",
    "nan",
)


def on_executor(op: Op, provider: Provider) -> tuple[Op, Provider]:
    """The op with one provider, which takes CPU tensors and runs them here."""
    here = replace(provider, devices=("cpu",))
    if not provider.interpret:  # whatever was built here
        here = replace(here, target="tests.ptx.cuda:video_to_tensor", rejects=video._rejects)
    return replace(op, providers=(here,)), here


def own(op: Op) -> list[Provider]:
    """Our GPU kernels: Triton ones, and CUDA ones once, by whichever way they are compiled."""
    return [p for p in op.providers if p.interpret or p.name == "nvrtc"]


def _is_short(op: Op, case: Case) -> bool:
    if op.name.endswith("_backward"):  # four kernels a case
        return case.name in ("tiny", "tiny-f16", "ragged", "queries-empty")
    return case.name.startswith(_SHORT)


def grid() -> Iterator[Any]:
    for op in OPS:
        for provider in own(op):
            for case in op.cases:
                if case.tags & {"bench", "accept", "aot"} or "sparse" in case.name:
                    continue  # the sparse views span gigabytes, which the executor would copy
                marks = () if _is_short(op, case) else pytest.mark.full
                name = f"{op}-{case}-{provider}"
                yield pytest.param(op, case, provider, id=name, marks=marks)


@pytest.mark.parametrize(("op", "case", "provider"), grid())
def test_compiled_kernel_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    alone, here = on_executor(op, provider)
    with executing(90, seed=seed):
        result = validate(alone, case, here, device="cpu", seed=seed)
    if result.skipped is not None:
        pytest.skip(f"not run: {result.skipped}")
    assert result.ok, str(result)
