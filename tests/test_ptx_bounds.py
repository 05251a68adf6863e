"""Who runs past the end of one tensor does not get into another."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from tests.ptx import errors, launch, snippet, tma
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

COPY = """ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; ld.param.u64 %rd3, [p2];
add.s64 %rd1, %rd1, %rd3; ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd2], %r1;"""


def copy(first, second, at: int, seed: int | None = 0) -> None:
    """second[0] = the word `at` bytes into `first`."""
    run(COPY, [("u64", first), ("u64", second), ("s64", at)], seed=seed)


@pytest.mark.parametrize("at", [256, 1 << 20, 2 << 20, 8 << 20, (1 << 35) - 4, -4, -(1 << 35)])
def test_a_neighbour_is_out_of_reach(at, seed):
    one, other = np.zeros(64, np.uint32), np.zeros(1 << 22, np.uint32)
    with pytest.raises(errors.OutOfBounds):
        copy(one, other, at, seed)
    with pytest.raises(errors.OutOfBounds):
        run(COPY.replace("[p0]", "[q]").replace("[p1]", "[p0]").replace("[q]", "[p1]"),
            [("u64", one), ("u64", other), ("s64", at if at < 0 else at + (1 << 24))])  # fmt: skip


@pytest.mark.parametrize("first", [64, 80, 128])
def test_views_of_one_storage_are_no_neighbours(first):
    """Also where the second begins where the first ends."""
    whole = torch.arange(4096, dtype=torch.int32)
    one, other = whole[:64], whole[first : first + 64]
    for at in (256, 4 * first, -4):
        with pytest.raises(errors.OutOfBounds, match="argument 0, which has 256"):
            copy(one, other, at)
    copy(one, other, 252)
    assert whole[first] == 63  # they still share the bytes


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.as_tensor, torch.as_tensor), (np.asarray, np.asarray),
     (torch.as_tensor, np.asarray), (np.asarray, torch.as_tensor)],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_views_that_overlap_share_what_is_written(first, second, order):
    whole = np.zeros(8, np.int32)
    body = """ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; mov.u32 %r1, 7;
    st.global.u32 [%rd1+8], %r1; ld.global.u32 %r2, [%rd2]; st.global.u32 [%rd2+4], %r2;"""
    names = ["p0", "p1"][::order]
    body = body.replace("p0", "a").replace("p1", "b").replace("a]", names[0] + "]")
    body = body.replace("b]", names[1] + "]")
    run(body, [("u64", x) for x in [first(whole), second(whole[2:6])][::order]])
    assert whole.tolist() == [0, 0, 7, 7, 0, 0, 0, 0]


def test_tensors_over_one_address_may_be_of_several_lengths():
    whole = np.zeros(8, np.int32)
    one, other = torch.from_numpy(whole[:4]), torch.from_numpy(whole)
    body = """ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; st.global.u32 [%rd1], 7;
    ld.global.u32 %r1, [%rd2]; st.global.u32 [%rd2+28], %r1;"""
    run(body, [("u64", one), ("u64", other)])
    assert whole.tolist() == [7, 0, 0, 0, 0, 0, 0, 7]


def test_a_view_with_gaps_and_as_many_elements_as_its_extent():
    spread = torch.arange(10, dtype=torch.int32)[::5][:, None].expand(2, 3)
    out = np.zeros(1, np.uint32)
    copy(spread, out, 20)
    assert out.tolist() == [5]
    with pytest.raises(errors.OutOfBounds, match="not contiguous"):
        copy(spread, out, 4)


def test_the_gaps_of_each_view_count():
    """One that another view covers, too."""
    whole = torch.zeros(16, 16, dtype=torch.int32)
    with pytest.raises(errors.OutOfBounds, match="not contiguous"):
        copy(whole[:, :8], whole[:8, 8:], 32)


def test_pointers_in_a_struct_point_into_their_view():
    whole = torch.arange(64, dtype=torch.int32)
    one, other = whole[:16], whole[16:32]
    body = """ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p0+8]; ld.global.u32 %r1, [%rd1+60];
    st.global.u32 [%rd2], %r1; ld.global.u32 %r1, [%rd1+64]; st.global.u32 [%rd2+4], %r1;"""
    args = struct.pack("<QQ", one.data_ptr(), other.data_ptr())
    source = snippet.text(body, ["b8"]).replace(".b8 p0", ".align 8 .b8 p0[16]")
    with pytest.raises(errors.OutOfBounds, match="64 bytes into tensor 0"):
        launch.run(source, [args], [1], tensors=[one, other])


def test_a_tensor_map_ends_with_its_view():
    """A map over rows that the view does not have."""
    whole = torch.zeros(32, 32, dtype=torch.int32)
    body = """mov.u32 %r1, sm; mov.u32 %r2, %tid.x; setp.ne.u32 %p1, %r2, 0; mov.b64 %rd1, p0;
    cvta.param.u64 %rd1, %rd1; @%p1 bra E; mbarrier.init.shared.b64 [%r1+4096], 1;
    fence.proxy.async;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1],
    [%rd1, {%r2, %r2}], [%r1+4096]; E:"""
    declare = ".extern .shared .align 1024 .b8 sm[];"
    source = snippet.text(body, ["b8", "u64"], declare=declare)
    source = source.replace(".b8 p0", ".align 64 .b8 p0[128]")
    box = tma.encode(whole[:16], "s32", (32, 32), (128,), (32, 32))
    with pytest.raises(errors.OutOfBounds, match="a tensor's box of 4096 bytes"):
        launch.run(source, [box, whole], [1], shared=8192)


CONST = ".const .align 4 .b32 c[2] = {3, 7};"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("mov.b64 %rd1, p0; cvta.param.u64 %rd1, %rd1; st.u32 [%rd1], 1;",
         "a store to a parameter of the kernel, which is read only"),
        ("st.param.u64 [p0], 1;", "a store to a parameter of the kernel, which is read only"),
        ("mov.b64 %rd1, c; cvta.const.u64 %rd1, %rd1; st.u32 [%rd1], 1;",
         "a store to c, which is read only"),
        ("mov.b64 %rd1, c; cvta.const.u64 %rd1, %rd1; atom.add.u32 %r1, [%rd1], 1;",
         "a store to c, which is read only"),
    ],
)  # fmt: skip
def test_constants_and_parameters_are_read_only(body, says):
    with pytest.raises(errors.OutOfBounds, match=says):
        run(body, [("u64", np.zeros(1, np.uint64))], declare=CONST)


def test_no_store_names_const():
    with pytest.raises(errors.Unknown, match=r"does not know \.const"):
        run("st.const.u32 [c], 1;", declare=CONST)
