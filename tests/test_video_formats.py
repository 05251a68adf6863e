"""The pixel formats of video_to_tensor: against FFmpeg's swscale, and against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video.colour import rgb_levels
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import Arguments
from tools.video_oracles import PLACES, SWSCALE, swscale_rgb


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
    """The reference and the CPU's kernel are within one level of FFmpeg's accurate paths, on noise.
    Of odd sizes swscale stretches the chroma; of fewer than four chroma rows it takes others."""
    pytest.importorskip("av")
    for height, width in ((32, 48), (34, 150)):
        check_colour(format, chroma, range_, space, height, width)


def check_colour(format, chroma, range_, space, height, width):
    case = Case("c", F=1, H=height, W=width, h=height, w=width, format=format)
    planes = in_range(list(op.make_inputs(case, "cpu", 0)[0]), format, range_)
    want = swscale_rgb(planes, format, space, range_, chroma)
    location = "left" if chroma == "nearest" else chroma
    upsampling = "nearest" if chroma == "nearest" else "linear"
    options = format, space, range_, location, upsampling
    got = rgb_levels(planes, *options, torch.float64)
    assert float((got[0] - want).abs().max()) <= 1
    names = ("format", "color_space", "color_range", "chroma_location", "chroma_upsampling")
    with ak.use_provider("video_to_tensor", "cpu"):
        made = ak.video_to_tensor(
            planes, **dict(zip(names, options, strict=True)), dtype=torch.uint8
        )
    assert int((made[0].int() - want.int()).abs().max()) <= 1


def test_orders_of_bytes_are_the_same_picture():
    """NV21 and I420 hold what NV12 holds, BGR and planar RGB what RGB holds."""
    y, uv = op.make_inputs(Case("n", F=2, H=9, W=13, h=1, w=1), "cpu", 0)[0]
    u, v = uv.unbind(-1)
    want = ak.video_to_tensor((y, uv), size=(5, 6))
    for format, planes in (("nv21", (y, uv.flip(-1))), ("i420", (y, u, v))):
        assert torch.equal(ak.video_to_tensor(planes, format=format, size=(5, 6)), want)
    rgb = torch.randint(0, 256, (2, 9, 13, 3), dtype=torch.uint8)
    want = ak.video_to_tensor((rgb,), format="rgb24", size=(5, 6))
    r, g, b = rgb.unbind(-1)
    for format, planes in (
        ("bgr24", (rgb.flip(-1),)), ("rgbp", (rgb.permute(0, 3, 1, 2),)),
        ("bgrp", (rgb.flip(-1).permute(0, 3, 1, 2),)), ("gbrp", (g, b, r)),
    ):  # fmt: skip
        assert torch.equal(ak.video_to_tensor(planes, format=format, size=(5, 6)), want)


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


def test_rows_may_be_repeated_or_transposed():
    """Only what overlaps in part is refused: a stride of 0 and any order of strides are meant."""
    rgb = torch.randint(0, 256, (2, 6, 8, 3), dtype=torch.uint8)
    want = ak.video_to_tensor((rgb,), format="rgb24", size=(5, 6))
    for order in ((0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 2, 1), (3, 2, 1, 0)):
        back = [order.index(i) for i in range(4)]
        turned = rgb.permute(order).contiguous().permute(back)
        assert torch.equal(ak.video_to_tensor((turned,), format="rgb24", size=(5, 6)), want)
    one = rgb[:1, :1, :, :1]
    for size in ((2, 6, 8, 3), (1, 1, 8, 3), (2, 1, 8, 3)):
        plane = one.expand(size)
        want = ak.video_to_tensor((plane.contiguous(),), format="rgb24", size=(5, 6))
        assert torch.equal(ak.video_to_tensor((plane,), format="rgb24", size=(5, 6)), want)
