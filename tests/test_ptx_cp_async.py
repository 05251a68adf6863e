"""Pipelines of cp.async whose producers arrive by it at the stages' mbarriers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import errors
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

WARPS = 64  # threads that produce, and as many that consume
COPY = "cp.async.cg.shared.global [%r15+128], [%rd3], 16;"
NOINC = "cp.async.mbarrier.arrive.noinc.shared.b64 [%r20];"
PLAIN = "mbarrier.arrive.shared.b64 _, [%r20];"
FULL = "WF: mbarrier.try_wait.parity.shared.b64 %p3, [%r20], %r12; @!%p3 bra WF;"
EMPTY = "WE: mbarrier.try_wait.parity.shared.b64 %p3, [%r21], %r12; @!%p3 bra WE;"
STAGE = f"""rem.u32 %r11, %r10, STAGES; div.u32 %r12, %r10, STAGES; and.b32 %r12, %r12, 1;
    shl.b32 %r13, %r11, 3; add.u32 %r20, %r1, %r13; add.u32 %r21, %r20, 32;
    mad.lo.u32 %r15, %r11, {16 * WARPS}, %r1;"""
BODY = f"""
    ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; mov.u32 %r1, sm; mov.u32 %r2, %tid.x;
    mov.u32 %r10, 0; setp.ge.u32 %p1, %r2, STAGES; @%p1 bra READY;
    shl.b32 %r13, %r2, 3; add.u32 %r20, %r1, %r13; mbarrier.init.shared.b64 [%r20], {WARPS};
    mbarrier.init.shared.b64 [%r20+32], {WARPS};
READY: bar.sync 0; setp.ge.u32 %p2, %r2, {WARPS}; @%p2 bra CONSUME;
PRODUCE: {STAGE} xor.b32 %r12, %r12, 1; {EMPTY}
    mad.lo.u32 %r14, %r10, {WARPS}, %r2; mul.wide.u32 %rd3, %r14, 16; add.s64 %rd3, %rd1, %rd3;
    mad.lo.u32 %r15, %r2, 16, %r15;
    {COPY}
    {NOINC}
    add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 7; @%p4 bra PRODUCE; bra END;
CONSUME: {STAGE} {FULL}
    sub.u32 %r4, {2 * WARPS - 1}, %r2; mad.lo.u32 %r15, %r4, 16, %r15;
    ld.shared.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r15+128];
    mbarrier.arrive.shared.b64 _, [%r21];
    mad.lo.u32 %r14, %r10, {WARPS}, %r4; mul.wide.u32 %rd3, %r14, 16; add.s64 %rd3, %rd2, %rd3;
    st.global.v4.u32 [%rd3], {{%r30, %r31, %r32, %r33}};
    add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 7; @%p4 bra CONSUME;
END:
"""


def pipeline(seed: int | None, stages: int, what: str = "", instead: str = "") -> None:
    assert what in BODY
    x = np.arange(7 * WARPS * 4, dtype=np.uint32)
    out = np.zeros_like(x)
    body = BODY.replace(what, instead) if what else BODY
    run(
        body.replace("STAGES", str(stages)), [("u64", x), ("u64", out)], threads=2 * WARPS,
        declare=".extern .shared .align 128 .b8 sm[];", shared=128 + stages * 16 * WARPS, seed=seed,
    )  # fmt: skip
    assert (out == x).all()


RIGHT = {
    "counted": ("", ""),
    "not counted": (NOINC, NOINC.replace(".noinc", "") + PLAIN),
    "waited for": (NOINC, "cp.async.wait_all;" + PLAIN),
    "both": (NOINC, NOINC + "cp.async.wait_all;"),
}


@pytest.mark.parametrize("how", RIGHT)
@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("seed", [None, 0, pytest.param(1, marks=pytest.mark.full)])
def test_a_right_pipeline_is_silent(how, stages, seed):
    pipeline(seed, stages, *RIGHT[how])


WRONG = {
    "no wait for the full stage": (FULL, ""),
    "no wait for the empty stage": (EMPTY, ""),
    "no arrival": (NOINC, ""),
    "an arrival that waits for nothing": (NOINC, PLAIN),
    "an arrival before its copy": (f"{COPY}\n    {NOINC}", NOINC + COPY),
    "a committed group instead of a wait": (NOINC, "cp.async.commit_group;" + PLAIN),
    "a wait for all but the last group": (
        NOINC, "cp.async.commit_group; cp.async.wait_group 1;" + PLAIN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_pipeline_is_found(how, seed):
    with pytest.raises((errors.Race, errors.Uninitialised, errors.Deadlock)):
        pipeline(seed, 2, *WRONG[how])
