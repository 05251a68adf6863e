"""Bytes that each kernel moves, held against its op's cost model: what reads an input twice is red.

The counts are of what lanes and copies ask for, before any cache, on one ragged case.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from aimills_kernels._op import Op, Provider
from aimills_kernels._registry import OPS, get_op
from tests.ptx import __main__ as command
from tests.ptx import counters, project

pytestmark = pytest.mark.ptx

CASE = {"triton_block": "block-ragged", "triton_invariant": "invariant"}  # else "ragged"
EXACT = 1.01
KEYS = "each tile of queries and each query head loads the keys and values again"
PASSES = "each of its three kernels loads what it needs, and each tile the other side again"
TILES = "each tile loads its rows and columns, which its neighbours load too"
EACH_LANE = "each lane loads the one index or weight of its row"
TAPS = "neighbouring pixels of the result load the same pixels of the frame"
# Op and provider -> how often the op's least bytes may be moved, and why it is not once.
FACTORS = {
    ("attention", "triton"): (2.5, KEYS),
    ("attention", "triton_invariant"): (1.4, KEYS),
    ("attention_backward", "triton"): (5.2, PASSES),
    ("attention_varlen", "triton"): (2.3, KEYS),
    ("attention_varlen", "triton_invariant"): (2.1, KEYS),
    ("attention_varlen_backward", "triton"): (3.1, PASSES),
    ("attention_paged", "triton"): (1.15, "its page table's entries are loaded by each lane"),
    ("attention_paged", "triton_invariant"): (2.1, KEYS),
    ("kv_append", "triton"): (3.3, EACH_LANE),
    ("merge_attention_states", "triton"): (3.9, EACH_LANE),
    ("matmul_fp8", "triton"): (3.6, TILES),
    ("matmul_fp8", "triton_block"): (3.7, TILES),
    ("matmul_int8", "triton"): (2.9, TILES),
    ("matmul_w8", "triton"): (3.1, TILES),
    ("matmul_w4", "triton"): (2.0, TILES),
    ("grouped_matmul_fp8", "triton"): (5.3, TILES),
    ("grouped_matmul_w4", "triton"): (4.4, TILES),
    ("rmsnorm_quantize_fp8", "triton"): (1.55, "each row loads the norm's weights again"),
    ("matmul_quantize_fp8", "triton"): (3.9, TILES),
    ("grouped_matmul_quantize_fp8", "triton"): (6.1, TILES),
    ("video_to_tensor", "nvrtc"): (2.1, TAPS),
    ("video_to_tensor", "triton"): (3.2, TAPS),
    ("video_to_tensor_ragged", "nvrtc"): (1.9, TAPS),
    ("video_to_tensor_ragged", "triton"): (2.8, TAPS),
}
_SHORT = {"quantize_fp8", "quantize_int8", "swiglu_quantize_fp8", "matmul_w4"}


def kernels() -> Iterator[Any]:
    for op in OPS:
        for provider in project.own(op):
            marks = () if op.name in _SHORT else pytest.mark.full
            yield pytest.param(op, provider, id=f"{op}-{provider}", marks=marks)


def moved(op: Op, provider: Provider) -> tuple[float, float]:
    """Bytes loaded and stored, as parts of the op's least."""
    case = op.case(CASE.get(provider.name, "ragged")).on("cpu")
    inputs = op.make_inputs(case, "cpu", 0)
    alone, here = project.on_executor(op, provider)
    assert project.why_not(alone, here, inputs, 90) is None
    outs = command.poisoned(op.fake(*op.make_inputs(case, "meta", 0)))
    done = command.launches(here, outs, inputs, check=False, count=True)
    loaded, stored = counters.device_bytes(done)
    return loaded / op.cost(case).bytes, stored / op.cost(case).bytes


def allowed(op: Op, provider: Provider) -> float:
    return FACTORS.get((op.name, provider.name), (EXACT, ""))[0]


@pytest.mark.parametrize(("op", "provider"), list(kernels()))
def test_a_kernel_moves_no_more_bytes_than_it_may(op, provider):
    loaded, stored = moved(op, provider)
    assert loaded + stored <= allowed(op, provider)
    assert 2 * loaded + stored > allowed(op, provider), "the factor would hide a second reading"


def test_each_factor_is_of_a_kernel():
    assert set(FACTORS) <= {(op.name, p.name) for op in OPS for p in project.own(op)}


@pytest.mark.parametrize("name", ["quantize_fp8", "matmul_w4"])
def test_a_kernel_that_reads_its_input_twice_is_found(name, monkeypatch):
    def twice(text: str) -> str:
        found = r"((?:@!?%p\d+ )?(?:ld\.global|cp\.async\.c[ag])[^;]*;)"
        edited, times = re.subn(found, r"\1 \1", text)
        assert times
        return edited

    op = get_op(name)
    (provider,) = project.own(op)
    monkeypatch.setattr(command, "executing", functools.partial(command.executing, edit=twice))
    assert sum(moved(op, provider)) > allowed(op, provider)
