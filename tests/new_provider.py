"""The Triton provider that `kernels/README.md` adds to an op: one file and one line."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "kernels" / "README.md"
OP, NAME = "matmul_fp8", "gemv"
DECLARATION = "kernels/matmul/op_fp8.py"
_TEXT = README.read_text()
FILE, LINE = re.findall(r"```python\n(.*?)```", _TEXT, re.S)
PATH = re.findall(r"One new file, say `(.*?)`", _TEXT)[0]


def add(root: Path) -> None:
    """Do with the tree at `root` what the page says."""
    (root / PATH).write_text(FILE)
    declaration = root / DECLARATION
    before, start, after = declaration.read_text().partition("    providers=(\n")
    assert start
    declaration.write_text(before + start + LINE + after)
