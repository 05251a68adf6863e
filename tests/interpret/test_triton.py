"""The Triton providers under Triton's interpreter, in a process of their own.

Triton reads TRITON_INTERPRET when it is imported, so `make test` starts pytest on this folder with
the variable set. The interpreter runs a kernel's Python and sees neither races nor out-of-bounds
loads; what the compiler makes is checked in test_aot.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import aimills_kernels as ak
from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate, validate_each
from tests.drawn import INTERPRETED, few, seeds
from tests.interpret import only_in_the_interpreter

pytestmark = only_in_the_interpreter


def grid(ops: tuple[Op, ...] = OPS) -> list[tuple[Op, Case, Provider]]:
    return [
        (op, case, provider)
        for op in ops
        for provider in op.providers
        if provider.interpret
        for case in op.cases
        if "interpret" in case.tags
    ]


def _long(case: Case) -> bool:
    """`make test` interprets what turns every option on, what is empty, and a few small cases; the
    executor has the ragged ones there, compiled. All cases are in `make test-full`."""
    if "full" in case.tags:
        return True
    short = (
        "tiny", "everything", "strided", "no-keys", "nothing", "split", "act-order", "onehot",
        "one-row", "window-tiny",
    )  # fmt: skip
    return not (case.name in short or "empty" in case.name or case.name.startswith("invariant"))


def check(op: Op, case: Case, provider: Provider, seed: int) -> None:
    result = validate(op, case, provider, device="cpu", seed=seed)
    if result.skipped is not None:
        pytest.skip(f"not run: {result.skipped}")
    assert result.ok, str(result)


def test_every_provider_takes_some_case() -> None:
    for op in OPS:
        for provider in (p for p in op.providers if p.interpret):
            cases = [c for o, c, p in grid() if (o, p) == (op, provider)]
            taken = any(_dispatch.why_not(provider, _problem(op, c)) is None for c in cases)
            assert taken, f"{op} {provider} takes none of the cases for the interpreter"


def _problem(op: Op, case: Case) -> Problem:
    return Problem(op, op.make_inputs(case.on("cpu"), "cpu", 0), "cpu", None)


@pytest.mark.parametrize(
    ("op", "case", "provider"),
    [
        pytest.param(
            *row, id="-".join(map(str, row)), marks=pytest.mark.full if _long(row[1]) else ()
        )
        for row in grid()
    ],
)
def test_kernel_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    check(op, case, provider, seed)


def test_a_batch_invariant_call_has_gradients(seed: int) -> None:
    """Of whatever its forward saved: those of the call without."""
    generator = torch.Generator().manual_seed(seed)
    given = [torch.randn(1, 9, h, 16, generator=generator).requires_grad_() for h in (2, 1, 1)]
    want, got = (
        torch.autograd.grad(
            ak.attention(*given, causal=True, batch_invariant=invariant).square().sum(), given
        )
        for invariant in (False, True)
    )
    # The error of a gradient that cancels goes with what is summed.
    largest = max(float(w.abs().max()) for w in want)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * largest)


@pytest.mark.full
@pytest.mark.parametrize("op", [o for o in OPS if any(p.interpret for p in o.providers)], ids=str)
@few(4)
@given(data=st.data(), seed=seeds())
def test_drawn_shapes_and_strides(op: Op, data: st.DataObject, seed: int) -> None:
    case = data.draw(INTERPRETED[op.name])
    triton = [p for p in op.providers if p.interpret]
    for result in validate_each(op, case, triton, device="cpu", seed=seed):
        assert result.ok or result.skipped, f"{case.describe()}: {result}"
