"""Every op x benchmark case x provider or peer.

    pytest bench                        one checked pass of each, no times
    pytest --benchmark                  times, under pytest-benchmark

The times are the harness's own (gate, cold caches, device clock, checks afterwards). All that is
selected of a case is timed in one run, in turns.
"""

from __future__ import annotations

from typing import Any

import pytest

from aimills_kernels._op import Case, Op
from aimills_kernels.harness.pytest_rows import grid


@pytest.mark.parametrize(
    ("op", "case", "contestant"),
    [pytest.param(*row, id="-".join(map(str, row)).replace(" ", "_")) for row in grid()],
)
def test_contestant(op: Op, case: Case, contestant: str, bench_op: Any) -> None:
    bench_op.declared(op, case, contestant)
