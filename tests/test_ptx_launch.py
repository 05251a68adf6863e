"""What a launch takes: arguments, grids and options that fit, and a sentence for others."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.ptx import errors, launch, tma
from tests.ptx.ops import TABLE
from tests.ptx.snippet import run, text

pytestmark = pytest.mark.ptx


def passed(type_: str, value: object) -> bytes:
    """The bytes that reach the kernel."""
    size = int(type_[1:].strip("f")) // 8
    out = np.zeros(size, np.uint8)
    wide = {1: "%r1", 2: "%rs1", 4: "%r1", 8: "%rd2"}[size]
    body = f"""ld.param.u64 %rd1, [p0]; ld.param.b{8 * size} {wide}, [p1];
    st.global.b{8 * size} [%rd1], {wide};"""
    run(body, [("u64", out), (type_, value)], threads=1)
    return out.tobytes()


@pytest.mark.parametrize(
    ("type_", "value", "form"),
    [
        ("u32", 5, "<I"), ("u32", np.int32(5), "<I"), ("u64", np.int32(5), "<Q"),
        ("s32", np.int32(-5), "<i"), ("u32", 2**32 - 1, "<I"), ("u64", 2**64 - 1, "<Q"),
        ("u8", 255, "<B"), ("s8", -128, "<b"), ("b16", 65535, "<H"), ("u32", True, "<I"),
        ("f32", 1.5, "<f"), ("f32", 5, "<f"), ("f32", np.float64(1.5), "<f"),
        ("f32", np.float32(1.5), "<f"), ("f32", float("inf"), "<f"), ("f64", 1e300, "<d"),
        ("f16", 1.5, "<e"), ("f16", np.float16(0.1), "<e"), ("b32", 1.5, "<f"), ("b64", 1.5, "<d"),
    ],
)  # fmt: skip
def test_a_number_that_fits(type_, value, form):
    assert passed(type_, value) == struct.pack(form, value)


def test_numbers_that_are_none():
    assert passed("u32", -5) == struct.pack("<i", -5)  # compilers call an int u32
    assert passed("u64", None) == bytes(8)


def test_a_short_float_does_not_move_what_comes_after():
    out = np.zeros(2, np.uint16)
    body = """ld.param.u64 %rd1, [p0]; ld.param.b16 %rs1, [p1]; ld.param.b16 %rs2, [p2];
    st.global.b16 [%rd1], %rs1; st.global.b16 [%rd1+2], %rs2;"""
    run(body, [("u64", out), ("f16", 1.5), ("u16", 7)], threads=1)
    assert out.tolist() == [0x3E00, 7]


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        ("u32", 2**40, "1099511627776 does not fit a u32"),
        ("u32", -(2**31) - 1, "does not fit a u32"),
        ("s32", 2**31, "does not fit a s32"),
        ("u8", 300, "300 does not fit a u8"),
        ("u64", 2**70, "does not fit a u64"),
        ("u32", 1.0, "can't pass a float, it is a u32"),
        ("u64", 1.5, "can't pass a float, it is a u64"),
        ("u32", np.float64(100.0), "can't pass a float, it is a u32"),
        ("u32", np.float32(100.0), "can't pass a float, it is a u32"),
        ("b16", 1.5, "can't pass a float, it is a b16"),
        ("u16", 1.5, "can't pass a float, it is a u16"),
        ("u32", None, "can't pass None, it is a u32"),
        ("f32", "1", "can't pass a str, it is a f32"),
        ("f32", 1e300, "does not fit a f32"),
        ("f16", 1e5, "does not fit a f16"),
        ("f32", torch.zeros(2), "p0 is no pointer, got a tensor"),
        ("f64", torch.zeros(2), "p0 is no pointer, got a tensor"),
        ("u64", torch.zeros(2, device="meta"), "a strided tensor on the CPU, got strided on meta"),
        ("u64", torch.zeros(2).to_sparse(), "got sparse_coo on cpu"),
        ("u64", np.array([None]), "argument 0 is a NumPy array of object, and native numbers"),
    ],
)
def test_an_argument_that_does_not_fit(type_, value, says):
    with pytest.raises(errors.BadLaunch, match=re.escape(says)) as caught:
        launch.run(text("", [type_]), [value], [1])
    if says.startswith("p0") or "it is" in says:
        assert f"[line 6: .visible .entry k(.param .{type_} p0)" in str(caught.value)


def test_a_struct_takes_bytes_and_a_tensor_map_only():
    source = text("", ["u32"]).replace(".u32 p0", ".b8 p0[8]")
    launch.run(source, [bytes(8)], [1])
    with pytest.raises(errors.BadLaunch, match="can't pass a int, it is a struct of 8 bytes"):
        launch.run(source, [5], [1])
    with pytest.raises(errors.BadLaunch, match="p0 is no pointer, got a tensor"):
        launch.run(source, [torch.zeros(2)], [1])
    box = tma.encode(np.zeros(64, np.float32), "f32", (64,), (), (32,))
    with pytest.raises(errors.BadLaunch, match="p0 is no tensor map, got one"):
        launch.run(text("", ["u64"]), [box], [1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(grid=4), "grid is one to three whole numbers, got 4"),
        (dict(grid=[]), "grid is one to three whole numbers"),
        (dict(grid="4"), "grid is one to three whole numbers, got '4'"),
        (dict(grid=[4.0]), "grid is one to three whole numbers"),
        (dict(grid=torch.tensor([4])), "grid is one to three whole numbers"),
        (dict(grid=[1, 1, 1, 1]), "grid is one to three whole numbers"),
        (dict(grid=[-1]), "x is -1, and takes 1 to 2147483647"),
        (dict(grid=[1, 70000]), "y is 70000, and takes 1 to 65535"),
        (dict(block=[32.5]), "block is one to three whole numbers"),
        (dict(block=[1, 1, 65]), "z is 65, and takes 1 to 64"),
        (dict(block=[1024, 2]), "has 2048 threads"),
        (dict(grid=[17], cluster=[17]), "x is 17, and takes 1 to 8"),
        (dict(grid=[16], cluster=[4, 4], block=[32]), "has 16 CTAs; every Hopper GPU takes 8"),
        (dict(grid=[3], cluster=[2]), "no multiple of the cluster"),
        (dict(shared=-5), "shared is a number of bytes, got -5"),
        (dict(shared=1.5), "shared is a number of bytes, got 1.5"),
        (dict(shared=None), "shared is a number of bytes, got None"),
        (dict(shared=300 << 10), "a CTA has 232448"),
        (dict(grid=[1 << 30, 1000]), "too large to finish"),
    ],
)  # fmt: skip
def test_a_shape_that_no_gpu_takes(change, says):
    wanted = dict(grid=[1], block=[32]) | change
    source = text("").replace(".reqntid 32", "")
    with pytest.raises(errors.BadLaunch, match=rf"{re.escape(says)}.*line 6: \.visible \.entry k"):
        launch.run(source, [], wanted.pop("grid"), **wanted)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (dict(seed=-1), "seed is a whole number from 0 on, or None, got -1"),
        (dict(seed="a"), "seed is a whole number"),
        (dict(budget=0), "budget is a number of instructions"),
    ],
)
def test_an_option_that_is_none(option, says):
    with pytest.raises(errors.BadLaunch, match=rf"{says}.*\[line 6: .*entry k"):
        run("", **option)


def test_a_defect_of_the_executor_is_a_sentence_too(monkeypatch):
    def broken(instr, b):
        return lambda s: {}[instr.op]

    monkeypatch.setitem(TABLE, "mov", broken)
    says = r"the executor itself failed here \(KeyError: 'mov.u32'\) \[line 11: mov.u32"
    with pytest.raises(errors.Broken, match=says):
        run("mov.u32 %r1, 5;")


def test_a_missing_argument_is_named_with_its_line():
    source = text("", ["u32", "u64"])
    with pytest.raises(errors.BadLaunch, match=r"takes 2 arguments, got 1 \[line 7: .*u64 p1"):
        launch.run(source, [1], [1])
    with pytest.raises(errors.BadLaunch, match=r"takes 2 arguments, got 3 \[line 6: .*entry k"):
        launch.run(source, [1, None, 3], [1])


BOX = dict(data=np.zeros(64, np.float32), type_="f32", dims=(64,), strides=(), box=(32,))


@pytest.mark.parametrize(
    ("go", "says"),
    [
        (dict(args=5), "args is a list or a tuple, got int"),
        (dict(args=None), "args is a list or a tuple, got NoneType"),
        (dict(args={"p0": 1}), "args is a list or a tuple, got dict"),
        (dict(args=torch.zeros(1)), "args is a list or a tuple, got Tensor"),
        (dict(tensors=5), "tensors is a list or a tuple, got int"),
        (dict(tensors=[5]), "tensors holds tensors only, got int"),
        (dict(tracer=5), "tracer is a Tracer or None, got int"),
        (dict(check="no"), "check is True or False, got 'no'"),
        (dict(count=3), "count is True or False, got 3"),
        (dict(cluster=2), "cluster is one to three whole numbers, got 2"),
        (dict(kernel="x"), "no kernel 'x'; the module has k"),
        (
            dict(args=[np.zeros(3, ">i4")]),
            "argument 0 is a NumPy array of >i4, and native numbers go here",
        ),
        (dict(args=[np.array(["a"])]), "argument 0 is a NumPy array of <U1, and native numbers"),
        (dict(args=[np.zeros(4)[::2]]), "argument 0 is a NumPy array that is not contiguous"),
        (
            dict(args=[np.frombuffer(b"abcd", "u1")]),
            "argument 0 is a NumPy array that can't be writ",
        ),
        (dict(tensors=[np.zeros(4)[::2]]), "tensor 0 is a NumPy array that is not contiguous"),
        (
            dict(args=[torch.zeros(4, dtype=torch.complex64).conj()]),
            "argument 0 is no plain tensor",
        ),
        (
            dict(args=[FakeTensorMode().from_tensor(torch.zeros(4))]),
            "no plain tensor, but a FakeTensor",
        ),
    ],
)
def test_what_is_no_launch_is_one_sentence(go, says):
    how = dict(args=[torch.zeros(4)], grid=[1]) | go
    source = text("", ["u64"]).replace("k(.param", "k(\n.param")
    with pytest.raises(errors.PtxError, match=re.escape(says)) as caught:
        launch.run(source, how.pop("args"), how.pop("grid"), **how)
    said = str(caught.value)
    assert "\n" not in said
    where = r"7: .*u64 p0" if "argument 0 " in said else r"6: .*entry k"
    assert re.search(rf"\[line {where}", said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(dims=4), "dims are whole numbers, got 4"),
        (dict(dims=(4.5,)), "dims are whole numbers, got (4.5,)"),
        (dict(box="a"), "box are whole numbers, got 'a'"),
        (dict(type_="e4m3"), "type is one of u8, u16"),
        (dict(strides=(16,)), "a tensor map of dims (64,), strides (16,)"),
        (dict(swizzle=4), "a tensor map's swizzle is 0 to 3, got 4"),
        (dict(swizzle="128B"), "a tensor map's swizzle is 0 to 3, got '128B'"),
        (dict(fill=2), "a tensor map's fill is 0 to 1, got 2"),
    ],
)
def test_a_tensor_map_that_nobody_can_encode(change, says):
    with pytest.raises(errors.BadLaunch, match=re.escape(says)):
        tma.encode(**BOX | change)


def test_static_and_dynamic_shared_memory_count_together():
    source = text(".shared .align 16 .b8 big[200000];")
    launch.run(source, [], [1], shared=32448)
    with pytest.raises(errors.BadLaunch, match="232449 bytes of shared memory; a CTA has 232448"):
        launch.run(source, [], [1], shared=32449)


LOCAL = ".local .align 4 .b8 q[{}]; st.local.b32 [q], 5; ld.local.b32 %r2, [q];"


def test_local_memory_has_an_end():
    run(LOCAL.format(512 << 10))
    with pytest.raises(errors.BadLaunch, match=r"524304 bytes of local memory; .*line 6"):
        run(LOCAL.format((512 << 10) + 4))


def test_local_memory_counts_for_how_many_ctas_run_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(launch.Memory, "__init__", _noting(seen, launch.Memory.__init__))
    monkeypatch.setattr(launch, "_MACHINE_BYTES", 40 << 20)
    run(LOCAL.format(4096), threads=1024, grid=(12,))
    assert sum(seen) == 12 * 32  # warps
    assert max(seen) * 32 * 4096 <= launch._MACHINE_BYTES // 2


def _noting(seen, init):
    def noted(self, machine, *rest):
        seen.append(machine.warps)
        init(self, machine, *rest)

    return noted


def test_parameters_have_an_end():
    source = text("", ["u32"])
    launch.run(source.replace(".u32 p0", ".b8 p0[32764]"), [bytes(32764)], [1])
    with pytest.raises(errors.BadLaunch, match=r"32765 bytes of parameters; .*line 6"):
        launch.run(source.replace(".u32 p0", ".b8 p0[32765]"), [bytes(32765)], [1])
