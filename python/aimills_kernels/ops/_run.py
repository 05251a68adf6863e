"""From a public function to its torch op."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from aimills_kernels._dispatch import one_device, plain_plan
from aimills_kernels._op import Op
from aimills_kernels._registry import OPS, torch_op
from aimills_kernels._words import shown

_OVERLOADS = {
    name: torch_op(name)
    for op in OPS
    for name in ((op.name,) if op.mutates else (op.name, f"{op.name}_out"))
}  # a plain dict: torch.compile reads it as a constant
_BY_NAME = {op.name: op for op in OPS}


def run(name: str, args: Sequence[Any], out: Tensor | None = None, **into: Tensor) -> Any:
    """Call `torch.ops.aimills.<name>`, or `<name>_out` where `out` is given (and return `out`).
    `into`: what else `<name>_out` takes, further outputs and a workspace.

    A plain eager call that was made before goes to its plan at once; torch's dispatcher would only
    come back to the same place, which costs 11 us more for attention (`docs/adr/0003`). Whatever
    watches or transforms ops, a gradient, a first call, or an argument of another type than the
    schema's, gets the torch op, and there the check that says what is wrong.
    """
    op = _BY_NAME[name]
    if op.presented is not None:
        return op.presented(_run(op, args, out, into), args)
    return _run(op, args, out, into)


def _run(op: Op, args: Sequence[Any], out: Tensor | None, into: dict[str, Any]) -> Any:
    if torch.compiler.is_dynamo_compiling():
        return _torch_op(op.name, args, out, into)
    if out is None and not _watched() and (plan := plain_plan(op, args)) is not None:
        outs = plan.run(args)
        return outs[0] if len(outs) == 1 else outs or None
    check_tensors(op, args, {"out": out, **into} if out is not None else {})
    try:
        return _torch_op(op.name, args, out, into)
    except RuntimeError as error:
        raise _named(op, args, error) from error


def _torch_op(name: str, args: Sequence[Any], out: Tensor | None, into: dict[str, Any]) -> Any:
    if out is None:
        return _OVERLOADS[name](*args)
    _OVERLOADS[f"{name}_out"](*args, out=out, **into)
    return out


def check_tensors(
    op: Op, args: Sequence[Any], into: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """What torch would say in its own way, or for a meta tensor not at all."""
    for i in op.tensors:
        if args[i] is None and i in op.optional:
            continue
        for t in args[i] if i in op.lists else (args[i],):
            _check_tensor(op, op.params[i], t)
    for n, t in into.items():
        _check_tensor(op, n, t)
    for p, a in zip(op.params, args, strict=True):
        if "dtype" in p and not isinstance(a, torch.dtype):
            raise ValueError(f"{op.name}: {p} must be a torch.dtype, got {shown(a)}")
    one_device(op, args)


def _check_tensor(op: Op, name: str, t: Any) -> None:
    if not isinstance(t, Tensor):
        raise ValueError(f"{op.name}: {name} must be a tensor, got {type(t).__name__}")
    if t.is_nested or t.is_quantized or t.layout is not torch.strided:
        kind = "nested" if t.is_nested else "quantized" if t.is_quantized else t.layout
        raise ValueError(f"{op.name}: {name} must be a dense, strided tensor, got a {kind} one")


_TOO_LARGE = re.compile(r"type '(int|float)' for argument '(\w+)' but instead found type 'int'")


def _named(op: Op, args: Sequence[Any], error: RuntimeError) -> Exception:
    """torch's complaint about an argument of a wrong type as the ValueError it is here."""
    first = str(error).partition("\n")[0]
    if "Expected a value of type" not in first:
        return error
    if found := _TOO_LARGE.search(first):
        kind, name = found.groups()
        value = shown(args[op.params.index(name)])
        return ValueError(f"{op.name}: {name} must fit a 64-bit {kind}, got {value}")
    return ValueError(f"{op.name}: {first.partition('() ')[2]}")


def _watch() -> Callable[[], bool]:
    """Makes the test whether something watches or transforms ops: dispatch and function modes (fake
    tensors, make_fx, explain), functorch, forward-mode derivatives, jit tracing, the profiler,
    autocast.

    Where this torch lacks one of the probes, every call counts as watched.
    """
    try:
        dispatch_modes = torch._C._len_torch_dispatch_stack
        function_modes = torch._C._is_torch_function_mode_enabled
        functorch = torch._C._functorch.peek_interpreter_stack
        tls_includes = torch._C._dispatch_tls_is_dispatch_key_included
        pre_dispatch = torch._C.DispatchKey.PreDispatch
        tracing = torch._C._get_tracing_state
        profiling = torch._C._autograd._profiler_enabled
        autocast = torch._C._is_any_autocast_enabled
    except AttributeError:
        return lambda: True
    return lambda: (
        dispatch_modes() > 0
        or function_modes()
        or functorch() is not None
        or forward_ad._current_level >= 0
        or tls_includes(pre_dispatch)
        or tracing() is not None
        or profiling()
        or autocast()
    )


_watched = _watch()
