"""Several models on one page: their names, what they share, and the Python that makes the page."""

from __future__ import annotations

from pathlib import Path

import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError
from circuitlab.explorer.explore import explored
from circuitlab.explorer.payload import build_payload
from circuitlab.model.toy import build_planted
from circuitlab.store import Cache


@pytest.fixture(scope="module")
def payload():
    planted = build_planted("copy-gqa")
    without = planted.model.edited(cl.interventions.Knockout(["a0.h0"], "zero"))
    tasks = [planted.batch(4), planted.batch(6, seed=1)]
    return cl.explore([planted.model, without], tasks, "activation_patching", measure=["attention"]).payload


def test_an_edited_model_is_called_so(payload, check) -> None:
    check(payload)
    assert [(model["id"], model["edited"]) for model in payload["models"]] == [("copy-gqa", False), ("copy-gqa (edited)", True)]
    assert [score["model"] for score in payload["scores"]] == ["copy-gqa", "copy-gqa", "copy-gqa (edited)", "copy-gqa (edited)"]
    assert {entry["model"] for entry in payload["attention"]} == {"copy-gqa", "copy-gqa (edited)"}


def test_models_are_compared_on_every_task(payload) -> None:
    by_id = {score["id"]: score for score in payload["scores"]}
    between = [one for one in payload["overlap"] if by_id[one["a"]]["model"] != by_id[one["b"]]["model"]]
    assert len(between) == 2
    for one in between:
        assert by_id[one["a"]]["task"] == by_id[one["b"]]["task"]
        assert one["k"] == 4 and one["count"] == len(one["shared"]) <= 4, "half of the eight heads"
        assert one["p_corrected"] >= one["p"] and one["python"].count("load_model") == 2


def test_the_page_of_several_models_is_made_by_python(payload) -> None:
    code = payload["provenance"]["python"]
    assert "cl.explore([model_1, model_2], tasks=[prompts]" in code and "model.edited(...)" in code
    assert payload["provenance"]["command"].startswith("# a command shows one model")
    compile(code, "page", "exec")


def test_stored_models_are_looked_up_by_their_names(tmp_path) -> None:
    store, planted = Cache(tmp_path), build_planted("copy-gqa")
    run = cl.score(planted.model, planted.batch(4), "activation_patching", store=store)
    with pytest.raises(BadParameterError, match="HeadScores, or models; got PosixPath, str"):
        explored(["copy-gqa", Path(tmp_path)])
    stored = explored(["copy-gqa"], store=store)
    assert [one.provenance.run_id() for one in stored.runs] == [run.provenance.run_id()]
    assert len(build_payload(stored)["models"]) == 1
