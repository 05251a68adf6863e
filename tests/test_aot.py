"""Every Triton kernel compiles for sm_80, 90, 100 and 120, as `resources.json` has it.

Kernels never spill, fit the shared memory, and use the architecture's matrix instructions. The
committed figures are reviewed like a lock file; `make lock` writes them anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels import _configs, _dispatch
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import OPS, get_op

if _dispatch.interpreting():
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

pytest.importorskip("triton", reason="not run: Triton is not installed")
from tests.aot import (
    SHARED_LIMIT,
    Compiled,
    compile_provider,
    lopsided_sums,
    meta_args,
    narrow_offsets,
    toolchain,
)

ROOT = Path(__file__).parent.parent
LOCKS = sorted(ROOT.glob("kernels/*/resources.json"))
UPDATE = os.environ.get("AIMILLS_UPDATE_RESOURCES") == "1"

ATOMIC = re.compile(r"\s(?:atom|red)\.")
EVERY = dict(window=(500, -1), softcap=30.0, sinks="q", alibi="batch", used=(2000,))
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window-alibi": dict(window=(500, -1), alibi="batch", used=(2000,)),
    "every": dict(EVERY, dlse=True, dslopes=True),
}


def _grid() -> list:
    """Hopper, which the pods have, in `make test`; the others, and cases that are tagged "full", in
    `make test-full`."""
    return [
        pytest.param(
            op,
            case,
            provider,
            sm,
            id=f"{op}-{case}-{provider}-sm{sm}",
            marks=() if sm == 90 and "full" not in case.tags else pytest.mark.full,
        )
        for op in OPS
        for case in op.cases
        if "aot" in case.tags
        for provider in op.providers
        if provider.interpret
        for sm in provider.sm
    ]


def _triton_providers() -> list:
    return [pytest.param(o, p, id=f"{o}-{p}") for o in OPS for p in o.providers if p.interpret]


def _lock_file(provider: Provider) -> Path:
    family = provider.target.split(".")[2]
    return ROOT / "kernels" / family / "resources.json"


def _read(lock: Path) -> dict[str, Any]:
    return json.loads(lock.read_text()) if lock.exists() else {"toolchain": "", "kernels": {}}


def _write(lock: Path, rows: dict[str, Any]) -> None:
    text = json.dumps({"toolchain": toolchain(), "kernels": dict(sorted(rows.items()))}, indent=1)
    lock.write_text(text + "\n")


@pytest.mark.parametrize(("op", "case", "provider", "sm"), _grid())
def test_kernels_compile_within_their_resources(
    op: Op, case: Case, provider: Provider, sm: int
) -> None:
    reason = _rejection(op, case, provider, sm)
    kernels = [] if reason else compile_provider(op, case, provider, sm)
    assert reason or kernels, f"{provider} launches nothing for {case}"
    for kernel in kernels:
        assert kernel.spilled == 0, f"{kernel.name} spills {kernel.spilled} bytes on sm_{sm}"
        assert kernel.shared <= SHARED_LIMIT[sm], f"{kernel.name}: {kernel.shared} bytes shared"
        assert kernel.registers * kernel.warps * 32 <= 65536
        assert kernel.tensor_memory <= 512, f"{kernel.name}: {kernel.tensor_memory} columns"
        assert not lopsided_sums(kernel.ptx), f"{kernel.name}: use product() before its tl.sum"
        assert not ATOMIC.search(kernel.ptx), f"{kernel.name} has atomics"
        if _lock_file(provider).parent.name == "matmul":
            assert not narrow_offsets(kernel.ttir), f"{kernel.name} stores at offsets of 32 bits"
    _hold_against_lock(f"{op}/{case}/{provider}", sm, kernels, _lock_file(provider))
    if reason:
        pytest.skip(f"not run: {provider} rejects {case} on sm_{sm}: {reason}")


MAPPED = [("attention", "llama3-8b-prefill"), ("attention_varlen", "llama3-8b-docs")]


def _mapped(name: str, case: str) -> Provider:
    """The forward with its built-in tiles, and tensor maps, which sm_90 has."""
    op = get_op(name)
    problem = Problem(op, meta_args(op, op.case(case)), "cuda", 90)
    found = _configs.candidates(op.provider("triton"), problem)
    return next(p for p in found if p.config.tma)


@pytest.mark.full
@pytest.mark.parametrize(("name", "case"), MAPPED)
def test_tensor_maps_compile_within_their_resources(name: str, case: str) -> None:
    op, provider = get_op(name), _mapped(name, case)
    kernels = compile_provider(op, op.case(case), provider, 90)
    for kernel in kernels:
        assert kernel.spilled == 0
        assert kernel.shared <= SHARED_LIMIT[90]
        assert "cp.async.bulk.tensor" in kernel.ptx
        assert "cp.async.cg" not in kernel.ptx
    _hold_against_lock(f"{name}/{case}/{provider}", 90, kernels, _lock_file(provider))


@pytest.mark.parametrize(
    ("row", "offset", "narrow"),
    [("i64", "i64", 0), ("i32", "i64", 1), ("i32", "i32", 2), ("i64", "i32", 1)],
)
def test_offsets_of_32_bits_are_found(row: str, offset: str, narrow: int) -> None:
    text = f"""
    %lengths = tt.addptr %other, %e : tensor<32x!tt.ptr<i32>>, tensor<32xi32>
    %own = tt.load %lengths : tensor<32x!tt.ptr<i32>>
    %at = arith.muli %rows, %N : tensor<64x1x{row}>
    %wide = arith.extsi %at : tensor<64x1x{row}> to tensor<64x1xi64>
    %place = tt.addptr %wide, %own : tensor<64x1x!tt.ptr<f32>>, tensor<64x1x{offset}>
    tt.store %place, %out : tensor<64x1x!tt.ptr<f32>>"""
    assert len(narrow_offsets(text)) == narrow


def _rejection(op: Op, case: Case, provider: Provider, sm: int) -> str | None:
    args = meta_args(op, case)
    return _dispatch.why_not(provider, Problem(op, args, "cuda", sm))


def _hold_against_lock(place: str, sm: int, kernels: list[Compiled], lock: Path) -> None:
    found = {f"{place}/{k.name}/sm_{sm}": k.resources() for k in kernels}
    committed = _read(lock)
    rows = {key: row for key, row in committed["kernels"].items() if _place(key) == (place, sm)}
    if UPDATE:
        others = {key: row for key, row in committed["kernels"].items() if key not in rows}
        _write(lock, {**others, **found})
        return
    assert found.keys() == rows.keys(), (
        f"{lock.relative_to(ROOT)} has rows of other kernels; where that is meant, run `make lock`"
    )
    for key, resources in found.items():
        if committed["toolchain"] == toolchain():
            assert resources == rows[key], key
        else:  # another ptxas: registers may differ, the instructions must not
            assert resources["mma"] == rows[key]["mma"], key


def _place(key: str) -> tuple[str, int]:
    """op/case/provider, and the architecture."""
    place, _, sm = key.rsplit("/", 2)
    return place, int(sm.removeprefix("sm_"))


@pytest.mark.parametrize(("op", "provider"), _triton_providers())
def test_every_provider_compiles_some_case(op: Op, provider: Provider) -> None:
    cases = [case for case in op.cases if "aot" in case.tags]
    assert provider.sm, f"{op} {provider} names no architecture to compile for"
    for sm in provider.sm:
        taken = any(_rejection(op, case, provider, sm) is None for case in cases)
        assert taken, f"{op} {provider} takes none of the cases for the compiler on sm_{sm}"


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 90, 100, 120])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("attention", "llama3-8b-prefill"), ("attention", "llama3-8b-decode"),
        ("attention", "gemma2-prefill"), ("attention", "aot-f32"), ("attention", "aot-200"),
        ("attention_varlen", "llama3-8b-docs"), ("matmul_fp8", "llama3-8b-qkv-1"),
        ("matmul_fp8", "llama3-8b-qkv-4096"), ("matmul_fp8", "aot-unaligned"),
        ("matmul_fp8", "aot-f32-large"), ("matmul_w4", "llama3-8b-qkv-16"),
        ("matmul_w4", "llama3-8b-qkv-4096"), ("matmul_w8", "llama3-8b-qkv-1"),
        ("matmul_w8", "llama3-8b-qkv-4096"),
    ],
)  # fmt: skip
def test_candidates_fit_the_shared_memory(name: str, case: str, sm: int) -> None:
    op = get_op(name)
    args = meta_args(op, op.case(case))
    for candidate in _configs.candidates(op.provider("triton"), Problem(op, args, "cuda", sm)):
        kernels = compile_provider(op, op.case(case), candidate, sm)
        assert kernels
        assert all(kernel.shared <= SHARED_LIMIT[sm] for kernel in kernels), candidate


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("D", [16, 64, 80, 128, 192, 256])
@pytest.mark.parametrize("M", [1, 64, 2048])
def test_attention_never_spills(M: int, D: int, dtype: str, sm: int) -> None:
    """The tile choice over head dims and lengths, past what the lock file holds."""
    _hold_within_limits(sm, M=M, D=D, dtype=dtype)


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("D", [64, 80, 128, 256])
def test_attention_with_every_feature_never_spills(D: int, dtype: str, sm: int) -> None:
    _hold_within_limits(sm, M=2048, D=D, dtype=dtype, **EVERY)


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("D", [16, 64, 73, 80, 128, 193, 256])
@pytest.mark.parametrize("features", FEATURES)
def test_attention_backward_never_spills(features: str, D: int, dtype: str, sm: int) -> None:
    """Head dims 73 and 193 leave no row aligned. In float32, which has no matrix instruction, ptxas
    keeps to 80 registers for more warps at a time, with up to 24 bytes of stack for that."""
    _hold_within_limits(
        sm, "attention_backward", stack=24 if dtype == "f32" else 0, M=2048, D=D, dtype=dtype,
        **FEATURES[features],
    )  # fmt: skip


def _hold_within_limits(sm: int, name: str = "attention", stack: int = 0, **dims: Any) -> None:
    op = get_op(name)
    case = Case("sweep", B=1, N=2048, H=8, G=2, causal=True, lse=True, **dims)
    for kernel in compile_provider(op, case, op.provider("triton"), sm) or []:
        assert kernel.spilled <= stack
        assert kernel.shared <= SHARED_LIMIT[sm]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.parent.name)
def test_lock_file_has_no_row_too_many(lock: Path) -> None:
    wanted = {(f"{o}/{c}/{p}", sm) for o, c, p, sm in (row.values for row in _grid())}
    wanted |= {(f"{o}/{c}/{_mapped(o, c)}", 90) for o, c in MAPPED}
    rows = _read(lock)["kernels"]
    extra = [key for key in rows if _place(key) not in wanted]
    if UPDATE:
        _write(lock, {key: row for key, row in rows.items() if key not in extra})
    else:
        assert not extra, "of no case and provider; `make lock` drops them"
