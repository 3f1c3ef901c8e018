"""`score --stream` and `--memory`: the same scores, and what cannot be is refused in one sentence."""

from __future__ import annotations

import json

import pytest

from .conftest import command


@pytest.mark.parametrize("method", ["activation_patching", "attribution_patching", "path_patching"])
def test_streamed_scores_are_those_of_the_model_in_memory(world, checkpoint, method) -> None:
    arguments = ["score", "colors", "--model", str(checkpoint), "--method", method, "-n", "4", "--json"]
    streamed = command(*arguments, "--stream", "--memory", "64GiB")
    assert streamed.code == 0, streamed.err
    plain = json.loads(command(*arguments, "--store", "other").out)
    document = json.loads(streamed.out)
    assert not document["cached"]
    for name in ("run_id", "heads", "mlps", "total"):
        assert document[name] == plain[name]


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
