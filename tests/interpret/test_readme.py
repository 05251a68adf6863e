"""Adding a Triton provider as `kernels/README.md` shows it: one file and one line."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import get_op
from aimills_kernels._validate import validate
from tests.interpret import only_in_the_interpreter
from tests.interpret.test_triton import check, grid

pytestmark = only_in_the_interpreter

README = Path(__file__).parents[2] / "kernels" / "README.md"
CASE = Case("one-head", B=1, M=7, N=21, H=1, G=1, D=16, dtype="f32", lse=False)


def _blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


def _op_with_the_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str) -> Op:
    """The op after the two steps, the new file lying in a folder of its own."""
    (tmp_path / f"{name}.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    line = _blocks()[1].strip().rstrip(",")
    assert "\n" not in line
    line = line.replace("aimills_kernels.kernels.attention.triton_rows", name)
    provider = eval(line, {"Provider": Provider})
    declared = get_op("attention")
    return replace(declared, providers=(provider, *declared.providers))


def test_the_page_s_kernel_passes_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    op = _op_with_the_toy(tmp_path, monkeypatch, "toy_rows", _blocks()[0])
    assert validate(op, CASE, "rows", device="cpu", seed=seed).ok
    for _, case, provider in (row for row in grid((op,)) if row[2].name == "rows"):
        with contextlib.suppress(pytest.skip.Exception):
            check(op, case, provider, seed)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("out + i * D + d,", "out + (i + 1) * D + d,"),
        ("(n < N)[:, None]", "(n < N - 1)[:, None]"),
        ("tl.where(n < N,", "tl.where(n <= N,"),
        ("q + i * D", "q + 0 * i * D"),
    ],
    ids=["off by one row", "last key dropped", "one key too many", "one query for all"],
)
def test_a_wrong_kernel_is_caught(
    right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    assert right in _blocks()[0]
    op = _op_with_the_toy(tmp_path, monkeypatch, "toy_wrong", _blocks()[0].replace(right, wrong))
    _dispatch.load.cache_clear()
    result = validate(op, CASE, "rows", device="cpu", seed=seed)
    _dispatch.load.cache_clear()
    assert result.failures
