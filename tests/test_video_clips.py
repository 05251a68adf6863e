"""Real clips, encoded here, through the whole chain: decoding, colours, resize, tokens, against
PyAV's decoding, swscale's colours and Pillow's resize."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("PIL")

import aimills_kernels as ak
from aimills_kernels.video import VideoPreprocessor, decode_to_tensor, sizes
from aimills_kernels.video.io import FORMATS, planes
from aimills_kernels.video.layout import Patch, from_patches
from tests.test_video_decode import TAGGED, av, encoded, plain
from tests.test_video_hdr import levels_by_the_reports
from tools.video_oracles import _torch_chroma, pillow_across_first, swscale_rgb

SIZE, TIMES = (160, 96), (0, 3, 5)
BT2020 = {**TAGGED, "colorspace": 9, "color_primaries": 9}
CLIPS = {
    "H.264": ("libx264", "yuv420p", TAGGED, ("bt709", "limited")),
    "H.264 full range": (
        "libx264", "yuv420p", {**TAGGED, "colorspace": 6, "color_range": 2}, ("bt601", "full")
    ),
    "HEVC 10 bits": ("libx265", "yuv420p10le", BT2020, ("bt2020", "limited")),
    "HEVC 10 bits PQ": (
        "libx265", "yuv420p10le", {**BT2020, "color_trc": 16}, ("bt2020", "limited")
    ),
    "AV1": ("libsvtav1", "yuv420p", TAGGED, ("bt709", "limited")),
    "AV1 10 bits": ("libsvtav1", "yuv420p10le", BT2020, ("bt2020", "limited")),
}  # fmt: skip
DISPLAYED = [name for name in CLIPS if "PQ" not in name]  # PQ's codes are mapped to SDR first


def clip(name: str) -> bytes:
    """FFmpeg's moving test picture."""
    codec, pixels, tags, _ = CLIPS[name]
    source = f"testsrc2=size={SIZE[0]}x{SIZE[1]}:rate=10:duration=0.8"
    with av.open(source, format="lavfi") as made:
        frames = [frame.reformat(format=pixels) for frame in made.decode(video=0)]
    form = "mp4" if codec == "libx264" else "matroska"
    return encoded(codec, form, count=len(frames), size=SIZE, pixels=pixels, tags=tags,
                   ready=frames)  # fmt: skip


def decoded(data: bytes) -> tuple[str, list[list[Tensor]]]:
    """The format, and the planes of the frames at TIMES, by PyAV from the first frame on."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    found = [[p[None] for p in planes("clip", frames[i])] for i in TIMES]
    return FORMATS[frames[0].format.name], found


def oracle(data: bytes, name: str) -> Tensor:
    """[frames, 3, H, W] levels."""
    format, frames = decoded(data)
    return torch.stack([swscale_rgb(f, format, *CLIPS[name][3], "left") for f in frames])


def levels(result: dict[str, Any]) -> Tensor:
    return (result["pixel_values"] * 255).round().to(torch.uint8)


def farthest(got: Tensor, want: Tensor) -> int:
    assert got.shape == want.shape
    return int((got.int() - want.int()).abs().max())


@pytest.mark.parametrize("name", CLIPS)
def test_colours_of_a_clip(name: str) -> None:
    """Within a level of swscale."""
    data = clip(name)
    space, range_ = CLIPS[name][3]
    if name in DISPLAYED:
        result = decode_to_tensor(data, plain(), indices=list(TIMES))
        meta, got = result["video_metadata"], levels(result)
        assert (meta["color_space"], meta["color_range"]) == (space, range_)
        assert meta["chroma_location"] == "left"
    else:
        format, frames = decoded(data)
        got = ak.video_to_tensor(
            [torch.cat(p) for p in zip(*frames, strict=True)], format=format, color_space=space,
            color_range=range_, dtype=torch.uint8,
        )  # fmt: skip
    want = oracle(data, name)
    assert farthest(got, want) <= 1
    assert int(want.max()) - int(want.min()) > 180  # a picture with contrast


def test_hdr_of_a_clip() -> None:
    """Its PQ to SDR by the reports' formulas in float64, with torch's upsampling of chroma."""
    data = clip("HEVC 10 bits PQ")
    result = decode_to_tensor(data, plain(), indices=list(TIMES))
    meta, got = result["video_metadata"], 255 * result["pixel_values"].double()
    told = (meta["transfer"], meta["color_space"], meta["color_range"], meta["format"])
    assert told == ("pq", "bt2020", "limited", "yuv420p10")
    want = torch.stack([torch.from_numpy(sdr_by_the_reports(f)) for f in decoded(data)[1]])
    off = (got - want.permute(0, 3, 1, 2)).abs()
    light = want.permute(0, 3, 1, 2) > 32
    assert float((off > 0.52).double().mean()) < 0.02
    assert float(off[light].max()) < 1.02
    assert float(want.max() - want.min()) > 180
    as_it_is = decode_to_tensor(data, plain(), indices=list(TIMES), transfer="sdr")["pixel_values"]
    assert float((255 * as_it_is - want.permute(0, 3, 1, 2)).abs().mean()) > 5


def sdr_by_the_reports(frame: list[Tensor]) -> Any:
    """[H, W, 3] of planes of BT.2020 and PQ in 10 bits, chroma at "left"."""
    y, *chroma = (p.double() for p in frame)
    height, width = y.shape[1:]
    blue, red = ((_torch_chroma(c, height, width, (1, 1), "left") - 512) / 896 for c in chroma)
    luma = (y - 64) / 876
    r, b = luma + 1.4746 * red, luma + 1.8814 * blue
    g = (luma - 0.2627 * r - 0.0593 * b) / 0.6780
    return levels_by_the_reports(torch.cat([r, g, b]).clamp(0, 1).permute(1, 2, 0).numpy(), "pq")


@pytest.mark.parametrize("name", DISPLAYED)
def test_tokens_of_a_clip(name: str) -> None:
    """Through a preset with Pillow's resize: a level of the colours may become two."""
    data = clip(name)
    made = VideoPreprocessor.from_preset("qwen2.5-vl", dtype=torch.float32)
    assert isinstance(made.size, sizes.SmartResize)
    made = replace(
        made, mode="pil", size=replace(made.size, min_pixels=1, max_pixels=6000), mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )  # fmt: skip
    result = decode_to_tensor(data, made, indices=[*TIMES, TIMES[-1]])
    (grid,) = result["video_grid_thw"].tolist()
    got = from_patches(result["pixel_values_videos"], grid, Patch(2, 14, 2))
    height, width = 14 * grid[1], 14 * grid[2]
    assert height * width <= 6000
    want = torch.stack([
        pillow_across_first(f, (height, width), "bicubic") for f in oracle(data, name)
    ])  # fmt: skip
    assert farthest((got[:3] * 255).round(), want) <= 2
