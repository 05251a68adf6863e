"""Instructions in which lanes see each other, against loops over lanes; and who waits for whom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import snippet
from tests.ptx.errors import Deadlock, Fault, Unknown

pytestmark = pytest.mark.ptx

EVERY = 0xFFFFFFFF
SEEDS = (None, 0, 1, 2)
START = "mov.u32 %r1, %tid.x; mov.u32 %r2, %laneid; ld.param.u64 %rd1, [p0];"
LOAD = "mad.wide.u32 %rd2, %r1, 4, %rd1; ld.global.u32 %r3, [%rd2];"
STORE = "mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r9;"


def lanes(body: str, x: np.ndarray | None = None, threads: int = 64, **options) -> list[int]:
    """%r1 is the thread, %r2 the lane, %r3 its value; %r9 is the result."""
    x = np.arange(threads, dtype=np.uint32) if x is None else x.copy()
    snippet.run(START + LOAD + body + STORE, [("u64", x)], threads=threads, **options)
    return x.tolist()


def values(threads: int = 64) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2**32, threads, dtype=np.uint32)


# ---- shfl


def source(how: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The ISA's pseudocode."""
    bound, segment = c & 31, c >> 8 & 31
    last = (lane & segment) | (bound & ~segment & 31)
    first = lane & segment
    j = {"up": lane - (b & 31), "down": lane + (b & 31), "bfly": lane ^ (b & 31),
         "idx": first | (b & 31 & ~segment)}[how]  # fmt: skip
    inside = j >= last if how == "up" else j <= last
    return (j if inside else lane), inside


@pytest.mark.parametrize("how", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8, 4])
def test_shfl(how, width):
    c = (32 - width) << 8 | (0 if how == "up" else 31)
    x = values()
    for b in (0, 1, 3, 7, 16, 31):
        text = f"shfl.sync.{how}.b32 %r9|%p1, %r3, {b}, {c}, -1;"
        wanted = [source(how, t % 32, b, c) for t in range(64)]
        got = lanes(text, x)
        assert got == [int(x[t // 32 * 32 + j]) for t, (j, _) in enumerate(wanted)]
        assert lanes(text + "selp.u32 %r9, 1, 0, %p1;", x) == [int(v) for _, v in wanted]


def test_shfl_by_registers():
    """The lane, and the bound, may differ from lane to lane."""
    x = values()
    text = "xor.b32 %r4, %r2, 5; and.b32 %r5, %r2, 31; shfl.sync.idx.b32 %r9, %r3, %r4, %r5, -1;"
    wanted = [source("idx", t % 32, (t % 32) ^ 5, t % 32)[0] for t in range(64)]
    assert lanes(text, x) == [int(x[t // 32 * 32 + j]) for t, j in enumerate(wanted)]


def test_shfl_within_a_mask():
    """Each half of the warp by itself."""
    x = values()
    text = (
        "setp.lt.u32 %p1, %r2, 16; selp.b32 %r4, 0xFFFF, 0xFFFF0000, %p1;"
        "shfl.sync.bfly.b32 %r9, %r3, 3, 31, %r4;"
    )
    assert lanes(text, x) == [int(x[t ^ 3]) for t in range(64)]


@pytest.mark.parametrize("threads", [40, 64])
def test_a_shfl_from_a_lane_that_takes_no_part_is_an_error(threads):
    """Here a lane of the other mask, and one that the CTA does not have."""
    text = "setp.lt.u32 %p1, %r2, 16; selp.b32 %r4, 0xFFFF, 0xFFFF0000, %p1;"
    text = text if threads == 64 else "mov.b32 %r4, -1;"
    with pytest.raises(Fault, match=r"a shfl from lane \d+, which takes no part"):
        lanes(text + "shfl.sync.bfly.b32 %r9, %r3, 16, 31, %r4;", threads=threads)


# ---- vote, match, redux, elect, activemask

MASKS = {
    "whole": ("mov.b32 %r4, -1;", lambda lane: EVERY),
    "halves": ("setp.lt.u32 %p1, %r2, 16; selp.b32 %r4, 0xFFFF, 0xFFFF0000, %p1;",
               lambda lane: 0xFFFF if lane < 16 else 0xFFFF0000),
    "odd": ("and.b32 %r4, %r2, 1; setp.eq.u32 %p1, %r4, 1;"
            "selp.b32 %r4, 0xAAAAAAAA, 0x55555555, %p1;",
            lambda lane: 0xAAAAAAAA if lane % 2 else 0x55555555),
}  # fmt: skip


def group(thread: int, mask: int, threads: int = 64) -> list[int]:
    """The threads that exist of a lane's mask."""
    base = thread // 32 * 32
    return [base + k for k in range(32) if mask >> k & 1 and base + k < threads]


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("threads", [64, 52])
def test_vote(mask, threads):
    """The last warp may be short; lanes that don't exist are not asked."""
    setup, named = MASKS[mask]
    for x in (values(), np.zeros(64, np.uint32), np.full(64, 9, np.uint32), values() | 1):
        x = x[:threads]
        bits = [int(v) & 1 for v in x]
        groups = [[bits[k] for k in group(t, named(t % 32), threads)] for t in range(threads)]
        ask = setup + "and.b32 %r5, %r3, 1; setp.eq.u32 %p2, %r5, 1;"
        for how, wanted in (
            ("all", [all(g) for g in groups]), ("any", [any(g) for g in groups]),
            ("uni", [len(set(g)) == 1 for g in groups]),
        ):  # fmt: skip
            text = f"vote.sync.{how}.pred %p3, %p2, %r4; selp.u32 %r9, 1, 0, %p3;"
            assert lanes(ask + text, x, threads) == wanted, how
        wanted = [
            sum((1 - bits[k]) << k % 32 for k in group(t, named(t % 32), threads))
            for t in range(threads)
        ]
        assert lanes(ask + "vote.sync.ballot.b32 %r9, !%p2, %r4;", x, threads) == wanted


_REDUX = {
    "add.u32": sum, "add.s32": sum, "min.u32": min, "max.u32": max, "min.s32": min, "max.s32": max,
    "and.b32": lambda g: int(np.bitwise_and.reduce(g)),
    "or.b32": lambda g: int(np.bitwise_or.reduce(g)),
    "xor.b32": lambda g: int(np.bitwise_xor.reduce(g)),
}  # fmt: skip


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("op", list(_REDUX))
def test_redux(op, mask):
    setup, named = MASKS[mask]
    x = values(52)
    seen = x.view(np.int32) if "s32" in op else x
    wanted = [
        _REDUX[op]([int(seen[k]) for k in group(t, named(t % 32), 52)]) & EVERY for t in range(52)
    ]
    assert lanes(setup + f"redux.sync.{op} %r9, %r3, %r4;", x, 52) == wanted


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("type_", ["b32", "b64"])
def test_match(mask, type_):
    setup, named = MASKS[mask]
    value = "%r3"
    if type_ == "b64":  # they differ in the upper half only
        setup, value = setup + "mov.b32 %r6, 7; mov.b64 %rd3, {%r6, %r3};", "%rd3"
    for x in (values() % 3, np.full(64, 5, np.uint32)):
        any_, all_ = [], []
        for t in range(64):
            g = group(t, named(t % 32))
            any_.append(sum(1 << k % 32 for k in g if x[k] == x[t]))
            all_.append(sum(1 << k % 32 for k in g) if len({int(x[k]) for k in g}) == 1 else 0)
        assert lanes(setup + f"match.any.sync.{type_} %r9, {value}, %r4;", x) == any_
        text = f"match.all.sync.{type_} %r9|%p2, {value}, %r4;"
        assert lanes(setup + text, x) == all_
        assert lanes(setup + text + "selp.u32 %r9, 1, 0, %p2;", x) == [v > 0 for v in all_]


@pytest.mark.parametrize("mask", list(MASKS))
def test_elect_chooses_one_of_each_group(mask):
    setup, named = MASKS[mask]
    got = lanes(setup + "elect.sync %r9|%p2, %r4;")
    chosen = lanes(setup + "elect.sync _|%p2, %r4; selp.u32 %r9, 1, 0, %p2;")
    for t in range(64):
        g = group(t, named(t % 32))
        assert t // 32 * 32 + got[t] in g
        assert sum(chosen[k] for k in g) == 1
        assert chosen[t] == (got[t] == t % 32)


def test_activemask():
    text = "setp.lt.u32 %p1, %r2, 5; mov.b32 %r9, 0; @%p1 activemask.b32 %r9;"
    assert lanes(text, threads=40) == [31 if t % 32 < 5 else 0 for t in range(40)]


# ---- who waits for whom


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_of_the_mask_that_stand_elsewhere_are_waited_for(seed):
    """Odd lanes go a longer way to the shfl."""
    text = """
    and.b32 %r4, %r2, 1; setp.eq.u32 %p1, %r4, 0; mov.b32 %r5, 40;
    @%p1 bra MEET;
    LOOP: add.u32 %r3, %r3, 1; sub.u32 %r5, %r5, 1; setp.ne.u32 %p2, %r5, 0;
    @%p2 bra LOOP;
    MEET: shfl.sync.bfly.b32 %r9, %r3, 1, 31, -1;
    """
    assert lanes(text, seed=seed) == [t ^ 1 if t % 2 else (t ^ 1) + 40 for t in range(64)]


@pytest.mark.parametrize("seed", SEEDS)
def test_bar_warp_sync_orders_lanes(seed):
    """A lane writes, all wait, the others read."""
    text = """
    setp.ne.u32 %p1, %r2, 7; and.b32 %r6, %r1, 0x20; shr.u32 %r6, %r6, 3;
    @%p1 bra WAIT;
    add.u32 %r4, %r1, 100; mov.u32 %r7, s; add.u32 %r7, %r7, %r6; st.shared.u32 [%r7], %r4;
    WAIT: bar.warp.sync -1;
    mov.u32 %r7, s; add.u32 %r7, %r7, %r6; ld.shared.u32 %r9, [%r7];
    """
    declare = ".shared .align 4 .b8 s[8];"
    assert lanes(text, declare=declare, seed=seed) == [107] * 32 + [139] * 32


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_of_a_warp_go_on_by_themselves(seed):
    """Each half meets alone, in a loop of its own length; then all."""
    text = """
    setp.lt.u32 %p1, %r2, 16; selp.b32 %r4, 0xFFFF, 0xFFFF0000, %p1;
    selp.b32 %r5, 3, 8, %p1; mov.b32 %r9, 0;
    LOOP: redux.sync.add.u32 %r6, 1, %r4; add.u32 %r9, %r9, %r6;
    sub.u32 %r5, %r5, 1; setp.ne.u32 %p2, %r5, 0;
    @%p2 bra LOOP;
    redux.sync.max.u32 %r9, %r9, -1;
    """
    assert lanes(text, seed=seed) == [128] * 64


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_that_exited_are_not_waited_for(seed):
    text = "setp.lt.u32 %p1, %r2, 8; @%p1 exit; redux.sync.add.u32 %r9, %r3, -1;"
    x = np.ones(64, np.uint32)
    assert lanes(text, x, seed=seed) == ([1] * 8 + [24] * 24) * 2


@pytest.mark.parametrize("mask", ["0xFF", "%r4"])
def test_a_guard_keeps_lanes_out(mask):
    text = "mov.b32 %r4, 0xFF; setp.lt.u32 %p1, %r2, 8; mov.b32 %r9, 0;"
    text += f"@%p1 redux.sync.add.u32 %r9, 1, {mask};"
    assert lanes(text) == ([8] * 8 + [0] * 24) * 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "meet", ["@%p1 redux.sync.add.u32 %r9, 1, -1;", "@%p1 bar.warp.sync -1;",
             "@%p1 shfl.sync.idx.b32 %r9, %r3, 0, 31, -1;", "@%p1 elect.sync %r9|%p2, 0x1FF;"],
)  # fmt: skip
def test_lanes_that_never_come_are_a_deadlock(meet, seed):
    with pytest.raises(Deadlock, match=r"lanes 0-7\) at line \d+: @%p1"):
        lanes("setp.lt.u32 %p1, %r2, 8; mov.b32 %r9, 0;" + meet + "bar.sync 0;", seed=seed)


def test_masks_that_disagree_are_a_deadlock():
    text = "setp.lt.u32 %p1, %r2, 8; selp.b32 %r4, -1, 0x7FFFFFFF, %p1;"
    with pytest.raises(Deadlock, match="redux"):
        lanes(text + "redux.sync.add.u32 %r9, 1, %r4; bar.sync 0;", threads=31)


def test_a_mask_without_the_lane_itself_is_an_error():
    with pytest.raises(Fault, match="the membermask 0xff does not name the lane itself, by lane 8"):
        lanes("redux.sync.add.u32 %r9, 1, 0xFF;")


@pytest.mark.parametrize(
    "text",
    ["shfl.idx.b32 %r9, %r3, 0, 31;", "shfl.sync.idx.b64 %rd3, %rd3, 0, 31, -1;",
     "shfl.sync.swap.b32 %r9, %r3, 0, 31, -1;", "vote.all.pred %p1, %p2;",
     "vote.sync.most.pred %p1, %p2, -1;", "vote.sync.ballot.pred %p1, %p2, -1;",
     "redux.sync.min.f32 %f1, %f2, -1;", "redux.sync.add.b32 %r9, %r3, -1;",
     "redux.sync.and.u32 %r9, %r3, -1;", "match.any.b32 %r9, %r3, -1;",
     "match.any.sync.b32 %r9|%p1, %r3, -1;", "match.some.sync.b32 %r9, %r3, -1;",
     "elect.sync %r9, -1;", "elect.sync.aligned %r9|%p1, -1;", "activemask.b64 %rd1;",
     "bar.warp.arrive -1;", "shfl.sync.idx.b32 %r9, %r3, 0, -1;"],
)  # fmt: skip
def test_what_is_no_instruction_of_sm_90_is_refused(text):
    with pytest.raises(Unknown):
        snippet.run("mov.b32 %r3, 0; setp.eq.u32 %p2, %r3, 0;" + text)
