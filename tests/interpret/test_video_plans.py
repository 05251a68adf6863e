"""The video kernel's plans, which are kept from call to call, under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest

from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.video.cases import JITTER
from tests.interpret import only_in_the_interpreter

pytestmark = only_in_the_interpreter

# Each has a plan of its own; crop and jitter are drawn anew at each call.
PLANNED: tuple[dict[str, Any], ...] = (
    {}, {"window": (1, 2, 4, 5)}, {"window": (0, 3, 4, 5)}, {"window": (1, 2, 4, 5), "h": 8},
    {"window": (1, 2, 4, 5), "flip": True}, {"window": (1, 2, 4, 5), "rotate": 180},
    {"window": (1, 2, 4, 5), "pad": (1, 0, 0, 2)},
)  # fmt: skip
DRAWN: tuple[dict[str, Any], ...] = ({"crop": (2, 1, 7, 9)}, {"jitter": JITTER})


def test_a_plan_is_that_of_its_window_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that differ in one thing, one behind the other, of noise: each is within a level of the
    reference."""
    from aimills_kernels.kernels.video import triton_video

    op = get_op("video_to_tensor")
    base = dict(F=1, H=10, W=14, h=9, w=11, dtype="u8")
    cases = [Case("p", **{**base, **one, **other}) for other in DRAWN for one in PLANNED]
    calls = [op.make_inputs(case, "cpu", 0) for case in cases]
    monkeypatch.setattr(triton_video, "_KEPT", {})
    for case, args in zip(cases, calls, strict=True):
        out = op.fake(*args)
        triton_video.launch((out,), *args)
        assert (out.int() - op.reference(*args).int()).abs().max() <= 1, case.dims
    assert len(triton_video._KEPT) == len(PLANNED)
