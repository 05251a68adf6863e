"""The end of a stage whose device never answers: the run is to end, and to say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.device_memory import release
from aimills_kernels.harness._patience import patience

_SHARE = 1.25  # of its seconds
_MORE_S = 300.0  # for what those don't count: compilers, buffers, a slow host
_LAST_S = 60.0  # for what takes no notice, until the process ends
_AGAIN_S = 15.0  # between two alarms: one that comes in a destructor is lost


class Overdue(BaseException):
    """A stage's time is up. No `Exception`: who reads a counter takes every one of those for a
    counter that can't be read, and the stage would go on."""


def limit(spec: StageSpec, seconds: float, wait_s: float) -> float:
    """Where all ranks are in it, a collective that hangs ends by the ranks' wait first."""
    return _SHARE * seconds + _MORE_S + (wait_s if spec.together else 0.0)


def limited(spec: StageSpec, wait_s: float, hung: Callable[[str], None]) -> StageSpec:
    """The stage with an end. Beyond its limit it ends with a TimeoutError; where that does not
    reach it, as it waits in the driver, `hung` is told and the process ends."""
    if not spec.bounded or threading.current_thread() is not threading.main_thread():
        return spec

    def work(ctx: Context) -> str:
        seconds = limit(spec, ctx.seconds, wait_s)
        try:
            with patience(seconds, hung, _LAST_S, error=Overdue, again_s=_AGAIN_S) as at:
                at(spec.title)
                begin = time.monotonic()
                try:
                    summary = spec.work(ctx)
                    took = time.monotonic() - begin
                finally:  # a device that never answers gives no memory back either
                    at(spec.title)
                    release(ctx.device)
        except Overdue as late:
            raise TimeoutError(str(late)) from late
        if took > seconds:  # its alarm was swallowed, and it returned before the next one
            raise TimeoutError(f"no answer after {seconds:g} s")
        return summary

    return replace(spec, work=work)
