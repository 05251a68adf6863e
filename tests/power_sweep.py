"""A power-cap sweep on a fake GPU whose limit is a file, which outlives this process.

FOLDER HOW: "killed" and "terminated" send themselves that signal in the middle.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from aimills_kernels.accept.stages import POWER_SWEEP, power
from aimills_kernels.accept.telemetry import GPU_SAMPLE, Telemetry
from aimills_kernels.harness import nvml
from tests.fake_nvml import Gpu
from tests.stage_context import Written

FOUND_W = 650.0
OPTIONS = {"power-sweep.n": 16, "power-sweep.kind": "f32"}


class KeptGpu(Gpu):
    def __init__(self, folder: Path, **more: Any):
        super().__init__(**more)
        self.path = folder / "limit"
        if not self.path.exists():
            self.path.write_text(str(round(1e3 * FOUND_W)))
        self.values["limit"] = lambda: int(self.path.read_text())

    def nvmlDeviceSetPowerManagementLimit(self, handle: Any, milliwatts: int) -> None:
        self._get("set")
        self.path.write_text(str(milliwatts))
        self.limits_set.append(milliwatts / 1e3)


def sweep(folder: Path, name: str, gpu: KeptGpu, **more: Any) -> Written:
    return Written(
        folder / name, "power-sweep", telemetry=Telemetry(nvml.Nvml(gpu, "gpu"), GPU_SAMPLE),
        options=OPTIONS | {"power_state": folder / "state"} | more,
    )  # fmt: skip


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2]
    honest = power._step

    def step(ctx: Any, share: float, watts: float, seconds: float) -> None:
        honest(ctx, share, watts, 0.01)
        if share < 0.8:
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGTERM)

    power._step = step
    written = sweep(folder, how, KeptGpu(folder))
    POWER_SWEEP.work(written.ctx)
    print("went on")


if __name__ == "__main__":
    main()
