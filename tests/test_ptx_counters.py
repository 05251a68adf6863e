"""What the executor counts: bytes, bank conflicts, instructions by class; and its traces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import as_tuple
from aimills_kernels._registry import get_op
from tests.ptx import counters, cuda, estimate, launch, tma
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


# Bytes from row to row, and cycles of the 8 rows of a matrix, 16 bytes each.
_MATRIX = {16: 1, 32: 2, 128: 8, 144: 1}


@pytest.mark.parametrize("op", ["ldmatrix", "stmatrix"])
@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("pitch", _MATRIX)
def test_matrices_take_a_cycle_for_eight_rows(op, trans, count, pitch):
    """Transposed or not: the rows are the same, and it is the registers that differ."""
    regs = "{" + ", ".join(f"%r{10 + j}" for j in range(count)) + "}"
    how = f"{op}.sync.aligned.m8n8.x{count}{trans}.shared.b16"
    operands = f"{regs}, [%r3]" if op == "ldmatrix" else f"[%r3], {regs}"
    fill = """mov.u32 %r1, %laneid; mov.u32 %r2, sm; shl.b32 %r4, %r1, 2; add.u32 %r4, %r4, %r2;
    mov.u32 %r5, 0; L: st.shared.u32 [%r4], %r5; add.u32 %r4, %r4, 128; add.u32 %r5, %r5, 1;
    setp.lt.u32 %p1, %r5, 36; @%p1 bra L; bar.sync 0;"""
    zeros = "".join(f"mov.u32 %r{10 + j}, 0;" for j in range(4))
    place = f"mad.lo.u32 %r3, %r1, {pitch}, %r2; {zeros}"
    none, one = (
        run(fill + place + f"{how} {operands};" * n, declare=SHARED, shared=36 * 128,
            count=True).counters for n in (0, 1)
    )  # fmt: skip
    moved = "loaded" if op == "ldmatrix" else "stored"
    assert getattr(one, moved)["shared"] - getattr(none, moved)["shared"] == 128 * count
    assert one.shared_least - none.shared_least == count
    assert one.shared_cycles - none.shared_cycles == count * _MATRIX[pitch]


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
     ("k32.row.col.f32.e4m3.e5m2.f32", 2), ("k4.row.col.f64.f64.f64.f64", 4)],
)  # fmt: skip
def test_a_warp_product_costs_what_its_operands_type_says(types, cycles):
    op = f"mma.sync.aligned.m16n8{types}"
    instr = parse(text(f"{op} {{%r1}}, {{%r2}}, {{%r3}}, {{%r4}};")).kernel().code[0]
    assert estimate.tensor_cycles(instr, 1) == cycles
    assert estimate.operand_bytes(instr, 1) == 0


def test_a_warp_product_of_fp8_is_two_of_f16_in_machine_code():
    """What the estimate's cycles of it rest on."""
    body = """ld.param.u64 %rd1, [p0]; ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];
    ld.global.v2.b32 {%r5, %r6}, [%rd1+16]; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1+32];
    mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%f1, %f2, %f3, %f4},
    {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};
    st.global.v4.f32 [%rd1], {%f1, %f2, %f3, %f4};"""
    assert "HMMA 2" in estimate.machine_code(cuda.assembled(text(body, ["u64"])))


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
    rows = [line.split() for line in estimate.text([done]).splitlines()]
    assert rows[2] == ["device", "12.5", "51.5", "100%"]  # of all, and of one CTA of the 32
    assert done.ctas == 32


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
    assert all(line.startswith("warp 1 of CTA (0, 0, 0) ") for line in lines)
    guarded = "(1 of 32 lanes) line 13: @%p1 st.global.u32 [%rd1+8], %r1;"
    assert [line for line in lines if "lanes)" in line] == [f"warp 1 of CTA (0, 0, 0) {guarded}"]
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


# ---- each transfer once


def _counted(body: str, args: list, **options) -> tuple[dict, dict]:
    options.setdefault("threads", 1)
    done = run(body, args, declare=SHARED, shared=4096, count=True, **options)
    found = done.counters
    loaded, stored = dict(found.loaded), dict(found.stored)
    loaded.pop("param", None)
    held = done.memory.allocations
    assert sum(a.loaded for a in held) == loaded.get("global", 0)
    assert sum(a.stored for a in held) == stored.get("global", 0)
    return loaded, stored


_START = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, sm; add.u32 %r2, %r1, 4064;
mbarrier.init.shared::cta.b64 [%r2], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;"""
_EXPECT = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {};"
_AWAIT = """L{0}: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], {0}; @!%p1 bra L{0};"""
_BULK = (
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 256, [%r2];"
)
_OUT = """cp.async.bulk{}.global.shared::cta.bulk_group{} [%rd1], [%r1], 256;
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"""


def _aligned(count: int) -> np.ndarray:
    raw = np.zeros(count + 256, np.uint8)
    return raw[-raw.ctypes.data % 256 :][:count]


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_read_twice_counts_twice(times):
    data = torch.zeros(32)
    body = (
        """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;"""
        + "ld.global.f32 %f1, [%rd3];" * times
    )
    assert _counted(body, [("u64", data)], threads=32) == ({"global": 128 * times}, {})


@pytest.mark.parametrize("times", [1, 2])
def test_a_bulk_copy_counts_once(times, seed):
    body = _START + "".join(
        _EXPECT.format(256) + _BULK + _AWAIT.format(phase) for phase in range(times)
    )
    counted = _counted(body, [("u64", _aligned(256))], seed=seed)
    assert counted == ({"global": 256 * times}, {"shared": 256 * times})


@pytest.mark.parametrize(("kind", "type_"), [("", ""), (".reduce", ".add.u32")])
def test_a_bulk_copy_back_counts_once(kind, type_, seed):
    out = (
        _OUT.format("", "")
        if not kind
        else _OUT.format("", type_).replace("cp.async.bulk.global", "cp.reduce.async.bulk.global")
    )
    body = _START + _EXPECT.format(256) + _BULK + _AWAIT.format(0) + out
    counted = _counted(body, [("u64", _aligned(256))], seed=seed)
    assert counted == ({"global": 256, "shared": 256}, {"shared": 256, "global": 256})


def test_a_copy_within_shared_memory_counts_on_both_sides(seed):
    inside = """cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes
    [%r3], [%r1], 256, [%r2];"""
    body = (_START + "add.u32 %r3, %r1, 1024;" + _EXPECT.format(256) + _BULK + _AWAIT.format(0)
            + _EXPECT.format(256) + inside + _AWAIT.format(1))  # fmt: skip
    counted = _counted(body, [("u64", _aligned(256))], seed=seed)
    assert counted == ({"global": 256, "shared": 256}, {"shared": 512})


def test_a_multicast_is_loaded_once_and_stored_in_each_cta(seed):
    body = (
        _START
        + _EXPECT.format(256)
        + """
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    mov.u32 %r4, %cluster_ctarank; setp.eq.u32 %p2, %r4, 0; mov.b16 %rs1, 3;
    @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
    [%r1], [%rd1], 256, [%r2], %rs1;"""
        + _AWAIT.format(0)
        + """
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"""
    )
    counted = _counted(body, [("u64", _aligned(256))], grid=[2], cluster=[2], seed=seed)
    assert counted == ({"global": 256}, {"shared": 512})


def _tensor_map(rows: int = 4) -> tuple[torch.Tensor, tma.TensorMap]:
    data = torch.zeros(rows, 32)
    return data, tma.encode(data, "f32", (32, rows), (128,), (32, 4))


@pytest.mark.parametrize(
    ("rows", "inside", "shared"), [(4, 512, 512), (3, 384, 512)], ids=["whole", "beyond the edge"]
)
def test_a_tensor_copy_counts_what_is_in_the_tensor_once(rows, inside, shared, seed):
    _, box = _tensor_map(rows)
    body = (
        """mov.u32 %r1, sm; add.u32 %r2, %r1, 4064; mov.b64 %rd1, p0; cvta.param.u64 %rd1, %rd1;
    mbarrier.init.shared::cta.b64 [%r2], 1; fence.proxy.async; mov.u32 %r3, 0;
    cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%rd1, {%r3, %r3}];
    """
        + _EXPECT.format(shared)
        + """
    cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes
    [%r1], [%rd1, {%r3, %r3}], [%r2];"""
        + _AWAIT.format(0)
        + """
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd1, {%r3, %r3}], [%r1];
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"""
    )
    source = text(body, ["u64"], threads=1, declare=SHARED).replace(
        ".param .u64 p0", ".param .align 64 .b8 p0[128]"
    )
    done = launch.run(source, [box], [1], shared=4096, count=True, seed=seed)
    found, (held,) = done.counters, done.memory.allocations
    assert (held.loaded, held.stored) == (inside, inside)
    assert (found.loaded["global"], found.stored["global"]) == (inside, inside)
    assert (found.loaded["shared"], found.stored["shared"]) == (shared, shared)


@pytest.mark.parametrize(("wanted", "loaded"), [("", 16), (", 8", 8), (", 0", 0)])
def test_a_cp_async_counts_what_it_reads_and_what_it_writes(wanted, loaded, seed):
    body = f"""ld.param.u64 %rd1, [p0]; mov.u32 %r1, sm;
    cp.async.cg.shared.global [%r1], [%rd1], 16{wanted}; cp.async.wait_all;"""
    expected = ({"global": loaded} if loaded else {}, {"shared": 16})
    assert _counted(body, [("u64", _aligned(256))], seed=seed) == expected


@pytest.mark.parametrize(
    ("instruction", "counted"),
    [
        ("red.global.add.u32 [%rd1], 1;", ({}, {"global": 128})),
        ("atom.global.add.u32 %r5, [%rd1], 1;", ({"global": 128}, {"global": 128})),
        ("atom.add.u32 %r5, [%rd1], 1;", ({"global": 128}, {"global": 128})),
        ("st.shared.u32 [%r1], 0; bar.sync 0; red.shared.add.u32 [%r1], 1;",
         ({}, {"shared": 256})),
        ("st.shared.u32 [%r1], 0; bar.sync 0; atom.shared.add.u32 %r5, [%r1], 1;",
         ({"shared": 128}, {"shared": 256})),
    ],
)  # fmt: skip
def test_an_atomic_counts_once(instruction, counted):
    body = f"ld.param.u64 %rd1, [p0]; mov.u32 %r1, sm; {instruction}"
    assert _counted(body, [("u64", _aligned(256))], threads=32) == counted


def test_a_store_to_another_cta_counts_there(seed):
    body = (
        _START
        + _EXPECT.format(4)
        + """
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    mov.u32 %r4, %cluster_ctarank; xor.b32 %r5, %r4, 1; mapa.shared::cluster.u32 %r6, %r1, %r5;
    mapa.shared::cluster.u32 %r7, %r2, %r5;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r6], %r4, [%r7];
    """
        + _AWAIT.format(0)
        + "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
    )
    counted = _counted(body, [("u64", _aligned(256))], grid=[2], cluster=[2], seed=seed)
    assert counted == ({}, {"shared": 8})
