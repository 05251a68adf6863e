"""What the cost of video_to_tensor says is read: against bytes worked by hand, and against what the
reference's output depends on."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.video.cases import case_options
from aimills_kernels.kernels.video.cost import _axis

OP = get_op("video_to_tensor")
# 400 x 600 to 40 x 60 by bicubic: an output at 10 i + 5 reads 20 samples to either side. Of rows 10
# to 29 the first is at 105 and the last at 295, of columns 5 to 34 at 55 and 345.
_ROWS, _COLS = 315 - 85, 365 - 35
_WINDOW = {"window": (10, 5, 20, 30)}
_CROPPED = {"crop": (1, 0, 399, 600), "h": 399, "w": 600, "window": (85, 0, 230, 600)}


def moved(**given: Any) -> float:
    """Bytes of u8 to u8, of two frames."""
    whole = {"F": 2, "H": 400, "W": 600, "h": 40, "w": 60, "dtype": "u8"}
    return OP.cost(Case("c", **{**whole, **given})).bytes


BYTES: list[tuple[dict[str, Any], int]] = [
    ({"format": "rgb24"}, 3 * (400 * 600 + 40 * 60)),
    ({"format": "rgb24", **_WINDOW}, 3 * (_ROWS * _COLS + 20 * 30)),
    # At the picture's edge the filter ends with it: rows to 195 + 20, columns to 295 + 20.
    ({"format": "rgb24", "window": (0, 0, 20, 30)}, 3 * (215 * 315 + 20 * 30)),
    ({"format": "rgb24", "mode": "pil13", **_WINDOW}, 3 * (_ROWS * _COLS + 20 * 30)),
    # Output 3 of 6 reaches from 5.5 to 7.33 of 11, and by Pillow's floats its window begins at
    # sample 5; nearest output 3 of 7 is at 1 of 2, and Pillow's sum of scales ends below that.
    ({"format": "rgb24", "mode": "pil", "interpolation": "area", "H": 11, "h": 6,
      "window": (3, 5, 1, 30)}, 3 * (2 * 300 + 30)),
    ({"format": "rgb24", "mode": "pil", "interpolation": "nearest", "H": 2, "h": 7,
      "window": (3, 5, 2, 30)}, 3 * (2 * 291 + 2 * 30)),
    # Row 85 of luma lies between 42 and 43 of chroma, 314 between 156 and 157; column 35 between 17
    # and 18, and 364 on 182.
    ({**_WINDOW}, _ROWS * _COLS + 2 * (158 - 42) * (183 - 17) + 3 * 20 * 30),
    # "fast": outputs 5 chroma samples apart read 10 to either side; rows from 52.5 to 147.5,
    # columns, which lie a quarter of a chroma sample further, from 27.75 to 172.75.
    ({"mode": "fast", **_WINDOW},
     _ROWS * _COLS + 2 * (158 - 43) * (183 - 18) + 3 * 20 * 30),
    # Columns 3 apart, from 16.5 to 103.5 of luma, and from 8.5 to 52 of chroma, which read 3 of it.
    ({"mode": "fast", "W": 300, "w": 100, **_WINDOW},
     _ROWS * (110 - 11) + 2 * (158 - 43) * (55 - 6) + 3 * 20 * 30),
    # Rows 86 to 315 of the picture: 86 lies between 42 and 43 of chroma, 315 between 157 and 158.
    ({**_CROPPED}, 230 * 600 + 2 * (159 - 42) * 300 + 3 * 230 * 600),
    ({**_CROPPED, "location": "topleft"}, 230 * 600 + 2 * (159 - 43) * 300 + 3 * 230 * 600),
    ({**_CROPPED, "upsampling": "nearest"}, 230 * 600 + 2 * (158 - 43) * 300 + 3 * 230 * 600),
    # Columns enlarged: outputs lie at 1.25 to 4.75 and read 2 to either side.
    ({"format": "rgb24", "h": 400, "w": 1200, "window": (7, 2, 1, 8)},
     3 * (1 * (7 - 0) + 1 * 8)),
    ({"format": "rgb24", "interpolation": "nearest", **_WINDOW},
     3 * ((295 - 105 + 1) * (345 - 55 + 1) + 20 * 30)),
    ({"format": "rgb24", "antialias": False, **_WINDOW},
     3 * ((297 - 103) * (347 - 53) + 20 * 30)),
    # Turned clockwise: column c of the result is row 39 - c of what was resized.
    ({"format": "rgb24", "h": 60, "w": 40, "rotate": 90, "window": (5, 10, 30, 20)},
     3 * (_ROWS * _COLS + 20 * 30)),
    ({"format": "p010", "dtype": "bf16", **_WINDOW},
     2 * (_ROWS * _COLS + 2 * 116 * 166 + 3 * 20 * 30)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), BYTES)
def test_bytes_by_hand(given: dict[str, Any], expected: int) -> None:
    assert moved(**given) == 2 * expected


def test_clips_with_windows_cost_what_each_does() -> None:
    ragged = Case("c", clips=((2, 400, 600, 40, 60), (1, 400, 600, 40, 60)), dtype="u8",
                  windows=((10, 5, 20, 30), (0, 0, 20, 30)))  # fmt: skip
    ours = get_op("video_to_tensor_ragged").cost(ragged).bytes
    assert ours == moved(**_WINDOW) + moved(F=1, window=(0, 0, 20, 30))


def test_a_windows_multiply_adds() -> None:
    """40 taps each way: down in the columns that the filter reads, then across; and the matrix."""
    whole = Case("c", F=2, H=400, W=600, h=40, w=60, **_WINDOW)
    down, across = 20 * _COLS * 40, 20 * 30 * 40
    assert OP.cost(whole).flops == 4 * (3 * (down + across) + 5 * _ROWS * _COLS)
    padded = Case("c", F=2, H=400, W=600, h=40, w=60, pad=(1, 2, 3, 4), **_WINDOW)
    assert OP.cost(padded).flops == OP.cost(whole).flops


FORMATS = ("nv12", "yuv422p", "yuv444p", "rgb24")


@pytest.mark.parametrize("mode", ["torch", "fast", "pil", "pil13"])
def test_what_is_read_is_what_the_output_depends_on(mode: str, seed: int) -> None:
    """Of random windows no row outside changes the output, and of those inside all but few do:
    weights near 0 are lost in the rounding to levels."""
    rng = random.Random(seed)
    inside = outside = 0
    for _ in range(6):
        H, W, h, w = (rng.randint(2, 24) for _ in range(4))
        tall, wide = rng.randint(1, h), rng.randint(1, w)
        window = (rng.randint(0, h - tall), rng.randint(0, w - wide), tall, wide)
        plain = mode.startswith("pil")
        case = Case(
            "c", F=1, H=H, W=W, h=h, w=w, mode=mode, window=window, dtype="f32",
            format=rng.choice(FORMATS), rotate=rng.choice((0, 90, 180, 270)),
            location=rng.choice(("left", "center", "topleft")), flip=rng.random() < 0.5,
            upsampling=rng.choice(("linear", "nearest")), antialias=plain or rng.random() < 0.7,
            interpolation=rng.choice(("nearest", "area", "bilinear", "bicubic", "lanczos")),
            mean=(0.0,) * 3, std=(1 / 255,) * 3,
        )  # fmt: skip
        args = OP.make_inputs(case, "cpu", rng.randint(0, 1 << 30))
        for axis in (0, 1):
            told = _axis(case_options(case), axis)
            size = (H, W)[axis]
            luma, chroma = changed(args, axis, size, case_options(case).form)
            assert spread(luma) <= told.luma, case
            assert spread(chroma) <= told.chroma, case
            inside += len(luma)
            outside += told.luma
    assert inside > 0.6 * outside


def changed(args: tuple, axis: int, size: int, form: Any) -> tuple[list[int], list[int]]:
    """Luma or RGB rows (columns) whose bytes change the output, and chroma rows likewise."""
    before = OP.reference(*args)
    found: tuple[list[int], list[int]] = ([], [])
    views = form.views(args[0])
    for kind, plane in enumerate((views if form.rgb else views[:1], [] if form.rgb else views[1:])):
        for at in range(max((v.shape[1 + axis] for v in plane), default=0)):
            kept = [v.clone() for v in plane]
            for level in (0, 255):
                for v in plane:
                    v.select(1 + axis, at).fill_(level)
                if not torch.equal(OP.reference(*args), before):
                    found[kind].append(at)
                    break
            for v, old in zip(plane, kept, strict=True):
                v.copy_(old)
    return found


def spread(found: list[int]) -> float:
    return found[-1] - found[0] + 1 if found else -math.inf
