"""What a declaration must hold to be the one place where an op is stated."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import torch

import aimills_kernels
from aimills_kernels import _records
from aimills_kernels._op import Op, as_tuple, span, tensors_of
from aimills_kernels._registry import OPS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("op", OPS, ids=str)
def test_flat_schema_has_no_defaults(op: Op) -> None:
    """torch strips trailing defaults before it calls a Python kernel."""
    parameters = inspect.signature(op.reference).parameters.values()
    assert all(p.default is p.empty for p in parameters)
    assert list(inspect.signature(op.fake).parameters) == list(op.params)


@pytest.mark.parametrize("op", OPS, ids=str)
def test_cases_cover_the_awkward(op: Op, seed: int) -> None:
    names = [c.name for c in op.cases]
    assert len(names) == len(set(names))
    assert "tiny" in names
    tags = set().union(*(c.tags for c in op.cases))
    assert {"bench", "accept"} <= tags
    sizes, contiguous, spans = [], [], []
    for case in op.cases:
        args = op.make_inputs(case.on("cpu"), "cpu", seed)
        tensors = list(tensors_of(args))
        sizes += [t.numel() for t in tensors]
        contiguous += [t.is_contiguous() for t in tensors]
        spans += [span(t) for t in tensors]
    assert 0 in sizes, "no case with an empty tensor"
    assert not all(contiguous), "no case with a strided tensor"
    assert max(spans) > 2**31, "no case with offsets over 2^31"


@pytest.mark.parametrize("op", OPS, ids=str)
def test_outputs_tolerances_and_fake_agree(op: Op, seed: int) -> None:
    assert len(op.tolerance) == len(op.outputs)
    args = op.make_inputs(op.case("tiny"), "cpu", seed)
    fake, real = as_tuple(op.fake(*args)) or op.written(args), op.results(args)
    assert [(f.shape, f.dtype) for f in fake] == [(r.shape, r.dtype) for r in real]


@pytest.mark.parametrize("op", OPS, ids=str)
def test_inputs_are_fresh_and_repeatable(op: Op, seed: int) -> None:
    case = op.case("tiny")
    a, b, c = (op.make_inputs(case, "cpu", s) for s in (seed, seed, seed + 1))
    first = next(i for i in op.tensors if a[i] is not None)
    flat = [x[first][0] if isinstance(x[first], list) else x[first] for x in (a, b, c)]
    same, other = (
        torch.equal(flat[0].view(torch.uint8), t.view(torch.uint8)) for t in (flat[1], flat[2])
    )
    assert same
    assert not other


@pytest.mark.parametrize("op", OPS, ids=str)
def test_inputs_are_drawn_where_the_generator_is(op: Op, seed: int) -> None:
    """A tensor that is made without its device would go to the default one, here meta."""
    for case in op.cases:
        with torch.device("meta"):
            args = op.make_inputs(case.on("cpu"), "cpu", seed)
        assert {t.device.type for t in tensors_of(args)} == {"cpu"}, case


@pytest.mark.parametrize("op", OPS, ids=str)
def test_every_provider_exists(op: Op) -> None:
    names = [p.name for p in op.all_providers]
    assert len(names) == len(set(names))
    behind = op.all_providers[names.index("reference") + 1 :]
    assert [p for p in op.providers if p.last] == list(behind)
    for provider in op.providers:
        module, _, function = provider.target.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None
        assert re.search(rf"^def {function}\(", Path(spec.origin).read_text(), re.M), (
            provider.target
        )
        assert _records.source_files(provider)


def test_every_kernel_file_is_a_provider() -> None:
    """A kernel that no provider names would be neither tested nor served."""
    named = {
        p.target.partition(":")[0].rpartition("kernels.")[2] for op in OPS for p in op.providers
    }
    listed = {name for op in OPS for p in op.providers for name in p.sources}
    for path in (ROOT / "kernels").glob("*/triton_*.py"):
        assert f"{path.parent.name}.{path.stem}" in named, f"{path.name} belongs to no provider"
    for path in (ROOT / "csrc").glob("*/*.cu"):
        relative = path.relative_to(ROOT).as_posix()
        assert any(Path(relative).match(pattern) for pattern in listed), f"{relative}: no provider"


@pytest.mark.parametrize("op", OPS, ids=str)
def test_public_function_documents_shapes_errors_and_source(op: Op) -> None:
    text = inspect.getdoc(getattr(aimills_kernels, op.name)) or ""
    for part in ("Shapes and dtypes:", "Args:", "Returns:", "Raises:", "ValueError"):
        assert part in text, f"{op.name}: the docstring lacks {part!r}"
    public = set(inspect.signature(getattr(aimills_kernels, op.name)).parameters)
    for name in public - {"out"}:
        assert re.search(rf"\b{name}\b", text), f"{op.name}: {name} is not documented"
