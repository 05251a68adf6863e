"""Every op x benchmark case x provider under pytest-benchmark.

    pytest bench                        one checked pass of each, no times
    pytest --benchmark                  times

The times are the harness's own (gate, cold caches, device clock, checks afterwards), one provider
to a run. They reach pytest-benchmark through a clock that moves by each sample. For peers in the
same run, use `aimills-kernels bench`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._registry import OPS
from aimills_kernels._validate import validate
from aimills_kernels.harness import bench, ceilings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET_S = 3.0
_KEPT = ("error_used", "sol", "sol_spec", "sol_bound", "tflops", "gbps", "cold", "clock", "suspect")


class Clock:
    """Shows the sum of the samples that were played to it, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
GRID = [
    pytest.param(op, case, provider, id=f"{op}-{case}-{provider}")
    for op in OPS
    for case in op.cases
    if "bench" in case.tags
    for provider in op.all_providers
]


@pytest.mark.benchmark(timer=CLOCK, warmup=False)
@pytest.mark.parametrize(("op", "case", "provider"), GRID)
def test_provider(
    op: Op, case: Case, provider: Provider, benchmark: Any, request: pytest.FixtureRequest
) -> None:
    if not request.config.option.benchmark_only:
        result = validate(op, case, provider, device=DEVICE)
        if result.skipped is not None:
            pytest.skip(f"not run: {result.skipped}")
        assert result.ok, str(result)
        benchmark(lambda: None)  # disabled: pytest-benchmark only wants to be used
        return
    row = _row(op, case, provider)
    samples = iter(row["samples_us"])

    def play() -> None:
        CLOCK.now += next(samples) / 1e6

    benchmark.group = f"{op} {case} on {DEVICE}"
    benchmark.extra_info.update({k: row[k] for k in _KEPT})
    benchmark.pedantic(play, rounds=row["n"], iterations=1, warmup_rounds=0)


@cache
def _ceilings() -> dict[str, Any]:
    return ceilings.measure(DEVICE)


def _row(op: Op, case: Case, provider: Provider) -> dict[str, Any]:
    record = bench.run(
        ops=[op], cases=[case.name], providers=[provider.name], device=DEVICE, budget_s=BUDGET_S,
        peers=False, measured=_ceilings(),
    )  # fmt: skip
    (row,) = record["rows"]
    if row["skipped"] is not None:
        pytest.skip(f"not run: {row['skipped']}")
    assert row["failure"] is None, row["failure"]
    return row
