"""What the executor makes of PTX texts: variables' initial values, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import errors, initial, launch
from tests.ptx.parse import parse
from tests.ptx.snippet import run, text

pytestmark = pytest.mark.ptx


# ---- initial values


def loaded(declare: str, place: str, count: int = 1) -> list[int]:
    """The first 32-bit words of a variable, as the kernel loads them."""
    out = np.zeros(count, np.uint32)
    space = "const" if ".const" in declare else "global"
    moves = "".join(
        f"ld.{space}.b32 %r1, [{place}+{4 * i}]; st.global.b32 [%rd1+{4 * i}], %r1;"
        for i in range(count)
    )
    run(f"ld.param.u64 %rd1, [p0]; {moves}", [("u64", out)], threads=1, declare=declare)
    return out.tolist()


def bits(value: float, dtype: type = np.float32) -> list[int]:
    return np.array([value], dtype).view(np.uint32).tolist()


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (".const .align 4 .f32 c = 0f40500000;", bits(3.25)),
        (".global .f32 c = 0fC0200000;", bits(-2.5)),
        (".global .f32 c = 1.5;", bits(1.5)),
        (".global .f32 c = -2.5e-1;", bits(-0.25)),
        (".global .f32 c = 0d3FF8000000000000;", bits(1.5)),
        (".global .f32 c = 3;", bits(3.0)),
        (".const .f64 c = 0d400A000000000000;", bits(3.25, np.float64)),
        (".global .f64 c = 1e300;", bits(1e300, np.float64)),
        (".global .b32 c = 0f40500000;", bits(3.25)),
        (".global .align 4 .f32 c[3] = {0f3F800000, 2.0};", [*bits(1.0), *bits(2.0), 0]),
        (".global .align 4 .b8 c[8] = {1, 0x02, 3U, 0b100, 255, -1};", [0x04030201, 0xFFFF]),
        (".global .u32 c[2][2] = {{1}, {2, 3}};", [1, 0, 2, 3]),
        (".global .v2 .u32 c = {7, 8};", [7, 8]),
        (".global .u32 c = 017;", [15]),
        (".global .s32 c = -5;", [2**32 - 5]),
        (".global .u64 c[2] = {\n1,\n  0x200000003};", [1, 0, 3, 2]),
    ],
)  # fmt: skip
def test_a_variable_begins_with_its_initial_value(declare, words):
    assert loaded(declare, "c", len(words)) == words


@pytest.mark.parametrize("space", ["global", "const"])
@pytest.mark.parametrize("how", ["x+4", "generic(x)+4", "generic(x) + 0x4"])
def test_a_variable_begins_with_the_address_of_another(space, how):
    declare = f".{space} .u32 x[2] = {{5, 6}}; .{space} .u64 p[2] = {{0, {how}}};"
    out = np.zeros(1, np.uint32)
    body = f"""ld.param.u64 %rd1, [p0]; ld.{space}.u64 %rd2, [p+8]; ld.u32 %r1, [%rd2];
    st.global.u32 [%rd1], %r1;"""
    run(body, [("u64", out)], threads=1, declare=declare)
    assert out.tolist() == [6]


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (".global .u32 c = 0f3F800000;", "does not fit a u32"),
        (".global .f32 c = 1e39;", "does not fit a f32"),
        (".global .u8 c = 300;", "300 does not fit a u8"),
        (".global .u32 c[1] = {1, 2};", "2 initial values for 1"),
        (".global .u32 c = {1};", "more braces"),
        (".global .u32 c[2] = 1;", "stands in braces"),
        (".global .u32 c = 1+2;", r"can't read the initial value '1\+2'"),
        (".global .u32 c[2] = {1, };", "a value of an initialiser is missing"),
        (".global .u32 c[2] = {1, 2;", "a } of an initialiser is missing"),
        (".global .u32 c = mask(3);", "can't read the initial value"),
        (".global .u32 c = x;", "can't read the initial value 'x'"),
        (".global .u64 c = generic(nowhere);", "address of nowhere, which is no variable"),
        (".shared .u32 c = 1;", r"c in \.shared has an initial value"),
        (".global .f32 c[1000000000] ;", "c has 4000000000 bytes, and all variables of a module"),
        (
            ".global .b8 b[200000000]; .global .b8 c[200000000];",
            "c has 200000000 bytes, and all variables of a module",
        ),
    ],
)
def test_an_initial_value_that_is_none(declare, says):
    with pytest.raises(errors.Malformed, match=rf"{says}.*\[line 5: \.\w+ \.\w+ [bc]"):
        run("", declare=declare)


def test_a_short_initial_value_of_a_large_variable():
    data, pointers = initial.read("{1}", "b8", 1, [100_000_000])
    assert (len(data), data[0], any(data[1:9]), pointers) == (100_000_000, 1, False, [])


# ---- modules


def test_a_module_without_a_kernel():
    with pytest.raises(errors.Malformed, match=r"has no kernel \[line 2: \.target sm_90a\]$"):
        launch.run(".version 8.7\n.target sm_90a\n.address_size 64\n", [], [1], [32])


def test_a_module_with_two_kernels():
    two = text("") + ".visible .entry other() { ret; }"
    with pytest.raises(errors.Malformed, match=r"module's kernels: k, other \[line .*entry k"):
        launch.run(two, [], [1])
    assert launch.run(two, [], [1], [32], kernel="other").executed.tolist() == [1]


@pytest.mark.parametrize(
    "target", ["sm_100a", "sm_100", "sm_89a", "sm_90f", "sm_120", "compute_90"]
)
def test_a_target_that_hopper_does_not_run(target):
    source = text("").replace("sm_90a", f"{target}, debug")
    with pytest.raises(errors.Unknown, match=rf"{target} does not run .*line 3: \.target {target}"):
        parse(source)


@pytest.mark.parametrize("target", ["sm_50", "sm_80", "sm_90", "sm_90a"])
def test_a_target_that_hopper_runs(target):
    assert parse(text("").replace("sm_90a", target)).target == target


@pytest.mark.parametrize("word", ["target sm_90a", "version 8.7", "address_size 64"])
def test_a_text_without_its_head(word):
    with pytest.raises(errors.Malformed, match=rf"the text has no \.{word.split()[0]}"):
        parse(text("").replace(f".{word}", ""))


def test_a_head_whose_value_is_cut_off():
    with pytest.raises(errors.Malformed, match=r"the text has no \.address_size"):
        parse(text("").replace("address_size 64", "address_size "))


def test_addresses_of_32_bits():
    with pytest.raises(errors.Unknown, match=r"addresses have 64 bits.*line 4: \.address_size 32"):
        parse(text("").replace("size 64", "size 32"))


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("sm_90", "wgmma.fence.sync.aligned;"),
        ("sm_90", "setmaxnreg.dec.sync.aligned.u32 40;"),
        ("sm_80", "mapa.u64 %rd1, %rd2, 0;"),
        ("sm_80", "cp.async.bulk.commit_group;"),
        ("sm_75", "cp.async.commit_group;"),
    ],
)
def test_an_instruction_that_the_target_has_not(target, body):
    with pytest.raises(errors.Malformed, match=rf"for {target}, and this needs sm_\d+.*line 11"):
        launch.run(text(body).replace("sm_90a", target), [], [1])


@pytest.mark.parametrize("source", [b"PTX", None, 5])
def test_what_is_no_text(source):
    with pytest.raises(errors.Malformed, match="PTX is a text"):
        launch.run(source, [], [1])


CALL = """.extern .func (.param .b32 func_retval0) vprintf (.param .b64 a, .param .b64 b);
.func (.param .b64 out) sine (.param .b64 x) { .reg .f64 %d<3>; ret; }"""
CALLS = """{ .param .b64 param0; st.param.f64 [param0+0], %d1; .param .b64 retval0;
prototype_0 : .callprototype (.param .b32 _) _ (.param .b64 _) ;
call.uni (retval0), sine, (param0); ld.param.f64 %d2, [retval0+0]; }"""


def test_a_call_stops_only_the_kernel_that_has_it():
    other = ".visible .entry other() { .reg .f64 %d<3>; " + CALLS + " ret; }"
    module = text("", declare=CALL) + other
    assert launch.run(module, [], [1], kernel="k").executed.tolist() == [1]
    with pytest.raises(errors.Unknown, match=r"calls are not supported \[line 1\d: call\.uni"):
        launch.run(module, [], [1], [32], kernel="other")


@pytest.mark.parametrize("before", [".loc 1 2 3", ".loc 1 2 3, function_name f, inlined_at 1 4 5"])
def test_an_instruction_behind_a_loc_is_not_lost(before):
    with pytest.raises(errors.Fault, match=r"a trap.*\[line 11: trap;"):
        run(f"{before} trap;", declare='.file 1 "a.cu", 5, 6')
    with pytest.raises(errors.Unknown, match=r"\[line 12: bogus.u32 %r1;"):
        run(f"{before}\nbogus.u32 %r1;")


def test_a_module_on_one_line():
    source = text("mov.u32 %r1, 1;").replace("\n", " ")
    assert launch.run(source, [], [1]).executed.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((".version 8.7", ".version x"), r"no entry, function or variable \[line 2: "),
        (("sm_90a", "sm_90a sm_80"), r"no entry, function or variable \[line 3: "),
        ((".address_size", '.file 1 "abc\n.address_size'), r"no entry, .*\[line 4: .file 1 .abc"),
        (("{", "{ .loc 1 2;"), r"\[line 8: \{ .loc 1 2;"),
        ((".reqntid 32", ".reqntid 32 .foo 3"), r"can't read \.foo 3 \[line 7: "),
        ((".reqntid 32", ".reqntid"), r"can't read \.reqntid \[line 7: "),
        ((".visible", ".global .b32 g;.global .b32 g;\n.visible"), r"g is declared twice \[line 6"),
        (("{", "{ .shared .b32 g; .shared .b64 g;"), r"g is declared twice \[line 8"),
        (("k(", "k(.param .u32 a,\n.param .u64 a"), r"the parameter a is declared twice \[line 7"),
        (("{", "{ .shared .align 3 .b8 q[4];"), r"aligned to 3, which is no power of two \[line 8"),
        (("ret;\n}", "ret;\n}\n.func f"), r"the function has no end \[line \d+: \.func f"),
        (("k(", "k(.param .u64 a,,\n.param .u64 b"), r"can't read the variable '' \[line 6: "),
        (("k(", "k(.param .u64 a,"), r"can't read the variable '' \[line 6: "),
        (("k(", "k(" + 60000 * " " + "."), r"can't read the variable '\.' \[line 6: "),
    ],
)
def test_a_text_that_is_cut_or_mistyped(change, says):
    with pytest.raises(errors.Malformed, match=says):
        parse(text("").replace(*change, 1))


def test_variables_that_may_have_one_name():
    """An `extern` one that comes again, a kernel's own, and those of calls."""
    several = ".extern .shared .b8 s[]; .extern .shared .b8 s[]; .global .b32 g;"
    body = ".shared .b32 g; { .param .b64 q; } { .param .b64 q; } st.shared.b32 [g], 1;"
    module = text(body, declare=several) + ".visible .entry other() { .shared .b32 g; ret; }"
    assert launch.run(module, [], [1], kernel="k").executed.tolist() == [1, 1]


# ---- instructions

SHORT = """ld.global.b32 %r1;|st.global.b32 [%rd1];|ld.param.u64;|bar.sync;
setmaxnreg.dec.sync.aligned.u32;|cvta.to.global.u64 %rd2;
mbarrier.init.shared.b64 [%r1];|mbarrier.arrive.shared.b64 _;|ld.global %r1,[%rd1];
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, %rd2;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1}, {%r2};
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1};
ldmatrix.sync.aligned.m8n8.shared.b16 {%r1}, [%r2];|cp.async.ca.shared.global [%r1];
cp.async.bulk.tensor;|atom.global.add.u32 %r1;|cvt %r1,%r2;
cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}];
shfl.sync.idx.b32;|mbarrier;|fence;|add;|red;|wgmma;|cp;|elect.sync;|atom;
bar.red.popc.u32 %r1;"""


@pytest.mark.parametrize("body", SHORT.replace("\n", "|").split("|"))
def test_an_instruction_with_too_few_operands(body):
    with pytest.raises((errors.Malformed, errors.Unknown), match=r"\[line 11: ") as caught:
        run(body)
    assert "\n" not in str(caught.value)


MORE = """prefetch.foo.bar 1,2,3;|nanosleep;|exit.foo;|ret.bogus;|X: bra.bogus X;
cvta.bogus %rd1, %rd2;|wgmma.fence.bogus.words 1,2;|createpolicy.bogus %rd9;
cp.async.commit_group 5;|isspacep.bogus %p1, %rd1;|cp.async.wait_group 0, 1;|trap 5;
griddepcontrol.wait.bogus;|membar.gl 1;|ld.global.u32 %r1, [%rd1], 5;
barrier.cluster.wait.aligned 1;|wgmma.commit_group.sync.aligned.x;
discard.global.L1 [%rd1], 128;|mov.u32 %r1, %r2, %r3;|setmaxnreg.sync.aligned.u32 40;
bar.sync 1, 2, 3;|st.global.b32 [%rd1], %r1, %r2;"""


@pytest.mark.parametrize("body", MORE.replace("\n", "|").split("|"))
def test_an_instruction_with_more_than_it_takes(body):
    with pytest.raises((errors.Malformed, errors.Unknown), match=r"\[line 11: "):
        run(body)


def test_a_kernel_without_a_body_ends():
    source = text("").replace("ret;", "").replace(".reg", "//.reg")
    assert launch.run(source, [], [1]).executed.tolist() == []


def test_a_kernel_without_a_last_ret_ends():
    source = text("mov.u32 %r1, 1;").replace("ret;", "")
    assert launch.run(source, [], [1]).executed.tolist() == [1]


def test_more_registers_than_anybody_has():
    with pytest.raises(
        errors.Malformed, match=r"%q<200000000>: more than 262144 reg.*line 11: \.reg"
    ):
        run(".reg .b32 %q<200000000>;")


def test_a_label_that_is_there_twice():
    with pytest.raises(errors.Malformed, match=r"the label L is there twice.*line 11"):
        run("L: bra L; L: mov.u32 %r1, 1;")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("ld.global.u64 %r9, [%rd1];", "%r9 is a b32, and a u64 goes here"),
        ("add.s32 %rd1, %r1, 2;", "%rd1 is a b64, and a s32 goes here"),
        ("add.s32 %r1, %f1, 2;", "%f1 is a f32, and a s32 goes here"),
        ("add.s32 %r1, %rd1, 2;", "%rd1 is a b64, and a s32 goes here"),
        ("mov.u32 %r1, %p1;", "%p1 is a pred, and a u32 goes here"),
        ("selp.b32 %r1, %r2, %r3, %r4;", "%r4 is a b32, and a pred goes here"),
        ("add.s32 %r1, %r2, 99999999999;", "the constant 99999999999 does not fit a s32"),
        ("add.s16 %rs1, %rs2, -32769;", "the constant -32769 does not fit a s16"),
        ("mov.b32 %zz, %r1;", "^%zz, which nobody declared, is no destination"),
        ("mov.b32 %r1, %zz;", "^%zz is not declared, and no special register that is known here"),
        ("mov.u32 %r1, 1.5;", r"the constant 1\.5 is no u32"),
        ("mov.u32 %r1, 0f3FC00000;", r"the constant 1\.5 is no u32"),
        ("mov.b32 1.5, %r1;", r"^the constant 1\.5 is no destination"),
        ("mov.b64 %rd1, generic(x);", r"expected ',', got '\('"),
        ("mov.b32 5, %r1;", "^the constant 5 is no destination"),
        ("mov.b32 [%rd1], %r1;", "^an address is no destination"),
    ],
)
def test_operands_are_of_the_instructions_type(body, says):
    with pytest.raises(errors.PtxError, match=rf"{says}.*\[line 11: "):
        run(body)


def test_registers_of_loads_stores_and_cvt_may_be_wider():
    out = np.zeros(1, np.uint32)
    body = """ld.param.u64 %rd1, [p0]; mov.b64 %rd2, 0x1FF; cvt.u32.u8 %r1, %rd2;
    st.global.u32 [%rd1], %r1; ld.global.u8 %rd3, [%rd1]; st.global.u32 [%rd1], %rd3;"""
    run(body, [("u64", out)], threads=1)
    assert out.tolist() == [255]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (".reg .b64 %r1;", "the register %r1 is declared twice"),
        ("{ .reg .b32 %q; .reg .b64 %q; }", "the register %q is declared twice"),
        ("mov.u32 %r1, \u0661;", "is no character of PTX, which is ASCII"),
    ],
)
def test_what_no_assembler_takes(body, says):
    with pytest.raises(errors.Malformed, match=rf"{says} \[line 11: "):
        run(body)


def test_a_scope_goes_on_after_one_inside():
    out = np.zeros(32, np.uint64)
    body = """ld.param.u64 %rd1, [p0];
    { .reg .b64 %o; { .reg .b32 %q; mov.u32 %q, 5; } .reg .b64 %q; mov.u64 %q, 0x100000002;
    st.global.u64 [%rd1], %q; }"""
    run(body, [("u64", out)])
    assert out[0] == 0x100000002


def test_a_kernel_that_is_there_twice():
    with pytest.raises(errors.Malformed, match=r"the kernel k is there twice \[line 6: "):
        run("", declare=".visible .entry k() { ret; }")


def test_a_comment_and_a_file_may_have_any_character():
    run(".loc 1 2 3 // \u00e9", declare='.file 1 "/home/\u00e9/k.cu"\n/* \u0661 */')
