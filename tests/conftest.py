"""Shared fixtures; and no test reaches the network. What is heavy is imported inside: the process that hands tests out needs none of it."""

from __future__ import annotations

import gc
import ipaddress
import os
import random
import socket
import sys

import pytest
from tests.turns import COLLECTED, kept, longest_first


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="every case of every test, not a changing share of the families and settings")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Without ``--every``, tests that run on many families or settings run on some of them; in any case long files come first."""
    few = kept(items)
    config.stash[COLLECTED] = (list(items), few)
    if not config.getoption("--every"):
        stay = set(map(id, few))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in stay])
        items[:] = few
    items[:] = longest_first(items)


def pytest_collection_finish():
    """Modules and collected tests live as long as the process: the garbage collector need not go through them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def share(request):
    """Every ``of``-th of some things for a family, beginning elsewhere in each, so that all stand on several families.

    ``pytest --every`` (`make test-every`) gives all of them.
    """
    from circuitlab.testing.families import ALL_FAMILIES

    def chosen(things, family: str, of: int):
        every = list(things)
        return every if request.config.getoption("--every") else every[ALL_FAMILIES.index(family) % of :: of]

    return chosen


@pytest.fixture(autouse=True)
def alike(request):
    """A test begins in the same state whatever ran before it, and one that leaves another state fails.

    Tiny models are fastest on one thread, and threads that wait for each other slow down whatever runs beside the tests.
    """
    import numpy as np
    import torch

    # Tests that run side by side (pytest -n 2) share the cores.
    most = 1 if "PYTEST_XDIST_WORKER" in os.environ else int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(most if request.node.get_closest_marker("real_model") else 1)
    torch.set_grad_enabled(True)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    before = _state()
    yield
    assert _state() == before, "a test left another state of torch or of circuitlab's settings to those after it"


def _state() -> tuple:
    import torch

    settings = {name: value for name, value in os.environ.items() if name.startswith("CIRCUITLAB_")}
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), settings


@pytest.fixture(autouse=True, scope="module")
def shared_models_stay():
    """Files share tiny models with each other, so one that changes a model fails, and not those after it."""
    yield
    import torch

    tiny = sys.modules.get("circuitlab.testing.tiny")
    for family, model in tiny.SHARED.items() if tiny else ():
        if family not in _seen:
            fresh = dict(tiny.tiny_hf(family).named_parameters())
            assert all(torch.equal(value, fresh[name]) for name, value in model.root.named_parameters()), f"changed weights of {family}"
            _seen[family] = _look(model)
        assert family not in tiny.FAMILIES or _look(model) == _seen[family], f"the shared tiny {family} was changed"


_seen: dict[str, tuple] = {}


def _look(model) -> tuple:
    """What a test could have changed of a model: its parameters, as torch counts changes of them, modes and hooks."""
    values = [(value.data_ptr(), value._version, value.requires_grad, value.grad is None) for value in model.root.parameters()]
    modules = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.root.modules()]
    return values, modules


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
