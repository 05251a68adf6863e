"""Frames of other libraries as planes, and results as their arrays, without a copy.

Taken is what has `__dlpack__` (CuPy, PyNvVideoCodec, JAX, NumPy) or `__cuda_array_interface__`
(Numba, OpenCV's GpuMat by a wrapper), and torchcodec's `Frame` and `FrameBatch`.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.formats import FORMATS, Format

_INSTALL = {"cupy": "aimills-kernels[cupy]", "numpy": "numpy"}


def as_tensor(source: Any) -> Tensor:
    """A tensor over the memory of `source`. On a GPU, torch's current stream waits for what was
    queued to fill it, where the source says on which stream that was."""
    if isinstance(source, Tensor):
        return source
    if hasattr(source, "__dlpack__"):
        return _read(source, lambda s: torch.from_dlpack(_Looked(s)))
    if hasattr(source, "__cuda_array_interface__"):
        if not torch.cuda.is_available():
            raise ValueError(f"{_kind(source)} is in GPU memory, and torch has no GPU here")
        _check_strides(source, source.__cuda_array_interface__.get("strides") or ())
        if number := source.__cuda_array_interface__.get("stream"):
            torch.cuda.current_stream().wait_stream(torch.cuda.ExternalStream(number))
        return _read(source, lambda s: torch.as_tensor(s, device="cuda"))
    raise ValueError(
        f"{_kind(source)} has neither __dlpack__ nor __cuda_array_interface__; tensors, CuPy and "
        "NumPy arrays have"
    )


def as_planes(source: Any, *, format: str | None = None) -> tuple[tuple[Tensor, ...], str]:
    """The planes that `video_to_tensor` takes, and their format.

    Args:
        source: the planes, in a tuple or a list, of frames or of one frame; or one array:
            NV12 or P010 as decoders keep it, [F, 3 H / 2, W] or [3 H / 2, W] with the chroma under
            the luma (`format` "nv12" or "p010"); RGB [F, H, W, 3] or [H, W, 3] ("rgb24"), or
            [F, 3, H, W] or [3, H, W] ("rgbp"); or a frame, or batch of frames, of torchcodec.
        format: of `video_to_tensor`; by default "rgbp" for torchcodec, else "nv12".
    """
    if type(source).__module__.partition(".")[0] == "torchcodec":
        source, format = source.data, format or "rgbp"
    format = format or "nv12"
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"format must be {' or '.join(FORMATS)}, got {shown(format)}")
    form = FORMATS[format]
    if isinstance(source, (tuple, list)):
        return tuple(_of_frames([as_tensor(plane) for plane in source], form)), format
    whole = as_tensor(source)
    if whole.dim() == (2 if not form.rgb else 3):
        whole = whole.unsqueeze(0)
    if form.rgb:
        return (whole,), format
    if form.halved != (1, 1) or len(form.planes) != 2:
        raise ValueError(f"{format} in one array is not supported; give its planes in a tuple")
    if whole.dim() != 3 or whole.shape[1] % 3 or whole.shape[2] % 2:
        raise ValueError(
            f"{format} in one array must be [frames, 3 height / 2, width], with both even, got "
            f"{list(whole.shape)}"
        )
    height = whole.shape[1] // 3 * 2
    chroma = whole[:, height:].unflatten(2, (-1, 2))
    return (whole[:, :height], chroma), format


def _of_frames(planes: list[Tensor], form: Format) -> list[Tensor]:
    """With an axis of frames where there is none, and without one for a single channel. What does
    not fit the format stays, and is refused later."""
    if len(planes) != len(form.planes):
        return planes
    wanted = [form.dims(i).count(",") + 1 for i in range(len(planes))]
    thin = set(wanted) == {3} and all(p.dim() == 3 and p.shape[2] == 1 for p in planes)
    if thin and _is_one_frame(planes, form):
        return [p.squeeze(2).unsqueeze(0) for p in planes]
    alone = planes[-1].dim() == wanted[-1] - 1
    found = []
    for plane, count in zip(planes, wanted, strict=True):
        if count == 3 and plane.dim() == count + 1 - alone and plane.shape[-1] == 1:
            plane = plane.squeeze(-1)
        found.append(plane.unsqueeze(0) if alone and plane.dim() == count - 1 else plane)
    return found


def _is_one_frame(planes: list[Tensor], form: Format) -> bool:
    """Of planes [a, b, 1]: whether they are [H, W] and a channel, and not frames of one column."""
    a, b, _ = planes[0].shape
    shapes = [list(p.shape) for p in planes]
    frames = shapes == [form.shape(i, a, b, 1) for i in range(len(planes))]
    one = shapes == [[*form.shape(i, 1, a, b)[1:], 1] for i in range(len(planes))]
    if frames and one and (a, b) != (1, 1):
        raise ValueError(
            f"planes {shapes[0]} may be one frame of {a} x {b} with an axis for its channel, or "
            f"{a} frames of {b} x 1; give [height, width] for the one, [frames, height, width, 1] "
            "for the other"
        )
    return one


def as_array(values: Tensor, library: str) -> Any:
    """A result as an array of "cupy" or "numpy", over the same memory."""
    if library not in _INSTALL:
        raise ValueError(f"library must be {' or '.join(_INSTALL)}, got {shown(library)}")
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{library} is not installed (pip install {_INSTALL[library]})")
    wanted = "cuda" if library == "cupy" else "cpu"
    if values.device.type != wanted:
        raise ValueError(f"{library} arrays are on {wanted}, and the values on {values.device}")
    if values.dtype == torch.bfloat16:
        raise ValueError(f"{library} has no bfloat16; use dtype=torch.float16 or float32")
    return _read(values, importlib.import_module(library).from_dlpack)


def planes_of(source: Any) -> Any:
    """A clip whose planes may be of another library; what is none stays, and is refused later."""
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return [p if isinstance(p, Tensor) or not _array(p) else as_tensor(p) for p in source]
    return source


def _array(value: Any) -> bool:
    return hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")


class _DLTensor(ctypes.Structure):
    """Of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint32), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


# Where a DLTensor is in what a capsule of this name points to.
_CAPSULES = {b"dltensor": 0, b"dltensor_versioned": 32}


class _Looked:
    """A source as it is, but its strides are looked at: torch ends the process where one is
    negative."""

    def __init__(self, source: Any):
        self._source = source

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self._source.__dlpack__(**options)
        name = _capsule_name(capsule)
        if name in _CAPSULES:
            found = _DLTensor.from_address(_capsule_pointer(capsule, name) + _CAPSULES[name])
            if found.strides:
                _check_strides(self._source, found.strides[: found.ndim])
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._source.__dlpack_device__()


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.argtypes, _capsule_name.restype = [ctypes.py_object], ctypes.c_char_p
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p


class _Backwards(ValueError):
    pass


def _check_strides(source: Any, strides: Sequence[int]) -> None:
    if any(stride < 0 for stride in strides):
        raise _Backwards(
            f"{_kind(source)} has negative strides, which a tensor can't have; give a copy in order"
        )


def _read(source: Any, how: Any) -> Any:
    try:
        return how(source)
    except _Backwards:
        raise
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{_kind(source)} can't be read without a copy: {said}") from error


def _kind(source: Any) -> str:
    kind = type(source)
    return f"{kind.__module__}.{kind.__qualname__}"
