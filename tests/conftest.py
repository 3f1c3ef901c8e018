"""Shared fixtures; and no test reaches the network."""

from __future__ import annotations

import ipaddress
import os
import socket
import zlib

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="everything on every family, not a changing share of it on later ones")


ALWAYS = ("gpt2", "llama", "gemma3", "llama_dynamic")
"""Learned positions; grouped queries; norms after parts and of queries, windows; rotary angles that depend on the length."""


def pytest_collection_modifyitems(config, items):
    """Laws of methods run on four families and on one of the others by turns: on another one for every method and setting.

    Tests marked ``by_turns`` run on the seven families of all laws, and on a third of the others: another third for every test.
    """
    if config.getoption("--every"):
        return
    left_out = [item for item in items if item.get_closest_marker("laws") and not takes_its_turn(item)]
    left_out += [item for item in items if item.get_closest_marker("by_turns") and not is_in_its_third(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def takes_its_turn(item) -> bool:
    """Whether a law is tested on this family without ``--every``."""
    from circuitlab.testing.method_laws import LAW_FAMILIES

    family, others = item.callspec.params["family"], [name for name in LAW_FAMILIES if name not in ALWAYS]
    return family in ALWAYS or others[zlib.crc32(item.nodeid.replace(family, "").encode()) % len(others)] == family


def is_in_its_third(item) -> bool:
    """Whether a test of a later family runs without ``--every``."""
    from circuitlab.testing.tiny import ALL_FAMILIES, FAMILIES

    family = item.callspec.params["family"]
    return family in FAMILIES or (ALL_FAMILIES.index(family) + zlib.crc32(item.originalname.encode())) % 3 == 0


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
