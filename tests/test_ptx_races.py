"""Faults of order planted in small kernels, each with a clean twin."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import as_tuple
from aimills_kernels._registry import get_op
from tests.ptx import launch, races, triton
from tests.ptx.errors import Fault, MissingFence, Race, Uninitialised
from tests.ptx.machine import Machine, Shape
from tests.ptx.memory import Global, Memory
from tests.ptx.parse import parse
from tests.ptx.races import Shadow
from tests.ptx.snippet import run, text

pytestmark = pytest.mark.ptx

SHARED = ".shared .align 16 .b8 sm[2048];"
# %r1: the thread; %r2: its own word of sm; %r3: the word of the thread 32 further on; %p0: warp 0.
PLACES = """mov.u32 %r1, %tid.x; mov.u32 %r4, sm; mov.u32 %r5, %ntid.x;
shl.b32 %r6, %r1, 2; add.u32 %r2, %r4, %r6;
add.u32 %r7, %r1, 32; rem.u32 %r7, %r7, %r5; shl.b32 %r7, %r7, 2; add.u32 %r3, %r4, %r7;
setp.lt.u32 %p0, %r1, 32;"""
STORE, LOAD = "st.shared.u32 [%r2], %r1;", "ld.shared.u32 %r8, [%r3];"
SYNC = "bar.sync 0;"
INIT = f"{STORE} {SYNC}"  # so that the fault is the order, and not that nothing was written
LOOP = "mov.u32 %r20, 0; L: {} add.u32 %r20, %r20, 1; setp.lt.u32 %p9, %r20, 3; @%p9 bra L;"


def go(body: str, threads: int = 128, **options: Any) -> launch.Result:
    return run(PLACES + body, threads=threads, declare=SHARED, **options)


CLEAN = {
    "read after write": f"{STORE} {SYNC} {LOAD}",
    "write after read": f"{INIT} {LOAD} {SYNC} {STORE}",
    "write after write": f"{INIT} st.shared.u32 [%r3], %r1;",
    "loop": LOOP.format(f"{STORE} {SYNC} {LOAD} {SYNC}"),
    "arrive": f"{INIT} @!%p0 bra W; {STORE} bar.arrive 1, 64; bra E; W: setp.lt.u32 %p1, %r1, 96;"
    "@%p1 bra E; bar.sync 1, 64; ld.shared.u32 %r8, [%r3]; E:",
    "broadcast": f"{INIT} ld.shared.u32 %r8, [sm];",
    "own": f"{STORE} ld.shared.u32 %r8, [%r2]; {STORE}",
    "same value": "@%p0 st.shared.u32 [sm], 7;",
    "same value, several warps": "st.shared.u32 [sm], 7;",
    "other bytes": f"{INIT} st.shared.u16 [%r2], 1; ld.shared.u16 %rs1, [%r3+2];",
}
RACY = {
    "read after write": f"{INIT} {STORE} {LOAD}",
    "write after read": f"{INIT} {LOAD} {STORE}",
    "write after write": f"{STORE} st.shared.u32 [%r3], %r1;",
    "loop": LOOP.format(f"{STORE} {SYNC} {LOAD}"),
    "wrong barrier": f"{INIT} {STORE} shr.u32 %r9, %r1, 6; add.u32 %r9, %r9, 1; bar.sync %r9, 64;"
    f"{LOAD}",
    "write after arrive": f"{INIT} @!%p0 bra W; bar.arrive 1, 64; {STORE} bra E;"
    "W: setp.lt.u32 %p1, %r1, 96; @%p1 bra E; bar.sync 1, 64; ld.shared.u32 %r8, [%r3]; E:",
    "overlap": f"{INIT} st.shared.u16 [%r2], 1; ld.shared.u16 %rs1, [%r3];",
}


@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_ordered_accesses_pass(body):
    for seed in (None, 0, 1, 2):
        go(body, seed=seed)


@pytest.mark.parametrize("body", RACY.values(), ids=RACY)
def test_a_race_is_found_in_every_order(body):
    for seed in (None, *range(6)):
        with pytest.raises(Race, match="nothing orders the two"):
            go(body, seed=seed)


def test_warps_store_different_values_to_one_word():
    first = "mov.u32 %r9, %laneid; setp.eq.u32 %p1, %r9, 0;"
    for seed in range(6):
        with pytest.raises(Race, match=r"nothing orders the two|store different values"):
            go(f"{first} @%p1 st.shared.u32 [sm], %r1;", seed=seed)


def test_two_lanes_of_one_store_disagree():
    with pytest.raises(Race, match="two lanes store different values at 0x0"):
        go("@%p0 st.shared.u32 [sm], %r1;")


def test_without_checks_a_missing_barrier_shows_for_some_seeds():
    def result(body: str, seed: int) -> bytes:
        out = np.zeros(128, np.uint32)
        body = (
            PLACES
            + f"{INIT} add.u32 %r1, %r1, 1000; {body}"
            + (
                "ld.param.u64 %rd1, [p0]; cvt.u64.u32 %rd2, %r6; add.s64 %rd1, %rd1, %rd2;"
                "st.global.u32 [%rd1], %r8;"
            )
        )
        run(body, [("u64", out)], threads=128, declare=SHARED, seed=seed, check=False)
        return out.tobytes()

    assert len({result(f"{STORE} {SYNC} {LOAD}", seed) for seed in range(12)}) == 1
    assert len({result(f"{STORE} {LOAD}", seed) for seed in range(12)}) > 1


def test_a_report_names_both_sides():
    with pytest.raises(Race) as caught:
        go("\n" + INIT + "\n" + STORE + "\n\n" + LOAD, seed=None)
    says = str(caught.value)
    first, second = (int(n) for n in re.findall(r"at line (\d+)", says))
    assert second == first + 2
    assert "bytes 0x80 to 0x83 of shared memory: written by warp 1 of CTA (0, 0, 0)" in says
    assert "(st.shared.u32 [%r2], %r1), read by warp 0 of CTA (0, 0, 0)" in says


@pytest.mark.parametrize(
    ("body", "bytes_"),
    [("", 16), ("st.shared.v4.f32 [sm], {%f1, %f2, %f3, %f4};", 16), ("ld.u16 %rs1, [%rd1];", 2),
     ("ld.global.u8 %rs1, [%rd1]; ld.shared.v2.b32 {%r1, %r2}, [sm];", 8),
     ("cp.async.ca.shared.global [%r1], [%rd1], 4;", 4)],
)  # fmt: skip
def test_granule_is_the_smallest_access(body, bytes_):
    kernel = parse(text(body, declare=SHARED)).kernel()
    assert races.granule(kernel) == bytes_
    assert races.cost(kernel, Shape((1, 1, 1), (128, 1, 1))) == 16 // bytes_ * 42


# ---- what compilers make

COPY = """ld.param.u64 %rd1, [p0]; cvt.u64.u32 %rd2, %r6; add.s64 %rd1, %rd1, %rd2;
cp.async.ca.shared.global [%r2], [%rd1], 4; cp.async.commit_group; {wait} {sync} {load}"""


def copied(wait: str = "", sync: str = "", load: str = LOAD) -> None:
    body = PLACES + INIT + COPY.format(wait=wait, sync=sync, load=load)
    for seed in range(3):
        run(
            body, [("u64", np.arange(128, dtype=np.uint32))], threads=128, declare=SHARED, seed=seed
        )


def test_what_cp_async_brings_is_waited_for_and_passed_on():
    wait, own = "cp.async.wait_group 0;", "ld.shared.u32 %r8, [%r2];"
    copied(wait, SYNC)
    copied(wait, load=own)
    with pytest.raises(Race, match=r"while a cp\.async of warp"):
        copied(sync=SYNC)
    with pytest.raises(Race, match=r"while a cp\.async of warp"):
        copied("cp.async.wait_group 1;", load=own)
    with pytest.raises(Race, match=r"cp\.async.*nothing orders the two"):
        copied(wait)


def needed(text: str, keep: str) -> list[str]:
    """The module without one of its barriers or waits, for each of them."""
    found = re.finditer(rf"(?:{keep})[^;]*;", text)
    return [text[: m.start()] + " " * len(m[0]) + text[m.end() :] for m in found]


def test_barriers_of_a_compiled_kernel_are_needed(monkeypatch):
    op, case = get_op("quantize_fp8"), "tiny"
    provider = next(p for p in op.providers if p.interpret)
    case = op.case(case).on("cpu")
    args = op.make_inputs(case, "cpu", 0)
    seen: list[str] = []
    monkeypatch.setattr(triton, "_parsed", {})
    monkeypatch.setattr(triton, "parse", lambda text: seen.append(text) or parse(text))

    def launched() -> None:
        fake = as_tuple(op.fake(*op.make_inputs(case, "meta", 0)))
        outs = tuple(torch.empty_like(f, device="cpu") for f in fake)
        with triton.executing(90):
            _dispatch.load(provider)(outs, *args)

    launched()
    cut = needed(seen[0], "bar.sync")
    assert cut
    for text_ in cut:
        monkeypatch.setattr(triton, "_parsed", {})
        monkeypatch.setattr(triton, "parse", lambda _, text_=text_: parse(text_))
        with pytest.raises((Race, Uninitialised)):
            launched()


# ---- flags

FLAG = """@%p0 st.shared.u32 [sm+1024], 0; {sync} @!%p0 bra W;
{store} bar.warp.sync -1; {release} bra E;
W: setp.gt.u32 %p1, %r1, 63; @%p1 bra E; S: {acquire} setp.eq.u32 %p2, %r10, 0; @%p2 bra S;
{late} ld.shared.u32 %r8, [%r11]; E:"""


def flag(release: str, acquire: str, late: str = "") -> None:
    body = FLAG.format(sync=SYNC, store=STORE, release=release, acquire=acquire, late=late)
    for seed in range(3):
        go("sub.u32 %r11, %r2, 128;" + INIT + body.replace("bar.warp.sync -1;", ""), seed=seed)


def test_a_flag_that_is_released_and_acquired_orders():
    flag("st.release.cta.shared.u32 [sm+1024], 1;", "ld.acquire.cta.shared.u32 %r10, [sm+1024];")


@pytest.mark.parametrize("word", ["relaxed.cta", "volatile"])
def test_a_flag_without_release_orders_nothing(word):
    with pytest.raises(Race, match="nothing orders"):
        flag(f"st.{word}.shared.u32 [sm+1024], 1;", f"ld.{word}.shared.u32 %r10, [sm+1024];")


def test_a_plain_flag_is_a_race():
    with pytest.raises(Race, match="0x400 to 0x403"):
        flag("st.shared.u32 [sm+1024], 1;", "ld.shared.u32 %r10, [sm+1024];")


# ---- the shared memory of another CTA

MEET = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
VISIT = f"""mov.u32 %r9, %cluster_ctarank; xor.b32 %r9, %r9, 1; {STORE} {MEET}
mapa.shared::cluster.u32 %r10, %r3, %r9; ld.shared::cluster.u32 %r8, [%r10];"""


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_a_cta_stays_until_others_have_read_its_memory(seed):
    there = dict(threads=64, grid=(4,), cluster=(2,), seed=seed)
    go(VISIT + MEET, **there)
    with pytest.raises(Fault, match=r"whose last thread exits: accessed by|which has exited"):
        go(VISIT, **there)


# ---- the shadow by hand: two CTAs of four warps in each of two clusters; a warp's index is
# 2 * (place in the cluster) + cluster

KERNEL = parse(
    text(
        """st.shared.u32 [%r1], %r2; ld.shared.u32 %r2, [%r1];
        atom.shared.add.u32 %r3, [%r1], 1; st.relaxed.cluster.shared.u32 [%r1], 1;
        ld.relaxed.cluster.shared.u32 %r1, [%r1]; wgmma.fence.sync.aligned;""",
        threads=128,
    )
).kernel()
STORES, LOADS, ADDS, STORES_STRONG, LOADS_STRONG = range(5)
BARRIER, OTHER = 512, 520
TILE = np.arange(64, 128)


class Hands:
    """Calls as the instructions make them."""

    def __init__(self) -> None:
        shape = Shape((4, 1, 1), (128, 1, 1), (2, 1, 1))
        self.m = Machine(KERNEL, shape, range(2))
        self.memory = Memory(self.m, Global(), b"", 1024, 0)
        self.shadow = Shadow(self.memory)

    def lanes(self, warp: int, at: int) -> tuple[np.ndarray, int, tuple]:
        return at + 4 * np.arange(8), 4, (np.full(8, warp), np.arange(8))

    def write(self, warp: int, at: int = 64, how: int = STORES) -> None:
        self.m.current = how
        self.shadow.write(*self.lanes(warp, at))

    def read(self, warp: int, at: int = 64, how: int = LOADS) -> None:
        self.m.current = how
        self.shadow.read(*self.lanes(warp, at))

    def begin(self, warp: int, *, write: bool, proxy: str = "async", at: np.ndarray = TILE):
        self.m.current = STORES
        return self.shadow.begin(at, warp, write=write, proxy=proxy, what="a copy")

    def sync(self, *warps: int) -> None:
        self.shadow.rendezvous(np.array(warps), np.array(warps))

    def fence(self, warp: int) -> None:
        self.shadow.proxy_fence(np.array([warp]), np.ones((1, 32), bool))

    def pass_on(self, source: int, target: int, key: int = BARRIER) -> None:
        """By an mbarrier."""
        self.shadow.release(key, np.array([source]))
        self.shadow.flip(key)
        self.shadow.acquire(key, np.array([target]))

    def complete(self, transfer: races.Transfer, key: int = BARRIER) -> None:
        self.shadow.end(transfer, key=key)
        self.shadow.flip(key)


def racy(call, *args, **kw) -> str:
    with pytest.raises(Race) as caught:
        call(*args, **kw)
    return str(caught.value)


def test_clusters_and_ctas_have_their_own_memory():
    h = Hands()
    for cta in range(4):  # by cluster, then rank
        h.write(cta // 2 + 8 * (cta % 2), h.memory.row * cta)
    h.read(8, h.memory.row)
    h.read(1, h.memory.row * 2)
    says = racy(h.read, 0, h.memory.row)
    assert "of rank 1: written by warp 0 of CTA (1, 0, 0)" in says
    assert "read by warp 0 of CTA (0, 0, 0)" in says


def test_an_mbarrier_orders_arrivals_before_waits():
    h = Hands()
    h.write(0)
    h.shadow.release(BARRIER, np.array([0]))
    h.shadow.acquire(BARRIER, np.array([2]))  # the phase is not complete
    racy(h.read, 2)
    h.shadow.flip(BARRIER)
    h.shadow.acquire(OTHER, np.array([2]))
    racy(h.read, 2)
    h.shadow.acquire(BARRIER, np.array([2]))
    h.read(2)
    h.pass_on(2, 8)  # of the other CTA, and through warp 2
    h.read(8)
    racy(h.read, 10)


def test_what_follows_an_arrival_is_not_ordered_by_it():
    h = Hands()
    h.shadow.release(BARRIER, np.array([0]))
    h.write(0)
    h.shadow.flip(BARRIER)
    h.shadow.acquire(BARRIER, np.array([2]))
    racy(h.read, 2)


def test_atomics_race_with_plain_accesses_only():
    h = Hands()
    h.write(0, how=ADDS)
    h.write(2, how=ADDS)
    h.read(8, how=LOADS_STRONG)
    h.write(8, how=STORES_STRONG)
    assert "atom.shared.add" in racy(h.read, 10)
    racy(h.write, 0)
    h.sync(0, 2, 8, 10)
    h.read(10)
    racy(h.write, 0, how=ADDS)
    h.sync(0, 10)
    h.write(0, how=ADDS)


def test_a_plain_write_comes_after_strong_reads():
    h = Hands()
    h.read(2, how=LOADS_STRONG)
    assert "ld.relaxed" in racy(h.write, 0)


def test_fences_around_relaxed_accesses_order():
    h = Hands()
    h.write(0)
    h.shadow.fence(np.array([0]))
    h.write(0, BARRIER, STORES_STRONG)
    h.read(2, BARRIER, LOADS_STRONG)
    racy(h.read, 2)
    h.shadow.fence(np.array([2]))
    h.read(2)


# ---- asynchronous operations


def test_nobody_touches_what_a_copy_is_writing():
    h = Hands()
    h.read(0)
    copy = h.begin(0, write=True)
    for warp in (0, 2):
        says = racy(h.read, warp)
        assert "while a copy of warp 0 of CTA (0, 0, 0), issued at line" in says
        assert "writes them" in says
        racy(h.write, warp)
    h.read(2, 128)
    h.complete(copy)
    racy(h.read, 0)  # not before it waits
    h.shadow.acquire(OTHER, np.array([0]))
    racy(h.read, 0)
    h.shadow.acquire(BARRIER, np.array([0]))
    h.read(0)
    assert "written by an engine for warp 0" in racy(h.read, 2)
    h.shadow.acquire(BARRIER, np.array([2]))
    h.write(2, 96)
    racy(h.write, 2)  # warp 0 has read the first half


def test_a_copy_waits_for_readers_of_what_it_overwrites():
    h = Hands()
    h.read(2)
    racy(h.begin, 0, write=True)
    h.pass_on(2, 0)
    h.complete(h.begin(0, write=True))


def test_two_copies_into_one_place():
    h = Hands()
    h.begin(0, write=True)
    racy(h.begin, 0, write=True)
    h.begin(0, write=True, at=TILE + 64)


def test_a_copy_that_its_warp_waits_for_is_the_warps_write():
    h = Hands()
    copy = h.begin(0, write=True, proxy="generic")
    racy(h.read, 0)
    h.shadow.end(copy, warp=0)
    h.read(0)
    racy(h.read, 2)
    h.sync(0, 2)
    h.read(2)
    with pytest.raises(MissingFence):
        h.begin(0, write=False)


def test_one_copy_of_several_warps_ends_for_each():
    h = Hands()
    warps = np.where(TILE < 96, 0, 2)
    copy = h.shadow.begin(TILE, warps, write=True, proxy="generic", what="a copy")
    assert "while a copy of warp 1" in racy(h.read, 0, 96)
    h.shadow.end(copy, of=np.array([2]))
    h.read(2, 96)
    assert "written by warp 1 of CTA (0, 0, 0)" in racy(h.read, 0, 96)
    assert "while a copy of warp 0" in racy(h.read, 0)
    h.shadow.end(copy, of=np.array([0]), key=BARRIER)
    h.shadow.flip(BARRIER)
    h.shadow.acquire(BARRIER, np.array([0]))
    h.read(0)
    racy(h.read, 0, 96)
    assert not h.shadow.transfers


def test_two_warps_copy_into_one_place():
    says = racy(Hands().begin, np.arange(64) % 2 * 2, write=True, at=np.full(64, 64))
    assert "while a copy of warp" in says


def test_what_an_engine_reads_may_be_read_and_not_written():
    h = Hands()
    first, second = (h.begin(0, write=False) for _ in range(2))
    other = h.begin(8, write=False)
    h.read(8)
    h.sync(0, 8)
    assert "while a copy of warp 0 of CTA (0, 0, 0), issued" in racy(h.write, 0)
    h.shadow.end(first, warp=0)
    racy(h.write, 0)
    h.shadow.end(second, warp=0)
    assert "while a copy of warp 0 of CTA (1, 0, 0), issued" in racy(h.write, 0)
    h.shadow.end(other, warp=8)
    racy(h.write, 0)
    h.sync(0, 2, 8)
    h.write(0)


def test_what_an_engine_reads_is_still_read_when_its_warp_reads_too():
    h = Hands()
    h.begin(0, write=False)
    h.read(0)
    assert "while a copy" in racy(h.write, 0)


def test_any_warp_of_a_group_may_tell_that_its_read_is_over():
    h = Hands()
    h.shadow.end(h.begin(0, write=False), warp=np.array([0, 2]))
    h.write(2, 64)
    h = Hands()
    h.shadow.end(h.begin(0, write=False), warp=np.array([0, 2]))
    racy(h.write, 8)
    h.sync(2, 8)
    h.write(8)


def test_a_read_that_ends_by_an_mbarrier():
    h = Hands()
    h.complete(h.begin(0, write=False))
    assert "read by an engine for warp 0" in racy(h.write, 0)
    h.shadow.acquire(BARRIER, np.array([0]))
    h.write(0)


def test_many_mbarriers_have_a_clock_each():
    h = Hands()
    for i in range(40):
        h.complete(h.begin(0, write=True, at=np.arange(4) + 4 * i), 512 + 8 * i)
        h.shadow.acquire(512 + 8 * i, np.array([2 * (i % 2)]))
    for i in range(40):
        place = np.array([4 * i]), 4, (np.array([2 * (i % 2)]), np.array([0]))
        h.shadow.read(*place)
        with pytest.raises(Race):
            h.shadow.read(*place[:2], (np.array([8]), np.array([0])))


# ---- proxies


@pytest.mark.parametrize("fencing", [0, 2])
def test_a_fence_of_the_writer_or_of_who_comes_after_it(fencing):
    h = Hands()
    h.write(0)
    if fencing == 0:
        h.fence(0)
    h.sync(0, 2)
    if fencing == 2:
        h.fence(2)
    h.begin(2, write=False)


def fenced_too_early(h: Hands) -> None:
    h.fence(0)
    h.write(0)
    h.sync(0, 2)


def fenced_after_it_left(h: Hands) -> None:
    h.write(0)
    h.sync(0, 2)
    h.fence(0)


def fenced_before_it_knew(h: Hands) -> None:
    h.write(0)
    h.fence(2)
    h.sync(0, 2)


@pytest.mark.parametrize("prepare", [fenced_too_early, fenced_after_it_left, fenced_before_it_knew])
@pytest.mark.parametrize("write", [False, True])
def test_a_fence_in_the_wrong_place(prepare, write):
    h = Hands()
    prepare(h)
    with pytest.raises(MissingFence, match=r"no fence\.proxy\.async lies") as caught:
        h.begin(2, write=write)
    assert "written by warp 0 of CTA (0, 0, 0) at line" in str(caught.value)
    assert "for warp 1 of CTA (0, 0, 0) at line" in str(caught.value)


def test_a_fence_does_not_order():
    h = Hands()
    h.write(0)
    h.fence(0)
    h.fence(2)
    racy(h.begin, 2, write=False)


def test_between_operations_of_the_async_proxy_no_fence_is_needed():
    h = Hands()
    h.complete(h.begin(0, write=True))
    h.shadow.acquire(BARRIER, np.array([2]))
    h.begin(2, write=False)


def test_after_reads_no_fence_is_needed():
    h = Hands()
    h.read(0)
    h.sync(0, 2)
    h.begin(2, write=True)


def test_a_copy_of_the_generic_proxy_that_ends_by_an_mbarrier_needs_a_fence():
    h = Hands()
    h.complete(h.begin(0, write=True, proxy="generic"))
    h.shadow.acquire(BARRIER, np.array([2]))
    h.read(2)
    with pytest.raises(MissingFence):
        h.begin(2, write=False)
    h.fence(2)
    h.begin(2, write=False)
