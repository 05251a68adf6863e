"""Small kernels for tests of the executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.ptx import launch


def text(body: str, params: Sequence[str] = (), *, threads: int = 32, declare: str = "") -> str:
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
.reg .b32 %r<99>; .reg .b64 %rd<99>; .reg .f32 %f<99>; .reg .b16 %rs<99>; .reg .pred %p<20>;
.reg .f64 %d<20>;
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
    grid: Sequence[int] = (1,),
    **options: Any,
) -> launch.Result:
    """Runs `body` with arguments (type, value)."""
    source = text(body, [type_ for type_, _ in args], threads=threads, declare=declare)
    return launch.run(source, [value for _, value in args], grid, **options)
