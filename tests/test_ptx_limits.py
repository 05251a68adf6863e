"""What the executor may take for an attention tile: time of the CPU, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ptx

ROOT = Path(__file__).parents[1]
SECONDS, BYTES = 20, 2 * 2**30
# bf16, 128 queries, 4 blocks of 128 keys, D=128, 3 warpgroups; it holds the result against float64.
TILE = """from tests import test_ptx_producers as producers
began = time.process_time()
producers.test_gluon_attention_of_three_warpgroups(128, 512, 128, 128, seed=0)"""
# The kernel keeps ru_maxrss over an exec, and with it what the parent took; VmHWM begins anew.
METER = """import re, time
from pathlib import Path
began = 0.0
{}
status = Path("/proc/self/status").read_text()
print(time.process_time() - began, int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024)"""


def spent(code: str) -> tuple[float, int]:
    """CPU seconds since `began`, else of the whole process, and the most memory of a process that
    runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", METER.format(code)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, size = done.stdout.split()
    return float(seconds), int(size)


def test_the_meter_sees_time_and_memory():
    idle = spent("began = time.process_time()")  # the start of Python is as slow as the machine
    busy = spent("held = b'x' * 2**26\nwhile time.process_time() < 0.5: pass")
    assert busy[0] >= 0.5 > idle[0]
    assert busy[1] - idle[1] > 0.9 * 2**26


@pytest.mark.full
def test_an_attention_tile_stays_within_its_time_and_memory():
    seconds, size = spent(TILE)
    print(f"{seconds:.1f} s of CPU time, {size / 2**20:.0f} MiB")
    assert seconds < SECONDS
    assert size < BYTES
