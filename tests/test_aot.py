"""Every Triton kernel compiles for sm_80, 90, 100 and 120, as `resources.json` has it.

Kernels never spill, fit the shared memory, and use the architecture's matrix instructions. The
committed figures are reviewed like a lock file; AIMILLS_UPDATE_RESOURCES=1 writes them anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS, get_op

if _dispatch.interpreting():
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

pytest.importorskip("triton", reason="not run: Triton is not installed")
from tests.aot import SHARED_LIMIT, Compiled, compile_provider, toolchain

ROOT = Path(__file__).parent.parent
UPDATE = os.environ.get("AIMILLS_UPDATE_RESOURCES") == "1"


def _grid() -> list:
    return [
        pytest.param(op, case, provider, sm, id=f"{op}-{case}-{provider}-sm{sm}")
        for op in OPS
        for case in op.cases
        if "aot" in case.tags
        for provider in op.providers
        if provider.interpret
        for sm in provider.sm
    ]


def _lock_file(op: Op, provider: Provider) -> Path:
    family = provider.target.split(".")[2]
    return ROOT / "kernels" / family / "resources.json"


@pytest.mark.parametrize(("op", "case", "provider", "sm"), _grid())
def test_kernels_compile_within_their_resources(
    op: Op, case: Case, provider: Provider, sm: int
) -> None:
    kernels = compile_provider(op, case, provider, sm)
    assert kernels is not None, f"{provider} rejects {case} on sm_{sm}"
    assert kernels, f"{provider} launches nothing for {case}"
    lock = _lock_file(op, provider)
    committed = json.loads(lock.read_text()) if lock.exists() else {}
    for kernel in kernels:
        assert kernel.spilled == 0, f"{kernel.name} spills {kernel.spilled} bytes on sm_{sm}"
        assert kernel.shared <= SHARED_LIMIT[sm], f"{kernel.name}: {kernel.shared} bytes shared"
        assert kernel.registers * kernel.warps * 32 <= 65536
    found = {_key(op, case, provider, k): k.resources() for k in kernels}
    if UPDATE:
        rows = {**committed.get("kernels", {}), **found}
        text = json.dumps(
            {"toolchain": toolchain(), "kernels": dict(sorted(rows.items()))}, indent=1
        )
        lock.write_text(text + "\n")
        return
    assert found.keys() <= committed["kernels"].keys(), f"{lock.name} lacks these kernels"
    for key, resources in found.items():
        want = committed["kernels"][key]
        if committed["toolchain"] == toolchain():
            assert resources == want, key
        else:  # another ptxas: registers may differ, the instructions must not
            assert resources["mma"] == want["mma"], key


def _key(op: Op, case: Case, provider: Provider, kernel: Compiled) -> str:
    return f"{op}/{case}/{provider}/{kernel.name}/sm_{kernel.sm}"


@pytest.mark.full
@pytest.mark.parametrize("sm", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("D", [16, 64, 80, 128, 192, 256])
@pytest.mark.parametrize("M", [1, 64, 2048])
def test_attention_never_spills(M: int, D: int, dtype: str, sm: int) -> None:
    """The tile choice over head dims and lengths, past what the lock file holds."""
    op = get_op("attention")
    case = Case("sweep", B=1, M=M, N=2048, H=8, G=2, D=D, dtype=dtype, causal=True, lse=True)
    for kernel in compile_provider(op, case, op.provider("triton"), sm) or []:
        assert kernel.spilled == 0
        assert kernel.shared <= SHARED_LIMIT[sm]


@pytest.mark.parametrize("op", OPS, ids=str)
def test_lock_file_has_no_row_too_many(op: Op) -> None:
    wanted = {(str(o), str(c), str(p)) for o, c, p, _ in (g.values for g in _grid())}
    for provider in op.providers:
        if provider.interpret:
            rows = json.loads(_lock_file(op, provider).read_text())["kernels"]
            assert {tuple(key.split("/")[:3]) for key in rows} <= wanted
