"""Somebody's own kernel in a process that can be ended: pytest once more, which runs its test.

Nothing is pickled. The second pytest gets the arguments of the first, collects the same tests and
runs one when it is asked to, fixtures and all; there `bench_op` times, here it waits for the row.
What hangs or takes its process with it costs its row, and the test's others are timed without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimills_kernels.harness import bench, env
from aimills_kernels.harness._worker import Ended, Worker
from aimills_kernels.harness.own import NAME, NotTimed, Own, Unusable

if TYPE_CHECKING:
    import pytest

_WORKER = Path(__file__).with_name("_own_worker.py")

Row = dict[str, Any]


class OwnProcess:
    """Started at the first kernel, and again at the first after its end."""

    def __init__(
        self, config: pytest.Config, environ: Mapping[str, str], timeout_s: float, project: Path
    ):
        given = config.invocation_params
        self._not, self._project = _not_again(config), project
        self._measured: dict[str, dict[str, Any]] = {}  # the ceilings, by device
        start = {"args": [*map(str, given.args), "--capture=no"], "path": sys.path}
        program = (sys.executable, str(_WORKER), json.dumps(start))
        self._worker = Worker(timeout_s, program, given.dir, environ)

    def close(self) -> None:
        self._worker.close()

    def run(
        self, own: Own, device: str, test: str, pace: Mapping[str, float]
    ) -> dict[str, Any] | str:
        """The record of one test, or why no other process can run it. `pace` has the options
        `budget_s` and `target` of `Own.run`. Raises Unusable, NotTimed."""
        rows: list[Row] = []
        while True:
            if (why := self._not_ready(device)) is not None:
                return self._left(own, device, rows, why) if rows else why
            job = {
                "test": test, "name": own.name, "device": device,
                "without": [row["provider"] for row in rows], "measured": self._measured[device],
                **pace,
            }  # fmt: skip
            answer = self._worker.ask(job)
            if isinstance(answer, Ended):
                if not answer.at and not rows:  # a fixture or the test's own lines, which ran here
                    return f"started again, {answer.why}"
                if not _entered(answer, own, device, rows):
                    return self._left(own, device, rows, _who(answer))
                continue
            if "record" not in answer:
                return _apart(answer)
            made = answer["record"]
            if made["options"]["lost"] is None:
                return self._whole(made, own, rows)
            self._worker.end()
            if not (judged := [row for row in made["rows"] if row["failure"]]):
                return self._whole(made, own, rows)
            rows += judged

    def _not_ready(self, device: str) -> str | None:
        """Why it can't be started; None where it runs and knows the ceilings of the device."""
        if self._not is not None or (self._worker.runs and device in self._measured):
            return self._not
        job = {"device": device, "measured": self._measured.get(device)}
        answer = self._worker.ask(job, paid=False)
        if isinstance(answer, Ended):
            self._not = f"pytest did not start a second time: {answer.why}"
            return self._not
        if "measured" not in answer:
            return _apart(answer)
        self._measured[device] = answer["measured"]
        return None

    def _left(self, own: Own, device: str, rows: list[Row], why: str) -> dict[str, Any]:
        """The record where nothing answered for those that have no row yet."""
        have = {row["provider"] for row in rows}
        rows += [
            own.row(name, device, skipped=why, gap=True)
            for name in (NAME, *own.beside)
            if name not in have
        ]
        measured = self._measured.get(device, {"device": device})
        stamp = env.stamp(device, self._project)
        empty = bench.run(ops=[], device="cpu", measured=measured, stamp=stamp)
        return self._whole(empty, own, rows)

    def _whole(self, made: dict[str, Any], own: Own, rows: list[Row]) -> dict[str, Any]:
        order = [NAME, *own.beside]
        every = sorted([*rows, *made["rows"]], key=lambda row: order.index(row["provider"]))
        options = {"timeout_s": self._worker.timeout_s, "isolated": "all cases"}
        return {**made, "options": made["options"] | options, "rows": every}


def _not_again(config: pytest.Config) -> str | None:
    """Why a second pytest would not be as this one is."""
    if any(not isinstance(plugin, str) for plugin in config.invocation_params.plugins or ()):
        return "pytest.main was given plugins that no other process has"
    if config.getoption("usepdb", False) or config.getoption("trace", False):
        return "a debugger that is asked for works in this one"
    return None


def _entered(ended: Ended, own: Own, device: str, rows: list[Row]) -> bool:
    """Whether it is known whose fault it was, and the others can be timed without that one."""
    if ended.at not in (NAME, *own.beside) or ended.at in {row["provider"] for row in rows}:
        return False
    rows.append(own.row(ended.at, device, failure=ended.why))
    return True


def _who(ended: Ended) -> str:
    return f"{ended.at}: {ended.why}" if ended.at else ended.why


def _apart(answer: dict[str, Any]) -> str:
    """Why the test can only run in this process; raises what is no reason for that."""
    if "unusable" in answer:
        raise Unusable(answer["unusable"])
    if "wrong" in answer:
        raise NotTimed(answer["wrong"])
    return str(answer["apart"])
