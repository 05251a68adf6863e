"""What a model's processor does to decoded frames, as a value that can be read and called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimills_kernels._words import shown
from aimills_kernels.kernels.video.formats import FORMATS, Format
from aimills_kernels.ops.video import video_to_tensor
from aimills_kernels.ops.video_ragged import video_to_tensor_ragged
from aimills_kernels.video import configs, sizes
from aimills_kernels.video.layout import (
    Patch,
    from_padded_patches,
    from_patches,
    grid_of,
    middle,
    to_padded_patches,
)
from aimills_kernels.video.sampling import Sampling, check_count
from aimills_kernels.video.surfaces import planes_of

Planes = Sequence[Tensor]  # as `video_to_tensor` takes them
Three = tuple[float, float, float]
LAYOUTS = ("patches", "padded patches", "NTCHW", "NCHW")
_COLOR = ("color_space", "color_range", "chroma_location", "chroma_upsampling", "transfer")
_TRAINING = ("augment", "seed", "clip_ids")
# By Pillow's numbers; 5 is hamming, which the op lacks.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area"}


class _Part(NamedTuple):
    """A clip's sampled planes, its number of frames, and the size that they get; then what is kept
    of it, and what is put around that: top, left, bottom and right."""

    planes: Planes
    frames: int
    resized: tuple[int, int]
    window: tuple[int, int, int, int]
    pad: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result."""
        (_, _, tall, wide), (above, before, below, behind) = self.window, self.pad
        return above + tall + below, before + wide + behind


@dataclass(frozen=True, repr=False)
class VideoPreprocessor:
    """Frames to a model's input: which of them, their size, colour, mean and std, and the layout.

    Made by `from_preset` or `from_hf_config`; `dataclasses.replace` changes a part.

    Fields:
        name: of the preset, or of the processor's class.
        size: the rule for height and width, of `aimills_kernels.video.sizes`.
        crop: (height, width) cut from the middle after the resize, with black around what is
            smaller, or None.
        interpolation, mean, std, dtype, mode: as `video_to_tensor` takes them.
        layout: "patches" (tokens of all clips, one behind the other), "padded patches" (tokens of
            each frame, filled up to a number), "NTCHW" (clips) or "NCHW" (frames of all clips).
        patch: (temporal, spatial, merge) where the layout is one of patches.
        output: the name of the values in the result.
        sampling: which frames are taken.
    """

    name: str
    size: sizes.SizeRule
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: str
    patch: Patch | None
    output: str
    sampling: Sampling
    dtype: torch.dtype = torch.bfloat16
    mode: str = "torch"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got {shown(self.layout)}")
        if "patches" in self.layout and self.patch is None:
            raise ValueError(f"the layout {self.layout} needs a patch")

    @classmethod
    def from_preset(cls, name: str, *, dtype: torch.dtype = torch.bfloat16) -> VideoPreprocessor:
        """What a released model's processor does: "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "siglip",
        "siglip2", "clip", "llava-onevision", "internvl", "videomae" or "vivit"."""
        return _made(name, configs.complete(configs.preset(name)), dtype)

    @classmethod
    def from_hf_config(
        cls,
        config: Mapping[str, Any] | str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.bfloat16,
    ) -> VideoPreprocessor:
        """What a configuration of Transformers says: the dict, the path of its JSON file, or a
        checkpoint's folder. ValueError for what it says and this library can't do."""
        if isinstance(config, (str, os.PathLike)) and config != "":
            config = configs.read(config)
        if not isinstance(config, Mapping):
            raise ValueError(f"config must be a mapping or a path, got {shown(config)}")
        whole = configs.complete(config)
        return _made(whole["class"], whole, dtype)

    def __repr__(self) -> str:
        crop = None if self.crop is None else f"{self.crop[0]} x {self.crop[1]} in the middle"
        patch = None
        if self.patch is not None:
            side = self.patch.spatial
            patch = f"{self.patch.temporal} x {side} x {side}, merged {self.patch.merge}"
        rows = [
            ("frames", self.sampling), ("size", self.size), ("crop", crop),
            ("filter", f"{self.interpolation}, mode {self.mode}"), ("mean", self.mean),
            ("std", self.std), ("layout", self.layout), ("patch", patch), ("output", self.output),
            ("dtype", self.dtype),
        ]  # fmt: skip
        lines = [f"  {name:<7} {value}" for name, value in rows if value is not None]
        return "\n".join([f"VideoPreprocessor {self.name}", *lines])

    def __call__(
        self,
        clips: Planes | Sequence[Planes],
        *,
        fps: float | Sequence[float] | None = None,
        format: str = "nv12",
        rotate: int = 0,
        flip: bool = False,
        **options: Any,
    ) -> dict[str, Tensor]:
        """The model's input from the planes of a clip, or of several.

        Args:
            clips: planes as `video_to_tensor` takes them, (y, uv) for NV12, or a list of such;
                tensors, or arrays of another library (`aimills_kernels.video.surfaces`).
            fps: the rate of the frames, or a list with each clip's: frames are sampled from them.
                By default the frames are taken as they are, as frames sampled before.
            format, rotate, flip: as `video_to_tensor` takes them.
            options: color_space, color_range, chroma_location, chroma_upsampling and transfer,
                likewise; for training augment, seed and clip_ids, as `video_to_tensor_ragged` takes
                them. The size is that of the whole frames.

        Returns:
            What Transformers' processor returns, by the same names: `pixel_values_videos` and
            `video_grid_thw` for patches, else `pixel_values_videos` or `pixel_values`; for padded
            patches `pixel_attention_mask` and `spatial_shapes` too.
        """
        several = _clips(clips)
        rates = _rates(fps, len(several))
        for name in options:
            if name not in _COLOR + _TRAINING:
                there = ", ".join(_COLOR + _TRAINING)
                raise ValueError(f"unknown option {name!r}; there are {there}")
        if not isinstance(format, str) or format not in FORMATS:
            raise ValueError(f"format must be {' or '.join(FORMATS)}, got {shown(format)}")
        parts = []
        for i, (planes, rate) in enumerate(zip(several, rates, strict=True)):
            try:
                parts.append(self._part(planes, rate, FORMATS[format], rotate))
            except ValueError as error:
                raise ValueError(f"clips[{i}]: {error}" if len(several) > 1 else error) from error
        options |= {"format": format, "rotate": rotate, "flip": flip}
        if self.layout == "patches":
            return self._patches(parts, options)
        return self._batch(self._frames(parts, options))

    def _part(self, planes: Planes, fps: float | None, form: Format, rotate: int) -> _Part:
        shape = planes[0].shape
        if len(shape) != form.dims(0).count(",") + 1 or 0 in shape:
            raise ValueError(
                f"the first plane must be {form.dims(0)}, none of them 0, got {list(shape)}"
            )
        if len(counts := {len(p) if p.dim() else 0 for p in planes}) > 1:
            raise ValueError(f"the planes must have as many frames each, got {shown(counts)}")
        count, rows, cols = form.size(planes)
        if fps is not None:
            chosen = self.sampling.indices(count, fps)
            planes, count = [_taken(p, chosen) for p in planes], len(chosen)
        if rotate in (90, 270):
            rows, cols = cols, rows
        resized = self.size.size(count, rows, cols)
        return _Part(planes, count, resized, *middle(*resized, *(self.crop or resized)))

    def _run(self, parts: list[_Part], options: Mapping[str, Any], **layout: Any) -> Tensor:
        """What comes of all clips, which are padded alike, one behind the other, by one call."""
        given: dict[str, Any] = {
            "interpolation": self.interpolation, "mode": self.mode, "mean": self._scale[0],
            "std": self._scale[1], "dtype": self.dtype, "pad": parts[0].pad, **options, **layout,
        }  # fmt: skip
        if len(parts) == 1 and given.get("augment") is None:
            (part,) = parts
            return video_to_tensor(part.planes, size=part.resized, window=part.window, **given)
        flip = given.pop("flip")
        return video_to_tensor_ragged(
            [part.planes for part in parts], sizes=[part.resized for part in parts],
            windows=[part.window for part in parts], flips=[flip] * len(parts), **given,
        )  # fmt: skip

    @property
    def _scale(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and std of the values; u8 values are levels."""
        plain = self.dtype == torch.uint8
        return ((0.0,) * 3, (1.0,) * 3) if plain else (self.mean, self.std)

    def _patches(self, parts: list[_Part], options: Mapping[str, Any]) -> dict[str, Tensor]:
        assert self.patch is not None
        grids = [grid_of(part.frames, *part.size, self.patch) for part in parts]
        layout = {"layout": "patches", "patch": tuple(self.patch)}
        if len({part.pad for part in parts}) == 1:
            tokens = self._run(parts, options, **layout)
        else:
            self._check_apart(options)
            tokens = torch.cat([self._run([part], options, **layout) for part in parts])
        return {self.output: tokens, "video_grid_thw": torch.tensor(grids)}

    def _frames(self, parts: list[_Part], options: Mapping[str, Any]) -> list[Tensor]:
        """[F, 3, H, W] of each clip: by one call where they are of one size and padded alike."""
        if len({(part.size, part.pad) for part in parts}) == 1:
            return list(self._run(parts, options).split([part.frames for part in parts]))
        self._check_apart(options)
        return [self._run([part], options) for part in parts]

    def _check_apart(self, options: Mapping[str, Any]) -> None:
        """Whether a call for each clip gives what one call for all would."""
        if options.get("augment") is not None:
            raise ValueError(
                f"augment needs clips that get one size in the layout {self.layout}, and that are "
                "padded alike"
            )

    def _batch(self, clips: list[Tensor]) -> dict[str, Tensor]:
        if self.layout == "padded patches":
            assert self.patch is not None
            assert isinstance(self.size, sizes.MaxPatches)
            parts = [to_padded_patches(c, self.patch.spatial, self.size.count) for c in clips]
            names = (self.output, "pixel_attention_mask", "spatial_shapes")
            return {n: torch.cat(p) for n, p in zip(names, zip(*parts, strict=True), strict=True)}
        shapes = {tuple(c.shape[2 if self.layout == "NCHW" else 0 :]) for c in clips}
        if len(shapes) > 1:
            raise ValueError(
                f"the clips must have one shape in the layout {self.layout}, got "
                f"{' and '.join(map(str, sorted(shapes)))}"
            )
        join = torch.cat if self.layout == "NCHW" else torch.stack
        return {self.output: join(clips)}

    def levels(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """What the model sees, from a result of this preprocessor: u8 frames [F, 3, H, W], of each
        clip by itself where the result keeps clips apart. Frames repeated to fill a patch count."""
        values = batch[self.output]
        if self.layout == "patches":
            assert self.patch is not None
            grids = [tuple(grid) for grid in batch["video_grid_thw"].tolist()]
            parts = values.split([t * h * w for t, h, w in grids])
            clips = [from_patches(p, g, self.patch) for p, g in zip(parts, grids, strict=True)]
        elif self.layout == "padded patches":
            assert self.patch is not None
            shapes = batch["spatial_shapes"].tolist()
            frames = [
                from_padded_patches(tokens, (h, w), self.patch.spatial)
                for tokens, (h, w) in zip(values, shapes, strict=True)
            ]
            clips = [torch.stack([frame]) for frame in frames]
        else:
            clips = [values] if self.layout == "NCHW" else list(values)
        if self.dtype == torch.uint8:
            return clips
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=values.device).view(3, 1, 1)
            for v in (self.mean, self.std)
        )
        shown_levels = (((clip.float() * std + mean) * 255).round().clamp(0, 255) for clip in clips)
        return [clip.to(torch.uint8) for clip in shown_levels]


# ---- arguments


def _clips(clips: Any) -> list[Planes]:
    if not isinstance(clips, (tuple, list)) or not clips:
        raise ValueError(f"clips must be planes, or a list of such, got {shown(type(clips))}")
    one = not isinstance(clips[0], (tuple, list))
    several = [planes_of(planes) for planes in ([clips] if one else clips)]
    for i, planes in enumerate(several):
        _check_planes("clips" if one else f"clips[{i}]", planes)
    return several


def _check_planes(name: str, planes: Any) -> None:
    several = isinstance(planes, (tuple, list)) and len(planes) > 0
    if not several or not all(isinstance(p, Tensor) for p in planes):
        raise ValueError(f"{name} must be planes, all of them tensors, got {shown(planes)}")


def _taken(plane: Tensor, chosen: list[int]) -> Tensor:
    """Frames of a plane. Not every device indexes u16."""
    signed = plane.view(torch.int16) if plane.dtype == torch.uint16 else plane
    return signed.index_select(0, torch.tensor(chosen, device=plane.device)).view(plane.dtype)


def _rates(fps: Any, count: int) -> list[float | None]:
    if not isinstance(fps, (tuple, list)):
        return [fps] * count
    if len(fps) != count:
        raise ValueError(f"fps must be one number or {count}, one a clip, got {shown(fps)}")
    return list(fps)


# ---- from a configuration


def _made(name: str, config: Mapping[str, Any], dtype: torch.dtype) -> VideoPreprocessor:
    _check_supported(config)
    mean, std = _mean_and_std(config)
    patch = None
    if "patches" in config["layout"]:
        values = [config.get(k, 1) for k in ("temporal_patch_size", "patch_size", "merge_size")]
        for key, value in zip(Patch._fields, values, strict=True):
            check_count(f"the {key} patch size", value)
        patch = Patch(*values)
    return VideoPreprocessor(
        name=name,
        size=_size_rule(config),
        crop=_crop(config),
        interpolation=_FILTERS[config["resample"]],
        mean=mean,
        std=std,
        layout=config["layout"],
        patch=patch,
        output=config["output"],
        sampling=_sampling(config),
        dtype=dtype,
    )


def _mean_and_std(config: Mapping[str, Any]) -> tuple[Three, Three]:
    """Of values in 0..1; (2 x - 1 - m) / s of `signed` ones is (x - (1 + m) / 2) / (s / 2)."""
    normalize = config.get("do_normalize", True)
    mean, std = (
        _three(key, config[key]) if normalize else (plain,) * 3
        for key, plain in (("image_mean", 0.0), ("image_std", 1.0))
    )
    if not config.get("signed", False):
        return mean, std
    (m0, m1, m2), (s0, s1, s2) = mean, std
    return ((1 + m0) / 2, (1 + m1) / 2, (1 + m2) / 2), (s0 / 2, s1 / 2, s2 / 2)


def _crop(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Transformers' processors that make patches look at no do_center_crop."""
    if not config.get("do_center_crop") or "patches" in config["layout"]:
        return None
    return _sides("crop_size", config["crop_size"])


def _check_supported(config: Mapping[str, Any]) -> None:
    signed = config.get("signed", False)
    for key, only in (
        ("do_rescale", True),
        ("rescale_factor", 1 / 127.5 if signed else 1 / 255),
        ("offset", signed),
        ("do_pad", False),
        ("initial_shift", True),
        ("do_pan_and_scan", False),
    ):
        if key == "do_pad" and "Video" in config["class"]:
            continue  # Transformers doesn't pad a video either
        value = config.get(key, only)
        if not isinstance(value, (bool, int, float)) or abs(value - only) > 1e-9:
            raise ValueError(
                f"the configuration has {key}={shown(value)}; only {only} is supported"
            )
    if not isinstance(config["resample"], int) or config["resample"] not in _FILTERS:
        raise ValueError(
            f"the configuration has resample={shown(config['resample'])}; supported are "
            f"{', '.join(f'{number} ({name})' for number, name in _FILTERS.items())}"
        )
    if config.get("do_center_crop") and not config.get("crop_size"):
        raise ValueError("the configuration has do_center_crop=True and no crop_size")


def _size_rule(config: Mapping[str, Any]) -> sizes.SizeRule:
    if config["layout"] == "padded patches":
        if not config.get("do_resize", True):
            raise ValueError(
                "the configuration has do_resize=False, which needs frames of one size"
            )
        return sizes.MaxPatches(config["patch_size"], config["max_num_patches"])
    if not config.get("do_resize", True):
        return sizes.Keep()
    size = config["size"]
    if "size_of_crop" in config:
        height, _ = _sides("crop_size", config["crop_size"])
        return sizes.ShortestEdge(int(height * config["size_of_crop"]))
    if "edge" in config:
        return _smart(config, size)
    if isinstance(size, int) and not config.get("default_to_square", True):
        return sizes.ShortestEdge(size)
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return sizes.ShortestEdge(size["shortest_edge"])
    return sizes.Fixed(*_sides("size", size))


def _smart(config: Mapping[str, Any], size: Any) -> sizes.SizeRule:
    if not isinstance(size, Mapping) or set(size) != {"shortest_edge", "longest_edge"}:
        raise ValueError(
            "the configuration must have a size of shortest_edge and longest_edge, got "
            f"{shown(size)}"
        )
    least, most = size["shortest_edge"], size["longest_edge"]
    if config["edge"] == "frame":
        least, most = config.get("min_pixels", least), config.get("max_pixels", most)
    elif "min_pixels" in config or "max_pixels" in config:
        raise ValueError(
            "the configuration has min_pixels or max_pixels, and only size counts here"
        )
    rule = sizes.SmartResize if config["edge"] == "frame" else sizes.SmartResizeVideo
    return rule(
        factor=config["patch_size"] * config["merge_size"],
        min_pixels=least,
        max_pixels=most,
        temporal=config["temporal_patch_size"],
        cap=bool(config.get("cap_pixels_per_frame", False)),
        max_tokens=config["max_video_tokens"],
    )


def _sampling(config: Mapping[str, Any]) -> Sampling:
    sampled = config["do_sample_frames"]
    return Sampling(
        config.get("sampling", "uniform"),
        config.get("num_frames") if sampled else None,
        config.get("fps") if sampled else None,
        config.get("min_frames", 1),
        config.get("max_frames", 1 << 31),
        config.get("temporal_patch_size", 1),
        all_frames=not sampled,
    )


def _sides(key: str, size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        sides = (size["height"], size["width"])
    else:
        sides = (size, size)
    if not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        raise ValueError(
            f"the configuration has {key}={shown(size)}; supported are a whole number, height and "
            "width, and shortest_edge where the model has it"
        )
    return sides


def _three(key: str, values: Any) -> Three:
    several = isinstance(values, (list, tuple)) and len(values) == 3
    if not several or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise ValueError(f"the configuration must have three numbers as {key}, got {shown(values)}")
    return tuple(values)
