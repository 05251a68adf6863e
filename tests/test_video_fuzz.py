"""No read or write beside a plane, whatever the geometry: under AddressSanitizer, on the CPU's code
and on the CUDA kernel's on the host."""

from __future__ import annotations

import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aimills_kernels._op import Case

pytest.importorskip("aimills_kernels._C")
pytest.importorskip("pybind11")
# Who set this up had one; an installed wheel needs none.
if not (shutil.which("g++") or shutil.which("c++")):
    pytest.skip("no C++ compiler", allow_module_level=True)

from tests import video_fuzz

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def program() -> Path:
    return video_fuzz.build(video_fuzz.ROOT / "build" / "fuzz")


def test_only_one_builds_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command waits for another at the same time, which must not come."""
    meeting, met = threading.Barrier(2), []

    def command(*args: Any, **options: Any) -> SimpleNamespace:
        try:
            met.append(meeting.wait(timeout=0.5))
        except threading.BrokenBarrierError:
            meeting.reset()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(video_fuzz.subprocess, "run", command)
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(video_fuzz.build, [tmp_path / "a" / "b"] * 2))
    assert built == [tmp_path / "a" / "b" / "video_fuzz"] * 2
    assert met == []


def test_random_geometries(program: Path, seed: int) -> None:
    for first in (0, seed):
        wrong = video_fuzz.run(program, 400, first)
        assert wrong is None, wrong


def test_hdr_and_jitters_are_drawn() -> None:
    drawn = [video_fuzz.draw(seed) for seed in range(400)]
    for transfer in ("pq", "hlg"):
        assert sum(case.get("transfer", "sdr") == transfer for case in drawn) > 4
    assert 40 < sum(bool(case.get("jitter")) for case in drawn) < 200


@pytest.mark.parametrize(
    ("format", "index"),
    [*itertools.product(("nv12", "p010"), (0, 1, 7)), *itertools.product(("yuv422p",), (1, 2)),
     ("rgb24", 0), ("rgb48", 0), ("gbrp10", 2)],
)  # fmt: skip
def test_a_buffer_that_is_a_byte_too_short_is_found(
    program: Path, format: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first planes, the output: each one's last byte is used, and none behind it."""
    case = Case("short", F=2, H=37, W=150, h=20, w=70, format=format)
    monkeypatch.setattr(video_fuzz, "draw", lambda seed: case)
    assert video_fuzz.run(program, 1, 0) is None
    pack = video_fuzz._MORE

    class Short:
        @staticmethod
        def pack(*values: int) -> bytes:
            return pack.pack(*(v - (i == index) for i, v in enumerate(values)))

    monkeypatch.setattr(video_fuzz, "_MORE", Short)
    said: Any = video_fuzz.run(program, 1, 0)
    assert said is not None
    assert "heap-buffer-overflow" in said
