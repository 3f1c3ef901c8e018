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


def test_methods_are_compared_on_one_task(world, checkpoint) -> None:
    asked = ["colors", "--methods", "logit_attribution,activation_patching", "--metric", "logit_diff"]
    asked += ["--model", str(checkpoint), "-n", "4", "-k", "3"]
    result = command("compare", *asked, "--json")
    assert result.code == 0, result.err
    assert (result.json["over"], result.json["method"]) == ("method", "logit_attribution, activation_patching")
    (pair,) = result.json["pairs"]
    assert (pair["task_a"], pair["task_b"]) == ("logit_attribution", "activation_patching")
    assert "logit_attribution ~ activation_patching" in command("compare", *asked).out


def test_edges_are_compared_where_a_method_scores_them(world, checkpoint) -> None:
    where = ["--model", str(checkpoint), "-n", "4"]
    result = command("compare", "colors", "shades", "--method", "eap", "--edges", "6", *where, "--json")
    assert result.code == 0, result.err
    assert result.json["level"] == "edges"
    for circuit in result.json["circuits"].values():
        assert len(circuit["edges"]) == 6
    (pair,) = result.json["pairs"]
    assert pair["shared"] and all("->" in edge for edge in pair["shared"])
    both = command("compare", "colors", "--methods", "eap,eap_ig", "--edges", "6", *where, "--json")
    assert both.code == 0, both.err
    assert both.json["pairs"][0]["jaccard"]["mean"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("colors shades --methods eap,relp", "needs one task; got colors, shades"),
        ("--methods eap,relp", "needs one task; got none"),
        ("colors --methods eap", "needs two different methods; got eap"),
        ("colors --methods eap,relpp", "Did you mean 'relp'"),
        ("colors --methods eap,eap_ig --param steps=3", "does not say which"),
        ("colors --methods eap,eap_ig --transfer", "does not go with --methods"),
        ("colors shades --method eap --edges 5 --transfer", "does not go with --edges"),
        ("colors shades --edges 5", "scores of edges were requested"),
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
