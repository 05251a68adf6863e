"""Warps that copy by cp.async for others, and warpgroups that share out registers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import errors, launch, snippet

pytestmark = pytest.mark.ptx

SEEDS = [None, *range(6)]
STAGES, BLOCKS = 3, 7
BUFFERS = """.shared .align 16 .b8 buf[3072]; .shared .align 8 .b8 full[24];
.shared .align 8 .b8 free[24];"""
# Warps 0 and 1 copy 16 bytes a thread into each stage, warps 2 and 3 read what others copied.
PIPELINE = """
ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; mov.u32 %r1, %tid.x;
setp.ne.u32 %p1, %r1, 0; @%p1 bra READY;
mbarrier.init.shared.b64 [full], 64; mbarrier.init.shared.b64 [full+8], 64;
mbarrier.init.shared.b64 [full+16], 64; mbarrier.init.shared.b64 [free], 64;
mbarrier.init.shared.b64 [free+8], 64; mbarrier.init.shared.b64 [free+16], 64;
READY: bar.sync 0;
mov.u32 %r10, 0; mov.u32 %r11, buf; mov.u32 %r12, full; mov.u32 %r13, free; mov.u32 %r14, 0;
mov.u32 %r15, 0; and.b32 %r2, %r1, 63; shl.b32 %r3, %r2, 4; cvt.u64.u32 %rd3, %r3;
add.u64 %rd1, %rd1, %rd3; add.u64 %rd2, %rd2, %rd3; xor.b32 %r4, %r3, 624;
setp.ge.u32 %p2, %r1, 64; @%p2 bra READER;
WRITER:
xor.b32 %r5, %r15, 1;
EMPTY: mbarrier.try_wait.parity.shared.b64 %p3, [%r13], %r5; @!%p3 bra EMPTY;
add.u32 %r6, %r11, %r3;
cp.async.cg.shared.global [%r6], [%rd1], 16;
cp.async.mbarrier.arrive.noinc.shared.b64 [%r12];
add.u64 %rd1, %rd1, 1024;
NEXT;
@%p4 bra WRITER; bra DONE;
READER:
FULL: mbarrier.try_wait.parity.shared.b64 %p3, [%r12], %r15; @!%p3 bra FULL;
add.u32 %r6, %r11, %r4;
ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r6];
st.global.v4.u32 [%rd2], {%r20, %r21, %r22, %r23};
mbarrier.arrive.shared.b64 _, [%r13];
add.u64 %rd2, %rd2, 1024;
NEXT;
@%p4 bra READER;
DONE:
"""
NEXT = """add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 7; add.u32 %r14, %r14, 1;
setp.eq.u32 %p5, %r14, 3; selp.u32 %r14, 0, %r14, %p5; @%p5 xor.b32 %r15, %r15, 1;
mov.u32 %r11, buf; mov.u32 %r12, full; mov.u32 %r13, free; mad.lo.u32 %r11, %r14, 1024, %r11;
mad.lo.u32 %r12, %r14, 8, %r12; mad.lo.u32 %r13, %r14, 8, %r13;"""


def pipelined(*changes: tuple[str, str], seed: int | None) -> None:
    body = PIPELINE.replace("NEXT;", NEXT)
    for old, new in changes:
        assert old in body
        body = body.replace(old, new)
    x = np.arange(BLOCKS * 256, dtype=np.int32).reshape(BLOCKS, 64, 4)
    out = np.zeros_like(x)
    snippet.run(body, [("u64", x), ("u64", out)], threads=128, declare=BUFFERS, seed=seed)
    assert (out == x[:, np.arange(64) ^ 39]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_tell_the_barrier_of_their_stage(seed):
    pipelined(seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_barrier_tells_of_all_copies_before_it(seed):
    """Two copies into a stage, each with its arrival; who waits for the last needs no other."""
    early = """cp.async.ca.shared.global [%r6], [%rd1], 8;
    cp.async.mbarrier.arrive.noinc.shared.b64 [%r16]; add.u32 %r7, %r6, 8;
    cp.async.ca.shared.global [%r7], [%rd1+8], 8;"""
    other = ".shared .align 8 .b8 early[8];"
    pipelined(
        ("READY: bar", "mbarrier.init.shared.b64 [early], 64; READY: mov.u32 %r16, early; bar"),
        ("cp.async.cg.shared.global [%r6], [%rd1], 16;", early), (" mov.u32 %r1, %tid.x;",
        f"{other} mov.u32 %r1, %tid.x;"), seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("FULL: mbarrier.try_wait.parity.shared.b64 %p3, [%r12], %r15; @!%p3 bra FULL;", ""),
         (errors.Race, errors.Uninitialised)),
        (("EMPTY: mbarrier.try_wait.parity.shared.b64 %p3, [%r13], %r5; @!%p3 bra EMPTY;", ""),
         (errors.Race, errors.Fault)),
        (("cp.async.mbarrier.arrive.noinc.shared.b64 [%r12];", ""), errors.Deadlock),
        (("cp.async.mbarrier.arrive.noinc.shared.b64 [%r12];",
          "mbarrier.arrive.shared.b64 _, [%r12];"), (errors.Race, errors.Uninitialised)),
        (("mbarrier.arrive.shared.b64 _, [%r13];", ""), errors.Deadlock),
    ],
    ids=["no wait for data", "no wait for room", "no arrival", "a plain arrival", "no release"],
)  # fmt: skip
def test_planted_in_the_pipeline(change, kind):
    for seed in SEEDS:
        with pytest.raises(kind):
            pipelined(change, seed=seed)


# ---- setmaxnreg

SHARES = """mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 7; setp.eq.u32 %p1, %r2, 0; @%p1 bra FEW;
setmaxnreg.inc.sync.aligned.u32 MORE; bra DONE;
FEW: setmaxnreg.dec.sync.aligned.u32 LESS;
DONE: bar.sync 0;"""


def shared_out(
    more: int = 232, less: int = 40, body: str = SHARES, limit: str = ".maxnreg 168"
) -> None:
    """Three warpgroups, the first of which gives registers away."""
    body = body.replace("MORE", str(more)).replace("LESS", str(less))
    source = snippet.text(body, threads=384).replace("{", f"{limit}\n{{", 1)
    for seed in SEEDS:
        launch.run(source, [], [2], seed=seed)


@pytest.mark.parametrize("limit", [".maxnreg 168", ""])
def test_registers_that_a_warpgroup_gives_others_take(limit):
    shared_out(limit=limit)
    shared_out(240, 24, limit=limit)
    shared_out(168, 168, limit=limit)


@pytest.mark.parametrize("limit", [".maxnreg 168", ""])
def test_registers_that_are_not_there_are_waited_for(limit):
    said = (
        r"waits for 240 registers a thread at line \d+ and has 168: it lacks 2304, and its CTA has"
    )
    with pytest.raises(errors.Deadlock, match=said):
        shared_out(240, 40, limit=limit)
    with pytest.raises(errors.Deadlock, match="waits for 224 registers"):
        shared_out(224, 80, limit=limit)


@pytest.mark.parametrize(
    ("more", "less", "said"),
    [(160, 40, "inc to 160 of a thread that has 168"), (104, 40, "inc to 104"),
     (168, 176, "dec to 176 of a thread that has 168"), (168, 240, "dec to 240")],
)  # fmt: skip
def test_an_inc_does_not_lower_and_a_dec_does_not_raise(more, less, said):
    with pytest.raises(errors.Fault, match=rf"setmaxnreg\.{said}"):
        shared_out(more, less)


@pytest.mark.parametrize(("more", "less"), [(232, 16), (264, 40), (228, 40), (232, 36)])
def test_a_share_that_no_thread_can_have(more, less):
    with pytest.raises(errors.Unknown, match="a multiple of 8 from 24 to 256"):
        shared_out(more, less)


def test_all_warps_of_a_warpgroup_change_their_registers():
    part = SHARES.replace("MORE; bra", "168; bra")
    for body, said in (
        (part.replace("FEW: ", "FEW: shr.u32 %r2, %r1, 6; setp.eq.u32 %p1, %r2, 1; @%p1 bra DONE;"),
         r"dec to 40 by some warps of a warpgroup only, not by warp 2 of CTA"),
        (part.replace("%r1, 7", "%r1, 6"), "another warp of its warpgroup: "),
    ):  # fmt: skip
        with pytest.raises(errors.Fault, match=said):
            shared_out(body=body)
