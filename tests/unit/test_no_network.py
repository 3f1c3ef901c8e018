"""The guard in conftest.py is there and works."""

from __future__ import annotations

import socket

import pytest
from _pytest.outcomes import Failed


def test_a_connection_to_another_machine_fails_the_test() -> None:
    with pytest.raises(Failed, match=r"connects to .*192\.0\.2\.1"), socket.socket() as one:
        one.connect(("192.0.2.1", 80))
    with pytest.raises(Failed, match="looks up"):
        socket.create_connection(("pypi.example", 443), timeout=1)


def test_the_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5) as client:
        assert client.getpeername()[0] == "127.0.0.1"
