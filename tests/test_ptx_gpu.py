"""What the executor gives, held against an H100 or H200: the same kernels' outputs, and the
estimates against measured times. The rows it prints are for docs/hardware.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Op, Provider, map_tensors
from aimills_kernels._registry import get_op
from tests.ptx import __main__ as command
from tests.ptx import estimate, project
from tests.test_ptx_bytes import CASE, kernels

pytestmark = pytest.mark.ptx

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
# From a provider, outputs and inputs on a CPU: what it wrote, on a CPU, and microseconds of a call.
Device = Callable[[Op, Provider, tuple, tuple], tuple[tuple, float]]


def compared(op: Op, provider: Provider, device: Device, seed: int) -> str:
    """A row: the largest difference of the two, the estimate and the time of a call. Both results
    are right to the op's tolerance, or it raises."""
    case = op.case(CASE.get(provider.name, "ragged")).on("cpu")
    alone, here = project.on_executor(op, provider)

    def new() -> tuple[tuple, tuple]:
        fakes = op.fake(*op.make_inputs(case, "meta", seed))
        return command.poisoned(fakes), op.make_inputs(case, "cpu", seed)

    outs, inputs = new()
    assert project.why_not(alone, here, inputs, 90) is None
    done = command.launches(here, outs, inputs, seed=seed, count=True)
    outs = outs or op.written(inputs)
    found, us = device(op, provider, *new())
    for who, some in (("the executor", outs), ("the device", found)):
        wrong = [v for v in project.judge(op, new()[1], some) if not v.judgement.ok]
        assert not wrong, f"{who}: {wrong[0].name}: {wrong[0].judgement.text}"
    apart = max(
        float((a.double() - b.double()).nan_to_num().abs().max())
        for a, b in zip(outs, found, strict=True)
        if a.numel()
    )
    least = max(estimate.cycles(done).values()) / estimate.CLOCK_GHZ / 1000
    return f"| {op.name} | {provider.name} | {case.name} | {apart:.2g} | {least:.3g} | {us:.3g} |"


def on_gpu(op: Op, provider: Provider, outs: tuple, inputs: tuple) -> tuple[tuple, float]:
    outs, inputs = (
        tuple(map_tensors(torch.Tensor.cuda, a) for a in args) for args in (outs, inputs)
    )
    launch = _dispatch.load(provider)
    launch(outs, *inputs)
    found = tuple(t.cpu() for t in outs or op.written(inputs))
    times = []
    for _ in range(20):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        launch(outs, *inputs)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return found, min(times)


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs an H100 or H200")
@pytest.mark.parametrize(("op", "provider"), [p.values for p in kernels()])
def test_a_gpu_gives_what_the_executor_gives(op, provider, seed):
    print(compared(op, provider, on_gpu, seed))


def _stand_in(change: float) -> Device:
    """The executor in place of the GPU, with its first result off by `change`."""

    def run(op: Op, provider: Provider, outs: tuple, inputs: tuple) -> Any:
        command.launches(project.on_executor(op, provider)[1], outs, inputs, seed=1)
        outs[1].view(-1)[0] += change
        return outs, 7.0

    return run


def test_a_row_without_a_gpu(seed):
    op = get_op("quantize_fp8")
    (provider,) = project.own(op)
    row = [cell.strip() for cell in compared(op, provider, _stand_in(0.0), seed).split("|")]
    assert row[1:5] == ["quantize_fp8", "triton", "ragged", "0"]
    assert float(row[5]) > 0
    assert row[6] == "7"
    with pytest.raises(AssertionError, match=r"the device: scale"):
        compared(op, provider, _stand_in(1.0), seed)
