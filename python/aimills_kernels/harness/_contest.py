"""Contestants of a benchmark: own inputs and outputs for each, and the checks around the clock.

What a contestant could get wrong only while it is timed is looked at here: its outputs are
poisoned before every sample, and afterwards the last timed output, the inputs and one more call on
fresh data under the same pointers are checked.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _dispatch, _validate
from aimills_kernels._op import Case, Op, Provider, as_tuple, map_tensors, span, tensors_of
from aimills_kernels.harness.env import ROOT, first_line

_MAX_SETS = 6
_SEED_STEP = 1000  # apart from the seeds of `validate`, which are two neighbours
_MEMORY_SHARE = 0.3  # of the free memory that all sets of inputs may take

Expected = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class Stage:
    """The inputs of one op and case: several sets of different data, and what they should give."""

    def __init__(self, op: Op, case: Case, device: torch.device, seed: int, cache_bytes: int):
        self.op, self.case, self.device, self.seed = op, case, device, seed
        first = self._make(0)
        size = sum(span(t) * t.element_size() for t in tensors_of(first))
        self.sets = [first, *(self._make(i) for i in range(1, _sets(size, cache_bytes, device)))]
        self.fresh = self._make(_MAX_SETS)
        self._expected: dict[int, Expected] = {}

    def _make(self, index: int) -> tuple:
        return self.op.make_inputs(self.case, self.device, self.seed + _SEED_STEP * (index + 1))

    def expected(self, index: int) -> Expected:
        """(oracle, the reference in the op's dtypes) for a set; -1 is the fresh one."""
        if index not in self._expected:
            args = self.fresh if index < 0 else self.sets[index]
            self._expected[index] = (self.op.oracle(args), self.op.results(args))
        return self._expected[index]

    def judge(self, outs: tuple[Tensor, ...], index: int) -> tuple[float, list[str]]:
        """The largest share of a tolerance that `outs` uses, and what is wrong with them."""
        args = self.fresh if index < 0 else self.sets[index]
        oracle, rounded = self.expected(index)
        used, wrong = 0.0, [] if outs else ["there is none"]
        for name, tolerance, got, want, own in zip(
            self.op.outputs, self.op.tolerance, outs, oracle, rounded, strict=False
        ):
            if got.shape != own.shape or got.dtype != own.dtype:
                wrong.append(
                    f"{name} is {_validate._shape(got)} and should be {_validate._shape(own)}"
                )
                continue
            judgement = tolerance.judge(got, want, own, args)
            used = max(used, judgement.used)
            if not judgement.ok:
                wrong.append(f"{name}: {judgement.text}")
        return used, wrong


def _sets(size: int, cache_bytes: int, device: torch.device) -> int:
    """So many that together they don't fit into the cache, and at least two."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 4 << 30
    wanted = math.ceil(2 * cache_bytes / max(size, 1)) + 1
    affordable = int(_MEMORY_SHARE * free / max(size, 1) / 8)
    return max(2, min(wanted, affordable, _MAX_SETS))


def _own(t: Tensor) -> Tensor:
    return _validate.Fenced(t, copy=True).tensor


class Contestant:
    """A provider with its own copies of the inputs, and outputs that are allocated once."""

    external = False

    def __init__(self, stage: Stage, name: str, peer: bool):
        self.stage, self.name, self.peer = stage, name, peer
        self.sets = [tuple(map_tensors(_own, a) for a in s) for s in stage.sets]
        self.current = 0
        self.broken: str | None = None  # an exception in the timed loop

    def rotate(self, round_: int) -> None:
        """On to the next inputs, with poisoned outputs."""
        self.current = round_ % len(self.sets)
        self.poison()

    def poison(self) -> None:
        raise NotImplementedError

    def outputs(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def launch(self, args: tuple) -> None:
        raise NotImplementedError

    def __call__(self) -> None:
        if self.broken is None:
            try:
                self.launch(self.sets[self.current])
            except Exception as error:  # the others go on
                self.broken = f"{type(error).__name__}: {first_line(error)}"

    def check(self) -> tuple[float, list[str]]:
        """After the timed loop: the largest share of the tolerance used, and all that is wrong."""
        if self.broken is not None:
            return math.inf, [self.broken]
        used, wrong = self._judged("the last timed output", self.current)
        wrong += self._changed_inputs()
        args = self.sets[self.current]
        self.poison()
        for old, new in zip(tensors_of(args), tensors_of(self.stage.fresh), strict=True):
            _validate._overwrite(old, new)
        self()
        if self.broken is not None:
            return math.inf, [*wrong, self.broken]
        again, more = self._judged("on fresh data after timing", -1)
        return max(used, again), wrong + more

    def _judged(self, label: str, index: int) -> tuple[float, list[str]]:
        used, wrong = self.stage.judge(self.outputs(), index)
        return used, [f"{label}: {w}" for w in wrong]

    def _changed_inputs(self) -> list[str]:
        written = self.stage.op.written
        for mine, pristine in zip(self.sets, self.stage.sets, strict=True):
            free = {id(t) for t in written(mine)}
            for a, b in zip(tensors_of(mine), tensors_of(pristine), strict=True):
                if id(a) not in free and not _validate._same_bits(a, b):
                    return [f"an input was written to while timing ({_validate._shape(a)})"]
        return []


class OfProvider(Contestant):
    def __init__(self, stage: Stage, provider: Provider):
        super().__init__(stage, provider.name, provider.vendor)
        self._launch = _dispatch.raw_launch(provider)
        fakes = as_tuple(stage.op.fake(*self.sets[0]))
        self._buffers = [_validate._poisoned(o) for o in fakes]
        self._outs = tuple(out for _, out, _ in self._buffers)
        self._filled = self._outs
        if provider.workspace is not None:
            scratch = torch.empty(provider.workspace(*self.sets[0]), device=stage.device)
            self._filled = (*self._outs, scratch)
        self.poison()

    def poison(self) -> None:
        for buffer, _, _ in self._buffers:
            _validate._bytes(buffer).fill_(_validate._POISON_BYTE)
        written, current = self.stage.op.written, self.current
        for own, pristine in zip(
            written(self.sets[current]), written(self.stage.sets[current]), strict=True
        ):
            _validate._overwrite(own, pristine)

    def outputs(self) -> tuple[Tensor, ...]:
        return self._outs or self.stage.op.written(self.sets[self.current])

    def launch(self, args: tuple) -> None:
        self._launch(self._filled, *args)


class OfPeer(Contestant):
    """Someone else's function, which makes its own outputs: that is part of its time."""

    external = True

    def __init__(self, stage: Stage, name: str, function: Callable[..., Any]):
        super().__init__(stage, name, True)
        self._function, self._result = function, ()

    def poison(self) -> None:
        self._result = ()

    def outputs(self) -> tuple[Tensor, ...]:
        return self._result

    def launch(self, args: tuple) -> None:
        self._result = as_tuple(self._function(*args))

    @property
    def about(self) -> str | None:
        """What it computes, in its own words."""
        return (self._function.__doc__ or "").strip().partition("\n")[0] or None

    def differing(self) -> float:
        """The share of values that are not the reference's, beyond the rounding of their dtype."""
        _, reference = self.stage.expected(0)
        off = total = 0
        for got, want in zip(self.outputs(), reference, strict=False):
            if got.shape != want.shape or not want.dtype.is_floating_point:
                continue
            step = torch.finfo(want.dtype).eps
            close = torch.isclose(got.float(), want.float(), rtol=step, atol=0.0, equal_nan=True)
            off, total = off + int((~close).sum()), total + close.numel()
        return off / total if total else 0.0

    def try_out(self) -> tuple[float, list[str]]:
        """One call on the first inputs, before any timing. What it raises is the caller's."""
        self.launch(self.sets[0])
        return self._judged("against float64", 0)


def peers_of(op: Op, folder: Path | None = None) -> dict[str, Callable[..., Any]]:
    """`PEERS` of `bench/peers_<family>.py`; empty where there's no such file, as in a wheel."""
    family = op.reference.__module__.split(".")[-2:][0]
    path = (folder or ROOT / "bench") / f"peers_{family}.py"
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"aimills_bench_peers_{family}", path)
    if spec is None or spec.loader is None:
        return {}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.PEERS)
