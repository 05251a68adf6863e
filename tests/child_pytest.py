"""pytest in a process and a folder of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# pytest-xdist's workers time nothing, and neither would what they start.
_ENV = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
_HANG_S = 1800  # against a hang alone: on a busy machine some take several minutes


def run_pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *args],
        cwd=folder, capture_output=True, text=True, timeout=_HANG_S, env=_ENV,
    )  # fmt: skip
