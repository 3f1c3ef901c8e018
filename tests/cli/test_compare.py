"""``circuitlab compare``: tasks as words or as a list, every number of the published shape, null models by name."""

from __future__ import annotations

import pytest

from .conftest import command

INTERVAL = {"mean", "low", "high"}


@pytest.fixture
def shared(world, checkpoint):
    return ["--model", str(checkpoint), "--method", "logit_attribution", "-n", "4", "-k", "3"]


def test_tasks_are_named_as_words_or_as_a_list(shared) -> None:
    words, listed, both = (
        command("compare", *names, *shared, "--json")
        for names in (("colors", "shades"), ("--tasks", "colors,shades"), ("colors", "--tasks", "colors, shades,"))
    )
    assert words.code == listed.code == both.code == 0, listed.err
    assert words.json == listed.json == both.json


def test_json_has_every_number_of_a_pair(shared) -> None:
    found = command("compare", "--tasks", "colors,shades", *shared, "--json").json
    assert found["transfer"] is None
    (pair,) = found["pairs"]
    assert set(pair["jaccard"]) == set(pair["spearman"]) == INTERVAL
    assert 0 <= pair["rbo"] <= 1
    for measure in ("containment", "overlap_coefficient"):
        assert 0 <= pair[measure] <= 1
        assert set(pair["intervals"][measure]) == INTERVAL
    assert 0 < pair["p"] <= pair["q"] <= 1
    assert pair["null"] == "layer_stratified"
    assert {"mean", "high", "p"} == set(pair["nulls"]["jaccard"]["uniform"])
    assert any("colors is not ready" in note for note in found["notes"])


def test_the_null_model_can_be_chosen(shared) -> None:
    (pair,) = command("compare", "colors", "shades", *shared, "--null", "uniform", "--json").json["pairs"]
    assert (pair["null"], pair["p"]) == ("uniform", pair["nulls"]["jaccard"]["uniform"]["p"])
    wrong = command("compare", "colors", "shades", *shared, "--null", "unifrom")
    assert wrong.code == 2
    assert "Did you mean 'uniform'" in wrong.err


def test_text_gives_the_chance_level_and_warns(shared) -> None:
    result = command("compare", "colors", "shades", *shared)
    assert result.code == 0, result.err
    assert "colors ~ shades" in result.out and "by chance" in result.out
    assert "Warning: colors is not ready" in result.err and "Warning" not in result.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "got none"),
        ("--tasks colors", "needs two different tasks; got colors"),
        ("--tasks colors,colors", "needs two different tasks"),
        ("--tasks colors,shade", "Did you mean 'shades'"),
    ],
)
def test_bad_lists_of_tasks(world, words, says) -> None:
    result = command("compare", *words.split())
    assert result.code == 2
    assert says in result.err
