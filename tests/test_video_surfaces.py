"""Arrays of other libraries as planes, and results as arrays. What needs a GPU is stood in for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import aimills_kernels as ak
from aimills_kernels.video import VideoPreprocessor, as_array, as_planes
from aimills_kernels.video.surfaces import as_tensor


class OnlyDlpack:
    """What PyNvVideoCodec's frames are: nothing but DLPack."""

    def __init__(self, values: np.ndarray, versioned: bool = True):
        self.values, self.versioned = values, versioned

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**(options if self.versioned else {}))

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class OnlyCuda:
    def __init__(self) -> None:
        self.__cuda_array_interface__ = {"shape": (2,), "typestr": "|u1", "data": (0, False)}


def surface(frames: int = 2, height: int = 8, width: int = 12) -> np.ndarray:
    made = np.random.default_rng(0)
    return made.integers(0, 256, (frames, height * 3 // 2, width), dtype=np.uint8)


def test_memory_is_shared() -> None:
    array = surface()
    for source in (array, OnlyDlpack(array), torch.from_numpy(array)):
        assert as_tensor(source).data_ptr() == array.ctypes.data


def test_nv12_in_one_array() -> None:
    array = surface()
    (y, uv), format = as_planes(OnlyDlpack(array))
    assert format == "nv12"
    assert np.array_equal(y.numpy(), array[:, :8])
    assert np.array_equal(uv.numpy().reshape(2, 4, 12), array[:, 8:])
    assert uv.data_ptr() == array.ctypes.data + 8 * 12
    one, _ = as_planes(array[0])
    assert [list(p.shape) for p in one] == [[1, 8, 12], [1, 4, 6, 2]]


def test_planes_of_one_frame() -> None:
    """Without an axis for frames; of PyNvVideoCodec's `cuda()` luma has one for its channel."""
    y, uv = (p.numpy() for p in as_planes(surface(1))[0])
    for luma in (y[0], y[0][..., None]):
        planes, format = as_planes((OnlyDlpack(luma), uv[0]))
        assert format == "nv12"
        assert [list(p.shape) for p in planes] == [[1, 8, 12], [1, 4, 6, 2]]
        assert np.array_equal(planes[0].numpy(), y)
        assert np.array_equal(planes[1].numpy(), uv)
    u, v = uv[..., 0], uv[..., 1]
    for i420 in ((y[0], u[0], v[0]), (y, u, v), (y[..., None], u[..., None], v[..., None])):
        planes, _ = as_planes(i420, format="i420")
        assert [list(p.shape) for p in planes] == [[1, 8, 12], [1, 4, 6], [1, 4, 6]]
    (rgb,), _ = as_planes([np.zeros((4, 6, 3), np.uint8)], format="rgb24")
    assert list(rgb.shape) == [1, 4, 6, 3]


def test_planes_of_one_frame_with_an_axis_for_the_channel() -> None:
    """Of the halved formats the chroma's size tells them from frames of one column."""
    y = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12, 1)
    planes, _ = as_planes((y, y[::2, ::2], y[1::2, ::2]), format="i420")
    assert [list(p.shape) for p in planes] == [[1, 8, 12], [1, 4, 6], [1, 4, 6]]
    assert np.array_equal(planes[2][0].numpy(), y[1::2, ::2, 0])
    planes, _ = as_planes((y, y[:, ::2], y[:, ::2]), format="yuv422p")
    assert [list(p.shape) for p in planes] == [[1, 8, 12], [1, 8, 6], [1, 8, 6]]
    columns, _ = as_planes((y, y[:, ::2], y[:, ::2]), format="i420")
    assert [list(p.shape) for p in columns] == [[8, 12, 1], [8, 6, 1], [8, 6, 1]]


@pytest.mark.parametrize("format", ["yuv444p", "gbrp"])
def test_planes_that_may_be_one_frame_or_many(format: str) -> None:
    plane = np.zeros((8, 12, 1), dtype=np.uint8)
    says = r"planes \[8, 12, 1\] may be one frame of 8 x 12 .* or 8 frames of 12 x 1; give"
    with pytest.raises(ValueError, match=says):
        as_planes((plane,) * 3, format=format)
    one, _ = as_planes((plane[..., 0],) * 3, format=format)
    many, _ = as_planes((plane[..., None],) * 3, format=format)
    assert [list(p.shape) for p in (*one, *many)] == [[1, 8, 12]] * 3 + [[8, 12, 1]] * 3


def test_p010_in_one_array() -> None:
    array = surface().astype(np.uint16) << 6
    planes, format = as_planes(array, format="p010")
    assert ak.video_to_tensor(planes, format=format).shape == (2, 3, 8, 12)


@pytest.mark.parametrize(("format", "shape"), [("rgb24", (2, 4, 6, 3)), ("rgbp", (2, 3, 4, 6))])
def test_rgb(format: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype=np.uint8)
    for source in (array, array[0]):
        planes, found = as_planes(source, format=format)
        assert found == format
        assert planes[0].shape[1:] == shape[1:]
        ak.video_to_tensor(planes, format=found)


def test_frames_of_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frame:
        data = torch.zeros(3, 4, 6, dtype=torch.uint8)

    Frame.__module__ = "torchcodec._frame"
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    planes, format = as_planes(Frame())
    assert (format, planes[0].shape) == ("rgbp", (1, 3, 4, 6))


def test_preprocessor_takes_arrays() -> None:
    (y, uv), _ = as_planes(surface(2, 32, 48))
    made = VideoPreprocessor.from_preset("clip")
    expected = made((y, uv))["pixel_values"]
    got = made((OnlyDlpack(y.numpy()), uv.numpy()))["pixel_values"]
    assert torch.equal(got, expected)
    assert torch.equal(made([(y.numpy(), uv)])["pixel_values"], expected)


def test_result_as_an_array() -> None:
    values = torch.rand(3, 4)
    made = as_array(values, "numpy")
    assert made.ctypes.data == values.data_ptr()


def test_arrays_that_are_refused() -> None:
    bad: list[tuple[Any, str]] = [
        (lambda: as_tensor([1, 2]), "builtins.list has neither __dlpack__ nor"),
        (lambda: as_tensor(np.array(["x"])), r"numpy\.ndarray can't be read without a copy"),
        (lambda: as_planes(surface()[:, :11]), r"must be \[frames, 3 height / 2, width\]"),
        (lambda: as_planes(surface()[:, :, :11]), "both even"),
        (lambda: as_planes(surface(), format="i420"), "i420 in one array is not supported"),
        (lambda: as_planes(surface(), format="x"), "format must be nv12 or"),
        (lambda: as_planes(surface(), format=["nv12"]), "format must be nv12 or"),
        (lambda: as_array(torch.zeros(1), "jax"), "library must be cupy or numpy"),
        (lambda: as_array(torch.zeros(1).bfloat16(), "numpy"), "numpy has no bfloat16"),
    ]
    for call, says in bad:
        with pytest.raises(ValueError, match=says):
            call()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="OnlyCuda is in GPU memory, and torch has no GPU"):
            as_tensor(OnlyCuda())


UPSIDE_DOWN = """
import numpy as np
from aimills_kernels.video import as_planes
from tests.test_video_surfaces import OnlyDlpack, surface
array = surface()[:, ::-1]
for source in (array, OnlyDlpack(array), OnlyDlpack(array, versioned=False), array[0]):
    try:
        as_planes(source)
    except ValueError as error:
        print(str(error).partition(" ")[2])
"""


def test_rows_that_go_backwards() -> None:
    """Bottom-up pictures. torch itself ends the process here, so this is one of its own."""
    done = subprocess.run([sys.executable, "-c", UPSIDE_DOWN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = "has negative strides, which a tensor can't have; give a copy in order"
    assert done.stdout.splitlines() == [said] * 4


def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"cupy is not installed \(pip install aimills-kernels\[c"):
        as_array(torch.zeros(1), "cupy")


def test_cupy_array_of_a_cpu_tensor() -> None:
    pytest.importorskip("cupy")
    with pytest.raises(ValueError, match="cupy arrays are on cuda, and the values on cpu"):
        as_array(torch.zeros(1), "cupy")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cupy_both_ways() -> None:
    cupy = pytest.importorskip("cupy")
    array = cupy.asarray(surface())
    (y, uv), _ = as_planes(array)
    assert y.data_ptr() == array.data.ptr
    out = ak.video_to_tensor((y, uv), dtype=torch.float32)
    assert as_array(out, "cupy").data.ptr == out.data_ptr()
