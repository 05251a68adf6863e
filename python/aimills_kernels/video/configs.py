"""What models do to video, in the words of Hugging Face's `preprocessor_config.json`.

`CLASSES` holds, for each processor of Transformers, the class's own defaults, which a configuration
file leaves out at will. `PRESETS` are configurations: those of released checkpoints.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimills_kernels._words import near, shown

_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
_QWEN_FRAMES = {"min_frames": 4, "max_frames": 768, "temporal_patch_size": 2, "merge_size": 2}


def _middle(edge: int, crop: int) -> dict[str, Any]:
    """The shorter side to `edge`, and of that the middle."""
    return {
        "size": {"shortest_edge": edge}, "default_to_square": False, "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
    }  # fmt: skip


# Beside Transformers' own keys: `layout` and `output`, the name of the result; the `sampling`
# strategy; `edge`, whose pixels a size with `shortest_edge` and `longest_edge` bounds; and `signed`
# where levels become -1..1 before mean and std. `size_of_crop`: the shorter side is that many times
# the crop, whatever `size` says. Classes for video without do_sample_frames have it False.
CLASSES: dict[str, dict[str, Any]] = {
    "Qwen2VLVideoProcessor": {
        **_CLIP, **_QWEN_FRAMES, "resample": BICUBIC, "patch_size": 14,
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "max_video_tokens": 128000, "layout": "patches", "output": "pixel_values_videos",
        "sampling": "qwen2-vl", "edge": "frame",
    },
    "Qwen3VLVideoProcessor": {
        **_HALF, **_QWEN_FRAMES, "resample": BICUBIC, "patch_size": 16, "fps": 2,
        "do_sample_frames": True,
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
        "max_video_tokens": 768, "layout": "patches", "output": "pixel_values_videos",
        "sampling": "qwen3-vl", "edge": "video",
    },
    "InternVLVideoProcessor": {
        **_CLIP, "resample": BICUBIC, "size": {"height": 384, "width": 384},
        "layout": "NTCHW", "output": "pixel_values_videos", "sampling": "internvl",
    },
    "LlavaOnevisionVideoProcessor": {
        **_CLIP, "resample": BICUBIC, "size": {"height": 384, "width": 384},
        "layout": "NTCHW", "output": "pixel_values_videos", "default_to_square": False,
    },
    "VideoMAEVideoProcessor": {
        **_HALF, "resample": BILINEAR, "size": {"shortest_edge": 224}, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "layout": "NTCHW", "output": "pixel_values",
        "default_to_square": False,
    },
    "VivitVideoProcessor": {
        **_HALF, "resample": BILINEAR, "size": {"shortest_edge": 256}, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "rescale_factor": 1 / 127.5, "signed": True,
        "layout": "NTCHW", "output": "pixel_values", "default_to_square": False,
    },
    "CLIPImageProcessor": {
        **_CLIP, "resample": BICUBIC, "size": {"shortest_edge": 224}, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "layout": "NCHW", "output": "pixel_values",
        "default_to_square": False,
    },
    "SiglipImageProcessor": {
        **_HALF, "resample": BICUBIC, "size": {"height": 224, "width": 224},
        "layout": "NCHW", "output": "pixel_values", "default_to_square": False,
    },
    "Siglip2ImageProcessor": {
        **_HALF, "resample": BILINEAR, "patch_size": 16, "max_num_patches": 256,
        "layout": "padded patches", "output": "pixel_values",
    },
    "TimesformerVideoProcessor": {
        **_IMAGENET, "resample": BILINEAR, **_middle(224, 224), "layout": "NTCHW",
        "output": "pixel_values",
    },
    "VJEPA2VideoProcessor": {
        **_IMAGENET, "resample": BILINEAR, "do_center_crop": True, "crop_size": 256,
        "size": {"shortest_edge": 292}, "size_of_crop": 256 / 224, "layout": "NTCHW",
        "output": "pixel_values_videos",
    },
    "LlavaNextVideoVideoProcessor": {
        **_CLIP, "resample": BICUBIC, **_middle(224, 224), "layout": "NTCHW",
        "output": "pixel_values_videos",
    },
    "VideoLlavaVideoProcessor": {
        **_CLIP, "resample": BICUBIC, **_middle(224, 224), "layout": "NTCHW",
        "output": "pixel_values_videos",
    },
    "BitImageProcessor": {
        **_CLIP, "resample": BICUBIC, **_middle(224, 224), "layout": "NCHW",
        "output": "pixel_values",
    },
    "ViTImageProcessor": {
        **_HALF, "resample": BILINEAR, "size": {"height": 224, "width": 224}, "layout": "NCHW",
        "output": "pixel_values",
    },
    "Gemma3ImageProcessor": {
        **_HALF, "resample": BILINEAR, "size": {"height": 224, "width": 224}, "layout": "NCHW",
        "output": "pixel_values",
    },
}  # fmt: skip

# A checkpoint without a configuration for video gives the one for images to the video processor.
_FOR_VIDEO = {
    "Qwen2VLImageProcessor": "Qwen2VLVideoProcessor",
    "VideoMAEImageProcessor": "VideoMAEVideoProcessor",
    "VideoMAEFeatureExtractor": "VideoMAEVideoProcessor",
    "VivitImageProcessor": "VivitVideoProcessor",
    "CLIPFeatureExtractor": "CLIPImageProcessor",
    "LlavaNextVideoImageProcessor": "LlavaNextVideoVideoProcessor",
    "LlavaOnevisionImageProcessor": "LlavaOnevisionVideoProcessor",
    "VideoLlavaImageProcessor": "VideoLlavaVideoProcessor",
}
# There what processes images has another model's name.
_OF_MODEL = {
    ("Qwen2VLVideoProcessor", "Qwen3VLProcessor"): "Qwen3VLVideoProcessor",
    ("GotOcr2ImageProcessor", "InternVLProcessor"): "InternVLVideoProcessor",
}
_QWEN2: dict[str, Any] = {
    "video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": True, "fps": 2,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "qwen2-vl": _QWEN2,
    "qwen2.5-vl": _QWEN2,
    "qwen3-vl": {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": 4096, "longest_edge": 25165824},
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor"},
    "siglip2": {"image_processor_type": "Siglip2ImageProcessor"},
    "clip": {"image_processor_type": "CLIPImageProcessor"},
    "llava-onevision": {"video_processor_type": "LlavaOnevisionVideoProcessor", **_HALF},
    "internvl": {
        "video_processor_type": "InternVLVideoProcessor", **_IMAGENET,
        "size": {"height": 448, "width": 448},
    },
    "videomae": {
        "video_processor_type": "VideoMAEVideoProcessor", **_IMAGENET, "do_sample_frames": True,
        "num_frames": 16,
    },
    "vivit": {
        "video_processor_type": "VivitVideoProcessor", "do_sample_frames": True, "num_frames": 32,
    },
}  # fmt: skip

_MEANT = {
    "image_mean", "image_std", "resample", "size", "crop_size", "do_center_crop", "do_resize",
    "do_normalize", "do_rescale", "rescale_factor", "patch_size", "temporal_patch_size",
    "merge_size", "min_pixels", "max_pixels", "min_frames", "max_frames", "fps", "num_frames",
    "cap_pixels_per_frame", "max_video_tokens", "max_num_patches", "initial_shift", "do_pad",
    "default_to_square", "offset", "do_pan_and_scan", "do_sample_frames",
}  # fmt: skip
# They change nothing of what is made from decoded frames of three channels.
_WITHOUT_EFFECT = {
    "_valid_processor_keys", "aspect_ratio_setting", "auto_map", "crop_to_patches", "data_format",
    "device", "disable_grouping", "do_convert_rgb", "do_zero_centering",
    "feature_extractor_type", "image_grid_pinpoints", "image_processor_type", "image_seq_length",
    "input_data_format", "max_patches", "min_patches", "model_input_names", "pad_size",
    "pan_and_scan_max_num_crops", "pan_and_scan_min_crop_size",
    "pan_and_scan_min_ratio_to_activate", "processor_class", "return_metadata", "return_tensors",
    "video_metadata", "video_processor_type",
}  # fmt: skip
# Of Whisper's, which an omni model's file has beside those of pictures.
_OF_SOUND = {
    "chunk_length", "dither", "feature_size", "hop_length", "n_fft", "n_samples", "nb_max_frames",
    "padding_side", "padding_value", "return_attention_mask", "sampling_rate",
}  # fmt: skip
# Where a checkpoint's folder has it, in the order in which Transformers looks: a file, or a part of
# one. The last is for models that take pictures.
_PLACES = (
    ("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None), ("processor_config.json", "image_processor"),
)  # fmt: skip


def preset(name: str) -> dict[str, Any]:
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"unknown preset {shown(name)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what its class adds; ValueError for a key or a class that is unknown."""
    kind = _class(config)
    for key, value in config.items():  # null says nothing: a file has keys of every class so
        if value is not None and key not in _MEANT | _WITHOUT_EFFECT | _OF_SOUND:
            raise ValueError(f"the configuration has the key {shown(key)}, which is not supported")
    given = {k: v for k, v in config.items() if k in _MEANT and v is not None}
    for key in (k for k in given if k.startswith("do_")):
        if not isinstance(given[key], int) or given[key] not in (0, 1):
            raise ValueError(
                f"the configuration has {key}={shown(given[key])}; it must be true or false"
            )
    made = {**CLASSES[kind], **given, "class": kind}
    if _samples(made, given) and "num_frames" in given:
        if "fps" in given:
            raise ValueError("the configuration has num_frames and fps, which exclude each other")
        made.pop("fps", None)
    return made


def _samples(made: dict[str, Any], given: Mapping[str, Any]) -> bool:
    """What do_sample_frames says. Processors of images don't have it."""
    sampled: bool = made.setdefault("do_sample_frames", "Video" not in made["class"])
    unused = [key for key in ("num_frames", "fps") if key in given]
    if not sampled and "do_sample_frames" not in given and unused:
        warnings.warn(
            f"the configuration has {' and '.join(unused)} and no do_sample_frames, which is false "
            f"in Transformers' {made['class']}: all frames are taken, as there",
            stacklevel=4,
        )
    return sampled


def _class(config: Mapping[str, Any]) -> str:
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    kind = next((config[k] for k in keys if config.get(k)), None)
    if kind is None:
        raise ValueError(f"the configuration must have a {' or '.join(keys[:2])}")
    name = str(kind).removesuffix("Pil").removesuffix("Fast")
    name = _FOR_VIDEO.get(name, name)
    name = _OF_MODEL.get((name, str(config.get("processor_class"))), name)
    if name not in CLASSES:
        raise ValueError(
            f"the configuration is of {shown(kind)}, which is not supported; "
            f"{near(name, CLASSES, 'aimills_kernels.video.configs.CLASSES')}"
        )
    return name


def read(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration in a JSON file, or in a checkpoint's folder the one for video."""
    path = Path(source)
    if not path.is_dir():
        data = _json(path)
        parts = (data.get(part) for _, part in _PLACES if part)
        return next((part for part in parts if isinstance(part, dict)), data)
    for name, part in _PLACES:
        if (path / name).is_file():
            data = _json(path / name)
            found = data if part is None else data.get(part)
            if isinstance(found, dict):
                return found
    names = ", ".join(dict.fromkeys(name for name, _ in _PLACES))
    raise ValueError(f"the folder {str(path)!r} has no configuration in any of {names}")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"the configuration {str(path)!r} can't be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise ValueError(f"the configuration {str(path)!r} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"the configuration {str(path)!r} must hold a JSON object")
    return data
