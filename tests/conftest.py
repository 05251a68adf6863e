"""Shared fixtures. Seeds are printed with each failure and can be replayed: AIMILLS_SEED=<n>."""

from __future__ import annotations

import os
import random

import pytest

import aimills_kernels.ops._run  # noqa: F401  (reads OPS once, before a test plants other ops there)

SEED = int(os.environ.get("AIMILLS_SEED", random.SystemRandom().randrange(2**31)))


def pytest_report_header() -> str:
    return f"aimills seed: {SEED} (replay with AIMILLS_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    return SEED
