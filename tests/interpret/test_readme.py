"""The Triton kernel of `kernels/README.md` on every case that it takes, and with planted faults."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aimills_kernels import _dispatch
from aimills_kernels._op import Op, Provider
from aimills_kernels._registry import get_op
from aimills_kernels._validate import validate
from tests import new_provider
from tests.interpret import only_in_the_interpreter
from tests.interpret.test_triton import grid

pytestmark = only_in_the_interpreter


def _op_with_the_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str) -> Op:
    """The op after the two steps, the new file lying in a folder of its own."""
    (tmp_path / f"{name}.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = new_provider.PATH.removesuffix(".py").replace("/", ".")
    line = new_provider.LINE.strip().rstrip(",").replace(f"aimills_kernels.{module}", name)
    provider = eval(line, {"Provider": Provider})
    declared = get_op(new_provider.OP)
    return replace(declared, providers=(provider, *declared.providers))


def test_the_page_s_kernel_passes_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    op = _op_with_the_toy(tmp_path, monkeypatch, "toy_right", new_provider.FILE)
    rows = [row for row in grid((op,)) if row[2].name == new_provider.NAME]
    results = [validate(op, case, provider, device="cpu", seed=seed) for _, case, provider in rows]
    ran = [r for r in results if r.skipped is None]
    assert ran, "it takes none of the cases"
    assert all(r.ok for r in ran), ran


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("out + n,", "out + n + 1,"),
        pytest.param("mask=k < K,", "mask=k < K - 1,", marks=pytest.mark.full),
        pytest.param("b + n * K", "b + 0 * K", marks=pytest.mark.full),
        ("tl.load(scale_b + n)", "tl.load(scale_b)"),
    ],
    ids=["off by one", "last code dropped", "one row for all", "one scale for all"],
)
def test_a_wrong_kernel_is_caught(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    assert right in new_provider.FILE
    file = new_provider.FILE.replace(right, wrong)
    op = _op_with_the_toy(tmp_path, monkeypatch, "toy_wrong", file)
    _dispatch.load.cache_clear()
    result = validate(op, "one-row", new_provider.NAME, device="cpu", seed=seed)
    _dispatch.load.cache_clear()
    assert result.failures
