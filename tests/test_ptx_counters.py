"""What the executor counts: bytes, bank conflicts, instructions by class; and its traces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import as_tuple
from aimills_kernels._registry import get_op
from tests.ptx import counters, estimate
from tests.ptx.counters import bank_cycles
from tests.ptx.parse import Instr, parse
from tests.ptx.snippet import run, text
from tests.ptx.trace import Tracer, Watch
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx
LANE = np.arange(32)
SHARED = ".extern .shared .align 16 .b8 sm[];"


@pytest.mark.parametrize(
    ("address", "size", "cycles", "least"),
    [
        (4 * LANE, 4, 1, 1),  # one word a bank
        (0 * LANE, 4, 1, 1),  # a broadcast
        (2 * LANE, 2, 1, 1),  # two lanes to a word
        (8 * LANE, 4, 2, 1),
        (128 * LANE, 4, 32, 1),  # a column
        (132 * LANE, 4, 1, 1),  # a padded one
        (8 * LANE, 8, 2, 2),  # by half warps
        (16 * LANE, 16, 4, 4),  # by quarter warps
        (128 * LANE, 16, 32, 4),
    ],
)
def test_bank_conflicts(address, size, cycles, least):
    assert bank_cycles(0 * LANE, LANE, address, size) == (cycles, least)


def test_bytes_and_classes():
    out = torch.zeros(64)
    body = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2; ld.global.f32 %f1, [%rd3]; ex2.approx.f32 %f2, %f1;
    add.f32 %f3, %f2, %f1; mov.u32 %r2, sm; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3;
    st.shared.f32 [%r4], %f3; bar.sync 0; st.global.f32 [%rd3], %f3;"""
    done = run(body, [("u64", out)], threads=64, declare=SHARED, shared=256, count=True)
    assert done.counters.loaded == {"param": 8 * 64, "global": 256}
    assert done.counters.stored == {"shared": 256, "global": 256}
    assert (done.counters.shared_cycles, done.counters.shared_least) == (2, 2)
    classes = counters.by_class(done.kernel, done.executed)
    assert {k: classes[k] for k in ("special", "float", "sync", "memory")} == {
        "special": 2, "float": 2, "sync": 2, "memory": 8,
    }  # fmt: skip


@pytest.mark.parametrize("case", ["tiny", "ragged"])
def test_quantization_loads_each_value_once(case):
    op = get_op("quantize_fp8")
    args = op.make_inputs(op.case(case).on("cpu"), "cpu", 0)
    outs = tuple(torch.empty_like(t) for t in as_tuple(op.reference(*args)))
    with executing(90, count=True) as done:
        _dispatch.load(op.provider("triton"))(outs, *args)
    loaded = sum(result.counters.loaded["global"] for result in done)
    assert loaded == args[0].nbytes


def _instr(op: str, a: str) -> Instr:
    sums = ", ".join(["%f1"] * 128)
    return parse(text(f"{op} {{{sums}}}, {a}, %rd2, 1, 1, 1, 0, 0;")).kernel().code[0]


@pytest.mark.parametrize(
    ("types", "a", "cycles", "operands"),
    [
        ("k16.f32.bf16.bf16", "%rd1", 128, (64 + 256) * 16 * 2),  # known of Hopper: 128 cycles
        ("k16.f32.f16.f16", "{%r1, %r2, %r3, %r4}", 128, 256 * 16 * 2),
        ("k32.f32.e4m3.e4m3", "%rd1", 128, (64 + 256) * 32),
        ("k8.f32.tf32.tf32", "%rd1", 128, (64 + 256) * 8 * 4),
    ],
)
def test_a_warpgroup_product_costs_what_the_tensor_cores_take(types, a, cycles, operands):
    instr = _instr(f"wgmma.mma_async.sync.aligned.m64n256{types}", a)
    assert estimate.tensor_cycles(instr, 4) == cycles
    assert estimate.operand_bytes(instr, 4) == operands


@pytest.mark.parametrize(
    ("types", "cycles"),
    [("k16.row.col.f32.bf16.bf16.f32", 1), ("k16.row.col.f16.f16.f16.f16", 1),
     ("k8.row.col.f32.tf32.tf32.f32", 1), ("k32.row.col.s32.s8.s8.s32", 1),
     ("k32.row.col.f32.e4m3.e5m2.f32", 1), ("k4.row.col.f64.f64.f64.f64", 4)],
)  # fmt: skip
def test_a_warp_product_costs_what_its_operands_type_says(types, cycles):
    op = f"mma.sync.aligned.m16n8{types}"
    instr = parse(text(f"{op} {{%r1}}, {{%r2}}, {{%r3}}, {{%r4}};")).kernel().code[0]
    assert estimate.tensor_cycles(instr, 1) == cycles
    assert estimate.operand_bytes(instr, 1) == 0


def test_an_estimate_of_a_copy_is_bound_by_memory():
    data = torch.zeros(4096)
    body = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
    mad.lo.u32 %r3, %r2, 128, %r1; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3]; st.global.f32 [%rd3], %f1;"""
    done = run(body, [("u64", data)], threads=128, grid=[32], count=True)
    found = estimate.cycles([done], sms=1)
    assert found["device"] == pytest.approx(2 * 4 * 4096 / (4800 / 1.83))
    assert found["issue"] == 9 * 128 / 4
    assert found["tensor"] == 0
    assert estimate.text([done]).splitlines()[1].split() == ["device", "12.5", "100%"]


# ---- for a person


def _lines(**options) -> list[str]:
    lines: list[str] = []
    body = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, sm; shl.b32 %r3, %r1, 2;
    add.u32 %r4, %r2, %r3; st.shared.u32 [%r4], %r1; setp.eq.u32 %p1, %r1, 33;
    @%p1 st.global.u32 [%rd1+8], %r1;"""
    tracer = Tracer(lines.append, **options)
    data = np.zeros(4, np.uint32)
    run(body, [("u64", data)], threads=64, declare=SHARED, shared=256, tracer=tracer)
    return lines


def test_a_trace_shows_the_wanted_warp_and_lane():
    lines = _lines(warps={1}, lane=3)
    assert len(lines) == 9
    assert all(line.startswith("warp 1 of CTA (0, 0, 0) line ") for line in lines)
    assert "mov.u32 %r1, %tid.x;   -> %r1=0x23" in lines[1]


def test_a_watch_names_who_changes_a_place():
    shared = _lines(every=False, watch=(Watch.parse("shared:132"),))
    assert len(shared) == 1
    assert "shared:132 0xff -> 0x21" in shared[0]
    assert "warp 1 of CTA (0, 0, 0)" in shared[0]
    assert "st.shared.u32 [%r4], %r1;" in shared[0]
    (change,) = _lines(every=False, watch=(Watch.parse("0:8"),))
    assert "0:8 0x00 -> 0x21" in change


@pytest.mark.parametrize("words", ["shared", "shared:x", "nowhere:0", ""])
def test_a_watch_that_is_none(words):
    with pytest.raises(ValueError, match="--watch"):
        Watch.parse(words)
