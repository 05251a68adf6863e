"""Every own GPU kernel, compiled for sm_90a and run on the PTX executor, held against the oracle.

Unlike Triton's interpreter this runs what the compiler made: its bounds, barriers, shared memory and
tensor core instructions. It shows no speed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS, get_op
from aimills_kernels._validate import validate
from aimills_kernels.kernels.video import op as video
from tests.ptx import cuda
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
# More than this would take minutes: the long cases are shapes, and no other code.
_MOST = 6_000_000


def on_executor(op: Op, provider: Provider) -> tuple[Op, Provider]:
    """The op with one provider, which takes CPU tensors and runs them here."""
    here = replace(provider, devices=("cpu",))
    if not provider.interpret:  # whatever was built here
        here = replace(here, target="tests.ptx.cuda:video_to_tensor", rejects=video._rejects)
    return replace(op, providers=(here,)), here


def own(op: Op) -> list[Provider]:
    """Our GPU kernels: Triton ones, and CUDA ones once, by whichever way they are compiled."""
    return [p for p in op.providers if p.interpret or p.name == "nvrtc"]


def grid() -> list[tuple[Op, Case, Provider]]:
    return [
        (op, case, provider)
        for op in OPS
        for provider in own(op)
        for case in op.cases
        if not case.tags & {"bench", "accept", "aot"} and "sparse" not in case.name
    ]


@pytest.mark.parametrize(
    ("op", "case", "provider"), [pytest.param(*row, id="-".join(map(str, row))) for row in grid()]
)
def test_compiled_kernel_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    alone, here = on_executor(op, provider)
    with executing(90, seed=seed):
        result = validate(alone, case, here, device="cpu", seed=seed)
    if result.skipped is not None:
        pytest.skip(f"not run: {result.skipped}")
    assert result.ok, str(result)
