"""Wrong providers: what validate(), the benchmarks and accept must never let pass.

Each is the reference with one fault planted. `plant` gives the op with such a provider in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import load, raw_launch
from aimills_kernels._op import Op, Provider, map_tensors, span, tensors_of
from aimills_kernels._registry import get_op

_calls = itertools.count()
_cache: dict[int, list[Tensor]] = {}


def _right(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    declared = get_op(op)
    load(declared.provider("reference"))(() if declared.mutates else outs, *args)


def _first_tensor(args: tuple) -> Tensor:
    first = next(a for a in args if isinstance(a, (Tensor, list)))
    return first[0] if isinstance(first, list) else first


def _bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)


def off_by_one_row(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    flat = outs[0].view(-1, outs[0].shape[-1])
    flat.copy_(flat.clone().roll(1, 0))


def nan_in_the_tail(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Of integers another number: -1 may be the right one."""
    _right(op, outs, args)
    tail = _bytes(outs[0])[-outs[0].element_size() :]
    tail.copy_(torch.full_like(tail, 0xFF) if outs[0].is_floating_point() else ~tail)


def unwritten_tail(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    kept = _bytes(outs[0])[-outs[0].element_size() :].clone()
    _right(op, outs, args)
    _bytes(outs[0])[-outs[0].element_size() :] = kept


def stale_output(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    if next(_calls) == 0:
        _right(op, outs, args)


def cached_by_pointer(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    key = _first_tensor(args).data_ptr()
    if key not in _cache:
        _right(op, outs, args)
        _cache[key] = [o.clone() for o in outs]
    for out, old in zip(outs, _cache[key], strict=True):
        out.copy_(old)


def overwrites_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    _first_tensor(args).zero_()


def writes_beyond_the_output(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    end = outs[0].storage_offset() + outs[0].numel()
    outs[0].as_strided((1,), (1,), end).copy_(torch.ones(1))


def writes_beyond_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    first = _first_tensor(args)
    end = first.storage_offset() + span(first)
    first.as_strided((1,), (1,), end).zero_()


def writes_before_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    first = _first_tensor(args)
    first.as_strided((1,), (1,), first.storage_offset() - 1).zero_()


def reads_beyond_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Takes the tensors one element late: the last element comes from behind the end."""
    late = [
        map_tensors(lambda t: t.as_strided(t.shape, t.stride(), t.storage_offset() + 1), a)
        for a in args
    ]
    _right(op, outs, tuple(late))


def differs_from_run_to_run(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    bits = _bytes(outs[0])[:: outs[0].element_size()]  # the lowest byte: far inside the tolerance
    bits[0] = bits[0] ^ (next(_calls) & 1)


def raises(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def keeps_the_larger(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Never clears its output first, as an atomic maximum may forget to; a NaN or -1 hides that."""
    kept = [o.clone().double().nan_to_num(-torch.inf) for o in outs]
    _right(op, outs, args)
    for out, old in zip(outs, kept, strict=True):
        out.copy_(torch.maximum(out.double(), old).to(out.dtype))


def writes_between_rows(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Clears what lies between the first and the last element of an input and is not its own."""
    _right(op, outs, args)
    for t in tensors_of(args):
        gap = torch.ones(span(t), dtype=torch.bool)
        gap.as_strided(t.shape, t.stride()).fill_(False)
        reach = t.as_strided((span(t),), (1,), t.storage_offset()).view(torch.uint8)
        reach[gap.repeat_interleave(t.element_size())] = 0


class CompilationError(Exception):
    """Derived from Exception alone, as Triton's is."""


def fails_to_compile(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    raise CompilationError("at 12:3")


FAULTS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        off_by_one_row,
        nan_in_the_tail,
        unwritten_tail,
        stale_output,
        cached_by_pointer,
        overwrites_an_input,
        writes_beyond_the_output,
        writes_beyond_an_input,
        writes_before_an_input,
        reads_beyond_an_input,
        differs_from_run_to_run,
        raises,
        fails_to_compile,
        keeps_the_larger,
    )
}


def last_codes_off_by_one(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    _bytes(outs[0])[-2:] ^= 1


def last_elements_a_level_off(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    _, std, _ = args[-3:]
    outs[0].view(-1)[-2:] += 1 / (255 * std[-1])


def rounds_before_the_bias(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    *factors, bias, dtype, accum, invariant, residual, activation = args
    _right(op, outs, (*factors, None, dtype, accum, invariant, residual, activation))
    outs[0].add_(bias)


# What some layouts or ops alone can show.
SPECIAL_FAULTS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        writes_between_rows,
        last_codes_off_by_one,
        last_elements_a_level_off,
        rounds_before_the_bias,
    )
}


def plant(op: str, fault: str, *, first: bool = True) -> Op:
    """The op with a provider named "planted" that has `fault`, foremost among its providers."""
    _cache.clear()
    globals()["_calls"] = itertools.count()
    load.cache_clear()
    raw_launch.cache_clear()
    planted = Provider("planted", f"tests.faults:launcher/{op}.{fault}", devices=("cpu", "cuda"))
    declared = get_op(op)
    rest = declared.providers
    return replace(declared, providers=(planted, *rest) if first else (*rest, planted))


def launcher(name: str) -> Any:
    op, _, fault = name.partition(".")
    return lambda outs, *args: (FAULTS | SPECIAL_FAULTS)[fault](op, results(op, outs, args), args)


def results(op: str, outs: tuple[Tensor, ...], args: tuple) -> tuple[Tensor, ...]:
    """What a launch fills: the outputs, or the arguments that the op writes to."""
    return outs or get_op(op).written(args)
