"""FFmpeg's swscale on a CPU, by PyAV."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimills_kernels.harness.peers import Adapter

from ._video import normalize, plain_nv12


def swscale(*args: Any) -> Tensor:
    """swscale's accurate path: it filters Y, U and V (bicubic: a = -0.6) and then converts."""
    import av
    from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

    a = plain_nv12(args)
    if not a.antialias:
        raise NotImplementedError("swscale's filters always widen")
    spaces = {"bt601": "itu601", "bt709": "itu709", "bt2020": "bt2020"}
    flags = Interpolation[a.interpolation.upper()] | Interpolation.ACCURATE_RND
    flags |= Interpolation.FULL_CHR_H_INT
    ranges = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
    reformatter, frames = VideoReformatter(), []
    for luma, chroma in zip(*a.planes, strict=True):
        frame = av.VideoFrame(luma.shape[1], luma.shape[0], "nv12")
        for plane, source in zip(frame.planes, (luma, chroma.flatten(1)), strict=True):
            into = torch.frombuffer(plane, dtype=torch.uint8).view(-1, plane.line_size)
            into[: source.shape[0], : source.shape[1]].copy_(source)
        made = reformatter.reformat(
            frame, a.width, a.height, "gbrp", src_colorspace=spaces[a.color_space],
            interpolation=flags, src_color_range=ranges[a.color_range],
            dst_color_range=ColorRange.JPEG, threads=torch.get_num_threads(),
        )  # fmt: skip
        frames.append(torch.stack([
            torch.frombuffer(made.planes[i], dtype=torch.uint8)
            .view(-1, made.planes[i].line_size)[: a.height, : a.width]
            for i in (2, 0, 1)
        ]))  # fmt: skip
    return normalize(torch.stack(frames), args)


ADAPTER = Adapter("swscale", {"video_to_tensor": swscale}, needs={"av": "av"})
