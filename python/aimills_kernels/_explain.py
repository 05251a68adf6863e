"""explain(): which provider serves a call, and why the others don't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aimills_kernels import _configs, _dispatch
from aimills_kernels._op import PLAIN, Op, Problem, describe, tensors_of
from aimills_kernels._registry import get_op


@dataclass(frozen=True)
class Explanation:
    """One row a provider, in order of preference: name, whether it serves, and why (not)."""

    op: str
    problem: str
    device: str
    rows: tuple[tuple[str, bool, str], ...]

    @property
    def provider(self) -> str | None:
        """The provider that serves; None where none can."""
        return next((name for name, chosen, _ in self.rows if chosen), None)

    def __str__(self) -> str:
        width = max(len(name) for name, _, _ in self.rows)
        lines = [f"{self.op} on {self.device}: {self.problem}"]
        for name, chosen, why in self.rows:
            lines.append(f"  {'->' if chosen else '  '} {name:<{width}}  {why}")
        return "\n".join(lines)


def explain(op: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Say which provider a call would take, and why each of the others would not serve.

    `op` is an op's name or its public function; the arguments are those of the public function.
    Nothing is computed, so meta tensors do; they stand for a GPU's where there is one, else for a
    CPU's. ValueError for a call that the op would refuse.
    """
    declared = get_op(getattr(op, "__name__", op))
    return explain_flat(declared, flat_arguments(declared.name, *args, **kwargs))


def explain_flat(op: Op, args: tuple, device: torch.device | None = None) -> Explanation:
    """`explain` for flat arguments; `device` stands in for that of meta tensors."""
    own = _dispatch.one_device(op, args)
    device = device or _stand_in(own)
    op.fake(*args)
    values = _dispatch.value_check(op, own)
    if values is not None and all(type(t) in PLAIN for t in tensors_of(args)):
        values(*args)
    problem = Problem(op, args, device.type, _dispatch.sm_of(device))
    forced = _dispatch.forced_provider(op.name)
    rows, taken = [], False
    for choice in _dispatch.choices(op, problem):
        why_not = choice.reason
        if forced:
            asked = choice.provider.name == forced
            why_not = (
                _dispatch.why_not(choice.provider, problem) if asked else "another is asked for"
            )
        chosen = why_not is None and not taken
        why = why_not or _why(chosen, bool(forced))
        if chosen and device.type == "cuda" and not forced and not choice.note:
            why += ", by the built-in order"
        tiles = _configs.origin(choice.provider, problem) if chosen else ""
        why = "; ".join(filter(None, (why, tiles, choice.note)))
        rows.append((choice.provider.name, chosen, why))
        taken = taken or chosen
    text = ", ".join(f"{p}={describe(a)}" for p, a in zip(op.params, args, strict=True))
    place = device.type if problem.sm is None else f"{device.type} sm_{problem.sm}"
    return Explanation(op.name, text, place, tuple(rows))


def _stand_in(device: torch.device) -> torch.device:
    """Meta tensors stand for those of a GPU where there is one or one is assumed, else of a CPU."""
    if device.type != "meta":
        return device
    gpu = torch.cuda.is_available() or _dispatch.sm_of(torch.device("cpu")) is not None
    return torch.device("cuda" if gpu else "cpu")


def _why(chosen: bool, forced: bool) -> str:
    if not chosen:
        return "could serve; comes later in the order of preference"
    return "serves, as asked for" if forced else "serves"


def flat_arguments(name: str, *args: Any, **kwargs: Any) -> tuple:
    """What the public function hands to its torch op."""
    import aimills_kernels

    seen: list[tuple] = []

    class Catch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.namespace == "aimills":
                seen.append(args)
                raise _Caught
            return func(*args, **(kwargs or {}))

    try:
        with Catch(), torch.no_grad():
            getattr(aimills_kernels, name)(*args, **kwargs)
    except _Caught:
        pass
    return seen[0]


class _Caught(Exception):
    pass
