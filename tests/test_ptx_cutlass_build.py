"""CUTLASS's kernels are built by whichever test process comes first, or by several at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.ptx import cutlass

pytestmark = pytest.mark.ptx

# In nvcc's place: what else it does, and what it leaves.
NVCC = """import sys
from pathlib import Path
made = Path({made!r})
{meanwhile}
folder, out = (Path(sys.argv[sys.argv.index(o) + 1]) for o in ("--keep-dir", "-o"))
(folder / "gemm.ptx").write_text("own")
out.write_text("own")
"""
OTHER = """made.mkdir()
for name in ("gemm.ptx", "gemm.so"): (made / name).write_text("other")"""


def _build(made: Path, meanwhile: str) -> dict[str, str]:
    code = NVCC.format(made=str(made), meanwhile=meanwhile)
    cutlass.build([sys.executable, "-c", code], made)
    assert list(made.parent.iterdir()) == [made]
    return {path.name: path.read_text() for path in made.iterdir()}


def test_a_folder_is_whole_when_it_is_there(tmp_path):
    made = tmp_path / "cache" / "key"
    assert _build(made, "assert not made.exists()") == {"gemm.ptx": "own", "gemm.so": "own"}


def test_a_process_that_comes_second_takes_what_is_there(tmp_path):
    assert _build(tmp_path / "key", OTHER) == {"gemm.ptx": "other", "gemm.so": "other"}


def test_a_build_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no such header"):
        _build(tmp_path / "key", "sys.exit('no such header')")
    assert list(tmp_path.iterdir()) == []
