"""Identity of a run: changes with everything a score depends on and with nothing else."""

from __future__ import annotations

import msgspec
import pytest

from circuitlab.core.provenance import Provenance, capture_environment, digest
from circuitlab.testing.fakes import fake_provenance

replace = msgspec.structs.replace


def test_digest_ignores_key_order_only():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest("1") != digest(1)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"params": {"direction": "noising"}},
        {"metric": "prob_diff"},
        {"metric_params": {"reduce": "max"}},
        {"schema": 99},
    ],
)
def test_run_id_follows_what_was_computed(change):
    base = fake_provenance(2, 3)
    assert replace(base, **change).run_id() != base.run_id()


@pytest.mark.parametrize("change", [{"weights": "0"}, {"processing": "folded"}, {"dtype": "bfloat16"}])
def test_run_id_follows_the_model(change):
    base = fake_provenance(2, 3)
    assert replace(base, model=replace(base.model, **change)).run_id() != base.run_id()


def test_run_id_follows_the_prompts_not_their_name():
    base = fake_provenance(2, 3)
    assert replace(base, task=replace(base.task, digest="1")).run_id() != base.run_id()
    assert replace(base, task=replace(base.task, id="renamed", seed=7)).run_id() == base.run_id()


def test_run_id_ignores_names_time_and_machine():
    base = fake_provenance(2, 3)
    other = replace(
        base,
        model=replace(base.model, name="elsewhere"),
        environment=capture_environment(3.0),
        cite=("nobody1999",),
        estimand="other words",
    )
    assert other.run_id() == base.run_id()
    assert len(base.run_id()) == 16
    assert int(base.run_id(), 16) >= 0


def test_json_round_trip():
    base = replace(fake_provenance(2, 3), environment=capture_environment(1.5))
    assert msgspec.json.decode(msgspec.json.encode(base), type=Provenance) == base


def test_environment_names_missing_packages(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert set(capture_environment(0.0).packages.values()) == {"not installed"}
