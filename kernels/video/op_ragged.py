"""video_to_tensor of clips of any sizes, in one launch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider
from aimills_kernels._tolerance import Levels
from aimills_kernels.kernels.video import op as one
from aimills_kernels.kernels.video.cases import JITTER
from aimills_kernels.kernels.video.cases import inputs as clip_inputs
from aimills_kernels.kernels.video.cost import cost as cost_of_one
from aimills_kernels.kernels.video.problem import Arguments
from aimills_kernels.kernels.video.ragged import RaggedArguments, check_ragged, total_shape


def reference(
    planes: list[Tensor],
    format: str,
    color_space: str,
    color_range: str,
    chroma_location: str,
    chroma_upsampling: str,
    transfer: str,
    sizes: list[int],
    crops: list[int],
    windows: list[int],
    pad: list[int],
    pad_level: int,
    flips: list[bool],
    rotate: int,
    jitters: list[float],
    interpolation: str,
    antialias: bool,
    resize_mode: str,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    layout: str,
    patch: list[int],
) -> Tensor:
    """That of video_to_tensor for each clip, one result behind the other.

    planes  those of the first clip, of the second, ...
    sizes, crops, windows, flips, jitters  2, 4, 4, 1 and 12 values a clip; all but `sizes` may be
        empty
    """
    b = RaggedArguments(
        planes, format, color_space, color_range, chroma_location, chroma_upsampling, transfer,
        sizes, crops, windows, pad, pad_level, flips, rotate, jitters, interpolation, antialias,
        resize_mode, mean, std, dtype, layout, patch,
    )  # fmt: skip
    return torch.cat([one.reference(*args) for args in b.each()])


def fake(*args: object) -> Tensor:
    b = RaggedArguments(*args)  # type: ignore[arg-type]
    return b.planes[0].new_empty(total_shape(check_ragged(b)), dtype=b.dtype)


fake.__signature__ = inspect.signature(reference)  # type: ignore[attr-defined]


def _sub_cases(case: Case) -> list[Case]:
    """Those of video_to_tensor. `clips` has F, H, W, h and w of each; `crops`, `windows`, `flips`
    and `jitters` are as long."""
    own_names = ("crop", "window", "flip", "jitter")
    lists = {"clips", *(f"{name}s" for name in own_names)}
    dims = {k: v for k, v in case.dims.items() if k not in lists}
    each = [dict(zip("FHWhw", sizes, strict=True)) for sizes in case.clips]
    for name in own_names:
        for own, value in zip(each, case.get(f"{name}s", ()), strict=False):
            own[name] = value
    return [Case("clip", **{**dims, **own}) for own in each]


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """As video_to_tensor has it, for each of `clips`."""
    clips = [Arguments(**clip_inputs(sub, generator)) for sub in _sub_cases(case)]
    first = clips[0]._asdict()
    return {
        **{name: first[name] for name in RaggedArguments._fields if name in first},
        "planes": [p for a in clips for p in a.planes],
        "sizes": [side for a in clips for side in (a.height, a.width)],
        "crops": [v for a in clips for v in a.crop],
        "windows": [v for a in clips for v in a.window],
        "flips": [a.flip for a in clips] if "flips" in case.dims else [],
        "jitters": [v for a in clips for v in a.jitter],
    }


def cost(case: Case) -> Cost:
    each = [cost_of_one(sub) for sub in _sub_cases(case)]
    return Cost(sum(c.flops for c in each), sum(c.bytes for c in each), "f32")


def _level_size(args: tuple) -> Tensor:
    return torch.cat([one._level_size(clip) for clip in RaggedArguments(*args).each()])


def _between(args: tuple) -> tuple[Tensor, Tensor]:
    clips = RaggedArguments(*args).each()
    ends = [one._between(clip) for clip in clips if clip[0][0].numel()]
    low, high = zip(*ends, strict=True)
    return torch.cat(low), torch.cat(high)


# Of the sizes that people film and stream in, with one that stands upright.
_FILMED = ((1080, 1920), (720, 1280), (480, 854), (1920, 1080))
_TOKENS: dict[str, Any] = dict(store="patches", patch=(2, 14, 2))
_SMALL = ((1, 30, 50, 28, 28), (3, 45, 31, 56, 28), (2, 16, 90, 28, 56))

CASES = (
    Case("tiny", clips=((1, 12, 20, 5, 7), (2, 9, 13, 5, 7)), dtype="f32",
         tags={"interpret", "full"}),
    Case("ragged", clips=((1, 30, 50, 12, 12), (3, 45, 31, 24, 12), (2, 16, 90, 12, 24)),
         layout="strided", flips=(True, False, True), dtype="f32", store="patches", patch=(2, 6, 2),
         crops=((3, 5, 20, 41), (0, 0, 45, 31), (2, 1, 13, 80))),
    Case("clips", clips=((2, 12, 20, 9, 8), (2, 14, 11, 9, 8)), store="NTCHW", dtype="f32",
         layout="pitched", pad=(1, 0, 0, 2), rotate=90),
    Case("one", clips=((2, 12, 20, 5, 7),), store="NHWC", dtype="u8", interpolation="area"),
    Case("empty", clips=((0, 12, 20, 28, 28), (1, 12, 20, 28, 28), (0, 3, 3, 28, 28)), **_TOKENS),
    Case("jitter", clips=_SMALL, dtype="f32", **_TOKENS,
         jitters=(JITTER, (1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0), JITTER)),
    Case("hlg", clips=_SMALL[:2], dtype="f32", format="p010", space="bt2020", transfer="hlg",
         **_TOKENS),
    Case("pil", clips=_SMALL[:2], dtype="u8", mode="pil", **_TOKENS),
    Case("pil13", clips=((1, 12, 20, 6, 6), (2, 45, 13, 6, 12)), dtype="u8", mode="pil13",
         format="yuv422p", store="patches", patch=(1, 3, 2)),
    Case("fast", clips=_SMALL[:2], dtype="f32", mode="fast", **_TOKENS,
         crops=((3, 5, 20, 41), (0, 0, 45, 31)), jitters=(JITTER, JITTER)),
    Case("windows", clips=((1, 30, 50, 20, 33), (3, 45, 31, 29, 20)), dtype="f32",
         windows=((2, 6, 16, 20), (6, 0, 16, 20)), flips=(True, False), pad=(1, 0, 0, 2),
         rotate=180, store="NHWC"),
    Case("windows-pil", clips=((1, 40, 30, 20, 13), (2, 90, 31, 25, 20)), dtype="u8", mode="pil13",
         windows=((9, 3, 7, 8), (17, 12, 7, 8))),
    Case("many", clips=((1, 3, 4, 2, 3), (1, 5, 2, 2, 3)) * 35, dtype="u8"),
    Case("sparse", clips=((2, 6, 8, 3, 4), (1, 6, 8, 3, 4)), layout="sparse", dtype="u8"),
    Case("hd-tokens", clips=tuple((4, H, W, H // 56 * 28, W // 56 * 28) for H, W in _FILMED) * 4,
         cpu=dict(clips=((1, 270, 480, 112, 224), (1, 480, 270, 224, 112))),
         tags={"bench", "accept"}, **_TOKENS),
    Case("aot-tokens", clips=((4, 1080, 1920, 532, 952),), **_TOKENS, tags={"aot", "full"},
         cpu=dict(clips=((1, 54, 96, 28, 28),))),
)  # fmt: skip


def _with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda args: {**args, **changes}


ERRORS = (
    Invalid(
        "half a clip", lambda args: {**args, "planes": args["planes"][:3]}, "each clip of nv12 is 2"
    ),
    Invalid("unknown format", _with(format="yuyv"), "format must be nv12, .* got 'yuyv'"),
    Invalid("one size", _with(sizes=[5, 7]), "sizes must be 2 values for each of 2 clips, got 2"),
    Invalid("three crops", _with(crops=[0] * 12), "crops must be 4 values for each of 2"),
    Invalid("one flip", _with(flips=[True]), "flips must be 1 values for each of 2 clips, got 1"),
    Invalid("short jitter", _with(jitters=[1.0] * 12), "jitters must be 12 values for each"),
    Invalid("a crop outside", _with(crops=[0, 0, 5, 5, 0, 0, 99, 9]), "clip 1: crop must lie in"),
    Invalid("three windows", _with(windows=[0] * 12), "windows must be 4 values for each of 2"),
    Invalid(
        "a window outside", _with(windows=[0, 0, 5, 7, 1, 0, 5, 7]), "clip 1: window must lie in"
    ),
    Invalid("zero height", _with(sizes=[5, 7, 0, 7]), "clip 1: height must be 1 to"),
    Invalid(
        "pictures of two sizes", _with(sizes=[5, 7, 5, 8]),
        r"clip 1 would be \[3, 5, 8\] a piece in layout NCHW and clip 0 \[3, 5, 7\]: they must be",
    ),
    Invalid(
        "clips of two lengths", _with(layout="NTCHW"), r"clip 1 would be \[2, 3, 5, 7\] a piece in"
    ),
    Invalid("unknown layout", _with(layout="CHW"), "clip 0: layout must be NCHW, NHWC, NTCHW"),
    Invalid("HDR of BT.709", _with(transfer="pq"), "clip 0: color_space must be bt2020"),
)  # fmt: skip


def _triton_rejects(p: Problem) -> str | None:
    if reason := one.without_mode(p):
        return reason
    clips = (Arguments(*args) for args in RaggedArguments(*p.args).each())
    return next((r for a in clips if (r := one.too_many_programs(a))), None)


_SOURCES = (
    *(s for s in one._SOURCES if not s.endswith(".cu")),
    "csrc/video/batch.h",
    "csrc/video/first_blocks.h",
    "csrc/video/first_blocks.cpp",
    "csrc/video/sm80_video_to_tensor_ragged.cu",
    "kernels/video/ragged.py",
)

PROVIDERS = (
    Provider(
        "cuda", "aimills_kernels.kernels.video.cuda:launch_ragged", sm=(80, 90, 100, 120),
        rejects=one._cuda_rejects, sources=_SOURCES,
    ),
    Provider(
        "nvrtc", "aimills_kernels.kernels.video.nvrtc:launch_ragged", rejects=one._nvrtc_rejects,
        needs=("cupy",), sources=_SOURCES,
    ),
    Provider.triton(
        "triton", "aimills_kernels.kernels.video.triton_video:launch_ragged",
        rejects=_triton_rejects, sources=(*one._TRITON_SOURCES, "kernels/video/ragged.py"),
    ),
    Provider(
        "cpu", "aimills_kernels.kernels.video.cpu:launch_ragged", devices=("cpu",),
        rejects=one._cpu_rejects,
    ),
)  # fmt: skip

video_to_tensor_ragged = Op(
    name="video_to_tensor_ragged",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Levels(size=_level_size, between=_between),),
    errors=ERRORS,
    providers=PROVIDERS,
)
