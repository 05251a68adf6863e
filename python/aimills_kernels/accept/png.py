"""A picture as PNG (ISO/IEC 15948), by zlib alone."""

from __future__ import annotations

import base64
import ctypes
import struct
import zlib
from typing import Any

import torch
from torch import Tensor


def encode(levels: Tensor) -> bytes:
    """[height, width, 3] u8 as a PNG file. Rows are stored as differences from the row above."""
    height, width, _ = levels.shape
    rows = levels.reshape(height, 3 * width).to(torch.int16)
    rows[1:] -= rows[:-1].clone()
    marked = torch.cat([torch.full((height, 1), 2), rows], dim=1).to(torch.uint8)
    body = zlib.compress(ctypes.string_at(marked.data_ptr(), marked.numel()), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(levels: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(encode(levels)).decode("ascii")


def event(caption: str, levels: Tensor) -> dict[str, Any]:
    """Text and detail of an event named "picture", which a report shows."""
    height, width, _ = levels.shape
    return {
        "text": caption,
        "detail": {"data": data_uri(levels), "width": int(width), "height": int(height)},
    }
