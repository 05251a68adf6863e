"""From a public function to its torch op."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor
from torch.nn import Parameter

from aimills_kernels import _dispatch
from aimills_kernels._op import Op
from aimills_kernels._registry import OPS, torch_op

_OVERLOADS = {
    name: torch_op(name) for op in OPS for name in (op.name, f"{op.name}_out")
}  # a plain dict: torch.compile reads it as a constant
_BY_NAME = {op.name: op for op in OPS}
_TENSORS = frozenset({Tensor, Parameter})


def run(name: str, args: tuple, out: Tensor | None = None) -> Any:
    """Call `torch.ops.aimills.<name>`, or `<name>_out` where `out` is given (and return `out`).

    A plain eager call goes to the provider at once; torch's dispatcher would only come back to
    the same place, which costs 4 us more for attention (`docs/adr/0003`). Whatever watches or
    transforms ops, a gradient, or an argument of another type than the schema's, gets the torch op.
    """
    if torch.compiler.is_compiling():
        return _torch_op(name, args, out)
    if out is not None or not _plain(_KINDS[name], args) or _watched():
        _check_tensors(_BY_NAME[name], args)
        try:
            return _torch_op(name, args, out)
        except RuntimeError as error:
            raise _named(name, error) from error
    try:
        outs = _dispatch.call(_BY_NAME[name], args)
    except RuntimeError:
        _check_tensors(_BY_NAME[name], args)  # a sparse tensor has no strides
        raise
    return outs if len(outs) > 1 else outs[0]


def _torch_op(name: str, args: tuple, out: Tensor | None) -> Any:
    if out is None:
        return _OVERLOADS[name](*args)
    _OVERLOADS[f"{name}_out"](*args, out=out)
    return out


def _check_tensors(op: Op, args: tuple) -> None:
    """What torch would say in its own way, or for a meta tensor not at all."""
    optional = {p for p, k in inspect.get_annotations(op.reference, eval_str=True).items()
                if type(None) in get_args(k)}  # fmt: skip
    for i in op.tensors:
        if args[i] is None and op.params[i] in optional:
            continue
        for t in args[i] if isinstance(args[i], list) else (args[i],):
            if not isinstance(t, Tensor):
                raise ValueError(
                    f"{op.name}: {op.params[i]} must be a tensor, got {type(t).__name__}"
                )
            if t.layout is not torch.strided or t.is_nested:
                raise ValueError(f"{op.name}: {op.params[i]} must be a dense, strided tensor")
    for p, a in zip(op.params, args, strict=True):
        if "dtype" in p and not isinstance(a, torch.dtype):
            raise ValueError(f"{op.name}: {p} must be a torch.dtype, got {a!r}")
    _dispatch.one_device(op, args)


def _named(name: str, error: RuntimeError) -> Exception:
    """torch's complaint about an argument of a wrong type as the ValueError it is here."""
    first = str(error).partition("\n")[0]
    if "Expected a value of type" not in first:
        return error
    return ValueError(f"{name}: {first.partition('() ')[2]}")


def _kinds(op: Op) -> tuple[frozenset[type], ...]:
    """The exact types that each argument of a plain call has; for a list those of its elements."""
    declared = inspect.get_annotations(op.reference, eval_str=True)
    return tuple(frozenset(_types(declared[p])) for p in op.params)


def _types(kind: Any) -> tuple[type, ...]:
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return (*kinds, Parameter) if Tensor in kinds else kinds


_KINDS = {op.name: _kinds(op) for op in OPS}


def _plain(kinds: tuple[frozenset[type], ...], args: Sequence[Any]) -> bool:
    """Whether all are ordinary tensors without a gradient, and scalars as the schema has them."""
    gradients = torch.is_grad_enabled()
    for a, allowed in zip(args, kinds, strict=True):
        kind = type(a)
        if kind is list:
            if not _plain((allowed,) * len(a), a):
                return False
        elif kind not in allowed or (
            kind in _TENSORS
            and (
                a.is_meta
                or (gradients and a.requires_grad)
                or a.is_neg()  # not yet carried out: the memory holds the opposite
            )
        ):
            return False
    return True


def _probes() -> tuple[Callable[[], Any], ...] | None:
    """What tells of dispatch and function modes (fake tensors, make_fx, explain), functorch, jit
    tracing and the profiler. None where this torch lacks one: then every call is the torch op."""
    try:
        return (
            torch._C._len_torch_dispatch_stack,
            torch._ops._len_torch_dispatch_stack_pre_dispatch,
            torch._C._len_torch_function_stack,
            torch._C._functorch.peek_interpreter_stack,
            torch._C._get_tracing_state,
            torch._C._autograd._profiler_enabled,
        )
    except AttributeError:
        return None


_PROBES = _probes()


def _watched() -> bool:
    return _PROBES is None or any(probe() for probe in _PROBES)
