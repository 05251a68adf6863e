"""Loops without an end are told, in a few turns; long ones that end are not disturbed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import errors
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx
SHARED = ".extern .shared .align 16 .b8 sm[];"
ORDERS = pytest.mark.parametrize(
    "order", [None, *(pytest.param(n, marks=pytest.mark.full) for n in (0, 1, 2))]
)

START = "ld.param.u64 %rd1, [p0]; mov.u32 %r8, sm; mov.u32 %r9, %tid.x;\n"
POLL = "L: {}; setp.eq.u32 %p1, %r1, 0;\n@%p1 bra L;"
INIT = "mbarrier.init.shared::cta.b64 [%r8], 1;"
ENDLESS = {
    "itself": "L: bra L;",
    "volatile": POLL.format("ld.volatile.global.u32 %r1, [%rd1]"),
    "acquire": POLL.format("ld.acquire.gpu.global.u32 %r1, [%rd1]"),
    "atomic": POLL.format("atom.global.or.b32 %r1, [%rd1], 0"),
    "cas": "st.global.u32 [%rd1], 7;" + POLL.format("atom.global.cas.b32 %r1, [%rd1], 0, 1")
    .replace("setp.eq.u32", "setp.ne.u32"),
    "sleep": POLL.format("nanosleep.u32 40; ld.relaxed.gpu.global.u32 %r1, [%rd1]"),
    "says the same": POLL.format("st.global.u32 [%rd1+4], 5; ld.volatile.global.u32 %r1, [%rd1]"),
    "a flag in shared memory": "st.shared.u32 [%r8+32], 0; bar.sync 0;"
    + POLL.format("ld.volatile.shared.u32 %r1, [%r8+32]"),
    "after a while": """mov.u32 %r2, 0; K: add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 3000;
    @%p2 bra K;""" + POLL.format("ld.volatile.global.u32 %r1, [%rd1]"),
    "an mbarrier": INIT + "L: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r8], 0;\n"
    "@!%p1 bra L;",
    "an mbarrier, tested": INIT + "L: mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r8], 0;\n"
    "@!%p1 bra L;",
    "one waits at a barrier": "setp.eq.u32 %p3, %r9, 0; @!%p3 bra B;"
    + POLL.format("ld.volatile.global.u32 %r1, [%rd1]") + "B: bar.sync 0;",
    "one waits at an mbarrier": "setp.ne.u32 %p3, %r9, 0; @%p3 bra A;" + INIT + """
    W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r8], 0; @!%p2 bra W; ret;
    A: """ + POLL.format("ld.volatile.global.u32 %r1, [%rd1]"),
}  # fmt: skip


@ORDERS
@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_loop_is_a_deadlock(name, order):
    threads = 1 if "mbarrier" in name and "one waits" not in name else 33
    data = np.zeros(4, np.uint32)
    with pytest.raises(errors.Deadlock, match=r"of CTA \(0, 0, 0\).* line \d+: ") as caught:
        run(START + ENDLESS[name], [("u64", data)], threads=threads, declare=SHARED, shared=64,
            seed=order, budget=3_000_000)  # fmt: skip
    assert "\n" not in str(caught.value)
    if "one waits at a barrier" in name:
        assert "barrier 0:" in str(caught.value)
    if name == "one waits at an mbarrier":
        assert "1 arrivals and 0 bytes are missing" in str(caught.value)
    if name in ("itself", "volatile", "acquire"):
        assert "goes round and round through line" in str(caught.value)


@pytest.mark.parametrize("ctas", [1, 40])
def test_many_warps_that_spin_are_told_soon(ctas, seed):
    data = np.zeros(4, np.uint32)
    with pytest.raises(errors.Deadlock, match="goes round and round"):
        run(START + ENDLESS["volatile"], [("u64", data)], threads=256, grid=[ctas],
            declare=SHARED, shared=64, seed=seed, budget=3_000_000)  # fmt: skip


LATE = """setp.eq.u32 %p3, %r9, {}; @!%p3 bra B;
mov.u32 %r2, 0; K: add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, {};
@%p2 bra K; st.volatile.global.u32 [%rd1], 1; bra E;
B: {}
E: mov.u32 %r3, 1;"""
WAITS = {
    "volatile": POLL.format("ld.volatile.global.u32 %r1, [%rd1]"),
    "atomic": POLL.format("atom.global.or.b32 %r1, [%rd1], 0"),
}


@ORDERS
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    ("setter", "rounds"),
    [(0, 5), (0, 1500), (32, 1500), pytest.param(39, 1500, marks=pytest.mark.full)],
)
def test_who_sets_the_flag_late_is_waited_for(setter, rounds, wait, order):
    """Also where it is a lane of the very warp that polls."""
    data = np.zeros(4, np.uint32)
    run(START + LATE.format(setter, rounds, WAITS[wait]), [("u64", data)], threads=40,
        declare=SHARED, shared=64, seed=order, budget=3_000_000)  # fmt: skip
    assert data[0] == 1


@ORDERS
def test_a_vote_ends_a_loop_that_one_lane_counts(order):
    data = np.zeros(4, np.uint32)
    body = """mov.u32 %r2, 0; setp.eq.u32 %p3, %r9, 0;
    L: @%p3 add.u32 %r2, %r2, 1; setp.gt.u32 %p1, %r2, 1500;
    vote.sync.any.pred %p2, %p1, 0xffffffff;
    @!%p2 bra L; st.global.u32 [%rd1], 1;"""
    run(START + body, [("u64", data)], declare=SHARED, shared=64, seed=order, budget=3_000_000)
    assert data[0] == 1


@ORDERS
@pytest.mark.parametrize("register", ["%clock", "%clock64", "%globaltimer", "%globaltimer_lo"])
def test_a_clock_goes_on(register, order):
    bits = "64" if register in ("%clock64", "%globaltimer") else "32"
    a, b, c = ("%rd2", "%rd3", "%rd4") if bits == "64" else ("%r2", "%r3", "%r4")
    data = np.zeros(4, np.uint32)
    body = f"""mov.u{bits} {a}, {register}; L: mov.u{bits} {b}, {register};
    sub.u{bits} {c}, {b}, {a}; setp.lt.u{bits} %p1, {c}, 100000; @%p1 bra L;
    st.global.u32 [%rd1], 1;"""
    run(START + body, [("u64", data)], declare=SHARED, shared=64, seed=order)
    assert data[0] == 1


@ORDERS
def test_a_counter_in_local_memory_counts(order):
    data = np.zeros(4, np.uint32)
    body = """.local .align 4 .b8 l[4]; st.local.u32 [l], 0; L: ld.local.u32 %r2, [l];
    add.u32 %r2, %r2, 1; st.local.u32 [l], %r2; mov.u32 %r3, %r2; mov.u32 %r2, 0;
    setp.lt.u32 %p1, %r3, 1500; mov.u32 %r3, 0; @%p1 bra L; st.global.u32 [%rd1], 1;"""
    run(START + body, [("u64", data)], declare=SHARED, shared=64, seed=order)
    assert data[0] == 1


@ORDERS
def test_a_loop_that_changes_and_never_ends_is_told_with_its_lines(order):
    data = np.zeros(4, np.uint32)
    body = "L: add.u32 %r1, %r9, 1;\nadd.u64 %rd2, %rd2, 1;\nbra L;"
    says = r"20000 instructions \(option budget\); the loop of lines 12 to 14 was run \d+ times"
    with pytest.raises(errors.TooLong, match=says + r" \[line 1[234]"):
        run(START + "mov.u64 %rd2, 0; " + body, [("u64", data)], declare=SHARED, shared=64,
            seed=order, budget=20_000)  # fmt: skip
