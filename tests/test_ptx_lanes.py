"""Faults of order among the lanes of one warp, each with a clean twin."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tests.ptx import launch
from tests.ptx.cuda import compiled
from tests.ptx.errors import MissingFence, Race
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

SHARED = ".shared .align 128 .b8 sm[2048];"
# %r1: the thread; %r2: its own word of sm; %r3: the next thread's; %r9: its lane; %p1: lane 0;
# %p2: lanes 0 to 15.
PLACES = """mov.u32 %r1, %tid.x; mov.u32 %r4, sm; mov.u32 %r9, %laneid;
shl.b32 %r6, %r1, 2; add.u32 %r2, %r4, %r6; xor.b32 %r7, %r6, 4; add.u32 %r3, %r4, %r7;
setp.eq.u32 %p1, %r9, 0; setp.lt.u32 %p2, %r9, 16;"""
STORE, LOAD, OWN = (
    "st.shared.u32 [%r2], %r1;",
    "ld.shared.u32 %r8, [%r3];",
    "ld.shared.u32 %r8, [%r2];",
)
WARP, HALF = "bar.warp.sync -1;", "@%p2 bar.warp.sync 0xffff;"
SYNC = "bar.sync 0;"
# The rows of an 8x8 matrix, neighbours swapped: each lane gets the word of the lane four beside.
ROWS = """and.b32 %r11, %r9, 7; xor.b32 %r11, %r11, 1; shl.b32 %r11, %r11, 4;
shr.u32 %r12, %r1, 5; mad.lo.u32 %r12, %r12, 128, %r4; add.u32 %r11, %r11, %r12;
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r12}, [%r11];"""


def go(body: str, threads: int = 64, **options: Any) -> launch.Result:
    return run(PLACES + body, threads=threads, declare=SHARED, **options)


CLEAN = {
    "read after write": f"{STORE} {WARP} {LOAD}",
    "by the CTA's barrier": f"{STORE} {SYNC} {LOAD}",
    "write after read": f"{STORE} {WARP} {LOAD} {WARP} {STORE}",
    "half a warp": f"{STORE} {HALF} @%p2 {LOAD} {HALF} @%p2 {STORE}",
    "half a warp, twice": f"{STORE} {HALF} @%p2 {LOAD} {WARP} {STORE} {HALF} @%p2 {LOAD}",
    "its own": f"{STORE} {OWN} {STORE} {OWN}",
    "one value": "st.shared.u32 [sm], 7; ld.shared.u32 %r8, [sm];",
    "reads alone": f"{STORE} {WARP} {LOAD} {OWN} {LOAD} ld.shared.u32 %r8, [sm];",
    "ordered reads": f"{STORE} {WARP} {LOAD} {WARP} {OWN} {STORE}",
    "passed on": f"{STORE} {HALF} setp.gt.u32 %p3, %r9, 14; setp.lt.u32 %p4, %r9, 17;"
    "and.pred %p3, %p3, %p4; @%p3 bar.warp.sync 0x18000; setp.eq.u32 %p5, %r9, 16;"
    "@%p5 ld.shared.u32 %r8, [%r2+-64];",
    "write after ldmatrix": f"{STORE} {WARP} {ROWS} {STORE} {WARP} {LOAD}",
    "an atom": f"@%p1 st.shared.u32 [%r4], 0; {WARP} atom.shared.add.u32 %r8, [%r4], 1;",
}
RACY = {
    "read after write": f"{STORE} {LOAD}",
    "write after read": f"{STORE} {WARP} {LOAD} {STORE}",
    "write after write": f"{STORE} st.shared.u32 [%r3], %r1;",
    "half a warp": f"{STORE} {HALF} {LOAD}",
    "half a warp writes": f"{STORE} {WARP} {LOAD} {HALF} {STORE}",
    "a shuffle": f"{STORE} shfl.sync.idx.b32 %r10, %r9, 0, 31, -1; {LOAD}",
    "a vote": f"{STORE} vote.sync.any.pred %p3, %p1, -1; {LOAD}",
    "one writes, all read": f"{STORE} {SYNC} @%p1 st.shared.u32 [sm], 5;ld.shared.u32 %r8, [sm];",
    "all read, one writes": f"{STORE} {SYNC} shr.u32 %r10, %r1, 5; mad.lo.u32 %r11, %r10, 128, %r4;"
    "ld.shared.u32 %r8, [%r11]; @%p1 st.shared.u32 [%r11], 5;",
    "ldmatrix after write": f"{STORE} {ROWS}",
    "an earlier reader, then ldmatrix": f"{STORE} {WARP} {LOAD} {ROWS} {STORE}",
    "an earlier reader": f"{STORE} {WARP} {LOAD} {OWN} {STORE}",
    "an atom": "@%p1 st.shared.u32 [%r4], 0; atom.shared.add.u32 %r8, [%r4], 1;",
}


@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_ordered_lanes_pass(body):
    for seed in (None, 0, 1):
        go(body, threads=32, seed=seed)


@pytest.mark.parametrize("body", RACY.values(), ids=RACY)
@pytest.mark.parametrize("threads", [32, 64])
def test_a_race_of_lanes_is_found_in_every_order(body, threads):
    for seed in (None, *range(4)):
        with pytest.raises(Race, match="nothing orders the two"):
            go(body, threads, seed=seed)


def test_a_report_names_both_sides():
    with pytest.raises(Race) as caught:
        go(f"\n{STORE}\n{LOAD}", threads=32, seed=None)
    says = str(caught.value)
    assert "written by warp 0 of CTA (0, 0, 0) at line" in says
    assert "(ld.shared.u32 %r8, [%r3]), in another lane; nothing orders" in says


# ---- what nvcc makes: of each kernel, every barrier is needed

TREE = """extern "C" __global__ void k(int const* x, int* y) {
  __shared__ int part[256];
  int t = threadIdx.x;
  part[t] = x[t];
  __syncthreads();
  #pragma unroll
  for (int n = 128; n; n /= 2) {
    if (t < n) part[t] += part[t + n];
    __syncthreads();
  }
  if (t == 0) y[0] = part[0];
}"""
EXCHANGE = """extern "C" __global__ void k(int const* x, int* y) {
  __shared__ int part[256];
  int t = threadIdx.x;
  part[t] = x[t];
  __syncwarp();
  int next = part[t ^ 3];
  __syncwarp();
  part[t] = next + 1;
  __syncwarp();
  y[t] = part[t ^ 5];
}"""


@pytest.mark.parametrize(("code", "barriers"), [(TREE, 9), (EXCHANGE, 3)])
def test_each_barrier_that_nvcc_left_is_needed(code, barriers):
    pytest.importorskip("cupy", reason="CuPy, which has NVRTC, is not installed")
    kernel = compiled(code).kernel()
    source, out = np.arange(256, dtype=np.int32), np.zeros(256, np.int32)
    launch.run(kernel, [source, out], [1], [256])
    waits = [pc for pc, i in enumerate(kernel.code) if re.match(r"bar\.(warp\.)?sync", i.op)]
    assert len(waits) == barriers
    for pc in waits:
        without = [*kernel.code[:pc], kernel.code[0], *kernel.code[pc + 1 :]]
        cut = dataclasses.replace(kernel, code=without)
        if code == TREE and pc == waits[-1]:  # thread 0 reads what it wrote
            launch.run(cut, [source, out], [1], [256])
            continue
        with pytest.raises(Race, match="nothing orders the two"):
            launch.run(cut, [source, out], [1], [256])


# ---- the proxy fence, which each lane has to execute for what it wrote itself

COPY = """setp.eq.u32 %p3, %r1, 0; ld.param.u64 %rd1, [p0]; @!%p3 bra E;
cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r4], 256; cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0; E:"""
FENCE = "fence.proxy.async.shared::cta;"
FENCED = {
    "every lane": f"{STORE} {FENCE} {SYNC}",
    "every lane, in two halves": f"{STORE} @%p2 {FENCE} @!%p2 {FENCE} {SYNC}",
    "after a barrier, by one lane": f"{STORE} {SYNC} @%p1 {FENCE}",
    "after its warp's barrier, by one lane": f"{STORE} {WARP} @%p1 {FENCE} {SYNC}",
    "the only lane that stores": "setp.lt.u32 %p4, %r1, 1; shl.b32 %r10, %r1, 2;"
    f"{STORE} {FENCE} {SYNC} @%p4 {STORE} @%p4 {FENCE}",
    "while others store elsewhere": f"{STORE} {FENCE} {SYNC} st.shared.u32 [%r2+1024], %r1;"
    f"@%p1 {STORE} @%p1 {FENCE} {SYNC}",
}
UNFENCED = {
    "one lane": f"{STORE} setp.eq.u32 %p4, %r9, 31; @%p4 {FENCE} {SYNC}",
    "one thread": f"{STORE} @%p3 {FENCE} {SYNC}",
    "half of the lanes": f"{STORE} @%p2 {FENCE} {SYNC}",
    "one lane, and then no barrier of the others": f"{STORE} @%p1 {FENCE} {SYNC}",
    "the wrong lane": f"{STORE} {FENCE} {SYNC} @%p1 {STORE} @!%p1 {FENCE} {SYNC}",
}


def copied(body: str, seed: int | None) -> None:
    out = np.zeros(64, np.uint32)
    first = "setp.eq.u32 %p3, %r1, 0;"
    go(first + body + COPY, args=[("u64", out)], seed=seed)
    assert (out == np.arange(64)).all()


@pytest.mark.parametrize("body", FENCED.values(), ids=FENCED)
def test_a_proxy_fence_of_those_who_wrote(body):
    for seed in (None, 0, 1, 2):
        copied(body, seed)


@pytest.mark.parametrize("body", UNFENCED.values(), ids=UNFENCED)
def test_a_proxy_fence_of_some_lanes_only(body):
    for seed in (None, 0, 1, 2):
        with pytest.raises(MissingFence, match=r"no fence\.proxy\.async lies"):
            copied(body, seed)


def test_a_bulk_copy_of_what_other_lanes_wrote_without_a_barrier():
    for body in (f"{STORE} {WARP} {FENCE}", f"{STORE} {FENCE} {WARP}"):
        out = np.zeros(32, np.uint32)
        copy = COPY.replace("256", "128")
        go(body + copy, 32, args=[("u64", out)])
        with pytest.raises(Race, match="in another lane; nothing orders"):
            go(body.replace(WARP, "") + copy, 32, args=[("u64", out)])
