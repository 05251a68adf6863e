"""What a kernel could replace or set to be judged by a better clock or a laxer rule.

The functions that measure and judge are known from the import of the harness on; PyTorch's settings
for a whole process, from the start of a run. What is found changed is put back and told.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import aimills_kernels
from aimills_kernels import _tolerance, _validate
from aimills_kernels.harness import _clocks, _contest, _stopping, _timers

_CLOCKS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (time, ("perf_counter_ns", "perf_counter", "monotonic", "monotonic_ns", "time")),
    (torch.cuda, ("Event", "synchronize", "_sleep", "CUDAGraph", "graph")),
    (torch.cuda.Event, ("record", "query", "synchronize", "elapsed_time")),
    (torch.cuda.CUDAGraph, ("replay",)),
)
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("the number of threads", torch.get_num_threads, torch.set_num_threads),
    ("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("the precision of float32 matmuls", torch.get_float32_matmul_precision,
     torch.set_float32_matmul_precision),
    ("whether gradients are on", torch.is_grad_enabled, torch.set_grad_enabled),
)  # fmt: skip


_ROOTS = [Path(str(m.__file__)).parent for m in (types, torch, aimills_kernels)]
_kept = [(h, name, getattr(h, name)) for h, names in _CLOCKS for name in names if hasattr(h, name)]
_begun: list[Any] = []


def keep(module: types.ModuleType) -> None:
    """From now on its functions, methods and clock are as they should be."""
    _kept.extend(_callables(module))


def _callables(module: types.ModuleType) -> Iterator[tuple[Any, str, Any]]:
    for name, value in vars(module).items():
        if isinstance(value, types.FunctionType) or name == "_now":
            yield module, name, value
        if isinstance(value, type) and value.__module__ == module.__name__:
            methods = vars(value).items()
            yield from ((value, n, m) for n, m in methods if isinstance(m, types.FunctionType))


for _each in (_clocks, _timers, _contest, _stopping, _tolerance, _validate):
    keep(_each)


class Replaced(RuntimeError):
    """A clock was replaced before the harness was there: nothing can be measured by it."""


def begin() -> None:
    """Take the settings of PyTorch for those of the run. Raises Replaced."""
    foreign = [_name(h, n) for h, n, value in _kept if _foreign(h, value)]
    if foreign:
        raise Replaced(f"nothing can be timed: {', '.join(foreign)} is not the original any more")
    _begun[:] = [get() for _, get, _ in _SETTINGS]


def restore() -> str | None:
    """Put back what was replaced or set since, and say what it was."""
    replaced = []
    for holder, name, value in _kept:
        if getattr(holder, name, None) is not value:
            setattr(holder, name, value)
            replaced.append(_name(holder, name))
    changed = []
    for (words, get, put), value in zip(_SETTINGS, _begun, strict=False):
        if get() != value:
            changed.append(words)
            put(value)
    said = [f"it {verb} {', '.join(names)}" for verb, names in
            (("replaced", replaced), ("changed", changed)) if names]  # fmt: skip
    return "; ".join(said) or None


def _name(holder: Any, name: str) -> str:
    return f"{holder.__name__}.{name}"


def _foreign(holder: Any, value: Any) -> bool:
    """Whether its code is neither Python's, PyTorch's nor ours."""
    if holder is time:
        return not isinstance(value, types.BuiltinFunctionType)
    code = getattr(value, "__code__", None)
    if code is None:  # a class, or built in
        return isinstance(value, type) and not value.__module__.startswith("torch.")
    made = code.co_filename.startswith("<")  # by dataclass, which has no file
    return not made and not any(Path(code.co_filename).is_relative_to(root) for root in _ROOTS)
