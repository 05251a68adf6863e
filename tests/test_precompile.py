"""`precompile`: a serving process finds the kernels, wherever the folder is, and writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels._op import Case, Op
from aimills_kernels._registry import get_op
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
    made = {key for variant in variants(op, case) for key in _keys(op, variant)}
    assert _keys(op, Case("served", counts=(30, 499, 500), **blocks)) <= made
    assert _keys(op, Case("served", counts=(500, 10, 530), **blocks)) <= made


ROWS: dict[str, dict[str, Any]] = {
    "quantize_fp8": dict(granularity="tensor"),
    "quantize_int8": dict(granularity="tensor", symmetric=False),
    "rmsnorm_quantize_fp8": dict(granularity="1x128", residual=True),
    "swiglu_quantize_fp8": dict(granularity="1x128"),
}


@pytest.mark.parametrize("name", ROWS)
def test_other_numbers_of_rows_find_their_kernels(name: str) -> None:
    pytest.importorskip("triton", reason="not run: Triton is not installed")
    from aimills_kernels._precompile import variants

    op = get_op(name)
    case = Case("prefill", shape=(1024, 256), **ROWS[name])
    made = {key for variant in variants(op, case) for key in _keys(op, variant)}
    for rows in (2048, 1003):
        assert _keys(op, Case("served", shape=(rows, 256), **ROWS[name])) <= made


def _keys(op: Op, case: Case) -> set[str]:
    from aimills_kernels import _aot

    found: set[str] = set()
    (provider,) = [p for p in op.providers if p.interpret]
    args, own = op.meta_inputs(case), object()
    _aot.compile_provider(op, args, provider, 90, lambda k: found.add(k.hash), own)
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
