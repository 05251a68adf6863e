"""Inputs, cases and invalid calls of video_to_tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Invalid
from aimills_kernels.kernels.video.formats import FORMATS, Format
from aimills_kernels.kernels.video.problem import DTYPES, OPTIONS, Arguments

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: noise; a gradient with single bright pixels at corners and edges; rows of one value
    each, which tell a shift by one row; saturated colours, which clip. `layout`: tight; rows
    pitched at odd offsets, as decoders deliver them; every stride odd; frames over 2^31 bytes
    apart. `store` is the layout of the output."""
    arguments = case_options(case)
    fill = case.one_of("fill", "noise", "impulses", "rows", "saturated")
    form = arguments.form
    shapes = [form.shape(i, case.F, case.H, case.W) for i in range(len(form.planes))]
    planes = _impulses(form, shapes, generator) if fill == "impulses" else [
        _noise(form, shape, generator) for shape in shapes
    ]  # fmt: skip
    if fill == "rows":
        planes = [p[:, :, :1].expand(p.shape).clone() for p in planes]
    if fill == "saturated":
        top = 2**form.bits - 1
        planes = [_stored(form, (p.to(torch.int32) >> form.shift & 1) * top) for p in planes]
    layout = case.one_of("layout", "tight", "pitched", "strided", "sparse")
    planes = [lay_out(t, layout) for t in planes]
    return arguments._replace(planes=planes)._asdict()


def case_options(case: Case) -> Arguments:
    """The arguments of a case, with planes that have shapes alone."""
    format = case.one_of("format", *OPTIONS["format"])
    form = FORMATS[format]
    dtype = DTYPES[case.one_of("dtype", *DTYPES)]
    plain = dtype == torch.uint8
    return Arguments(
        planes=[
            torch.empty(form.shape(i, case.F, case.H, case.W), dtype=form.dtype, device="meta")
            for i in range(len(form.planes))
        ],
        format=format,
        color_space=case.get("space", "bt709"),
        color_range=case.get("range", "limited"),
        chroma_location=case.get("location", "left"),
        chroma_upsampling=case.get("upsampling", "linear"),
        transfer=case.get("transfer", "sdr"),
        height=case.h,
        width=case.w,
        crop=list(case.get("crop", ())),
        window=list(case.get("window", ())),
        pad=list(case.get("pad", ())),
        pad_level=case.get("pad_level", 0),
        flip=case.get("flip", False),
        rotate=case.get("rotate", 0),
        jitter=list(case.get("jitter", ())),
        interpolation=case.get("interpolation", "bicubic"),
        antialias=case.get("antialias", True),
        resize_mode=case.get("mode", "torch"),
        mean=[0.0] * 3 if plain else case.get("mean", CLIP_MEAN),
        std=[1.0] * 3 if plain else case.get("std", CLIP_STD),
        dtype=dtype,
        layout=case.get("store", "NCHW"),
        clip=case.get("clip", 0),
        patch=list(case.get("patch", ())),
    )


def _stored(form: Format, codes: Tensor) -> Tensor:
    return (codes << form.shift).to(form.dtype)


def _noise(form: Format, shape: list[int], generator: torch.Generator) -> Tensor:
    """All bits of what is stored, those that a format ignores too; none above its codes."""
    top = 2 ** (form.bits + form.shift)
    drawn = torch.randint(
        0, top, shape, generator=generator, dtype=torch.uint8 if top == 256 else torch.int32,
        device=generator.device,
    )  # fmt: skip
    return drawn.to(form.dtype)


def _impulses(form: Format, shapes: list[list[int]], generator: torch.Generator) -> list[Tensor]:
    step, found = 2 ** (form.bits - 8), []
    for i, shape in enumerate(shapes):
        noise = _noise(form, shape, generator).to(torch.int32) >> form.shift
        if i:
            found.append(_stored(form, 120 * step + noise % 16))
            continue
        picture = noise if form.channel_dim(0) is None else noise.movedim(form.channel_dim(0), 0)[0]
        height, width = picture.shape[1:]
        rows, cols = (torch.arange(n, device=noise.device) for n in (height, width))
        ramp = rows.view(1, height, 1) + 2 * cols + noise.flatten()[:1].sum()
        bright = step * (16 + ramp // 8 % 64).to(torch.int32).expand(picture.shape).clone()
        for row in (0, -1, height // 2):
            for col in (0, -1, width // 2):
                bright[:, row, col] = 2**form.bits - 1
        dim = form.channel_dim(0)
        whole = bright if dim is None else torch.stack([bright] * 3, dim)
        found.append(_stored(form, whole))
    return found


def lay_out(plane: Tensor, layout: str) -> Tensor:
    """The same values in other strides."""
    if layout == "tight" or plane.shape[0] == 0:
        return plane
    row = plane[0, 0].numel()
    inner = plane.stride()[2:]
    pitch, offset = (row + 31 if layout == "pitched" else row + 64), 0 if layout == "sparse" else 3
    frame = pitch * plane.shape[1] + 5
    if layout == "sparse":
        frame = 2**31 // max(plane.shape[0] - 1, 1) + 64
    if layout == "strided":
        pitch, inner = 2 * row + 1, tuple(2 * s for s in inner)
        frame = pitch * plane.shape[1] + 1
    strides = (frame, pitch, *inner)
    span = 1 + sum((n - 1) * s for n, s in zip(plane.shape, strides, strict=True))
    buffer = plane.new_empty(span + offset)
    return buffer.as_strided(plane.shape, strides, offset).copy_(plane)


_TINY: dict[str, Any] = dict(F=1, H=12, W=20, h=5, w=7)
# Something of each: a hue turned, colours paler, brighter and with more contrast.
JITTER = (0.95, 0.31, -0.06, 0.02, 0.07, 0.86, 0.27, 0.01, 0.21, -0.05, 1.04, -0.03)
_HD: dict[str, Any] = dict(F=16, H=1080, W=1920, cpu=dict(F=1), tags={"bench", "accept"})
_QWEN: dict[str, Any] = dict(store="patches", patch=(2, 14, 2))
_I = {"interpret"}

CASES = (
    Case("tiny", **_TINY, dtype="f32", tags=_I),
    Case("tiny-f16", **_TINY, dtype="f16"),
    Case("tiny-bf16", **_TINY, tags=_I),
    Case("one-pixel", F=2, H=1, W=1, h=1, w=1, dtype="f32"),
    Case("one-pixel-up", F=1, H=1, W=1, h=9, w=5),
    Case("to-one-pixel", F=1, H=61, W=131, h=1, w=1, dtype="f32"),
    Case("ragged", F=1, H=21, W=31, h=17, w=9, dtype="f32"),
    Case("ragged-bilinear", F=2, H=67, W=131, h=23, w=45, interpolation="bilinear", dtype="f16"),
    Case("empty", F=0, H=12, W=20, h=5, w=7, tags=_I),
    Case("identity", F=1, H=33, W=71, h=33, w=71, dtype="f32"),
    Case("upscale", F=1, H=19, W=37, h=50, w=111, dtype="f32"),
    Case("upscale-bilinear", F=1, H=19, W=37, h=50, w=111, interpolation="bilinear"),
    Case("mixed", F=1, H=300, W=14, h=9, w=90, dtype="f32"),
    Case("pitched", F=3, H=70, W=150, h=32, w=64, layout="pitched", dtype="f32"),
    Case("strided", F=2, H=21, W=30, h=10, w=12, layout="strided"),
    Case("full-range", F=1, H=70, W=150, h=32, w=64, range="full", dtype="f32"),
    Case("bt601", F=1, H=70, W=150, h=32, w=64, space="bt601", dtype="f32"),
    Case("bt601-full", F=1, H=70, W=150, h=32, w=64, space="bt601", range="full"),
    Case("center", F=1, H=71, W=151, h=32, w=64, location="center", dtype="f32"),
    Case("nearest", F=1, H=71, W=151, h=32, w=64, upsampling="nearest", dtype="f32"),
    Case("impulses", F=1, H=131, W=203, h=60, w=99, fill="impulses", dtype="f32"),
    Case("rows", F=2, H=131, W=67, h=60, w=33, fill="rows", dtype="f32"),
    Case("rows-identity", F=1, H=37, W=67, h=37, w=67, fill="rows", dtype="f32"),
    Case("saturated", F=1, H=90, W=70, h=50, w=41, fill="saturated", dtype="f32"),
    Case("plain-scale", F=1, H=40, W=60, h=24, w=32, mean=[0.0] * 3, std=[1.0] * 3, dtype="f32"),
    Case("negative-std", F=1, H=40, W=60, h=24, w=32, mean=[0.5] * 3, std=[-0.5, 2.0, 0.01],
         dtype="f32"),
    Case("wide", F=1, H=6, W=9001, h=4, w=3, dtype="f32"),
    Case("tall", F=1, H=5003, W=6, h=3, w=4, dtype="f32"),
    Case("sparse", F=3, H=21, W=70, h=10, w=30, layout="sparse", dtype="f32"),
    Case("many-frames", F=70000, H=2, W=2, h=1, w=1, cpu=dict(F=40)),
    Case("u8", **_TINY, dtype="u8", tags=_I),
    Case("e4m3", **_TINY, dtype="e4m3", tags=_I),
    Case("e4m3-saturated", **_TINY, dtype="e4m3", std=[1e-4, 1.0, -1e-4]),
    Case("nhwc", F=2, H=30, W=50, h=11, w=23, store="NHWC", dtype="u8"),
    Case("ntchw", F=4, H=12, W=20, h=5, w=7, store="NTCHW", clip=2),
    Case("ncthw", F=6, H=12, W=20, h=5, w=17, store="NCTHW", clip=3),
    Case("qwen", F=5, H=50, W=90, h=28, w=56, **_QWEN, dtype="f32"),
    Case("qwen-clips", F=6, H=50, W=90, h=32, w=64, store="patches", patch=(2, 16, 2), clip=3),
    Case("vit-patches", F=2, H=40, W=50, h=30, w=40, store="patches", patch=(1, 10, 1)),
    Case("tubelets", F=3, H=12, W=20, h=6, w=9, store="patches", patch=(2, 3, 1), dtype="u8"),
    Case("single-pixel-patches", F=2, H=9, W=9, h=8, w=8, store="patches", patch=(1, 1, 2)),
    Case("no-patches", F=0, H=12, W=20, h=4, w=4, store="patches", patch=(2, 2, 1)),
    *(
        Case(name, F=2, H=29, W=43, h=12, w=17, format=name, space="bt2020", fill=fill, layout=at)
        for name, fill, at in (
            ("nv21", "saturated", "tight"), ("p010", "noise", "pitched"),
            ("p012", "saturated", "tight"), ("p016", "noise", "strided"),
            ("i420", "impulses", "pitched"), ("yuv420p10", "noise", "tight"),
            ("yuv422p", "noise", "pitched"), ("yuv422p10", "impulses", "tight"),
            ("yuv444p", "noise", "tight"), ("yuv444p10", "saturated", "pitched"),
            ("rgb24", "noise", "pitched"), ("bgr24", "impulses", "tight"),
            ("rgbp", "noise", "strided"), ("bgrp", "impulses", "pitched"),
            ("gbrp", "noise", "strided"), ("yuv420p12", "noise", "pitched"),
            ("yuv444p12", "impulses", "strided"), ("rgb48", "noise", "pitched"),
            ("bgr48", "impulses", "tight"), ("rgbp16", "saturated", "strided"),
            ("bgrp16", "impulses", "pitched"), ("gbrp10", "noise", "strided"),
            ("gbrp12", "saturated", "pitched"), ("gbrp16", "noise", "tight"),
        )
    ),
    Case("rgb48-wide", F=1, H=40, W=300, h=18, w=130, format="rgb48", dtype="f32"),
    Case("gbrp10-wide", F=1, H=40, W=300, h=18, w=130, format="gbrp10", dtype="f32"),
    Case("rgb48-tiny", **_TINY, format="bgr48", dtype="u8", tags=_I),
    Case("gbrp12-jitter-tiny", **_TINY, format="gbrp12", dtype="f32", jitter=JITTER, tags=_I),
    Case("p010-wide", F=1, H=40, W=300, h=18, w=130, format="p010", range="full", dtype="f32"),
    Case("i420-wide", F=1, H=40, W=300, h=18, w=130, format="i420", dtype="f32"),
    Case("yuv444p10-wide", F=1, H=20, W=300, h=18, w=130, format="yuv444p10", dtype="f32"),
    Case("topleft", F=1, H=36, W=52, h=15, w=20, location="topleft", dtype="f32"),
    Case("topleft-422", F=1, H=36, W=52, h=15, w=20, format="yuv422p", location="topleft"),
    *(
        Case(f"{'shrink' if h < 20 else 'grow'}-{name}{'' if antialias else '-narrow'}", F=1, H=31,
             W=150, h=h, w=w, interpolation=name, antialias=antialias, dtype="f32")
        for name, antialias in (
            ("nearest", True), ("area", True), ("lanczos", True), ("bilinear", False),
            ("bicubic", False),
        )
        for h, w in ((9, 37), (43, 161))
    ),
    Case("nearest-large-step", F=1, H=400, W=300, h=3, w=2, interpolation="nearest", dtype="u8"),
    *(
        Case(f"{mode}-{name}", F=2, H=90, W=50, h=20, w=45, interpolation=name, mode=mode,
             dtype="u8", format=form)
        for mode, name, form in (
            ("pil", "bicubic", "nv12"), ("pil", "lanczos", "rgb24"), ("pil13", "bilinear", "p010"),
            ("pil13", "area", "rgb24"), ("pil", "bilinear", "rgb48"), ("pil", "nearest", "i420"),
        )
    ),
    Case("pil-tiny", **_TINY, mode="pil", dtype="u8"),
    Case("pil13-tiny", F=1, H=21, W=12, h=5, w=7, mode="pil13", format="yuv422p", dtype="u8"),
    *(
        Case(f"pil13-turned-{form}", F=2, H=95, W=31, h=17, w=23, interpolation=name, format=form,
             mode="pil13", location=location, layout=layout, dtype="u8")
        for form, name, location, layout in (
            ("nv12", "bicubic", "left", "tight"), ("yuv422p", "lanczos", "topleft", "strided"),
            ("yuv444p10", "area", "left", "pitched"), ("bgr24", "bilinear", "left", "pitched"),
            ("gbrp16", "bicubic", "left", "strided"),
        )
    ),
    Case("pil-wide", F=1, H=6, W=9001, h=4, w=3, mode="pil", dtype="u8"),
    Case("pil13-tall", F=1, H=9001, W=6, h=3, w=4, mode="pil13", interpolation="lanczos",
         dtype="u8"),
    *(
        Case(f"{transfer}-{form}", F=1, H=22, W=40, h=13, w=23, format=form, space="bt2020",
             transfer=transfer, location="topleft", fill=fill, layout=layout, dtype="f32")
        for transfer, form, fill, layout in (
            ("pq", "p010", "noise", "pitched"), ("hlg", "yuv420p10", "noise", "tight"),
            ("pq", "yuv444p10", "saturated", "tight"), ("hlg", "rgb24", "noise", "strided"),
            ("pq", "gbrp10", "noise", "tight"),
        )
    ),
    Case("hlg-jitter-narrow", **_TINY, format="p010", space="bt2020", transfer="hlg",
         jitter=JITTER, antialias=False, dtype="f32", tags=_I),
    Case("pq-pil", F=1, H=22, W=40, h=13, w=23, format="p010", space="bt2020", transfer="pq",
         mode="pil", dtype="u8"),
    Case("jitter", F=2, H=30, W=50, h=11, w=23, jitter=JITTER, dtype="f32"),
    Case("jitter-hlg", F=1, H=22, W=40, h=13, w=23, format="p010", space="bt2020", transfer="hlg",
         jitter=JITTER, dtype="f32"),
    Case("crop", F=2, H=50, W=150, h=20, w=30, crop=(7, 71, 31, 67), dtype="f32"),
    Case("crop-pil", F=1, H=50, W=150, h=20, w=30, crop=(7, 71, 31, 67), mode="pil", dtype="f32"),
    Case("flip", F=1, H=30, W=50, h=11, w=23, flip=True, dtype="f32", tags=_I),
    *(
        Case(f"rotate-{degrees}", F=1, H=30, W=50, h=11, w=23, rotate=degrees, dtype="f32")
        for degrees in (90, 180, 270)
    ),
    Case("letterbox", F=2, H=30, W=50, h=13, w=22, pad=(4, 0, 5, 1), pad_level=114, dtype="f32"),
    Case("all-at-once", F=3, H=60, W=90, h=22, w=24, crop=(3, 5, 50, 77), pad=(1, 4, 5, 0),
         flip=True, rotate=270, format="p010", interpolation="lanczos", store="patches",
         patch=(2, 7, 2), dtype="e4m3", pad_level=128, tags=_I),
    Case("all-at-once-pil", F=3, H=60, W=90, h=22, w=28, crop=(3, 5, 50, 77), pad=(1, 4, 5, 0),
         flip=True, rotate=90, store="NHWC", mode="pil13", dtype="u8", pad_level=9),
    *(
        Case(f"fast-{form}", F=2, H=H, W=57, h=23, w=h, format=form, mode="fast", location=location,
             fill=fill, layout=layout, interpolation=name, dtype="f32")
        for form, H, h, location, fill, layout, name in (
            ("nv12", 81, 17, "left", "noise", "tight", "bicubic"),
            ("p010", 20, 90, "topleft", "noise", "pitched", "lanczos"),
            ("i420", 44, 29, "center", "impulses", "strided", "area"),
            ("nv21", 9, 70, "left", "saturated", "pitched", "nearest"),
            ("yuv422p10", 51, 24, "left", "noise", "tight", "bilinear"),
        )
    ),
    Case("fast-narrow", F=1, H=31, W=150, h=14, w=161, mode="fast", antialias=False, dtype="f32"),
    Case("fast-nearest-chroma", F=1, H=31, W=150, h=14, w=61, mode="fast", upsampling="nearest",
         dtype="f32"),
    Case("fast-one-pixel", F=1, H=1, W=1, h=3, w=2, mode="fast", dtype="u8"),
    Case("fast-wide", F=1, H=6, W=2001, h=4, w=3, mode="fast", location="topleft", dtype="f32"),
    Case("fast-rgb48", F=1, H=30, W=50, h=11, w=23, format="rgb48", mode="fast"),
    Case("fast-rgb", F=1, H=30, W=50, h=11, w=23, format="bgr24", mode="fast", jitter=JITTER),
    Case("all-at-once-turned", F=3, H=90, W=60, h=22, w=24, crop=(3, 5, 85, 27), pad=(1, 4, 5, 0),
         flip=True, rotate=180, format="yuv422p10", interpolation="lanczos", store="patches",
         patch=(2, 7, 2), dtype="e4m3", pad_level=128, jitter=JITTER, mode="pil13"),
    Case("all-at-once-fast", F=3, H=60, W=90, h=22, w=24, crop=(3, 5, 51, 78), pad=(1, 4, 5, 0),
         flip=True, rotate=270, format="p010", interpolation="lanczos", store="patches",
         patch=(2, 7, 2), dtype="e4m3", pad_level=128, jitter=JITTER, mode="fast"),
    *(
        Case(f"window-{mode}", F=2, H=45, W=71, h=20, w=34, mode=mode, window=(3, 9, 16, 17),
             layout="strided", dtype="f32")
        for mode in ("torch", "pil", "fast")
    ),
    Case("window-turned", F=2, H=95, W=31, h=17, w=23, mode="pil13", format="yuv422p",
         window=(16, 0, 1, 9), flip=True, rotate=180, dtype="u8"),
    Case("window-wide", F=1, H=6, W=9001, h=4, w=3, window=(1, 1, 2, 1), dtype="f32"),
    Case("window-nearest", F=1, H=12, W=20, h=31, w=47, window=(5, 40, 26, 7), dtype="u8",
         interpolation="nearest", mode="pil", layout="pitched"),
    Case("window-tiny", F=2, H=22, W=30, h=20, w=27, window=(1, 4, 17, 22), pad=(0, 2, 1, 0),
         flip=True, rotate=90, dtype="f32", pad_level=77, tags=_I),
    Case("window-tokens", F=3, H=60, W=90, h=30, w=33, crop=(3, 5, 50, 77), window=(2, 5, 28, 14),
         pad=(0, 14, 0, 0), flip=True, rotate=270, format="p010", store="patches", patch=(2, 7, 2),
         jitter=JITTER, mode="fast"),
    Case("hd-224", **{**_HD, "tags": _HD["tags"] | {"energy"}}, h=224, w=224),
    Case("hd-qwen2.5-vl", **_HD, h=560, w=1008),
    Case("aot-hdr", F=16, H=2160, W=3840, h=560, w=1008, format="p010", space="bt2020",
         transfer="pq", jitter=JITTER, location="topleft", interpolation="lanczos", **_QWEN,
         dtype="e4m3", cpu=dict(F=1, H=54, W=96, h=28, w=28), tags={"aot", "full"}),
    Case("hd-qwen2.5-vl-patches", **{**_HD, "tags": {"bench", "aot"}}, h=560, w=1008, **_QWEN),
    Case("hd-clip", **{**_HD, "tags": {"bench"}}, h=224, w=398, window=(0, 87, 224, 224)),
    Case("hd-224-fast", **{**_HD, "tags": {"bench"}}, h=224, w=224, mode="fast"),
    Case("hd-qwen2.5-vl-fast", **{**_HD, "tags": {"bench"}}, h=560, w=1008, mode="fast", **_QWEN),
    Case("hd-224-bilinear", **{**_HD, "tags": {"bench"}}, h=224, w=224, interpolation="bilinear"),
)  # fmt: skip


def _with(**changes: Any) -> Any:
    return lambda args: {**args, **changes}


def _planes(change: Any) -> Any:
    return lambda args: {**args, "planes": change(*args["planes"])}


ERRORS = (
    Invalid("one plane", _planes(lambda y, uv: [y]), r"nv12 is 2 planes \(y, uv\), got 1"),
    Invalid("y of two dims", _planes(lambda y, uv: [y[0], uv]), r"y plane of nv12 must be \[frame"),
    Invalid(
        "uv of three dims", _planes(lambda y, uv: [y, uv[..., 0]]), r"uv plane of nv12 must be \[fr"
    ),
    Invalid(
        "float planes", _planes(lambda y, uv: [y.float(), uv]), "y plane of nv12 must be uint8"
    ),
    Invalid(
        "uv of wrong size", _planes(lambda y, uv: [y, uv[:, 1:]]),
        r"uv plane of nv12 must be \[1, 6, 10, 2\] for y \[1, 12, 20\], got \[1, 5, 10, 2\]",
    ),
    Invalid(
        "a pitch below a row",
        _planes(lambda y, uv: [y.as_strided(y.shape, (240, 19, 1)), uv]),
        r"y plane of nv12 must have a pitch that passes a row, got strides of \(240, 19, 1\) for",
    ),
    Invalid(
        "a pitch of chroma below a row",
        _planes(lambda y, uv: [y, uv.as_strided(uv.shape, (120, 19, 2, 1))]),
        "uv plane of nv12 must have a pitch that passes a row, got strides of",
    ),
    Invalid("no rows", _planes(lambda y, uv: [y[:, :0], uv[:, :0]]), "must have sides"),
    Invalid("zero height", _with(height=0), "height must be 1 to"),
    Invalid("negative width", _with(width=-3), "width must be 1 to"),
    Invalid(
        "unknown colour space", _with(color_space="smpte"), "must be bt601, bt709 or bt2020, got"
    ),
    Invalid("unknown range", _with(color_range="tv"), "color_range must be limited or full"),
    Invalid(
        "unknown siting", _with(chroma_location="top"), "must be left, center or topleft, got"
    ),
    Invalid("unknown upsampling", _with(chroma_upsampling="cubic"), "chroma_upsampling must be"),
    Invalid("unknown transfer", _with(transfer="bt1886"), "transfer must be sdr, pq or hlg, got"),
    Invalid(
        "HDR of BT.709", _with(transfer="pq"), "color_space must be bt2020 for transfer pq, got"
    ),
    Invalid(
        "fast HDR",
        _with(resize_mode="fast", transfer="pq", color_space="bt2020"),
        "transfer must be sdr in mode fast, which filters before light is mapped, got pq",
    ),
    Invalid("jitter of three", _with(jitter=[1.0] * 3), "jitter must have 12 values, got 3"),
    Invalid("infinite jitter", _with(jitter=[float("inf")] * 12), "jitter must be finite"),
    Invalid("unknown filter", _with(interpolation="hamming"), "interpolation must be nearest, are"),
    Invalid("two means", _with(mean=[0.5, 0.5]), "mean must have 3 values"),
    Invalid("nan mean", _with(mean=[0.5, float("nan"), 0.5]), "mean must be finite"),
    Invalid("zero std", _with(std=[0.5, 0.0, 0.5]), "std must not be zero"),
    Invalid("integer output", _with(dtype=torch.int32), "dtype must be bf16, f16, f32, u8 or e4m3"),
    Invalid("normalised levels", _with(dtype=torch.uint8), "uint8 is levels, without mean and std"),
    Invalid("unknown format", _with(format="yuyv"), "format must be nv12, .* got 'yuyv'"),
    Invalid("nv12 as p010", _with(format="p010"), "y plane of p010 must be uint16, got uint8"),
    Invalid("nv12 as i420", _with(format="i420"), r"i420 is 3 planes \(y, u, v\), got 2"),
    Invalid("unknown mode", _with(resize_mode="exact"), "mode must be torch, pil, pil13 or"),
    Invalid(
        "narrow lanczos", _with(interpolation="lanczos", antialias=False),
        "antialias must be True for lanczos, got False",
    ),
    Invalid(
        "narrow Pillow", _with(resize_mode="pil", antialias=False),
        "antialias must be True in mode pil, got False",
    ),
    Invalid("crop of three", _with(crop=[0, 0, 4]), "crop must be top, left, height and width"),
    Invalid(
        "crop beyond the frame", _with(crop=[1, 0, 12, 20]),
        r"crop must lie in the frame of 12 x 20, got \[1, 0, 12, 20\]",
    ),
    Invalid("window of three", _with(window=[0, 0, 4]), "window must be top, left, height and wi"),
    Invalid(
        "window beyond the picture", _with(window=[0, 1, 5, 7]),
        r"window must lie in the resized picture of 5 x 7, got \[0, 1, 5, 7\]",
    ),
    Invalid("empty window", _with(window=[0, 0, 0, 7]), "window must lie in the resized picture"),
    Invalid("negative pad", _with(pad=[0, 0, -1, 0]), "pad must be top, left, bottom and right"),
    Invalid("padded too far", _with(pad=[0, 0, 1 << 24, 0]), "pad must leave sides of 16777216"),
    Invalid("pad of no level", _with(pad_level=256), "pad_level must be 0 to 255, got 256"),
    Invalid("askew", _with(rotate=45), "rotate must be 0, 90, 180 or 270, got 45"),
    Invalid("unknown layout", _with(layout="CHW"), "layout must be NCHW, NHWC, NTCHW, NCTHW or"),
    Invalid("pictures in patches", _with(patch=[1, 2, 1]), "patch is for layout patches, got"),
    Invalid("no patch", _with(layout="patches"), "patch must be frames, pixels and merge"),
    Invalid(
        "patches that do not fit", _with(layout="patches", patch=[1, 5, 1]),
        r"the width of the output must be a multiple of 5 \(patch 5 times merge 1\), got 7",
    ),
    Invalid("clips of pictures", _with(clip=1), "clip is for layouts of clips, got 1 with NCHW"),
    Invalid("uneven clips", _with(layout="NTCHW", clip=2), "clip must divide the 1 frames, got 2"),
)  # fmt: skip
