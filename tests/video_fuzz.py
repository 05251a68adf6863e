"""video_to_tensor on random geometries under AddressSanitizer and UndefinedBehaviorSanitizer.

    python -m tests.video_fuzz --cases 2000 --seed 7

Geometries are drawn and packed here; csrc/video/fuzz.cpp runs them over planes that are allocated
to the byte, so that one byte read or written beside a plane ends it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from aimills_kernels._op import Case
from aimills_kernels.kernels.video.cases import JITTER, case_options, lay_out
from aimills_kernels.kernels.video.op import video_to_tensor as op
from aimills_kernels.kernels.video.problem import OPTIONS, packed
from tests.test_video import random_case

ROOT = Path(__file__).parents[1]
_MORE = struct.Struct("<3q 3q q q")


def build(folder: Path, source: Path = ROOT) -> Path:
    """The program, built from the sources of a checkout; again only what changed. Test processes
    side by side have one folder, so one builds and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _build(folder, source)
    return folder / "video_fuzz"


def _build(folder: Path, source: Path) -> None:
    import pybind11

    configure = [
        "cmake", "-S", str(source), "-B", str(folder), "-G", "Ninja", "-DAIMILLS_FUZZ=ON",
        "-DAIMILLS_CUDA=OFF", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for command in (configure, ["cmake", "--build", str(folder), "--target", "video_fuzz"]):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def draw(seed: int) -> Case:
    """With a mode, at times HDR and a jitter; often of few rows or columns, or of about a whole
    number of the chunks and strips that the CPU's code works on."""
    rng = random.Random(seed)
    case = random_case(rng)
    dims = dict(case.dims)
    if dims["antialias"]:
        dims["mode"] = rng.choice(["torch", *OPTIONS["resize_mode"]])
    dims["jitter"] = rng.choice([(), (), (), JITTER])
    if dims["mode"] != "fast" and rng.random() < 0.08:  # it takes ten times as long
        dims |= {"transfer": rng.choice(["pq", "hlg"]), "space": "bt2020"}
    for side, step in (("H", 24), ("W", 64)):
        if not dims["crop"] and rng.random() < 0.5:
            dims[side] = rng.choice(
                [rng.randint(1, 3), step * rng.randint(1, 4) + rng.randint(-2, 2)]
            )
    return Case(f"seed {seed}", **dims)


def _span(plane: Tensor) -> int:
    """Bytes from the first sample to the last."""
    steps = sum((n - 1) * s for n, s in zip(plane.shape, plane.stride(), strict=True))
    return (1 + steps) * plane.element_size()


def geometry(case: Case, seed: int) -> bytes:
    """As csrc/video/fuzz.cpp reads it. Tensors of the device `meta` have addresses from 0 on."""
    a = case_options(case)
    planes = [_at_zero(lay_out(p, case.get("layout", "tight"))) for p in a.planes]
    args = tuple(a._replace(planes=planes))
    out = op.fake(*args)
    spans = [_span(p) for p in planes] + [0] * (3 - len(planes))
    component = [plane for plane, _ in a.form.components]
    start = random.Random(seed).choice([0, 0, 0, 1, 2, 6]) * a.form.dtype.itemsize
    return packed((out,), args) + _MORE.pack(
        *spans, *component, start, out.numel() * out.element_size()
    )


def _at_zero(plane: Tensor) -> Tensor:
    return torch.empty_strided(plane.shape, plane.stride(), dtype=plane.dtype, device="meta")


def run(program: Path, cases: int, seed: int) -> str | None:
    """What went wrong, with the case; None where nothing did."""
    drawn = [draw(s) for s in range(seed, seed + cases)]
    with tempfile.NamedTemporaryFile() as file:
        for i, case in enumerate(drawn):
            file.write(geometry(case, seed + i))
        file.flush()
        done = subprocess.run(
            [str(program), file.name], capture_output=True, text=True,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"},
        )  # fmt: skip
    ran = done.stdout.split()
    if done.returncode:
        case = drawn[int(ran[-1])].describe() if ran else "before the first case"
        return f"{case}\n{done.stderr}"
    return None if len(ran) == cases else f"{len(ran)} of {cases} cases ran"


def main() -> None:
    parser = argparse.ArgumentParser(description="Random geometries under AddressSanitizer.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    options = parser.parse_args()
    wrong = run(build(ROOT / "build" / "fuzz"), options.cases, options.seed)
    if wrong:
        raise SystemExit(wrong)
    print(f"{options.cases} cases from seed {options.seed} on: nothing found")


if __name__ == "__main__":
    main()
