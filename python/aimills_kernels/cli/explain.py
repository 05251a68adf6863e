"""`explain`: which provider would serve, here or on a GPU that isn't here."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aimills_kernels import _dispatch
from aimills_kernels._explain import Explanation, explain_flat
from aimills_kernels._op import Case, Op, map_tensors
from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK, UsageError

_SMALL = 1 << 27  # bytes, which are drawn in well under a second


def run(options: Namespace) -> int:
    op = _one(options.op)
    device, sm = _place(options.device, options.sm)
    case, left_out = _case(op, options)
    args = _arguments(op, case.on(device.type))
    with _dispatch.assume_sm(sm) if sm is not None else contextlib.nullcontext():
        found = explain_flat(op, args, device)
    _show(found)
    if left_out:
        _ui.say(f"not given in --shape, so at the op's defaults: {', '.join(left_out)}", "dim")
    return OK if found.provider else INCOMPLETE


def _one(name: str) -> Op:
    op, *others = _choose.ops([name])
    if others:
        names = ", ".join(o.name for o in (op, *others))
        raise UsageError(f"explain takes one op, and {name!r} is the family of {names}")
    return op


def _place(device: str, sm: int | None) -> tuple[torch.device, int | None]:
    if sm is not None:
        if device == "cpu":
            raise UsageError("--sm is the capability of a GPU and can't go with --device cpu")
        if not 50 <= sm < 200:
            raise UsageError(f"--sm is a compute capability times ten, 90 for an H200; got {sm}")
        return torch.device("cuda"), sm
    if device == "auto" and not torch.cuda.is_available():
        return torch.device("cpu"), None
    if device.startswith("cuda") and (reason := _choose.no_cuda()):
        raise UsageError(f"{reason}; name the GPU that is meant, e.g. --sm 90")
    return _choose.devices(device)[0], None


def _case(op: Op, options: Namespace) -> tuple[Case, list[str]]:
    if options.case is not None:
        try:
            return op.case(options.case), []
        except ValueError as error:
            raise UsageError(str(error)) from None
    return parse_shape(op, options.shape)


def parse_shape(op: Op, text: str) -> tuple[Case, list[str]]:
    """A case from "B=1,M=128,...", and the names of what it leaves to the op's cases."""
    known = {k: v for c in reversed(op.cases) for k, v in c.dims.items()}
    needed = [k for k in op.cases[0].dims if all(k in c.dims for c in op.cases)]
    more = ", ".join(sorted({*known} - {*needed}))
    help_ = f"{op.name} takes {', '.join(needed)}, and if wanted {more}"
    dims: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise UsageError(f"--shape: {item!r} should be <name>=<value>; {help_}")
        if name not in known:
            raise UsageError(f"--shape: unknown {name!r}; {help_}")
        if name in dims:
            raise UsageError(f"--shape: {name} is given twice")
        dims[name] = _value(name, value, known[name], _lengths(op, name))
    if absent := [k for k in needed if k not in dims]:
        raise UsageError(f"--shape lacks {', '.join(absent)}; {help_}")
    return Case("shape", **dims), sorted({*known} - {*dims})


def _lengths(op: Op, name: str) -> set[int]:
    """Of a dimension that is a list."""
    found = (c.dims[name] for c in op.cases if name in c.dims)
    return {len(value) for value in found if isinstance(value, (tuple, list))}


def _value(name: str, text: str, like: Any, lengths: set[int]) -> Any:
    """`text` as the type that the op's cases give this dimension. A list is as long as theirs; of
    any length where `lengths` are several: rows of each expert, dims of a shape."""
    if isinstance(like, bool):
        if text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        raise UsageError(f"--shape: {name} should be true or false, got {text!r}")
    try:
        if isinstance(like, int):
            if not 0 <= int(text) < 2**62:
                raise ValueError
            return int(text)
        if isinstance(like, float):
            return float(text)
    except ValueError:
        kind = "a whole number from 0 to 2^62" if isinstance(like, int) else "a number"
        raise UsageError(f"--shape: {name} should be {kind}, got {text!r}") from None
    if isinstance(like, (tuple, list)):
        parts = text.lower().split("x")
        several = len(lengths) > 1
        if (several or {len(parts)} == lengths) and all(p.isdecimal() for p in parts):
            return tuple(int(p) for p in parts)
        count = "one or more" if several else len(like)
        raise UsageError(f"--shape: {name} should be {count} numbers like 224x224, got {text!r}")
    return text


def _arguments(op: Op, case: Case) -> tuple:
    """The op's arguments without their data, so that a problem of any size can be explained."""
    try:
        try:
            # Fake tensors import all of torch.compile, which takes as long as torch itself.
            small = op.cost(case).bytes <= _SMALL
            with contextlib.nullcontext() if small else FakeTensorMode():
                made = op.make_inputs(case, "cpu", 0)
        except Exception:  # inputs that look at values can't be made without data
            made = op.make_inputs(case, "cpu", 0)
    except MemoryError:
        raise UsageError(f"{op.name}: the inputs of this problem don't fit into memory") from None
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{op.name} can't have such a problem: {said}") from None
    return tuple(map_tensors(_without_data, a) for a in made)


def _without_data(t: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _show(found: Explanation) -> None:
    _ui.say(f"{found.op} on {found.device}: {found.problem}")
    rows = [("->" if chosen else "", name, why) for name, chosen, why in found.rows]
    _ui.table("", ("", "provider", "why"), rows)
    if found.provider is None:
        _ui.say("no provider can serve this problem", _ui.style_of("wrong"))
