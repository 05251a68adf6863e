"""`pytest --benchmark`: time the benchmarks, and nothing but the benchmarks.

It stands beside pytest-benchmark, whose storage, JSON and comparisons go on working. Without a
path it collects `bench/`. It imports torch when a benchmark runs, or for a baseline.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from aimills_kernels.harness._patience import TIMEOUT_S, patience
from aimills_kernels.harness.pytest_budget import (
    BUDGET_S,
    QUICK_S,
    Budget,
    not_compared,
    timed_rows,
)

if TYPE_CHECKING:
    from aimills_kernels.harness.own import Own
    from aimills_kernels.harness.pytest_rows import Rows

_FLAG = "--benchmark"
_TIMEOUT_HELP = (
    f"End a check or a sample that takes longer (default {TIMEOUT_S:g}); with --benchmark, kernels "
    "run in a process of their own for that. 0: no end, and all in this process."
)
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (_FLAG, dict(action="store_true", dest="aimills_benchmark",
        help="Time the benchmarks and run nothing else; without a path, those in bench/.")),
    ("--benchmark-record", dict(metavar="FILE", dest="aimills_record",
        help="Write the rows of bench_op as a record of aimills-kernels.")),
    ("--benchmark-baseline", dict(metavar="PATH", dest="aimills_baseline",
        help="A record, or a folder of them, to compare with; by default what "
        "--benchmark-autosave has stored.")),
    ("--benchmark-fail-on-regression", dict(metavar="PERCENT", dest="aimills_regression",
        help="Compare with the baseline; exit code 1 where a row of bench_op is SLOWER by more "
        "than this, such as 5%%, or wrong now.")),
    ("--benchmark-require-gpu", dict(action="store_true", dest="aimills_require_gpu",
        help="Fail where there is no GPU, in place of skipping what needs one.")),
    ("--benchmark-energy", dict(action="store_true", dest="aimills_energy",
        help="Joules per call too, of bench_op and of cases with the tag energy: 7 s a row.")),
    ("--benchmark-timeout", dict(metavar="SECONDS", type=float, dest="aimills_timeout",
        help=_TIMEOUT_HELP)),
    ("--benchmark-budget", dict(metavar="SECONDS", type=float, dest="aimills_budget",
        help="Begin no benchmark after so long; what is left out is counted "
        f"(default {BUDGET_S:g}, with --benchmark-quick {QUICK_S:g}). 0: no end.")),
    ("--benchmark-quick", dict(action="store_true", dest="aimills_quick",
        help="The first case of each op alone, known less well.")),
)  # fmt: skip
_TIMED = ("record", "baseline", "regression", "require_gpu", "energy", "budget", "quick")
_BEYOND = "beyond the tolerance"
_KEPT = (
    "error_used", "sol", "sol_spec", "sol_bound", "tflops", "gbps", "cold", "clock", "mode",
    "suspect", "note", "host_us", "energy", "energy_missing",
)  # fmt: skip


class Clock:
    """Shows the sum of the samples that were played to it, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


_CLOCK = Clock()
_STATE = pytest.StashKey["_State"]()
_SERVING = "aimills-own-worker"  # the plugin of a pytest that another one has started


class _State:
    """Of a session. `rows` is made at the first benchmark; `serving` is there where another
    session has started this one, and takes the rows."""

    def __init__(self, serving: Any = None) -> None:
        self.serving = serving
        self.environ = dict(os.environ)  # before a test changes it
        self.rows: Rows | None = None
        self.base: list[dict[str, Any]] | None = None
        self.threshold = 0.0
        self.absent: Counter[tuple[str, str]] = Counter()  # (reason, op and contestant)
        self.said: list[str] = []
        self.budget = Budget()


# ---- options


def pytest_addoption(parser: pytest.Parser) -> None:
    # A plugin that has an option already stays in charge of it. pytest looks for a second one
    # only within a group, and argparse then ends the run.
    groups = [parser._anonymous, *parser._groups]
    taken = {name for group in groups for option in group.options for name in option.names()}
    for name, details in _OPTIONS:
        if name not in taken:
            parser.getgroup("benchmark").addoption(name, **details)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    serving = config.pluginmanager.get_plugin(_SERVING)
    if serving is not None:
        serving.prepare(config)
    config.stash[_STATE] = _State(serving)
    if not config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(_Fallback(), "aimills-benchmark-fallback")
    if getattr(config.option, "aimills_benchmark", False):
        _configure_benchmark(config)
    for name in _TIMED:
        if getattr(config.option, f"aimills_{name}", None) and not _timing(config):
            option = next(o for o, d in _OPTIONS if d["dest"] == f"aimills_{name}")
            raise pytest.UsageError(f"{option} goes with {_FLAG}")
    if not 0 <= _timeout_s(config) < math.inf:
        wrong = f"--benchmark-timeout must be 0 or seconds above it, got {_timeout_s(config):g}"
        raise pytest.UsageError(wrong)
    config.stash[_STATE].budget = _budget(config)
    _read_baseline(config)
    _writable(config)


def _configure_benchmark(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(f"{_FLAG}: {_no_benchmark()}")
    if getattr(config.option, "dist", "no") != "no":
        raise pytest.UsageError(f"{_FLAG} times one thing at a time: run it without -n and --dist")
    for other in ("disable", "skip"):
        if getattr(config.option, f"benchmark_{other}"):
            raise pytest.UsageError(f"{_FLAG} and --benchmark-{other} contradict each other")
    config.option.benchmark_only = True
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        folder = config.rootpath / "bench"
        if not folder.is_dir():
            raise pytest.UsageError(f"{_FLAG} found no folder {folder}: name the benchmarks' path")
        config.args = [str(folder)]


def _timing(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "benchmark_only", False))


def _timeout_s(config: pytest.Config) -> float:
    """0 for none."""
    asked = getattr(config.option, "aimills_timeout", None)
    return TIMEOUT_S if asked is None else float(asked)


def _budget(config: pytest.Config) -> Budget:
    """Somebody's own `--benchmark-only` has no end that they did not ask for."""
    asked = getattr(config.option, "aimills_budget", None)
    quick = bool(getattr(config.option, "aimills_quick", False))
    if asked is None and getattr(config.option, "aimills_benchmark", False):
        asked = QUICK_S if quick else BUDGET_S
    if asked is not None and not 0 <= asked < math.inf:
        raise pytest.UsageError(f"--benchmark-budget must be 0 or seconds above it, got {asked:g}")
    return Budget(asked or math.inf, quick)


def _read_baseline(config: pytest.Config) -> None:
    """Before anything runs: what can't be compared with afterwards is said now."""
    asked = getattr(config.option, "aimills_regression", None)
    named = getattr(config.option, "aimills_baseline", None)
    if asked is None:
        if named is not None:
            raise pytest.UsageError("--benchmark-baseline goes with --benchmark-fail-on-regression")
        return
    from aimills_kernels.harness import compare, pytest_rows

    state = config.stash[_STATE]
    try:
        state.threshold = compare.percent(asked)
    except ValueError as error:
        raise pytest.UsageError(f"--benchmark-fail-on-regression: {error}") from None
    path = Path(named) if named is not None else _store(config)
    if path is None or not path.exists():
        raise pytest.UsageError(
            f"--benchmark-fail-on-regression found no baseline {path or ''}: name one with "
            "--benchmark-baseline, or store one with --benchmark-autosave"
        )
    state.base, unread = pytest_rows.baseline(path)
    if unread:
        raise pytest.UsageError(f"the baseline can't be read: {'; '.join(unread)}")


def _store(config: pytest.Config) -> Path | None:
    """Our records' folder in pytest-benchmark's storage, where that is a folder."""
    storage = str(getattr(config.option, "benchmark_storage", "file://./.benchmarks"))
    if "://" in storage and not storage.startswith("file://"):
        return None
    return Path(storage.removeprefix("file://")).expanduser() / "aimills-kernels"


def _writable(config: pytest.Config) -> None:
    if (name := getattr(config.option, "aimills_record", None)) is None:
        return
    path = Path(name)
    if path.is_dir():
        raise pytest.UsageError(f"--benchmark-record names a file to write, {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise pytest.UsageError(f"--benchmark-record {path}: {error.strerror}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """pytest-benchmark knows the CPU alone, and the GPUs are to be found without torch."""
    if not _timing(config):
        return
    from aimills_kernels.harness import _machine, env

    machine_info["gpus"] = _machine.kinds_of(env.Facts().get("nvidia-smi", env.smi) or [])


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Times of another GPU are refused, of which pytest-benchmark would warn."""
    if not getattr(config.option, "aimills_benchmark", False):
        return
    from aimills_kernels.harness import _machine

    saved = _machine.mapping(compared_benchmark, "machine_info").get("gpus") or []
    if why := _machine.other_kinds(saved, machine_info.get("gpus", [])):
        raise pytest.UsageError(f"--benchmark-compare: {'; '.join(why)}")


def _no_benchmark() -> str:
    """Why pytest-benchmark is not among the plugins."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        return "pytest-benchmark is not installed: pip install pytest-benchmark"
    return "pytest-benchmark is installed and not loaded: leave out -p no:benchmark"


class _Fallback:
    """Where pytest-benchmark is missing: its fixture, which says so."""

    @pytest.fixture
    def benchmark(self) -> Callable[..., Any]:
        def missing(*args: Any, **kwargs: Any) -> None:
            pytest.skip(_no_benchmark())

        return missing


# ---- items


def pytest_itemcollected(item: pytest.Item) -> None:
    # Without pytest-benchmark nobody knows the mark, which --strict-markers refuses.
    ours = "bench_op" in getattr(item, "fixturenames", ())
    if ours and item.config.pluginmanager.hasplugin("benchmark"):
        item.add_marker(pytest.mark.benchmark(timer=_CLOCK, warmup=False))


@pytest.hookimpl(trylast=True)  # of those that are selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _timing(config):
        config.stash[_STATE].budget.order(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    _require_gpu(item)
    if _timing(item.config) and (why := item.config.stash[_STATE].budget.why_not(item)):
        pytest.skip(f"not run: {why}")


def _require_gpu(item: pytest.Item) -> None:
    if not getattr(item.config.option, "aimills_require_gpu", False):
        return
    if "benchmark" not in getattr(item, "fixturenames", ()):
        return
    from aimills_kernels.cli import _choose

    if reason := _choose.no_cuda():
        pytest.exit(f"--benchmark-require-gpu: {reason}", returncode=1)


@pytest.fixture
def bench_op(benchmark: Any, request: pytest.FixtureRequest) -> Iterator[BenchOp]:
    """Checks a kernel against a reference and, under --benchmark, times it beside its peers."""
    made = BenchOp(benchmark, request)
    yield made
    made.close()


class BenchOp:
    def __init__(self, benchmark: Any, request: pytest.FixtureRequest):
        self._benchmark, self._node, self._config = benchmark, request.node, request.config
        self._state = request.config.stash[_STATE]
        self._timing = _timing(request.config)
        self._used = self._shown = False

    def __call__(
        self,
        function: Callable[..., Any],
        inputs: Callable[[Any], Any],
        *,
        reference: Callable[..., Any],
        peers: Mapping[str, Callable[..., Any]] | None = None,
        flops: float = 0.0,
        bytes: float = 0.0,
        unit: str = "f32",
        tolerance: Any = None,
        name: str | None = None,
        device: str = "auto",
    ) -> dict[str, Any] | None:
        """Time `function(*inputs(generator))`; the row of the record, None where nothing is timed.

        `inputs` draws a tensor or a tuple of arguments with a torch.Generator, on its device; it is
        called for several sets of them. `reference` takes the same and must be right: in float64
        it is what `function` is held against, by default as FlashAttention does (`Ratio`), bit for
        bit where an output is of integers. It is timed too, as are `peers`. `flops`, `bytes` and
        `unit` are the least work, for the share of the ceilings.
        """
        from aimills_kernels._op import Case, Cost
        from aimills_kernels.harness import _guard
        from aimills_kernels.harness.own import NotTimed, Own, Unusable, exits

        called = str(name or getattr(function, "__name__", type(function).__name__))
        if self._used:
            pytest.fail("bench_op can be called once in a test: write another", pytrace=False)
        self._used = True
        tags = ["energy"] if getattr(self._config.option, "aimills_energy", False) else ()
        case = Case(self._node.name, tags=tags, **_dims(self._node))
        cost = Cost(flops, bytes, unit)
        own = Own(called, function, inputs, reference, case, cost, tolerance, dict(peers or {}))
        place = self._place(device, called)
        try:
            if wrong := own.refused():
                raise Unusable(wrong)
            if self._state.serving is not None:
                self._serve(own, place)
            if self._timing and (wrong := self._rows.taken(own, place, self._node.nodeid)):
                raise Unusable(wrong)
            if self._timing:
                row, beside = self._rows.own(own, place, self._node.nodeid)
                return self._show(row, self._beside(beside))
            with self._patience(called) as at:
                wrong = own.check(place, at)
        except Unusable as error:
            pytest.fail(f"bench_op: {error}", pytrace=False)
        except SystemExit as error:  # pytest would show where from, and no sentence
            wrong = exits(error)
        except (NotTimed, _guard.Replaced) as error:
            wrong = str(error)
        if wrong:
            pytest.fail(f"{called}: {wrong}", pytrace=False)
        return None

    def _serve(self, own: Own, place: str) -> NoReturn:
        """Time for the session that has started this one: it, and not this one, shows the row."""
        serving = self._state.serving
        serving.answer(self._rows.served(own, place, serving.job, serving.at))
        raise pytest.skip.Exception("timed for another process")

    def _patience(self, called: str) -> AbstractContextManager[Callable[[str], None]]:
        """For a check, which runs in this process: it has no time to be kept clean."""
        limit = _timeout_s(self._config) or None
        return patience(limit, lambda text: self._say(f"{called} {text}"))

    def _place(self, device: str, called: str) -> str:
        """The device by name; one that is not here is a reason to skip, and counted."""
        from aimills_kernels._validate import pick_device
        from aimills_kernels.cli import _choose
        from aimills_kernels.harness.pytest_rows import NO_GPU

        place = str(pick_device(device))
        if not re.fullmatch("cpu|cuda(:[0-9]+)?", place):
            pytest.fail(
                f"bench_op: device must be auto, cpu, cuda or cuda:<index>, got {device!r}",
                pytrace=False,
            )
        if place != "cpu" and (reason := _choose.no_cuda()):
            if self._timing:
                self._state.absent[NO_GPU + reason, f"{called} own"] += 1
            pytest.skip(f"not run: {NO_GPU}{reason}")
        return place

    def declared(self, op: Any, case: Any, name: str) -> dict[str, Any] | None:
        """The same for a provider or a peer of an op of `aimills_kernels` and one of its cases. All
        that are selected of a case are timed in one run."""
        from aimills_kernels.harness.pytest_rows import check_declared

        self._used = True
        if self._timing:
            return self._show(self._rows.declared(op, case, name, self._selected(op, case)))
        with self._patience(f"{op} {case}") as at:
            at(name)
            found = check_declared(op, case, name)
        if found.skipped is not None:
            pytest.skip(f"not run: {found.skipped}")
        if found.wrong is not None:
            pytest.fail(f"{op} {case} {name}: {found.wrong}", pytrace=False)
        self._beyond(f"{op} {case} {name}", found.note)
        return None

    @property
    def _rows(self) -> Rows:
        if self._state.rows is None:
            from aimills_kernels.harness.own_process import OwnProcess
            from aimills_kernels.harness.pytest_rows import Rows

            options, root = self._config.option, self._config.rootpath
            limit, again = _timeout_s(self._config) or None, None
            if limit is not None and self._state.serving is None:
                again = OwnProcess(self._config, self._state.environ, limit, root)
            self._state.rows = Rows(
                float(options.benchmark_max_time), limit, options.aimills_energy, self._say, root,
                again, self._state.budget,
            )  # fmt: skip
        return self._state.rows

    def _say(self, text: str) -> None:
        """On the terminal, though the output of a test is caught."""
        plugins = self._config.pluginmanager
        capture, reporter = map(plugins.get_plugin, ("capturemanager", "terminalreporter"))
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            if reporter is not None:
                reporter.write_line(f"bench_op {text}")
                reporter.flush()

    def _selected(self, op: Any, case: Any) -> list[str]:
        found = []
        for item in self._node.session.items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            if params.get("op") is op and params.get("case") is case:
                found.append(params["contestant"])
        return found

    def _show(self, row: dict[str, Any], beside: Sequence[str] = ()) -> dict[str, Any]:
        """Play the row to pytest-benchmark, or say why there is no time. What went wrong beside it
        fails the test too."""
        what = _what(row)
        if row["failure"] is not None:
            pytest.fail("; ".join([f"{what}: {row['failure']}", *beside]), pytrace=False)
        if row["skipped"] is not None:
            if row["gap"] or beside:  # it was not given the chance, which is no reason to pass
                said = [f"{what}: not run: {row['skipped']}", *beside]
                pytest.fail("; ".join(said), pytrace=False)
            self._state.absent[row["skipped"], f"{row['op']} {row['provider']}"] += 1
            pytest.skip(f"not run: {row['skipped']}")
        self._beyond(what, row["apart"] or row["note"])
        samples = iter(row["samples_us"])

        def play() -> None:
            Clock.now += next(samples) / 1e6

        self._shown = True
        self._benchmark.group = f"{row['op']} {row['case']} on {row['device']}"
        self._benchmark.extra_info.update({name: row[name] for name in _KEPT})
        self._benchmark.pedantic(play, rounds=row["n"], iterations=1, warmup_rounds=0)
        if beside:
            pytest.fail("; ".join(beside), pytrace=False)
        return row

    def _beside(self, rows: list[dict[str, Any]]) -> list[str]:
        """What went wrong in the rows beside a kernel of one's own, which have no test of their
        own. What did not run and what is too inexact is told at the end."""
        wrong = []
        for row in rows:
            what = _what(row)
            if row["failure"] is not None or row["gap"]:
                wrong.append(f"{what}: {row['failure'] or 'not run: ' + row['skipped']}")
            elif row["skipped"] is not None:
                self._state.absent[row["skipped"], f"{row['op']} {row['provider']}"] += 1
            else:
                self._beyond(what, row["apart"] or row["note"])
        return wrong

    def _beyond(self, what: str, note: str | None) -> None:
        """A peer that is less exact than the op allows passes, and is named at the end."""
        if note is not None:
            self._node.user_properties.append((_BEYOND, f"{what}: {note}"))

    def close(self) -> None:
        """pytest-benchmark warns of a fixture that was not used, as where a kernel is only checked,
        is wrong or is not run here."""
        if self._used and not self._shown and self._config.pluginmanager.hasplugin("benchmark"):
            self._benchmark.disabled = True
            self._benchmark(lambda: None)


def _dims(node: Any) -> dict[str, Any]:
    """The test's parameters that a record can hold."""
    params = getattr(getattr(node, "callspec", None), "params", {})
    ours = ("name", "tags", "cpu")
    return {k: v for k, v in params.items() if type(v) in (int, float, str, bool) and k not in ours}


# ---- the end of the session


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session.config.stash[_STATE]
    code = 0
    if state.base is not None:
        code = _compare(state)
    if state.rows is not None:
        state.rows.close()
        stored = _store_rows(session.config, state, regressed=code == 1)
        code = code if stored else 1
    code = code or _unwritten(session.config, state)
    if code and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = code


def _compare(state: _State) -> int:
    """1 where a row is slower or wrong, 2 where something can't be compared, else 0."""
    assert state.base is not None
    if state.rows is None or not state.rows.records:
        state.said.append("nothing was timed that could be compared")
        _say_left_out(state, timed_rows(state.base))
        return 2
    found, lost = state.rows.compared(state.base, state.threshold)
    state.said += [str(v) for v in found.verdicts if v.verdict not in ("SAME", "NOT TIMED", "NEW")]
    counts = ", ".join(f"{n} {name}" for name, n in found.counts.items()) or "no row in common"
    state.said.append(f"against the baseline: {counts}; the threshold is {state.threshold:.1%}")
    if lost:
        state.said.append(f"rows of the baseline that this session does not have: {len(lost)}")
    left_out = _say_left_out(state, lost)
    late = any(why.startswith("budget") for why in left_out)  # and not by the user's choice
    return found.code or (2 if late else 0)


def _say_left_out(state: _State, lost: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    """By reason, the rows of the baseline that the budget or the user left out."""
    left_out = not_compared(lost, state.budget)
    for why, rows in left_out.items():
        state.said.append(f"not compared: {len(rows)}, {why}: {', '.join(rows)}")
    return left_out


def _unwritten(config: pytest.Config, state: _State) -> int:
    """2 where a record was asked for and there is nothing to write, else 0."""
    name = getattr(config.option, "aimills_record", None)
    if name is None or (state.rows is not None and state.rows.records):
        return 0
    state.said.append(f"the record {name} was not written: nothing was timed")
    return 2


def _store_rows(config: pytest.Config, state: _State, regressed: bool) -> bool:
    """Whether all that was asked for could be written."""
    assert state.rows is not None
    paths = []
    if (name := getattr(config.option, "aimills_record", None)) is not None:
        paths.append(Path(name))
    store = _store(config)
    if store is not None and (config.option.benchmark_autosave or config.option.benchmark_save):
        if regressed:
            state.said.append("not stored as a baseline, as it has regressed")
        elif not state.rows.records:
            state.said.append("not stored as a baseline, as nothing was timed")
        else:
            made = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")
            paths.append(store / f"{made}.json")
    whole = True
    for path in paths:
        try:
            state.said += [f"record: {written}" for written in state.rows.save(path)]
        except OSError as error:
            state.said.append(f"the record {path} can't be written: {error.strerror}")
            whole = False
    return whole


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: Any) -> None:
    state = terminalreporter.config.stash.get(_STATE, None)
    beyond = _beyond_tolerance(terminalreporter)
    if state is None or not (state.rows or state.absent or state.said or state.budget or beyond):
        return
    terminalreporter.section("kernels")
    if state.rows or state.absent:
        for line in _counts(state):
            terminalreporter.line(line)
    for line in [*beyond, *state.budget.lines(), *state.said]:
        terminalreporter.line(line)


def _beyond_tolerance(terminalreporter: Any) -> list[str]:
    """Of all reports, as those of xdist's workers come with what their tests said."""
    reports = [r for found in terminalreporter.stats.values() for r in found]
    said = [
        text
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in getattr(report, "user_properties", ())
        if name == _BEYOND
    ]
    return [f"beyond the op's tolerance, and no yardstick: {text}" for text in said]


def _what(row: dict[str, Any]) -> str:
    return f"{row['op']} {row['case']} {row['provider']}"


def _counts(state: _State) -> list[str]:
    from aimills_kernels.harness._reading import own_share_text
    from aimills_kernels.harness.pytest_rows import NO_GPU

    rows = state.rows.rows if state.rows else []
    timed = [row for row in rows if row["median_us"] is not None]
    failed = [row for row in rows if row["failure"] or row["gap"]]
    devices = ", ".join(sorted({row["device"] for row in rows})) or "nothing"
    lines = [
        f"{len(timed)} rows timed on {devices}, "
        f"{sum(state.absent.values())} not run, {len(failed)} failed"
    ]
    by_reason: dict[str, list[tuple[str, int]]] = {}
    for (reason, name), n in sorted(state.absent.items()):
        why = "they need a GPU" if reason.startswith(NO_GPU) else reason
        by_reason.setdefault(why, []).append((name, n))
    for reason, found in sorted(by_reason.items(), key=lambda each: each[0] != "they need a GPU"):
        total = sum(n for _, n in found)
        names = ", ".join(name if n == 1 else f"{name} x {n}" for name, n in found)
        lines.append(f"not run: {total} row{'s' * (total > 1)}, {reason}: {names}")
    if state.rows and (text := own_share_text(state.rows.seconds)):
        lines.append(text)
    return lines
