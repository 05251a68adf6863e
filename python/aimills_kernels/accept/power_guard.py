"""Puts a power limit back where the process that changed it is killed.

FILE: what was found, as `stages/power.py` writes it. It waits for the end of its input, which comes
with that process's end however it ends; a file that is still there then was not put right by the
process itself. Needs no torch, so that it starts quickly and holds nothing of the GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_WORDS = (sys.executable, "-m", "aimills_kernels.accept.power_guard")


def watching(path: Path) -> subprocess.Popen[bytes]:
    """A guard of `path`, in a session of its own: what ends this process's group spares it. Close
    its input to end it."""
    return subprocess.Popen(
        [*_WORDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def main(path: Path) -> None:
    mine = path.read_text()
    sys.stdin.buffer.read()
    if not path.exists() or path.read_text() != mine:
        return
    found = json.loads(mine)
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(found["uuid"])
    pynvml.nvmlDeviceSetPowerManagementLimit(handle, round(1e3 * found["watts"]))
    path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
