"""Video from a file to a model's input: sampling, decoding, preprocessing.

`docs/video.md` in the repository shows it whole. Nothing here imports PyAV before it decodes.
"""

from __future__ import annotations

from aimills_kernels.ops.augment import Augment, color_jitter
from aimills_kernels.video.decode import decode_to_tensor
from aimills_kernels.video.preprocess import VideoPreprocessor
from aimills_kernels.video.sampling import Sampling, sample_frames
from aimills_kernels.video.sizes import smart_resize, smart_resize_video
from aimills_kernels.video.surfaces import as_array, as_planes
from aimills_kernels.video.tags import VideoError

__all__ = [
    "Augment",
    "Sampling",
    "VideoError",
    "VideoPreprocessor",
    "as_array",
    "as_planes",
    "color_jitter",
    "decode_to_tensor",
    "sample_frames",
    "smart_resize",
    "smart_resize_video",
]
