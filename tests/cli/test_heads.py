"""`circuitlab heads roles`: a table to read, one JSON document, texts of one's own, and refusals before a model is loaded."""

from __future__ import annotations

import json

import pytest

import circuitlab as cl
from circuitlab.methods.roles import role_classes

from .conftest import command


def test_methods_list_names_every_role() -> None:
    document = json.loads(command("methods", "list", "--json").out)
    assert {one["name"] for one in document["roles"]} == set(role_classes())
    assert {"name", "kind", "estimand", "units", "threshold", "null", "needs", "cost", "cite"} == set(document["roles"][0])
    assert {one["kind"] for one in document["methods"]} == {"score"}
    shown = command("methods", "list").out
    assert all(f"\n{name} " in shown for name in role_classes())


def test_roles_as_json_and_from_the_store(world, checkpoint) -> None:
    arguments = ["heads", "roles", "--model", str(checkpoint), "--roles", "induction, echo"]
    document = json.loads(command(*arguments, "--json").out)
    assert [role["name"] for role in document["roles"]] == ["induction", "echo"]
    assert len(document["heads"]) == 12 and set(document["heads"][0]["roles"]) == {"induction", "echo"}
    assert document["no_role"] == [row["head"] for row in document["heads"]], "random weights earn nothing"
    assert len(list((world / "runs" / "roles").glob("*.json"))) == 2
    shown = command(*arguments)
    assert shown.code == 0 and "induction" in shown.out and "none" in shown.out
    assert "12 of 12 heads earn none of these roles: a0.h0, a0.h1" in shown.out


def test_texts_of_ones_own(world, checkpoint) -> None:
    (world / "mine.txt").write_text("\n\n".join(f"Say {word} again " * 30 for word in ("red", "blue", "green")), encoding="utf-8")
    document = json.loads(command("heads", "roles", "--model", str(checkpoint), "--roles", "sink", "--text", "mine.txt", "--json").out)
    assert document["roles"][0]["n_samples"] == 3 and document["roles"][0]["sample"] == "passages of 64 tokens"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--roles", "sinc"], "Did you mean 'sink'?"),
        (["--text", "gone.txt"], "gone.txt cannot be read"),
        (["--roles", "sink,sink"], "sink is asked for twice"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(world, arguments, said) -> None:
    result = command("heads", "roles", "--model", "there-is-no-such-model", *arguments)
    assert result.code == 2 and said in result.err and result.out == ""


def test_a_role_that_is_refused_is_named_with_its_reason(world, checkpoint) -> None:
    (world / "mine.txt").write_text("too short\n\neven shorter\n", encoding="utf-8")
    result = command("heads", "roles", "--model", str(checkpoint), "--roles", "sink", "--text", "mine.txt")
    assert result.code == 0 and "sink: not measured. 0 of 2 texts have 64 tokens or more." in result.out


def test_a_head_on_text_of_ones_own(world, checkpoint) -> None:
    (world / "mine.txt").write_text("\n\n".join(f"Say {word} again " * 20 for word in ("red", "blue", "green")), encoding="utf-8")
    arguments = ["heads", "text", "a1.h2", "--model", str(checkpoint), "--text", "mine.txt"]
    document = json.loads(command(*arguments, "--json").out)
    assert document["head"] == "a1.h2" and document["n_passages"] == 3 and len(document["deciles"]) == 10
    assert set(document["top"][0]) >= {"token", "following", "effect", "attended", "decile"}
    shown = command(*arguments, "-k", "2")
    assert shown.code == 0 and "decile 10" in shown.out and "top 2" in shown.out and "top 3" not in shown.out
    assert len(list((world / "runs" / "on_text").glob("*.json"))) == 1


@pytest.mark.parametrize(("arguments", "said"), [(["a1.x2"], "a1.x2"), (["a1.h2", "--text", "gone.txt"], "gone.txt cannot be read")])
def test_a_head_or_text_that_cannot_be_used_is_one_sentence(world, arguments, said) -> None:
    result = command("heads", "text", *arguments, "--model", "there-is-no-such-model")
    assert result.code == 2 and said in result.err and result.out == ""


@pytest.mark.parametrize(
    ("form", "out"), [("duo-attention", "duo"), ("razor-attention", "razor.json"), ("csv", "heads.csv"), ("headvis", "data")]
)
def test_exports_are_written_where_they_are_asked_for(world, checkpoint, form, out) -> None:
    (world / "mine.txt").write_text(
        "\n\n".join(f"{'again ' * i}Say {word}" for i, word in enumerate(["red"] * 12, start=2)), encoding="utf-8"
    )
    more = {"headvis": ["--text", "mine.txt"], "csv": ["--roles", "induction"]}.get(form, [])
    result = command("heads", "export", form, "--model", str(checkpoint), "-o", out, *more)
    assert (result.code, result.out) == (0, out + "\n") and (world / out).exists()
    readers = {
        "duo-attention": "read_duo_attention",
        "razor-attention": "read_razor_attention",
        "csv": "read_csv",
        "headvis": "read_headvis",
    }
    assert getattr(cl.exports, readers[form])(out) is not None


def test_stored_scores_are_exported_by_their_run_id(world, checkpoint) -> None:
    command("score", "colors", "--model", str(checkpoint), "-n", "3", "--method", "logit_attribution")
    (run,) = cl.Cache("runs").list()
    result = command("heads", "export", "csv", "--model", str(checkpoint), "-o", "heads.csv", "--roles", "echo", "--run", run)
    frame = cl.exports.read_csv("heads.csv")
    assert result.code == 0 and list(frame[f"score.{run}.mean"]) == [float(one.mean) for one in cl.Cache("runs").read(run).nodes("heads")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["csw", "-o", "x"], "Did you mean 'csv'?"),
        (["razor-attention", "-o", "x", "--roles", "echo"], "made from echo and induction"),
        (["csv", "-o", "x", "--run", "0123456789abcdef"], "There is no"),
        (["csv", "-o", "x", "--roles", "sinc"], "Did you mean 'sink'?"),
    ],
)
def test_exports_that_cannot_be_are_refused_before_the_model_is_loaded(world, arguments, said) -> None:
    result = command("heads", "export", *arguments, "--model", "there-is-no-such-model")
    assert result.code == 2 and said in result.err and result.out == "" and not (world / "x").exists()


def test_a_card_as_json_as_text_and_as_a_page(world, checkpoint) -> None:
    shared = ["heads", "card", "a1.h2", "--task", "colors", "--model", str(checkpoint), "-n", "3", "--roles", "induction"]
    card = json.loads(command(*shared, "--json", "-o", "card.html").out)
    assert card["head"] == "a1.h2" and card["tasks"] == ["colors"]
    assert [one["method"] for one in card["causal"]["entries"]] == ["activation_patching", "logit_attribution"]
    assert [one["token"] for one in card["tokens"]["entries"]][-1] == "▁again"
    assert "<h3>What it writes</h3>" in (world / "card.html").read_text(encoding="utf-8")
    scores = command("score", "colors", "--model", str(checkpoint), "-n", "3", "--json").json
    assert scores["cached"] is True and scores["run_id"] == card["causal"]["entries"][0]["run_id"]
    shown = command(*shared)
    assert shown.code == 0 and "HeadCard of a1.h2" in shown.out and "earns none, of 1 role measured" in shown.out


def test_cards_of_several_heads_are_one_page_and_one_list(world, checkpoint) -> None:
    shared = ["heads", "card", "--task", "colors", "--model", str(checkpoint), "-n", "3", "--roles", "induction"]
    cards = json.loads(command(*shared, "a1.h2, a2.h0,a1.h2", "--json", "-o", "cards.html").out)
    assert [one["head"] for one in cards] == ["a1.h2", "a2.h0"]
    alone = json.loads(command(*shared, "a2.h0", "--json").out)
    assert alone == cards[1]
    page = (world / "cards.html").read_text(encoding="utf-8")
    assert page.count("<h3>What it writes</h3>") == 2 and 'href="#a2.h0"' in page and page.count('id="a2.h0"') == 1
    assert "a2.h9" in command(*shared, "a1.h2,a2.h9").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m3"], "m3 is not an attention head"),
        (["nine"], "nine"),
        (["a1.h2,m3,a1.kv0"], "m3, a1.kv0 is not an attention head"),
        ([","], ", is not an attention head"),
        (["a1.h2", "--task", "colours"], "Did you mean 'colors'?"),
        (["a1.h2", "--method", "patching"], "Unknown method 'patching'"),
        (["a1.h2", "--roles", "sinc"], "Did you mean 'sink'?"),
    ],
)
def test_a_card_of_what_is_not_there_is_one_sentence(world, arguments, said) -> None:
    result = command("heads", "card", "--model", "there-is-no-such-model", *arguments)
    assert result.code == 2 and said in result.err and result.out == ""
