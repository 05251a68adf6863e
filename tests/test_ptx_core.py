"""The executor itself: what it reads, what it refuses, control flow, bounds, barriers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ptx import errors, launch
from tests.ptx.ops import TABLE
from tests.ptx.parse import Imm, Mem, Pair, Reg, Vec, parse
from tests.ptx.snippet import run, text

pytestmark = pytest.mark.ptx

# %rd3: the address of the thread's own element of the u32 array p0; %r1: the thread.
OWN = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd3, %rd1, %rd2;"""
SHARED = ".extern .shared .align 16 .b8 sm[];"


def stored(body: str, threads: int = 32, **options) -> np.ndarray:
    """What each thread leaves in %r2."""
    out = np.full(threads, 0xAAAAAAAA, np.uint32)
    source = f"{OWN} {body} st.global.u32 [%rd3], %r2;"
    run(source, [("u64", out)], threads=threads, **options)
    return out


# ---- text


def test_operands_are_read():
    kernel = parse(
        text("ld.global.v2.u32 {%r1, %r2}, [%rd1+-8]; setp.eq.f32 %p1|%p2, %f1, 0f3F800000;")
    ).kernel()
    load, compare, _ = kernel.code
    assert load.parts == ("ld", "global", "v2", "u32")
    assert load.args == (Vec((Reg("%r1", "b32"), Reg("%r2", "b32"))), Mem(Reg("%rd1", "b64"), -8))
    assert compare.args[0] == Pair(Reg("%p1", "pred"), Reg("%p2", "pred"))
    assert compare.args[2] == Imm(0x3F800000, "f32")


def test_scopes_keep_their_registers_and_labels():
    body = (
        "mov.u32 %r2, 1;"
        + """
    { .reg .b32 x; mov.u32 x, 5; bra DONE; add.u32 %r2, %r2, x; DONE: add.u32 %r2, %r2, x; }"""
        * 2
    )
    assert (stored(body) == 11).all()


def test_labels_in_a_row_belong_to_their_scope():
    body = "mov.u32 %r2, 1;" + "{ bra B; A: B: C: add.u32 %r2, %r2, 1; }" * 2
    assert (stored(body) == 3).all()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hello", r"no .target.*\[line 1: hello\]"),
        ("", r"no .target.*\[line 1: \]"),
        (text("add.u32 %r1, %r2"), "';' is missing|no instruction|can't read|expected"),
        (text("add.u32 %r1, %r2, ?;"), r"can't read '\?'.*line 11: add.u32"),
        (text("ld.global.u32 %r1, [%rd1;"), r"expected '\]'.*line 11"),
        (text("bra NOWHERE;"), "NOWHERE is no label.*line 11: bra NOWHERE"),
        (text("brx.idx %r1, T;"), "T is no label.*line 11: brx.idx"),
        (text("T: .branchtargets A\n\tB; A: B: brx.idx %r1, T;"), "^A B is no label"),
        (text("frobnicate.u32 %r1, %r2;"), "does not know.*line 11: frobnicate.u32"),
        (text("add.rn.u32 %r1, %r2, %r3;"), "does not know.*add.rn.u32"),
        (text("mov.u32 %r1, %undeclared;"), "%undeclared is not declared"),
        (text("call foo;"), "calls are not supported.*call foo"),
    ],
)  # fmt: skip
def test_what_it_cannot_read_stops_with_the_line(source, says):
    with pytest.raises(errors.PtxError, match=says) as caught:
        launch.run(source, [], [1])
    assert "\n" not in str(caught.value)


def test_an_unknown_instruction_stops_though_it_is_never_reached():
    with pytest.raises(errors.Unknown, match="frobnicate"):
        run("bra END; frobnicate.u32 %r1, %r2; END: mov.u32 %r1, 0;")


# ---- launches


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(args=[]), "k takes 1 arguments, got 0"),
        (dict(args=["x"]), "p0: can't pass a str"),
        (dict(args=[b"1234"]), "p0 has 8 bytes, got 4"),
        (dict(grid=[0]), "x is 0, and takes 1 to"),
        (dict(grid=[1 << 30, 1 << 10]), "too large to finish"),
        (dict(grid=[3], cluster=[2]), "no multiple of the cluster"),
        (dict(block=[64]), "compiled for"),
        (dict(shared=300 << 10), "bytes of shared memory; a CTA has"),
        (dict(kernel="other"), "no kernel 'other'; the module has k"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused(change, says):
    wanted = dict(args=[1], grid=[1]) | change
    with pytest.raises(errors.PtxError, match=says):
        launch.run(text("", ["u64"]), wanted.pop("args"), wanted.pop("grid"), **wanted)


def test_a_tensor_for_a_number_is_refused():
    with pytest.raises(errors.BadLaunch, match="p0 is no pointer"):
        launch.run(text("", ["u32"]), [np.zeros(4, np.uint8)], [1])


def test_a_loop_without_end_stops():
    with pytest.raises(errors.TooLong, match=r"budget.*bra L"):
        run("mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; bra L;", budget=10_000)


# ---- memory


def test_results_reach_torch_views_and_nothing_else():
    whole = torch.full((4, 64), -1, dtype=torch.int32)
    view = whole[1:3, 8:40]
    body = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
    mul.lo.u32 %r3, %r2, 256; mul.lo.u32 %r4, %r1, 4; add.u32 %r5, %r3, %r4; cvt.u64.u32 %rd2, %r5;
    add.s64 %rd3, %rd1, %rd2; mad.lo.u32 %r6, %r2, 100, %r1; st.global.u32 [%rd3], %r6;"""
    run(body, [("u64", view)], grid=[2])
    expected = torch.full((4, 64), -1, dtype=torch.int32)
    expected[1:3, 8:40] = torch.arange(32) + 100 * torch.arange(2)[:, None]
    assert torch.equal(whole, expected)


def test_a_hole_between_the_rows_of_a_view_is_out_of_bounds():
    view = torch.zeros(2, 64, dtype=torch.int32)[:, :31]
    with pytest.raises(
        errors.OutOfBounds, match=r"124 bytes into argument 0.*not contiguous.*lane 31"
    ):
        run(f"{OWN} st.global.u32 [%rd3], %r1;", [("u64", view)])


@pytest.mark.parametrize("tensors", [0, 1])
@pytest.mark.parametrize(
    "what",
    [
        "ld.global.u32 %r1, [%rd1];",
        "st.global.u32 [%rd1], %r1;",
        "red.global.add.u32 [%rd1], 1;",
        "ld.u32 %r1, [%rd1];",
    ],
)
def test_a_null_pointer_is_near_no_tensor(what, tensors):
    args = [("u64", None), *[("u64", np.zeros(4, np.uint32))] * tensors]
    says = "0x0, and there are no tensors|0x0, which lies in no tensor"
    with pytest.raises(errors.OutOfBounds, match=says):
        run(f"mov.u32 %r1, 1; ld.param.u64 %rd1, [p0]; {what}", args)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ("ld.global.u32 %r2, [%rd3+4];", errors.OutOfBounds, "128 bytes into argument 0.*lane 31"),
        ("ld.global.u32 %r2, [%rd3+-4];", errors.OutOfBounds, "-4 bytes into.*lane 0"),
        ("st.global.u32 [%rd3+4], %r1;", errors.OutOfBounds, "a store of 4 bytes at 128"),
        ("ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd3];", errors.Misaligned, "multiple of 16"),
        ("ld.global.u32 %r2, [%rd2];", errors.OutOfBounds, "a load of 4 bytes"),
        ("ld.shared.u32 %r2, [sm];", errors.Uninitialised, "0 of shared memory, where nothing"),
        ("ld.shared.u32 %r2, [sm+64];", errors.OutOfBounds, "at 64 of shared memory, which has 64"),
        ("st.shared.u32 [sm+2], %r1;", errors.Misaligned, "no multiple of 4"),
        ("ld.u32 %r2, [%rd3+128];", errors.OutOfBounds, "bytes into argument 0"),
        ("mov.u32 %r2, %r9;", errors.Uninitialised, "%r2 is used here and holds what was never"),
        ("setp.lt.u32 %p1, %r1, 9; @%p1 mov.u32 %r9, 1; mov.u32 %r2, %r9;",
         errors.Uninitialised, "%r2.*lane 9"),
        ("setp.lt.u32 %p1, %r9, 9; @%p1 mov.u32 %r2, 1;", errors.Uninitialised, "%p1 is used"),
        ("setp.lt.u32 %p1, %r9, 9; @%p1 bra L; L: mov.u32 %r2, 1;",
         errors.Uninitialised, "%p1 is used"),
        ("ld.global.u32 %r2, [%rd9];", errors.Uninitialised, "%rd9 is used"),
        ("and.b32 %r2, %r9, 255;", errors.Uninitialised, "%r2"),
        ("and.b32 %r8, %r9, 255; shr.u32 %r2, %r8, 7;", errors.Uninitialised, "%r2"),
        ("prmt.b32 %r2, %r9, %r1, 0x7650;", errors.Uninitialised, "%r2"),
        ("add.u32 %r8, %r9, 1; and.b32 %r2, %r8, 1;", errors.Uninitialised, "%r2"),
        ("shfl.sync.idx.b32 %r2, %r9, 0, 31, -1;", errors.Uninitialised, "%r2"),
        ("div.u32 %r2, %r1, %r1;", errors.Fault, "division by zero.*lane 0"),
        ("trap;", errors.Fault, "a trap"),
    ],
)  # fmt: skip
def test_a_fault_names_the_thread_and_the_line(body, kind, says):
    with pytest.raises(kind, match=says) as caught:
        stored(body, declare=SHARED, shared=64)
    assert "of CTA (0, 0, 0)" in str(caught.value)
    assert "[line 12: " in str(caught.value)  # the body's second line


def test_the_same_without_the_fault_passes():
    out = stored(
        "ld.global.u32 %r2, [%rd3]; setp.lt.u32 %p1, %r1, 9; @%p1 mov.u32 %r9, 1;"
        "@%p1 mov.u32 %r2, %r9;"
    )
    assert out.tolist() == [1] * 9 + [0xAAAAAAAA] * 23


NINE = "setp.lt.u32 %p1, %r1, 9; @%p1 mov.u32 %r9, 7;"  # in lanes 0 to 8


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{NINE} shfl.sync.idx.b32 %r2, %r9, 3, 31, -1;", [7] * 32),
        (f"{NINE} selp.b32 %r2, %r9, 5, %p1;", [7] * 9 + [5] * 23),
        (f"{NINE} and.b32 %r8, %r9, 0x00FF00FF; prmt.b32 %r2, %r8, 0, 0x4141;", [0] * 32),
        (f"{NINE} and.b32 %r8, %r9, 255; shr.u32 %r2, %r8, 8;", [0] * 32),
        (f"{NINE} or.b32 %r8, %r9, -1; mov.u32 %r2, %r8;", [0xFFFFFFFF] * 32),
        (
            f"{NINE} add.u32 %r8, %r9, 1; @!%p1 mov.u32 %r8, 2; mov.u32 %r2, %r8;",
            [8] * 9 + [2] * 23,
        ),
        (f"{NINE} st.shared.u32 [sm], %r9; mov.u32 %r2, 1;", [1] * 32),
    ],
)
def test_an_undefined_value_that_does_not_matter_is_no_fault(body, expected):
    options = dict(declare=SHARED, shared=64, check=False)
    assert stored(body, **options).tolist() == expected


def test_generic_addresses_find_their_space():
    body = """mov.u64 %rd5, sm; cvta.shared.u64 %rd6, %rd5; add.s64 %rd7, %rd6, %rd2;
    mul.lo.u32 %r3, %r1, 3; st.u32 [%rd7], %r3; ld.u32 %r2, [%rd7];"""
    assert (stored(body, declare=SHARED, shared=128) == 3 * np.arange(32)).all()


# ---- control flow

SWITCH = """and.b32 %r3, %r1, 3; setp.gt.u32 %p1, %r1, 27; mov.u32 %r2, 9;
T: .branchtargets A, B, C;
@!%p1 brx.idx %r3, T;
bra END; A: mov.u32 %r2, 0; bra END; B: mov.u32 %r2, 1; bra END; C: mov.u32 %r2, 2; END:
"""


def test_lanes_branch_by_a_table():
    chosen = SWITCH.replace("and.b32 %r3, %r1, 3", "rem.u32 %r3, %r1, 3")
    want = [t % 3 if t <= 27 else 9 for t in range(32)]
    assert stored(chosen).tolist() == want
    with pytest.raises(errors.Fault, match=r"branch 3 of 3, by lane 3.*brx\.idx"):
        stored(SWITCH)


DIVERGED = """mov.u32 %r2, 0; setp.lt.u32 %p1, %r1, 7; @%p1 bra A;
mov.u32 %r3, %r1; L: add.u32 %r2, %r2, 2; sub.u32 %r3, %r3, 1; setp.ne.u32 %p2, %r3, 0; @%p2 bra L;
bra.uni J; A: mov.u32 %r2, 1000; J: add.u32 %r2, %r2, 1;"""


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_lanes_part_and_meet(seed):
    expected = [1001 if t < 7 else 2 * t + 1 for t in range(96)]
    assert stored(DIVERGED, threads=96, seed=seed).tolist() == expected


def test_threads_that_leave_early_are_not_waited_for():
    body = "setp.ge.u32 %p1, %r1, 40; @%p1 exit; bar.sync 0; mov.u32 %r2, 5;"
    assert stored(body, threads=96).tolist() == [5] * 40 + [0xAAAAAAAA] * 56


def test_a_block_that_is_no_multiple_of_a_warp():
    assert stored("bar.sync 0; mov.u32 %r2, %r1;", threads=37).tolist() == list(range(37))


EXCHANGE = """mov.u32 %r4, sm; shl.b32 %r5, %r1, 2; add.u32 %r6, %r4, %r5; xor.b32 %r7, %r5, 128;
add.u32 %r8, %r4, %r7; st.shared.u32 [%r6], %r1; {} ld.shared.u32 %r2, [%r8];"""


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_a_barrier_orders_warps(seed):
    body = EXCHANGE.format("bar.sync 0;")
    out = stored(body, threads=64, declare=SHARED, shared=256, seed=seed)
    assert (out == np.arange(64) ^ 32).all()


def test_without_the_barrier_some_order_shows_it():
    def goes_wrong(seed: int) -> bool:
        body = "st.shared.u32 [sm], 7; bar.sync 0;" + EXCHANGE.format("")
        try:
            stored(body, threads=64, declare=SHARED, shared=256, seed=seed, check=False)
        except errors.Uninitialised:
            return True
        return False

    assert any(goes_wrong(seed) for seed in range(8))


def test_named_barriers_and_arrivals():
    body = """setp.lt.u32 %p1, %r1, 32; @%p1 bra PRODUCER; bar.sync 1, 64; ld.shared.u32 %r2, [sm];
    bra.uni END; PRODUCER: st.shared.u32 [sm], 41; bar.arrive 1, 64; mov.u32 %r2, 1;
    END: add.u32 %r2, %r2, 1;"""
    out = stored(body, threads=64, declare=SHARED, shared=16)
    assert out.tolist() == [2] * 32 + [42] * 32


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1; A: bar.sync 2;",
         "barrier 1: 32 of 64 threads came; barrier 2: 32 of 64"),
        ("setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 64; A: mov.u32 %r2, 1;",
         "barrier 1: 32 of 64 threads came.*warp 1 of CTA"),
    ],
)  # fmt: skip
def test_a_deadlock_says_who_waits_for_what(body, says):
    with pytest.raises(errors.Deadlock, match=says):
        stored(f"mov.u32 %r2, 0; {body}", threads=64)


def test_warps_with_different_counts_at_a_barrier():
    body = """setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 64; bra.uni E;
    A: bar.sync 1, 96; E: mov.u32 %r2, 1;"""
    with pytest.raises(errors.Fault, match=r"barrier 1 with .* threads, but others said"):
        stored(body, threads=96)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_barrier_takes_no_more_threads_than_it_waits_for(seed):
    with pytest.raises(errors.Deadlock, match="barrier 1: 32 of 64 threads came"):
        stored("bar.sync 1, 64; mov.u32 %r2, 1;", threads=96, seed=seed)
    assert stored("bar.sync 1, 64; mov.u32 %r2, 1;", threads=128, seed=seed).tolist() == [1] * 128


def test_a_warp_that_comes_to_a_barrier_with_too_few_places():
    body = "setp.lt.u32 %p1, %r1, 16; @%p1 barrier.arrive 1, 32; barrier.sync 1, 32;"
    with pytest.raises(errors.Fault, match="48 threads at barrier 1, which waits for 32"):
        stored(f"{body} mov.u32 %r2, 1;", threads=32)


HALF = "setp.lt.u32 %p1, %r1, 16;"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (f"{HALF} @%p1 bar.sync 0; bar.sync 0;", "an aligned instruction.*lane 16 of warp 0"),
        (f"{HALF} @%p1 barrier.sync.aligned 0; bar.sync 0;", "an aligned instruction.*lane 16 of"),
        ("and.b32 %r3, %r1, 16; setp.eq.u32 %p1, %r3, 0; @%p1 bar.sync 1, 64;", "aligned instr"),
        (f"{HALF} @%p1 bar.arrive 1, 32;", "an aligned instruction.*lane 16 of warp 0"),
        (f"{HALF} @%p1 bar.red.popc.u32 %r3, 0, %p1;", "an aligned instruction.*lane 16 of warp 0"),
        (f"{HALF} @%p1 barrier.cluster.arrive.aligned;", "an aligned instruction.*lane 16 of"),
        ("and.b32 %r3, %r1, 3; bar.sync %r3;", "barrier 1, but another lane at 0, by lane 1 of"),
        ("and.b32 %r3, %r1, 3; bar.red.popc.u32 %r4, %r3, %p9;", "barrier 1, but another lane at"),
    ],
)  # fmt: skip
def test_an_aligned_barrier_is_of_whole_warps(body, says):
    for seed in (None, 0, 1):
        with pytest.raises(errors.Fault, match=says):
            stored(f"mov.u32 %r2, 0; setp.eq.u32 %p9, %r1, 0; {body}", threads=64, seed=seed)


def test_threads_that_exited_take_no_part_in_an_aligned_barrier():
    out = stored(f"{HALF} @%p1 exit; bar.sync 0; mov.u32 %r2, 5;", threads=64)
    assert out.tolist() == [0xAAAAAAAA] * 16 + [5] * 48


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_barrier_that_is_not_aligned_counts_threads(seed):
    """Halves of two warps: 32 threads, or two barriers in one warp."""
    halves = "and.b32 %r3, %r1, 16; setp.eq.u32 %p1, %r3, 0; mov.u32 %r2, 1;"
    stored(f"{halves} @%p1 barrier.sync 1, 32;", threads=64, seed=seed)
    stored(f"{halves} @%p1 bra A; barrier.sync 0; bra E; A: barrier.sync 0; E:", 64, seed=seed)
    stored(f"{halves} shr.u32 %r3, %r3, 4; barrier.sync %r3, 32;", threads=64, seed=seed)
    with pytest.raises(errors.Deadlock, match="barrier 1: 32 of 64 threads came"):
        stored(f"{halves} @%p1 barrier.sync 1, 64;", threads=64, seed=seed)


def test_a_short_warp_counts_as_a_whole_one():
    stored("mov.u32 %r2, 1; bar.sync 1, 64; bar.sync 0; barrier.sync 2, 64;", threads=40)


def test_many_ctas_run_together():
    out = np.zeros((300, 64), np.uint32)
    body = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
    mov.u32 %r9, %ctaid.y;
    mad.lo.u32 %r2, %r9, 100, %r2; mad.lo.u32 %r3, %r2, 64, %r1; mul.wide.u32 %rd2, %r3, 4;
    add.s64 %rd3, %rd1, %rd2; setp.eq.u32 %p1, %r2, 5; @%p1 exit; st.global.u32 [%rd3], %r3;"""
    done = run(body, [("u64", out)], threads=64, grid=[100, 3])
    expected = np.arange(300 * 64).reshape(300, 64)
    expected[5] = 0
    assert (out == expected).all()
    assert done.executed[0] == 600  # warps


def test_the_readme_lists_every_instruction():
    readme = (Path(__file__).parent / "ptx" / "README.md").read_text()
    rows = readme.split("## Instructions")[1].split("\n## ")[0]
    listed = set(re.findall(r"[a-z][\w.:]*", rows))
    known = {name.removeprefix("float ") for name in TABLE}
    assert known <= listed, sorted(known - listed)
    table = [line for line in rows.split("\n") if line.startswith("|")]
    dotted = {name for line in table for name in re.findall(r"[a-z][\w:]*(?:\.[\w:]+)+", line)}
    assert dotted <= known, sorted(dotted - known)


def test_a_store_of_a_constant():
    out = np.zeros(4, np.float32)
    body = """ld.param.u64 %rd1, [p0]; st.global.f32 [%rd1], 1.5;
    st.global.f32 [%rd1+4], 0f40000000;
    st.global.v2.b32 [%rd1+8], {0x40400000, -1082130432};"""
    run(body, [("u64", out)], threads=1)
    assert out.tolist() == [1.5, 2.0, 3.0, -1.0]


@pytest.mark.parametrize("op", ["bar.sync {}", "bar.red.popc.u32 %r1, {}, %p1"])
@pytest.mark.parametrize(
    ("which", "says"),
    [("16", "barrier 16; there are 16"), ("-1", "barrier 4294967295; there are 16"),
     ("1, 33", "a barrier's threads are no whole warps")],
)  # fmt: skip
def test_a_barrier_that_no_cta_has(op, which, says):
    with pytest.raises(errors.Fault, match=rf"^{says}, by lane 0 .* \[line 11: "):
        run(f"setp.eq.u32 %p1, 0, 0; {op.format(which)};")
