"""Shared fixtures. Seeds are printed with each failure and can be replayed: AIMILLS_SEED=<n>.

No test may reach for a network, whatever part of the package it calls. What other programs do, that
a test starts, is not watched.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import pytest
import torch

import aimills_kernels.ops._run  # noqa: F401  (reads OPS once, before a test plants other ops there)

SEED = int(os.environ.setdefault("AIMILLS_SEED", str(random.SystemRandom().randrange(2**31))))

_NETWORK = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
network_uses: list[str] = []


def _watch(event: str, args: tuple) -> None:
    """An audit hook, which can't be taken out by what replaces functions of `socket`."""
    if not event.startswith("socket."):
        return
    if event in _LOOKUPS or (event in _NETWORK and not isinstance(args[1], (str, bytes))):
        network_uses.append(f"{event} {args[-1]}")
        raise PermissionError(f"no network here: {event} {args[-1]}")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Also where the refusal was caught and passed over."""
    network_uses.clear()
    yield
    assert not network_uses


def pytest_report_header() -> str:
    return f"aimills seed: {SEED} (replay with AIMILLS_SEED={SEED})"


@pytest.fixture(autouse=True)
def torch_draws() -> None:
    """What a test draws without a generator follows the seed, not the tests that ran before it."""
    torch.manual_seed(SEED)


@pytest.fixture
def seed() -> int:
    return SEED
