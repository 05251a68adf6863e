"""No compiled kernel touches registers that a wgmma under way may still read or write.

The executor sees it where a launch runs into it; this goes through the text of each kernel that
`test_aot.py` compiles for sm_90, and of its candidates of tiles, along all paths.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aimills_kernels import _configs, _dispatch
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import OPS, get_op

if _dispatch.interpreting():
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

pytest.importorskip("triton", reason="not run: Triton is not installed")
from tests.aot import Compiled, compile_provider, meta_args
from tests.ptx import wgmma_flow
from tests.ptx.parse import parse

pytestmark = pytest.mark.full


def hazards(compiled: Compiled) -> list[str]:
    kernel = parse(compiled.ptx).kernel()
    found = wgmma_flow.check(kernel)
    lines = [f"{' '.join(kernel.code[pc].parts)}: {why}" for pc, why in found.missing.items()]
    for pc, names in found.touching.items():
        lines.append(f"{' '.join(kernel.code[pc].parts)} touches {', '.join(sorted(names))}")
    return lines


def _grid() -> list[Any]:
    return [
        pytest.param(op, case, provider, id=f"{op}-{case}-{provider}")
        for op in OPS
        for case in op.cases
        if "aot" in case.tags
        for provider in op.providers
        if provider.interpret
    ]


@pytest.mark.parametrize(("op", "case", "provider"), _grid())
def test_no_register_is_touched_under_a_wgmma(op: Op, case: Case, provider: Provider) -> None:
    for kernel in compile_provider(op, case, provider, 90) or []:
        assert not hazards(kernel), kernel.name


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("matmul_fp8", "llama3-8b-qkv-4096"), ("matmul_int8", "llama3-8b-qkv-4096"),
        ("matmul_w8", "llama3-8b-qkv-4096"), ("matmul_w8", "llama3-8b-qkv-64"),
        ("matmul_w4", "llama3-8b-qkv-4096"), ("matmul_w4", "llama3-8b-qkv-64"),
        ("grouped_matmul_w4", "aot-large"), ("matmul_quantize_fp8", "aot-rows"),
    ],
)  # fmt: skip
def test_nor_with_other_tiles(name: str, case: str) -> None:
    op = get_op(name)
    problem = Problem(op, meta_args(op, op.case(case)), "cuda", 90)
    for candidate in _configs.candidates(op.provider("triton"), problem):
        for kernel in compile_provider(op, op.case(case), candidate, 90) or []:
            assert not hazards(kernel), candidate


@pytest.mark.parametrize(("m", "n"), [(300, 1), (1, 300), (1, 1)])
@pytest.mark.parametrize("name", ["attention", "attention_backward"])
def test_nor_of_a_single_query_or_key(name: str, m: int, n: int) -> None:
    """Which Triton makes a constant unless it is told not to: its loop becomes other code."""
    op = get_op(name)
    dims = {**op.case("one-key" if name == "attention" else "plain").dims, "M": m, "N": n}
    for kernel in compile_provider(op, Case("single", **dims), op.provider("triton"), 90) or []:
        assert not hazards(kernel), kernel.name


def test_a_pipeline_that_overtakes_its_wgmma_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`matmul_w8` would convert the next weights into registers that a wgmma still reads."""
    from aimills_kernels.kernels.matmul import triton_w8

    chosen = triton_w8.select_w8_config
    monkeypatch.setattr(
        triton_w8, "select_w8_config", lambda *args: replace(chosen(*args), num_stages=3)
    )
    op = get_op("matmul_w8")
    (kernel,) = compile_provider(op, op.case("llama3-8b-qkv-4096"), op.provider("triton"), 90)
    assert any("touches" in line for line in hazards(kernel))
