"""The table of errors in kernels/video/README.md: each mode of video_to_tensor against Pillow,
torch, swscale and OpenCV.

    python -m tools.video_errors            print it
    python -m tools.video_errors --update   write it between the markers

A cell is measured by itself, so that a test can measure a few of them again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video.formats import FORMATS, KR_KB
from aimills_kernels.kernels.video.problem import OPTIONS
from tools import video_oracles as oracles
from tools.page_part import Part

PAGE = Path(__file__).parents[1] / "kernels" / "video" / "README.md"
_PART = "errors"
MODES = OPTIONS["resize_mode"]
_IN_INTEGERS = ("pil", "pil13")  # they filter in integers: what is equal is so on every machine
FILTERS = [
    *((name, True) for name in ("bicubic", "bilinear", "lanczos", "area", "nearest")),
    *((name, False) for name in ("bicubic", "bilinear")),
]
SIZES = {
    "shrink": [(129, 215, 30, 50), (120, 180, 40, 60), (90, 126, 60, 84), (200, 100, 50, 50)],
    "grow": [(60, 70, 102, 119), (31, 40, 93, 80)],
    "both": [(97, 131, 60, 200), (40, 150, 90, 33)],
}
CHROMA = ("nearest", *OPTIONS["chroma_location"])
Resize = Callable[[Tensor, tuple[int, int], str, bool], Tensor | None]


@dataclass(frozen=True)
class Error:
    """In levels, over all samples of all pictures of a cell."""

    largest: int
    mean: float

    def __str__(self) -> str:
        return f"{self.largest} ({float(f'{self.mean:.1g}'):g})" if self.mean else "0"


@dataclass(frozen=True)
class Cell:
    table: str
    row: tuple[str, ...]
    column: str
    measure: Callable[[], str]


def _error(pairs: Iterator[tuple[Tensor, Tensor]]) -> Error | None:
    """None where there is no pair."""
    largest, total, count = 0, 0, 0
    for got, want in pairs:
        apart = (got.int() - want.int()).abs()
        largest, total = max(largest, int(apart.max())), total + int(apart.sum())
        count += apart.numel()
    return Error(largest, total / count) if count else None


# ---- pictures


@cache
def noise(height: int, width: int, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(1000 * height + width + seed)
    return torch.randint(0, 256, (3, height, width), generator=made, dtype=torch.uint8)


@cache
def smooth(height: int, width: int) -> Tensor:
    """Slow waves, other ones in each channel, well within the range."""
    rows, cols = torch.arange(height).view(-1, 1) / 9, torch.arange(width) / 11
    waves = [torch.sin(rows + k) * torch.cos(cols - k) for k in range(3)]
    return torch.stack([(128 + 60 * w.double()).round() for w in waves]).to(torch.uint8)


@cache
def yuv(format: str, range_: str, height: int, width: int, kind: str) -> list[Tensor]:
    """Noise, or slow waves of little colour, in codes that the range has."""
    form = FORMATS[format]
    top, step = 2**form.bits - 1, 2 ** (form.bits - 8)
    found = []
    for i in range(len(form.planes)):
        shape = form.shape(i, 1, height, width)
        if kind == "noise":
            made = torch.Generator().manual_seed(i)
            codes = torch.randint(0, top + 1, shape, generator=made)
        else:
            rows, cols = (torch.arange(n) / 9 for n in shape[1:3])
            wave = torch.sin(rows).view(-1, 1) * torch.cos(cols + i)
            wave = (128 + (60 - 40 * (i > 0)) * wave.double()) * step
            codes = wave.round().long().view(1, *wave.shape, *[1] * (len(shape) - 3)).expand(shape)
        if range_ == "limited":
            codes = 16 * step + codes * (224 if i else 219) * step // top
        found.append((codes << form.shift).to(form.dtype).contiguous())
    return found


# ---- the resize


def _resized(levels: Tensor, size: tuple[int, int], filter_: str, wide: bool, mode: str) -> Tensor:
    return ak.video_to_tensor(
        (levels[None],), format="rgbp", size=size, interpolation=filter_, antialias=wide,
        mode=mode, dtype=torch.uint8,
    )[0]  # fmt: skip


def _always_wide(resize: Callable[[Tensor, tuple[int, int], str], Tensor | None]) -> Resize:
    """Of a library that knows no filter without antialias."""
    return lambda levels, size, filter_, wide: resize(levels, size, filter_) if wide else None


RESIZES: dict[str, Resize] = {
    "torch `F.interpolate`, f64": oracles.torch_resize,
    "Pillow 12": _always_wide(oracles.pillow_across_first),
    "Pillow 13": _always_wide(oracles.pillow_resize),
    "swscale": _always_wide(oracles.swscale_resize),
    "OpenCV": oracles.opencv_resize,
}


def _resize_error(mode: str, filter_: str, wide: bool, ratio: str, oracle: str) -> str:
    def pairs(picture: Callable[[int, int], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for H, W, h, w in SIZES[ratio]:
            want = RESIZES[oracle](picture(H, W), (h, w), filter_, wide)
            if want is not None:
                yield _resized(picture(H, W), (h, w), filter_, wide, mode), want

    try:
        found = [_error(pairs(picture)) for picture in (noise, smooth)]
    except ValueError:  # the mode has no such filter
        return "refused"
    return "; ".join(map(str, found)) if found[0] else ""


def _resize_cells() -> Iterator[Cell]:
    for mode in (m for m in MODES if m != "fast"):  # of RGB it is "torch"
        for filter_, wide in FILTERS:
            for ratio in SIZES:
                row = (mode, filter_ if wide else f"{filter_}, no antialias", ratio)
                for oracle in RESIZES:
                    measure = partial(_resize_error, mode, filter_, wide, ratio, oracle)
                    yield Cell("resize", row, oracle, measure)


# ---- colours


Colours = Callable[[list[Tensor], str, str, str, str], Tensor | None]
COLOURS: dict[str, Colours] = {
    "swscale": oracles.swscale_rgb,
    "torch, f64": oracles.torch_rgb,
    "OpenCV": oracles.opencv_rgb,
    "Pillow": oracles.pillow_rgb,
}


def _coloured(
    planes: list[Tensor], format: str, space: str, range_: str, chroma: str, **more: object
) -> Tensor:
    nearest = chroma == "nearest"
    return ak.video_to_tensor(
        planes, format=format, color_space=space, color_range=range_,
        chroma_location="left" if nearest else chroma,
        chroma_upsampling="nearest" if nearest else "linear", dtype=torch.uint8,
        **more,  # type: ignore[arg-type]
    )[0]  # fmt: skip


def _colour_error(format: str, range_: str, space: str, oracle: str) -> str:
    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        planes = yuv(format, range_, 32, 48, "noise")
        for chroma in CHROMA:
            want = COLOURS[oracle](planes, format, space, range_, chroma)
            if want is not None:
                yield _coloured(planes, format, space, range_, chroma), want

    return str(_error(pairs()) or "")


def _colour_cells() -> Iterator[Cell]:
    for format in oracles.SWSCALE:
        for range_ in OPTIONS["color_range"]:
            for space in KR_KB:
                for oracle in COLOURS:
                    measure = partial(_colour_error, format, range_, space, oracle)
                    yield Cell("colours", (format, range_, space), oracle, measure)


# ---- both


def _torch_chain(
    planes: list[Tensor], format: str, space: str, range_: str, size: tuple[int, int]
) -> Tensor | None:
    return oracles.torch_resize(
        oracles.torch_rgb(planes, format, space, range_, "left"), size, "bicubic"
    )


def _pillow_chain(
    planes: list[Tensor], format: str, space: str, range_: str, size: tuple[int, int]
) -> Tensor:
    levels = oracles.swscale_rgb(planes, format, space, range_, "left")
    return oracles.pillow_resize(levels, size, "bicubic")


def _opencv_chain(
    planes: list[Tensor], format: str, space: str, range_: str, size: tuple[int, int]
) -> Tensor | None:
    levels = oracles.opencv_rgb(planes, format, space, range_, "nearest")
    return None if levels is None else oracles.opencv_resize(levels, size, "area")


def _mode_torch(
    planes: list[Tensor], format: str, space: str, range_: str, size: tuple[int, int]
) -> Tensor:
    return _coloured(planes, format, space, range_, "left", size=size)


@dataclass(frozen=True)
class Chain:
    """`run` has this filter and chroma built in, and gives None for what it does not have."""

    run: Callable[..., Tensor | None]
    filter: str = "bicubic"
    chroma: str = "left"
    sizes: tuple[tuple[int, int, int, int], ...] = ((96, 160, 28, 56), (66, 90, 60, 84))


CHAINS = {
    'mode "torch"': Chain(_mode_torch),
    "torch, f64": Chain(_torch_chain),
    "swscale's colours, Pillow 13": Chain(_pillow_chain),
    "swscale in one": Chain(oracles.swscale_whole),
    "OpenCV, area": Chain(_opencv_chain, "area", "nearest", ((96, 160, 32, 40), (64, 90, 32, 45))),
}
CHAIN_FORMATS = ("nv12", "i420", "p010", "yuv422p", "yuv444p")


def _chain_error(mode: str, format: str, oracle: str) -> str:
    chain = CHAINS[oracle]

    def pairs(kind: str) -> Iterator[tuple[Tensor, Tensor]]:
        for H, W, h, w in chain.sizes:
            for range_ in OPTIONS["color_range"]:
                planes = yuv(format, range_, H, W, kind)
                for space in KR_KB:
                    want = chain.run(planes, format, space, range_, (h, w))
                    if want is not None:
                        yield _coloured(
                            planes, format, space, range_, chain.chroma, size=(h, w), mode=mode,
                            interpolation=chain.filter,
                        ), want  # fmt: skip

    found = [_error(pairs(kind)) for kind in ("noise", "smooth")]
    return "; ".join(map(str, found)) if found[0] else ""


def _chain_cells() -> Iterator[Cell]:
    for mode in MODES:
        for format in CHAIN_FORMATS:
            for oracle in CHAINS:
                measure = partial(_chain_error, mode, format, oracle)
                yield Cell("both", (mode, format), oracle, measure)


# ---- the page


_HEADS = {
    "resize": (
        ("mode", "filter", "sizes"),
        "The resize alone, of RGB, for which `fast` is `torch`. Each cell: largest (mean) error on "
        "noise; on a smooth picture.",
    ),
    "colours": (
        ("format", "range", "matrix"),
        "The colours alone, on noise, with nearest chroma and linear chroma at each place.",
    ),
    "both": (
        ("mode", "format"),
        "Colours and a bicubic resize that shrinks, over three matrices and two ranges: noise; a "
        "smooth picture. swscale filters Y, U and V and then converts, as the mode `fast` does; "
        "where noise leaves the range of RGB, that is another picture. OpenCV: the filter area, "
        "BT.601, limited range and nearest chroma.",
    ),
}


def cells() -> list[Cell]:
    """All that the tables hold; modes, formats, matrices and ranges are those of the op."""
    return [*_resize_cells(), *_colour_cells(), *_chain_cells()]


def lines() -> list[str]:
    """The tables as Markdown."""
    torch.set_num_threads(1)
    found, made = cells(), []
    for table, (heads, about) in _HEADS.items():
        mine = [c for c in found if c.table == table]
        columns = list(dict.fromkeys(c.column for c in mine))
        titles = [*heads, *columns]
        made += ["", about, "", _line(titles), _line(["---"] * len(titles))]
        for row in dict.fromkeys(c.row for c in mine):
            by_column = {c.column: c.measure() for c in mine if c.row == row}
            if any(text not in ("", "refused") for text in by_column.values()):
                made.append(_line([*row, *(by_column[c] for c in columns)]))
    return [*made, ""]


def _line(parts: list[str]) -> str:
    return f"| {' | '.join(parts)} |".replace("|  |", "| |").replace("|  |", "| |")


def committed(page: Path = PAGE) -> dict[tuple[str, tuple[str, ...], str], str]:
    """The cells that the page has, by table, row and column."""
    found = {}
    blocks = re.findall(r"(?:^\|.*\|\n)+", Part(page, _PART).read(), re.M)
    for (table, (heads, _)), block in zip(_HEADS.items(), blocks, strict=True):
        head, _, *rows = ([p.strip() for p in line.split("|")[1:-1]] for line in block.splitlines())
        for row in rows:
            for column, text in zip(head[len(heads) :], row[len(heads) :], strict=True):
                found[table, tuple(row[: len(heads)]), column] = text
    return found


def stale(some: Iterable[Cell], page: Path = PAGE) -> list[str]:
    """Where the page does not say what is measured now; a tie may fall the other way on another
    machine, which changes few samples by one level."""
    said, found = committed(page), []
    for cell in some:
        text, old = cell.measure(), said.get((cell.table, cell.row, cell.column))
        if old is None:
            if text not in ("", "refused"):
                found.append(f"{cell.row} against {cell.column} is {text}, and has no row")
        elif not _agree(_numbers(text), _numbers(old), cell.row[0] in _IN_INTEGERS):
            found.append(f"{cell.row} against {cell.column} is {text}, not {old}")
    return found


def _numbers(text: str) -> list[tuple[int, float]]:
    parts = re.findall(r"(\d+)(?: \((\S+)\))?", text)
    return [(int(largest), float(mean or 0)) for largest, mean in parts]


def _agree(new: list[tuple[int, float]], old: list[tuple[int, float]], exactly: bool) -> bool:
    if len(new) != len(old):
        return False
    return all(
        a == b or (not (exactly and 0 in (a[0], b[0]))
        and abs(a[0] - b[0]) <= 1 and abs(a[1] - b[1]) <= 2e-4 + 0.2 * b[1])
        for a, b in zip(new, old, strict=True)
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="The errors of video_to_tensor's modes.")
    part = Part(PAGE, _PART)
    part.add_option(parser)
    part.give(parser.parse_args().update, lines)


if __name__ == "__main__":
    main()
