"""Shared fixtures; and no test reaches the network."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest
import torch
from tests.turns import kept

COLLECTED = pytest.StashKey[tuple[list[pytest.Item], list[pytest.Item]]]()
"""Every case that was collected, and those of them that run without ``--every``."""


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="every case of every test, not a changing share of the families and settings")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Without ``--every``, tests that run on many families or settings run on some of them: see `tests.turns`."""
    few = kept(items)
    config.stash[COLLECTED] = (list(items), few)
    if config.getoption("--every"):
        return
    stay = set(map(id, few))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in stay])
    items[:] = few


@pytest.fixture(scope="session")
def share(request):
    """Every ``of``-th of some things for a family that came later, beginning elsewhere in each, so that all stand on many families.

    ``pytest --every`` (`make test-every`) gives all of them.
    """
    from circuitlab.testing.families import ALL_FAMILIES

    def chosen(things, family: str, of: int):
        every = list(things)
        return every if request.config.getoption("--every") else every[ALL_FAMILIES.index(family) % of :: of]

    return chosen


@pytest.fixture(autouse=True)
def threads(request):
    """Tiny models are fastest on one thread, and threads that wait for each other slow down whatever runs beside the tests."""
    # Tests that run side by side (pytest -n 2) share the cores.
    most = 1 if "PYTEST_XDIST_WORKER" in os.environ else int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(most if request.node.get_closest_marker("real_model") else 1)


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct, loaded once."""
    from circuitlab.model import load_model

    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3():
    """Gemma-3-270M, where it has been fetched."""
    from circuitlab.model import load_model
    from circuitlab.model.weights.resolve import cached_path

    if cached_path("gemma3-270m") is None:
        pytest.skip("gemma3-270m has not been fetched: `circuitlab models fetch gemma3-270m` (240 MB, Gemma Terms of Use)")
    return load_model("gemma3-270m")


def _is_local(address) -> bool:
    if not isinstance(address, tuple):  # a Unix socket's path
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in {"localhost", ""}


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections and name look-ups to anything but this machine raise; notebooks talk to their kernel over the loopback."""
    patch = pytest.MonkeyPatch()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if not _is_local(address):
            pytest.fail(f"A test connects to {address}.")
        return connect(self, address)

    def guarded_look_up(host, *args, **kwargs):
        if not _is_local((host or "",)):
            pytest.fail(f"A test looks up {host}.")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()
