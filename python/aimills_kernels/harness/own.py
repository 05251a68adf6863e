"""Somebody's own kernel, as `bench_op` has it: checked against a reference, timed as a peer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Op, as_tuple, to_device
from aimills_kernels._tolerance import Exact, Ratio, Tolerance
from aimills_kernels._words import shown
from aimills_kernels.harness import _guard, bench, ceilings, record
from aimills_kernels.harness._contest import OfPeer, Stage
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.peers import Peer
from aimills_kernels.harness.timing import timer_for

At = Callable[[str], None]
NAME = "own"  # of the kernel among its peers


class Unusable(ValueError):
    """Why arguments of `bench_op` can't be used."""


class NotTimed(RuntimeError):
    """Why there is no row, in a sentence."""


def exits(error: SystemExit) -> str:
    return f"it or a peer tried to end the process: SystemExit: {error}"


class _OwnOp(Op):
    """An op without a schema: its arguments come as they are drawn."""

    def make_inputs(self, case: Case, device: str | torch.device, seed: int) -> tuple:
        generator = torch.Generator(device).manual_seed(seed)
        drawn: Any = self.inputs(case, generator)
        return tuple(to_device(a, device) for a in as_tuple(drawn))


@dataclass(frozen=True)
class Own:
    """A function, what draws its arguments, and a function that is right."""

    name: str
    function: Callable[..., Any]
    inputs: Callable[[torch.Generator], Any]
    reference: Callable[..., Any]
    case: Case
    cost: Cost
    tolerance: Tolerance | None = None
    peers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def refused(self) -> str | None:
        """What of the arguments of `bench_op` can't be used, in one sentence. None is called."""
        calls = {"function": self.function, "inputs": self.inputs, "reference": self.reference}
        for name, value in {**calls, **{f"peers[{n!r}]": f for n, f in self.peers.items()}}.items():
            if not callable(value):
                return f"{name} must be a function, got {shown(value)}"
        if taken := {NAME, "reference"} & set(self.peers):
            return f"peers can't be named {' or '.join(sorted(taken))}: that name is taken"
        for name in ("flops", "bytes"):
            value = getattr(self.cost, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                return f"{name} must be a number from 0 on, got {shown(value)}"
        if self.cost.unit not in ceilings.UNITS:
            return f"unit must be one of {', '.join(ceilings.UNITS)}, got {shown(self.cost.unit)}"
        if self.tolerance is not None and not hasattr(self.tolerance, "judge"):
            return f"tolerance must be a Tolerance, such as Ratio(), got {shown(self.tolerance)}"
        return None

    @property
    def peer(self) -> Peer:
        return Peer(NAME, self.function, gated=True)

    @property
    def beside(self) -> dict[str, Callable[..., Any]]:
        """What is timed beside it, by name."""
        return {"reference": self.reference, **self.peers}

    def op(self, device: str, at: At) -> Op:
        """Raises Unusable. `at(name)` is told whose function is called next."""
        outputs = self._expected(device, at)
        return _OwnOp(
            name=self.name, reference=self.reference, fake=self.reference,
            inputs=lambda case, generator: self.inputs(generator),  # type: ignore[return-value]
            cases=(self.case,), cost=lambda case: self.cost,
            tolerance=tuple(self.tolerance or _default(t) for t in outputs), errors=(),
            providers=(), outputs=tuple(f"output {i}" for i in range(len(outputs))),
        )  # fmt: skip

    def _expected(self, device: str, at: At) -> tuple[Tensor, ...]:
        name = "inputs"
        try:
            at(name)
            drawn = as_tuple(self.inputs(torch.Generator(device).manual_seed(0)))
            at(name := "reference")
            outputs = as_tuple(self.reference(*drawn))
        except Exception as error:  # whatever somebody's functions raise
            raise Unusable(f"{name} raised {type(error).__name__}: {first_line(error)}") from None
        if not outputs or not all(isinstance(t, Tensor) for t in outputs):
            raise Unusable("reference must return a tensor or a tuple of tensors")
        return outputs

    def run(self, device: str, at: At, budget_s: float, **options: Any) -> dict[str, Any]:
        """The record of one run beside its reference and peers, `budget_s` seconds for each. Raises
        Unusable and what `bench.run` raises, which gets the `options`."""
        peers = [self.peer, *(Peer(name, function) for name, function in self.beside.items())]
        return bench.run(
            ops=[self.op(device, at)], cases=[self.case.name], providers=[], device=device, at=at,
            budget_s=budget_s * len(peers), peers=peers, **options,
        )  # fmt: skip

    def row(self, name: str, device: str, **why: Any) -> dict[str, Any]:
        """A row without a time of one of those that are timed, and why."""
        case, cost = self.case, self.cost
        return record.blank(
            op=self.name, case=case.name, dims=dict(case.dims), provider=name, peer=name != NAME,
            device=device, flops=cost.flops, bytes=cost.bytes, unit=cost.unit, **why,
        )  # fmt: skip

    def check(self, device: str, at: At) -> str | None:
        """One checked pass: what is wrong. Raises Unusable."""
        _guard.begin()
        place = torch.device(device)
        stage = Stage(self.op(device, at), self.case, place, 0, 0)
        contestant = OfPeer(stage, self.peer)
        try:
            at(self.name)
            _, wrong = contestant.try_out()
            at(self.name)
            wrong += contestant.check(timer_for(place))[1]
        except Exception as error:  # whatever the kernel raises
            wrong = [f"{type(error).__name__}: {error}".splitlines()[0]]
        if replaced := _guard.restore():
            wrong.append(replaced)
        return "; ".join(wrong) or None


def _default(t: Tensor) -> Tolerance:
    return Ratio() if t.is_floating_point() and t.itemsize > 1 else Exact()
