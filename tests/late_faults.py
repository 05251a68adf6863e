"""Wrong providers that are right for as long as the gate looks.

Only the checks around the clock can see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from aimills_kernels._dispatch import load, raw_launch
from aimills_kernels._op import Op, Provider
from aimills_kernels._registry import get_op
from tests.faults import _first_tensor, _right, results

GATE_CALLS = 3  # what validate() makes
_calls: list[int] = []
_cache: dict[int, list[Tensor]] = {}


def _late() -> bool:
    _calls.append(1)
    return len(_calls) > GATE_CALLS


def calls() -> int:
    return len(_calls)


def no_fault(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _late()
    _right(op, outs, args)


def stale_output(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    if not _late():
        _right(op, outs, args)


def wrong_values(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        outs[0].mul_(2)


def overwrites_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        _first_tensor(args).zero_()


def cached_by_pointer(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    key = _first_tensor(args).data_ptr()
    if not _late() or key not in _cache:
        _right(op, outs, args)
        _cache[key] = [o.clone() for o in outs]
    for out, old in zip(outs, _cache[key], strict=True):
        out.copy_(old)


def raises(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


LATE_FAULTS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (stale_output, wrong_values, overwrites_an_input, cached_by_pointer, raises)
}


def plant(op: str, fault: str) -> Op:
    """The op with a provider named "planted" in front, whose memory starts afresh."""
    _calls.clear()
    _cache.clear()
    load.cache_clear()
    raw_launch.cache_clear()
    target = f"tests.late_faults:launcher/{op}.{fault}"
    declared = get_op(op)
    planted = Provider("planted", target, devices=("cpu", "cuda"))
    return replace(declared, providers=(planted, *declared.providers))


def launcher(name: str) -> Any:
    op, _, fault = name.partition(".")
    behave = LATE_FAULTS.get(fault, no_fault)
    return lambda outs, *args: behave(op, results(op, outs, args), args)
