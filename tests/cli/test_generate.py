"""``circuitlab generate``: what it prints, what it refuses, and before what."""

from __future__ import annotations

import io
import json

import pytest
from transformers import AutoTokenizer

from circuitlab.model import load_model
from circuitlab.model.interventions import Knockout, Scale
from circuitlab.model.interventions.notation import EditWords
from circuitlab.model.prepare import prepare_batch
from circuitlab.model.sites import Site

from .conftest import command

PROMPT = "Say red again"


@pytest.fixture
def plain(checkpoint):
    return load_model(checkpoint)


def refused(*arguments: str) -> str:
    result = command("generate", *arguments)
    assert (result.code, result.out) == (2, ""), result
    assert len(result.err.strip().splitlines()) == 1
    return result.err


def test_the_json_holds_the_python_result(world, checkpoint, plain) -> None:
    edits = ["--scale", "a0.h1=2", "--knockout", "a1.h3:mean,a2.h0"]
    found = command("generate", PROMPT, "--model", str(checkpoint), "--max-new-tokens", "6", *edits, "--compare", "--json")
    assert found.code == 0, found.err
    tokens = AutoTokenizer.from_pretrained(checkpoint)(PROMPT, return_tensors="pt")["input_ids"]
    mean = plain.capture(tokens, [Site.Z], layers=[1])[Site.Z][0, 0, :, 3].mean(0)
    means = Knockout("a1.h3", "mean_over_positions", values={"a1.h3": mean})
    one = plain.edited(Scale("a0.h1", 2.0), Knockout("a2.h0"), means).generate(PROMPT, 6)
    before = plain.generate(PROMPT, 6)
    assert one.ids != before.ids
    for shown, expected in ((found.json, one), (found.json["unedited"], before)):
        assert (shown["text"], shown["ids"], shown["stopped"]) == (expected.text, list(expected.ids), expected.stopped)
        assert shown["logprobs"] == pytest.approx(expected.logprobs, abs=1e-5)
    assert found.json["prompt"] == PROMPT
    assert found.json["mean_over"] == "prompt"
    assert found.json["edits"] == [
        {"kind": "scale", "node": "a0.h1", "factor": 2.0},
        {"kind": "knockout", "node": "a1.h3", "how": "mean"},
        {"kind": "knockout", "node": "a2.h0", "how": "zero"},
    ]


def test_a_mean_over_a_task_is_that_of_its_corrupt_prompts(world, checkpoint, plain) -> None:
    given = ["--model", str(checkpoint), "--max-new-tokens", "4", "--knockout", "a1.h3:mean", "--json"]
    found = command("generate", PROMPT, *given, "--mean-over", "colors")
    assert found.code == 0, found.err
    edited = plain.edited(Knockout("a1.h3", "mean_over_positions", prepare_batch(plain, "colors", 32)))
    assert found.json["logprobs"] == pytest.approx(edited.generate(PROMPT, 4).logprobs, abs=1e-5)
    assert found.json["logprobs"] != pytest.approx(command("generate", PROMPT, *given).json["logprobs"], abs=1e-5)


def test_keys_and_values_can_be_named(plain) -> None:
    words = EditWords.read(["a0.kv1.k=0.5", "a0.kv1.v=2"], ["a1.h0.q", "m2:mean"])
    named = [Scale("a0.kv1", 0.5, site="k"), Scale("a0.kv1", 2.0, site="v"), Knockout("a1.h0", site="q")]
    ids = plain.tokenizer(PROMPT)["input_ids"]
    mean = plain.capture(plain.tokenizer(PROMPT, return_tensors="pt")["input_ids"], [Site.MLP_OUT], layers=[2])[Site.MLP_OUT][0, 0].mean(0)
    expected = plain.edited(*named, Knockout("m2", "mean_over_positions", values={"m2": mean})).generate(PROMPT, 5)
    found = words.applied(plain, ids).generate(PROMPT, 5)
    assert found.ids == expected.ids
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_text_comes_alone_and_both_side_by_side(world, checkpoint, plain, monkeypatch) -> None:
    given = ["--model", str(checkpoint), "--max-new-tokens", "40", "--temperature", "1.5", "--seed", "3"]
    text = plain.generate(PROMPT, 40, 1.5, 3).text
    assert len(text.split()) > 1
    assert command("generate", PROMPT, *given).out == f"{text}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\n"))
    assert command("generate", "-", *given).out == f"{text}\n"
    both = command("generate", PROMPT, *given, "--knockout", "a1.h3", "--compare", "--expect", text).out.splitlines()
    assert both[0].split() == ["tokens", "stopped", "log", "p/token", "exact", "match", "contains", "text"]
    assert both[1].startswith("unedited")
    assert "yes" in both[1]
    assert repr(text) in both[1]
    assert both[2].startswith("edited")
    judged = command("generate", PROMPT, *given, "--expect", text.split()[1], "--json").json
    assert (judged["exact_match"], judged["contains"], judged["expected"]) == (False, True, text.split()[1])
    assert "exact match: no, contains: yes" in command("generate", PROMPT, *given, "--expect", text.split()[1]).out


def test_sampling_and_stop_reach_the_model(world, checkpoint, plain) -> None:
    given = ["--model", str(checkpoint), "--max-new-tokens", "40", "--temperature", "1.5", "--seed", "3", "--json"]
    drawn = plain.generate(PROMPT, 40, 1.5, 3)
    assert command("generate", PROMPT, *given).json["ids"] == list(drawn.ids)
    word = drawn.text.split()[1]
    stopped = command("generate", PROMPT, *given, "--stop", word).json
    assert stopped["stopped"] == "stop"
    assert word not in stopped["text"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("x --scale a0.h0", "'a0.h0' has no factor"),
        ("x --scale a0.h0=much", "'a0.h0=much' has no factor"),
        ("x --scale a0.h0=nan", "'a0.h0=nan' has no factor"),
        ("x --scale head9=1", "head9"),
        ("x --scale a0.kv1=1", "key and a value"),
        ("x --scale logits=1", "logits"),
        ("x --knockout a0.h0:men", "Did you mean 'mean'"),
        ("x --knockout a0.h0,a0.h0:mean", "a0.h0 is edited twice"),
        ("x --knockout a0.h0 --scale a0.h0=1", "a0.h0 is edited twice"),
        ("x --compare", "no edits to compare"),
        ("x --mean-over colors --knockout a0.h0", "there is none"),
        ("x --mean-over colours --knockout a0.h0:mean", "Did you mean 'colors'"),
        ("x --max-new-tokens 0", "max_new_tokens is 0"),
        ("x --temperature -1", "temperature is -1.0"),
        ("x --temperature nan", "temperature is nan"),
        ("x --temperature hot", "--temperature"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(world, monkeypatch, arguments, says) -> None:
    monkeypatch.setattr("circuitlab.model.load_model", lambda *_: pytest.fail("the model was loaded"))
    assert says in refused(*arguments.split())


def test_empty_texts_are_refused_before_the_model_is_loaded(world, monkeypatch) -> None:
    monkeypatch.setattr("circuitlab.model.load_model", lambda *_: pytest.fail("the model was loaded"))
    assert "prompt is empty" in refused("")
    assert "stop string" in refused("x", "--stop", "")
    assert "--expect is empty" in refused("x", "--expect", " ")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert "not UTF-8" in refused("-")


def test_nodes_that_the_model_does_not_have_are_refused(world, checkpoint) -> None:
    for edit in (["--scale", "a9.h0=0"], ["--knockout", "a0.h4"], ["--knockout", "a0.h4:mean"], ["--knockout", "a9.h0:mean"]):
        assert edit[1].split("=")[0].split(":")[0] in refused(PROMPT, "--model", str(checkpoint), *edit)


def test_control_characters_do_not_reach_the_terminal(world, checkpoint, monkeypatch) -> None:
    from circuitlab.model.generate import Generation
    from circuitlab.model.hooked import HookedModel

    monkeypatch.setattr(HookedModel, "generate", lambda *_: Generation("a\x1b[2J\tb\nc", (1,), (0.0,), "length"))
    assert command("generate", PROMPT, "--model", str(checkpoint)).out == "a\\x1b[2J\tb\nc\n"
    assert json.loads(command("generate", PROMPT, "--model", str(checkpoint), "--json").out)["text"] == "a\x1b[2J\tb\nc"
