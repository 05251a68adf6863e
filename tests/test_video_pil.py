"""Pillow's modes in the CUDA kernel: tables of weights, where they live, and who serves."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aimills_kernels._op import Case, Problem
from aimills_kernels.kernels.video import cuda, nvrtc, pil
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.op_ragged import video_to_tensor_ragged as ragged_op
from aimills_kernels.kernels.video.problem import LOADERS, Arguments, loader_of
from tests.test_video_resize import FILTERS, geometries

CPU = torch.device("cpu")
AXES = [(1, 1), (9, 9), (200, 3), (3, 200), (1080, 224), (77, 131), (5000, 2)]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """None kept yet; `stream` and `capturing` are what the device would say."""
    state = SimpleNamespace(stream=1, capturing=False, kept={}, captured={})
    monkeypatch.setattr(pil, "_KEPT", state.kept)
    monkeypatch.setattr(pil, "_CAPTURED", state.captured)
    monkeypatch.setattr(pil, "_stream", lambda device: (state.stream, state.capturing))
    return state


@pytest.mark.parametrize("interpolation", FILTERS)
def test_both_makers_of_tables_agree(interpolation: str) -> None:
    extension = pytest.importorskip("aimills_kernels._C")
    axes = AXES + [(H, h) for H, _, h, _ in geometries(40, 3)]
    for size, out in axes:
        found = extension.video_pil_lines(size, out, FILTERS.index(interpolation))
        assert found == pil.lines_in_python(size, out, interpolation), (size, out)


def test_a_table_is_what_the_kernel_reads() -> None:
    """The length of a line, and for each output where its window begins and ends, and weights."""
    half, line = 1 << 21, 4
    found = pil.table(4, 2, "area", CPU).tolist()
    assert found == [line, 0, 2, half, half, 2, 4, half, half]
    found = pil.table(3, 3, "bilinear", CPU).tolist()  # each output's window has one sample or two
    lines = [found[i : i + found[0]] for i in range(1, len(found), found[0])]
    for i, (begin, end, *weights) in enumerate(lines):
        assert {begin + k: w for k, w in enumerate(weights[: end - begin]) if w} == {i: 1 << 22}


def test_tables_are_kept(tables: SimpleNamespace) -> None:
    first = pil.table(90, 20, "bicubic", CPU)
    assert pil.table(90, 20, "bicubic", CPU) is first
    assert pil.table(90, 21, "bicubic", CPU) is not first
    assert pil.table(90, 20, "lanczos", CPU) is not first


def test_those_not_used_for_longest_are_forgotten(
    tables: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (pil.table(90, out, "area", CPU) for out in (20, 21))
    monkeypatch.setattr(pil, "MOST_BYTES", first.nbytes + second.nbytes)
    assert pil.table(90, 20, "area", CPU) is first
    third = pil.table(90, 19, "area", CPU)
    assert [kept.table for kept in tables.kept.values()] == [first, third]
    large = pil.table(9000, 500, "lanczos", CPU)
    assert [kept.table for kept in tables.kept.values()] == [large]


def test_a_capture_needs_the_table_before(tables: SimpleNamespace) -> None:
    tables.capturing = True
    says = r"weights of 90 samples to 20 are not on cpu yet, .* make the call once before"
    with pytest.raises(RuntimeError, match=says):
        pil.table(90, 20, "area", CPU)
    assert not tables.kept


def test_a_table_is_of_no_pool_of_the_callers(tables: SimpleNamespace) -> None:
    """torch routes a thread's allocations to a graph's pool, which is stood in for by a mode, as
    these are a thread's likewise."""
    pooled: list[Any] = []

    class Pool(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            pooled.append(func)
            return func(*args, **(kwargs or {}))

    with Pool(), torch.inference_mode():
        torch.empty(1).to("meta")
        assert pooled
        pooled.clear()
        made = pil.table(90, 20, "area", torch.device("meta"))
    assert not pooled
    assert (made.device.type, made.is_inference()) == ("meta", False)


def test_what_a_graph_reads_is_never_freed(
    tables: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = pil.table(90, 20, "area", CPU).data_ptr()
    tables.capturing = True
    pil.table(90, 20, "area", CPU)
    tables.capturing = False
    monkeypatch.setattr(pil, "MOST_BYTES", 0)
    pil.table(90, 21, "area", CPU)
    assert len(tables.kept) == 1
    assert tables.captured[address].data_ptr() == address


def test_another_stream_is_waited_for_before_a_table_is_freed(
    tables: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pil.table(90, 20, "area", CPU)
    (kept,) = tables.kept.values()
    used: list[int] = []
    kept.table = SimpleNamespace(record_stream=used.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: tables.stream)
    for tables.stream in (1, 2):
        pil.table(90, 20, "area", CPU)
    assert used == [2]


# ---- who launches what


@pytest.mark.parametrize(
    ("format", "more", "loader"),
    [
        ("nv12", {}, "Pil420"), ("i420", {}, "Pil420"), ("p010", {}, "PilAny"),
        ("yuv422p", {}, "PilAny"), ("rgb24", {}, "PilAny"),
        ("nv12", {"jitter": [1.0] * 12}, "PilAny"),
    ],
)  # fmt: skip
def test_loaders(format: str, more: dict[str, Any], loader: str) -> None:
    case = Case("l", F=1, H=8, W=8, h=4, w=4, format=format, mode="pil", **more)
    assert loader_of(Arguments(*op.make_inputs(case, "cpu", 0))) == loader
    assert loader in LOADERS


@pytest.mark.parametrize("name", ["cuda", "nvrtc"])
@pytest.mark.parametrize("mode", ["pil", "pil13"])
def test_the_mode_is_refused_no_more(name: str, mode: str) -> None:
    args = op.make_inputs(op.case("tiny"), "cpu", 0)
    problems = (
        Problem(op, Arguments(*args)._replace(resize_mode=m), "cuda", 90) for m in ("torch", mode)
    )
    torch_mode, this = (op.provider(name).rejects(p) for p in problems)
    assert this == torch_mode


def addresses(params: bytes) -> tuple[int, int]:
    """The last fields of the struct."""
    down, across = struct.unpack("<2Q", params[-16:])
    return down, across


def words(size: int, out: int) -> Tensor:
    return pil.table(size, out, "bicubic", CPU)


@pytest.mark.parametrize(("mode", "reads"), [("pil", True), ("pil13", True), ("torch", False)])
def test_launches_point_to_the_tables(
    mode: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    monkeypatch.setattr(cuda, "_entry", lambda: (bytes, lambda params, stream: seen.append(params)))
    monkeypatch.setattr(nvrtc, "_launch", lambda d, loader, k, params, blocks: seen.append(params))
    case = Case("t", F=1, H=12, W=20, h=5, w=7, crop=(1, 2, 9, 17), mode=mode)
    args = op.make_inputs(case, "cpu", 0)
    for launch in (cuda.launch, nvrtc.launch):
        launch((op.fake(*args),), *args)
    want = (words(9, 5).data_ptr(), words(17, 7).data_ptr()) if reads else (0, 0)
    assert [addresses(params) for params in seen] == [want] * 2


def test_each_clip_has_its_own_tables() -> None:
    case = Case("t", clips=((1, 12, 20, 5, 7), (2, 9, 13, 5, 7)), mode="pil")
    args = ragged_op.make_inputs(case, "cpu", 0)
    held: list[Tensor] = []
    ((loader, batch, _),) = nvrtc.batches((ragged_op.fake(*args),), args, held)
    assert loader == "Pil420"
    structs, size = batch[nvrtc._BATCH.size :], 496
    assert addresses(structs[:size]) == (words(12, 5).data_ptr(), words(20, 7).data_ptr())
    assert addresses(structs[size : 2 * size]) == (words(9, 5).data_ptr(), words(13, 7).data_ptr())
    assert [t.data_ptr() for t in held] == [
        words(a, b).data_ptr() for a, b in ((12, 5), (20, 7), (9, 5), (13, 7))
    ]
