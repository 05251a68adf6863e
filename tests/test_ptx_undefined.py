"""What nothing wrote, followed through memory and matrix products to where it matters."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.errors import Uninitialised
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

START = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mad.wide.u32 %rd3, %r1, 16, %rd1;
mov.u32 %r2, sm; mad.lo.u32 %r3, %r1, 16, %r2; setp.lt.u32 %p1, %r1, 4;
mov.b32 %r10, 0; mov.b32 %r11, 0; mov.b32 %r12, 0; mov.b32 %r13, 0; mov.b32 %r14, 0;
mov.b32 %r15, 0; mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
"""
SHARED = ".shared .align 128 .b8 sm[1024];"
LOCAL = ".local .align 16 .b8 lm[64];"
OUT = "st.global.v4.b32 [%rd3], {%r20, %r21, %r22, %r23};"
SUMS = "st.global.v4.f32 [%rd3], {%f5, %f6, %f7, %f8};"
MMA = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f5, %f6, %f7, %f8}, "
LEFT, RIGHT, HELD = "{%r10, %r11, %r12, %r13}", "{%r14, %r15}", "{%f1, %f2, %f3, %f4}"
# A row in 8 and a row in 16 that only lanes 0 to 3 have: row 0 of the result, and no other.
PADDED = f"@%p1 mov.b32 %r30, 0; {MMA} {{%r30, %r11, %r12, %r13}}, {RIGHT}, {HELD};"


def stored(body: str) -> np.ndarray:
    out = np.zeros(32 * 4, np.uint32)
    local = LOCAL if "[lm" in body else ""
    run(local + START + body, [("u64", out)], declare=SHARED)
    return out


FOUR = "{%r20, %r21, %r22, %r23}"
FAULTS = {
    "an accumulator of mma": f"{MMA} {LEFT}, {RIGHT}, {{%f1, %f9, %f3, %f4}}; {SUMS}",
    "A of mma": f"{MMA} {{%r10, %r30, %r12, %r13}}, {RIGHT}, {HELD}; {SUMS}",
    "B of mma": f"{MMA} {LEFT}, {{%r14, %r30}}, {HELD}; {SUMS}",
    "a row of A": f"{PADDED} {SUMS}",
    "a value through shared memory": "st.shared.v4.b32 [%r3], {%r10, %r30, %r12, %r13};"
    f"ld.shared.v4.b32 {FOUR}, [%r3]; {OUT}",
    "through a generic address": "cvta.shared.u64 %rd5, sm; mad.wide.u32 %rd5, %r1, 16, %rd5;"
    f"st.v4.b32 [%rd5], {{%r10, %r30, %r12, %r13}}; ld.v4.b32 {FOUR}, [%rd5]; {OUT}",
    "a generic store": "st.v4.b32 [%rd3], {%r10, %r30, %r12, %r13};",
    "one byte of four": "st.shared.v4.b32 [%r3], {%r10, %r11, %r12, %r13};"
    f"st.shared.b8 [%r3+5], %r30; ld.shared.v4.b32 {FOUR}, [%r3]; {OUT}",
    "stmatrix": "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r30}; bar.warp.sync -1;"
    "ld.shared.b32 %r20, [%r2]; st.global.b32 [%rd3], %r20;",
    "ldmatrix": "st.shared.v4.b32 [%r3], {%r10, %r30, %r12, %r13}; bar.warp.sync -1;"
    "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r3]; st.global.b32 [%rd3], %r20;",
    "a branch": "st.shared.b32 [%r3], %r30; ld.shared.b32 %r20, [%r3];"
    "setp.eq.u32 %p2, %r20, 1; @%p2 bra L; L:",
    "local memory": f"ld.local.v4.b32 {FOUR}, [lm]; {OUT}",
    "local memory, one word": "st.local.v2.b32 [lm], {%r1, %r1}; st.local.b32 [lm+12], %r1;"
    f"ld.local.v4.b32 {FOUR}, [lm]; {OUT}",
    "in a later round": "mov.b32 %r20, 0; mov.b32 %r21, 0; R: add.u32 %r22, %r20, 1;"
    "st.global.b32 [%rd3], %r22; mov.b32 %r20, %r30; add.u32 %r21, %r21, 1;"
    "setp.lt.u32 %p2, %r21, 2; @%p2 bra R;",
    "an atom": "st.shared.b32 [%r3], %r30; atom.shared.add.u32 %r20, [%r3], 1;",
}


@pytest.mark.parametrize("body", FAULTS.values(), ids=FAULTS)
def test_what_nothing_wrote_is_found_where_it_ends(body):
    with pytest.raises(Uninitialised, match=r"never written"):
        stored(body)


PASSES = {
    "other rows of A": f"{PADDED} setp.ge.u32 %p2, %r1, 4; @%p1 {SUMS} @!%p2 bra L;"
    "st.global.v2.f32 [%rd3], {%f7, %f8}; L:",
    "padding that is stored and dropped": "st.shared.v4.b32 [%r3], {%r1, %r30, %r1, %r1};"
    f"ld.shared.v4.b32 {FOUR}, [%r3]; st.global.b32 [%rd3], %r20;",
    "written over": f"st.shared.b32 [%r3], %r30; st.shared.v4.b32 [%r3], {LEFT};"
    f"ld.shared.v4.b32 {FOUR}, [%r3]; {OUT}",
    "a register written anew": "mov.b32 %r20, %r30; mov.b32 %r20, 5; st.global.b32 [%rd3], %r20;",
    "local memory": f"st.local.v4.b32 [lm], {LEFT}; ld.local.v4.b32 {FOUR}, [lm]; {OUT}",
    "half of it masked": "st.shared.b32 [%r3], %r30; st.shared.b16 [%r3], %r1;"
    "ld.shared.b32 %r20, [%r3]; and.b32 %r20, %r20, 0xffff; st.global.b32 [%rd3], %r20;",
}


@pytest.mark.parametrize("body", PASSES.values(), ids=PASSES)
def test_what_does_not_matter_passes(body):
    stored(body)


BULK = """st.shared.v4.b32 [%r3], {%r1, %r30, %r1, %r1}; fence.proxy.async; bar.warp.sync -1;
setp.eq.u32 %p2, %r1, 0; @!%p2 bra L;
cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 512;
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; L:"""


def test_a_bulk_store_of_what_nothing_wrote():
    with pytest.raises(Uninitialised, match="takes shared memory at 4, which holds what was never"):
        stored(BULK)
    assert stored(BULK.replace("%r30", "%r1"))[-1] == 31


COPY = """st.shared.v4.b32 [%r3], {%r1, %r30, %r1, %r1}; bar.warp.sync -1;
cp.async.ca.shared.global [%r3], [%rd3], 16; cp.async.wait_all;
ld.shared.v4.b32 {%r20, %r21, %r22, %r23}, [%r3];"""


def test_what_a_copy_brings_is_defined():
    stored(f"{COPY} {OUT}")
