"""What the executor gives, held against an H100 or H200: the same kernels' outputs, ours and those
that the executor was checked against, and the estimates against measured times. The rows it prints
are for docs/hardware.md."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Op, Provider, map_tensors
from aimills_kernels._registry import get_op
from aimills_kernels.harness.timing import NoTime, time_interleaved
from tests import test_ptx_producers as producers
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
    calls = {provider.name: lambda: launch(outs, *inputs)}
    (timing,) = time_interleaved(calls, "cuda", budget_s=1.0).values()
    assert not isinstance(timing, NoTime), timing
    return found, timing.median_us


@pytest.mark.gpu
@pytest.mark.full
@pytest.mark.skipif(not HOPPER, reason="needs an H100 or H200")
@pytest.mark.parametrize(("op", "provider"), [p.values for p in kernels()])
def test_a_gpu_gives_what_the_executor_gives(op, provider, seed):
    print(compared(op, provider, on_gpu, seed))


@contextlib.contextmanager
def _plainly(**options: Any) -> Iterator[list]:
    yield []


def _producer(name: str, patch: pytest.MonkeyPatch, seed: int) -> None:
    """Each case of a producer's test with its tensors on the default device, held against float64
    as on the executor; Triton launches it as always."""
    original, device = producers.drawn, torch.get_default_device()

    def drawn(*shape: int, **given: Any) -> torch.Tensor:
        with torch.device("cpu"):
            made = original(*shape, **given)
        return made.to(device)

    patch.setattr(producers, "executing", _plainly)
    patch.setattr(producers, "ran", lambda *given: None)
    patch.setattr(producers, "drawn", drawn)
    test = getattr(producers, name)
    (cases,) = [m.args for m in test.pytestmark if m.name == "parametrize"]
    for case in cases[1]:
        test(*case, seed)


PRODUCERS = ("test_triton_matmul_by_pointers", "test_triton_matmul_by_descriptors",
             "test_triton_attention", "test_triton_attention_by_pointers")  # fmt: skip


@pytest.mark.gpu
@pytest.mark.full
@pytest.mark.skipif(not HOPPER, reason="needs an H100 or H200")
@pytest.mark.parametrize("name", PRODUCERS)
def test_a_gpu_gives_what_the_producers_were_checked_for(name, monkeypatch, seed):
    with torch.device("cuda"):
        _producer(name, monkeypatch, seed)


@pytest.mark.full
@pytest.mark.parametrize("name", PRODUCERS)
def test_the_producers_without_a_gpu(name, monkeypatch, seed):
    """The same, with the executor in place of the GPU."""
    with producers.executing(seed=seed):
        _producer(name, monkeypatch, seed)


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
