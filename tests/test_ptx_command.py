"""python -m tests.ptx run: what it says of right, wrong and impossible runs."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aimills_kernels import _dispatch
from aimills_kernels._registry import get_op
from tests.ptx import __main__ as command
from tests.ptx import errors, launch, project
from tests.ptx.plant import Planted
from tests.ptx.snippet import run, text
from tests.ptx.trace import Tracer, Watch, Writers

pytestmark = pytest.mark.ptx

FULL = Path("/dev/full")  # a device on which nothing fits


@pytest.mark.parametrize(
    "words",
    [
        "quantize_fp8 tiny",
        "matmul_fp8 tiny --trace --warp 0",
        pytest.param("attention decode", marks=pytest.mark.full),
    ],
)
def test_a_right_kernel_passes(words, capsys):
    assert command.main(["run", *words.split()]) == 0
    out = capsys.readouterr().out
    assert "the op's least:" in out
    assert re.search(r"^bytes moved: \d+, \d+\.\d\d x the op's least$", out, re.MULTILINE)
    assert "least cycles" in out
    assert "PASS" in out
    assert "FAIL" not in out


def _planted(monkeypatch, planted: Planted) -> None:
    edited = functools.partial(command.executing, edit=planted.edit)
    monkeypatch.setattr(command, "executing", edited)


def test_a_wrong_kernel_fails_and_the_first_difference_is_told(monkeypatch, capsys):
    halved = Planted("a scale of half the size", r"0f43E00000", "0f43600000", None, None)
    _planted(monkeypatch, halved)
    assert command.main(["run", "quantize_fp8", "tiny"]) == 1
    out = capsys.readouterr().out.splitlines()
    (said,) = [line for line in out if line.startswith("FAIL scale")]
    assert "the first difference beyond the tolerance at [" in said
    assert "expected" in said
    assert "stored by lane" in said
    assert "of CTA (0, 0, 0), line" in said
    assert "st.global" in said


def test_a_fault_that_the_executor_finds_fails(monkeypatch, capsys):
    _planted(monkeypatch, Planted("a trap", r"\bret;", "trap;", None, None))
    assert command.main(["run", "quantize_fp8", "tiny"]) == 1
    assert "FAIL: Fault: a trap" in capsys.readouterr().out


@pytest.mark.full  # compiles
def test_a_cuda_kernel_runs_as_its_block_says_and_the_next_block_knows_nothing_of_it():
    op = get_op("video_to_tensor")
    provider = project.on_executor(op, op.provider("nvrtc"))[1]
    args = op.make_inputs(op.case("tiny").on("cpu"), "cpu", 0)
    outs = tuple(t.clone() for t in op.reference(*args))
    launched = _dispatch.load(provider)
    with command.executing(90, budget=1), pytest.raises(errors.BadLaunch):
        launched(outs, *args)
    trap = functools.partial(re.sub, r"\bret;", "trap;")
    with command.executing(90, edit=trap), pytest.raises(errors.Fault, match="a trap"):
        launched(outs, *args)
    with command.executing(90, count=True) as counted:
        launched(outs, *args)
    with command.executing(90, seed=None) as done:
        launched(outs, *args)
    assert [len(counted), len(done)] == [1, 1]
    assert (counted[0].counters is None, done[0].counters is None) == (False, True)
    with pytest.raises(RuntimeError, match=r"inside `with executing"):
        launched(outs, *args)


@pytest.mark.full
def test_the_seed_orders_the_warps_of_a_cuda_kernel(monkeypatch):
    seeds = []

    def note(*args, seed, **options):
        seeds.append(seed)
        return launch.Result(None, np.zeros(0), None)

    monkeypatch.setattr(launch, "run", note)
    op = get_op("video_to_tensor")
    provider = project.on_executor(op, op.provider("nvrtc"))[1]
    args = op.make_inputs(op.case("tiny").on("cpu"), "cpu", 0)
    for seed in (3, 8):
        with command.executing(90, seed=seed):
            _dispatch.load(provider)(op.reference(*args), *args)
    assert seeds == [3, 8]


def test_the_first_difference_is_beyond_the_tolerance():
    op = get_op("attention")
    args = op.make_inputs(op.case("tiny").on("cpu"), "cpu", 0)
    outs = tuple(t.clone() for t in op.reference(*args))
    assert [v.judgement.ok for v in project.judge(op, args, outs)] == [True, True]
    flat = outs[0].view(-1)
    flat[3] += 1e-7  # within
    flat[70] += 0.5
    flat[90] = torch.nan
    wrong, right = project.judge(op, args, outs)
    assert right.judgement.ok
    assert wrong.at == tuple(int(i) for i in np.unravel_index(70, outs[0].shape))
    assert wrong.got == pytest.approx(wrong.want + 0.5)


def test_an_input_that_changed_is_told():
    op = get_op("kv_append")
    args = op.make_inputs(op.cases[0], "cpu", 0)
    wrong = op.with_own(args)
    assert project.changed(op, args, wrong) == []
    wrong[op.params.index("k_cache")].add_(1)  # the op's to write
    assert project.changed(op, args, wrong) == []
    before = [t.clone() if isinstance(t, torch.Tensor) else t for t in args]
    new = args[op.params.index("k")].add_(1)
    (said,) = project.changed(op, tuple(before), args)
    assert f"wrote to an input, of shape {list(new.shape)}" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run nosuch", "unknown op 'nosuch'; the ops are:"),
        ("run attention nosuch", "attention has no case 'nosuch'"),
        (
            "run attention tiny --provider sdpa",
            "attention has triton, triton_invariant to run here",
        ),
        ("run quantize_fp8 tiny --watch 9:0", "no kernel has a tensor in argument 9 of 4 bytes"),
        ("run quantize_fp8 tiny --watch shared:9999999", "no kernel has shared memory of 10000003"),
        ("run quantize_fp8 tiny --watch nowhere:0", "the place is 'shared' or an argument's"),
        ("run quantize_fp8 tiny --watch tensor0:0", "no kernel has a struct with tensor0 of 4 byt"),
        ("run quantize_fp8 tiny --watch tensor:0", "or tensorN for what a struct points to"),
        ("run quantize_fp8 tiny --watch shared:x", "expected PLACE:OFFSET[:BYTES]"),
        ("run quantize_fp8 tiny --watch shared:-4", "OFFSET is 0 or more"),
        ("run quantize_fp8 tiny --watch shared:0:0", "BYTES 1 or more"),
        ("run quantize_fp8 tiny --trace --warp -1", "a whole number from 0 on, got '-1'"),
        ("run quantize_fp8 tiny --trace --warp x", "a whole number from 0 on, got 'x'"),
        ("run quantize_fp8 tiny --trace --lane 32", "a whole number from 0 to 31, got '32'"),
        ("run quantize_fp8 tiny --lane 3", "--warp and --lane choose what --trace shows"),
        ("run quantize_fp8 tiny --seed -1", "a whole number from 0 to 9223372036854775807, got"),
        (f"run quantize_fp8 tiny --seed {2**63}", "from 0 to 9223372036854775807, got '9223"),
        ("run", "the following arguments are required: op"),
        ("", "the following arguments are required"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(words, says, capsys):
    try:
        code = command.main(words.split())
    except SystemExit as error:
        code = error.code
    assert code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_warp_that_no_launch_has(capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(["run", "quantize_fp8", "tiny", "--trace", "--warp", "99"])
    assert caught.value.code == 2
    assert "--warp 99: the CTAs have" in capsys.readouterr().err


@pytest.mark.full  # a process of its own
def test_a_reader_that_goes_away_ends_it_quietly():
    read, write = os.pipe()
    os.close(read)
    words = ["-m", "tests.ptx", "run", "quantize_fp8", "tiny", "--trace"]
    done = subprocess.run([sys.executable, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.full
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence():
    words = [sys.executable, "-m", "tests.ptx", "run", "quantize_fp8"]
    with FULL.open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "did not finish" in done.stderr


def test_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        command.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "0 if the result is right, 1 if it is wrong" in said
    assert "quantize_fp8" in said


# ---- who wrote: engines are named by their own instruction

_COPY = """ld.param.u64 %rd1, [p0]; mov.u32 %r1, sm; add.u32 %r2, %r1, 64;
mbarrier.init.shared::cta.b64 [%r2], 1; fence.proxy.async;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 32;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 32, [%r2];
L: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;
@!%p1 bra L; add.u64 %rd1, %rd1, 32;
cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 32; cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;"""


def _copied(seed: int | None, tracer: Tracer) -> np.ndarray:
    data = np.zeros(64 + 16, np.uint8)
    data = data[-data.ctypes.data % 16 :][:64]
    data[:32] = 7
    run(_COPY, [("u64", data)], threads=1, declare=".extern .shared .align 16 .b8 sm[];",
        shared=72, seed=seed, tracer=tracer)  # fmt: skip
    assert (data == 7).all()
    return data


@pytest.mark.parametrize(
    ("place", "instruction", "values"),
    [("shared:8", "cp.async.bulk.shared::cluster", "0xff -> 0x07"),
     ("0:40", "cp.async.bulk.global.shared", "0x00 -> 0x07")],
)  # fmt: skip
@pytest.mark.parametrize("order", [None, 0, 1, 2, 3])
def test_a_watch_names_the_copy_that_wrote(place, instruction, values, order):
    lines: list[str] = []
    _copied(order, Tracer(lines.append, every=False, watch=(Watch.parse(place),)))
    assert len(lines) == 1
    assert instruction in lines[0]
    assert values in lines[0]
    assert "warp 0 of CTA (0, 0, 0), lane 0, line" in lines[0]


def test_who_stored_a_byte_is_kept():
    writers = Writers()
    data = _copied(0, Tracer(print, every=False, writers=writers))
    first = data.ctypes.data
    assert writers.who(first) == "which nothing stored"
    assert "cp.async.bulk.global.shared::cta" in writers.who(first + 32)
    assert "lane 0 of warp 0 of CTA (0, 0, 0), line" in writers.who(first + 63)


def test_who_stored_a_byte_is_kept_for_views_that_overlap():
    writers, whole = Writers(), np.zeros(8, np.uint32)
    body = "ld.param.u64 %rd1, [p1]; st.global.u32 [%rd1+12], 1;"
    run(body, [("u64", whole[:4]), ("u64", whole[2:])], threads=1,
        tracer=Tracer(print, every=False, writers=writers))  # fmt: skip
    assert "st.global.u32 [%rd1+12]" in writers.who(whole.ctypes.data + 20)
    assert writers.who(whole.ctypes.data + 24) == "which nothing stored"


def test_a_watch_sees_atomics_and_writes_that_change_nothing():
    lines: list[str] = []
    data = np.zeros(4, np.uint32)
    body = """ld.param.u64 %rd1, [p0]; red.global.add.u32 [%rd1+4], 1;
    st.global.u32 [%rd1+4], 1; mov.u32 %r1, %tid.x;"""
    watched = Tracer(lines.append, every=False, watch=(Watch.parse("0:4"),))
    run(body, [("u64", data)], threads=1, tracer=watched)
    assert ["red.global" in lines[0], "st.global" in lines[1], len(lines)] == [True, True, 2]
    assert "0x01 -> 0x01" in lines[1]


def test_a_watch_sees_a_tensor_that_a_struct_points_to():
    lines: list[str] = []
    first, second = np.zeros(4, np.uint32), np.zeros(4, np.uint32)
    struct_ = b"".join(a.ctypes.data.to_bytes(8, "little") for a in (first, second))
    body = """ld.param.u64 %rd1, [p0]; st.global.u32 [%rd1], 7;
    ld.param.u64 %rd2, [p1]; st.global.u32 [%rd2+8], 5;"""
    watched = Tracer(lines.append, every=False, watch=(Watch.parse("tensor1:8"),))
    source = text(body, ["u64", "u64"])
    launch.run(source, [struct_[:8], struct_[8:]], [1], [32], tensors=[first, second],
               tracer=watched)  # fmt: skip
    assert watched.missed() is None
    assert lines
    assert all("tensor1:8" in line and "[%rd2+8]" in line for line in lines)


def test_a_traced_warp_is_the_ctas_own_in_a_cluster():
    lines: list[str] = []
    run("mov.u32 %r1, 1;", threads=64, grid=[2], cluster=[2],
        tracer=Tracer(lines.append, warps={1}))  # fmt: skip
    assert {line.split(" line")[0] for line in lines} == {
        "warp 1 of CTA (0, 0, 0)", "warp 1 of CTA (1, 0, 0)",
    }  # fmt: skip


def test_a_trace_tells_which_lanes_an_instructions_guard_lets_do_it():
    lines: list[str] = []
    body = """mov.u32 %r1, %laneid; setp.lt.u32 %p1, %r1, 5; @%p1 mov.u32 %r2, 7;
    @!%p1 mov.u32 %r3, 8; setp.lt.u32 %p2, %r1, 0; @%p2 mov.u32 %r4, 9;
    @%p1 setp.ge.u32 %p1, %r1, 5; @%p2 bra END; END: ret;"""
    run(body, threads=32, tracer=Tracer(lines.append, lane=2))
    told = {line.split(": ", 1)[1].split("   ->")[0]: line for line in lines if "@" in line}
    said = {key.removesuffix(";"): line for key, line in told.items()}
    assert "(5 of 32 lanes) line" in said["@%p1 mov.u32 %r2, 7"]
    assert "-> %r2=0x7" in said["@%p1 mov.u32 %r2, 7"]
    assert "(27 of 32 lanes) line" in said["@!%p1 mov.u32 %r3, 8"]
    assert "->" not in said["@!%p1 mov.u32 %r3, 8"]  # lane 2 did not do it
    assert "(5 of 32 lanes) line" in said["@%p1 setp.ge.u32 %p1, %r1, 5"]  # of the guard before
    off = [line for line in lines if "(passed over: its guard is off) line" in line]
    assert [line.rsplit(": ", 1)[1] for line in off] == ["@%p2 mov.u32 %r4, 9;", "@%p2 bra END;"]


@pytest.mark.full
def test_a_cuda_kernel_is_shown_with_its_machine_code(capsys):
    assert command.main(["run", "video_to_tensor", "tiny"]) == 0
    out = capsys.readouterr().out
    found = re.search(r"machine code: (\d+) registers, (\d+) bytes of stack, (\d+) inst", out)
    assert found is not None
    assert 16 <= int(found[1]) <= 255
    assert int(found[3]) > 100
    assert re.search(r"unit +all CTAs +one CTA\n +issue +[\d.]+ +[\d.]+ +100%", out)
