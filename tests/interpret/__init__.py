"""Tests that need Triton's interpreter. See test_triton.py."""

from __future__ import annotations

import numpy
import pytest

from aimills_kernels import _dispatch


def _reason() -> str | None:
    if not _dispatch.interpreting():
        return "not run: `make test` runs it with TRITON_INTERPRET=1"
    if not _dispatch.installed("triton"):
        return "not run: Triton is not installed"
    if tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        return f"not run: Triton's interpreter fails with numpy {numpy.__version__}, it needs < 2.4"
    return None


# A mark and no skip of the module: pytest calls a run in which it collects nothing a failure.
only_in_the_interpreter = pytest.mark.skipif(_reason() is not None, reason=_reason() or "")
