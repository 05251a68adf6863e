"""What the executor makes of PTX texts: variables' initial values, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import errors, launch
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
        (".global .f32 c[1000000000] ;", "too much"),
    ],
)
def test_an_initial_value_that_is_none(declare, says):
    with pytest.raises(errors.Malformed, match=rf"{says}.*\[line 5: \.\w+ \.\w+ c"):
        run("", declare=declare)


# ---- modules


def test_a_module_without_a_kernel():
    with pytest.raises(errors.Malformed, match="^the module has no kernel$"):
        launch.run(".version 8.7\n.target sm_90a\n.address_size 64\n", [], [1], [32])


def test_a_module_with_two_kernels():
    two = text("") + ".visible .entry other() { ret; }"
    with pytest.raises(errors.Malformed, match="name one of the module's kernels: k, other"):
        launch.run(two, [], [1])
    assert launch.run(two, [], [1], [32], kernel="other").executed.tolist() == [1]


@pytest.mark.parametrize("target", ["sm_100a", "sm_100", "sm_89a", "sm_90f", "sm_120", "compute_90"])
def test_a_target_that_hopper_does_not_run(target):
    source = text("").replace("sm_90a", f"{target}, debug")
    with pytest.raises(errors.Unknown, match=rf"{target} does not run .*line 3: \.target {target}"):
        parse(source)


@pytest.mark.parametrize("target", ["sm_50", "sm_80", "sm_90", "sm_90a"])
def test_a_target_that_hopper_runs(target):
    assert parse(text("").replace("sm_90a", target)).target == target
