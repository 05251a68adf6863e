"""This project's kernels on the executor: which there are, and whether a result is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Op, Problem, Provider, tensors_of
from aimills_kernels._tolerance import Judgement, Tolerance


def own(op: Op) -> list[Provider]:
    """Our GPU kernels: Triton ones, and CUDA ones once, by whichever way they are compiled."""
    return [p for p in op.providers if p.interpret or p.name == "nvrtc"]


def on_executor(op: Op, provider: Provider) -> tuple[Op, Provider]:
    """The op with one provider, which takes CPU tensors and runs them here."""
    here = replace(provider, devices=("cpu",))
    if not provider.interpret:  # whatever was built here
        target = f"tests.ptx.cuda:{op.name}"
        here = replace(here, target=target, rejects=lambda problem: None)
    return replace(op, providers=(here,)), here


def why_not(op: Op, here: Provider, args: tuple, sm: int) -> str | None:
    with _dispatch.assume_sm(sm):
        return _dispatch.why_not(here, Problem(op, args, "cpu", sm))


@dataclass(frozen=True)
class Verdict:
    """An output against the op's tolerance; where it fails, at which place first."""

    name: str
    judgement: Judgement
    at: tuple[int, ...] | None = None
    got: float = 0.0
    want: float = 0.0

    def text(self, who: Callable[[int], str], out: Tensor) -> str:
        """A line for a person. who: says who stored the byte at an address."""
        if self.at is None:
            return f"PASS {self.name}: {self.judgement.text}"
        address = out[self.at].data_ptr()
        return (
            f"FAIL {self.name}: {self.judgement.text}; the first difference beyond the tolerance "
            f"at {list(self.at)}: {self.got:.8g}, expected {self.want:.8g}, {who(address)}"
        )


def judge(op: Op, args: tuple, outs: tuple[Tensor, ...]) -> list[Verdict]:
    """Each output against the oracle in float64."""
    found = []
    for name, tolerance, got, oracle, rounded in zip(
        op.outputs, op.tolerance, outs, op.oracle(args), op.results(args), strict=True
    ):
        judgement = tolerance.judge(got, oracle, rounded, args)
        if judgement.ok:
            found.append(Verdict(name, judgement))
            continue
        at = _first(tolerance, got, oracle, rounded, args)
        found.append(Verdict(name, judgement, at, float(got[at]), float(oracle[at])))
    return found


def _first(
    tolerance: Tolerance, got: Tensor, oracle: Tensor, rounded: Tensor, args: tuple
) -> tuple[int, ...]:
    """The element up to which the result fails, with the reference's own values behind it: so it
    is found whatever the tolerance looks at."""
    low, high = 0, got.numel()  # `low` elements pass, `high` fail
    while high - low > 1:
        middle = (low + high) // 2
        mixed = rounded.reshape(-1).clone()
        mixed[:middle] = got.reshape(-1)[:middle]
        right = tolerance.judge(mixed.view(got.shape), oracle, rounded, args).ok
        low, high = (middle, high) if right else (low, middle)
    return tuple(int(i) for i in np.unravel_index(low, tuple(got.shape)))


def changed(op: Op, before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
    """A line for each input that a kernel wrote to, and should not have."""
    kept = [i for i, name in enumerate(op.params) if name not in op.mutates]
    pairs = zip(*(tensors_of([args[i] for i in kept]) for args in (before, after)), strict=True)
    return [
        f"FAIL: the kernel wrote to an input, of shape {list(a.shape)}"
        for b, a in pairs
        if not torch.equal(_bits(b), _bits(a))
    ]


def _bits(t: Tensor) -> Tensor:
    return t.contiguous().reshape(-1).view(torch.uint8)
