"""Which provider serves a call, and the call itself.

A problem (shapes, strides, dtypes, alignment, scalars) is checked and given a provider once; later
calls of the same problem find the plan by their key, allocate the outputs and launch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _records
from aimills_kernels._op import Op, Problem, Provider, as_tuple

_MAX_PLANS = 4096
_ENVIRONMENT = os.environ.get("AIMILLS_PROVIDER", "")  # read once, as plans are kept
_CHECK_ON_GPU = os.environ.get("AIMILLS_CHECK") == "1"
_override: ContextVar[dict[str, str]] = ContextVar("aimills_provider_override", default={})  # noqa: B039
_assumed_sm: ContextVar[int | None] = ContextVar("aimills_assumed_sm", default=None)
_plans: dict[tuple, Plan] = {}
PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype})  # arguments that are no tensors


@dataclass(frozen=True)
class Choice:
    """A provider and why it does not serve; `reason` is None where it could."""

    provider: Provider
    reason: str | None


class Plan:
    """A checked problem: the provider's launch and how to allocate its outputs."""

    __slots__ = ("cuda_index", "device", "launch", "outs", "provider", "templates")

    def __init__(self, provider: Provider, launch: Any, outs: tuple[Tensor, ...]):
        self.provider, self.launch, self.device = provider, launch, outs[0].device
        self.cuda_index = self.device.index if self.device.type == "cuda" else None
        self.outs = tuple((tuple(o.shape), o.dtype) for o in outs)
        self.templates = tuple(_template(o) for o in outs)

    def allocate(self, skip: int = 0) -> tuple[Tensor, ...]:
        """Fresh outputs, without the first `skip`."""
        return tuple([torch.empty_like(t) for t in self.templates[skip:]])


def _template(out: Tensor) -> Tensor:
    """What `empty_like` makes a contiguous output from, in 1.4 us where `empty` takes 2.4.

    One expanded element, so that a plan holds no memory. With one element at most, `empty_like`
    would keep the strides of 0.
    """
    if out.numel() <= 1:
        return torch.empty(out.shape, dtype=out.dtype, device=out.device)
    return torch.empty((), dtype=out.dtype, device=out.device).expand(out.shape)


# ---- the call


def call(op: Op, args: tuple, outs: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
    """Run `op` on flat `args`; into `outs` where given, else into fresh outputs."""
    plan = plan_for(op, args)
    if op.values is not None and (plan.cuda_index is None or _checks_gpu()):
        op.values(*args)
    if outs is None:
        outs = plan.allocate()
    if plan.cuda_index is not None and plan.cuda_index != torch.cuda.current_device():
        with on_device(plan.device):
            plan.launch(outs, *args)
    else:
        plan.launch(outs, *args)
    return outs


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels are launched on the current GPU, so it must be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def plan_for(op: Op, args: tuple) -> Plan:
    # Written flat: this loop is half of what a call costs beyond the registration itself.
    # The environment is read once a plan, so it is no part of the key.
    parts: list[Any] = []
    add = parts.append
    add(op.name)
    add(_override.get().get(op.name))
    for a in args:
        if type(a) in PLAIN:
            add(a)
        elif isinstance(a, Tensor):
            add(a.shape)
            add(a.stride())
            add(a.dtype)
            add(a.get_device())
            add(a.data_ptr() & 15)
        else:
            add(tuple([_key(t) for t in a]))
    key = tuple(parts)
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MAX_PLANS:
            _plans.clear()
        plan = _plans[key] = _make_plan(op, args)
    return plan


def _key(arg: Any) -> Any:
    """Of one element of a list."""
    if isinstance(arg, Tensor):
        return (arg.shape, arg.stride(), arg.dtype, arg.get_device(), arg.data_ptr() & 15)
    return arg


def _make_plan(op: Op, args: tuple) -> Plan:
    device = one_device(op, args)
    outs = as_tuple(op.fake(*args))
    provider = choose(op, args, device, forced_provider(op.name))
    return Plan(provider, load(provider), outs)


def one_device(op: Op, args: tuple) -> torch.device:
    """The device of all tensors; a ValueError names the first that is elsewhere."""
    first: tuple[str, torch.device] | None = None
    for i in op.tensors:
        several = isinstance(args[i], (list, tuple))
        for k, t in enumerate(args[i] if several else (args[i],)):
            if t is None:
                continue
            name = f"{op.params[i]}[{k}]" if several else op.params[i]
            if first is None:
                first = (name, t.device)
            elif t.device != first[1]:
                raise ValueError(
                    f"{op.name}: {name} is on {t.device}, {first[0]} on {first[1]}; "
                    "all tensors must be on one device"
                )
    if first is None:
        raise ValueError(f"{op.name}: needs at least one tensor")
    return first[1]


def _checks_gpu() -> bool:
    return _CHECK_ON_GPU and not torch.cuda.is_current_stream_capturing()


# ---- the choice


def choose(op: Op, args: tuple, device: torch.device, forced: str | None) -> Provider:
    problem = Problem(op, args, device.type, sm_of(device))
    if forced:
        provider = op.provider(forced)
        if reason := why_not(provider, problem):
            raise ValueError(f"{op.name}: provider {forced!r} was asked for, but {reason}")
        return provider
    unproven: list[str] = []
    for choice in choices(op, problem):
        if choice.reason is None:
            if unproven:
                _hint(op.name, unproven[0], problem.sm)
            return choice.provider
        if choice.reason.startswith(_records.UNPROVEN):
            unproven.append(choice.provider.name)
    raise ValueError(f"{op.name}: no provider takes this problem; see explain({op.name!r}, ...)")


def choices(op: Op, problem: Problem) -> list[Choice]:
    """Every provider in order of preference, with the reason why it would not be taken."""
    found = []
    for provider in op.all_providers:
        reason = why_not(provider, problem) or _unproven(op, provider, problem)
        found.append(Choice(provider, reason))
    return found


def why_not(provider: Provider, problem: Problem) -> str | None:
    """Why `provider` can't run `problem`; None where it can."""
    if problem.device not in provider.devices:
        if not (provider.interpret and problem.device == "cpu" and interpreting()):
            return (
                f"it runs on {' and '.join(provider.devices)}, the tensors are on {problem.device}"
            )
    elif problem.device == "cuda" and provider.sm and problem.sm is not None:
        return _wrong_architecture(provider, problem.sm) or _cannot(provider, problem)
    return _cannot(provider, problem)


def _wrong_architecture(provider: Provider, sm: int) -> str | None:
    if sm // 10 in {made // 10 for made in provider.sm}:
        return None
    made_for = ", ".join(f"sm_{made}" for made in provider.sm)
    return f"it is made for {made_for}, this GPU is sm_{sm}"


def _cannot(provider: Provider, problem: Problem) -> str | None:
    for package in provider.needs:
        if not installed(package):
            return f"the package {package!r} is not installed"
    return provider.rejects(problem)


def _unproven(op: Op, provider: Provider, problem: Problem) -> str | None:
    """Own GPU kernels serve unasked only where a record shows them correct."""
    if provider.vendor or problem.device not in provider.devices or problem.device == "cpu":
        return None
    return _records.missing(op, provider, problem.sm)


@cache
def _hint(op: str, provider: str, sm: int | None) -> None:
    warnings.warn(
        f"{op}: provider {provider!r} has no record on sm_{sm}, so a slower path serves; "
        f"`aimills-kernels validate {op}` checks it on this GPU and unlocks it",
        stacklevel=2,
    )


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def sm_of(device: torch.device) -> int | None:
    """Compute capability times ten, 90 for an H200; None for a CPU."""
    if (assumed := _assumed_sm.get()) is not None:
        return assumed
    return _capability(device.index or 0) if device.type == "cuda" else None


@cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@contextlib.contextmanager
def assume_sm(sm: int) -> Iterator[None]:
    """Choose and compile as for this capability: for `explain` and ahead-of-time compiles."""
    token = _assumed_sm.set(sm)
    try:
        yield
    finally:
        _assumed_sm.reset(token)


@cache
def load(provider: Provider) -> Any:
    """The provider's launch function."""
    module, _, function = provider.target.partition(":")
    function, _, op_name = function.partition("/")
    found = getattr(importlib.import_module(module), function)
    return found(op_name) if op_name else found


def reference_launch(op_name: str) -> Any:
    """The reference as a provider: what it returns is copied into the outputs."""
    from aimills_kernels._registry import get_op

    reference = get_op(op_name).reference

    def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
        for out, value in zip(outs, as_tuple(reference(*args)), strict=True):
            out.copy_(value)

    return launch


# ---- what a user can ask for


@lru_cache(maxsize=8)
def _parse(text: str) -> dict[str, str]:
    from aimills_kernels._registry import get_op

    chosen = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, eq, provider = item.partition("=")
        if not eq:
            raise ValueError(f"AIMILLS_PROVIDER: {item!r} should be <op>=<provider>")
        try:
            chosen[name] = get_op(name).provider(provider).name
        except ValueError as error:
            raise ValueError(f"AIMILLS_PROVIDER: {error}") from None
    return chosen


def forced_provider(op: str) -> str | None:
    """What `use_provider` or AIMILLS_PROVIDER asks for."""
    return _override.get().get(op) or _parse(_ENVIRONMENT).get(op)


@contextlib.contextmanager
def use_provider(op: str, name: str) -> Iterator[None]:
    """Within the block, `op` runs on provider `name`, or raises a ValueError that says why not.

    The choice is made when the op runs. A call compiled by `torch.compile` runs its op at run time
    too, so the block around the compiled call decides.
    """
    from aimills_kernels._registry import get_op

    provider = get_op(op).provider(name)
    token = _override.set({**_override.get(), op: provider.name})
    try:
        yield
    finally:
        _override.reset(token)
