"""Peers: what a library can't express is refused, and all the rest reaches it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

import aimills_kernels as ak
from aimills_kernels._op import Case, Op, as_tuple
from aimills_kernels._registry import OPS, get_op
from aimills_kernels.harness import bench, peers, timing
from aimills_kernels.harness.env import ROOT
from tests import fake_peers

ADAPTERS = {a.name: a for a in peers._adapters(ROOT / "bench" / "peers" / "__init__.py")}
ATTENTION = ("flash_attn", "fa3", "flashinfer", "xformers")
TAKEN = {  # of the cases without a GPU, at the least
    "flash_attn": 25, "fa3": 12, "flashinfer": 9, "xformers": 5,
}  # fmt: skip


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_peers.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def small(op: Op) -> list[Any]:
    return [c for c in op.cases if "interpret" in c.tags and "sparse" not in c.get("layout", "")]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ATTENTION)
def test_an_argument_is_passed_on_or_refused(name: str) -> None:
    taken = 0
    for op in (get_op("attention"), get_op("attention_varlen")):
        for case in small(op):
            args = op.make_inputs(case, "cpu", 0)
            try:
                found = as_tuple(ADAPTERS[name].ops[op.name](*args))
            except (NotImplementedError, ValueError):
                continue
            want = op.reference(*args)
            assert len(found) == 2 or not case.get("lse"), case
            for got, right in zip(found, want, strict=False):
                torch.testing.assert_close(got, right, equal_nan=True, msg=f"{op} {case}")
            taken += 1
    assert taken >= TAKEN[name]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "case", "says"),
    [
        ("flash_attn", "sinks", "flash_attn takes no sinks"),
        ("flash_attn", "used", "flash_attn takes no seqused_k"),
        ("fa3", "alibi", "fa3 takes no alibi_slopes"),
        ("fa3", "sinks-f16", "fa3 takes no sinks"),
        ("fa3", "used", "takes no seqused_k"),
        ("fa3", "tiny-f16", "takes no float16"),
        ("flashinfer", "window-right", "flashinfer takes no right window"),
        ("flashinfer", "plain", "flashinfer takes one sequence"),
        ("flashinfer", "alibi-full", "flashinfer takes no alibi_slopes"),
        ("xformers", "softcap", "xformers takes no softcap"),
        ("xformers", "window", "xformers takes no window"),
        ("xformers", "tiny", "xformers takes no return_lse"),
    ],
)
def test_what_is_refused_is_named(name: str, case: str, says: str) -> None:
    op = get_op("attention")
    with pytest.raises(NotImplementedError, match=says):
        ADAPTERS[name].ops["attention"](*op.make_inputs(op.case(case), "cpu", 0))


def test_a_build_without_windows_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_peers.modules(local=False).items():
        monkeypatch.setitem(sys.modules, name, module)
    op = get_op("attention")
    args = op.make_inputs(op.case("window"), "cpu", 0)
    with pytest.raises(NotImplementedError, match="this build of fa3 takes no window"):
        ADAPTERS["fa3"].ops["attention"](*args)


@pytest.mark.usefixtures("installed")
def test_lengths_and_plans_are_had_once_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    op = get_op("attention_varlen")
    args = op.make_inputs(op.case("packed"), "cpu", 0)
    monkeypatch.setattr(fake_peers._Ragged, "plans", 0)
    for _ in range(3):
        ADAPTERS["flashinfer"].ops[op.name](*args)
    assert fake_peers._Ragged.plans == 1
    ADAPTERS["flash_attn"].ops[op.name](*args)
    monkeypatch.setattr(torch.Tensor, "diff", None)
    ADAPTERS["xformers"].ops[op.name](*args)


def test_an_absent_library_is_named_and_not_imported() -> None:
    before = set(sys.modules)
    found = {p.name: p.absent for op in OPS for p in peers.peers_of(op)}
    assert {"F.scaled_mm", "torch float", *ATTENTION} <= set(found)
    assert found["F.scaled_mm"] is None
    for name, package in (("flash_attn", "flash-attn"), ("fa3", "fa3-fwd")):
        if found[name] is not None:
            assert found[name] == f"{package} is not installed"
    libraries = {module for adapter in ADAPTERS.values() for module in adapter.needs}
    assert not libraries & (set(sys.modules) - before)


def test_bitsandbytes_says_what_it_multiplies() -> None:
    with pytest.raises(NotImplementedError, match="int8 and 4-bit codes, not fp8"):
        ADAPTERS["bitsandbytes"].ops["matmul_fp8"]()


@pytest.mark.parametrize("name", ["F.scaled_mm", "torchao"])
def test_scaled_matmuls(name: str) -> None:
    if reason := ADAPTERS[name].absent():
        pytest.skip(reason)
    op = get_op("matmul_fp8")
    multiply = ADAPTERS[name].ops[op.name]
    for case in ("aligned", "aligned-rows"):
        args = op.make_inputs(op.case(case), "cpu", 0)
        got, want = multiply(*args), op.reference(*args)
        judged = op.tolerance[0].judge(got, op.oracle(args)[0], want, args)
        assert judged.ok, judged.text
    mixed = op.make_inputs(op.case("mixed-a"), "cpu", 0)
    with pytest.raises(NotImplementedError, match="each row of both or of neither"):
        multiply(*mixed)


@pytest.mark.parametrize("own", [False, True], ids=["stand-in", "torchao"])
@pytest.mark.parametrize(
    ("op_name", "dims"),
    [
        ("matmul_fp8", dict(scale_a="row", scale_b="row", bias="bf16")),
        ("matmul_int8", dict(scale_a="row", scale_b="row", bias="f32", act="swiglu")),
        ("matmul_int8", dict(residual="bf16")),
        ("matmul_w8", dict(scale_b="row", bias="f32", act="gelu", residual="f32")),
        ("matmul_w8", dict(dtype="f16")),
    ],
)
def test_torchao(
    op_name: str, dims: dict[str, Any], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own matmul where it is installed, and always what is asked of it."""
    adapter, op = ADAPTERS["torchao"], get_op(op_name)
    if own and (reason := adapter.absent()):
        pytest.skip(f"not run: {reason}")
    for name, module in fake_peers.torchao().items() if not own else ():
        monkeypatch.setitem(sys.modules, name, module)
    case = Case("small", M=20, N=32, K=64, **dims)
    named = dict(zip(op.params, op.make_inputs(case, "cpu", 0), strict=True))
    if op_name == "matmul_int8":  # a CPU's _int_mm may saturate sums of pairs of larger codes
        named |= {n: named[n] // 2 for n in ("a", "b")}
    args = op.flat(named)
    got, want = adapter.ops[op_name](*args), op.reference(*args)
    assert got.dtype == want.dtype
    off = (got.float() - want.float()).abs().mean()
    assert off <= 0.01 * want.float().abs().mean()


def test_what_torchao_does_not_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_peers.torchao().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, case, says in (
        ("matmul_int8", "zero", "zero points"), ("matmul_w4", "tiny", "the peer int4pack"),
        ("matmul_fp8", "block-tiny", "for each row of both"),
        ("matmul_fp8", "invariant", "picks kernels by M"),
    ):  # fmt: skip
        op = get_op(name)
        found = next(c for c in op.cases if c.name == case or (case == "zero" and c.get("zero")))
        with pytest.raises(NotImplementedError, match=says):
            ADAPTERS["torchao"].ops[name](*op.make_inputs(found, "cpu", 0))


@pytest.mark.parametrize("peer", ["torchao", "16-bit matmul"])
@pytest.mark.parametrize("name", ["matmul_int8", "matmul_w8"])
def test_no_peer_of_int8_passes_for_batch_invariant(
    name: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, fake in fake_peers.torchao().items():
        monkeypatch.setitem(sys.modules, module, fake)
    op = get_op(name)
    args = op.make_inputs(op.case("invariant"), "cpu", 0)
    args = tuple(None if key == "zero_a" else arg for key, arg in zip(op.params, args, strict=True))
    multiply = ADAPTERS[peer].ops[name]
    with pytest.raises(NotImplementedError, match="picks kernels by M"):
        multiply(*args)
    assert multiply(*args[:-1], False).shape == op.fake(*args).shape


@pytest.mark.parametrize("name", ["int4pack", "16-bit matmul"])
@pytest.mark.parametrize("asym", [False, True])
def test_weights_of_4_bits(name: str, asym: bool) -> None:
    """Both round, weights or zeros."""
    op = get_op("matmul_w4")
    case = Case("small", M=5, N=64, K=256, group=64, bias="f32", act="relu", asym=asym)
    args = op.make_inputs(case, "cpu", 0)
    multiply = ADAPTERS[name].ops[op.name]
    got, want = multiply(*args).float(), op.reference(*args).float()
    assert (got - want).abs().mean() <= 0.01 * want.abs().mean()
    with pytest.raises(NotImplementedError, match="promises no bits"):
        multiply(*args[:-1], True)


@pytest.mark.parametrize(
    ("op_name", "dims"),
    [
        ("matmul_w8", dict(M=5, N=32, K=64, scale_b="row", bias="f32")),
        ("matmul_int8", dict(M=5, N=32, K=64, scale_a="row", scale_b="row", zero="codes")),
        ("grouped_matmul_fp8", dict(counts=(3, 0, 6), N=32, K=64, scale_a="row", scale_b="row")),
        ("grouped_matmul_fp8", dict(counts=(3, 0, 6), M=7, masked=True, N=32, K=64)),
        ("grouped_matmul_fp8", dict(counts=(3, 0, 6), N=64, K=64, act="swiglu")),
        ("grouped_matmul_w4", dict(counts=(3, 0, 6), N=32, K=128, asym=True, act="swiglu")),
        ("grouped_matmul_w4", dict(counts=(3, 0, 6), M=7, masked=True, N=32, K=64, group=32)),
    ],
)
def test_matmuls_by_wider_operands_or_in_groups(op_name: str, dims: dict[str, Any]) -> None:
    """What is not exact rounds operands to 16 bits."""
    op = get_op(op_name)
    args = op.make_inputs(Case("small", **dims), "cpu", 0)
    want, tried = op.reference(*args).float(), 0
    for adapter in ADAPTERS.values():
        if op_name not in adapter.ops or adapter.name in ("F.scaled_grouped_mm", "torchao"):
            continue
        got = adapter.ops[op_name](*args).float()
        assert (got - want).abs().mean() <= 0.01 * want.abs().mean(), adapter.name
        tried += 1
    assert tried == (2 if op_name == "grouped_matmul_fp8" else 1)


def test_what_pytorch_does_not_take_in_groups_is_said() -> None:
    op = get_op("grouped_matmul_fp8")
    for name, case, says in (
        ("F.scaled_grouped_mm", "tiny", "runs on a GPU"),
        ("F.scaled_mm, group by group", "invariant", "promises no bits"),
        ("bf16 grouped", "tiny", "without a bias"),
        ("bf16 grouped", "residual", "a residual"),
        ("bf16 grouped", "block-a-only", "scales by row or tensor"),
    ):
        args = op.make_inputs(op.case(case), "cpu", 0)
        with pytest.raises(NotImplementedError, match=says):
            ADAPTERS[name].ops[op.name](*args)


VIDEO = [
    "opencv+torch", "torch float", "pillow", "swscale", "torchvision", "kornia_rs",
    pytest.param("transformers", marks=pytest.mark.full),
]  # fmt: skip


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("window", [(), (3, 10, 22, 22)])
def test_video_peers_give_the_picture(window: tuple[int, ...], name: str) -> None:
    """Another matrix moves levels by a few per cent and not the picture."""
    if reason := ADAPTERS[name].absent():
        pytest.skip(reason)
    op = get_op("video_to_tensor")
    args = op.make_inputs(Case("small", F=2, H=90, W=160, h=28, w=42, window=window), "cpu", 0)
    got, want = ADAPTERS[name].ops[op.name](*args), op.reference(*args)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    both = torch.stack([got.float().flatten(), want.float().flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.9


@pytest.mark.parametrize("anew", [True, False])
def test_what_is_made_ahead_follows_the_inputs(anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each set before the time, and for the fresh data after it."""
    op = get_op("matmul_w4")

    def ahead(*args: Any) -> tuple[torch.Tensor]:
        return (op.reference(*args),)

    def call(made: tuple[torch.Tensor], *args: Any) -> torch.Tensor:
        """Gives what was made."""
        return made[0].clone()

    stage = bench.Stage(op, op.case("tiny"), torch.device("cpu"), 0, 1)
    peer = bench.OfPeer(stage, peers.Peer("ready", peers.Prepared(ahead, call)))
    assert peer.about == "Gives what was made."
    assert peer.try_out()[1] == []
    if not anew:
        monkeypatch.setattr(peer, "make_ahead", lambda index: None)
    peer.rotate(1)
    peer()
    _, wrong = peer.check(timing.CpuTimer())
    assert (wrong == []) == anew


@pytest.mark.parametrize(
    ("kind", "shape", "strides"), [("1x128", (256, 4), (1, 256)), ("128x128", (4, 2), (1, 4))]
)
def test_pytorch_gets_the_scales_of_b_as_it_reads_them(
    kind: Any, shape: tuple, strides: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 1x128 by the rows of b, those of 128x128 by its columns first."""
    seen: list[torch.Tensor] = []

    def multiply(a: Any, b: Any, scale_a: Any, kind_a: Any, scale_b: torch.Tensor, *_: Any,
                 output_dtype: torch.dtype, **others: Any) -> torch.Tensor:  # fmt: skip
        seen.append(scale_b)
        return torch.zeros(4, 256, dtype=output_dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_mm", multiply)
    (a, scale_a), (b, scale_b) = (
        ak.quantize_fp8(torch.ones(n, 512), k) for n, k in ((4, "1x128"), (256, kind))
    )
    on_gpu = SimpleNamespace(device=torch.device("cuda"), shape=a.shape)
    dtype = torch.bfloat16
    ADAPTERS["F.scaled_mm"].ops["matmul_fp8"](
        on_gpu, b, scale_a, scale_b, None, dtype, "promoted", False, None, "none"
    )
    assert [(tuple(t.shape), t.stride()) for t in seen] == [(shape, strides)]


def test_each_group_has_its_scales_of_blocks_as_pytorch_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slice of all rows' scales has its blocks too far apart."""
    op = get_op("grouped_matmul_fp8")
    peer = ADAPTERS["F.scaled_mm, group by group"].ops[op.name]
    assert isinstance(peer, peers.Prepared)
    seen = []

    def multiply(a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, *_: Any) -> torch.Tensor:
        seen.append((len(a), scale_a.stride()))
        return torch.zeros(len(a), len(b))

    monkeypatch.setitem(peer.call.__globals__, "scaled_mm", multiply)
    dims: dict[str, Any] = dict(
        counts=(3, 0, 6, 1), N=32, K=300, scale_a="1x128", scale_b="128x128"
    )
    peer(*op.make_inputs(Case("groups", **dims), "cpu", 0))
    assert len(seen) == 3
    assert all(strides == (1, rows) for rows, strides in seen)


def test_lengths_that_the_host_reads_follow_the_inputs() -> None:
    """Other lengths of groups, whose slices no tensor holds; a graph would replay the old ones."""
    op = get_op("grouped_matmul_fp8")
    dims: dict[str, Any] = dict(counts=(3, 0, 6, 1), N=32, K=64, scale_a="row", scale_b="row")
    stage = bench.Stage(op, Case("groups", **dims), torch.device("cpu"), 0, 1)
    name = "F.scaled_mm, group by group"
    peer = bench.OfPeer(stage, peers.Peer(name, ADAPTERS[name].ops[op.name]))
    assert peer.try_out()[1] == []
    peer.rotate(0)
    peer()
    assert peer.check(timing.CpuTimer())[1] == []
    drawn = (op.make_inputs(stage.case, "cpu", seed) for seed in range(1, 99))
    ends = op.params.index("offsets")
    peer.sets[0] = next(d for d in drawn if not torch.equal(d[ends], peer.sets[0][ends]))
    peer._replays.append(peer)
    with pytest.raises(NotImplementedError, match="it reads lengths on the host"):
        peer.make_ahead(0)


@pytest.mark.parametrize("name", ["sdpa backward", "sdpa with forward"])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_deterministic_row_has_deterministic_peers(name: str, wanted: bool) -> None:
    """By the setting that PyTorch's kernels read while they are launched, put back afterwards."""
    op = get_op("attention_backward")
    dims = dict(B=1, M=9, N=9, H=2, G=1, D=16, dtype="f32", deterministic=wanted)
    args = op.make_inputs(Case("small", **dims), "cpu", 0)
    seen: list[bool] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "attention" in func.__name__ and "backward" in func.__name__:
                seen.append(torch.are_deterministic_algorithms_enabled())
            return func(*args, **(kwargs or {}))

    with Watch():
        found = ADAPTERS[name].ops["attention_backward"](*args)
    assert seen == [wanted]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    for got, right in zip(found, op.reference(*args), strict=False):
        torch.testing.assert_close(got, right)


def test_cudnn_is_held_to() -> None:
    """Its one call, held to a kernel that a CPU has; itself it needs a GPU."""
    op, cudnn = get_op("attention"), ADAPTERS["cuDNN"].ops["attention"]
    held_to = sys.modules[cudnn.__module__].held_to
    taken = 0
    for case in small(op):
        dims = {**case.dims, "lse": False}
        args = op.make_inputs(Case("plain", **dims), "cpu", 0)
        with pytest.raises(NotImplementedError, match="cuDNN needs a GPU"):
            cudnn(*args)
        try:
            found = held_to(SDPBackend.MATH, *args)
        except NotImplementedError:
            continue
        if args[1].shape[1] and dims.get("scale", 1.0) > 0:
            torch.testing.assert_close(found, op.reference(*args)[0], msg=str(case))
            taken += 1
    assert taken >= 10
    with pytest.raises(NotImplementedError, match="takes no causal mask aligned bottom-right"):
        held_to(SDPBackend.MATH, *op.make_inputs(op.case("one-key-more"), "cpu", 0))
