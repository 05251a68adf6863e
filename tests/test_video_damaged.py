"""Files with a few wrong bytes: what can be known of them is told, and no error is another's."""

from __future__ import annotations

import pytest

from aimills_kernels.video import VideoError, decode_to_tensor
from aimills_kernels.video.io import decode
from tests.test_video_decode import encoded, noise, plain


def test_codec_that_is_not_known() -> None:
    data = encoded(count=2).replace(b"avc1", b"zzzz")
    for read in (decode, lambda data: decode_to_tensor(data, plain())):
        with pytest.raises(VideoError, match="is in a codec that this FFmpeg can't decode"):
            read(data)


def test_checksums_of_pictures() -> None:
    """HEVC may have them; each of these bytes makes another picture, or none."""
    options = {"x265-params": "log-level=0:hash=1:bframes=0:qp=30"}
    data = encoded("libx265", "matroska", count=3, size=(320, 240), paint=noise, options=options)
    for share in (0.4, 0.5, 0.6, 0.7):
        at = int(share * len(data))
        wrong = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(VideoError, match="damaged or truncated near frame"):
            decode_to_tensor(wrong, plain())
