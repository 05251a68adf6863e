"""The flat arguments of video_to_tensor as the compiled kernels take them."""

from __future__ import annotations

import math
import struct
import warnings
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimills_kernels.kernels.video.colour import chroma_places
from aimills_kernels.kernels.video.formats import FORMATS, KR_KB, Format, scaling
from aimills_kernels.kernels.video.layouts import LAYOUTS, Axis, Layout, layout_of
from aimills_kernels.kernels.video.pil import table
from aimills_kernels.kernels.video.resize import vertical_first

# Positions of filters and of transfers are the values of the enums in csrc/video/params.h.
OPTIONS = {
    "format": tuple(FORMATS),
    "color_space": tuple(KR_KB),
    "color_range": ("limited", "full"),
    "chroma_location": ("left", "center", "topleft"),
    "chroma_upsampling": ("linear", "nearest"),
    "transfer": ("sdr", "pq", "hlg"),
    "interpolation": ("nearest", "area", "bilinear", "bicubic", "lanczos"),
    "resize_mode": ("torch", "pil", "pil13", "fast"),
    "layout": LAYOUTS,
}
PILLOW = ("pil", "pil13")
DTYPES = {
    "bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "u8": torch.uint8,
    "e4m3": torch.float8_e4m3fn,
}  # fmt: skip
# Of csrc/video/pixel.h: for the mode "fast" one for the first source in params.h and one for the
# rest; for Pillow's modes one for the first, and one for the rest and for HDR and jitters; else one
# for each of the first two, one for the rest, and one for all where HDR or a jitter follows the
# matrix.
LOADERS = (
    "Planes420", "PlanesAny", "Pil420", "PilAny", "Yuv420", "Yuv420Wide", "General", "Graded",
)  # fmt: skip
_DTYPE_CODES = {
    torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3, torch.float8_e4m3fn: 4,
}  # fmt: skip
_STRIDES = struct.Struct("<3q")  # of frames, rows and columns of a component, in bytes
_OUTPUT = struct.Struct("<3q")
_STORE = struct.Struct("<3q 6i")
_SIZES = struct.Struct("<6i")
_OPTIONS = struct.Struct("<2i 5i 2i")
_ENDS = struct.Struct("<3i")
_FLOATS = struct.Struct("<6f 9f")
_WHOLE = struct.Struct("<Q24s Q24s Q24s Q 192s 4i 36s i 12s i 60s 12f 4x 2Q")


class Arguments(NamedTuple):
    """The flat arguments by name."""

    planes: list[Tensor]
    format: str
    color_space: str
    color_range: str
    chroma_location: str
    chroma_upsampling: str
    transfer: str
    height: int
    width: int
    crop: list[int]
    window: list[int]
    pad: list[int]
    pad_level: int
    flip: bool
    rotate: int
    jitter: list[float]
    interpolation: str
    antialias: bool
    resize_mode: str  # `mode` in public; torch.compile keeps that name of an argument to itself
    mean: list[float]
    std: list[float]
    dtype: torch.dtype
    layout: str
    clip: int
    patch: list[int]

    @property
    def form(self) -> Format:
        return FORMATS[self.format]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """What is taken of the source: top, left, height, width."""
        if self.crop:
            top, left, height, width = self.crop
            return top, left, height, width
        return 0, 0, *self.form.size(self.planes)[1:]

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after the resize, before the rotation."""
        return (self.width, self.height) if self.rotate % 180 else (self.height, self.width)

    @property
    def kept(self) -> tuple[int, int, int, int]:
        """What is stored of the resized and rotated picture: top, left, height, width."""
        if self.window:
            top, left, height, width = self.window
            return top, left, height, width
        return 0, 0, self.height, self.width

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Whether the resized picture's rows and columns are stored the other way round."""
        return self.rotate in (90, 180), (self.rotate in (180, 270)) != self.flip

    @property
    def stored(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is stored of the resized picture, before flip and rotation: its first row and the
        one behind the last, and columns likewise."""
        top, left, height, width = self.kept
        spans = [(top, top + height), (left, left + width)]
        if self.rotate % 180:
            spans.reverse()
        down, across = (
            (size - end, size - begin) if mirrored else (begin, end)
            for (begin, end), size, mirrored in zip(spans, self.resized, self.mirrored, strict=True)
        )
        return down, across

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        if self.pad:
            top, left, bottom, right = self.pad
            return top, left, bottom, right
        return 0, 0, 0, 0

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the output's pictures."""
        top, left, bottom, right = self.padding
        return top + self.kept[2] + bottom, left + self.kept[3] + right

    @property
    def by_planes(self) -> bool:
        """Whether Y, U and V are filtered, each in its own size, before the colour matrix. Of RGB
        nothing lies between the planes and the filter, so that "fast" is "torch"."""
        return self.resize_mode == "fast" and not self.form.rgb

    @property
    def placed(self) -> Layout:
        frames = self.form.size(self.planes)[0]
        return layout_of(self.layout, self.patch, frames, self.clip, *self.canvas)


def _source(form: Format) -> int:
    """The enum in csrc/video/params.h: even ones take 8 bits, odd ones 16."""
    if form.rgb:
        return 6 + (form.bits > 8)
    return {(1, 1): 0, (0, 1): 2, (0, 0): 4}[form.halved] + (form.bits > 8)


def loader_of(a: Arguments) -> str:
    graded = a.transfer != "sdr" or bool(a.jitter)
    if a.by_planes:
        return LOADERS[min(_source(a.form), 1)]
    if a.resize_mode in PILLOW:
        return LOADERS[3 if graded else 2 + min(_source(a.form), 1)]
    return LOADERS[7 if graded else 4 + min(_source(a.form), 2)]


def packed(outs: tuple[Tensor, ...], args: tuple, held: list[Tensor] | None = None) -> bytes:
    """The `Params` struct of csrc/video/params.h. Without `held` it is for the CPU. Else the tables
    that it points to are appended there: they must live until the kernel is launched."""
    return packed_at(outs[0].data_ptr(), args, held)[0]


def packed_at(address: int, args: tuple, held: list[Tensor] | None = None) -> tuple[bytes, int]:
    """The struct for an output at this address, and how many bytes it has. All but the addresses,
    the crop and the jitter, which training draws anew, is kept from call to call: to work it out
    takes ten times as long as to find it."""
    planes, crop, jitter = args[0], args[_CROP], args[_JITTER]
    key = geometry(planes, _kept_of(args))
    if (found := _KEPT.get(key)) is None:
        if len(_KEPT) >= _KEPT_MOST:
            _KEPT.clear()
        found = _KEPT[key] = _without_addresses(Arguments(*args))
    (y, u, v), (y_strides, u_strides, v_strides), whole, passes, parts, codes, size = found
    box = tuple(crop) or whole
    starts = [t.data_ptr() for t in planes]
    stores, options, ends, floats = parts
    packed = _WHOLE.pack(
        starts[y[0]] + y[1], y_strides, starts[u[0]] + u[1], u_strides, starts[v[0]] + v[1],
        v_strides, address, stores, *box, options, passes(box), ends,
        bool(jitter) and codes is None, floats, *_affine_rows(jitter, codes),
        *_tables(args, box, held),
    )  # fmt: skip
    return packed, size


def _tables(args: tuple, box: tuple[int, ...], held: list[Tensor] | None) -> tuple[int, int]:
    """Addresses of the weights down and across: 0 where the kernel computes its own."""
    if held is None or args[_MODE] not in PILLOW:
        return 0, 0
    a = Arguments(*args)
    (height, width), device = a.resized, a.planes[0].device
    both = [
        table(size, out, a.interpolation, device)
        for size, out in ((box[2], height), (box[3], width))
    ]
    held += both
    return both[0].data_ptr(), both[1].data_ptr()


def geometry(planes: list[Tensor], others: tuple) -> tuple:
    """A key of all but the addresses."""
    return (
        *[tuple(a) if type(a) is list else a for a in others],
        *[(t.shape, t.stride()) for t in planes],
    )


_CROP, _JITTER = Arguments._fields.index("crop"), Arguments._fields.index("jitter")
_MODE = Arguments._fields.index("resize_mode")
_NO_JITTER = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
_kept_of = itemgetter(*(i for i in range(1, len(Arguments._fields)) if i not in (_CROP, _JITTER)))
_KEPT: dict[tuple, tuple] = {}
_KEPT_MOST = 256


def _without_addresses(a: Arguments) -> tuple:
    """(plane, offset in bytes) and the strides of each component, the box of the whole frame, the
    passes for a box, what surrounds these in the struct, of planes that are filtered before it the
    matrix from their codes, and the bytes of the output."""
    form, place = a.form, a.placed
    frames, height, width = form.size(a.planes)
    zero, weights = _chroma(form.bits, form.halved, a.chroma_location, a.chroma_upsampling)
    components, strides = [], []
    for plane, index in form.components:
        t, dim = a.planes[plane], form.channel_dim(plane)
        size, steps = t.element_size(), list(t.stride())
        components.append((plane, 0 if dim is None else index * steps.pop(dim) * size))
        strides.append(_STRIDES.pack(*(s * size for s in steps)))
    stores = (
        _OUTPUT.pack(frames, place.clip_stride, place.channel), *_stores(a, place),
        _SIZES.pack(height, width, *a.resized, a.stored[0][0], a.stored[1][0]),
    )  # fmt: skip
    parts = (
        b"".join(stores),
        _OPTIONS.pack(
            _source(form), form.shift, zero, *weights,
            OPTIONS["interpolation"].index(a.interpolation), a.antialias,
        ),
        _ENDS.pack(
            _DTYPE_CODES[a.dtype], a.pad_level, OPTIONS["transfer"].index(a.transfer)
        ),
        _FLOATS.pack(
            *color_of(a),
            *_affine(a.mean, a.std, a.dtype == torch.uint8),
        ),
    )  # fmt: skip
    size = math.prod(place.shape) * a.dtype.itemsize
    passes = partial(_passes, "planes" if a.by_planes else a.resize_mode, a.resized)
    codes = _code_rows(a) if a.by_planes else None
    return tuple(components), tuple(strides), (0, 0, height, width), passes, parts, codes, size


def _stores(a: Arguments, place: Layout) -> list[bytes]:
    """Of time, of the resized picture's rows and of its columns."""
    (tall, wide), (top, left, _, _) = a.canvas, a.padding
    sides = [(place.rows, top, tall), (place.cols, left, wide)]
    if a.rotate % 180:
        sides.reverse()
    axes = zip(sides, a.stored, a.mirrored, strict=True)
    return [
        _store(place.time, 0, place.filled, (0, place.clip), False),
        *(_store(*side, span, mirrored) for side, span, mirrored in axes),
    ]


def _store(axis: Axis, at: int, length: int, span: tuple[int, int], mirrored: bool) -> bytes:
    """Of the samples of a span, which lie from the position `at` on."""
    begin, end = span
    first, step = (at + end - 1, -1) if mirrored else (at - begin, 1)
    return _STORE.pack(
        axis.pixel, axis.patch, axis.group, first, step, axis.pixels, axis.patches, end, length
    )


def _passes(mode: str, resized: tuple[int, int], box: tuple[int, ...]) -> int:
    """The enum in csrc/video/params.h."""
    if mode in ("torch", "fast", "planes"):
        return 3 if mode == "planes" else 0
    return 2 if vertical_first(mode, (box[2], box[3]), resized) else 1


def _chroma(
    bits: int, halved: tuple[int, int], location: str, upsampling: str
) -> tuple[int, tuple[int, ...]]:
    """The zero of chroma in sixteenths of a code, and the quarters that even and odd rows, even and
    odd columns take of the outer neighbour."""
    weights: tuple[int, ...] = ()
    for half, cosited in zip(halved, chroma_places(location), strict=True):
        linear = half and upsampling == "linear"
        weights += (0, 0) if not linear else (0, 2) if cosited else (1, 1)
    return 16 * int(scaling(bits, "full").zero), weights


def color_of(a: Arguments) -> tuple[float, ...]:
    """The `Color` of csrc/video/params.h. RGB has all of its codes' range."""
    return _color(a.form.bits, a.color_space, "full" if a.form.rgb else a.color_range)


def _color(bits: int, space: str, range_: str) -> tuple[float, ...]:
    s = scaling(bits, range_)
    kr, kb = KR_KB[space]
    kg, chroma = 1 - kr - kb, s.chroma_scale / 16
    return (
        s.luma_scale, -s.black * s.luma_scale, 2 * (1 - kr) * chroma,
        -2 * kb * (1 - kb) / kg * chroma, -2 * kr * (1 - kr) / kg * chroma, 2 * (1 - kb) * chroma,
    )  # fmt: skip


def code_matrix(a: Arguments) -> list[list[float]]:
    """From Y, U and V in codes to RGB levels, with the jitter: rows of three factors and an
    offset."""
    return _rows(_affine_rows(a.jitter, _code_rows(a)))


def _code_rows(a: Arguments) -> list[list[float]]:
    """The same without a jitter."""
    luma, black, r_v, g_u, g_v, b_u = _color(a.form.bits, a.color_space, a.color_range)
    zero = scaling(a.form.bits, a.color_range).zero
    chroma = [[16 * u, 16 * v, black - 16 * zero * (u + v)]
              for u, v in ((0.0, r_v), (g_u, g_v), (b_u, 0.0))]  # fmt: skip
    return [[luma, *row] for row in chroma]


def _rows(numbers: list[float]) -> list[list[float]]:
    return [numbers[i : i + 4] for i in (0, 4, 8)]


def _affine_rows(jitter: list[float], codes: list[list[float]] | None) -> list[float]:
    """Of a jitter, its offsets in levels, behind the matrix from codes where that has not been
    applied before: twelve numbers, by rows."""
    own = [255 * v if i % 4 == 3 else v for i, v in enumerate(jitter or _NO_JITTER)]
    if codes is None:
        return own
    return [
        sum(row[k] * codes[k][i] for k in range(3)) + (row[3] if i == 3 else 0)
        for row in _rows(own) for i in range(4)
    ]  # fmt: skip


def _affine(mean: list[float], std: list[float], levels: bool) -> list[float]:
    """The mean in levels as two floats, and the scale; of `levels` nothing is changed."""
    if levels:
        return [0.0] * 6 + [1.0] * 3
    high = [_f32(255.0 * m) for m in mean]
    low = [255.0 * m - h for m, h in zip(mean, high, strict=True)]
    return high + low + [1.0 / (255.0 * s) for s in std]


def _f32(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0]


def extension() -> Any:
    from aimills_kernels import _C

    return _C


@lru_cache(maxsize=1)
def extension_error() -> str | None:
    """Why the extension can't be used, with a warning; None where it can."""
    try:
        extension()
    except ImportError as error:
        reason = f"the extension can't be imported: {error}"
        warnings.warn(f"video_to_tensor: {reason}; what serves is far slower", stacklevel=2)
        return reason
    return None
