"""From a public function to its torch op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import PLAIN
from aimills_kernels._registry import OPS, torch_op

_OVERLOADS = {
    name: torch_op(name) for op in OPS for name in (op.name, f"{op.name}_out")
}  # a plain dict: torch.compile reads it as a constant


def run(name: str, args: tuple, out: Tensor | None = None) -> Any:
    """Call `torch.ops.aimills.<name>`, or `<name>_out` where `out` is given (and return `out`).

    Without a gradient to keep, the autograd key is passed over: a Python kernel there costs a
    second round through the dispatcher (figures in docs/measured.md).
    """
    if out is not None:
        _OVERLOADS[f"{name}_out"](*args, out=out)
        return out
    overload = _OVERLOADS[name]
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and _any_gradient(args)):
        return overload(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return overload(*args)


def _any_gradient(args: tuple) -> bool:
    for a in args:
        if type(a) in PLAIN:
            continue
        if isinstance(a, Tensor):
            if a.requires_grad:
                return True
        elif isinstance(a, list) and any(isinstance(t, Tensor) and t.requires_grad for t in a):
            return True
    return False
