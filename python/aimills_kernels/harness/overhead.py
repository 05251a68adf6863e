"""What a call through the public function costs the host.

Held against a torch op of the same schema that does nothing but return fresh outputs: the price of
the registration itself, below which no library can go.
"""

from __future__ import annotations

import inspect
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

import aimills_kernels
from aimills_kernels import _dispatch
from aimills_kernels._op import Op, map_tensors
from aimills_kernels._registry import OPS
from aimills_kernels.harness.timing import Timing, summarise
from aimills_kernels.kernels.video.ragged import public_arguments
from aimills_kernels.packed import PackedWeight
from aimills_kernels.packed_experts import PackedExperts

TARGET_US = 5.0
ROUNDS = 400
_CALLS = 20  # a sample: short, so that a pair of them sees one speed of an unsteady clock
_now = time.thread_time_ns  # CPU time of this thread: other processes do not count


def measure(
    device: str | torch.device = "cpu", *, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Any]:
    """Host time of a public call and of the no-op op, in interleaved rounds, for each op.

    {"target_us", "rounds", "calls_per_sample", "ops": {name: {"public_us", "noop_us", "extra_us",
    "extra_iqr_us", "ok", ...}}}; `extra_us` is the median over rounds of public - noop. Both
    allocate their outputs alike. The public call is timed without the op's check of tensor
    contents, which is work on the data and done on a CPU only; `values_us` is what that check adds,
    `gradient_us` what it adds that a gradient is wanted. An op whose public function takes other
    arguments than its schema has `skipped` instead.
    """
    found: dict[str, Any] = {}
    for op in OPS:
        with contestants(op, device) as calls:
            found[op.name] = compare(calls, rounds, seed) if calls else {"skipped": _OTHER}
    return {
        "device": str(device),
        "target_us": TARGET_US,
        "rounds": rounds,
        "calls_per_sample": _CALLS,
        "ops": found,
    }


_OTHER = "its public function takes other arguments than the schema"


def compare(
    calls: dict[str, Callable[[], Any]], rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Any]:
    """The row of one op: medians over rounds in which every call has a sample."""
    order = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        sample_us(call)
    for _ in range(rounds):
        turn = list(calls)
        order.shuffle(turn)
        for name in turn:
            samples[name].append(sample_us(calls[name]))
    extra = _summary(_differences(samples["public"], samples["noop"]))
    return {
        "public_us": _summary(samples["public"]).median_us,
        "noop_us": _summary(samples["noop"]).median_us,
        "extra_us": extra.median_us,
        "extra_iqr_us": extra.q3_us - extra.q1_us,
        "ok": extra.median_us <= TARGET_US,
        **{
            f"{name}_us": _summary(_differences(samples[name], samples["public"])).median_us
            for name in ("values", "gradient")
            if name in calls
        },
    }


def least(calls: dict[str, Callable[[], Any]], tries: int = 3) -> dict[str, Any]:
    """The best of some comparisons: other processes on the same cores only add to it."""
    found = compare(calls)
    for seed in range(1, tries):
        if found["ok"]:
            break
        found = min(found, compare(calls, seed=seed), key=lambda each: each["extra_us"])
    return found


def busy() -> str | None:
    """Why a time above the target would say nothing: more wants to run than there are cores."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f"the load is {load:.1f} on {cores} cores" if load > cores + 0.5 else None


def _summary(samples: list[float]) -> Timing:
    return summarise(samples, clock="monotonic", cold=False)


def _differences(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def sample_us(call: Callable[[], Any], calls: int = _CALLS) -> float:
    begin = _now()
    for _ in range(calls):
        call()
    return (_now() - begin) / 1e3 / calls


@contextmanager
def contestants(op: Op, device: str | torch.device) -> Iterator[dict[str, Callable[[], Any]]]:
    """The public function with a provider that does nothing, and the no-op op."""
    args = op.make_inputs(op.case("tiny").on(torch.device(device).type), device, 0)
    public = public_call(op, args)
    if public is None:
        yield {}
        return
    plan = _plan(op, args, public)
    calls: dict[str, Callable[[], Any]] = {
        "public": public,
        "noop": partial(noop_op(op, str(device)), *args),
    }
    if plan.values is not None:
        calls["values"] = partial(_checked, public, plan.values, args)
    plans = [plan]
    if op.backward:
        wanting = tuple(map_tensors(_wanting_gradient, a) for a in args)
        calls["gradient"] = public_call(op, wanting) or public
        plans.append(_plan(op, wanting, calls["gradient"]))
    before = [(p.launch, p.values) for p in plans]
    try:
        for p in plans:
            p.launch, p.values = _nothing, None
        yield calls
    finally:
        for p, (launch, values) in zip(plans, before, strict=True):
            p.launch, p.values = launch, values


def _plan(op: Op, args: tuple, public: Callable[[], Any]) -> _dispatch.Plan:
    public()  # makes it
    return _dispatch.plan_for(op, args)


def _wanting_gradient(t: Tensor) -> Tensor:
    return t.detach().requires_grad_() if t.dtype in (torch.float32, torch.bfloat16) else t


def _checked(public: Callable[[], Any], values: Callable[..., None], args: tuple) -> None:
    values(*args)
    public()


def _nothing(outs: Any, *args: Any) -> None:
    pass


def public_call(op: Op, args: tuple) -> Callable[[], Any] | None:
    """The public function bound to flat arguments; None where it takes others."""
    function = getattr(aimills_kernels, op.name)
    named = dict(zip(op.params, args, strict=True))
    parameters = inspect.signature(function).parameters
    if "clips" in parameters:
        named = public_arguments(named)
    if "size" in parameters:
        named["size"] = (named.pop("height"), named.pop("width"))
        named["mode"] = named.pop("resize_mode")
        named |= {p: named[p] or None for p in ("crop", "window", "pad", "clip", "patch", "jitter")}
    if "window_left" in named:
        named["window"] = (named.pop("window_left"), named.pop("window_right"))
    if "packed" in parameters:
        kind = PackedExperts if named["codes"].dim() == 3 else PackedWeight
        parts = {f.name: named.pop(f.name) for f in fields(kind) if f.name in named}
        named["packed"] = kind(**parts, in_features=named["x"].shape[-1])
    if named.get("activation") == "none":
        named["activation"] = None
    if not set(named) <= set(parameters):
        return None
    positional = [p for p in named if parameters[p].kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = {p: named[p] for p in named if p not in positional}
    return partial(function, *[named[p] for p in positional], **keywords)


@lru_cache(maxsize=1)
def _library() -> torch.library.Library:
    return torch.library.Library("aimills_noop", "FRAGMENT")


@cache
def noop_op(op: Op, device: str) -> Any:
    """An op with the schema of `op` that returns fresh outputs, allocated as its plan does."""
    library, name = _library(), f"{op.name}_{device.replace(':', '')}"
    args = op.make_inputs(op.case("tiny").on(torch.device(device).type), device, 0)
    plan = _dispatch.plan_for(op, args)
    allocate, single = plan.allocate, len(plan.outs) == 1

    def kernel(*_: Any) -> Any:
        outs = allocate()
        return outs[0] if single else outs or None

    library.define(name + op.schema)
    library.impl(name, kernel, torch.device(device).type.upper())
    return getattr(torch.ops.aimills_noop, name).default
