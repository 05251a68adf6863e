"""What the README's table of producers says: `python -m tests.ptx.measured [pytest's options]`
runs their tests and prints each one's error, its part of the terms' sizes, and the CPU time of a
second run, which compiles nothing."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

# Tests that hold what a compiler or a library made against float64 are named so, in these files.
NAMED = re.compile(r"test_(?:triton|gluon|nvcc|cutlass)_")
FILES = ("producers", "mma", "async", "cutlass")

_noted: list[tuple[float, float]] = []


def note(got: Tensor, want: Tensor, size: Tensor) -> None:
    """An error of a producer's kernel; size: the sum of the terms' sizes of each element."""
    error = (got.double() - want).abs()
    _noted.append((float(error.max()), float((error / size).nan_to_num().max())))


class _Rows:
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if NAMED.match(item.name)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        item.runtest()
        _noted.clear()
        began = time.process_time()
        yield
        took = time.process_time() - began
        error, part = max(_noted, default=(0.0, 0.0))
        sys.__stdout__.write(f"\n| {item.name} | {error:.1e} | {part:.1e} | {took:.1f} |")


if __name__ == "__main__":
    # As a module, since the tests note their errors there.
    from tests.ptx import measured

    files = [str(Path(__file__).parents[1] / f"test_ptx_{name}.py") for name in measured.FILES]
    sys.exit(pytest.main([*files, "-q", "-s", *sys.argv[1:]], plugins=[measured._Rows()]))
