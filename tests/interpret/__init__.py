"""Tests that need Triton's interpreter. See test_triton.py."""

from __future__ import annotations

import numpy
import pytest

from aimills_kernels import _dispatch

NUMPY_TOO_NEW = (2, 4)  # from here on `range(0, N)` fails in a kernel


def _reason() -> str | None:
    if not _dispatch.interpreting():
        return "not run: `make test` runs it with TRITON_INTERPRET=1"
    if not _dispatch.installed("triton"):
        return "not run: Triton is not installed"
    if tuple(map(int, numpy.__version__.split(".")[:2])) >= NUMPY_TOO_NEW:
        limit = ".".join(map(str, NUMPY_TOO_NEW))
        return (
            f"not run: Triton's interpreter needs numpy below {limit}, here is {numpy.__version__}"
        )
    return None


# A mark and no skip of the module: pytest calls a run in which it collects nothing a failure.
only_in_the_interpreter = pytest.mark.skipif(_reason() is not None, reason=_reason() or "")
