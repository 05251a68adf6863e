"""The pixel formats of video_to_tensor: against FFmpeg's swscale, and against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video import cpu
from aimills_kernels.kernels.video.cases import case_options
from aimills_kernels.kernels.video.colour import rgb_levels
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import Arguments, packed
from tools.video_oracles import PLACES, SWSCALE, swscale, swscale_rgb

# FFmpeg's names.
RGB = {
    "rgb24": "rgb24", "bgr24": "bgr24", "gbrp": "gbrp", "rgb48": "rgb48le", "bgr48": "bgr48le",
    "gbrp10": "gbrp10le", "gbrp12": "gbrp12le", "gbrp16": "gbrp16le",
}  # fmt: skip


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
    r, g, b = torch.randint(0, 1 << 16, (3, 2, 9, 13), dtype=torch.int32).to(torch.uint16)
    want = ak.video_to_tensor(in_order("rgb48", r, g, b), format="rgb48", size=(5, 6))
    for format in ("bgr48", "rgbp16", "bgrp16", "gbrp16"):
        planes = in_order(format, r, g, b)
        assert torch.equal(ak.video_to_tensor(planes, format=format, size=(5, 6)), want)


def launches() -> dict[str, Any]:
    extension = pytest.importorskip("aimills_kernels._C")

    def emulated(outs: tuple[Tensor, ...], *args: Any) -> None:
        held: list[Tensor] = []
        extension.video_to_tensor_emulated(extension.VideoParams(packed(outs, args, held)), 3)

    def reference(outs: tuple[Tensor, ...], *args: Any) -> None:
        outs[0].copy_(op.reference(*args))

    return {"reference": reference, "cpu": cpu.launch, "emulated": emulated}


@pytest.mark.parametrize("launch", ["reference", "cpu", "emulated"])
@pytest.mark.parametrize("mode", ["torch", "pil"])
@pytest.mark.parametrize("format", [n for n, f in FORMATS.items() if f.rgb and f.bits > 8])
def test_each_code_of_rgb_is_the_nearest_level(format, mode, launch):
    """Of all codes, by exact fractions: 255 code / M is never halfway between two levels."""
    form = FORMATS[format]
    top = 2**form.bits - 1
    codes = torch.arange(top + 1, dtype=torch.int32).view(1, -1, 64)
    planes = in_order(format, *(codes.roll(n, 2).to(form.dtype) for n in range(3)))
    case = Case("codes", F=1, H=codes.shape[1], W=64, h=codes.shape[1], w=64, format=format,
                mode=mode, dtype="u8")  # fmt: skip
    args = tuple(case_options(case)._replace(planes=planes))
    out = op.fake(*args)
    launches()[launch]((out,), *args)
    want = (codes * 510 + top) // (2 * top)
    assert torch.equal(out[0].int(), torch.cat([want.roll(n, 2) for n in range(3)]))


def in_order(format: str, r: Tensor, g: Tensor, b: Tensor) -> list[Tensor]:
    """The planes of a format of RGB."""
    if format.startswith("gbr"):
        return [g, b, r]
    order = [r, g, b] if format.startswith("rgb") else [b, g, r]
    return [torch.stack(order, 1 if format[3] == "p" else 3)]


@pytest.mark.parametrize("format", RGB)
def test_rgb_agrees_with_swscale(format):
    """By way of 16 bits: swscale has none from them to 8 but by YUV, which is two levels off."""
    pytest.importorskip("av")
    case = Case("c", F=1, H=32, W=48, h=32, w=48, format=format)
    planes = list(op.make_inputs(case, "cpu", 0)[0])
    options = "flags=accurate_rnd+bitexact:sws_dither=none"
    wide = swscale(planes, RGB[format], options, "gbrp16le").int()
    want = (wide * 510 + 65535) // 131070
    made = ak.video_to_tensor(planes, format=format, dtype=torch.uint8)
    assert int((made[0].int() - want).abs().max()) <= (FORMATS[format].bits < 16)


def test_rgb_of_16_bits_holds_what_8_bits_hold():
    rgb = torch.randint(0, 256, (2, 19, 73, 3), dtype=torch.uint8)
    wide = (rgb.to(torch.int32) * 257).to(torch.uint16)
    for mode in ("torch", "pil13", "fast"):
        options = {"size": (11, 30), "mode": mode, "color_range": "limited"}
        want = ak.video_to_tensor((rgb,), format="rgb24", **options)
        assert torch.equal(ak.video_to_tensor((wide,), format="rgb48", **options), want)


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
