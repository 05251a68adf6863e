"""Wrong providers that are right for as long as the gate looks.

Only the checks around the clock can see them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._dispatch import load, raw_launch
from aimills_kernels._op import Op, Provider, tensors_of
from aimills_kernels._registry import get_op
from aimills_kernels._tolerance import Judgement, Ratio
from aimills_kernels.harness import _timers
from tests.faults import _first_tensor, _right, results

GATE_CALLS = 3  # what validate() makes
_calls: list[int] = []
_cache: dict[int, list[Any]] = {}


def _late() -> bool:
    _calls.append(1)
    return len(_calls) > GATE_CALLS


def calls() -> int:
    return len(_calls)


def no_fault(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _late()
    _right(op, outs, args)


def stale_output(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    if not _late():
        _right(op, outs, args)


def wrong_values(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        outs[0].mul_(2)


def overwrites_an_input(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        _first_tensor(args).zero_()


def cached_by_pointer(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    key = _first_tensor(args).data_ptr()
    if not _late() or key not in _cache:
        _right(op, outs, args)
        _cache[key] = [o.clone() for o in outs]
    for out, old in zip(outs, _cache[key], strict=True):
        out.copy_(old)


def cached_by_version(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Knows its arguments by what PyTorch counts: a pointer, and how often it was written to."""
    key = hash(tuple((t.data_ptr(), t._version) for t in tensors_of(args)))
    if not _late() or key not in _cache:
        _right(op, outs, args)
        _cache[key] = [o.clone() for o in outs]
    for out, old in zip(outs, _cache[key], strict=True):
        out.copy_(old)


def result_reuse(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Does nothing where it has seen the data before."""
    key = hash(tuple(_first_tensor(args).float().flatten().tolist()))
    if not _late() or key not in _cache:
        _right(op, outs, args)
        _cache[key] = []


def skips_the_same_again(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Does nothing where the call before had the same data."""
    key = hash(tuple(_first_tensor(args).float().flatten().tolist()))
    if not _late() or _cache.get(0) != [key]:
        _right(op, outs, args)
    _cache[0] = [key]


def skips_what_it_knows_well(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Does nothing from the third call on with the same data, which only the timed loop makes."""
    seen = _cache.setdefault(hash(tuple(_first_tensor(args).float().flatten().tolist())), [])
    if not _late() or len(seen) < 2:
        _right(op, outs, args)
        seen.append(None)


def changes_what_cancels_out(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """The product of two inputs stays as it was, and with it all outputs."""
    _right(op, outs, args)
    first, second, *_ = tensors_of(args)
    if _late() and not _cache.setdefault(first.data_ptr(), []):
        first.neg_()
        second.neg_()
        _cache[first.data_ptr()] = [None]


def right_for_ten_calls(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    _late()
    if len(_calls) > GATE_CALLS + 10:
        outs[0].mul_(1.5)


def precision_downgraded(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        outs[0].copy_(outs[0].to(torch.float8_e4m3fn))


def patched_timer(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        torch.cuda.Event.elapsed_time = lambda self, end: 1e-3
        time.perf_counter_ns = lambda: 0


def patched_judge(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        outs[0].mul_(2)
        right = Judgement(0.0, 0.0, 0.0, "right")
        Ratio.judge = lambda *_: right  # type: ignore[method-assign]


def patched_harness_clock(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        true = time.perf_counter_ns
        _timers._now = lambda: true() // 100


def lowers_the_precision_of_all(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """The reference too becomes less exact, and with it what it is held against."""
    _right(op, outs, args)
    if _late():
        torch.set_float32_matmul_precision("medium")


def finishes_in_a_thread(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Returns at once; the outputs come while nobody's time is taken. Those of data that it has not
    seen come so late that a busy machine, which stops who looks at them, has no part in it."""
    if not _late():
        _right(op, outs, args)
        return
    key = hash(tuple(_first_tensor(args).float().flatten().tolist()))
    after_s = 0.02 if key in _cache else 2.0
    _cache[key] = [torch.empty_like(o) for o in outs]
    _right(op, tuple(_cache[key]), args)
    threading.Timer(after_s, _copied, (outs, _cache[key])).start()


def _copied(outs: tuple[Tensor, ...], made: list[Tensor]) -> None:
    for out, own in zip(outs, made, strict=True):
        out.copy_(own)


def cached_by_data(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    """Right on whatever data, and quick on what it has seen."""
    key = hash(tuple(_first_tensor(args).float().flatten().tolist()))
    if not _late() or key not in _cache:
        time.sleep(0.02)
        _right(op, outs, args)
        _cache[key] = [o.clone() for o in outs]
    for out, old in zip(outs, _cache[key], strict=True):
        out.copy_(old)


def out_of_memory(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")


def raises(op: str, outs: tuple[Tensor, ...], args: tuple) -> None:
    _right(op, outs, args)
    if _late():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


LATE_FAULTS: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (
        stale_output, result_reuse, skips_the_same_again, wrong_values,
        right_for_ten_calls, changes_what_cancels_out,
        precision_downgraded, overwrites_an_input, cached_by_pointer, cached_by_version,
        patched_timer, patched_judge, patched_harness_clock, lowers_the_precision_of_all,
        finishes_in_a_thread, cached_by_data, raises,
    )
}  # fmt: skip
OTHERS = {f.__name__: f for f in (no_fault, out_of_memory, skips_what_it_knows_well)}


def work_on_a_side_stream(cuda: Any, right: Callable[[], None]) -> None:
    """Late on a stream of its own, which nothing waits for."""
    cuda.launch(right, 10.0, side=_late())


def misses_the_graph(cuda: Any, right: Callable[[], None]) -> None:
    _late()
    if not cuda.capturing():
        cuda.launch(right, 10.0)


def on_its_stream(cuda: Any, right: Callable[[], None]) -> None:
    _late()
    cuda.launch(right, 10.0)


def kills_the_device(cuda: Any, right: Callable[[], None]) -> None:
    cuda.launch(right, 10.0)
    if _late():
        cuda.kill()


# Of a GPU only; `cuda` is a device of a test, real or not.
GPU_FAULTS: dict[str, Callable[[Any, Callable[[], None]], None]] = {
    f.__name__: f
    for f in (on_its_stream, work_on_a_side_stream, misses_the_graph, kills_the_device)
}
device: list[Any] = []


def plant(op: str, fault: str) -> Op:
    """The op with a provider named "planted" in front, whose memory starts afresh."""
    _calls.clear()
    _cache.clear()
    load.cache_clear()
    raw_launch.cache_clear()
    target = f"tests.late_faults:launcher/{op}.{fault}"
    declared = get_op(op)
    planted = Provider("planted", target, devices=("cpu", "cuda"))
    return replace(declared, providers=(planted, *declared.providers))


def launcher(name: str) -> Any:
    op, _, fault = name.partition(".")
    if behave_on := GPU_FAULTS.get(fault):
        return lambda outs, *args: behave_on(device[-1], lambda: _right(op, outs, args))
    behave = LATE_FAULTS.get(fault) or OTHERS.get(fault, no_fault)
    return lambda outs, *args: behave(op, results(op, outs, args), args)
