"""From a public function to its torch op."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
    the same place: attention costs 1.7 us more than a no-op op of its schema so, and 5.4 us through
    the dispatcher (`docs/adr/0003`). Whatever watches or transforms ops, a gradient, or an argument
    of another type than the schema's, gets the torch op.
    """
    if torch.compiler.is_compiling():
        return _torch_op(name, args, out)
    if out is not None or not _plain(_KINDS[name], args) or _watched():
        try:
            return _torch_op(name, args, out)
        except RuntimeError as error:
            raise _named(name, error) from error
    outs = _dispatch.call(_BY_NAME[name], args)
    return outs if len(outs) > 1 else outs[0]


def _torch_op(name: str, args: tuple, out: Tensor | None) -> Any:
    if out is None:
        return _OVERLOADS[name](*args)
    _OVERLOADS[f"{name}_out"](*args, out=out)
    return out


def _named(name: str, error: RuntimeError) -> Exception:
    """torch's complaint about an argument of a wrong type as the ValueError it is here."""
    first = str(error).partition("\n")[0]
    if "Expected a value of type" not in first:
        return error
    return ValueError(f"{name}: {first.partition('() ')[2]}")


def _kinds(op: Op) -> tuple[frozenset[type], ...]:
    """The exact types that each argument of a plain call has; none for a list of tensors."""
    declared = inspect.get_annotations(op.reference, eval_str=True)
    return tuple(frozenset(_types(declared[p])) for p in op.params)


def _types(kind: Any) -> tuple[type, ...]:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = tuple(k for k in kinds if isinstance(k, type) and get_origin(k) is None)
    return (*plain, Parameter) if Tensor in plain else plain


_KINDS = {op.name: _kinds(op) for op in OPS}


def _plain(kinds: tuple[frozenset[type], ...], args: tuple) -> bool:
    """Whether all are ordinary tensors without a gradient, and scalars as the schema has them."""
    gradients = torch.is_grad_enabled()
    for a, allowed in zip(args, kinds, strict=True):
        kind = type(a)
        if kind not in allowed:
            return False
        if kind in _TENSORS and (a.is_meta or (gradients and a.requires_grad)):
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
