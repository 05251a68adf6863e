"""video_to_tensor beyond its declared cases: independent implementations, random shapes, the CUDA
kernel's logic on the host, planted faults, threads and forks."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case, Provider
from aimills_kernels._validate import validate
from aimills_kernels.harness import specs
from aimills_kernels.kernels.video.cases import lay_out
from aimills_kernels.kernels.video.colour import rgb_levels
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import OPTIONS, Arguments, packed
from aimills_kernels.kernels.video.resize import filter_taps

extension = pytest.importorskip("aimills_kernels._C")
ROOT = Path(__file__).parents[1]


# ---- providers that only tests have


def launch_emulated(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The CUDA kernel's phases on the host; 3 blocks take all tiles in turns."""
    held: list[Tensor] = []
    extension.video_to_tensor_emulated(extension.VideoParams(packed(outs, args, held)), 3)


def launch_baseline(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The CPU kernel without vector extensions."""
    params = extension.VideoParams(packed(outs, args))
    extension.video_to_tensor_cpu(params, 2, baseline=True)


def launch_off_by_one_row(outs: tuple[Tensor, ...], *args: Any) -> None:
    y, uv = args[0]
    rows = torch.arange(1, y.shape[1] + 1).clamp(max=y.shape[1] - 1)
    launch_baseline(outs, [y.index_select(1, rows), uv], *args[1:])


def launch_truncated(outs: tuple[Tensor, ...], *args: Any) -> None:
    """Rounds levels down, as some converters do."""
    a = Arguments(*args)
    shifted = [m + 0.5 / 255 for m in a.mean]
    plain = a._replace(mean=[0.0] * 3, std=[1.0] * 3, dtype=torch.float32)
    op_levels = op.reference(*plain)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (shifted, a.std))
    outs[0].copy_((op_levels - mean) / std)


def launch_last_column_missing(outs: tuple[Tensor, ...], *args: Any) -> None:
    keep = outs[0][..., -1].clone()
    launch_baseline(outs, *args)
    outs[0][..., -1] = keep


def provider(name: str) -> Provider:
    return Provider(name, f"{__name__}:launch_{name}", devices=("cpu",))


SMALL = [c for c in op.cases if not c.name.startswith("hd-")]


@pytest.mark.parametrize("name", ["emulated", "baseline"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_case(case, name):
    result = validate(op, case, provider(name), device="cpu")
    assert not result.failures, str(result)


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in op.cases if c.name.startswith("hd-")], ids=str)
def test_emulated_at_full_size(case):
    result = validate(op, case, provider("emulated"), device="cpu")
    assert result.ok, str(result)


@pytest.mark.parametrize("fault", ["off_by_one_row", "truncated", "last_column_missing"])
@pytest.mark.parametrize("name", ["rows", "ragged", "impulses"])
def test_planted_fault_is_found(fault, name):
    assert validate(op, name, provider(fault), device="cpu").failures


# ---- random shapes


def random_case(rng: random.Random) -> Case:
    def side(limit: int) -> int:
        return rng.choice([rng.randint(1, 9), rng.randint(1, limit), rng.randint(1, limit)])

    H, W, h, w = side(200), side(400), side(150), side(250)
    store = rng.choice(["NCHW", "NCHW", "NHWC", "NTCHW", "NCTHW", "patches"])
    patch = (rng.choice([1, 2]), rng.choice([1, 2, 7, 14]), rng.choice([1, 2]))
    unit = patch[1] * patch[2]
    if store == "patches":
        h, w = -(-h // unit) * unit, -(-w // unit) * unit
    pad = [rng.choice([0, unit]) for _ in range(4)]
    top, left = rng.randrange(H), rng.randrange(W)
    crop = (top, left, rng.randint(1, H - top), rng.randint(1, W - left))
    interpolation = rng.choice(["nearest", "area", "bilinear", "bicubic", "bicubic", "lanczos"])
    antialias = interpolation in ("area", "lanczos") or rng.random() < 0.7
    return Case(
        "random",
        F=rng.choice([1, 1, 2, 3]), H=H, W=W, h=h, w=w,
        format=rng.choice(["nv12", *OPTIONS["format"]]),
        interpolation=interpolation,
        antialias=antialias,
        space=rng.choice(["bt601", "bt709", "bt2020"]),
        range=rng.choice(["limited", "full"]),
        location=rng.choice(["left", "center", "topleft"]),
        upsampling=rng.choice(["linear", "linear", "nearest"]),
        dtype=rng.choice(["f32", "f16", "bf16", "u8", "e4m3"]),
        fill=rng.choice(["noise", "impulses", "rows", "saturated"]),
        layout=rng.choice(["tight", "pitched", "strided"]),
        crop=rng.choice([(), (), crop]),
        pad=rng.choice([(), (), pad]), pad_level=rng.randrange(256),
        flip=rng.random() < 0.3, rotate=rng.choice([0, 0, 0, 90, 180, 270]),
        store=store, patch=patch if store == "patches" else (),
        mode=rng.choice(["torch", "fast", *(["pil", "pil13"] if antialias else [])]),
        window=rng.choice([(), random_window(rng, h, w, unit if store == "patches" else 1)]),
    )  # fmt: skip


def random_window(rng: random.Random, h: int, w: int, unit: int) -> tuple[int, ...]:
    height, width = (unit * rng.randint(1, side // unit) for side in (h, w))
    return rng.randint(0, h - height), rng.randint(0, w - width), height, width


def check_random(name: str, seeds: range) -> None:
    launch = globals().get(f"launch_{name}")
    for seed in seeds:
        rng = random.Random(seed)
        case = random_case(rng)
        args = op.make_inputs(case, "cpu", seed)
        out = op.fake(*args)
        out.view(-1).view(torch.uint8).fill_(0xFF)  # NaN, where the dtype has one
        if name == "cpu":
            run_cpu(out, args, threads=rng.choice([1, 2, 3, 7]))
        else:
            launch((out,), *args)
        (oracle,), reference = op.oracle(args), op.reference(*args)
        verdict = op.tolerance[0].judge(out, oracle, reference, args)
        assert verdict.ok, f"seed {seed}: {case.describe()}: {verdict.text}"


def run_cpu(out: Tensor, args: tuple, threads: int) -> None:
    extension.video_to_tensor_cpu(extension.VideoParams(packed((out,), args)), threads)


@pytest.mark.parametrize("name", ["cpu", "baseline", "emulated"])
def test_random_shapes(name):
    check_random(name, range(8))


@pytest.mark.full
@pytest.mark.parametrize("name", ["cpu", "baseline", "emulated"])
def test_many_random_shapes(name):
    check_random(name, range(1000, 2000))


def test_bits_do_not_depend_on_threads():
    args = op.make_inputs(Case("threads", F=3, H=540, W=960, h=224, w=224), "cpu", 0)
    outs = []
    for threads in (1, 2, 3, 16):
        out = op.fake(*args)
        run_cpu(out, args, threads)
        outs.append(out)
    assert all(torch.equal(outs[0], out) for out in outs)


def test_works_in_a_forked_child():
    args = op.make_inputs(Case("fork", F=2, H=540, W=960, h=224, w=224), "cpu", 0)
    want = op.fake(*args)
    run_cpu(want, args, 2)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        torch.set_num_threads(1)  # the OpenMP pool of torch itself does not survive a fork
        out = torch.empty_like(want)
        run_cpu(out, args, 2)
        os._exit(0 if torch.equal(out, want) else 1)
    assert os.waitpid(pid, 0)[1] == 0


# ---- agreement with independent implementations


def float_levels(args: tuple) -> Tensor:
    return rgb_levels(*args[:6], torch.float64)


SIZES = [
    (135, 240, 32, 56),
    (97, 131, 60, 200),
    (61, 40, 61, 17),
    (20, 30, 71, 31),
    (108, 64, 1, 1),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_agrees_with_torch(size, interpolation):
    """Before rounding, in float64 (in float32 torch's own weights cost it 3e-3 of a level)."""
    H, W, h, w = size
    levels = torch.randint(0, 256, (1, 3, H, W)).double()
    want = F.interpolate(levels, size=(h, w), mode=interpolation, antialias=True)
    got = levels
    for dim, length in ((2, h), (3, w)):
        at, weights = filter_taps(
            got.shape[dim], length, interpolation, True, torch.float64, got.device
        )
        matrix = torch.zeros(length, got.shape[dim], dtype=torch.float64)
        matrix.scatter_add_(1, at.T, weights.T)
        got = torch.einsum("fchw,oh->fcow" if dim == 2 else "fchw,ow->fcho", got, matrix)
    assert float((got - want).abs().max()) < 1e-9


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_whole_op_agrees_with_pillow(size, interpolation):
    """Within one level on a smooth picture. Pillow rounds to levels between its two passes, which
    on noise is more than a level (up to 18 when upscaling)."""
    image = pytest.importorskip("PIL.Image")
    np = pytest.importorskip("numpy")
    H, W, h, w = size
    case = Case("p", F=1, H=H, W=W, h=h, w=w, interpolation=interpolation,
                mean=[0.0] * 3, std=[1.0] * 3, dtype="f32")  # fmt: skip
    args = list(op.make_inputs(case, "cpu", 0))
    slope = torch.arange(H).view(1, H, 1) + torch.arange(W).view(1, 1, W)
    luma = (128 + 80 * torch.sin(slope / 20.0)).to(torch.uint8)
    args[0] = [luma, torch.full_like(args[0][1], 117)]
    rgb = float_levels(tuple(args))[0].permute(1, 2, 0).to(torch.uint8).numpy()
    method = getattr(image.Resampling, interpolation.upper())
    want = torch.from_numpy(np.asarray(image.fromarray(rgb).resize((w, h), method)).copy())
    got = (op.reference(*args)[0] * 255).round().permute(1, 2, 0)
    assert float((got - want).abs().max()) <= 1


# ---- the siting of chroma, by its definition


def launch_reference(outs: tuple[Tensor, ...], *args: Any) -> None:
    outs[0].copy_(op.reference(*args))


def launch_public(outs: tuple[Tensor, ...], *args: Any) -> None:
    """All that is default left to the default: chroma at "left", among others."""
    location = {} if args[4] == "left" else {"chroma_location": args[4]}
    outs[0].copy_(ak.video_to_tensor(args[0], dtype=torch.float32, **location))


LAUNCHES = ["reference", "public", "baseline", "emulated"]


def colour(launch: str, y: list, uv: list, location: str) -> list:
    """[3][H][W] levels of one frame: BT.709, limited range, linear chroma, no resize."""
    planes = [torch.tensor([p], dtype=torch.uint8) for p in (y, uv)]
    out = torch.full((1, 3, len(y), len(y[0])), float("nan"))
    globals()[f"launch_{launch}"](
        (out,), planes, "nv12", "bt709", "limited", location, "linear", "sdr", len(y), len(y[0]),
        [], [], [], 0, False, 0, [], "bicubic", True, "torch", [0.0] * 3, [1.0] * 3, torch.float32,
        "NCHW", 0, [],
    )  # fmt: skip
    return (out[0] * 255).round().int().tolist()


def exact_level(y: int, u: Fraction, v: Fraction) -> list[int]:
    """R, G, B by ITU-R BT.709-6 (items 3.2 and 3.4), limited range."""
    kr, kb = Fraction("0.2126"), Fraction("0.0722")
    luma, blue, red = Fraction(y - 16, 219), (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return [clip(round(255 * c), 255) for c in (r, g, b)]


def clip(value: int, highest: int) -> int:
    return min(max(value, 0), highest)


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize(
    ("location", "chroma"),
    [
        ("left", [100, 120, 140, 145, 150, 150]),
        ("center", [100, 110, 130, Fraction(285, 2), Fraction(295, 2), 150]),
    ],
)
def test_chroma_between_columns(location, chroma, launch):
    """Two rows of one value each, so that only the columns matter; the last sample repeats."""
    uv = [[[s, 228 - s] for s in (100, 140, 150)]]
    want = [exact_level(126, Fraction(c), Fraction(228 - c)) for c in chroma]
    got = colour(launch, [[126] * 6] * 2, uv, location)
    assert [list(pixel) for pixel in zip(*(plane[0] for plane in got), strict=True)] == want


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("location", ["left", "center"])
def test_chroma_is_linear_between_its_places(location, launch):
    """Chroma row i lies at luma row 2 i + 1/2; column j at 2 j for "left", 2 j + 1/2 else."""
    height, width, rng = 7, 9, random.Random(0)
    y = [[rng.randint(90, 160) for _ in range(width)] for _ in range(height)]
    uv = [[[rng.randint(100, 156) for _ in "uv"] for _ in range(5)] for _ in range(4)]
    left = 0 if location == "left" else Fraction(1, 2)

    def chroma(row: int, col: int, part: int) -> Fraction:
        down, across = (row - Fraction(1, 2)) / 2, (col - left) / Fraction(2)
        return sum(
            (1 - abs(down - i)) * (1 - abs(across - j)) * uv[clip(i, 3)][clip(j, 4)][part]
            for i in (floor(down), floor(down) + 1)
            for j in (floor(across), floor(across) + 1)
        )

    got = colour(launch, y, uv, location)
    for row, col in itertools.product(range(height), range(width)):
        want = exact_level(y[row][col], chroma(row, col, 0), chroma(row, col, 1))
        assert [plane[row][col] for plane in got] == want, (row, col)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"antialias": 1}, "antialias must be True or False, got 1"),
        ({"antialias": None}, "antialias must be True or False, got None"),
        ({"mean": {0.1: 1, 0.2: 2, 0.3: 3}}, r"mean must be three numbers, got \{0.1"),
        ({"std": {0.1, 0.2, 0.3}}, r"std must be three numbers, got \{0.\d, "),
        ({"std": [True, True, True]}, r"std must be three numbers, got \[True"),
        ({"mean": True}, "mean must be three numbers, got True"),
        ({"crop": (1 << 63, 0, 1, 1)}, r"crop must be 4 integers of 64 bits, got \(922"),
        ({"pad": (0, 0, 0, -1 << 70)}, "pad must be 4 integers of 64 bits, got"),
        ({"rotate": 1 << 63}, "rotate must be an integer of 64 bits, got 922"),
    ],
)
def test_wrong_options_are_named(option, says):
    planes = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"video_to_tensor: {says}"):
        ak.video_to_tensor(planes, **option)


def test_planes_on_two_devices_are_named():
    y = torch.zeros(1, 4, 4, dtype=torch.uint8)
    uv = torch.zeros(1, 2, 2, 2, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match=r"planes\[1\] is on meta, planes\[0\] on cpu"):
        ak.video_to_tensor((y, uv))


def test_lay_out_keeps_the_values():
    plane = torch.randint(0, 256, (3, 5, 7, 2), dtype=torch.uint8)
    for layout in ("tight", "pitched", "strided", "sparse"):
        assert torch.equal(lay_out(plane, layout), plane)
    assert lay_out(plane, "sparse").stride(0) > 2**30


def test_kept_tables_are_those_of_the_geometry() -> None:
    """Calls that differ in one thing that weights or places follow from, in turns, and more of them
    than are kept: each gives what a thread of its own gives, which has kept nothing."""
    planes = (torch.arange(30 * 50).view(1, 30, 50).to(torch.uint8),
              torch.arange(15 * 25 * 2).view(1, 15, 25, 2).to(torch.uint8))  # fmt: skip
    base: dict[str, Any] = {"size": (11, 23), "dtype": torch.uint8}
    sizes = [{"size": (11, width)} for width in range(8, 24)]
    calls = [base | change for change in (
        {}, {"flip": True}, {"rotate": 90}, {"crop": (0, 1, 30, 49)}, {"interpolation": "bilinear"},
        {"antialias": False}, {"layout": "NHWC"}, {"crop": (1, 0, 29, 50)},
        {"window": (0, 0, 11, 22)}, {"window": (0, 1, 11, 22)}, {"window": (1, 0, 10, 23)},
        {"window": (0, 1, 11, 22), "pad": (0, 1, 0, 0)},
        {"mode": "fast"}, {"mode": "fast", "chroma_location": "center"}, *sizes, {},
    )]  # fmt: skip

    def run(call: dict[str, Any]) -> Tensor:
        return ak.video_to_tensor(planes, **call)

    with ThreadPoolExecutor(1) as pool:
        in_turns = list(pool.map(run, calls * 2))
    for call, got in zip(calls * 2, in_turns, strict=True):
        with ThreadPoolExecutor(1) as fresh:
            assert torch.equal(got, fresh.submit(run, call).result()), call


def test_the_least_times_in_the_readme_are_those_of_the_costs():
    text = (ROOT / "kernels" / "video" / "README.md").read_text()
    rows = re.findall(r"^\| `(hd-\S+)` \| (\S+) \| (\S+) \| (\S+) \|", text, re.M)
    assert len(rows) == 4
    peaks = specs.of("NVIDIA H200")
    for name, *shown in rows:
        case = op.case(name)
        cost = op.cost(case)
        gflop, moved = cost.flops / 1e9, cost.bytes / 1e6
        least = max(gflop / 1e3 / peaks["f32"], moved / 1e3 / peaks["copy"]) * 1e6 / case.F
        for text, value in zip(shown, (gflop, moved, least), strict=True):
            digits = len(text.partition(".")[2])
            assert float(text) == round(value, digits), f"{name}: {text} for {value}"


def test_the_fast_mode_costs_less():
    """Chroma has half the rows and columns: a quarter of the multiply-adds across, half of those
    down. 40 taps each way over 400 rows, and 20 over 200 of chroma."""
    options = {"F": 2, "H": 400, "W": 600, "h": 40, "w": 60}
    costs = {
        (mode, form): op.cost(Case("c", **options, mode=mode, format=form))
        for mode in ("torch", "fast")
        for form in ("nv12", "yuv444p", "rgb24")
    }
    colour = {"torch": 5 * 400 * 600, "fast": 5 * 40 * 60}
    filtered = {k: c.flops / 4 - (k[1] != "rgb24") * colour[k[0]] for k, c in costs.items()}
    across, down = 400 * 60 * 40, 40 * 60 * 40
    assert filtered["torch", "nv12"] == 3 * (across + down)
    assert filtered["fast", "nv12"] == (1 + 2 / 4) * across + (1 + 2 / 2) * down
    for form in ("yuv444p", "rgb24"):
        assert filtered["fast", form] == pytest.approx(filtered["torch", form])
    assert costs["fast", "rgb24"] == costs["torch", "rgb24"]
    assert costs["fast", "nv12"].bytes == costs["torch", "nv12"].bytes


@pytest.mark.parametrize("mode", ["torch", "fast", "pil", "pil13"])
def test_a_call_with_out_allocates_nothing(mode):
    planes = (torch.zeros(2, 90, 160, dtype=torch.uint8),
              torch.zeros(2, 45, 80, 2, dtype=torch.uint8))  # fmt: skip

    def taken(**options) -> int:
        call = {"size": (28, 56), "mode": mode, "layout": "patches", "patch": (2, 14, 2), **options}
        ak.video_to_tensor(planes, **call)
        with torch.profiler.profile(profile_memory=True) as seen:
            ak.video_to_tensor(planes, **call)
        return sum(max(event.self_cpu_memory_usage, 0) for event in seen.key_averages())

    out = ak.video_to_tensor(planes, size=(28, 56), layout="patches", patch=(2, 14, 2))
    assert taken() == out.nbytes
    assert taken(out=out) == 0
