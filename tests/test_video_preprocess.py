"""VideoPreprocessor: its presets and configurations, and what it makes, against Transformers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels.kernels.video.formats import FORMATS
from aimills_kernels.video import VideoPreprocessor, sizes
from aimills_kernels.video.configs import CLASSES, PRESETS
from aimills_kernels.video.layout import (
    Patch,
    from_padded_patches,
    from_patches,
    grid_of,
    middle,
    to_padded_patches,
)
from aimills_kernels.video.sampling import Sampling, sample_frames
from tests.hf_functions import attributes, function

FILES = {
    "Qwen2VLVideoProcessor": "models/qwen2_vl/video_processing_qwen2_vl.py",
    "Qwen3VLVideoProcessor": "models/qwen3_vl/video_processing_qwen3_vl.py",
    "InternVLVideoProcessor": "models/internvl/video_processing_internvl.py",
    "LlavaOnevisionVideoProcessor": "models/llava_onevision/video_processing_llava_onevision.py",
    "VideoMAEVideoProcessor": "models/videomae/video_processing_videomae.py",
    "VivitVideoProcessor": "models/vivit/video_processing_vivit.py",
    "CLIPImageProcessor": "models/clip/image_processing_clip.py",
    "SiglipImageProcessor": "models/siglip/image_processing_siglip.py",
    "Siglip2ImageProcessor": "models/siglip2/image_processing_siglip2.py",
    "TimesformerVideoProcessor": "models/timesformer/video_processing_timesformer.py",
    "VJEPA2VideoProcessor": "models/vjepa2/video_processing_vjepa2.py",
    "LlavaNextVideoVideoProcessor": "models/llava_next_video/video_processing_llava_next_video.py",
    "VideoLlavaVideoProcessor": "models/video_llava/video_processing_video_llava.py",
    "BitImageProcessor": "models/bit/image_processing_bit.py",
    "ViTImageProcessor": "models/vit/image_processing_vit.py",
    "Gemma3ImageProcessor": "models/gemma3/image_processing_gemma3.py",
}
OWN_KEYS = {"layout", "output", "sampling", "edge", "signed"} | {"size_of_crop"}


def clip(frames: int = 5, height: int = 48, width: int = 70, seed: int = 0) -> tuple[Tensor, ...]:
    made = torch.Generator().manual_seed(seed)
    chroma = (frames, (height + 1) // 2, (width + 1) // 2, 2)
    return tuple(
        torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)
        for shape in ((frames, height, width), chroma)
    )


def small(name: str, **changes: Any) -> VideoPreprocessor:
    """A preset with few pixels, in float32."""
    made = VideoPreprocessor.from_preset(name, dtype=torch.float32)
    if isinstance(made.size, (sizes.SmartResize, sizes.SmartResizeVideo)):
        made = replace(made, size=replace(made.size, min_pixels=1, max_pixels=9000))
    return replace(made, **changes)


# ---- the layouts


def hf_patches(frames: Tensor, patch: Patch, name: str = "Qwen2VLVideoProcessor") -> Tensor:
    made, *grid = function(FILES[name], "patchify", name)(
        None, frames[None], patch_size=patch.spatial, merge_size=patch.merge,
        temporal_patch_size=patch.temporal,
    )  # fmt: skip
    assert list(grid_of(len(frames), *frames.shape[2:], patch)) == grid
    return made[0]


@pytest.mark.parametrize("name", ["Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"])
@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("patch", [Patch(2, 14, 2), Patch(3, 4, 3), Patch(1, 2, 1)])
def test_patches_in_the_order_of_transformers(name: str, count: int, patch: Patch) -> None:
    block = patch.spatial * patch.merge
    made = small("qwen2-vl", size=sizes.Fixed(2 * block, 3 * block), patch=patch)
    planes = clip(count)
    frames = by_hand(made, planes, (2 * block, 3 * block))
    tokens = made(planes)["pixel_values_videos"]
    assert torch.equal(tokens, hf_patches(frames, patch, name))
    back = from_patches(tokens, grid_of(count, *frames.shape[2:], patch), patch)
    assert torch.equal(back[:count], frames)
    assert torch.equal(back[count:], frames[-1:].expand(len(back) - count, -1, -1, -1))


def test_padded_patches_in_the_order_of_transformers() -> None:
    file = "models/siglip2/image_processing_pil_siglip2.py"
    frames = torch.randn(2, 3, 32, 48)
    tokens, mask, shapes = to_padded_patches(frames, 16, 9)
    for i, frame in enumerate(frames):
        patches = function(file, "convert_image_to_patches")(frame.numpy(), 16)
        values, there = function(file, "pad_along_first_dim")(patches, 9)
        assert np.array_equal(tokens[i].numpy(), values)
        assert np.array_equal(mask[i].numpy(), there)
        assert shapes[i].tolist() == [2, 3]
        assert torch.equal(from_padded_patches(tokens[i], (2, 3), 16), frame)


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (20, 5), (5, 20), (21, 22), (12, 13)])
def test_crop_as_transformers(size: tuple[int, int]) -> None:
    crop = function("image_processing_backends.py", "center_crop", "TorchvisionBackend")
    crop.__globals__["tvF"] = SimpleNamespace(
        pad=lambda image, p, fill: torch.nn.functional.pad(image, (p[0], p[2], p[1], p[3])),
        crop=lambda image, top, left, h, w: image[..., top : top + h, left : left + w],
    )
    frames = torch.rand(2, 3, 12, 13) + 1
    expected = crop(None, frames, SimpleNamespace(height=size[0], width=size[1]))
    assert torch.equal(cut(frames, *size), expected)


def cut(frames: Tensor, height: int, width: int) -> Tensor:
    """The middle of frames, by slices, with zeros around it."""
    window, pad = middle(*frames.shape[2:], height, width)
    top, left, rows, cols = window
    kept = frames[:, :, top : top + rows, left : left + cols]
    return torch.nn.functional.pad(kept, (pad[1], pad[3], pad[0], pad[2]))


def test_crop_fills_with_black() -> None:
    made, planes = small("clip", size=sizes.Fixed(3, 50), crop=(7, 20)), clip(1)
    got = made(planes)["pixel_values"]
    whole = by_hand(made, planes, (3, 50))
    assert torch.equal(got[:, :, 2:5], whole[:, :, :, 15:35])
    black = -torch.tensor(made.mean) / torch.tensor(made.std)
    for row in (0, 1, 5, 6):
        torch.testing.assert_close(got[0, :, row].T, black.expand(20, 3))


# ---- presets


@pytest.mark.parametrize("name", CLASSES)
def test_class_defaults_are_those_of_transformers(name: str) -> None:
    theirs = {"default_to_square": True, **attributes(FILES[name], name)}
    ours = {"default_to_square": True, **CLASSES[name]}
    for key in set(ours) - OWN_KEYS:
        assert ours[key] == theirs[key], key
    told = {
        "do_center_crop", "crop_size", "size", "fps", "num_frames", "patch_size",
        "do_sample_frames",
    }  # fmt: skip
    assert {k for k in told & set(theirs) if theirs[k]} <= set(ours)


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name: str) -> None:
    made = small(name)
    planes = clip(17 if name != "vivit" else 34, 60, 90)
    batch = made(planes, fps=8.0)
    shown = repr(made)
    assert shown.startswith(f"VideoPreprocessor {name}\n")
    assert max(map(len, shown.splitlines())) < 150
    values = batch[made.output]
    assert values.dtype == torch.float32
    count = len(made.sampling.indices(len(planes[0]), 8.0))
    expected = {
        "qwen2-vl": (2 * 4 * 8, 3 * 2 * 14 * 14), "qwen2.5-vl": (2 * 4 * 8, 3 * 2 * 14 * 14),
        "qwen3-vl": (2 * 2 * 4, 3 * 2 * 16 * 16), "siglip": (17, 3, 224, 224),
        "siglip2": (17, 256, 768), "clip": (17, 3, 224, 224),
        "llava-onevision": (1, 17, 3, 384, 384), "internvl": (1, 17, 3, 448, 448),
        "videomae": (1, 16, 3, 224, 224), "vivit": (1, 32, 3, 224, 224),
    }[name]  # fmt: skip
    if made.layout == "patches":
        grid = batch["video_grid_thw"]
        assert grid.dtype == torch.int64
        assert grid[:, 0].tolist() == [count // 2]
        assert int(grid.prod()) == len(values)
        assert values.shape[1] == expected[1]
    else:
        assert values.shape == expected


def test_presets_are_those_of_released_models() -> None:
    made = {name: VideoPreprocessor.from_preset(name) for name in PRESETS}
    assert made["qwen2-vl"].size == sizes.SmartResize(28, 128 * 28 * 28, 768 * 28 * 28)
    assert made["qwen3-vl"].size == sizes.SmartResizeVideo(32, 4096, 25165824)
    assert made["internvl"].size == sizes.Fixed(448, 448)
    assert made["videomae"].mean == (0.485, 0.456, 0.406)
    assert made["clip"].crop == (224, 224)
    assert made["qwen2.5-vl"].sampling.indices(300, 30.0) == sample_frames(
        300, 30.0, strategy="qwen2-vl", target_fps=2
    )


# ---- what is computed


def by_hand(made: VideoPreprocessor, planes: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
    return ak.video_to_tensor(
        planes, size=size, interpolation=made.interpolation, mean=made.mean, std=made.std,
        dtype=torch.float32,
    )  # fmt: skip


def test_patches_of_several_clips() -> None:
    made = small("qwen2.5-vl")
    clips = [clip(4, 48, 70, 1), clip(3, 70, 48, 2)]
    batch = made(clips)
    grids = batch["video_grid_thw"].tolist()
    assert grids == [[2, 4, 4], [2, 4, 4]] or grids[0] != grids[1]
    tokens = []
    for planes in clips:
        size = made.size.size(*planes[0].shape)
        tokens.append(hf_patches(by_hand(made, planes, size), Patch(2, 14, 2)))
    assert torch.equal(batch["pixel_values_videos"], torch.cat(tokens))


def test_frames_are_sampled_where_a_rate_is_given() -> None:
    made = small("qwen2.5-vl")
    planes = clip(40)
    chosen = sample_frames(40, 10.0, strategy="qwen2-vl", target_fps=2)
    assert len(chosen) == 8
    expected = made([p[chosen] for p in planes])
    got = made(planes, fps=10.0)
    assert torch.equal(got["pixel_values_videos"], expected["pixel_values_videos"])
    two = made([planes, clip(20)], fps=[10.0, 5.0])
    assert two["video_grid_thw"][:, 0].tolist() == [4, 4]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_are_turned(turn: int) -> None:
    """The size rule counts the sides of upright frames."""
    made = small("qwen2.5-vl")
    planes = clip(2, 48, 90)
    size = made.size.size(2, *((90, 48) if turn != 180 else (48, 90)))
    expected = ak.video_to_tensor(
        planes, size=size, rotate=turn, flip=True, mean=made.mean, std=made.std,
        dtype=torch.float32, layout="patches", patch=(2, 14, 2),
    )  # fmt: skip
    assert torch.equal(made(planes, rotate=turn, flip=True)["pixel_values_videos"], expected)


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str) -> None:
    form, made = FORMATS[format], small("clip", crop=None)
    most = 1 << (form.bits + form.shift)
    planes = [
        torch.randint(0, most, form.shape(i, 6, 20, 30)).to(form.dtype)
        for i in range(len(form.planes))
    ]
    got = made(planes, format=format, fps=2.0)["pixel_values"]
    size = made.size.size(6, 20, 30)
    expected = ak.video_to_tensor(
        planes, format=format, size=size, mean=made.mean, std=made.std, dtype=torch.float32
    )
    assert torch.equal(got, expected)
    half = replace(made, sampling=Sampling(num_frames=3))(planes, format=format, fps=2.0)
    assert torch.equal(half["pixel_values"], expected[::2])


def test_levels_and_pillow() -> None:
    made, planes = small("clip"), clip(2)
    levels = replace(made, dtype=torch.uint8)
    batch = levels(planes)
    assert batch["pixel_values"].dtype == torch.uint8
    assert torch.equal(levels.levels(batch)[0], made.levels(made(planes))[0])
    pillow = replace(made, mode="pil")(planes)["pixel_values"]
    expected = ak.video_to_tensor(
        planes, size=made.size.size(2, 48, 70), mode="pil", mean=made.mean, std=made.std,
        dtype=torch.float32,
    )  # fmt: skip
    assert torch.equal(pillow, cut(expected, 224, 224))


def test_colour_is_handed_on() -> None:
    made = small("clip")
    planes = clip(1)
    plain, full = made(planes), made(planes, color_range="full", color_space="bt601")
    assert not torch.equal(plain["pixel_values"], full["pixel_values"])


def test_dtypes() -> None:
    planes = clip(2)
    made = VideoPreprocessor.from_preset("clip")
    assert made(planes)["pixel_values"].dtype == torch.bfloat16
    half = replace(made, dtype=torch.float16)(planes)["pixel_values"]
    whole = replace(made, dtype=torch.float32)(planes)["pixel_values"]
    assert torch.equal(half, whole.half())


@pytest.mark.parametrize("name", PRESETS)
def test_levels_are_what_the_model_sees(name: str) -> None:
    made = small(name)
    planes = clip(3, 32, 64)
    if made.layout != "padded patches":
        made = replace(
            made, size=sizes.Fixed(32, 64), crop=None, patch=made.patch and Patch(2, 8, 2)
        )
    seen = made.levels(made(planes))
    if made.layout == "padded patches":
        assert [tuple(s.shape) for s in seen] == [(1, 3, 176, 352)] * 3
        return
    assert len(seen) == 1
    assert torch.equal(seen[0][:3], ak.video_to_tensor(planes, dtype=torch.uint8))


# ---- bad input

Call = dict[str, Any]
BAD_CALLS: list[tuple[Any, Call, str]] = [
    (None, {}, "clips must be planes"),
    ([], {}, "clips must be planes"),
    (7, {}, "clips must be planes"),
    ([7], {}, "clips must be planes"),
    ([clip(), None], {}, r"clips\[1\] must be planes"),
    ([clip(), ()], {}, r"clips\[1\] must be planes"),
    (tuple(p[0] for p in clip()), {}, r"the first plane must be \[frames, height, width\]"),
    (tuple(p[:0] for p in clip()), {}, "none of them 0"),
    ((clip()[0], clip(4)[1]), {}, "as many frames each"),
    (clip(), {"format": "nv16"}, "format must be nv12 or"),
    (clip(), {"format": "i420"}, "i420 is 3 planes"),
    (clip(), {"flip": 1}, "flip must be"),
    (clip(), {"fps": [1.0, 2.0]}, "fps must be one number or 1"),
    (clip(), {"fps": "25"}, "fps must be a number"),
    (clip(), {"format": ["nv12"]}, "format must be nv12 or nv21"),
    (clip(), {"rotate": 45}, "rotate must be 0, 90, 180 or 270"),
    (clip(), {"color": "bt709"}, "unknown option 'color'"),
    (clip(), {"color_space": "rec709"}, "color_space must be"),
    ([clip(), clip()[:1]], {}, "nv12 is 2 planes"),
]


@pytest.mark.parametrize(("clips", "options", "says"), BAD_CALLS)
def test_call_that_is_refused(clips: Any, options: Call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small("clip")(clips, **options)


def test_clips_of_two_shapes() -> None:
    with pytest.raises(ValueError, match="the clips must have one shape in the layout NTCHW"):
        small("llava-onevision")([clip(2), clip(3)])
    assert small("clip")([clip(2), clip(3)])["pixel_values"].shape[0] == 5


def test_size_that_patches_do_not_divide() -> None:
    made = replace(small("qwen2.5-vl"), size=sizes.Keep())
    with pytest.raises(ValueError, match="the sides must be multiples of 28, got 48 x 70"):
        made(clip())


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="unknown preset 'qwen4'; there are qwen2-vl, "):
        VideoPreprocessor.from_preset("qwen4")
    with pytest.raises(ValueError, match="unknown preset None"):
        VideoPreprocessor.from_preset(None)  # type: ignore[arg-type]


# ---- configurations


def config(name: str = "CLIPImageProcessor", **more: Any) -> dict[str, Any]:
    key = "video_processor_type" if "Video" in name else "image_processor_type"
    return {key: name, **more}


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        (config(size=336, crop_size=336), "size", sizes.ShortestEdge(336)),
        (config(size=336, crop_size=336), "crop", (336, 336)),
        (config(size={"height": 9, "width": 8}), "size", sizes.Fixed(9, 8)),
        (config("CLIPImageProcessorFast"), "name", "CLIPImageProcessor"),
        (config(do_center_crop=False), "crop", None),
        (config(do_normalize=False), "std", (1.0, 1.0, 1.0)),
        (config(do_normalize=False), "mean", (0.0, 0.0, 0.0)),
        (config("VivitImageProcessor", offset=True), "mean", (0.75, 0.75, 0.75)),
        (config("VivitImageProcessor", do_normalize=False), "std", (0.5, 0.5, 0.5)),
        (config(do_resize=False), "size", sizes.Keep()),
        (config(resample=2), "interpolation", "bilinear"),
        (config("InternVLVideoProcessor", size=8), "size", sizes.Fixed(8, 8)),
        (
            config("Qwen2VLVideoProcessor", cap_pixels_per_frame=True, max_video_tokens=9),
            "size", sizes.SmartResize(28, 100352, 602112, 2, True, 9),
        ),
        ({"feature_extractor_type": "CLIPFeatureExtractor"}, "name", "CLIPImageProcessor"),
    ],
)  # fmt: skip
def test_configuration(given: dict[str, Any], field: str, expected: Any) -> None:
    assert getattr(VideoPreprocessor.from_hf_config(given), field) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "must have a video_processor_type or image_processor_type"),
        (config("GemmaImageProcessor"), "configuration is of 'GemmaImageProcessor'"),
        (config(do_thumbnail=True), "the key 'do_thumbnail', which is not supported"),
        (config(do_rescale=False), "do_rescale=False; only True is supported"),
        (config(rescale_factor=1 / 127.5), "rescale_factor=0.00784"),
        (config(rescale_factor="x"), "rescale_factor='x'"),
        (config(offset=True), "offset=True; only False"),
        (config("VivitImageProcessor", offset=False), "offset=False; only True"),
        (config("VivitImageProcessor", rescale_factor=1 / 255), "rescale_factor=0.0039"),
        (config(do_pad=True), "do_pad=True"),
        (config(resample=5), r"resample=5; supported are 0 \(nearest\)"),
        (config(size={"max_height": 8, "max_width": 8}), "has size={'max_height': 8"),
        (config(size={"shortest_edge": 0}), "edge must be a whole number from 1"),
        (config(size="224"), "has size='224'"),
        (config(crop_size={"height": 8}), "has crop_size={'height': 8}"),
        (config(image_mean=0.5), "three numbers as image_mean"),
        (config(image_std=[0.5, 0.5]), "three numbers as image_std"),
        (
            config("Qwen2VLVideoProcessor", size={"height": 8, "width": 8}),
            "shortest_edge and longest",
        ),
        (config("Qwen2VLVideoProcessor", patch_size=0), "patch size must be a whole number from 1"),
        (config("Qwen2VLVideoProcessor", min_pixels=9, max_pixels=8), "min_pixels .9. must be"),
        (config("Qwen3VLVideoProcessor", min_pixels=9), "only size counts"),
        (config("InternVLVideoProcessor", initial_shift=0), "initial_shift=0"),
        (config(num_frames=8, fps=2), "num_frames and fps"),
        (
            config("Qwen2VLVideoProcessor", do_sample_frames="no"),
            "do_sample_frames='no'; it must be true or false",
        ),
        (config(do_center_crop="no"), "do_center_crop='no'; it must be true or false"),
        (config(do_resize=[0]), r"do_resize=\[0\]; it must be true or false"),
        (config("Unheard"), "is of 'Unheard', which is not supported; `aimills_kernels"),
        (config("VivitVideoProcessor", image_std=["a"] * 3), "three numbers as image_std, got"),
        (config(image_mean=[True, 0, 0]), r"three numbers as image_mean, got \[True, 0, 0\]"),
        (config(resample=[3]), r"resample=\[3\]; supported are 0"),
        (config(num_frames=0), "num_frames must be"),
        (config("Siglip2ImageProcessor", do_resize=False), "do_resize=False"),
        (7, "config must be a mapping or a path, got 7"),
        ("", "config must be a mapping or a path, got ''"),
    ],
)
def test_configuration_that_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VideoPreprocessor.from_hf_config(given)


# ---- whole processors


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("Qwen2VLVideoProcessor", {"size": {"shortest_edge": 1, "longest_edge": 9000}}),
    ("Qwen2VLVideoProcessor", {"size": {"shortest_edge": 1, "longest_edge": 9000},
                               "cap_pixels_per_frame": True, "max_video_tokens": 8}),
    ("Qwen3VLVideoProcessor", {"size": {"shortest_edge": 1, "longest_edge": 9000},
                               "do_sample_frames": False}),
    ("InternVLVideoProcessor", {}),
    ("LlavaOnevisionVideoProcessor", {}),
    ("VideoMAEVideoProcessor", {}),
    ("VivitVideoProcessor", {}),
    ("CLIPImageProcessor", {}),
    ("CLIPImageProcessorPil", {}),
    ("SiglipImageProcessor", {}),
    ("SiglipImageProcessorPil", {}),
    ("Siglip2ImageProcessor", {}),
    ("Siglip2ImageProcessorPil", {}),
    ("TimesformerVideoProcessor", {}),
    ("VivitVideoProcessor", {"do_normalize": False}),
    ("VJEPA2VideoProcessor", {"crop_size": 100, "size": {"shortest_edge": 224}}),
    ("LlavaNextVideoVideoProcessor", {}),
    ("LlavaOnevisionVideoProcessor", {"do_pad": True}),
    ("VideoLlavaVideoProcessor", {}),
    ("BitImageProcessor", {"size": {"shortest_edge": 256}}),
    ("ViTImageProcessor", {}),
    ("Gemma3ImageProcessor", {}),
]  # fmt: skip


@pytest.mark.full
def test_whole_processors_of_transformers(tmp_path: Path) -> None:
    """Same names, shapes and dtypes; grids and masks equal; values within a level of the same
    place, the mean far below. Pillow rounds between its passes."""
    pytest.importorskip("transformers")
    pillow = pytest.importorskip("PIL")
    clips = [smooth(5, 48, 70), smooth(5, 48, 70).flip(2)]
    chroma = [torch.full((5, 24, 35, 2), 128, dtype=torch.uint8)] * 2
    # Grey, full range: RGB levels are the luma itself, so both sides start from the same pixels.
    rgb = [y.unsqueeze(1).expand(-1, 3, -1, -1).contiguous() for y in clips]
    path = tmp_path / "asked.pt"
    torch.save({"clips": rgb, "runs": RUNS}, path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hf_processors", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    planes = list(zip(clips, chroma, strict=True))
    for (name, options), expected in zip(RUNS, torch.load(path), strict=True):
        made = VideoPreprocessor.from_hf_config(config(name, **options), dtype=torch.float32)
        got = made(planes, color_range="full")
        crops = expected.pop("num_crops", torch.zeros(1))  # Gemma 3's, of a pan and scan
        assert not crops.any(), name
        assert set(got) == set(expected), name
        for key, value in expected.items():
            assert got[key].shape == value.shape, (name, key)
            if key != made.output:
                assert got[key].dtype == value.dtype, (name, key)
                assert torch.equal(got[key], value), (name, key)
        level = 1 / 255 / min(made.std)
        distance = (got[made.output] - expected[made.output].float()).abs()
        assert distance.max() <= 1.01 * level, name
        assert distance.mean() < (0.3 if "Pil" in name else 0.01) * level, name
        if "Pil" in name:  # in its own mode the same levels
            mode = "pil13" if int(pillow.__version__.partition(".")[0]) >= 13 else "pil"
            same = replace(made, mode=mode)(planes, color_range="full")[made.output]
            assert (same - expected[made.output]).abs().max() < 1e-3 * level, name


def smooth(frames: int, height: int, width: int) -> Tensor:
    """Waves of another phase in every frame."""
    t, y, x = (torch.arange(n).double() for n in (frames, height, width))
    wave = torch.sin(y.view(-1, 1) / 5 + t.view(-1, 1, 1)) + torch.cos(x / 7 - t.view(-1, 1, 1))
    return (127.5 + 60 * wave).round().to(torch.uint8)
