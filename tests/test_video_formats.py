"""The pixel formats of video_to_tensor: against FFmpeg's swscale, and against each other."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video.colour import rgb_levels
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import Arguments

# FFmpeg's names.
SWSCALE = {
    "nv12": "nv12", "nv21": "nv21", "p010": "p010le", "p012": "p012le", "p016": "p016le",
    "i420": "yuv420p", "yuv420p10": "yuv420p10le", "yuv422p": "yuv422p",
    "yuv422p10": "yuv422p10le", "yuv444p": "yuv444p", "yuv444p10": "yuv444p10le",
}  # fmt: skip
PLACES = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0)}


def swscale(planes: list[Tensor], format: str, options: str) -> Tensor:
    """[3, H, W] u8 of the first frame as FFmpeg makes it."""
    av = pytest.importorskip("av")
    height, width = planes[0].shape[1:3]
    frame, graph = av.VideoFrame(width, height, SWSCALE[format]), av.filter.Graph()
    for plane, source in zip(frame.planes, planes, strict=True):
        rows = torch.zeros(plane.height, plane.line_size, dtype=torch.uint8)
        row_bytes = source[0].contiguous().view(torch.uint8).reshape(plane.height, -1)
        rows[:, : row_bytes.shape[1]] = row_bytes
        plane.update(rows.numpy().tobytes())
    graph.link_nodes(
        graph.add_buffer(
            width=width, height=height, format=SWSCALE[format], time_base=Fraction(1, 25)
        ),
        graph.add("scale", options), graph.add("format", "gbrp"), graph.add("buffersink"),
    ).configure()  # fmt: skip
    graph.push(frame)
    rgb = graph.pull()
    return torch.stack([
        torch.frombuffer(bytearray(p), dtype=torch.uint8).view(p.height, p.line_size)[:, :width]
        for p in (rgb.planes[2], rgb.planes[0], rgb.planes[1])
    ])  # fmt: skip


def in_range(planes: list[Tensor], format: str, range_: str) -> list[Tensor]:
    """Codes that the range has."""
    form = FORMATS[format]
    if range_ == "full":
        return planes
    step, found = 2 ** (form.bits - 8), []
    for i, plane in enumerate(planes):
        codes = plane.to(torch.int32) >> form.shift
        span = (224 if i else 219) * step
        codes = 16 * step + codes * span // (2**form.bits - 1)
        found.append((codes << form.shift).to(form.dtype))
    return found


@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("range_", ["limited", "full"])
@pytest.mark.parametrize("chroma", ["nearest", *PLACES])
@pytest.mark.parametrize("format", SWSCALE)
def test_colour_agrees_with_swscale(format, chroma, range_, space):
    """Within one level of FFmpeg's accurate paths, on noise."""
    location = "left" if chroma == "nearest" else chroma
    case = Case("c", F=1, H=32, W=48, h=32, w=48, format=format)
    planes = in_range(list(op.make_inputs(case, "cpu", 0)[0]), format, range_)
    method = "neighbor" if chroma == "nearest" else "bilinear+full_chroma_inp"
    place = PLACES["center" if chroma == "nearest" else chroma]
    # Without subsampling swscale would take a place between samples for a shift.
    down, across = (
        p if half else 0 for p, half in zip(place[::-1], FORMATS[format].halved, strict=True)
    )
    want = swscale(
        planes, format,
        f"flags={method}+accurate_rnd+full_chroma_int:sws_dither=none:in_color_matrix={space}"
        f":out_range=pc:in_range={'tv' if range_ == 'limited' else 'pc'}"
        f":in_h_chr_pos={across}:in_v_chr_pos={down}",
    )  # fmt: skip
    upsampling = "nearest" if chroma == "nearest" else "linear"
    got = rgb_levels(planes, format, space, range_, location, upsampling, torch.float64)
    assert float((got[0] - want).abs().max()) <= 1


def test_orders_of_bytes_are_the_same_picture():
    """NV21 and I420 hold what NV12 holds, BGR and planar RGB what RGB holds."""
    y, uv = op.make_inputs(Case("n", F=2, H=9, W=13, h=1, w=1), "cpu", 0)[0]
    u, v = uv.unbind(-1)
    want = ak.video_to_tensor((y, uv), size=(5, 6))
    for format, planes in (("nv21", (y, uv.flip(-1))), ("i420", (y, u, v))):
        assert torch.equal(ak.video_to_tensor(planes, format=format, size=(5, 6)), want)
    rgb = torch.randint(0, 256, (2, 9, 13, 3), dtype=torch.uint8)
    want = ak.video_to_tensor((rgb,), format="rgb24", size=(5, 6))
    for format, plane in (("bgr24", rgb.flip(-1)), ("rgbp", rgb.permute(0, 3, 1, 2))):
        assert torch.equal(ak.video_to_tensor((plane,), format=format, size=(5, 6)), want)


@pytest.mark.parametrize("format", FORMATS)
def test_grey_is_grey(format):
    """Every format's middle grey, with nothing of the bits that it ignores."""
    form = FORMATS[format]
    top = 2 ** (form.bits - 8)
    level = 128 if form.rgb else 126  # (126 - 16) * 255 / 219 is 128.08
    planes = [
        torch.full(form.shape(i, 1, 6, 8), (128 if i else level) * top << form.shift,
                   dtype=torch.int32)
        for i in range(len(form.planes))
    ]  # fmt: skip
    planes = [(p | (2**form.shift - 1)).to(form.dtype) for p in planes]
    out = ak.video_to_tensor(planes, format=format, dtype=torch.uint8)
    assert torch.equal(out, torch.full((1, 3, 6, 8), 128, dtype=torch.uint8))


def test_arguments_are_those_of_the_op():
    assert Arguments._fields == op.params
