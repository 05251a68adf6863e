"""Small kernels for tests of the executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.ptx import launch

_REGISTERS = """.reg .b32 %r<99>; .reg .b64 %rd<99>; .reg .f32 %f<99>; .reg .b16 %rs<99>;
.reg .pred %p<20>; .reg .f64 %d<20>;"""
_FEW = ".reg .b32 %r<10>; .reg .b64 %rd<2>; .reg .b16 %rs<2>; .reg .pred %p<5>;"


def text(
    body: str,
    params: Sequence[str] = (),
    *,
    threads: int = 32,
    declare: str = "",
    registers: str = _REGISTERS,
) -> str:
    """A module with one kernel `k`. params: types (u64 for pointers), named p0, p1, ...

    Its registers: %r<99> b32, %rd<99> b64, %f<99> f32, %rs<99> b16, %p<20> pred, %d<20> f64.
    """
    listed = ",\n".join(f".param .{type_} p{i}" for i, type_ in enumerate(params))
    return f"""
.version 8.7
.target sm_90a
.address_size 64
{declare}
.visible .entry k({listed})
.reqntid {threads}
{{
{registers}
{body}
ret;
}}
"""


def run(
    body: str,
    args: Sequence[tuple[str, Any]] = (),
    *,
    threads: int = 32,
    declare: str = "",
    registers: str = _REGISTERS,
    grid: Sequence[int] = (1,),
    **options: Any,
) -> launch.Result:
    """Runs `body` with arguments (type, value)."""
    types = [type_ for type_, _ in args]
    source = text(body, types, threads=threads, declare=declare, registers=registers)
    return launch.run(source, [value for _, value in args], grid, **options)


def each(instruction: str, result: Any, *sources: np.ndarray) -> np.ndarray:
    """An instruction on every element of its sources [n], a lane each. It names its registers:
    "sub.f32 d, a, b;" with a, b, c, e for the sources and d for the result, an array of dtype
    `result`, bool for a predicate."""
    truth, n, threads = result is bool, len(sources[0]), 256
    padded = [np.pad(x, (0, -n % threads), mode="edge") for x in sources]
    out = np.zeros(len(padded[0]), np.uint8 if truth else result)
    words, loads = [], []
    for i, (name, source) in enumerate(zip("abce", sources, strict=False)):
        bits = 8 * source.dtype.itemsize
        words.append(f".reg .b{max(bits, 16)} {name};")
        loads.append(_at(i + 1, bits // 8) + f"ld.global.b{bits} {name}, [%rd1];")
    bits = 8 * out.itemsize
    store = f"st.global.b{bits} [%rd1], d;"
    words.append(f".reg .b{max(bits, 16)} d;" if not truth else ".reg .pred d;")
    if truth:
        store = "selp.u16 %rs1, 1, 0, d; st.global.b8 [%rd1], %rs1;"
    start = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.s32 %r1, %r1, 256, %r2;"
    body = "\n".join([*words, start, *loads, instruction, _at(0, bits // 8), store])
    args = [("u64", x) for x in (out, *padded)]
    run(body, args, threads=threads, registers=_FEW, grid=(len(out) // threads,))
    return out[:n].astype(bool) if truth else out[:n]


def _at(param: int, size: int) -> str:
    return f"ld.param.u64 %rd1, [p{param}]; mad.wide.s32 %rd1, %r1, {size}, %rd1;\n"
