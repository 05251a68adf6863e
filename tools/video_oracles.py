"""Four independent ways to what video_to_tensor computes: Pillow, torch, FFmpeg's swscale, OpenCV.

Pictures are [3, H, W] whole levels. A function gives None where its library has no such filter, or
no such colours.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimills_kernels.kernels.video.formats import FORMATS, KR_KB, scaling

# FFmpeg's names.
SWSCALE = {
    "nv12": "nv12", "nv21": "nv21", "p010": "p010le", "p012": "p012le", "p016": "p016le",
    "i420": "yuv420p", "yuv420p10": "yuv420p10le", "yuv420p12": "yuv420p12le",
    "yuv422p": "yuv422p", "yuv422p10": "yuv422p10le", "yuv422p12": "yuv422p12le",
    "yuv444p": "yuv444p", "yuv444p10": "yuv444p10le", "yuv444p12": "yuv444p12le",
}  # fmt: skip
# Columns and rows, in 256ths of a luma sample.
PLACES = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0)}
_ACCURATE = "accurate_rnd+full_chroma_int+bitexact"
_SWSCALE_FILTERS = {
    "nearest": "neighbor", "area": "area", "bilinear": "bilinear", "lanczos": "lanczos",
    "bicubic": "bicubic",
}  # fmt: skip
_BY_FILTER = {"bicubic": ":param0=0:param1=0.5", "lanczos": ":param0=3"}  # a = -0.5; three lobes


def whole_shrink(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Where each output of "area" covers whole samples: all libraries have the same mean then."""
    return all(n % m == 0 for n, m in zip(source, target, strict=True))


# ---- swscale


def swscale(planes: list[Tensor], format: str, options: str, out: str = "gbrp") -> Tensor:
    """The first frame in FFmpeg's pixel format `out`, through its filter `scale`; [3, h, w] of
    gbrp and gbrp16le, [1, h, w] of gray."""
    import av

    height, width = planes[0].shape[1:3]
    frame, graph = av.VideoFrame(width, height, format), av.filter.Graph()
    for plane, source in zip(frame.planes, planes, strict=True):
        rows = torch.zeros(plane.height, plane.line_size, dtype=torch.uint8)
        row_bytes = source[0].contiguous().view(torch.uint8).reshape(plane.height, -1)
        rows[:, : row_bytes.shape[1]] = row_bytes
        plane.update(rows.numpy().tobytes())
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=format, time_base=Fraction(1, 25)),
        graph.add("scale", options), graph.add("format", out), graph.add("buffersink"),
    ).configure()  # fmt: skip
    graph.push(frame)
    made: Any = graph.pull()
    order = (0,) if out == "gray" else (2, 0, 1)
    dtype = torch.uint16 if out.endswith("16le") else torch.uint8
    return torch.stack([
        torch.frombuffer(bytearray(p), dtype=dtype).view(p.height, -1)[:, : made.width]
        for p in (made.planes[i] for i in order)
    ])  # fmt: skip


def _swscale_options(
    format: str, space: str, range_: str, chroma: str, method: str, more: str = ""
) -> str:
    place = PLACES["center" if chroma == "nearest" else chroma]
    # Without subsampling swscale would take a place between samples for a shift.
    down, across = (
        p if half else 0 for p, half in zip(place[::-1], FORMATS[format].halved, strict=True)
    )
    return (
        f"flags={method}+{_ACCURATE}:sws_dither=none:in_color_matrix={space}"
        f":out_range=pc:in_range={'tv' if range_ == 'limited' else 'pc'}"
        f":in_h_chr_pos={across}:in_v_chr_pos={down}{more}"
    )


def swscale_rgb(planes: list[Tensor], format: str, space: str, range_: str, chroma: str) -> Tensor:
    """Colours alone; `chroma` is "nearest", or the place of chroma that is upsampled linearly."""
    method = "neighbor" if chroma == "nearest" else "bilinear+full_chroma_inp"
    options = _swscale_options(format, space, range_, chroma, method)
    return swscale(planes, SWSCALE[format], options)


def swscale_resize(levels: Tensor, size: tuple[int, int], filter_: str) -> Tensor | None:
    """Each channel as a grey picture: of RGB swscale would filter YUV of few bits."""
    if filter_ not in _SWSCALE_FILTERS or filter_ == "nearest":  # its nearest is another sample
        return None
    if filter_ == "area" and not whole_shrink((levels.shape[1], levels.shape[2]), size):
        return None
    options = (
        f"{size[1]}:{size[0]}:flags={_SWSCALE_FILTERS[filter_]}+{_ACCURATE}:sws_dither=none"
        f":in_range=pc:out_range=pc{_BY_FILTER.get(filter_, '')}"
    )
    return torch.cat([swscale([c.unsqueeze(0)], "gray", options, "gray") for c in levels])


def swscale_whole(
    planes: list[Tensor], format: str, space: str, range_: str, size: tuple[int, int],
    place: str = "left",
) -> Tensor:  # fmt: skip
    """Colours and bicubic resize in one, as swscale does it: it filters Y, U and V, and converts
    what comes out."""
    more = f"{_BY_FILTER['bicubic']}:w={size[1]}:h={size[0]}"
    options = _swscale_options(format, space, range_, place, "bicubic+full_chroma_inp", more)
    return swscale(planes, SWSCALE[format], options)


# ---- torch


def torch_rgb(planes: list[Tensor], format: str, space: str, range_: str, chroma: str) -> Tensor:
    """In float64: chroma by F.interpolate, and the inverse of the matrix from RGB to YCbCr."""
    form, s = FORMATS[format], scaling(FORMATS[format].bits, range_)
    y, u, v = (
        torch.div(view[:1].to(torch.float64), 2**form.shift, rounding_mode="floor")
        for view in form.views(planes)
    )
    height, width = y.shape[1:]
    u, v = (_torch_chroma(c, height, width, form.halved, chroma) for c in (u, v))
    kr, kb = KR_KB[space]
    kg = 1 - kr - kb
    from_rgb = torch.tensor([
        [kr, kg, kb],
        [-kr / (2 * (1 - kb)), -kg / (2 * (1 - kb)), 0.5],
        [0.5, -kg / (2 * (1 - kr)), -kb / (2 * (1 - kr))],
    ], dtype=torch.float64)  # fmt: skip
    levels = torch.stack([
        (y - s.black) * s.luma_scale, (u - s.zero) * s.chroma_scale, (v - s.zero) * s.chroma_scale
    ])  # fmt: skip
    rgb = torch.linalg.inv(from_rgb) @ levels.reshape(3, -1)
    return rgb.reshape(3, height, width).round().clamp(0, 255).to(torch.uint8)


def _torch_chroma(
    chroma: Tensor, height: int, width: int, halved: tuple[int, int], place: str
) -> Tensor:
    """[1, rows, cols] to [1, height, width]. Where a chroma sample lies on a luma sample, linear
    values are those of F.interpolate with aligned corners, else of its usual grid."""
    if place == "nearest":
        whole = (chroma.shape[1] * (1 + halved[0]), chroma.shape[2] * (1 + halved[1]))
        return F.interpolate(chroma[None], size=whole, mode="nearest")[0, :, :height, :width]
    found = chroma
    for dim, half, on_sample, size in (
        (1, halved[0], place == "topleft", height),
        (2, halved[1], place in ("left", "topleft"), width),
    ):
        if half:
            found = _twice(found.movedim(dim, 2), on_sample)[..., :size].movedim(2, dim)
    return found


def _twice(rows: Tensor, on_sample: bool) -> Tensor:
    """Along the last axis, with the last sample repeated."""
    n = rows.shape[-1]
    if on_sample:
        more = torch.cat([rows, rows[..., -1:]], -1)
        return F.interpolate(more, size=2 * n + 1, mode="linear", align_corners=True)
    return F.interpolate(rows, size=2 * n, mode="linear", align_corners=False)


def torch_resize(
    levels: Tensor, size: tuple[int, int], filter_: str, antialias: bool = True
) -> Tensor | None:
    """F.interpolate in float64, rounded half to even."""
    modes = {
        "nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic", "area": "area",
    }  # fmt: skip
    if filter_ not in modes:
        return None
    if filter_ == "area" and not whole_shrink((levels.shape[1], levels.shape[2]), size):
        return None
    wide = {"antialias": antialias} if filter_ in ("bilinear", "bicubic") else {}
    made = F.interpolate(levels[None].double(), size=size, mode=modes[filter_], **wide)
    return made[0].round().clamp(0, 255).to(torch.uint8)


# ---- Pillow


def pillow_resize(levels: Tensor, size: tuple[int, int], filter_: str) -> Tensor:
    """By the installed Pillow."""
    from PIL import Image

    name = "BOX" if filter_ == "area" else filter_.upper()
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    made = picture.resize((size[1], size[0]), Image.Resampling[name])
    flat = torch.frombuffer(bytearray(made.tobytes()), dtype=torch.uint8)
    return flat.view(*size, 3).permute(2, 0, 1)


def pillow_across_first(levels: Tensor, size: tuple[int, int], filter_: str) -> Tensor:
    """One axis after the other, as Pillow did up to version 12."""
    across = pillow_resize(levels, (levels.shape[1], size[1]), filter_)
    return pillow_resize(across, size, filter_)


def pillow_rgb(
    planes: list[Tensor], format: str, space: str, range_: str, chroma: str
) -> Tensor | None:
    """Pillow's YCbCr is JPEG's: BT.601, full range, a chroma sample for each pixel."""
    from PIL import Image

    if (format, space, range_) != ("yuv444p", "bt601", "full"):
        return None
    made = Image.merge("YCbCr", [Image.fromarray(p[0].numpy()) for p in planes]).convert("RGB")
    flat = torch.frombuffer(bytearray(made.tobytes()), dtype=torch.uint8)
    return flat.view(*planes[0].shape[1:], 3).permute(2, 0, 1)


# ---- OpenCV


def opencv_rgb(
    planes: list[Tensor], format: str, space: str, range_: str, chroma: str
) -> Tensor | None:
    """OpenCV converts 4:2:0 of 8 bits by BT.601, limited range, with nearest chroma."""
    import cv2

    codes = {"nv12": "COLOR_YUV2RGB_NV12", "nv21": "COLOR_YUV2RGB_NV21",
             "i420": "COLOR_YUV2RGB_I420"}  # fmt: skip
    if format not in codes or (space, range_, chroma) != ("bt601", "limited", "nearest"):
        return None
    rows, width = planes[0].shape[1:]
    whole = torch.cat([p[0].reshape(-1, width) for p in planes])
    assert whole.shape[0] == rows * 3 // 2
    made = cv2.cvtColor(whole.numpy(), getattr(cv2, codes[format]))
    return torch.from_numpy(made).permute(2, 0, 1)


def opencv_resize(
    levels: Tensor, size: tuple[int, int], filter_: str, antialias: bool = True
) -> Tensor | None:
    """Its INTER_AREA where it shrinks by whole numbers; its INTER_LINEAR and INTER_CUBIC never
    widen the filter."""
    import cv2

    if filter_ == "area":
        same = whole_shrink((levels.shape[1], levels.shape[2]), size)
    else:
        same = filter_ == "nearest" or (filter_ in ("bilinear", "bicubic") and not antialias)
    if not same:
        return None
    name = {"area": "INTER_AREA", "nearest": "INTER_NEAREST_EXACT", "bilinear": "INTER_LINEAR",
            "bicubic": "INTER_CUBIC"}[filter_]  # fmt: skip
    picture = levels.permute(1, 2, 0).contiguous().numpy()
    made = cv2.resize(picture, (size[1], size[0]), interpolation=getattr(cv2, name))
    return torch.from_numpy(made).permute(2, 0, 1)
