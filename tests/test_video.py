"""video_to_tensor beyond its declared cases: independent implementations, random shapes, the CUDA
kernel's logic on the host, planted faults, threads and forks."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case, Provider
from aimills_kernels._validate import validate
from aimills_kernels.kernels.video.op import filter_taps, lay_out, rgb_levels
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import fast_strides, fields

extension = pytest.importorskip("aimills_kernels._C")


# ---- providers that only tests have


def launch_emulated(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The CUDA kernel's phases on the host; 3 blocks take all tiles in turns."""
    extension.video_to_tensor_emulated(extension.VideoParams(*fields(outs, args)), 3)


def launch_baseline(outs: tuple[Tensor, ...], *args: Any) -> None:
    """The CPU kernel without vector extensions."""
    params = extension.VideoParams(*fields(outs, args))
    extension.video_to_tensor_cpu(params, 2, baseline=True)


def launch_off_by_one_row(outs: tuple[Tensor, ...], *args: Any) -> None:
    y, uv = args[0]
    rows = torch.arange(1, y.shape[1] + 1).clamp(max=y.shape[1] - 1)
    launch_baseline(outs, [y.index_select(1, rows), uv], *args[1:])


def launch_truncated(outs: tuple[Tensor, ...], *args: Any) -> None:
    """Rounds levels down, as some converters do."""
    shifted = [m + 0.5 / 255 for m in args[9]]
    op_levels = op.reference(*args[:9], [0.0] * 3, [1.0] * 3, torch.float32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (shifted, args[10]))
    outs[0].copy_((op_levels - mean) / std)


def launch_last_column_missing(outs: tuple[Tensor, ...], *args: Any) -> None:
    keep = outs[0][..., -1].clone()
    launch_baseline(outs, *args)
    outs[0][..., -1] = keep


def provider(name: str) -> Provider:
    def rejects(problem: Any) -> str | None:
        return None if fast_strides(problem.planes) else "strided rows"

    return Provider(name, f"{__name__}:launch_{name}", devices=("cpu",), rejects=rejects)


SMALL = [c for c in op.cases if not c.name.startswith("hd-")]


@pytest.mark.parametrize("name", ["emulated", "baseline"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_case(case, name):
    result = validate(op, case, provider(name), device="cpu")
    assert not result.failures, str(result)


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

    return Case(
        "random",
        F=rng.choice([1, 1, 2, 3]),
        H=side(200), W=side(400), h=side(150), w=side(250),
        interpolation=rng.choice(["bilinear", "bicubic"]),
        space=rng.choice(["bt601", "bt709"]),
        range=rng.choice(["limited", "full"]),
        location=rng.choice(["left", "center"]),
        upsampling=rng.choice(["linear", "linear", "nearest"]),
        dtype=rng.choice(["f32", "f16", "bf16"]),
        # Not "rows": there one tie that falls the other way is a whole row of misses.
        fill=rng.choice(["noise", "impulses", "saturated"]),
        layout=rng.choice(["tight", "pitched"]),
    )  # fmt: skip


def check_random(name: str, seeds: range) -> None:
    """Each within one level. Misses are counted over all seeds: near a tie one picture alone may
    have a whole row of them, and so may the reference."""
    launch = globals().get(f"launch_{name}")
    missed = own = total = 0
    for seed in seeds:
        rng = random.Random(seed)
        case = random_case(rng)
        args = op.make_inputs(case, "cpu", seed)
        out = torch.full_like(op.fake(*args), float("nan"))
        if name == "cpu":
            run_cpu(out, args, threads=rng.choice([1, 2, 3, 7]))
        else:
            launch((out,), *args)
        (oracle,), reference = op.oracle(args), op.reference(*args)
        lenient = replace(op.tolerance[0], share=1.0)
        verdict = lenient.judge(out, oracle, reference, args)
        assert verdict.ok, f"seed {seed}: {case.describe()}: {verdict.text}"
        level = op.tolerance[0].unit(args).abs() / 2
        missed += int(((out - oracle).abs() > level).sum())
        own += int(((reference - oracle).abs() > level).sum())
        total += out.numel()
    assert missed <= 2 * own + 1e-5 * total, f"{missed} of {total} missed, {own} by reference"


def run_cpu(out: Tensor, args: tuple, threads: int) -> None:
    extension.video_to_tensor_cpu(extension.VideoParams(*fields((out,), args)), threads)


@pytest.mark.parametrize("name", ["cpu", "baseline", "emulated"])
def test_random_shapes(name):
    check_random(name, range(60))


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
    (y, uv), space, range_, location, upsampling = args[:5]
    return rgb_levels(y, uv, space, range_, location, upsampling, torch.float64)


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
        at, weights = filter_taps(got.shape[dim], length, interpolation, torch.float64, got.device)
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


@pytest.mark.parametrize("space", ["bt601", "bt709"])
@pytest.mark.parametrize("range_", ["limited", "full"])
@pytest.mark.parametrize("upsampling", ["nearest", "linear"])
def test_colour_agrees_with_swscale(space, range_, upsampling):
    """Within one level of FFmpeg's accurate paths; its linear chroma is centred on both axes."""
    av = pytest.importorskip("av")
    reformatter = pytest.importorskip("av.video.reformatter")
    args = op.make_inputs(Case("c", F=1, H=64, W=96, h=64, w=96, space=space, range=range_,
                               location="center", upsampling=upsampling), "cpu", 0)  # fmt: skip
    y, uv = args[0]
    if range_ == "limited":
        y, uv = (16 + y.int() * 219 // 255).byte(), (16 + uv.int() * 224 // 255).byte()
        args = ([y, uv], *args[1:])
    frame = av.VideoFrame(96, 64, "nv12")
    for plane, source in zip(frame.planes, (y[0], uv[0].flatten(1)), strict=True):
        rows = torch.zeros(plane.height, plane.line_size, dtype=torch.uint8)
        rows[:, : source.shape[1]] = source
        plane.update(rows.numpy().tobytes())
    method = "POINT" if upsampling == "nearest" else "BILINEAR"
    flags = 0x40000 | 0x2000 | (0x10 if method == "POINT" else 0x2 | 0x4000)
    color = getattr(reformatter.Colorspace, "ITU601" if space == "bt601" else "ITU709")
    source_range = getattr(reformatter.ColorRange, "MPEG" if range_ == "limited" else "JPEG")
    rgb = frame.reformat(
        format="gbrp", src_colorspace=color, dst_colorspace=color, interpolation=flags,
        src_color_range=source_range, dst_color_range=reformatter.ColorRange.JPEG,
    )  # fmt: skip
    want = torch.stack([
        torch.frombuffer(bytearray(p), dtype=torch.uint8).view(p.height, p.line_size)[:, :96]
        for p in (rgb.planes[2], rgb.planes[0], rgb.planes[1])
    ])  # fmt: skip
    assert float((float_levels(args)[0] - want).abs().max()) <= 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"antialias": 1}, "antialias must be True or False, got 1"),
        ({"antialias": None}, "antialias must be True or False, got None"),
        ({"mean": {0.1: 1, 0.2: 2, 0.3: 3}}, r"mean must be three numbers, got \{0.1"),
        ({"std": {0.1, 0.2, 0.3}}, r"std must be three numbers, got \{0.\d, "),
        ({"std": [True, True, True]}, r"std must be three numbers, got \[True"),
        ({"mean": True}, "mean must be three numbers, got True"),
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
