"""Which frames of a video a model sees. Each strategy gives the indices that its source gives.

| strategy | source |
|---|---|
| uniform | Transformers, `default_sample_indices_fn`: `i * total // n` |
| fps | the frame on show at each time k / target_fps, as torchcodec's `get_frames_played_at` |
| qwen2-vl | Transformers, `Qwen2VLVideoProcessor.sample_frames`: `torch.arange` |
| qwen3-vl | Transformers, `Qwen3VLVideoProcessor.sample_frames`: `numpy.linspace`, rounded |
| internvl | Transformers, `InternVLVideoProcessor.sample_frames`: middles of equal parts |
| qwen-vl-utils | qwen-vl-utils 0.0.14, `smart_nframes`, and its `torch.linspace`, rounded |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch

from aimills_kernels._words import shown

MIN_FRAMES, MAX_FRAMES = 4, 768  # of the Qwen family
QWEN_FPS = 2.0
_LONGEST = 1 << 31  # frames: a year at 60 a second
_MOST_REPEATED = 1 << 20


@dataclass(frozen=True)
class Sampling:
    """How many frames, and which. At most one of `num_frames` and `fps` (frames wanted of each
    second) is set; with neither, a strategy takes all frames, save where its source has a default
    and `all_frames` is false.

    `min_frames`, `max_frames` and `multiple` (frames in a temporal patch) are those of the Qwen
    strategies; the others do without.
    """

    strategy: str = "uniform"
    num_frames: int | None = None
    fps: float | None = None
    min_frames: int = MIN_FRAMES
    max_frames: int = MAX_FRAMES
    multiple: int = 2
    all_frames: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be {' or '.join(STRATEGIES)}, got {shown(self.strategy)}"
            )
        if self.num_frames is not None and self.fps is not None:
            raise ValueError(
                f"num_frames ({shown(self.num_frames)}) and the fps to sample at "
                f"({shown(self.fps)}) exclude each other"
            )
        for name in ("num_frames", "min_frames", "max_frames", "multiple"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        if self.fps is not None:
            check_rate("the fps to sample at", self.fps)
        every = self.all_frames and self.num_frames is None
        if self.strategy == "fps" and self.fps is None and not every:
            raise ValueError("the strategy fps needs the fps to sample at")

    def __str__(self) -> str:
        if self.num_frames is not None:
            return f"{self.num_frames} ({self.strategy})"
        if self.fps is None:
            return f"all ({self.strategy})"
        bounds = f", {self.min_frames} to {self.max_frames}" if "qwen" in self.strategy else ""
        return f"{self.fps:g} a second{bounds} ({self.strategy})"

    def indices(self, total: int, fps: float | Fraction | None = None) -> list[int]:
        """Of a video of `total` frames, `fps` of them in a second."""
        check_count("total", total, 1)
        if fps is not None:
            check_rate("fps", fps)
        if self.all_frames and self.num_frames is None and self.fps is None:
            return list(range(total))
        found = STRATEGIES[self.strategy](self, total, fps)
        assert all(0 <= i < total for i in found)
        return found


def sample_frames(
    total: int,
    fps: float | Fraction | None = None,
    *,
    strategy: str = "uniform",
    num_frames: int | None = None,
    target_fps: float | None = None,
    min_frames: int = MIN_FRAMES,
    max_frames: int = MAX_FRAMES,
    multiple: int = 2,
) -> list[int]:
    """The indices that `strategy` takes from a video of `total` frames at `fps` frames a second.

    Args:
        total: frames in the video.
        fps: its rate; needed where a rate decides how many frames are taken.
        strategy: "uniform", "fps", "qwen2-vl", "qwen3-vl", "internvl" or "qwen-vl-utils".
        num_frames: how many to take; excludes `target_fps`.
        target_fps: how many to take of a second.
        min_frames, max_frames: bounds of the Qwen strategies where a rate decides.
        multiple: frames in a temporal patch; Qwen strategies take a multiple of it, save qwen3-vl.

    Raises:
        ValueError: an argument is wrong, or the video has fewer frames than asked for.
    """
    rule = Sampling(strategy, num_frames, target_fps, min_frames, max_frames, multiple)
    return rule.indices(total, fps)


# ---- strategies


def _uniform(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    count = rule.num_frames
    if count is None and rule.fps is not None:
        count = max(1, int(total / float(_rate(fps, rule)) * rule.fps))
    if count is None:
        return list(range(total))
    _check_enough(count, total)
    return [i * total // count for i in range(count)]


def _fps(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    step = Fraction(_rate(fps, rule)) / Fraction(rule.fps or 1)  # a float would fall short of some
    count = math.ceil(total / step)
    check_count("the number of frames sampled", count, 1)
    _check_repeated(count, total)
    return [math.floor(i * step) for i in range(count)]


def _qwen2(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    part = rule.multiple
    if rule.num_frames is not None:
        count = round(rule.num_frames / part) * part
    elif rule.fps is not None:
        most = math.floor(min(rule.max_frames, total) / part) * part
        wanted = total / float(_rate(fps, rule)) * rule.fps
        count = math.floor(min(max(wanted, rule.min_frames), most, total) / part) * part
    else:
        return list(range(total))
    _check_enough(count, total)
    _check_some(count, total, part)
    return _arange(0.0, total, count)


def _arange(start: float, total: int, count: int) -> list[int]:
    """torch's arange, as the source has it. Where `total / count` is rounded down it has a last
    element more, at which the source fails: the index of a frame behind the last."""
    found = torch.arange(start, total, total / count).int().tolist()[:count]
    return [min(i, total - 1) for i in found]


def _qwen3(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    count = rule.num_frames
    if count is None and rule.fps is not None:
        count = int(total / float(_rate(fps, rule)) * rule.fps)
        count = min(max(count, rule.min_frames), rule.max_frames, total)
    if count is None:
        count = min(max(total, rule.min_frames), rule.max_frames)
    _check_repeated(count, total)
    # numpy.linspace: i * step in float64, the last one exactly; rounded half to even, as there.
    step = (total - 1) / max(count - 1, 1)
    return [round(i * step) for i in range(count - 1)] + [total - 1 if count > 1 else 0]


def _internvl(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    count = rule.num_frames
    if count is None and rule.fps is not None:
        count = int(total / float(_rate(fps, rule)) * rule.fps)
    if count is None:
        return list(range(total))
    _check_enough(count, total)
    _check_some(count, total, 1)
    return _arange(total / count / 2, total, count)


def _qwen_utils(rule: Sampling, total: int, fps: float | Fraction | None) -> list[int]:
    part = rule.multiple
    if rule.num_frames is not None:
        count = round(rule.num_frames / part) * part
    else:
        least = math.ceil(rule.min_frames / part) * part
        most = math.floor(min(rule.max_frames, total) / part) * part
        wanted = total / float(_rate(fps, rule)) * (rule.fps or QWEN_FPS)
        count = math.floor(min(max(wanted, least), most, total) / part) * part
    _check_enough(count, total)
    _check_some(count, total, part)
    return torch.linspace(0, total - 1, count).round().long().tolist()


STRATEGIES: dict[str, Callable[[Sampling, int, float | Fraction | None], list[int]]] = {
    "uniform": _uniform,
    "fps": _fps,
    "qwen2-vl": _qwen2,
    "qwen3-vl": _qwen3,
    "internvl": _internvl,
    "qwen-vl-utils": _qwen_utils,
}


# ---- checks


def check_count(name: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LONGEST:
        raise ValueError(f"{name} must be a whole number from {least} to 2^31, got {shown(value)}")


def check_rate(name: str, value: object) -> None:
    number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not number or not 1e-6 <= value <= 1e6:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number from 1e-6 to 1e6, got {shown(value)}")


def _rate(fps: float | Fraction | None, rule: Sampling) -> float | Fraction:
    if fps is None:
        raise ValueError(
            f"fps, the video's own rate, is needed to sample by {rule.strategy} without num_frames"
        )
    return fps


def _check_enough(count: int, total: int) -> None:
    if count > total:
        raise ValueError(f"{count} frames are asked for, and the video has only {total}")


def _check_repeated(count: int, total: int) -> None:
    """Of strategies that take a frame twice, so that nothing else bounds their lists."""
    if count > max(total, _MOST_REPEATED):
        raise ValueError(
            f"{count} frames would be sampled from a video of {total}: more than there are, which "
            f"repeats some, may be {_MOST_REPEATED} at most; num_frames or fps is too large"
        )


def _check_some(count: int, total: int, part: int) -> None:
    if count < 1:
        raise ValueError(
            f"no frame would be sampled from a video of {total}: at least {part} are needed, and "
            f"num_frames or fps may be too small"
        )
