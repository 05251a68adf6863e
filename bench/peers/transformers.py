"""Transformers' image processors behind OpenCV's colours: those that resize by Pillow and need no
torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aimills_kernels.harness.peers import Adapter
from aimills_kernels.kernels.video.problem import Arguments
from aimills_kernels.video.layout import middle

from ._video import opencv_rgb, plain_nv12


def processor(*args: Any) -> Tensor:
    """OpenCV's NV12 to RGB (BT.601, limited range, nearest chroma), a processor of Transformers."""
    a = plain_nv12(args, "pil", "pil13")
    if not a.antialias:
        raise NotImplementedError("Pillow's resize always has an antialias filter")
    made = (_tokens if a.layout == "patches" else _pictures)(a)
    frames = list(opencv_rgb(a).numpy())
    found = made(frames, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    return found.to(a.dtype)


def _pictures(a: Arguments) -> Any:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    if a.layout != "NCHW":
        raise NotImplementedError("Transformers has processors for NCHW and for Qwen's patches")
    height, width = a.kept[2:]
    if middle(a.height, a.width, height, width)[0] != a.kept:
        raise NotImplementedError("Transformers' processor keeps the middle")
    return SiglipImageProcessorPil(
        size={"height": a.height, "width": a.width}, resample=_filter(a), image_mean=a.mean,
        image_std=a.std, do_center_crop=bool(a.window),
        crop_size={"height": height, "width": width},
    )  # fmt: skip


def _tokens(a: Arguments) -> Any:
    """The processor takes pictures: each is a clip of its own, which is filled up in time."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
        smart_resize,
    )

    temporal, side, merge = a.patch
    frames, height, width = a.form.size(a.planes)
    unit = side * merge
    most = (a.height + unit // 2) * (a.width + unit // 2)  # it rounds sides down to units
    if frames != 1 or a.window or smart_resize(height, width, unit, 1, most) != a.resized:
        raise NotImplementedError("Transformers' processor would give other patches")
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1, "longest_edge": most}, resample=_filter(a),
        image_mean=a.mean, image_std=a.std, patch_size=side, temporal_patch_size=temporal,
        merge_size=merge,
    )  # fmt: skip


def _filter(a: Arguments) -> Any:
    from PIL import Image

    return Image.Resampling[a.interpolation.upper()]


ADAPTER = Adapter(
    "transformers",
    {"video_to_tensor": processor},
    needs={
        "transformers": "transformers", "PIL": "pillow", "cv2": "opencv-python-headless",
    },
)  # fmt: skip
