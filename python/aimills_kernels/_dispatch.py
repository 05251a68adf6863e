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
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _configs, _records, _tuned
from aimills_kernels._op import Op, Problem, Provider, as_tuple, tensors_of

_MAX_PLANS = 4096
_ENVIRONMENT = os.environ.get("AIMILLS_PROVIDER", "")  # read once, as plans are kept
_CHECK_ON_GPU = os.environ.get("AIMILLS_CHECK") == "1"
_override: ContextVar[dict[str, str]] = ContextVar("aimills_provider_override", default={})  # noqa: B039
_assumed_sm: ContextVar[int | None] = ContextVar("aimills_assumed_sm", default=None)
_plans: dict[tuple, Plan] = {}
_empty_like, _gradients = torch.empty_like, torch.is_grad_enabled
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)


@dataclass(frozen=True)
class Choice:
    """A provider and why it does not serve; `reason` is None where it could. `note` says what a
    tuned table has on it."""

    provider: Provider
    reason: str | None
    note: str = ""


class Plan:
    """A checked problem: the provider's launch and how to allocate its outputs."""

    __slots__ = (
        "cuda_index",
        "device",
        "launch",
        "outs",
        "plain",
        "provider",
        "scratch",
        "scratched",
        "templates",
        "values",
        "workspace",
    )

    def __init__(
        self,
        op: Op,
        provider: Provider,
        outs: tuple[Tensor, ...],
        plain: bool,
        device: torch.device,
        args: Sequence[Any],
    ):
        self.provider, self.launch, self.device = provider, raw_launch(provider), device
        self.cuda_index = self.device.index if self.device.type == "cuda" else None
        self.values = value_check(op, self.device)
        self.plain = plain  # all that torch's dispatcher would do is to come here
        self.outs = tuple((tuple(o.shape), o.dtype) for o in outs)
        self.templates = tuple(_template(o) for o in outs)
        self.workspace = op.needed_workspace(args)  # bytes that a caller's must have
        self.scratch: Tensor | None = None
        self.scratched = False  # whether the launch writes to any
        if provider.workspace is not None:
            count = provider.workspace(*args)
            self.scratch = _template(torch.empty(count, device="meta"), device)
            self.scratched = count > 0

    def allocate(self, skip: int = 0) -> tuple[Tensor, ...]:
        """Fresh outputs, without the first `skip`."""
        return tuple([_empty_like(t) for t in self.templates[skip:]])

    def run(
        self,
        args: Sequence[Any],
        outs: tuple[Tensor, ...] | None = None,
        workspace: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Launch on flat `args`; into `outs` where given, else into fresh outputs."""
        if self.values is not None and (
            self.cuda_index is None or not torch.cuda.is_current_stream_capturing()
        ):
            self.values(*args)
        if outs is None:
            outs = tuple([_empty_like(t) for t in self.templates])
        filled = outs
        if self.scratch is not None:
            if workspace is None:  # of no bytes one does for all calls
                workspace = _empty_like(self.scratch) if self.scratched else self.scratch
            filled = (*outs, workspace)
        if self.cuda_index is None or self.cuda_index == torch.cuda.current_device():
            self.launch(filled, *args)
        else:
            with on_device(self.device):
                self.launch(filled, *args)
        return outs


def value_check(op: Op, device: torch.device) -> Callable[..., None] | None:
    """The op's check of tensor contents, where it is made."""
    made = device.type == "cpu" or (device.type == "cuda" and _CHECK_ON_GPU)
    return op.values if made else None


def _template(out: Tensor, device: torch.device | None = None) -> Tensor:
    """What `empty_like` makes a contiguous output from, in 1.4 us where `empty` takes 2.4.

    One expanded element, so that a plan holds no memory. With one element at most, `empty_like`
    would keep the strides of 0.
    """
    device = device or out.device
    if out.numel() <= 1:
        return torch.empty(out.shape, dtype=out.dtype, device=device)
    return torch.empty((), dtype=out.dtype, device=device).expand(out.shape)


# ---- the call


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels are launched on the current GPU, so it must be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """What a launch or the reference computes follows from its inputs, not from who calls."""
    return torch._C._ExcludeDispatchKeyGuard(_AUTOCAST)


def plan_for(op: Op, args: Sequence[Any]) -> Plan:
    key = _key(op, op.key(*args))
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MAX_PLANS:
            _plans.clear()
        plan = _plans[key] = _make_plan(op, args)
    return plan


def plain_plan(op: Op, args: Sequence[Any]) -> Plan | None:
    """The plan of an earlier call just like this one, where it needs no more of torch's dispatcher.

    None for everything else: a first call, a gradient, a tensor of another type, what is no tensor
    or not of the schema's type.
    """
    try:
        plan = _plans.get(_key(op, op.plain_key(*args)))
    except (AttributeError, RuntimeError, TypeError):  # no tensor, no strides, not hashable
        return None
    return plan if plan is not None and plan.plain else None


def _key(op: Op, problem: tuple | None) -> tuple:
    """The environment is read once a plan, so it is no part of the key."""
    return (op.name, _override.get().get(op.name), _gradients(), problem)


def _make_plan(op: Op, args: Sequence[Any]) -> Plan:
    device = one_device(op, args)
    outs = as_tuple(op.fake(*args))
    provider = choose(op, args, device, forced_provider(op.name))
    gradients = _gradients()
    plain = all(not (gradients and t.requires_grad) and not t.is_neg() for t in tensors_of(args))
    return Plan(op, provider, outs, plain, device, args)


def one_device(op: Op, args: Sequence[Any]) -> torch.device:
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


# ---- the choice


def choose(op: Op, args: Sequence[Any], device: torch.device, forced: str | None) -> Provider:
    problem = Problem(op, args, device.type, sm_of(device))
    if forced:
        provider = op.provider(forced)
        if reason := why_not(provider, problem):
            raise ValueError(f"{op.name}: provider {forced!r} was asked for, but {reason}")
        return _tuned.configured(provider, _tuned.tuned(op, problem))
    unproven: list[str] = []
    found = choices(op, problem)
    for choice in found:
        if choice.reason is None:
            if unproven:
                _hint(op.name, unproven[0], problem.sm)
            return choice.provider
        if choice.reason.startswith(_records.UNPROVEN):
            unproven.append(choice.provider.name)
    reasons = "; ".join(f"{c.provider.name}: {c.reason}" for c in found)
    raise ValueError(f"{op.name}: no provider takes this problem: {reasons}")


def served_by_kernel(op: Op, args: Sequence[Any]) -> bool:
    """Whether anything but the reference serves `args`; not where the op would refuse them."""
    try:
        try:
            provider = plan_for(op, args).provider
        except RuntimeError:  # traced or wrapped tensors have no address, and so no plan
            provider = choose(op, args, one_device(op, args), forced_provider(op.name))
    except ValueError:
        return False
    return provider.name != "reference"


def choices(op: Op, problem: Problem) -> list[Choice]:
    """Every provider in order of preference, with the reason why it would not be taken."""
    tuned = _tuned.tuned(op, problem)
    found = []
    for provider in _tuned.ordered(op, tuned):
        reason = why_not(provider, problem) or _unproven(op, provider, problem)
        found.append(Choice(provider, reason, tuned.note(provider) if tuned else ""))
    return found


def why_not(provider: Provider, problem: Problem) -> str | None:
    """Why `provider` can't run `problem`; None where it can."""
    emulated = provider.interpret and problem.device == "cpu" and interpreting()
    if problem.device not in provider.devices and not emulated:
        return f"it runs on {' and '.join(provider.devices)}, the tensors are on {problem.device}"
    return _wrong_architecture(provider, problem) or _lacks(provider) or provider.rejects(problem)


def refuses(provider: Provider, problem: Problem) -> str | None:
    """Why it would not take `problem` on that device even with all that it needs installed."""
    return _wrong_architecture(provider, problem) or provider.rejects(problem)


def _wrong_architecture(provider: Provider, problem: Problem) -> str | None:
    sm = problem.sm
    if problem.device != "cuda" or sm is None or not provider.sm:
        return None
    if sm // 10 in {made // 10 for made in provider.sm}:
        return None
    made_for = ", ".join(f"sm_{made}" for made in provider.sm)
    return f"it is made for {made_for}, this GPU is sm_{sm}"


def _lacks(provider: Provider) -> str | None:
    missing = next((p for p in provider.needs if not installed(p)), None)
    return missing and f"the package {missing!r} is not installed"


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


_SM_COUNTS = {80: 108, 86: 84, 90: 132, 100: 148, 120: 188}


def sm_count(device: torch.device) -> int:
    """Multiprocessors; of a GPU that is not here, those of the largest of its architecture."""
    if device.type == "cuda" and _assumed_sm.get() is None:
        return _multiprocessors(device.index or 0)
    return _SM_COUNTS.get(sm_of(device) or 90, 132)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


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
    """The provider's `launch(outs, *args)`; where it needs a workspace, each call makes one."""
    launch, needed = raw_launch(provider), provider.workspace
    if needed is None:
        return launch

    def with_workspace(outs: tuple[Tensor, ...], *args: Any) -> None:
        scratch = torch.empty(needed(*args), device=outs[0].device)
        launch((*outs, scratch), *args)

    return with_workspace


@cache
def raw_launch(provider: Provider) -> Any:
    """The provider's launch function, which gets a workspace behind the outputs if it needs one."""
    module, _, function = provider.target.partition(":")
    function, _, op_name = function.partition("/")
    found = getattr(importlib.import_module(module), function)
    launch = found(op_name) if op_name else found
    return launch if provider.config is None else _configs.launching_with(launch, provider.config)


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


def asked_for() -> dict[str, str]:
    """All that `use_provider` asks for here, by op."""
    return _override.get()


@contextlib.contextmanager
def also_asked_for(before: dict[str, str]) -> Iterator[None]:
    """`before` too, where nothing else is asked for now."""
    token = _override.set({**before, **_override.get()})
    try:
        yield
    finally:
        _override.reset(token)


@contextlib.contextmanager
def use_provider(op: str, name: str) -> Iterator[None]:
    """Within the block, `op` runs on provider `name`, or raises a ValueError that says why not.

    The choice is made when the op runs. A call compiled by `torch.compile` runs its op at run time
    too, so the block around the compiled call decides. A backward pass, which on a GPU runs in a
    thread of its own, keeps to what was asked for around its forward; not where it is compiled.
    """
    from aimills_kernels._registry import get_op

    provider = get_op(op).provider(name)
    token = _override.set({**_override.get(), op: provider.name})
    try:
        yield
    finally:
        _override.reset(token)
