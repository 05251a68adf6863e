"""What conftest.py watches: no test, and so nothing that one calls, uses a network."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import network_uses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "example.org"])
def test_a_connection_is_refused_and_noted(host: str) -> None:
    with pytest.raises(PermissionError, match="no network here"):
        socket.create_connection((host, 9), timeout=1)
    assert network_uses
    network_uses.clear()


def test_sockets_of_this_machine_stay() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"x")
        assert right.recv(1) == b"x"
    assert not network_uses
