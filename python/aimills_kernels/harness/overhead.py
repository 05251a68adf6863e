"""What a call through the public function costs the host.

Held against a torch op of the same schema that does nothing but return fresh outputs: the price of
the registration itself, below which no library can go.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import Any

import torch

import aimills_kernels
from aimills_kernels import _dispatch
from aimills_kernels._op import Op, as_tuple
from aimills_kernels._registry import OPS
from aimills_kernels.harness.timing import summarise

TARGET_US = 5.0
_CALLS = 200  # a sample
_now = time.thread_time_ns  # CPU time of this thread: other processes do not count


def measure(
    device: str | torch.device = "cpu", *, rounds: int = 40, seed: int = 0
) -> dict[str, Any]:
    """Host time of a public call and of the no-op op, in interleaved rounds, for each op.

    {"target_us", "rounds", "calls_per_sample", "ops": {name: {"public_us", "noop_us", "values_us",
    "extra_us", "ok", ...}}}; `extra_us` is the median over rounds of public - noop. The public call
    is timed without the op's check of tensor contents, which is work on the data and done on a CPU
    only; `values_us` is what that check adds. An op whose public function takes other arguments
    than its schema has `skipped` instead.
    """
    found: dict[str, Any] = {}
    for op in OPS:
        with _contestants(op, device) as calls:
            found[op.name] = _compare(calls, rounds, seed) if calls else {"skipped": _OTHER}
    return {
        "device": str(device),
        "target_us": TARGET_US,
        "rounds": rounds,
        "calls_per_sample": _CALLS,
        "ops": found,
    }


_OTHER = "its public function takes other arguments than the schema"


def _compare(calls: dict[str, Callable[[], Any]], rounds: int, seed: int) -> dict[str, Any]:
    order = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        sample_us(call)
    for _ in range(rounds):
        turn = list(calls)
        order.shuffle(turn)
        for name in turn:
            samples[name].append(sample_us(calls[name]))
    extras = _differences(samples["public"], samples["noop"])
    public, noop, extra, value = (
        summarise(s, clock="monotonic", cold=False)
        for s in (
            samples["public"],
            samples["noop"],
            extras,
            _differences(samples.get("checked", samples["public"]), samples["public"]),
        )
    )
    return {
        "public_us": public.median_us,
        "noop_us": noop.median_us,
        "values_us": value.median_us,
        "extra_us": extra.median_us,
        "extra_iqr_us": extra.q3_us - extra.q1_us,
        "ok": extra.median_us <= TARGET_US,
    }


def _differences(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def sample_us(call: Callable[[], Any], calls: int = _CALLS) -> float:
    begin = _now()
    for _ in range(calls):
        call()
    return (_now() - begin) / 1e3 / calls


@contextmanager
def _contestants(op: Op, device: str | torch.device) -> Iterator[dict[str, Callable[[], Any]]]:
    """The public function with a provider that does nothing, and the no-op op."""
    args = op.make_inputs(op.case("tiny").on(torch.device(device).type), device, 0)
    public = public_call(op, args)
    if public is None:
        yield {}
        return
    public()  # makes the plan
    plan = _dispatch.plan_for(op, args)
    launch, plan.launch, values = plan.launch, _nothing, op.values
    calls: dict[str, Callable[[], Any]] = {
        "public": public,
        "noop": partial(noop_op(op, str(device)), *args),
    }
    try:
        # The kernel's closure holds this very op; it is frozen for everyone but this measurement.
        object.__setattr__(op, "values", None)
        if values is not None and torch.device(device).type == "cpu":
            calls["checked"] = partial(_checked, public, values, args)
        yield calls
    finally:
        plan.launch = launch
        object.__setattr__(op, "values", values)


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
    if "size" in parameters:
        named["size"] = (named.pop("height"), named.pop("width"))
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
    """An op with the schema of `op` that returns fresh outputs of its tiny case."""
    library, name = _library(), f"{op.name}_{device.replace(':', '')}"
    args = op.make_inputs(op.case("tiny").on(torch.device(device).type), device, 0)
    shapes = [(tuple(o.shape), o.dtype, o.device) for o in as_tuple(op.fake(*args))]

    def kernel(*_: Any) -> Any:
        outs = tuple([torch.empty(s, dtype=d, device=v) for s, d, v in shapes])
        return outs if len(outs) > 1 else outs[0]

    library.define(name + op.schema)
    library.impl(name, kernel, torch.device(device).type.upper())
    return getattr(torch.ops.aimills_noop, name).default
