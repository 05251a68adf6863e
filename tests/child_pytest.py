"""pytest in a process and a folder of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# pytest-xdist's workers time nothing, and neither would what they start.
_ENV = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}


def run_pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *args],
        cwd=folder, capture_output=True, text=True, timeout=300, env=_ENV,
    )  # fmt: skip
