"""`precompile`: a serving process finds the kernels, wherever the folder is, and writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case, Op
from aimills_kernels._registry import OPS, get_op
from aimills_kernels.cli import main

ASKED = ("quantize_fp8", "--case", "one", "--sm", "90")
SERVE = """\
import json
from aimills_kernels import _aot, _precompile
from aimills_kernels._registry import get_op
report, op = _precompile.Report(), get_op("quantize_fp8")
with _precompile._counting(report):
    for provider in op.providers:
        if provider.interpret:
            args = op.meta_inputs(op.case("one"))
            _aot.compile_provider(op, args, provider, 90, lambda kernel: None, object())
print(json.dumps([report.found, report.compiled]))
"""
NOWHERE = "/proc/none"  # not to be written to, by root neither


def serve(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SERVE], capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | variables,
    )  # fmt: skip


def precompile(folder: Path) -> str:
    """In a process of its own: what other tests compiled has left its traces in this one."""
    return subprocess.run(
        [sys.executable, "-m", "aimills_kernels", "precompile", *ASKED, "--out", str(folder)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("name", ["grouped_matmul_fp8", "grouped_matmul_quantize_fp8"])
def test_other_lengths_of_groups_find_their_kernels(name: str) -> None:
    """Scales of 1x128 lie with the rows side by side: how far blocks are apart, all rows say."""
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    op = get_op(name)
    blocks: dict[str, Any] = dict(N=256, K=256, scale_a="1x128", scale_b="128x128")
    case = Case("moe", counts=(500, 0, 524), **blocks)
    made = _keys(op, *variants(op, case))
    assert _keys(op, Case("served", counts=(30, 499, 500), **blocks)) <= made
    assert _keys(op, Case("served", counts=(500, 10, 530), **blocks)) <= made


ROWS = [
    ("matmul_fp8", dict(M=300, N=1280, K=1152, scale_a="1x128", scale_b="128x128")),
    ("matmul_w4", dict(M=192, N=1408, K=1420)),
    ("quantize_fp8", dict(shape=(192, 256), granularity="1x128")),
    ("rmsnorm_quantize_fp8", dict(shape=(100, 256), granularity="1x128", residual=True)),
    *(
        pytest.param(*more, marks=pytest.mark.full)
        for more in (
            ("matmul_fp8", dict(M=1000, N=4112, K=1536, scale_a="row", scale_b="row")),
            ("matmul_quantize_fp8", dict(M=200, N=4096, K=1152)),
            ("matmul_int8", dict(M=640, N=4096, K=4096)),
            ("matmul_w8", dict(M=640, N=4096, K=4096)),
            ("quantize_fp8", dict(shape=(192, 256), granularity="tensor")),
            ("quantize_int8", dict(shape=(96, 256), granularity="tensor", symmetric=False)),
            ("swiglu_quantize_fp8", dict(shape=(1024, 256), granularity="1x128")),
        )
    ),
]
SERVED = (1, 2, 3, 9, 15, 16, 17, 18, 24, 31, 33, 48, 63, 65, 96, 99, 127, 160, 299, 512, 639, 999)


@pytest.mark.parametrize(("name", "dims"), ROWS, ids=lambda value: getattr(value, "name", None))
def test_fewer_rows_find_their_kernels(name: str, dims: dict[str, Any]) -> None:
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    op, case = get_op(name), Case("prefill", **dims)
    most = case.get("M") or case.shape[0]
    made = _keys(op, *variants(op, case))
    for rows in (n for n in SERVED if n < most):
        changed = {"M": rows} if "M" in dims else {"shape": (rows, *case.shape[1:])}
        assert _keys(op, Case("served", **{**dims, **changed})) <= made, f"{rows} rows"


@pytest.mark.parametrize("op", [op for op in OPS if op.rows and "grouped" not in op.name], ids=str)
def test_which_dims_are_rows_follows_from_the_declaration(op: Op) -> None:
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    def rows(case: Case) -> int:
        return op.meta_inputs(case)[op.params.index(op.rows[0])].shape[-2]

    several = [c for c in op.cases if c.tags & {"bench", "aot"} and rows(c) > 1]
    for case in several[:3]:
        itself, fewest, *_, most = variants(op, case)
        assert itself is case
        assert (rows(fewest), rows(most)) == (1, rows(case) - 1)


def test_each_fill_and_layout_takes_fewer_rows() -> None:
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    op = get_op("quantize_fp8")
    for name in ("specials", "sparse"):
        _, one, *_ = variants(op, op.case(name))
        assert op.meta_inputs(one)[0].shape[0] == 1


def test_no_variant_is_the_case_again() -> None:
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    for name, case in (("attention", "onehot"), ("grouped_matmul_fp8", "onehot")):
        op = get_op(name)
        assert op.case(case).get("fill")
        assert variants(op, op.case(case)) == [op.case(case)]


@pytest.mark.parametrize("op", OPS, ids=str)
def test_the_arguments_of_each_case_are_known_without_their_values(op: Op) -> None:
    asked = [case for case in op.cases if case.tags & {"bench", "aot"}]
    assert asked
    for case in asked:
        args = op.meta_inputs(case)
        assert len(args) == len(op.params)
        tensors = [t for t in args if isinstance(t, torch.Tensor)]
        assert all(t.is_meta for t in tensors), case


def _keys(op: Op, *cases: Case) -> set[tuple[str, str]]:
    """What Triton looks the kernels up by that these cases launch, none of them compiled."""
    from triton.runtime.jit import JITFunction

    from aimills_kernels import _aot

    found: set[tuple[str, str]] = set()

    def note(self: JITFunction, key: str, *_: Any, **__: Any) -> SimpleNamespace:
        found.add((self.__name__, key))
        return SimpleNamespace()

    own = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "_do_compile", note)
        for case in cases:
            args = op.meta_inputs(case)
            for provider in (p for p in op.providers if p.interpret):
                _aot.compile_provider(op, args, provider, 90, lambda _: None, own)
    assert found
    return found


@pytest.mark.full  # five processes that import Triton
def test_a_folder_that_was_moved_serves_without_being_written_to(tmp_path: Path) -> None:
    made, moved = tmp_path / "made", tmp_path / "moved"
    assert "1 kernels compiled, 0 were there" in precompile(made)
    assert "0 kernels compiled, 1 were there" in precompile(made)
    made.rename(moved)
    before = {p: p.stat().st_mtime_ns for p in moved.rglob("*")}
    manager = {"TRITON_CACHE_MANAGER": "aimills_kernels.precompiled:Cache"}
    found = serve(**manager, AIMILLS_PRECOMPILED=str(moved), TRITON_CACHE_DIR=NOWHERE)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == [1, 0]
    assert {p: p.stat().st_mtime_ns for p in moved.rglob("*")} == before
    assert serve(TRITON_CACHE_DIR=NOWHERE).returncode != 0, "it compiled and wrote somewhere"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quantize_fp8", "--sm", "90"], "name what to compile for: a --model, or ops with --case"),
        ([*ASKED[:-1], "70"], "no kernel is made for sm_70"),
        (["--model", "llama3-8b", "--case", "one", "--sm", "90"], "with --model, name ops and a"),
    ],
)
def test_wrong_use(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["precompile", *words]) == 3
    assert says in capsys.readouterr().err
