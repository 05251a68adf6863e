"""The choice of a provider: what a user can ask for, and what the answer says."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import aimills_kernels as ak
from aimills_kernels import _dispatch, _records
from aimills_kernels._explain import explain_flat
from aimills_kernels._op import Op, Problem, as_tuple
from aimills_kernels._registry import OPS, get_op
from aimills_kernels.ops import _run

H200 = torch.device("cuda")


@pytest.fixture
def qkv(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, 16, 2, 16, generator=generator) for _ in range(3))


def test_explain_names_every_provider_and_why(qkv: tuple[torch.Tensor, ...]) -> None:
    found = ak.explain("attention", *qkv, causal=True, return_lse=True)
    names = [name for name, _, _ in found.rows]
    assert names == [p.name for p in get_op("attention").all_providers]
    assert found.provider == "reference"
    assert "log-sum-exp" in str(found)
    assert all(why for _, _, why in found.rows)


def test_explain_takes_the_function_and_meta_tensors() -> None:
    q = torch.empty(4, 4096, 32, 128, dtype=torch.bfloat16, device="meta")
    found = ak.explain(ak.attention, q, q, q)
    assert "bfloat16[4, 4096, 32, 128]" in str(found)
    assert found.provider == ("sdpa" if not torch.cuda.is_available() else found.provider)
    with _dispatch.assume_sm(90):
        assert "cuda sm_90" in str(ak.explain(ak.attention, q, q, q))


def test_explain_refuses_what_the_op_refuses(qkv: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="head dim of q"):
        ak.explain("attention", qkv[0], qkv[1][..., :8], qkv[2])
    for unknown in ("attenton", None, 3, len):
        with pytest.raises(ValueError, match="unknown op"):
            ak.explain(unknown, *qkv)  # type: ignore[arg-type]
    op = get_op("matmul_fp8")
    a, b, scale_a, scale_b, *_ = op.make_inputs(op.case("tiny"), "cpu", 0)
    with pytest.raises(ValueError, match="scale_b must be finite"):
        ak.explain("matmul_fp8", a, b, scale_a, scale_b * float("nan"))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in (a, b, scale_a, scale_b)]
        assert ak.explain("matmul_fp8", *fakes).provider is not None


def test_use_provider_decides_and_refuses(qkv: tuple[torch.Tensor, ...]) -> None:
    with ak.use_provider("attention", "reference"):
        assert ak.explain("attention", *qkv).provider == "reference"
        reference = ak.attention(*qkv)
    assert ak.explain("attention", *qkv).provider == "sdpa"
    torch.testing.assert_close(reference, ak.attention(*qkv))
    with ak.use_provider("attention", "sdpa"), pytest.raises(ValueError, match="log-sum-exp"):
        ak.attention(*qkv, return_lse=True)
    with pytest.raises(
        ValueError, match="no provider 'cutlass'; it has: triton, triton_invariant, sdpa, reference"
    ):
        ak.use_provider("attention", "cutlass").__enter__()


def test_use_provider_is_one_thread_s_own(qkv: tuple[torch.Tensor, ...]) -> None:
    seen: list[str | None] = []
    with ak.use_provider("attention", "reference"):
        thread = threading.Thread(
            target=lambda: seen.append(ak.explain(ak.attention, *qkv).provider)
        )
        thread.start()
        thread.join()
    assert seen == ["sdpa"]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("attention", "should be <op>=<provider>"),
        ("attention=cutlass", "no provider 'cutlass'"),
        ("atention=reference", "unknown op 'atention'"),
    ],
)
def test_environment_is_checked(
    value: str, match: str, qkv: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "_ENVIRONMENT", value)
    monkeypatch.setattr(_dispatch, "_plans", {})
    with pytest.raises(ValueError, match=match):
        ak.attention(*qkv)


def test_environment_decides(
    qkv: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "_ENVIRONMENT", "attention=reference")
    monkeypatch.setattr(_dispatch, "_plans", {})
    assert ak.explain("attention", *qkv).provider == "reference"
    with ak.use_provider("attention", "sdpa"):
        assert ak.explain("attention", *qkv).provider == "sdpa"


def test_own_gpu_kernel_serves_only_with_a_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """No record: the vendor serves. A record: ours does. One of other sources: not any more."""
    monkeypatch.setenv("AIMILLS_CACHE", str(tmp_path))
    op = get_op("attention")
    triton = op.provider("triton")
    args = op.make_inputs(op.case("plain"), "meta", 0)

    def chosen(sm: int) -> tuple[str | None, str]:
        _records._all.cache_clear()
        with _dispatch.assume_sm(sm):
            found = explain_flat(op, args, H200)
        return found.provider, {n: w for n, _, w in found.rows}["triton"]

    provider, why = chosen(90)
    assert provider == "sdpa"
    assert "aimills-kernels validate attention" in why
    _records.add([_records.key(op, triton, 90)])
    assert chosen(90)[0] == "triton"
    assert chosen(80)[0] == "sdpa"
    _records.add([{**_records.key(op, triton, 90), "sources": "0000"}])
    provider, why = chosen(90)
    assert provider == "sdpa"
    assert "stale" in why
    _records.add([_records.denial(op, triton, 90, "out: NaN")])
    provider, why = chosen(90)
    assert provider == "sdpa"
    assert "found wrong" in why
    _records._all.cache_clear()


def test_a_damaged_record_file_is_said_and_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("AIMILLS_CACHE", str(tmp_path))
    _records.cache_file().write_text('{"records": [')
    with pytest.warns(UserWarning, match="is no record file"):
        assert _records._read(_records.cache_file()) == []


def test_entries_that_lack_what_a_record_has_are_said_and_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("AIMILLS_CACHE", str(tmp_path))
    op = get_op("attention")
    whole = _records.key(op, op.provider("triton"), 90)
    damaged = ({"op": "attention"}, {**whole, "sm": "90"}, {**whole, "op": []}, 3)
    _records.cache_file().write_text(json.dumps({"records": [*damaged, whole]}))
    with pytest.warns(UserWarning, match="4 entries are no records and are not used"):
        assert _records._read(_records.cache_file()) == [whole]


def test_rejects_the_wrong_architecture() -> None:
    op = get_op("attention")
    args = op.make_inputs(op.case("tiny"), "meta", 0)
    why = _dispatch.why_not(op.provider("triton"), Problem(op, args, "cuda", 70))
    assert why is not None
    assert "sm_70" in why


@pytest.fixture
def through_torch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the ops that were called by torch's dispatcher, as they are called."""
    seen: list[str] = []
    torch_op = _run._torch_op

    def watched(name: str, args: Sequence[Any], out: Any, into: Any) -> Any:
        seen.append(name)
        return torch_op(name, args, out, into)

    monkeypatch.setattr(_run, "_torch_op", watched)
    monkeypatch.setattr(_dispatch, "_plans", {})
    return seen


@pytest.mark.parametrize("op", OPS, ids=str)
def test_a_plain_call_goes_through_torch_once(op: Op, through_torch: list[str], seed: int) -> None:
    for case in (c for c in op.cases if c.name.startswith("tiny")):
        args = op.make_inputs(case, "cpu", seed)
        through_torch.clear()
        first = as_tuple(_run.run(op.name, args))
        second = as_tuple(_run.run(op.name, args))
        assert through_torch == [op.name]
        for a, b in zip(first, second, strict=True):
            assert torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (a, b)))
            assert a is not b


def test_what_is_not_plain_goes_through_torch(
    qkv: tuple[torch.Tensor, ...], through_torch: list[str]
) -> None:
    q, k, v = qkv

    class Sub(torch.Tensor):
        pass

    def goes(q: torch.Tensor) -> bool:
        """Whether a call does that was made before."""
        others = (q, q) if isinstance(q, FakeTensor) else (k, v)
        ak.attention(q, *others)
        through_torch.clear()
        ak.attention(q, *others)
        return bool(through_torch)

    weight = torch.nn.Parameter(q)
    assert not goes(q)
    assert goes(torch._neg_view(q))
    assert goes(q.clone().as_subclass(Sub))
    with torch.no_grad():
        assert not goes(weight)
    assert goes(weight)
    with warnings.catch_warnings():
        fake = FakeTensorMode().from_tensor(q)
        warnings.simplefilter("error")  # as its data pointer is not asked for
        assert goes(fake)
    torch.testing.assert_close(ak.attention(torch._neg_view(q), k, v), ak.attention(-q, k, v))


def test_a_known_problem_does_not_let_wrong_calls_through(qkv: tuple[torch.Tensor, ...]) -> None:
    q, k, v = qkv
    for _ in range(2):
        ak.attention(q, k, v)
    for wrong, match in (
        (q.numpy(), "q must be a tensor, got ndarray"),
        (None, "q must be a tensor, got NoneType"),
        ([q], "q must be a tensor, got list"),
        ([1, 2], "q must be a tensor, got list"),
        (q.to_sparse(), r"q must be a dense, strided tensor, got a torch\.sparse_coo one"),
        (_nested(q, torch.strided), "q must be a dense, strided tensor, got a nested one"),
        (_nested(q, torch.jagged), "q must be a dense, strided tensor, got a nested one"),
        (_quantized(q), "q must be a dense, strided tensor, got a quantized one"),
        (q.to("meta"), "all tensors must be on one device"),
        (q.double(), "q must be f16, bf16 or f32"),
        (q[0], "q must be"),
    ):
        with pytest.raises(ValueError, match=f"attention: .*{match}"):
            ak.attention(wrong, k, v)  # type: ignore[call-overload]
    for out in ([q], q.to_sparse(), _nested(q, torch.strided), _quantized(q)):
        with pytest.raises(ValueError, match=r"attention: out must be a (dense, strided )?tensor"):
            ak.attention(q, k, v, out=out)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"attention: .*scale"):
        ak.attention(q, k, v, scale=[1.0])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"scale must fit a 64-bit float, got 10+\.\.\.$"):
        ak.attention(q, k, v, scale=10**400)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"size": (2**70, 1)},
            r"size must be .* from 1 to 16777216, got \(1180591620717411303424, 1",
        ),
        ({"size": (4, -(2**63))}, "size must be .* from 1 to 16777216, got"),
        ({"size": (0, 4)}, r"size must be .*, got \(0, 4\)"),
        ({"size": "x" * 999}, r"size must be .*, got 'x+\.\.\.$"),
        ({"mean": [10**400] * 3}, r"mean must be three numbers, got \[10+\.\.\.$"),
        ({"std": [10**5000] * 3}, "std must be three numbers, got a value of type list"),
        ({"color_space": "x" * 999}, r"color_space must be bt601, bt709 or bt2020, got 'x+\.\.\.$"),
    ],
)
def test_what_is_too_large_is_named_in_short(options: dict[str, Any], says: str) -> None:
    planes = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"video_to_tensor: {says}"):
        ak.video_to_tensor(planes, **options)


def test_nested_planes_are_refused() -> None:
    y, uv = torch.zeros(1, 4, 4), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="planes must be a dense, strided tensor, got a nested"):
        ak.video_to_tensor((_nested(y, torch.strided), uv))


def _nested(t: torch.Tensor, layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.nested_tensor(list(t), layout=layout)


def _quantized(t: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them deprecated
        return torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)


def test_plans_are_bounded(qkv: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_MAX_PLANS", 8)
    monkeypatch.setattr(_dispatch, "_plans", {})
    for i in range(50):
        ak.attention(*qkv, scale=0.1 + i)
    assert len(_dispatch._plans) <= 8


def test_import_is_light_and_quiet() -> None:
    """Neither torch, Triton nor the extension, and no socket: the whole first call included."""
    code = textwrap.dedent(
        """
        import socket, sys
        def deny(*a, **k): raise AssertionError("network use")
        socket.socket.connect = socket.getaddrinfo = socket.create_connection = deny
        import aimills_kernels
        loaded = {"torch", "triton", "numpy", "aimills_kernels._C"} & set(sys.modules)
        assert not loaded, loaded
        import torch
        q = torch.randn(1, 4, 2, 16)
        aimills_kernels.attention(q, q, q)
        loaded = {"triton", "aimills_kernels._C", "cupy", "av"} & set(sys.modules)
        assert not loaded, loaded
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.full  # a process of its own, which runs the reference
def test_a_missing_extension_is_said_once() -> None:
    """By a warning, as the reference takes 30 to 60 times as long; by `explain` and `env` too."""
    code = textwrap.dedent(
        """
        import sys, warnings
        sys.modules["aimills_kernels._C"] = None
        import torch
        import aimills_kernels as ak
        from aimills_kernels.harness import env
        planes = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for size in (2, 3):
                ak.video_to_tensor(planes, size=(size, size))
        (warning,) = [str(w.message) for w in said if "extension" in str(w.message)]
        assert "the extension can't be imported" in warning and "slower" in warning, warning
        assert "the extension can't be imported" in str(ak.explain("video_to_tensor", planes))
        assert any(line.startswith("extension: ") for line in env.stamp()["missing"])
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atention'"):
        _ = ak.atention  # type: ignore[attr-defined]
    assert set(ak.__all__) <= set(dir(ak))


def test_outputs_of_a_plan_have_the_strides_of_new_tensors() -> None:
    for shape in itertools.product((0, 1, 2, 3), repeat=4):
        for n in range(5):
            new = torch.empty(shape[:n])
            assert torch.empty_like(_dispatch._template(new)).stride() == new.stride()


@pytest.mark.parametrize(("granularity", "made"), [("tensor", 3), ("row", 2), ("1x128", 2)])
def test_a_workspace_of_no_bytes_is_not_made_anew(
    granularity: str, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, x = get_op("quantize_fp8"), torch.ones(6, 200)
    args = (x, granularity, torch.float8_e4m3fn)
    plan = _dispatch.Plan(op, op.provider("triton"), op.fake(*args), True, x.device, args)
    seen: list[tuple[torch.Tensor, ...]] = []
    plan.launch = lambda outs, *args: seen.append(outs)
    fresh: list[torch.Tensor] = []

    def empty_like(t: torch.Tensor) -> torch.Tensor:
        fresh.append(torch.empty_like(t))
        return fresh[-1]

    monkeypatch.setattr(_dispatch, "_empty_like", empty_like)
    plan.run(args)
    (*_, work) = seen[0]
    assert len(fresh) == made
    assert work.shape == (op.provider("triton").workspace(*args),)  # type: ignore[misc]
