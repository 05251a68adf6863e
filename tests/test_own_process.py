"""A kernel of one's own that hangs or takes its process with it costs its row, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from aimills_kernels._op import Case, Cost
from aimills_kernels.harness import _own_worker, _stopping, own_process, record
from aimills_kernels.harness._worker import SIGN, Ended, Worker
from aimills_kernels.harness.own import Own
from aimills_kernels.harness.pytest_budget import Budget
from aimills_kernels.harness.pytest_rows import Rows
from tests.child_pytest import run_pytest

HEAD = """\
import ctypes, os, signal, sys, time
import pytest, torch
def draw(g): return torch.randn(64, 64, generator=g)
def right(x): return x + 1
def leaves(x): os._exit(0)
def hangs(x): ctypes.PyDLL(None).sleep(1000)  # in C, and it keeps the interpreter's lock
def sleeps(x): time.sleep(1000)
def deaf(x): signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); time.sleep(1000)
def crashes(x): ctypes.string_at(0)
def aborts(x): os.write(2, b"the last words\\n"); os.abort()
def killed(x): os.kill(os.getpid(), signal.SIGKILL)
def vast(x): return torch.empty(1 << 55)
def raises(x): raise RuntimeError("no image for this device")
"""
RIGHT = "def test_right(bench_op): bench_op(right, draw, reference=right)\n"


def timed(folder: Path, text: str, *args: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_mine.py").write_text(HEAD + text)
    return run_pytest(
        folder, "--benchmark-max-time=0.05", "--benchmark", "--benchmark-record=r.json", *args,
        "test_mine.py",
    )  # fmt: skip


def rows(folder: Path) -> dict[tuple[str, str], dict]:
    found = record.load(folder / "r.json")["rows"]
    return {(row["op"], row["provider"]): row for row in found}


def of(*names: str) -> str:
    return "".join(f"def test_{n}(bench_op): bench_op({n}, draw, reference=right)\n" for n in names)


@pytest.mark.full  # each pytest takes some ten seconds of a CPU
def test_a_kernel_that_ends_its_process_costs_its_row(tmp_path: Path) -> None:
    """Even with exit code 0."""
    run = timed(tmp_path, of("leaves") + RIGHT)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    assert "leaves test_leaves own: its process ended with exit code 0" in run.stdout
    found = rows(tmp_path)
    assert found["leaves", "own"]["failure"] == "its process ended with exit code 0"
    assert found["leaves", "own"]["median_us"] is None
    assert found["leaves", "reference"]["median_us"] > 0
    assert found["right", "own"]["median_us"] > 0


@pytest.mark.full  # a process for each, and again without it
def test_a_hang_that_no_signal_reaches_is_ended(tmp_path: Path) -> None:
    run = timed(tmp_path, of("hangs", "sleeps") + RIGHT, "--benchmark-timeout=15")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "2 failed, 1 passed" in run.stdout
    found = rows(tmp_path)
    for name in ("hangs", "sleeps"):
        said = f"{name} test_{name} own: no answer after 15 s, so it was ended"
        assert said in run.stdout
        assert found[name, "own"]["failure"] == "no answer after 15 s, so it was ended"
        assert found[name, "reference"]["median_us"] > 0
    assert found["right", "own"]["median_us"] > 0


@pytest.mark.full  # a process for each, and again without it
def test_what_ends_a_process_or_finds_no_memory_is_a_sentence(tmp_path: Path) -> None:
    run = timed(tmp_path, of("crashes", "aborts", "killed", "vast", "raises") + RIGHT)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "5 failed, 1 passed" in run.stdout
    assert "Traceback" not in run.stdout
    for says in (
        "crashes test_crashes own: its process ended by SIGSEGV\n",
        "aborts test_aborts own: its process ended by SIGABRT: the last words\n",
        "own: its process ended by SIGKILL, as the system does where memory runs out\n",
        "vast test_vast own: RuntimeError: ",
        "raises test_raises own: RuntimeError: no image for this device\n",
    ):
        assert says in run.stdout, says
    found = rows(tmp_path)
    for name in ("crashes", "aborts", "killed", "vast", "raises"):
        assert found[name, "own"]["median_us"] is None
        assert found[name, "reference"]["median_us"] > 0
    assert found["right", "own"]["median_us"] > 0


@pytest.mark.full
def test_a_peer_that_ends_the_process_leaves_the_kernel_its_time(tmp_path: Path) -> None:
    text = (
        "def test_it(bench_op):\n    peers = {'theirs': leaves}\n"
        "    bench_op(right, draw, reference=right, peers=peers, name='beside')\n"
        "def test_reference(bench_op): bench_op(right, draw, reference=leaves, name='wrong')\n"
        "def test_inputs(bench_op): bench_op(right, leaves, reference=right, name='none')\n"
    )
    run = timed(tmp_path, text + RIGHT.replace("right,", "sleeps and right,", 1))
    assert run.returncode == 1, run.stdout + run.stderr
    assert "3 failed, 1 passed" in run.stdout  # a peer that crashes fails its test, with the time
    assert "theirs: its process ended with exit code 0" in run.stdout
    assert "reference: its process ended with exit code 0" in run.stdout
    assert "inputs: its process ended with exit code 0" in run.stdout
    found = rows(tmp_path)
    assert found["beside", "own"]["median_us"] > 0
    assert found["beside", "theirs"]["failure"] == "its process ended with exit code 0"
    assert found["right", "own"]["median_us"] > 0
    assert found["wrong", "own"]["gap"]


FIXTURES = """\
@pytest.fixture(scope="session")
def factor(pytestconfig): return pytestconfig.getoption("factor")
@pytest.fixture
def kernel(factor, tmp_path, monkeypatch):
    (tmp_path / "f").write_text(str(factor))
    monkeypatch.setenv("FACTOR", str(factor))
    return lambda x: x * float((tmp_path / "f").read_text())
@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_it(bench_op, kernel, factor, n, side, capfd):
    row = bench_op(kernel, lambda g: torch.randn(n, generator=g), reference=lambda x: x * factor,
                   name=f"kernel {side}")
    assert row["dims"] == {"n": n, "side": side}
    (open(os.environ["SEEN"], "a")).write("seen ")
class TestMine:
    def test_it(self, bench_op, kernel, factor):
        bench_op(kernel, draw, reference=lambda x: x * factor, name="mine")
"""


@pytest.mark.full
def test_fixtures_parameters_and_options_hold_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what one pytest writes for the user, the other one leaves alone."""
    monkeypatch.setitem(run_pytest.__globals__["_ENV"], "SEEN", str(tmp_path / "seen"))
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--factor', type=float, default=1.0)\n"
        "def pytest_runtest_logreport(report):\n"
        "    import logging; logging.getLogger('mine').warning('told %s', report.when)\n"
    )
    run = timed(tmp_path, FIXTURES, "--factor=2.5", "--junitxml=j.xml", "--basetemp=base",
                "--log-file=log.txt", "-q", "-p", "no:randomly")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed" in run.stdout
    assert "pytest's own process" not in run.stdout
    made = record.load(tmp_path / "r.json")
    assert len(made["rows"]) == 10
    assert made["options"]["isolated"] == "all cases"
    assert (tmp_path / "seen").read_text() == "seen " * 4
    assert 'tests="5"' in (tmp_path / "j.xml").read_text()
    assert list((tmp_path / "base").iterdir())


OTHERS = """\
import uuid
@pytest.mark.parametrize("n", [uuid.uuid4().hex])
def test_drawn(bench_op, n): bench_op(right, draw, reference=right)
@pytest.fixture
def first():
    if os.path.exists("once"): raise OSError("only once")
    open("once", "w").close()
def test_once(bench_op, first): bench_op(right, draw, reference=right, name="once")
"""


@pytest.mark.full
def test_what_can_not_run_twice_runs_here_and_says_so(tmp_path: Path) -> None:
    run = timed(tmp_path, OTHERS + RIGHT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout
    here = "is timed in pytest's own process: started again, "
    assert f"right {here}pytest does not find the test" in run.stdout
    assert f"once {here}the test failed before bench_op: OSError: only once" in run.stdout
    assert run.stdout.count("pytest's own process") == 2
    assert rows(tmp_path)["once", "own"]["median_us"] > 0


@pytest.mark.parametrize(
    ("plugins", "options", "says"),
    [
        (None, {}, None),
        (["a_module"], {"usepdb": False, "trace": False}, None),
        ([object()], {}, "pytest.main was given plugins that no other process has"),
        ([], {"usepdb": True}, "a debugger that is asked for works in this one"),
        ([], {"trace": True}, "a debugger that is asked for works in this one"),
    ],
)
def test_what_no_second_pytest_would_have(
    plugins: list | None, options: dict[str, bool], says: str | None
) -> None:
    given = SimpleNamespace(plugins=plugins)
    config = SimpleNamespace(invocation_params=given, getoption=lambda n, d: options.get(n, d))
    assert own_process._not_again(cast(pytest.Config, config)) == says


@pytest.mark.parametrize("apart", [True, False])
def test_a_session_that_is_quick_is_quick_with_ones_own_kernels(apart: bool) -> None:
    """The share of its time and the target hold in this process and in the second pytest."""
    case, budget = Case("test_it"), Budget(1.0, quick=True)
    own = Own("mine", torch.neg, lambda g: torch.randn(8, generator=g), torch.neg, case, Cost(0, 0))
    again = own_process.OwnProcess.__new__(own_process.OwnProcess)
    rows = Rows(60.0, again=again if apart else None, budget=budget)
    rows._ceilings["cpu"] = {"device": "cpu"}
    again._not, again._measured = None, dict(rows._ceilings)
    served = Rows(60.0)  # it counts the time of the session from a beginning of its own
    again._worker = cast(Worker, SimpleNamespace(
        runs=True, timeout_s=1.0, close=lambda: None,
        ask=lambda job: served.served(own, "cpu", json.loads(json.dumps(job)), lambda name: None),
    ))  # fmt: skip
    rows.own(own, "cpu", "test_it")
    (made,) = rows.records
    assert made["options"]["target"] == _stopping.QUICK_TARGET
    assert 0 < made["options"]["budget_s"] <= 1.0
    assert ("isolated" in made["options"]) == apart


@pytest.mark.parametrize("first", [None, "theirs"])
def test_where_no_kernel_was_at_work_the_test_runs_here_if_none_is_known_to_be_at_fault(
    first: str | None,
) -> None:
    """As of a fixture that ends the second pytest."""
    ends = [*([Ended(first, "it hung")] if first else []), Ended("", "a fixture ended it")]
    case = Case("test_it")
    own = Own("mine", torch.neg, lambda g: torch.randn(8, generator=g), torch.neg, case,
              Cost(0, 0), peers={"theirs": torch.neg})  # fmt: skip
    again = own_process.OwnProcess.__new__(own_process.OwnProcess)
    again._not, again._measured = None, {"cpu": {"device": "cpu"}}
    again._project = Path(__file__).parent
    again._worker = cast(Worker, SimpleNamespace(
        runs=True, timeout_s=1.0, ask=lambda job: ends.pop(0),
    ))  # fmt: skip
    found = again.run(own, "cpu", "test_it", {"budget_s": 1.0, "target": 0.1})
    if first is None:
        assert found == "started again, a fixture ended it"
        return
    assert isinstance(found, dict)
    said = {row["provider"]: row["failure"] or row["skipped"] for row in found["rows"]}
    why = "a fixture ended it"
    assert said == {"own": why, "reference": why, "theirs": "it hung"}


_ANSWERS = """\
import os, sys, time
from aimills_kernels.harness._worker import signer
signer(sys.argv[2])({name!r})
time.sleep({sleep})
os.write(int(sys.argv[1]), b"{{}}\\n")
"""


@pytest.mark.parametrize(("name", "sleep"), [("", 1), ("theirs", 1000)])
def test_a_sign_of_life_without_a_name_is_of_no_step_that_ends(name: str, sleep: int) -> None:
    program = (sys.executable, "-c", _ANSWERS.format(name=name, sleep=sleep))
    worker = Worker(0.1, program)
    try:
        answer = worker.ask({})
    finally:
        worker.close()
    if not name:
        assert answer == {}
        return
    assert isinstance(answer, Ended)
    assert (answer.at, answer.why) == (name, "no answer after 0.1 s, so it was ended")


def test_each_step_of_the_second_pytest_is_a_sign_of_life(tmp_path: Path) -> None:
    """And names nobody, as no kernel is at work yet."""
    sign = tmp_path / "sign"
    sign.write_bytes(bytes(SIGN))
    serving = _own_worker.Serving.__new__(_own_worker.Serving)
    serving._sign, serving.at = str(sign), None
    hooks = ("pytest_collectstart", "pytest_itemcollected", "pytest_fixture_setup")
    counts = []
    for hook in hooks:
        assert getattr(serving, hook)() is None
        now = sign.read_bytes()
        counts.append(int.from_bytes(now[:8], "little"))
        assert not any(now[8:])
    assert counts == [1, 2, 3]


def test_the_second_pytest_leaves_the_end_of_the_session_to_the_first() -> None:
    serving = _own_worker.Serving.__new__(_own_worker.Serving)
    serving._sign = "sign"
    option = SimpleNamespace(aimills_budget=9.0)
    serving.prepare(cast(pytest.Config, SimpleNamespace(option=option)))
    assert option.aimills_budget == 0.0


@pytest.mark.full
def test_without_a_limit_all_is_in_one_process(tmp_path: Path) -> None:
    text = RIGHT + "open('loads', 'a').write('once')\n"
    run = timed(tmp_path, text, "--benchmark-timeout=0")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "loads").read_text() == "once"
    assert "isolated" not in record.load(tmp_path / "r.json")["options"]


@pytest.mark.full
def test_a_check_has_an_end_too(tmp_path: Path) -> None:
    """In pytest itself: asleep in Python it fails, what can't be interrupted ends pytest."""
    for name, says in (
        ("sleeps", "sleeps: TimeoutError: no answer after 15 s"),
        ("deaf", "bench_op deaf deaf: no answer after 30 s, and the process is ended with it"),
    ):
        (tmp_path / "test_mine.py").write_text(HEAD + of(name))
        run = run_pytest(tmp_path, "--benchmark-timeout=15", "test_mine.py")
        assert run.returncode == 1, run.stdout + run.stderr
        assert says in run.stdout
