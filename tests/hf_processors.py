"""Whole processors of Transformers, run by themselves: `python -m tests.hf_processors FILE`.

The file holds the RGB frames of clips and what to run: (processor's class, its arguments). What the
processors return goes into the same file. Video processors need torchvision; where that is not
installed, a few functions stand in, written with torch's own resize, which torchvision calls.
"""

from __future__ import annotations

import enum
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _resize(image: Tensor, size: Any, interpolation: Any, antialias: bool = True) -> Tensor:
    """torchvision's path for u8 images: filter in float, round, clamp."""
    flat = image.reshape(-1, *image.shape[-3:]).float()
    made = F.interpolate(flat, tuple(size), mode=interpolation.value, antialias=antialias)
    return made.round().clamp(0, 255).to(image.dtype).reshape(*image.shape[:-2], *size)


def _normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    mean, std = (torch.as_tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (image - mean) / std


def _crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return image[..., top : top + height, left : left + width]


def _pad(
    image: Tensor, padding: list[int], fill: int = 0, padding_mode: str = "constant"
) -> Tensor:
    left, top, right, bottom = padding
    return F.pad(image, (left, right, top, bottom), value=fill)


def stand_in() -> None:
    """Puts modules by the names of torchvision where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    names = ("", ".transforms", ".transforms.v2", ".transforms.v2.functional",
             ".transforms.functional", ".io", ".ops")  # fmt: skip
    for name in names:
        module = types.ModuleType("torchvision" + name)
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        module.__path__ = []
        module.InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
        for function in (_resize, _normalize, _crop, _pad):
            setattr(module, function.__name__[1:], function)
        module.pil_to_tensor = None  # type: ignore[attr-defined]
        module.grayscale_to_rgb = lambda video: video  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        parent, _, last = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    sys.modules["torchvision"].__version__ = "0.26.0"  # type: ignore[attr-defined]


def main(path: Path) -> None:
    stand_in()
    import transformers

    asked = torch.load(path)
    clips, made = asked["clips"], []
    for name, options in asked["runs"]:
        processor = getattr(transformers, name)(**options)
        frames = list(clips) if "Video" in name else [f for clip in clips for f in clip]
        batch = processor(frames, return_tensors="pt")
        made.append({k: v for k, v in batch.items() if isinstance(v, Tensor)})
    torch.save(made, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
