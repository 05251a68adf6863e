"""Everything that follows from the declarations: each op x case x provider this machine can run.

Without a GPU the Triton providers are left out here: tests/interpret runs them.
"""

from __future__ import annotations

import itertools
import operator
from functools import lru_cache, partial
from typing import Any
from unittest import mock

import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Invalid, Op, Problem, Provider, as_tuple, span
from aimills_kernels._registry import OPS, overlaps_itself, torch_op
from aimills_kernels._validate import Validation, validate_each

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WITH_OUT = [op for op in OPS if not op.mutates]
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def _grid() -> list:
    return [
        pytest.param(
            op,
            case,
            provider,
            id=f"{op}-{case}-{provider}",
            marks=pytest.mark.full if _is_long(case) else (),
        )
        for op in OPS
        for case in op.cases
        for provider in op.all_providers
        if DEVICE in provider.devices
    ]


def _is_long(case: Case) -> bool:
    """Whole frames against an oracle in float64: 8 s each."""
    return case.name.startswith("hd-") and DEVICE == "cpu"


def _small(op: Op) -> list[Case]:
    """Cases that are cheap enough for the slow checks, one per dtype and layout."""
    return [c for c in op.cases if not c.tags & {"bench", "accept", "aot"}]


def _taken(op: Op, case: Case, seed: int) -> tuple:
    """The arguments of a case, where some provider takes it here."""
    args = op.make_inputs(case, "cpu", seed)
    if all(choice.reason for choice in _dispatch.choices(op, Problem(op, args, "cpu", None))):
        pytest.skip("no provider takes it on a CPU")
    return args


def _traced() -> list[Any]:
    """Cases for what traces an op, which takes some 0.5 s: by what its schema may trip over. The
    others are part of `make test-full`."""
    quick = ("tiny", "ragged", "strided", "sparse", "everything", "nothing", "nan")
    return [
        pytest.param(
            op,
            case,
            id=f"{op}-{case}",
            marks=() if case.name in quick or "empty" in case.name else pytest.mark.full,
        )
        for op in OPS
        for case in _small(op)
    ]


@lru_cache(maxsize=1)
def _results(op: Op, case: Case, seed: int) -> dict[str, Validation]:
    """By provider: the tests of one case stand next to each other and share an oracle."""
    due = [p for p in op.all_providers if DEVICE in p.devices]
    return {r.provider: r for r in validate_each(op, case, due, device=DEVICE, seed=seed)}


@pytest.mark.parametrize(("op", "case", "provider"), _grid())
def test_provider_is_right(op: Op, case: Case, provider: Provider, seed: int) -> None:
    result = _results(op, case, seed)[provider.name]
    if result.skipped is not None:
        pytest.skip(f"not run: {provider} on {DEVICE}: {result.skipped}")
    assert result.ok, str(result)


@pytest.mark.parametrize(
    ("op", "bad"), [pytest.param(o, b, id=f"{o}-{b}") for o in OPS for b in o.errors]
)
def test_bad_input_names_the_argument(op: Op, bad: Invalid, seed: int) -> None:
    args = op.make_inputs(op.case(bad.base).on("cpu"), "cpu", seed)
    changed = op.flat(bad.change(dict(zip(op.params, args, strict=True))))
    with pytest.raises(ValueError, match=bad.match):
        torch_op(op.name)(*changed)
    if not bad.value:
        with pytest.raises(ValueError, match=bad.match):
            op.fake(*changed)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_tensors_on_two_devices_are_refused(op: Op, seed: int) -> None:
    args = op.make_inputs(op.case("tiny"), "cpu", seed)
    tensors = [t for i in op.tensors for t in (args[i] if isinstance(args[i], list) else [args[i]])]
    if sum(t is not None for t in tensors) < 2:
        pytest.skip("the op has one tensor")
    moved = list(args)
    position = next(i for i in reversed(op.tensors) if args[i] is not None)
    last = moved[position]
    away = [*last[:-1], last[-1].to("meta")] if isinstance(last, list) else last.to("meta")
    moved[position] = away
    with pytest.raises(ValueError, match="all tensors must be on one device"):
        _dispatch.one_device(op, tuple(moved))


def _opcheck(overload: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> None:
    """opcheck, which by itself can't compare fp8 inputs and takes no NaN for equal to another."""
    close, check = torch.allclose, torch.testing.assert_close

    def allclose(a: torch.Tensor, b: torch.Tensor, **options: Any) -> bool:
        return torch.equal(_bits(a), _bits(b)) if a.dtype in FP8 else close(a, b, **options)

    with (
        mock.patch.object(torch, "allclose", allclose),
        mock.patch.object(torch.testing, "assert_close", partial(check, equal_nan=True)),
    ):
        torch.library.opcheck(overload, args, kwargs)


@pytest.mark.parametrize(("op", "case"), _traced())
def test_opcheck(op: Op, case: Case, seed: int) -> None:
    if case.get("layout", "").startswith("sparse"):
        pytest.skip("opcheck clones its inputs to compare them, and this one spans gigabytes")
    _opcheck(torch_op(op.name), _taken(op, case, seed))


def _gradient_grid() -> list:
    """All cases in `make test-full`: tracing a backward with symbolic shapes takes 3 to 15 s."""
    rows = []
    for op in OPS:
        for case in _small(op):
            quick = case.name in ("tiny", "empty", "queries-empty", "tokens-empty", "m-empty")
            rows.append(
                pytest.param(op, case, id=f"{op}-{case}", marks=() if quick else pytest.mark.full)
            )
    return rows


@pytest.mark.parametrize(("op", "case"), _gradient_grid())
def test_opcheck_with_gradients(op: Op, case: Case, seed: int) -> None:
    if case.get("layout", "").startswith("sparse"):
        pytest.skip("opcheck clones its inputs to compare them, and this one spans gigabytes")
    args = tuple(
        a if p in op.mutates else _requiring_grad(a)
        for p, a in zip(op.params, _taken(op, case, seed), strict=True)
    )
    if not any(getattr(a, "requires_grad", False) for a in args):
        pytest.skip("no argument can require a gradient")
    _opcheck(torch_op(op.name), args)


@pytest.mark.parametrize("op", WITH_OUT, ids=str)
def test_opcheck_out_variant(op: Op, seed: int) -> None:
    args = op.make_inputs(op.case("tiny"), "cpu", seed)
    out = torch.empty_like(as_tuple(op.fake(*args))[0])
    _opcheck(torch_op(f"{op.name}_out"), args, {"out": out})


def _requiring_grad(arg: object) -> object:
    wide = (torch.float16, torch.bfloat16, torch.float32)
    if isinstance(arg, torch.Tensor) and arg.dtype in wide:
        return arg.detach().requires_grad_()
    return arg


@pytest.mark.parametrize(("op", "case"), _traced())
def test_compiles_without_a_graph_break(op: Op, case: Case, seed: int) -> None:
    if case.get("layout", "").startswith("sparse"):
        pytest.skip("functionalization would materialise a view of gigabytes")
    args = _taken(op, case, seed)
    torch._dynamo.reset()
    compiled = torch.compile(torch_op(op.name), fullgraph=True, backend="aot_eager", dynamic=False)
    found, wanted = op.with_own(args), op.with_own(args)
    for got, want in zip(
        as_tuple(compiled(*found)) or op.written(found),
        as_tuple(torch_op(op.name)(*wanted)) or op.written(wanted),
        strict=True,
    ):
        assert got.dtype == want.dtype
        assert torch.equal(_bits(got), _bits(want))


def _bits(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("op", WITH_OUT, ids=str)
def test_out_takes_any_layout_and_may_overlap_an_input(op: Op, seed: int) -> None:
    args = op.make_inputs(op.case("tiny"), "cpu", seed)
    want = as_tuple(torch_op(op.name)(*args))[0]
    strided = torch.empty(*want.shape, 2, dtype=want.dtype)[..., 0] if want.dim() else want.clone()
    torch_op(f"{op.name}_out")(*args, out=strided)
    assert torch.equal(_bits(strided), _bits(want))
    for i in op.tensors:
        own = args[i]
        if isinstance(own, torch.Tensor) and own.shape == want.shape and own.dtype == want.dtype:
            torch_op(f"{op.name}_out")(*args, out=own)
            assert torch.equal(_bits(own), _bits(want))
            return


@pytest.mark.parametrize("op", WITH_OUT, ids=str)
def test_out_of_the_wrong_kind_is_refused(op: Op, seed: int) -> None:
    args = op.make_inputs(op.case("tiny"), "cpu", seed)
    want = as_tuple(op.fake(*args))[0]
    for bad in (want.new_empty((*want.shape, 1)), torch.empty_like(want, dtype=torch.int64)):
        with pytest.raises(ValueError, match="out must be"):
            torch_op(f"{op.name}_out")(*args, out=bad)
    for strides in ([0] * want.dim(), [1] * want.dim(), [*want.stride()[:-2], 1, 1]):
        bad = torch.empty(span(want), dtype=want.dtype).as_strided(want.shape, strides)
        with pytest.raises(ValueError, match="out must not overlap itself"):
            torch_op(f"{op.name}_out")(*args, out=bad)


def test_what_overlaps_itself() -> None:
    """No layout that overlaps is taken, and none that torch makes is refused."""
    for shape in itertools.product((0, 1, 2, 3), repeat=3):
        for strides in itertools.product((0, 1, 2, 3, 4, 6, 9), repeat=3):
            t = torch.empty(99).as_strided(shape, strides)
            places = {
                sum(map(operator.mul, at, strides)) for at in itertools.product(*map(range, shape))
            }
            assert len(places) == t.numel() or overlaps_itself(t), (shape, strides)
        base = torch.empty(shape)
        for order in itertools.permutations(range(3)):
            moved = base.permute(order)
            for t in (moved, moved[1:, ..., ::2], moved[..., None], torch.empty_like(moved)):
                assert not overlaps_itself(t)
