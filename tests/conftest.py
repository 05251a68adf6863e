"""Shared fixtures. Seeds are printed with each failure and can be replayed: AIMILLS_SEED=<n>."""

from __future__ import annotations

import os
import random

import pytest

SEED = int(os.environ.get("AIMILLS_SEED", random.SystemRandom().randrange(2**31)))


def pytest_report_header() -> str:
    return f"aimills seed: {SEED} (replay with AIMILLS_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    return SEED
