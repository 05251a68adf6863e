"""The CPU's time for the modes of video_to_tensor, in turns: of 1080p to a picture and to tokens.

    python -m tools.video_modes --threads 1 --rounds 40

Process time: that of all threads together, which other work on the machine lengthens least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

import aimills_kernels as ak
from aimills_kernels._op import Case
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import OPTIONS

TARGETS: dict[str, dict[str, Any]] = {
    "224 x 224": {"size": (224, 224)},
    "560 x 1008, tokens": {"size": (560, 1008), "layout": "patches", "patch": (2, 14, 2)},
}
_FRAMES = 2


def times(
    format: str, height: int, width: int, target: str, modes: list[str], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds a frame of each round, by mode."""
    shape = Case("modes", F=_FRAMES, H=height, W=width, h=1, w=1, format=format)
    planes = op.make_inputs(shape, "cpu", 0)[0]
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    options = {"format": format, "dtype": torch.bfloat16, **TARGETS[target]}
    outs = {mode: ak.video_to_tensor(planes, mode=mode, **options) for mode in modes}
    for _ in range(rounds):
        for mode in modes:
            start = time.process_time()
            ak.video_to_tensor(planes, mode=mode, out=outs[mode], **options)
            found[mode].append(1e3 * (time.process_time() - start) / _FRAMES)
    return found


def _at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description="The CPU's time for the modes, in turns.")
    parser.add_argument("--threads", type=_at_least_one, default=1)
    parser.add_argument("--rounds", type=_at_least_one, default=40)
    parser.add_argument("--format", choices=OPTIONS["format"], default="nv12")
    parser.add_argument("--modes", nargs="+", choices=OPTIONS["resize_mode"],
                        default=["torch", "fast"])  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for target in TARGETS:
        found = times(options.format, 1080, 1920, target, options.modes, options.rounds)
        first = statistics.median(found[options.modes[0]])
        for mode, each in found.items():
            median = statistics.median(each)
            print(
                f"{target}, {mode}: {median:.2f} ms of CPU a frame in the median, "
                f"{min(each):.2f} at best; {first / median:.2f} times as fast as {options.modes[0]}"
            )


if __name__ == "__main__":
    main()
