"""`pytest --benchmark`: time the benchmarks, and nothing but the benchmarks.

It stands beside pytest-benchmark, whose storage, JSON and comparisons go on working. Without a
path it collects `bench/`. It imports no torch.
"""

from __future__ import annotations

import pytest

_FLAG = "--benchmark"


def pytest_addoption(parser: pytest.Parser) -> None:
    # A plugin that has the option already stays in charge of it. pytest looks for a second one
    # only within a group, and argparse then ends the run.
    groups = [parser._anonymous, *parser._groups]
    if any(_FLAG in option.names() for group in groups for option in group.options):
        return
    parser.getgroup("benchmark").addoption(
        _FLAG,
        action="store_true",
        dest="aimills_benchmark",
        help="Time the benchmarks and run nothing else; without a path, those in bench/.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not getattr(config.option, "aimills_benchmark", False):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(f"{_FLAG} needs pytest-benchmark: pip install pytest-benchmark")
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
