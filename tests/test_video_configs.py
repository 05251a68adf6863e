"""Configuration files as released checkpoints have them, and where they are found."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels.video import VideoPreprocessor, sizes
from aimills_kernels.video.layout import Patch

CLIP: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
USUAL: dict[str, Any] = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "rescale_factor": 1 / 255,
    "do_convert_rgb": True,
}  # fmt: skip
# What Transformers 4.53 to 4.57 wrote of a processor, for all that nobody had set.
NULLS: dict[str, Any] = dict.fromkeys(
    ["crop_size", "device", "do_center_crop", "do_pad", "fps", "input_data_format", "num_frames",
     "size_divisor", "video_metadata", "disable_grouping", "return_tensors", "pad_size"]
)  # fmt: skip
SAVED = {**USUAL, **NULLS, "data_format": "channels_first", "default_to_square": True,
         "do_sample_frames": False, "return_metadata": False, "resample": 3}  # fmt: skip
SOUND = {
    "chunk_length": 300, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128, "hop_length": 160, "n_fft": 400, "n_samples": 4800000,
    "nb_max_frames": 30000, "padding_side": "right", "padding_value": 0.0,
    "return_attention_mask": True, "sampling_rate": 16000,
}  # fmt: skip
QWEN25_CONFIG = {  # Qwen2.5-VL's preprocessor_config.json
    **CLIP, "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14,
    "temporal_patch_size": 2, "merge_size": 2, "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}  # fmt: skip
QWEN3_CONFIG = {  # Qwen3-VL's video_preprocessor_config.json
    **HALF, "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16,
    "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor",
    "video_processor_type": "Qwen3VLVideoProcessor",
}  # fmt: skip

WORLD: dict[str, dict[str, Any]] = {
    "qwen 2.5, saved": {
        **SAVED, **QWEN25_CONFIG, "min_frames": 4, "max_frames": 768,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        "video_processor_type": "Qwen2VLVideoProcessor",
    },
    "qwen 2.5 omni": {**QWEN25_CONFIG, **SOUND, "processor_class": "Qwen2_5OmniProcessor"},
    "internvl 3, video": {
        **SAVED, **IMAGENET, "initial_shift": True, "size": {"height": 448, "width": 448},
        "processor_class": "InternVLProcessor", "video_processor_type": "InternVLVideoProcessor",
    },
    "internvl 3, images": {
        **USUAL, **IMAGENET, "crop_to_patches": False, "min_patches": 1, "max_patches": 12,
        "resample": 3, "size": {"height": 448, "width": 448},
        "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
    },
    "llava-onevision, images": {
        **USUAL, **HALF, "do_pad": True, "image_grid_pinpoints": [[384, 384], [384, 768]],
        "image_processor_type": "LlavaOnevisionImageProcessor", "resample": 3,
        "processor_class": "LlavaOnevisionProcessor", "size": {"height": 384, "width": 384},
    },
    "llava-next-video": {
        **USUAL, **CLIP, "aspect_ratio_setting": "anyres", "do_center_crop": True, "resample": 3,
        "crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336},
        "image_processor_type": "LlavaNextVideoImageProcessor",
    },
    "video-llava": {
        **USUAL, **CLIP, "_valid_processor_keys": ["images"], "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224},
        "image_processor_type": "VideoLlavaImageProcessor", "resample": 3,
    },
    "videomae, of 2022": {
        **IMAGENET, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "VideoMAEFeatureExtractor", "resample": 2, "size": 224,
    },
    "vivit": {
        **USUAL, **HALF, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
        "do_zero_centering": False, "image_processor_type": "VivitImageProcessor",
        "offset": True, "resample": 2, "rescale_factor": 0.00784313725490196,
        "size": {"shortest_edge": 256},
    },
    "v-jepa 2": {
        **USUAL, **IMAGENET, "crop_size": {"height": 384, "width": 384}, "do_center_crop": True,
        "resample": 2, "size": {"shortest_edge": 292},
        "video_processor_type": "VJEPA2VideoProcessor",
    },
    "clip l/14": {
        **USUAL, **CLIP, "crop_size": {"height": 336, "width": 336}, "do_center_crop": True,
        "image_processor_type": "CLIPImageProcessor", "resample": 3,
        "size": {"shortest_edge": 336},
    },
    "siglip so400m": {
        **USUAL, **HALF, "image_processor_type": "SiglipImageProcessor", "resample": 3,
        "processor_class": "SiglipProcessor", "size": {"height": 384, "width": 384},
    },
    "paligemma": {
        **USUAL, **HALF, "image_processor_type": "SiglipImageProcessor", "image_seq_length": 256,
        "processor_class": "PaliGemmaProcessor", "resample": 3,
        "size": {"height": 224, "width": 224},
    },
    "siglip 2": {
        **USUAL, **HALF, "do_convert_rgb": None, "max_num_patches": 256, "patch_size": 16,
        "image_processor_type": "Siglip2ImageProcessor", "resample": 2,
    },
    "gemma 3": {
        **USUAL, **HALF, "do_pan_and_scan": None, "image_seq_length": 256, "resample": 2,
        "pan_and_scan_max_num_crops": None, "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None, "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": 896, "width": 896},
    },
    "dinov2": {
        **USUAL, **IMAGENET, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
        "image_processor_type": "BitImageProcessor", "resample": 3,
        "size": {"shortest_edge": 256},
    },
}  # fmt: skip
READ: dict[str, tuple[str, Any]] = {
    "qwen 2.5, saved": ("Qwen2VLVideoProcessor", sizes.SmartResize(28, 3136, 12845056)),
    "qwen 2.5 omni": ("Qwen2VLVideoProcessor", sizes.SmartResize(28, 3136, 12845056)),
    "internvl 3, video": ("InternVLVideoProcessor", sizes.Fixed(448, 448)),
    "internvl 3, images": ("InternVLVideoProcessor", sizes.Fixed(448, 448)),
    "llava-onevision, images": ("LlavaOnevisionVideoProcessor", sizes.Fixed(384, 384)),
    "llava-next-video": ("LlavaNextVideoVideoProcessor", sizes.ShortestEdge(336)),
    "video-llava": ("VideoLlavaVideoProcessor", sizes.ShortestEdge(224)),
    "videomae, of 2022": ("VideoMAEVideoProcessor", sizes.ShortestEdge(224)),
    "vivit": ("VivitVideoProcessor", sizes.ShortestEdge(256)),
    "v-jepa 2": ("VJEPA2VideoProcessor", sizes.ShortestEdge(438)),
    "clip l/14": ("CLIPImageProcessor", sizes.ShortestEdge(336)),
    "siglip so400m": ("SiglipImageProcessor", sizes.Fixed(384, 384)),
    "paligemma": ("SiglipImageProcessor", sizes.Fixed(224, 224)),
    "siglip 2": ("Siglip2ImageProcessor", sizes.MaxPatches(16, 256)),
    "gemma 3": ("Gemma3ImageProcessor", sizes.Fixed(896, 896)),
    "dinov2": ("BitImageProcessor", sizes.ShortestEdge(256)),
}


@pytest.mark.parametrize("name", WORLD)
def test_configuration_of_a_checkpoint(name: str) -> None:
    given = WORLD[name]
    made = VideoPreprocessor.from_hf_config(given)
    assert (made.name, made.size) == READ[name]
    crop = given.get("crop_size")
    side = crop["height"] if isinstance(crop, dict) else 224  # of 2022: the class's own
    assert made.crop == ((side, side) if given.get("do_center_crop") else None)
    assert made.interpolation == ("bilinear" if given.get("resample") == 2 else "bicubic")
    if name == "vivit":  # of 2 level / 255 - 1
        assert (made.mean, made.std) == ((0.75,) * 3, (0.25,) * 3)
    else:
        assert (list(made.mean), list(made.std)) == (given["image_mean"], given["image_std"])


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("clip l/14", {"size_divisor": 32}, "the key 'size_divisor', which is not supported"),
        ("clip l/14", {"offset": True}, "offset=True; only False is supported"),
        ("vivit", {"offset": False}, "offset=False; only True is supported"),
        ("vivit", {"rescale_factor": 1 / 255}, "rescale_factor=0.0039.*; only 0.0078"),
        ("gemma 3", {"do_pan_and_scan": True}, "do_pan_and_scan=True; only False"),
        ("clip l/14", {"do_pad": True}, "do_pad=True; only False"),
        ("internvl 3, images", {"processor_class": "GotOcr2Processor"}, "is of 'GotOcr2Image"),
    ],
)
def test_what_a_checkpoint_may_not_ask_for(name: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VideoPreprocessor.from_hf_config({**WORLD[name], **more})


ALL = list(range(100))
# Of 100 frames at 10 a second; that a class has do_sample_frames False or True is Transformers'.
SAMPLED: list[tuple[str, dict[str, Any], list[int]]] = [
    ("Qwen2VLVideoProcessor", {"do_sample_frames": False, "fps": 1}, ALL),
    ("Qwen2VLVideoProcessor", {"do_sample_frames": True, "fps": 0.4}, [0, 25, 50, 75]),
    ("Qwen2VLVideoProcessor", {"do_sample_frames": False, "fps": 1, "num_frames": 4}, ALL),
    ("Qwen3VLVideoProcessor", {"do_sample_frames": False, "max_frames": 8}, ALL),
    ("Qwen3VLVideoProcessor", {"fps": 0.4}, [0, 33, 66, 99]),
    ("Qwen3VLVideoProcessor", {"num_frames": 2}, [0, 99]),
    ("InternVLVideoProcessor", {"do_sample_frames": True, "num_frames": 4}, [12, 37, 62, 87]),
    ("InternVLVideoProcessor", {"do_sample_frames": False, "num_frames": 4}, ALL),
    ("VideoMAEVideoProcessor", {"do_sample_frames": True, "num_frames": 4}, [0, 25, 50, 75]),
    ("VideoMAEVideoProcessor", {"do_sample_frames": None}, ALL),
    ("CLIPImageProcessor", {"num_frames": 4}, [0, 25, 50, 75]),
    ("CLIPImageProcessor", {"do_sample_frames": False, "num_frames": 4}, ALL),
]


@pytest.mark.parametrize(("name", "given", "expected"), SAMPLED)
def test_frames_that_a_configuration_takes(
    name: str, given: dict[str, Any], expected: list[int]
) -> None:
    key = "video_processor_type" if "Video" in name else "image_processor_type"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = VideoPreprocessor.from_hf_config({key: name, **given})
    assert made.sampling.indices(100, 10.0) == expected
    assert ("all (" in repr(made)) == (expected == ALL)


def test_rate_without_do_sample_frames_is_told() -> None:
    for given in ({"fps": 2}, {"num_frames": 4}, {"fps": 2, "num_frames": 4}):
        config = {"video_processor_type": "Qwen2VLVideoProcessor", **given}
        with pytest.warns(UserWarning, match="no do_sample_frames, which is false in") as said:
            made = VideoPreprocessor.from_hf_config(config)
        assert said[0].filename == __file__
        assert made.sampling.indices(100, 10.0) == ALL


def test_configuration_of_qwen25() -> None:
    made = VideoPreprocessor.from_hf_config(QWEN25_CONFIG)
    assert made.size == sizes.SmartResize(28, 3136, 12845056)
    assert made.patch == Patch(2, 14, 2)
    assert made.name == "Qwen2VLVideoProcessor"


def test_configuration_of_qwen3_is_its_preset() -> None:
    made = VideoPreprocessor.from_hf_config(QWEN3_CONFIG)
    assert made == replace(VideoPreprocessor.from_preset("qwen3-vl"), name=made.name)


def test_configuration_for_images_of_qwen3() -> None:
    given = {
        **QWEN3_CONFIG, "video_processor_type": None,
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }  # fmt: skip
    assert VideoPreprocessor.from_hf_config(given).name == "Qwen3VLVideoProcessor"


def test_configuration_from_files(tmp_path: Path) -> None:
    expected = VideoPreprocessor.from_hf_config(QWEN3_CONFIG)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(QWEN25_CONFIG))
    assert VideoPreprocessor.from_hf_config(tmp_path).name == "Qwen2VLVideoProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "x"}))
    assert VideoPreprocessor.from_hf_config(tmp_path).name == "Qwen2VLVideoProcessor"
    path = tmp_path / "video_preprocessor_config.json"
    path.write_text(json.dumps(QWEN3_CONFIG))
    assert VideoPreprocessor.from_hf_config(path) == expected
    assert VideoPreprocessor.from_hf_config(str(tmp_path)) == expected
    nested = {"video_processor": {**QWEN3_CONFIG, "patch_size": 14}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert VideoPreprocessor.from_hf_config(tmp_path).patch == Patch(2, 14, 2)


def test_a_folder_is_read_in_the_order_of_transformers(tmp_path: Path) -> None:
    """The part for images of a processor_config.json comes behind a file for video."""
    nested = {"image_processor": WORLD["siglip 2"], "tokenizer": None}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert VideoPreprocessor.from_hf_config(tmp_path).name == "Siglip2ImageProcessor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(QWEN25_CONFIG))
    assert VideoPreprocessor.from_hf_config(tmp_path).name == "Qwen2VLVideoProcessor"
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(QWEN3_CONFIG))
    assert VideoPreprocessor.from_hf_config(tmp_path).name == "Qwen3VLVideoProcessor"


def test_configuration_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no configuration in any of processor_config\.json"):
        VideoPreprocessor.from_hf_config(tmp_path)
    with pytest.raises(ValueError, match="can't be read: No such file"):
        VideoPreprocessor.from_hf_config(tmp_path / "x.json")
    path = tmp_path / "x.json"
    for text, says in (("{", "is no JSON"), ("[1]", "must hold a JSON object")):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            VideoPreprocessor.from_hf_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no JSON"):
        VideoPreprocessor.from_hf_config(path)
