"""Payloads fit their schema, and the schema refuses what does not fit."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from circuitlab.explorer.example import HOSTILE, Example, example_payload
from circuitlab.explorer.payload import SCHEMA_NAME, build_payload, payload_json
from circuitlab.explorer.schema import payload_schema
from circuitlab.explorer.sources import Sources
from circuitlab.testing.fakes import fake_scores, fake_weights_scores

DOCS = Path(__file__).parents[2] / "docs" / "explorer-data.md"
NORMAL = np.random.default_rng(0).normal


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(payload_schema())
    assert payload_schema()["properties"]["schema"]["const"] == SCHEMA_NAME


@pytest.mark.parametrize(
    "example",
    [
        Example(),
        Example(layers=3, heads=4, kv_heads=4, tasks=("one",), methods=("eap",), pairs=2, hostile=True),
        Example(layers=40, heads=32, kv_heads=8),
    ],
    ids=["default", "hostile", "large"],
)
def test_made_up_payloads_fit_and_are_the_same_every_time(example, check) -> None:
    payload = example_payload(example)
    check(payload)
    again = example_payload(Example(**{name: getattr(example, name) for name in Example.__dataclass_fields__ if name != "rng"}))
    assert payload_json(again) == payload_json(payload)


def test_a_hostile_payload_holds_its_texts_unchanged() -> None:
    tokens = {
        token for prompts in example_payload(Example(hostile=True))["prompts"] for pair in prompts["pairs"] for token in pair["clean"]
    }
    assert set(HOSTILE) <= tokens


@pytest.mark.parametrize(
    "runs",
    [
        (fake_scores(NORMAL(size=(8, 3, 4)), mlps=NORMAL(size=(8, 3))),),
        (fake_scores(NORMAL(size=(1, 3, 4))),),
        (fake_weights_scores(NORMAL(size=(3, 4))),),
        (fake_scores(NORMAL(size=(8, 3, 4)), task="a", ready=None), fake_scores(NORMAL(size=(8, 3, 4)), task="b", ready=False)),
    ],
    ids=["with MLPs", "one pair", "weights alone", "two tasks"],
)
def test_payloads_of_scores_fit(runs, check) -> None:
    check(json.loads(payload_json(build_payload(Sources(runs)))))


def test_a_measured_payload_fits(planted, check) -> None:
    check(json.loads(payload_json(planted.payload)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores", 0, "run"), None),
        (("scores", 0, "parts", "heads", "mean", "type"), "float64"),
        (("attention", 0, "heads", 0), "9.6"),
        (("circuits", 0, "edges", 0, "port"), "z"),
        (("tasks", 0, "note"), "an unknown field"),
        (("schema",), "circuitlab.explorer/2"),
    ],
)
def test_what_does_not_fit_is_refused(path, value, check) -> None:
    payload = copy.deepcopy(example_payload(Example(layers=2, heads=4, kv_heads=2)))
    place = payload
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(payload)


def test_every_field_of_a_list_is_on_the_page_about_the_data() -> None:
    text = DOCS.read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Za-z_/]+)`", text))
    assert set(payload_schema()["properties"]) - {"schema"} <= named | {"schema"}
    for kind in ("score", "circuit", "attention", "overlap"):
        lacking = set(payload_schema()["$defs"][kind]["properties"]) - named - _PLAIN
        assert lacking == set(), kind


_PLAIN = {
    "id",
    "run",
    "model",
    "task",
    "method",
    "pair",
    "side",
    "metric",
    "units",
    "params",
    "n_pairs",
    "rule",
    "kind",
    "conventions",
    "null",
}
"""Names that say what they are."""
