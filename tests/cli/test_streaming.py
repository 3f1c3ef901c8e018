"""`score --stream` and `--memory`, and the same in a study: the same scores, and what cannot be is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from circuitlab import Study
from circuitlab.model.streaming import opening
from circuitlab.store import Cache

from .conftest import command

STUDY = """
id = "small"
title = "Small"
model = "MODEL"
n = 4
tasks = [{ id = "colors" }]
methods = [{ name = "METHOD" }, { name = "activation_patching" }]
"""


def study_file(name: str, checkpoint: Path, more: str, method: str = "screened_patching") -> Path:
    path = Path(f"{name}.toml")
    path.write_text(f"{more}\n" + STUDY.replace("MODEL", str(checkpoint)).replace("METHOD", method))
    return path


@pytest.mark.parametrize("method", ["activation_patching", "attribution_patching", "path_patching", "screened_patching"])
def test_streamed_scores_are_those_of_the_model_in_memory(world, checkpoint, method) -> None:
    arguments = ["score", "colors", "--model", str(checkpoint), "--method", method, "-n", "4", "--json"]
    streamed = command(*arguments, "--stream", "--memory", "64GiB")
    assert streamed.code == 0, streamed.err
    plain = json.loads(command(*arguments, "--store", "other").out)
    document = json.loads(streamed.out)
    assert not document["cached"]
    for name in ("run_id", "heads", "mlps", "total"):
        assert document[name] == plain[name]


def test_a_circuit_is_found_and_evaluated_on_a_streamed_model(world, checkpoint) -> None:
    settings = ["-n", "4", "-k", "2", "--random", "5", "--universe", "heads+mlps"]
    arguments = ["circuit", "colors", "--model", str(checkpoint), *settings, "--json"]
    streamed, plain = command(*arguments, "--stream"), command(*arguments, "--store", "other")
    assert streamed.code == 0, streamed.err
    assert "faithfulness" in plain.out
    assert json.loads(streamed.out) == json.loads(plain.out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backups"], "--backups knocks heads out of a model in memory"),
        (["--ablation", "mean_by_mark"], "--ablation mean_by_mark takes means over activations of all prompts"),
    ],
)
def test_what_a_streamed_circuit_cannot_have_is_refused(world, checkpoint, arguments, says) -> None:
    result = command("circuit", "colors", "--model", str(checkpoint), "--stream", *arguments)
    assert (result.code, result.out) == (2, "")
    assert says in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stream", "--method", "copying_score"], "copying_score cannot run on this model: tiny is streamed"),
        (["colors", "--stream", "--method", "eap"], "eap cannot run on this model: tiny is streamed"),
        (["colors", "--memory", "1MiB", "--method", "attribution_patching"], "memory='1MiB' leaves nothing for attribution_patching"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(world, checkpoint, arguments, says) -> None:
    result = command("score", *arguments, "--model", str(checkpoint))
    assert (result.code, result.out) == (2, "")
    assert says in result.err


def test_a_study_streams_its_model(world, checkpoint, monkeypatch) -> None:
    opened, really = [], opening.open_streamed
    monkeypatch.setattr(opening, "open_streamed", lambda *args, **named: opened.append(args) or really(*args, **named))
    scores = {}
    for name, more in (("plain", ""), ("streamed", 'stream = true\nmemory = "64GiB"')):
        path = study_file(name, checkpoint, more)
        cells = json.loads(command("study", "run", str(path), "--store", name, "--json").out)["cells"]
        assert [cell["error"] for cell in cells] == [None, None]
        scores[name] = Study(path, Cache(Path(name))).scores()
    assert len(opened) == 1  # the model of the second study, once for both cells
    assert len(scores["plain"]) == 2
    for key, expected in scores["plain"].items():
        assert scores["streamed"][key].provenance.run_id() == expected.provenance.run_id()
        for name in expected.dataset:
            np.testing.assert_array_equal(scores["streamed"][key].dataset[name].values, expected.dataset[name].values)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("stream = true", "streams its model, one layer at a time is in memory, and eap cannot run so: it has not been written"),
        ('memory = "4GiB"', "sets memory='4GiB', and eap does not say how much memory it takes"),
        ('memory = "much"', "memory='much' is not an amount of memory"),
    ],
)
def test_a_study_that_cannot_stream_is_refused_before_work(world, checkpoint, more, says) -> None:
    result = command("study", "run", str(study_file("small", checkpoint, more, "eap")))
    assert (result.code, result.out) == (2, "")
    assert says in result.err
