"""The launches of video's Triton provider: how many, with what, and what it refuses.

That the kernel is right is derived from the declaration: tests/interpret, test_ptx_kernels.py.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from aimills_kernels._dispatch import why_not
from aimills_kernels._op import Problem, as_tuple
from aimills_kernels._registry import get_op

pytest.importorskip("triton", reason="not run: Triton is not installed")
from aimills_kernels.kernels.video import triton_video
from aimills_kernels.kernels.video.problem import Arguments


class Launches(list):
    """Stands for the kernel: keeps the grid and the arguments by name."""

    def __init__(self, kernel: Any):
        self.signature = inspect.signature(kernel.fn)

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **given: Any) -> None:
            constants = {n: v for n, v in given.items() if n.isupper()}
            self.append((grid, self.signature.bind(*args, **constants).arguments))

        return launch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    kept = Launches(triton_video._video_to_tensor_kernel)
    monkeypatch.setattr(triton_video, "_video_to_tensor_kernel", kept)
    return kept


def call(name: str, case: str) -> tuple[torch.Tensor, tuple]:
    op = get_op(name)
    args = op.make_inputs(op.case(case), "cpu", 0)
    out = as_tuple(op.fake(*args))[0]
    launch = triton_video.launch if name == "video_to_tensor" else triton_video.launch_ragged
    launch((out,), *args)
    return out, args


def test_a_batch_is_one_launch_with_the_numbers_by_their_names(launches: Launches) -> None:
    out, args = call("video_to_tensor", "all-at-once")
    (((programs,), got),) = list(launches)
    assert programs == 3 * 2 * 1  # rotated: 4 + 24 columns down, 1 + 22 + 5 rows across
    a = Arguments(*args)
    wanted = dict(
        y_row=a.planes[0].stride(1), v_col=2, t_end=3, t_length=4, d_first=4, d_step=1,
        d_end=24, d_length=28, a_first=1, a_step=1, a_end=22, a_length=28, height=60, width=90,
        resized_height=24, resized_width=22, first_row=0, first_col=0, top=3, left=5,
        crop_height=50, crop_width=77, half_row=1, half_col=1, shift=6, even_row=1, odd_col=2,
        pad_level=128, FILTER="lanczos", TRANSFER="sdr", E4M3=True,
    )  # fmt: skip
    assert {name: got[name] for name in wanted} == wanted
    assert got["out"].data_ptr() == out.data_ptr()
    assert got["v"].data_ptr() == a.planes[1].data_ptr() + 2
    assert [n for n in got if n not in launches.signature.parameters] == []


def test_a_ragged_batch_is_a_launch_a_clip_each_behind_the_last(launches: Launches) -> None:
    out, _ = call("video_to_tensor_ragged", "tiny")
    starts = [(got["out"].data_ptr() - out.data_ptr()) // out.element_size() for _, got in launches]
    assert starts == [0, 1 * 3 * 5 * 7]
    assert [got["height"] for _, got in launches] == [12, 9]


def test_what_training_draws_anew_is_not_planned_anew(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crop and jitter: the launch is the same as one that is planned for them."""
    op, plans, right = get_op("video_to_tensor"), [], triton_video._numbers
    monkeypatch.setattr(triton_video, "_numbers", lambda a: plans.append(a) or right(a))
    base = Arguments(*op.make_inputs(op.case("all-at-once"), "cpu", 0))
    jitters = [0.5 + i for i in range(12)], [0.25 * i for i in range(12)]
    drawn = [base._replace(crop=[], jitter=[])]
    drawn += [base._replace(crop=[1, 2, 40 + i, 50], jitter=j) for i, j in enumerate(jitters)]
    out = as_tuple(op.fake(*base))[0]
    monkeypatch.setattr(triton_video, "_KEPT", {})
    for args in (*drawn, *drawn):
        triton_video.launch((out,), *args)
    assert len(plans) == 1
    for args in drawn:
        triton_video._KEPT.clear()
        triton_video.launch((out,), *args)
    assert len(plans) == 4
    by_plan = [numbers for _, numbers in list(launches)[6:]]
    assert len(launches) == 9
    for i, (_, got) in enumerate(list(launches)[:6]):
        assert {n: v for n, v in got.items() if not isinstance(v, torch.Tensor)} == {
            n: v for n, v in by_plan[i % 3].items() if not isinstance(v, torch.Tensor)
        }
    boxes = [[n[k] for k in ("top", "left", "crop_height", "crop_width")] for n in by_plan]
    assert boxes == [[0, 0, 60, 90], [1, 2, 40, 50], [1, 2, 41, 50]]
    assert [n["JITTER"] for n in by_plan] == [False, True, True]
    assert by_plan[1]["m3"] == 255 * 3.5


@pytest.mark.parametrize("name", ["video_to_tensor", "video_to_tensor_ragged"])
def test_nothing_is_launched_for_no_frames(name: str, launches: Launches) -> None:
    call(name, "empty")
    assert len(launches) == (0 if name == "video_to_tensor" else 1)


def refusal(name: str, **changes: Any) -> str | None:
    op = get_op(name)
    args = dict(zip(op.params, op.make_inputs(op.case("tiny"), "meta", 0), strict=True)) | changes
    return why_not(op.provider("triton"), Problem(op, op.flat(args), "cuda", 90))


@pytest.mark.parametrize("name", ["video_to_tensor", "video_to_tensor_ragged"])
def test_what_it_cannot_do_is_refused(name: str) -> None:
    assert refusal(name) is None
    assert refusal(name, resize_mode="pil") == (
        "the Triton kernel has mode torch alone, and mode is pil"
    )
    assert refusal(name, **many(name, 2**31 - 1)) is None
    assert "2147483648 programs" in str(refusal(name, **many(name, 2**31)))


def many(name: str, frames: int) -> dict[str, Any]:
    """Pixels as frames, each a program."""
    planes = [torch.empty((frames, 1, 1, 3), dtype=torch.uint8, device="meta")]
    if name == "video_to_tensor":
        return dict(planes=planes, format="rgb24", height=1, width=1)
    return dict(planes=planes, format="rgb24", sizes=[1, 1])


@pytest.mark.parametrize("name", ["video_to_tensor", "video_to_tensor_ragged"])
def test_it_comes_behind_the_cuda_kernel(name: str) -> None:
    names = [p.name for p in get_op(name).providers]
    assert names[:3] == ["cuda", "nvrtc", "triton"]
