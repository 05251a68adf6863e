"""An end for what takes too long in this very process: a kernel that no other process can call."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

TIMEOUT_S = 120.0  # for a check or a sample, compilers at work in it included; everywhere
_LOOK_S = 0.2


class Late(TimeoutError):
    """A step took longer than it may: no reason to pass over it, as another error of a peer is."""


Late.__name__ = "TimeoutError"  # as which rows and reports show it


@contextlib.contextmanager
def patience(
    seconds: float | None,
    say: Callable[[str], None],
    more_s: float | None = None,
    *,
    error: type[BaseException] = Late,
    again_s: float = 0.0,
) -> Iterator[Callable[[str], None]]:
    """Gives what is called before each step, with the name of who is at work. A step that takes
    longer gets a `Late`. One that can't be reached so, as a GPU that never ends is waited for
    in the driver, ends the process after as long again, or `more_s`: nothing could run after it
    anyway. Without `seconds`, or outside of the main thread, which alone gets alarms, there is no
    end.

    error      raised in a step that takes longer
    again_s    between two such errors, for a step that swallows the first
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield lambda name: None
        return
    limit: float = seconds
    most = limit + (limit if more_s is None else more_s)
    ended, last = threading.Event(), (time.monotonic(), "")

    def at(name: str) -> None:
        nonlocal last
        last = time.monotonic(), name
        signal.setitimer(signal.ITIMER_REAL, limit, again_s)

    def late(*_: Any) -> None:
        raise error(f"no answer after {limit:g} s")

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if time.monotonic() - last[0] > most:
                say(f"{last[1]}: no answer after {most:g} s, and the process is ended with it")
                sys.stdout.flush()
                os._exit(1)

    elsewhere, begin = signal.getitimer(signal.ITIMER_REAL)[0], last[0]
    before = signal.signal(signal.SIGALRM, late)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield at
        finally:  # an alarm that comes right here leaves the outer block to be run
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        ended.set()
        watcher.join()
        signal.signal(signal.SIGALRM, before)
        if elsewhere:  # an alarm that was set before, as pytest-timeout does, still comes
            due = elsewhere - (time.monotonic() - begin)
            signal.setitimer(signal.ITIMER_REAL, max(due, _LOOK_S))
