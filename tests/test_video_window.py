"""A window of the resized picture: the same bits as in the whole, by every kernel and mode."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video import nvrtc
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import OPTIONS, Arguments
from aimills_kernels.video import VideoPreprocessor, sizes
from tests.test_video import launch_baseline, launch_emulated, random_case, random_window
from tests.test_video_ragged import ragged_calls

MODES = OPTIONS["resize_mode"]


def launch_cpu(outs: tuple[Tensor, ...], *args: Any) -> None:
    from aimills_kernels.kernels.video import cpu

    cpu.launch(outs, *args)


def launch_reference(outs: tuple[Tensor, ...], *args: Any) -> None:
    outs[0].copy_(op.reference(*args))


LAUNCHES = {
    "cpu": launch_cpu, "baseline": launch_baseline, "emulated": launch_emulated,
    "reference": launch_reference,
}  # fmt: skip


def made(launch: str, args: Arguments) -> Tensor:
    out = op.fake(*args)
    out.view(torch.uint8).fill_(0xFF)
    LAUNCHES[launch]((out,), *args)
    return out


def drawn(seed: int, mode: str) -> Arguments:
    """A random geometry in f32 pictures, with a window that is rarely all of them."""
    rng = random.Random(seed)
    dims = random_case(rng).dims
    pictures = {"store": "NCHW", "patch": (), "dtype": "f32", "mode": mode, "antialias": True}
    window = random_window(rng, dims["h"], dims["w"], 1)
    args = op.make_inputs(Case("w", **{**dims, **pictures, "window": window}), "cpu", seed)
    return Arguments(*args)


def cut(a: Arguments, whole: Tensor) -> Tensor:
    """The window of whole pictures, and what is put around it."""
    top, left, height, width = a.window
    kept = whole[:, :, top : top + height, left : left + width]
    above, before, _, _ = a.padding
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (a.mean, a.std))
    black = ((a.pad_level / 255 - mean) / std).expand(3, *a.canvas)
    filled = black.expand(len(kept), -1, -1, -1).clone()
    filled[:, :, above : above + height, before : before + width] = kept
    return filled


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("mode", MODES)
def test_a_window_has_the_bits_of_the_whole(mode: str, launch: str) -> None:
    for seed in range(6):
        check_window(seed, mode, launch)


@pytest.mark.full
@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("mode", MODES)
def test_many_windows_have_the_bits_of_the_whole(mode: str, launch: str) -> None:
    for seed in range(100, 250):
        check_window(seed, mode, launch)


def check_window(seed: int, mode: str, launch: str) -> None:
    a = drawn(seed, mode)
    got = made(launch, a)
    whole = made(launch, a._replace(window=[], pad=[]))
    want = cut(a, whole)
    above, before, _, _ = a.padding
    rows, cols = slice(above, above + a.window[2]), slice(before, before + a.window[3])
    assert torch.equal(got[:, :, rows, cols], want[:, :, rows, cols]), (seed, a.window)
    torch.testing.assert_close(got, want)  # what is around it is normalised in another order


def test_a_crop_of_the_source_is_another_picture() -> None:
    """A filter at the window's edge reaches beyond the samples that the window lies over, so a crop
    before the resize, which divides evenly here, can't stand for one behind it."""
    planes = (torch.randint(0, 256, (1, 40, 60, 3), dtype=torch.uint8),)
    given: dict[str, Any] = {"format": "rgb24", "dtype": torch.uint8}
    behind = ak.video_to_tensor(planes, size=(20, 30), window=(5, 5, 10, 20), **given)
    before = ak.video_to_tensor(planes, size=(10, 20), crop=(10, 10, 20, 40), **given)
    assert torch.equal(behind[:, :, 2:-2, 2:-2], before[:, :, 2:-2, 2:-2])
    edge = (behind.int() - before.int()).abs()
    assert all(int(e.max()) > 0 for e in (edge[:, :, 0], edge[..., 0], edge[:, :, -1]))


def test_the_order_is_flip_then_rotation_then_window_then_padding() -> None:
    planes = (torch.arange(12 * 20, dtype=torch.uint8).view(1, 12, 20, 1).repeat(1, 1, 1, 3),)
    got = ak.video_to_tensor(
        planes, format="rgb24", flip=True, rotate=90, window=(3, 2, 11, 7), pad=(1, 2, 0, 0),
        pad_level=9, dtype=torch.uint8,
    )  # fmt: skip
    picture = planes[0].permute(0, 3, 1, 2).flip(3).rot90(-1, (2, 3))[:, :, 3:14, 2:9]
    assert torch.equal(got, F.pad(picture, (2, 0, 1, 0), value=9))


def test_windows_are_cut_in_augmented_clips() -> None:
    planes = (torch.randint(0, 256, (4, 30, 50, 3), dtype=torch.uint8),)
    given: dict[str, Any] = {
        "format": "rgb24", "size": (20, 30), "augment": True, "seed": 3, "layout": "NTCHW",
        "clip": 2, "dtype": torch.uint8,
    }  # fmt: skip
    whole = ak.video_to_tensor(planes, **given)
    got = ak.video_to_tensor(planes, window=(2, 9, 15, 20), **given)
    assert torch.equal(got, whole[..., 2:17, 9:29])


def test_the_grid_is_that_of_the_window() -> None:
    """Where CuPy launches the kernel: a block for each 16 x 32 outputs, of a turned picture too."""
    for rotate, blocks in ((0, 2 * 3 * 2), (90, 2 * 3 * 2)):
        window = (10, 20, 33, 40) if rotate == 0 else (10, 20, 40, 33)
        case = Case("g", F=2, H=50, W=60, h=300, w=300, window=window, rotate=rotate)
        assert nvrtc._blocks(op.make_inputs(case, "cpu", 0)) == blocks


# ---- centre crops of models


def clip(frames: int, height: int, width: int) -> tuple[Tensor, ...]:
    made_by = torch.Generator().manual_seed(height)
    shape = (frames, height, width, 3)
    return (torch.randint(0, 256, shape, generator=made_by, dtype=torch.uint8),)


def test_clips_of_any_sizes_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ragged_calls(monkeypatch)
    model = replace(
        VideoPreprocessor.from_preset("clip"), size=sizes.ShortestEdge(32), crop=(32, 32)
    )
    clips = [clip(1, 40, 90), clip(2, 90, 41), clip(1, 50, 50)]
    got = model(clips, format="rgb24")["pixel_values"]
    assert calls == [3]
    assert torch.equal(got, torch.cat([model(c, format="rgb24")["pixel_values"] for c in clips]))


def test_clips_that_are_padded_apart() -> None:
    """A crop that one resized clip fills and another does not."""
    model = replace(
        VideoPreprocessor.from_preset("clip", dtype=torch.float32), size=sizes.Keep(), crop=(30, 30)
    )
    clips = [clip(1, 40, 90), clip(2, 20, 41)]
    got = model(clips, format="rgb24")["pixel_values"]
    assert torch.equal(got, torch.cat([model(c, format="rgb24")["pixel_values"] for c in clips]))
    with pytest.raises(ValueError, match="and that are padded alike"):
        model(clips, format="rgb24", augment=True, seed=0)


def test_patches_of_a_crop() -> None:
    model = replace(
        VideoPreprocessor.from_preset("qwen2-vl", dtype=torch.uint8), size=sizes.Keep(),
        crop=(56, 56),
    )  # fmt: skip
    clips = [clip(2, 90, 80), clip(2, 40, 100)]
    got = model(clips, format="rgb24")
    assert got["video_grid_thw"].tolist() == [[1, 4, 4], [1, 4, 4]]
    first, second = (frames[:2] for frames in model.levels(got))
    assert torch.equal(first, clips[0][0].permute(0, 3, 1, 2)[:, :, 17:73, 12:68])
    assert torch.equal(second, F.pad(clips[1][0].permute(0, 3, 1, 2)[..., 22:78], (0, 0, 8, 8)))


@pytest.mark.parametrize("size", [(60, 91), (97, 61), (33, 33), (40, 64)], ids=str)
@pytest.mark.parametrize("edge", [32, 45])
def test_a_centre_crop_is_pillows(edge: int, size: tuple[int, int]) -> None:
    """Bit for bit what CLIP's processor does by Pillow: the shorter side, then the middle."""
    image = pytest.importorskip("PIL.Image")
    np = pytest.importorskip("numpy")
    planes, crop = clip(1, *size), (31, 30)
    model = replace(
        VideoPreprocessor.from_preset("clip", dtype=torch.uint8), size=sizes.ShortestEdge(edge),
        crop=crop, mode=pillow_mode(),
    )  # fmt: skip
    height, width = model.size.size(1, *size)
    resized = image.fromarray(planes[0][0].numpy()).resize((width, height), image.BICUBIC)
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    want = torch.from_numpy(np.asarray(resized)[top : top + 31, left : left + 30].copy())
    got = model(planes, format="rgb24")["pixel_values"]
    assert torch.equal(got[0].permute(1, 2, 0), want)


def pillow_mode() -> str:
    """Of the installed version."""
    import PIL

    return "pil13" if int(PIL.__version__.split(".")[0]) >= 13 else "pil"
