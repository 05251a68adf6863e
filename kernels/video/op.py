"""NV12 frames to a normalised tensor: colour, antialiased resize, mean and std."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import Case, Cost, Invalid, Op, Problem, Provider, describe
from aimills_kernels._tolerance import EPS32, Levels
from aimills_kernels._words import shown
from aimills_kernels.kernels.video.problem import OPTIONS, extension_error, fast_strides

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
MAX_SIZE = 1 << 24  # of a side: positions on both axes stay within 64-bit integers
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def reference(
    planes: list[Tensor],
    color_space: str,
    color_range: str,
    chroma_location: str,
    chroma_upsampling: str,
    height: int,
    width: int,
    interpolation: str,
    antialias: bool,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> Tensor:
    """NV12 to [F, 3, height, width] in f32 (f64 for f64), with levels rounded as torchvision does.

    planes  y [F, H, W] u8, uv [F, ceil(H/2), ceil(W/2), 2] u8, rows at any pitch
    1. RGB by ITU-R BT.601-7 or BT.709-6, rounded half to even to levels 0..255
    2. antialiased resize with the weights of Pillow and torchvision, rounded to levels again
    3. (level / 255 - mean) / std, rounded to `dtype`
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    y, uv = planes
    levels = rgb_levels(y, uv, color_space, color_range, chroma_location, chroma_upsampling, wide)
    for dim, size in ((2, height), (3, width)):
        levels = _resize(levels, dim, size, interpolation)
    levels = levels.round().clamp(0, 255)
    per_channel = [torch.tensor(v, dtype=wide, device=y.device).view(3, 1, 1) for v in (mean, std)]
    return ((levels / 255 - per_channel[0]) / per_channel[1]).to(dtype)


def rgb_levels(
    y: Tensor,
    uv: Tensor,
    space: str,
    range_: str,
    location: str,
    upsampling: str,
    wide: torch.dtype,
) -> Tensor:
    """[F, 3, H, W], whole levels 0..255."""
    return _rgb(y, uv, space, range_, location, upsampling, wide).round().clamp(0, 255)


def _rgb(
    y: Tensor,
    uv: Tensor,
    space: str,
    range_: str,
    location: str,
    upsampling: str,
    wide: torch.dtype,
) -> Tensor:
    """Levels before they are rounded."""
    kr, kb = _KR_KB[space]
    limited = range_ == "limited"
    luma, chroma = y.to(wide), uv.to(wide)
    chroma = _upsample_chroma(chroma, 1, y.shape[1], "center", upsampling)
    chroma = _upsample_chroma(chroma, 2, y.shape[2], location, upsampling) - 128
    if limited:
        luma, chroma = (luma - 16) * (255 / 219), chroma * (255 / 224)
    u, v = chroma.unbind(-1)
    red = luma + 2 * (1 - kr) * v
    blue = luma + 2 * (1 - kb) * u
    green = luma - (2 * kb * (1 - kb) * u + 2 * kr * (1 - kr) * v) / (1 - kr - kb)
    return torch.stack([red, green, blue], 1)


def _upsample_chroma(chroma: Tensor, dim: int, size: int, location: str, upsampling: str) -> Tensor:
    """Along one axis, to `size` samples; every weight is a multiple of a quarter."""
    at = torch.arange(size, device=chroma.device)
    near = at // 2
    if upsampling == "nearest":
        return chroma.index_select(dim, near)
    far = torch.where(at % 2 == 0, near - 1, near + 1).clamp(0, chroma.shape[dim] - 1)
    weights = (0.0, 0.5) if location == "left" else (0.25, 0.25)
    shape = [-1 if i == dim else 1 for i in range(chroma.dim())]
    w = torch.where(at % 2 == 0, *(at.new_tensor(x, dtype=chroma.dtype) for x in weights))
    w = w.view(shape)
    return chroma.index_select(dim, near) * (1 - w) + chroma.index_select(dim, far) * w


def filter_taps(
    size: int, out: int, interpolation: str, wide: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Source positions and weights, both [taps, out]. Pillow's `precompute_coeffs` with the
    positions as whole multiples of 1 / (2 max(size, out))."""
    radius = 2 if interpolation == "bicubic" else 1
    larger = max(size, out)
    center = (2 * torch.arange(out, device=device) + 1) * size
    support = 2 * radius * larger
    begin = ((center - support + out) // (2 * out)).clamp(min=0)
    end = ((center + support + out) // (2 * out)).clamp(max=size)
    at = begin + torch.arange(int((end - begin).max()), device=device).unsqueeze(1)
    x = ((2 * at + 1) * out - center).to(wide).abs() / (2 * larger)
    if interpolation == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        inner = (1 - x) * (1 + x * (1 - 1.5 * x))
        outer = -0.5 * (x - 1) * (x - 2) * (x - 2)
        weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    weights = torch.where(at < end, weights, 0.0)
    return at.clamp(max=size - 1), weights / weights.sum(0)


def _resize(
    levels: Tensor, dim: int, out: int, interpolation: str, *, magnitudes: bool = False
) -> Tensor:
    """A sum over taps: a matmul would follow autocast and TF32 settings. With `magnitudes` of the
    weights it says how far a sum may move where each level may move so far."""
    size = levels.shape[dim]
    if size == out:
        return levels  # the weights of the identity are exactly 0 and 1
    at, weights = filter_taps(size, out, interpolation, levels.dtype, levels.device)
    if magnitudes:
        weights = weights.abs()
    shape = [1, 1, -1, 1] if dim == 2 else [1, 1, 1, -1]
    total = levels.index_select(dim, at[0]) * weights[0].view(shape)
    for tap in range(1, len(at)):
        total.addcmul_(levels.index_select(dim, at[tap]), weights[tap].view(shape))
    return total


def fake(
    planes: list[Tensor],
    color_space: str,
    color_range: str,
    chroma_location: str,
    chroma_upsampling: str,
    height: int,
    width: int,
    interpolation: str,
    antialias: bool,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> Tensor:
    _check_planes(planes)
    for name, value in (
        ("color_space", color_space),
        ("color_range", color_range),
        ("chroma_location", chroma_location),
        ("chroma_upsampling", chroma_upsampling),
        ("interpolation", interpolation),
    ):
        if value not in OPTIONS[name]:
            raise _error(f"{name} must be {' or '.join(OPTIONS[name])}, got {shown(value)}")
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= MAX_SIZE:
            raise _error(f"{name} must be 1 to {MAX_SIZE}, got {side}")
    if not antialias:
        raise _error("antialias=False is not there yet; antialias must be True")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise _error(f"{name} must have 3 values, one per channel, got {len(values)}")
        if not all(math.isfinite(v) and abs(v) < 1e30 for v in values):
            raise _error(f"{name} must be finite and below 1e30, got {list(values)}")
    if not all(abs(v) > 1e-30 for v in std):
        raise _error(f"std must not be zero or below 1e-30, got {list(std)}")
    if dtype not in DTYPES.values():
        raise _error(f"dtype must be f16, bf16 or f32, got {describe(dtype)}")
    return planes[0].new_empty((planes[0].shape[0], 3, height, width), dtype=dtype)


def _check_planes(planes: list[Tensor]) -> None:
    if len(planes) != 2:
        raise _error(f"planes must be the two planes of NV12, (y, uv), got {len(planes)}")
    y, uv = planes
    for name, plane, dims in (
        ("y", y, "[frames, height, width]"),
        ("uv", uv, "[frames, rows, cols, 2]"),
    ):
        if plane.dim() != dims.count(",") + 1:
            raise _error(f"the {name} plane must be {dims}, got {describe(plane)}")
        if plane.dtype != torch.uint8:
            raise _error(f"the {name} plane must be uint8, got {describe(plane)}")
    F, H, W = y.shape
    if not (1 <= H <= MAX_SIZE and 1 <= W <= MAX_SIZE):
        raise _error(f"the y plane must have sides of 1 to {MAX_SIZE}, got {describe(y)}")
    wanted = [F, (H + 1) // 2, (W + 1) // 2, 2]
    if list(uv.shape) != wanted:
        raise _error(f"the uv plane must be {wanted} for y {[F, H, W]}, got {list(uv.shape)}")


def _error(text: str) -> ValueError:
    return ValueError(f"video_to_tensor: {text}")


# ---- inputs


def inputs(case: Case, generator: torch.Generator) -> dict[str, Any]:
    """`fill`: noise; a gradient with single bright pixels at corners and edges; rows of one value
    each, which tell a shift by one row; saturated colours, which clip. `layout`: tight; rows
    pitched at odd offsets, as decoders deliver them; every stride odd; frames over 2^31 bytes
    apart."""
    F, H, W = case.F, case.H, case.W
    fill = case.one_of("fill", "noise", "impulses", "rows", "saturated")
    place = generator.device
    shape = (F, (H + 1) // 2, (W + 1) // 2, 2)
    y, uv = (
        torch.randint(0, 256, size, generator=generator, dtype=torch.uint8, device=place)
        for size in ((F, H, W), shape)
    )
    if fill == "impulses":
        rows, cols = (torch.arange(n, device=place) for n in (H, W))
        ramp = rows.view(1, H, 1) + 2 * cols + y[:, :1, :1]
        y, uv = (16 + ramp // 8 % 64).to(torch.uint8), 120 + uv % 16
        for row, col in (
            (0, 0),
            (0, -1),
            (-1, 0),
            (-1, -1),
            (H // 2, 0),
            (0, W // 2),
            (H // 2, W // 2),
        ):
            y[:, row, col] = 255
    if fill == "rows":
        y = y[:, :, :1].expand(F, H, W).clone()
        uv = uv[:, :, :1].expand(shape).clone()
    if fill == "saturated":
        y, uv = (y & 1) * 255, (uv & 1) * 255
    layout = case.one_of("layout", "tight", "pitched", "strided", "sparse")
    planes = [lay_out(t, layout) for t in (y, uv)]
    return {
        "planes": planes,
        "color_space": case.get("space", "bt709"),
        "color_range": case.get("range", "limited"),
        "chroma_location": case.get("location", "left"),
        "chroma_upsampling": case.get("upsampling", "linear"),
        "height": case.h,
        "width": case.w,
        "interpolation": case.get("interpolation", "bicubic"),
        "antialias": True,
        "mean": case.get("mean", CLIP_MEAN),
        "std": case.get("std", CLIP_STD),
        "dtype": DTYPES[case.one_of("dtype", *DTYPES)],
    }


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


def cost(case: Case) -> Cost:
    """Each source byte is read once and each output written once; the multiply-adds of a separable
    filter in the cheaper order, and of the colour matrix."""
    F, H, W, h, w = case.F, case.H, case.W, case.h, case.w
    size = DTYPES[case.one_of("dtype", *DTYPES)].itemsize
    moved = H * W + 2 * ((H + 1) // 2) * ((W + 1) // 2) + 3 * h * w * size
    radius = 2 if case.get("interpolation", "bicubic") == "bicubic" else 1
    down, across = (2 * radius * max(a / b, 1.0) for a, b in ((H, h), (W, w)))
    filtered = 3 * min(h * W * down + h * w * across, H * w * across + h * w * down)
    return Cost(2 * F * (filtered + 5 * H * W), F * moved, "f32")


# ---- what may differ from the oracle


# Of the colour matrix, in levels: twice what float32 was seen to lose, 5.1e-5, in the order of the
# kernels, with FMA and without, and in that of the reference.
_COLOR_DOUBT = 1024 * EPS32


def _level_size(args: tuple) -> Tensor:
    return (1 / _scales(args)[1].abs()).div(255)


def _between(args: tuple) -> tuple[Tensor, Tensor]:
    """The least and the greatest output that arithmetic in float32 may come to, in float64.

    Where the exact value lies near a tie, each of the two roundings to levels may fall either way.
    """
    (y, uv), space, range_, location, upsampling, height, width, interpolation = args[:8]
    rgb = _rgb(y, uv, space, range_, location, upsampling, torch.float64)
    low, high = ((rgb + d).round().clamp(0, 255) for d in (-_COLOR_DOUBT, _COLOR_DOUBT))
    middle, doubt = (low + high) / 2, (high - low) / 2
    single = middle.float()
    for dim, size in ((2, height), (3, width)):
        middle, single = (_resize(t, dim, size, interpolation) for t in (middle, single))
        doubt = _resize(doubt, dim, size, interpolation, magnitudes=True)
    doubt = doubt + 2 * (single - middle).abs().max() + 16 * EPS32 * 255
    mean, std = _scales(args)
    ends = [(middle + d).round().clamp(0, 255) for d in (-doubt, doubt)]
    first, second = ((end / 255 - mean) / std for end in ends)
    return torch.minimum(first, second), torch.maximum(first, second)


def _scales(args: tuple) -> tuple[Tensor, Tensor]:
    """Mean and std of each channel, in float64."""
    place, at = args[0][0].device, video_to_tensor.params.index("mean")
    mean, std = (
        torch.tensor(v, dtype=torch.float64, device=place).view(3, 1, 1) for v in args[at : at + 2]
    )
    return mean, std


# ---- the declaration


def _rejects(p: Problem) -> str | None:
    if not fast_strides(p.planes):
        return "the bytes of a row are not next to each other"
    return None


def _cpu_rejects(p: Problem) -> str | None:
    return _rejects(p) or extension_error()


def _cuda_rejects(p: Problem) -> str | None:
    from aimills_kernels.kernels.video import cuda

    return _rejects(p) or cuda.missing(p.sm)


def _nvrtc_rejects(p: Problem) -> str | None:
    from aimills_kernels.kernels.video import nvrtc

    return _rejects(p) or nvrtc.missing(p.sm)


_TINY: dict[str, Any] = dict(F=1, H=12, W=20, h=5, w=7)
_HD: dict[str, Any] = dict(F=16, H=1080, W=1920, cpu=dict(F=1), tags={"bench", "accept"})

CASES = (
    Case("tiny", **_TINY, dtype="f32"),
    Case("tiny-f16", **_TINY, dtype="f16"),
    Case("tiny-bf16", **_TINY),
    Case("one-pixel", F=2, H=1, W=1, h=1, w=1, dtype="f32"),
    Case("one-pixel-up", F=1, H=1, W=1, h=9, w=5),
    Case("to-one-pixel", F=1, H=61, W=131, h=1, w=1, dtype="f32"),
    Case("ragged", F=2, H=67, W=131, h=23, w=45, dtype="f32"),
    Case("ragged-bilinear", F=2, H=67, W=131, h=23, w=45, interpolation="bilinear", dtype="f16"),
    Case("empty", F=0, H=12, W=20, h=5, w=7),
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
    Case("many-frames", F=70000, H=2, W=2, h=1, w=1, cpu=dict(F=300)),
    Case("hd-224", **{**_HD, "tags": _HD["tags"] | {"energy"}}, h=224, w=224),
    Case("hd-qwen2.5-vl", **_HD, h=560, w=1008),
    Case("hd-224-bilinear", **{**_HD, "tags": {"bench"}}, h=224, w=224, interpolation="bilinear"),
)  # fmt: skip


def _with(**changes: Any) -> Any:
    return lambda args: {**args, **changes}


def _planes(change: Any) -> Any:
    return lambda args: {**args, "planes": change(*args["planes"])}


ERRORS = (
    Invalid("one plane", _planes(lambda y, uv: [y]), "two planes of NV12"),
    Invalid("y of two dims", _planes(lambda y, uv: [y[0], uv]), r"y plane must be \[frames"),
    Invalid(
        "uv of three dims", _planes(lambda y, uv: [y, uv[..., 0]]), r"uv plane must be \[frames"
    ),
    Invalid("float planes", _planes(lambda y, uv: [y.float(), uv]), "y plane must be uint8"),
    Invalid("uv of wrong size", _planes(lambda y, uv: [y, uv[:, 1:]]), "uv plane must be"),
    Invalid("no rows", _planes(lambda y, uv: [y[:, :0], uv[:, :0]]), "must have sides"),
    Invalid("zero height", _with(height=0), "height must be 1 to"),
    Invalid("negative width", _with(width=-3), "width must be 1 to"),
    Invalid(
        "unknown colour space", _with(color_space="bt2020"), "color_space must be bt601 or bt709"
    ),
    Invalid("unknown range", _with(color_range="tv"), "color_range must be limited or full"),
    Invalid(
        "unknown siting", _with(chroma_location="top"), "chroma_location must be left or center"
    ),
    Invalid("unknown upsampling", _with(chroma_upsampling="cubic"), "chroma_upsampling must be"),
    Invalid("unknown filter", _with(interpolation="lanczos"), "interpolation must be bilinear or"),
    Invalid("no antialias", _with(antialias=False), "antialias must be True"),
    Invalid("two means", _with(mean=[0.5, 0.5]), "mean must have 3 values"),
    Invalid("nan mean", _with(mean=[0.5, float("nan"), 0.5]), "mean must be finite"),
    Invalid("zero std", _with(std=[0.5, 0.0, 0.5]), "std must not be zero"),
    Invalid("integer output", _with(dtype=torch.int32), "dtype must be f16, bf16 or f32"),
)

_SOURCES = (
    "csrc/include/aimills/hd.h",
    "csrc/include/aimills/convert.h",
    "csrc/video/params.h",
    "csrc/video/pixel.h",
    "csrc/video/weights.h",
    "csrc/video/tile.h",
    "csrc/video/sm80_video_to_tensor.cu",
    "csrc/bindings/video.cpp",
    "kernels/video/problem.py",
)

PROVIDERS = (
    Provider(
        "cuda", "aimills_kernels.kernels.video.cuda:launch", sm=(80, 90, 100, 120),
        rejects=_cuda_rejects, sources=_SOURCES,
    ),
    Provider(
        "nvrtc", "aimills_kernels.kernels.video.nvrtc:launch", rejects=_nvrtc_rejects,
        needs=("cupy",), sources=_SOURCES,
    ),
    Provider(
        "cpu", "aimills_kernels.kernels.video.cpu:launch", devices=("cpu",), rejects=_cpu_rejects
    ),
)  # fmt: skip

video_to_tensor = Op(
    name="video_to_tensor",
    reference=reference,
    fake=fake,
    inputs=inputs,
    cases=CASES,
    cost=cost,
    tolerance=(Levels(size=_level_size, between=_between),),
    errors=ERRORS,
    providers=PROVIDERS,
)
