"""The worker of `own_process`: a second pytest, which runs a test when it is asked to.

It takes jobs and answers as the worker of `isolated` does. Nothing of ours is imported before
pytest has loaded the plugin, which would warn of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# What would write a file of the first pytest anew, or remove its folder. The time that there is for
# all is the first one's too, which says when it has ended.
_FILES = {"log_file": os.devnull, "xmlpath": None, "report_log": None, "benchmark_save": None,
          "benchmark_autosave": False, "benchmark_compare": None, "benchmark_compare_fail": None,
          "aimills_record": None, "aimills_baseline": None, "aimills_regression": None,
          "aimills_budget": 0.0}  # fmt: skip


class Serving:
    """A plugin: in place of all tests, it runs those that are asked for. `job` is the present one,
    `at(name)` tells who is at work."""

    __name__ = "aimills-own-worker"  # by which `pytest_plugin` finds it

    def __init__(self, answers: int, sign: str):
        self._answers, self._sign = os.fdopen(answers, "w"), sign
        self._jobs = os.fdopen(os.dup(0), "r")
        self.job: dict[str, Any] = {}
        self.at: Any = None
        self._answer: dict[str, Any] | None = None
        self._why = ""

    def prepare(self, config: pytest.Config) -> None:
        """Before other plugins look at the options."""
        for name, value in {**_FILES, "basetemp": str(Path(self._sign).with_name("tmp"))}.items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)

    def answer(self, found: dict[str, Any]) -> None:
        """Once the test has ended: its end is part of what can go wrong."""
        self._answer = found

    def _lives(self) -> None:
        """A slow machine is not a hang: imports, fixtures and ceilings are steps of their own."""
        if self.at is None:
            from aimills_kernels.harness._worker import signer

            self.at = signer(self._sign)
        self.at("")

    def pytest_collectstart(self) -> None:
        self._lives()

    def pytest_itemcollected(self) -> None:
        self._lives()

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self) -> None:
        self._lives()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from aimills_kernels.harness._worker import die_with_parent

        die_with_parent()
        self._lives()
        faulthandler.disable()  # the last line that a process leaves is shown, and is to be its own
        items = {item.nodeid: item for item in session.items}
        for line in self._jobs:
            self.job = json.loads(line)
            test = self.job.get("test")
            found = self._ceilings() if test is None else self._run(items.get(test))
            self._answers.write(json.dumps(found, default=str) + "\n")
            self._answers.flush()
        os._exit(0)  # no report is written a second time

    def _ceilings(self) -> dict[str, Any]:
        if self.job["measured"] is not None:
            return {"measured": self.job["measured"]}
        import torch

        from aimills_kernels.harness import _guard, ceilings

        self._lives()
        try:
            _guard.begin()
            return {"measured": ceilings.measure(torch.device(self.job["device"]))}
        except _guard.Replaced as error:
            return {"wrong": str(error)}

    def _run(self, item: pytest.Item | None) -> dict[str, Any]:
        if item is None:
            return {"apart": "started again, pytest does not find the test"}
        self._answer, self._why = None, "bench_op was not called"
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._answer or {"apart": f"started again, {self._why}"}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "passed":
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash is not None else report.longrepr
        said = str(text[-1] if isinstance(text, tuple) else text).strip().splitlines()
        self._why = f"the test {report.outcome} before bench_op: {said[0] if said else ''}"


def main(start: str, answers: str, sign: str) -> int:
    given = json.loads(start)
    sys.path[:] = given["path"]
    sys.argv[:] = ["pytest", *given["args"]]
    serving = Serving(int(answers), sign)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # of what is written, the last line on stderr alone is shown
    return int(pytest.main(given["args"], plugins=[serving]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
