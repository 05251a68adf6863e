"""Stage: the shapes of real models, through the public functions."""

from __future__ import annotations

from functools import cache

import torch

from aimills_kernels._dispatch import on_device
from aimills_kernels._op import Case, Op, as_tuple
from aimills_kernels.accept.calls import check_calls
from aimills_kernels.accept.session import Session
from aimills_kernels.harness.overhead import public_call

STAGE = "model shapes"


def run(session: Session) -> str:
    """Each op's cases for acceptance, save those of the video: they come from a decoder."""
    settings = session.settings
    todo = [
        (op, case, device)
        for device in settings.devices
        for op in settings.ops
        for case in op.cases
        if op.name != "video_to_tensor" and "accept" in case.tags
    ]
    first = len(session.checks)
    with session.progress("model shapes", len(todo)) as step:
        for op, case, device in todo:
            step(f"{op} {case} on {device}")
            if settings.leaves_out(op, case.name):
                whole = op.name in settings.exclude
                session.exclude(op.name if whole else f"{op.name}/{case.name}", str(device))
            else:
                _check(session, op, case.on(device.type), device)
    made = session.checks[first:]
    smaller = sum(bool(c["scaled"]) for c in made)
    return f"{len(made)} calls" + (f", {smaller} of them scaled down: see below" if smaller else "")


def _check(session: Session, op: Op, case: Case, device: torch.device) -> None:
    with on_device(device):
        args = op.make_inputs(case, device, session.settings.seed)
        given = op.with_own(args)

    @cache
    def expected() -> tuple[tuple, tuple]:
        return _asked(presented(op.oracle(args))), _asked(presented(op.results(args)))

    def presented(outs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return outs if op.presented is None else op.presented(outs, args)

    def call() -> tuple[torch.Tensor, ...]:
        public = public_call(op, given)
        assert public is not None, f"{op.name}: the public function takes other arguments"
        for own, before in zip(op.written(given), op.written(args), strict=True):
            own.copy_(before)
        return _asked(as_tuple(public()) or op.written(given))

    check_calls(session, op, case, device, args, call, expected, stage=STAGE)


def _asked(outs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Without those that were not asked for: the torch op has them empty, and so has a public
    function that does not leave them out."""
    return tuple(t for t in outs if t.numel())
