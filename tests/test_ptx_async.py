"""Asynchronous copies and what orders them: compilers' own output, and faults planted in it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.language.nvidia.hopper import tma as gltma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

import tests.ptx.triton as bridge
from tests.ptx import engines, errors, launch, snippet, tma
from tests.ptx.parse import parse
from tests.ptx.triton import executing
from tests.test_ptx_producers import product_is_right

pytestmark = pytest.mark.ptx

SEEDS = [None, 0, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2))]
SOURCE = Path(__file__).parent / "ptx" / "async_kernels.cu"
rng = np.random.default_rng(0)


@functools.cache
def compiled() -> str:
    """PTX of async_kernels.cu."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.ptx"
        done = subprocess.run(
            [nvcc, "-std=c++17", "-ptx", "-gencode", "arch=compute_90a,code=compute_90a", "-o",
             str(made), str(SOURCE)], capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return made.read_text()


def cuda(name: str, args: list[Any], grid: int, block: int, change=None, **options: Any) -> None:
    """Runs a kernel of async_kernels.cu; change: (what its text says, what instead)."""
    text = compiled()
    begin = text.index(f".entry {name}(")
    end = text.find(".visible .entry", begin)
    own = text[begin : end if end > 0 else len(text)]
    if change is not None:
        assert change[0] in own
        text = text.replace(own, own.replace(*change))
    launch.run(text, args, [grid], [block], kernel=name, **options)


# ---- nvcc's output


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_cp_async_pipeline(seed):
    x, out = rng.random((3, 256), np.float32), np.zeros((3, 256), np.float32)
    cuda("pipeline", [x, out, 3], 1, 64, seed=seed)
    want = 2 * x
    want[1:, 15] = 0  # thread 3 fills with zeros from its fourth element on
    assert (out == want).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_cuda_barrier(seed):
    x, out = rng.integers(0, 99, (3, 128)).astype(np.int32), np.zeros(128, np.int32)
    cuda("barriers", [x, out, 3], 1, 128, seed=seed)
    assert (out == np.roll(x.sum(0), -37)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_bulk_copies(seed):
    x, out = rng.integers(0, 99, 1024).astype(np.int32), np.zeros(1024, np.int32)
    cuda("bulk", [x, out], 1, 64, seed=seed)
    assert (out == x + 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_distributed_shared_memory(seed):
    x, out = rng.integers(0, 99, (2, 4, 64)).astype(np.int32), np.zeros((2, 4, 64), np.int32)
    cuda("cluster", [x, out], 8, 64, seed=seed, cluster=(4,))
    assert (out == x.sum(axis=1, keepdims=True) + 1000 * 6).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_multicast(seed):
    x, out = rng.integers(0, 99, (16, 32)).astype(np.int32), np.zeros((2, 16, 32), np.int32)
    box = tma.encode(x, "s32", (32, 16), (128,), (32, 8))
    cuda("multicast", [box, out], 2, 32, seed=seed, cluster=(2,))
    assert (out == x).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nvcc_reductions(seed):
    x = rng.integers(0, 9, (10, 40)).astype(np.float32)
    ints = rng.integers(-30, 30, 32).astype(np.int32)
    want, most = x.copy(), np.maximum(ints, np.arange(32) - 16)
    tile = np.arange(8)[:, None] + np.arange(32)[None]
    want[4:10, 16:40] += tile[:6, :24]  # the rest of the box is outside
    box = tma.encode(x, "f32", (40, 10), (160,), (32, 8))
    cuda("reduce", [box, x, ints], 1, 32, seed=seed)
    assert (x == want).all()
    assert (ints == most).all()


PLANTED = {
    "wait for fewer groups": (
        "pipeline", ("cp.async.wait_group 1", "cp.async.wait_group 2"), errors.Fault,
        r"cp\.async|nothing was written",
    ),
    "no wait for the barrier": (
        "bulk", ("mbarrier.try_wait.shared.b64 p, [%r18], %rd19;", "setp.eq.u32 p, 0, 0;"),
        errors.Fault, r"cp\.async\.bulk|nothing was written",
    ),
    "bytes not announced": (
        "bulk", ("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd19, [%r13], %r15",
                 "mbarrier.arrive.release.cta.shared::cta.b64 %rd19, [%r13], 1"),
        errors.Fault, r"cp\.async\.bulk|nothing was written|4096 bytes more came",
    ),
    "no fence before the store": (
        "bulk", ("fence.proxy.async.shared::cta; // 6", "// 6"), errors.MissingFence,
        "no fence.proxy.async",
    ),
    "a store nobody waits for": (
        "bulk", ("cp.async.bulk.wait_group.read 0;", ""), errors.Fault, "nobody waited",
    ),
    "no fence after the init": (
        "multicast", ("fence.mbarrier_init.release.cluster;", ""), errors.MissingFence,
        "no fence.mbarrier_init",
    ),
    "too many bytes announced": (
        "multicast", ("expect_tx.release.cluster.shared::cta.b64 %rd4, [%r31], %r32",
                      "expect_tx.release.cluster.shared::cta.b64 %rd4, [%r31], 2064"),
        errors.Deadlock, "phase 0 of the mbarrier at .* 0 arrivals and 16 bytes are missing",
    ),
    "no wait for the cluster": (
        "cluster", ("barrier.cluster.wait;", ""), errors.Fault,
        "without having waited|nothing was written|nothing orders|may not have begun",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_planted_in_cuda(what, seed):
    name, change, kind, said = PLANTED[what]
    x = np.zeros((16, 256), np.int32)
    args = {
        "pipeline": [x.view(np.float32), np.zeros((3, 256), np.float32), 3],
        "bulk": [x, np.zeros(1024, np.int32)],
        "multicast": [tma.encode(x, "s32", (32, 16), (1024,), (32, 8)), np.zeros(1024, np.int32)],
        "cluster": [x, np.zeros((2, 4, 64), np.int32)],
    }[name]
    grid, block = {"multicast": (2, 32), "cluster": (8, 64)}.get(name, (1, 64))
    cluster = {"multicast": (2,), "cluster": (4,)}.get(name)
    with pytest.raises(kind, match=said):
        cuda(name, args, grid, block, change, cluster=cluster, seed=seed)


def test_a_box_outside_of_its_tensor_is_found():
    x, out = np.zeros((16, 32), np.int32), np.zeros(1024, np.int32)
    box = tma.encode(x, "s32", (32, 32), (128,), (32, 8))  # says 32 rows
    cuda("multicast", [box, out], 2, 32, cluster=(2,))
    box = tma.encode(x[8:], "s32", (32, 16), (128,), (32, 8))
    with pytest.raises(errors.OutOfBounds, match="a tensor's box"):
        cuda("multicast", [box, out], 2, 32, cluster=(2,))


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("no multiple of 16", {"box": (6, 8)}),
        ("strides", {"strides": (100,)}),
        ("longer than the swizzle", {"swizzle": 2}),
        ("is not filled with NaN", {"fill": 1}),
        ("1 to 256", {"box": (32, 257)}),
        ("1 to 256", {"box": (32, 4104)}),  # 8, in the bits that the field has
        ("dimensions (-1, 16)", {"dims": (-1, 16)}),
        ("strides (-128,)", {"strides": (-128,)}),
    ],
)
def test_maps_that_the_driver_refuses(said, change):
    fields = {"dims": (32, 16), "strides": (128,), "box": (32, 8), **change}
    box = tma.encode(np.zeros((16, 32), np.int32), "s32", **fields)
    with pytest.raises(errors.BadLaunch, match=re.escape(said)):
        cuda("multicast", [box, np.zeros(1024, np.int32)], 2, 32, cluster=(2,))


@pytest.mark.parametrize("swizzle", [1, 2, 3])
def test_rows_that_are_shorter_than_the_swizzle(swizzle):
    """The driver takes them, and nothing says how they lie in shared memory."""
    width = 4 << swizzle  # elements of 4 bytes in the swizzle's span
    x = np.zeros((16, 32), np.int32)
    for box, right in ((width // 2, False), (width, True)):
        made = tma.encode(x, "s32", (32, 16), (128,), (box, 8), swizzle=swizzle)
        if right:
            assert made.at(256)
            continue
        with pytest.raises(errors.Unknown, match="shorter than the swizzle's"):
            made.at(256)


@pytest.mark.parametrize(("field", "value"), [("box_dim", 4104), ("rank", 259)])
def test_a_field_of_a_map_on_the_device_that_does_not_hold_a_value(field, value):
    where = f"{field}.shared::cta.b1024.b32 [map], {'0, ' if field == 'box_dim' else ''}%r2;"
    body = f"""mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0; @%p1 exit; mov.u32 %r2, 0;
    mov.u64 %rd1, 0; mov.u32 %r3, map; add.u32 %r4, %r3, 128;
    CLEAR: st.shared.b64 [%r3], %rd1; add.u32 %r3, %r3, 8; setp.lt.u32 %p2, %r3, %r4;
    @%p2 bra CLEAR; mov.u32 %r2, {value}; tensormap.replace.tile.{where}"""
    with pytest.raises(errors.Fault, match=f"a tensor map's {field} is {value}, which no such"):
        snippet.run(body, declare=".shared .align 128 .b8 map[128];")


BULK = """mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 0; @%p1 exit; ld.param.u64 %rd1, [p0];
mov.u32 %r2, sm; mov.u32 %r4, SIZE; mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;
mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r4;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], %r4, [bar];
WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra WAIT;"""
PLACES = ".shared .align 128 .b32 sm[32]; .shared .align 8 .b64 bar;"


def test_a_bulk_copy_of_no_bytes():
    body = BULK.replace("SIZE", "0")
    snippet.run(body, [("u64", np.zeros(4, np.uint32))], declare=PLACES)


def test_a_defect_in_an_engine_is_a_sentence_too(monkeypatch):
    monkeypatch.setattr(engines.Fill, "_land", lambda *args, **kw: {}["nothing"])
    says = r"the executor itself failed here \(KeyError: 'nothing'\) \[line 14: cp\.async\.bulk"
    with pytest.raises(errors.Broken, match=says):
        snippet.run(BULK.replace("SIZE", "16"), [("u64", np.zeros(4, np.uint32))], declare=PLACES)


# ---- Triton's and Gluon's output


@gluon.jit
def through_shared(source, target, i, j):
    first = gl.allocate_shared_memory(source.dtype, source.block_shape, source.layout)
    bar = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(bar, count=1)
    mbarrier.expect(bar, source.block_type.nbytes)
    gltma.async_copy_global_to_shared(source, [i, j], bar, first)
    mbarrier.wait(bar, phase=0)
    mbarrier.invalidate(bar)
    value = first.load(gl.BlockedLayout([1, 1], [32, 1], [1, 4], [1, 0]))
    second = gl.allocate_shared_memory(source.dtype, source.block_shape, target.layout)
    second.store(value + 1)
    fence_async_shared()
    gltma.async_copy_shared_to_global(target, [i, j], second)
    gltma.store_wait(pendings=0)


def descriptor(x: torch.Tensor, block: list[int], swizzle: int, padding: str = "zero") -> Any:
    layout = gl.NVMMASharedLayout(
        swizzle_byte_width=swizzle, element_bitwidth=8 * x.element_size(), rank=2
    )
    return TensorDescriptor.from_tensor(x, block, layout, padding)


@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gluon_swizzled_tiles(swizzle, dtype, seed):
    """Gluon reads a tile in the layout that TMA wrote, and writes one in another."""
    x = torch.randn(100, 80).to(dtype)
    block = [64, max(swizzle, 32) // x.element_size()]
    for other in (swizzle, 0) if dtype == torch.float32 and swizzle else (swizzle,):
        y, want = torch.zeros_like(x), torch.zeros_like(x)
        want[40:100, 72 : 72 + block[1]] = x[40:100, 72 : 72 + block[1]] + 1
        with executing(seed=seed):
            through_shared[(1,)](descriptor(x, block, swizzle), descriptor(y, block, other), 40, 72)
        assert torch.equal(y, want)


@triton.jit
def add_one(a, b, m, n, BM: tl.constexpr, BN: tl.constexpr):
    source = tl.make_tensor_descriptor(a, [m, n], [n, 1], [BM, BN])
    target = tl.make_tensor_descriptor(b, [m, n], [n, 1], [BM, BN])
    for i in range(tl.program_id(0) * BM, m, tl.num_programs(0) * BM):
        target.store([i, 0], source.load([i, 0]) + 1)


@pytest.fixture
def allocator():
    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8))


@pytest.mark.parametrize("seed", SEEDS)
def test_triton_device_side_maps(allocator, seed):
    x = torch.randn(100, 72).bfloat16()
    y = torch.zeros_like(x)
    with executing(seed=seed):
        add_one[(2,)](x, y, 100, 72, 32, 128)
    assert torch.equal(y, x + 1)


@pytest.fixture
def edited(monkeypatch, allocator):
    """edited(change): Triton's text is run as change(lines) leaves it."""
    monkeypatch.setattr(bridge, "_parsed", {})

    def edit(change: Callable[[list[str]], list[str]]) -> None:
        def parse_edited(text: str) -> Any:
            lines = text.split("\n")
            after = change(lines)
            assert after != lines
            return parse("\n".join(after))

        monkeypatch.setattr(bridge, "parse", parse_edited)

    return edit


DROPPED = {
    "fence.proxy.tensormap": (errors.MissingFence, r"generic\.acquire"),
    "replace.tile.box_dim": (errors.Fault, r"nobody set box_dim\[0\], box_dim\[1\]"),
    "fence.proxy.async": (errors.MissingFence, r"no fence\.proxy\.async"),
    "mbarrier.arrive.expect_tx": (
        errors.Deadlock, "8192 bytes more came than were expected",
    ),
    "mbarrier.init": (errors.Uninitialised, "none was initialised"),
    "mbarrier.inval": (errors.Fault, "still lives"),
    "wait_group.read": (errors.Fault, "nobody waited|a tensor store"),
}  # fmt: skip


@pytest.mark.parametrize("drop", DROPPED)
def test_dropped_in_triton(edited, drop, seed):
    kind, said = DROPPED[drop]
    edited(lambda lines: [line for line in lines if drop not in line])
    x = torch.randn(128, 64).bfloat16()
    with executing(seed=seed), pytest.raises(kind, match=said):
        add_one[(1,)](x, torch.zeros_like(x), 128, 64, 64, 64)


def test_a_wait_for_the_other_phase_is_found(edited):
    """The phase before the first counts as completed, so that this wait is none."""

    def change(lines: list[str]) -> list[str]:
        return [
            line.replace(line[line.rindex(",") :], ", 1;") if "try_wait.parity" in line else line
            for line in lines
        ]

    edited(change)
    x = torch.randn(128, 64).bfloat16()
    with executing(), pytest.raises(errors.Fault, match=r"cp\.async\.bulk|inval|waits for phase"):
        add_one[(1,)](x, torch.zeros_like(x), 128, 64, 64, 64)


def test_a_map_with_another_swizzle_changes_the_data(edited):
    def change(lines: list[str]) -> list[str]:
        at = next(n for n, line in enumerate(lines) if "replace.tile.swizzle_mode" in line)
        return [*lines[:at], lines[at].replace("0x3", "0x0"), *lines[at + 1 :]]

    edited(change)
    x = torch.randn(64, 64).bfloat16()
    y = torch.zeros_like(x)
    with executing():
        add_one[(1,)](x, y, 64, 64, 64, 64)
    assert torch.equal(y[0], x[0] + 1)
    assert not torch.equal(y, x + 1)


@gluon.jit
def matmul(a, b, c, K, BM: gl.constexpr, BN: gl.constexpr, BK: gl.constexpr, S: gl.constexpr):
    row, column = gl.program_id(0) * BM, gl.program_id(1) * BN
    left = gl.allocate_shared_memory(a.dtype, [S] + a.block_type.shape, a.layout)  # noqa: RUF005 (Gluon has no unpacking)
    right = gl.allocate_shared_memory(b.dtype, [S] + b.block_type.shape, b.layout)  # noqa: RUF005 (Gluon has no unpacking)
    bars = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(S):
        mbarrier.init(bars.index(s), count=1)
    fence_async_shared()
    for s in gl.static_range(S - 1):
        mbarrier.expect(bars.index(s), a.block_type.nbytes + b.block_type.nbytes)
        gltma.async_copy_global_to_shared(a, [row, s * BK], bars.index(s), left.index(s))
        gltma.async_copy_global_to_shared(b, [s * BK, column], bars.index(s), right.index(s))
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BN, 16]
    )
    total = gl.zeros([BM, BN], gl.float32, layout)
    for k in range(K // BK):
        now, then = k % S, k + S - 1
        mbarrier.wait(bars.index(now), (k // S) & 1)
        total = warpgroup_mma(left.index(now), right.index(now), total, is_async=True)
        total = warpgroup_mma_wait(num_outstanding=0, deps=(total,))
        if then < K // BK:
            free = then % S
            mbarrier.expect(bars.index(free), a.block_type.nbytes + b.block_type.nbytes)
            gltma.async_copy_global_to_shared(
                a, [row, then * BK], bars.index(free), left.index(free)
            )
            gltma.async_copy_global_to_shared(
                b, [then * BK, column], bars.index(free), right.index(free)
            )
    out = gl.allocate_shared_memory(c.dtype, c.block_type.shape, c.layout)
    out.store(total.to(c.dtype))
    fence_async_shared()
    gltma.async_copy_shared_to_global(c, [row, column], out)
    gltma.store_wait(0)


@pytest.mark.parametrize("depth", [32, 64])
def test_gluon_matmul(depth, seed):
    """Rows of 64 and 128 bytes, in as many bytes of swizzle; the last tiles stand out."""
    a, b = torch.randn(100, 256).bfloat16(), torch.randn(256, 136).bfloat16()
    c = torch.zeros(100, 136).bfloat16()
    blocks = ((a, [64, depth], depth * 2), (b, [depth, 64], 128), (c, [64, 64], 128))
    with executing(seed=seed):
        matmul[(2, 3)](*(descriptor(*block) for block in blocks), 256, 64, 64, depth, 3)
    product_is_right(c, a, b.T)


# ---- mbarrier, in small


SETUP = """.shared .align 8 .b64 bar[2]; .shared .align 16 .b8 data[512];
mov.u32 %r1, %tid.x; mov.u32 %r2, bar; setp.eq.u32 %p1, %r1, 0; mov.u32 %r3, data;
ld.param.u64 %rd1, [p0]; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd3, %rd1, %rd2;
@%p1 mbarrier.init.shared.b64 [bar], COUNT; bar.sync 0;
"""
WAIT = "W{0}: mbarrier.try_wait.parity.shared.b64 %p2, [bar], {1}; @!%p2 bra W{0};\n"


def small(body: str, count: int = 64, threads: int = 64, **options: Any) -> np.ndarray:
    """Runs `body` after an mbarrier for `count` arrivals was made; it stores by %rd3."""
    out = np.zeros(threads, np.int32)
    snippet.run(
        SETUP.replace("COUNT", str(count)) + body, [("u64", out)], threads=threads, **options
    )
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_phases_alternate(seed):
    body = "mov.u32 %r9, 0;"
    for phase in range(3):
        body += """
        mbarrier.arrive.shared.b64 %rd9, [bar]; mbarrier.pending_count.b64 %r4, %rd9;
        add.u32 %r9, %r9, %r4;""" + WAIT.format(phase, phase % 2)
    out = small(body + "st.global.u32 [%rd3], %r9;", seed=seed)
    assert out.sum() == 3 * sum(range(1, 65))


def test_dropped_arrivals_are_not_expected_again():
    body = (
        """setp.ge.u32 %p3, %r1, 32;
        @%p3 mbarrier.arrive_drop.shared.b64 %rd9, [bar];
        @%p3 bra DONE;
        mbarrier.arrive.shared.b64 %rd9, [bar];"""
        + WAIT.format(0, 0)
        + "mbarrier.arrive.shared.b64 %rd9, [bar];"
        + WAIT.format(1, 1)
        + "st.global.u32 [%rd3], 7; DONE:"
    )
    assert (small(body) == np.repeat([7, 0], 32)).all()


def test_a_wait_with_the_phase_s_state():
    body = """mbarrier.arrive.shared.b64 %rd9, [bar];
    W: mbarrier.test_wait.shared.b64 %p2, [bar], %rd9; @!%p2 bra W; st.global.u32 [%rd3], 1;"""
    for seed in (None, 0, 1, 2):
        assert small(body, seed=seed).all()


def test_a_try_wait_may_say_no():
    """A wait that is no loop goes on, once nobody else can."""
    body = """mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; selp.u32 %r4, 1, 2, %p2;
    st.global.u32 [%rd3], %r4;"""
    assert (small(body) == 2).all()


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (WAIT.format(0, 0), errors.Deadlock, "warp 1 of .* waits for phase 0 of the mbarrier at 0: "
         "64 arrivals and 0 bytes are missing"),
        ("mbarrier.arrive.shared.b64 _, [bar];" + WAIT.format(0, 0) + WAIT.format(1, 1),
         errors.Deadlock, "phase 1 of the mbarrier at 0: 64 arrivals"),
        ("mbarrier.arrive.shared.b64 _, [bar+8];", errors.Uninitialised, "no mbarrier at 8"),
        ("@%p1 mbarrier.init.shared.b64 [bar], 2;", errors.Fault, "still lives"),
        ("@%p1 mbarrier.init.shared.b64 [bar+8], 0;", errors.Fault, "1 to 1048575"),
        ("@%p1 mbarrier.init.shared.b64 [bar+4], 1;", errors.Misaligned, "multiple of 8"),
        ("@%p1 mbarrier.arrive.shared.b64 _, [bar], 65;", errors.Fault, "waits for 64"),
        ("@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 1048576;", errors.Fault,
         "tx-count"),
        ("ld.shared.u32 %r4, [bar];", errors.Fault, "where an mbarrier lives"),
        ("st.shared.u32 [bar+4], %r1;", errors.Fault, "where an mbarrier lives"),
        (WAIT.format(0, 2), errors.Fault, "parity is 0 or 1"),
        ("mov.u64 %rd9, 0; mbarrier.test_wait.shared.b64 %p2, [bar], %rd9;"
         "@%p1 mbarrier.init.shared.b64 [bar+8], 64; bar.sync 0;"
         "mbarrier.test_wait.shared.b64 %p2, [bar+8], %rd9;", errors.Fault, "of another mbarrier"),
        ("mbarrier.arrive.noComplete.shared.b64 %rd9, [bar], 1;", errors.Fault, "noComplete"),
        ("mbarrier.init.weird.shared.b64 [bar], 1;", errors.Unknown, "weird"),
    ],
)  # fmt: skip
def test_faults_of_mbarriers(body, kind, said):
    with pytest.raises(kind, match=said):
        small(body)


def test_bytes_that_are_expected_after_they_came_and_after_the_last_arrival():
    body = """@!%p1 bra AFTER; mbarrier.init.shared.b64 [bar+8], 1;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar+8], 16;
    mbarrier.arrive.shared.b64 %rd9, [bar+8];
    mbarrier.expect_tx.relaxed.cta.shared.b64 [bar+8], 16;
    AGAIN: mbarrier.try_wait.shared.b64 %p2, [bar+8], %rd9; @!%p2 bra AGAIN; AFTER:"""
    small(body)


def test_an_init_that_nothing_orders_is_a_race():
    with pytest.raises(errors.Race):
        small("@%p1 mbarrier.init.shared.b64 [bar+8], 64; mbarrier.arrive.shared.b64 _, [bar+8];")


# ---- cp.async, in small

COPY = """and.b32 %r5, %r1, 15; shl.b32 %r5, %r5, 4; add.u32 %r6, %r3, %r5;
cvt.u64.u32 %rd5, %r5; add.u64 %rd6, %rd1, %rd5; setp.lt.u32 %p3, %r1, 16;
@%p3 cp.async.cg.shared.global.L2::128B [%r6], [%rd6], 16{};
"""
READ = "shl.b32 %r7, %r1, 2; add.u32 %r7, %r7, %r3; ld.shared.u32 %r8, [%r7];"


def copied(body: str, **options: Any) -> np.ndarray:
    data = np.arange(1, 65, dtype=np.int32)
    snippet.run(
        SETUP.replace("COUNT", "64") + body + "add.u32 %r8, %r8, 100; st.global.u32 [%rd3], %r8;",
        [("u64", data)], threads=64, **options,
    )  # fmt: skip
    return data - 100


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noinc", [False, True])
def test_cp_async_tells_an_mbarrier(seed, noinc):
    done = f"cp.async.mbarrier.arrive{'.noinc' if noinc else ''}.shared.b64 [bar];"
    own = "" if noinc else "mbarrier.arrive.shared.b64 _, [bar];"
    found = copied(COPY.format("") + done + own + WAIT.format(0, 0) + READ, seed=seed)
    assert (found == np.arange(1, 65)).all()


def test_cp_async_ignores_its_source():
    wait = "cp.async.wait_all; bar.sync 0;" + READ
    assert (copied(COPY.format(", %p3") + wait) == 0).all()
    some = copied(COPY.format(", %r4").replace("@%p3", "mov.u32 %r4, 6; @%p3") + wait)
    assert (some.reshape(16, 4) == np.array([[1, 2, 0, 0]]) + np.arange(0, 64, 4)[:, None]
            * [1, 1, 0, 0]).all()  # fmt: skip


@pytest.mark.parametrize(
    ("after", "kind", "said"),
    [
        ("cp.async.commit_group; bar.sync 0;", errors.PtxError, "a cp.async|nothing was written"),
        ("cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;", errors.PtxError,
         "a cp.async|nothing was written"),
        ("cp.async.wait_group 0; bar.sync 0;", errors.PtxError, "a cp.async|nothing was written"),
        ("cp.async.wait_all;", errors.PtxError, "written by|nothing was written"),
    ],
)  # fmt: skip
def test_uses_before_the_data_is_there(after, kind, said):
    for seed in range(4):
        with pytest.raises(kind, match=said):
            copied(COPY.format("") + after + READ, seed=seed)


def test_a_cp_async_outside_of_its_tensor_names_itself():
    body = COPY.format("").replace("add.u64 %rd6, %rd1, %rd5;", "add.u64 %rd6, %rd1, 256;")
    with pytest.raises(errors.OutOfBounds, match=r"256 bytes into .*cp\.async\.cg"):
        copied(body + "cp.async.wait_all; bar.sync 0;" + READ)


# ---- st.async and red.async, to the other CTA

ASYNC = """.shared .align 8 .b64 bar; .shared .align 16 .b8 data[128];
mov.u32 %r1, %tid.x; mov.u32 %r2, bar; mov.u32 %r3, data; setp.eq.u32 %p1, %r1, 0;
shl.b32 %r5, %r1, 2; add.u32 %r6, %r3, %r5; st.shared.u32 [%r6], 5;
@%p1 mbarrier.init.shared.b64 [bar], 1;
@%p1 mbarrier.arrive.expect_tx.relaxed.cluster.shared.b64 _, [bar], 128;
@%p1 fence.mbarrier_init.release.cluster; fence.proxy.async;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
mov.u32 %r8, %cluster_ctarank; xor.b32 %r9, %r8, 1; add.u32 %r10, %r1, %r8;
mapa.shared::cluster.u32 %r11, %r6, %r9; mapa.shared::cluster.u32 %r12, %r2, %r9;
getctarank.shared::cluster.u32 %r13, %r11;
{}
W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [bar], 0; @!%p2 bra W;
ld.shared.u32 %r14, [%r6]; mad.lo.u32 %r14, %r13, 1000, %r14;
ld.param.u64 %rd1, [p0]; mad.lo.u32 %r15, %r8, 32, %r1; mul.wide.u32 %rd2, %r15, 4;
add.u64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r14;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"""
COMPLETE = "shared::cluster.mbarrier::complete_tx::bytes"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("op", "first"),
    [
        (f"st.async.weak.{COMPLETE}.u32", 0),
        (f"red.async.relaxed.cluster.{COMPLETE}.add.u32", 5),
    ],
)
def test_elements_to_another_cta(seed, op, first):
    out = np.zeros((2, 32), np.uint32)
    body = ASYNC.format(f"{op} [%r11], %r10, [%r12];")
    snippet.run(body, [("u64", out)], grid=(2,), cluster=(2,), seed=seed)
    rank = np.array([[1], [0]])  # of the sender, and of where this CTA's own went
    assert (out == first + np.arange(32) + rank + 1000 * rank).all()


BETWEEN = {
    "a relaxed arrival and no fence": (
        ("@%p1 fence.mbarrier_init.release.cluster; fence.proxy.async;\nbarrier.cluster.arrive",
         "barrier.cluster.arrive.relaxed"), errors.PtxError, "no fence.mbarrier_init|nothing",
    ),
    "no barrier of the cluster": (
        ("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\nmov", "mov"),
        errors.PtxError, "none was initialised|nothing orders|may not have begun",
    ),
    "the mbarrier of another CTA": (
        ("[%r12];", "[%r2];"), errors.Fault, "not in the CTA that it writes to",
    ),
    "fewer bytes expected": (
        ("bar], 128", "bar], 120"), errors.Fault, r"8 bytes more came|st\.async",
    ),
    "a rank that the cluster lacks": (
        ("mapa.shared::cluster.u32 %r11, %r6, %r9", "mapa.shared::cluster.u32 %r11, %r6, 2"),
        errors.Fault, "CTA 2 of a cluster of 2",
    ),
    "another CTA's address in .shared": (
        ("ld.shared.u32 %r14, [%r6]", "ld.shared.u32 %r14, [%r11]"), errors.OutOfBounds,
        "without .shared::cluster",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BETWEEN)
def test_planted_between_ctas(what, seed):
    change, kind, said = BETWEEN[what]
    body = ASYNC.format(f"st.async.weak.{COMPLETE}.u32 [%r11], %r10, [%r12];")
    assert change[0] in body
    out = np.zeros((2, 32), np.uint32)
    with pytest.raises(kind, match=said):
        snippet.run(body.replace(*change), [("u64", out)], grid=(2,), cluster=(2,), seed=seed)
