"""cl.roles: one table whatever is stored, texts of one's own, refusals in the table, and one run for roles that read the same prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.progress import report_progress
from circuitlab.execute.effective_ov import EffectiveOV
from circuitlab.methods.roles import default_roles, get_role, list_roles, role_classes, top_tokens
from circuitlab.methods.roles.composition import KComposition
from circuitlab.methods.roles.copying import Copying, CopyingEigenvalues, NegativeCopying
from circuitlab.methods.roles.relation import Relation
from circuitlab.methods.roles.repeats import Echo, Induction
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import tiny_hf, tiny_model
from circuitlab.texts import Passage, load_texts
from circuitlab.workflows.roles import ROLES, built_roles

ATTENTION = [name for name, cls in role_classes().items() if cls.kind == "attention"]


@pytest.fixture
def model():
    return build_planted("induction-mha").model


@pytest.fixture
def reader():
    """A model that can be given text: one token per word it knows."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["?", ".", ",", "the", "a", "and", "of", "to", "in", "it", "is", "that", "was", "for", "on", "with"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return cl.load_model(tiny_hf("llama"), tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?"), name="reader")


def counted(model, monkeypatch) -> list[int]:
    """Rows of every capture from now on."""
    rows: list[int] = []
    capture = type(model).capture

    def counting(self, tokens, *args, **kwargs):
        rows.append(len(tokens))
        return capture(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(model), "capture", counting)
    return rows


def test_the_planted_heads_earn_their_roles_and_text_is_refused_without_a_tokenizer(model) -> None:
    table = cl.roles(model, ATTENTION)
    assert table.earned_by("a0.h1") == ["previous_token"] and table.earned_by("a1.h2") == ["induction"]
    assert len(table.without_role()) == 6
    assert set(table.refused) == {"delimiter", "focus", "locality", "positional", "receiver", "sink", "span"}
    assert table.refused["sink"] == "induction-mha has no tokenizer, so that text cannot be given to it."
    assert list(cl.roles(model, "induction").scores) == list(cl.roles(model, Induction).scores) == ["induction"]


def test_a_model_without_patterns_gets_an_empty_table_with_reasons() -> None:
    table = cl.roles(tiny_model("mamba"), ["induction", "echo"])
    assert not table.scores and all("no site 'pattern'" in reason for reason in table.refused.values())
    assert repr(table).startswith("RoleTable(tiny-mamba, 0 roles, 2 refused: 0 of ")


def test_roles_are_found_in_the_store(model, tmp_path, monkeypatch) -> None:
    first = cl.roles(model, ["echo", "induction"], store=tmp_path / "runs")
    assert len(cl.Cache(tmp_path / "runs").list(ROLES)) == 2
    rows = counted(model, monkeypatch)
    second = cl.roles(model, ["induction", "echo"], store=str(tmp_path / "runs"))
    assert rows == [] and list(second.scores) == ["induction", "echo"]
    for name, scores in first.scores.items():
        np.testing.assert_array_equal(second.scores[name].values, scores.values)
        np.testing.assert_array_equal(second.scores[name].reference, scores.reference)
        assert second.scores[name].provenance == scores.provenance
    assert second.to_dict() == cl.roles(model, ["induction", "echo"]).to_dict()


def test_what_changes_a_value_changes_where_it_is_stored(model, tmp_path) -> None:
    cache = cl.Cache(tmp_path)
    for role, of in (
        (Echo(length=4), model),
        (Echo(length=5), model),
        (Echo(length=4, seed=1), model),
        (Induction(length=4), model),
        (Echo(length=4), model.edited(cl.interventions.Knockout(["a0.h1"], "zero"))),
    ):
        cl.roles(of, [role], store=cache)
    assert len(cache.list(ROLES)) == 5


def test_texts_are_part_of_what_is_stored_and_given_to_the_roles_that_read_them(reader, tmp_path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("\n\n".join(f"{i} " + "the end of it , and that was it . " * 9 for i in range(3)), encoding="utf-8")
    by_file = cl.roles(reader, ["sink", "induction"], texts=mine, store=tmp_path / "runs")
    assert by_file.scores["sink"].n_samples == 3 and by_file.scores["sink"].provenance.sample == "passages of 64 tokens"
    listed = [Passage(text) for text in mine.read_text(encoding="utf-8").split("\n\n")]
    assert cl.roles(reader, "sink", texts=listed).scores["sink"].provenance == by_file.scores["sink"].provenance
    shipped = cl.roles(reader, [get_role("sink", {"length": 40})], texts=mine, store=tmp_path / "runs")
    assert shipped.scores["sink"].n_samples > 100, "an instance keeps its own texts"
    assert len(cl.Cache(tmp_path / "runs").list(ROLES)) == 3


def test_roles_that_read_the_same_prompts_share_one_run(reader, monkeypatch) -> None:
    rows, texts = counted(reader, monkeypatch), load_texts(n=20)
    names = ["delimiter", "focus", "locality", "receiver", "sink", "span"]
    cl.roles(reader, names, texts=texts)
    assert sum(rows) == 1 + 20, "one to tell how long it will take"
    rows.clear()
    cl.roles(reader, [*names, "positional", "induction", "previous_token", "duplicate_token"], texts=texts)
    assert sum(rows) == 1 + 20 + 16, "patterns are kept for the role that reads them twice"


def test_how_long_weights_take_is_said_before_they_are_read(monkeypatch) -> None:
    said: list[float] = []
    monkeypatch.setattr("circuitlab.workflows.roles.announce", lambda _label, seconds: said.append(seconds))
    model, words = tiny_model("llama"), tuple(range(8))
    roles = [Copying(words=words), CopyingEigenvalues(), KComposition(), Relation(pairs=tuple(zip(words, words[::-1], strict=True)))]
    assert [role.work(model) > 0 for role in roles] == [True] * 4
    assert roles[0].work(model) == 3 * 4 * 8 * 32 * 48, "layers, heads, words, width, vocabulary"
    cl.roles(model, roles)
    assert len(said) == 1 and said[0] > 0


def test_progress_fills_one_bar(model, monkeypatch) -> None:
    monkeypatch.setattr("circuitlab.methods.roles.reading._CHUNK", 1)
    told: list[float] = []
    with report_progress(lambda done, total: told.append(done / total)):
        cl.roles(model, ["echo", "induction", "previous_token"])
    assert told == sorted(told) and told[-1] == 1 and len(set(told)) >= 32


def test_what_cannot_be_asked_is_said(model) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'induction'"):
        cl.roles(model, ["inducton"])
    with pytest.raises(BadParameterError, match="echo is asked for twice"):
        cl.roles(model, ["echo", Echo(length=4)])
    with pytest.raises(BadParameterError, match="No text was given"):
        cl.roles(model, "sink", texts=[])
    assert [role.name for role in built_roles(None)] == list(default_roles())
    assert set(default_roles()) < set(list_roles())


def test_too_few_texts_are_a_refusal_with_its_reason(reader) -> None:
    table = cl.roles(reader, ["sink", "echo"], texts=["short .", "shorter"])
    assert list(table.scores) == ["echo"]
    assert table.refused["sink"].startswith("0 of 2 texts have 64 tokens or more.")


@pytest.mark.parametrize("written", ['colours = ["red", "blue"]', None])
def test_roles_whose_word_list_or_task_is_not_there_are_refused_and_the_others_run(reader, tmp_path, monkeypatch, written) -> None:
    """Whether the task folder lacks the lists, or is no task folder."""
    monkeypatch.setenv("CIRCUITLAB_TASKS", str(tmp_path))
    if written is not None:
        (tmp_path / "pools.toml").write_text(written, encoding="utf-8")
    absent = {"copying": "word list", "negative_copying": "word list", "relation": "relation", "mover": "task"}
    table = cl.roles(reader, [*absent, "induction", "copying_eigenvalues"])
    assert set(table.scores) == {"induction", "copying_eigenvalues"} and set(table.refused) == set(absent)
    for name, kind in absent.items():
        assert f"Unknown {kind}" in table.refused[name] if written else "No task folder" in table.refused[name], name
    assert set(cl.roles(reader, Copying(words=tuple(range(8)))).scores) == {"copying"}, "words of one's own need no list"


def test_a_role_and_its_opposite_read_one_table(reader, monkeypatch) -> None:
    layers: list[int] = []
    table = EffectiveOV.among_top

    def counting(self, layer, targets, k):
        layers.append(layer)
        return table(self, layer, targets, k)

    monkeypatch.setattr(EffectiveOV, "among_top", counting)
    monkeypatch.setattr(top_tokens, "_TABLES", type(top_tokens._TABLES)())
    words = tuple(range(8))
    both = cl.roles(reader, [Copying(words=words, top=3), NegativeCopying(words=words, top=3)])
    assert layers == [0, 1, 2], "once for each layer"
    circuit = EffectiveOV.of(reader, torch.tensor(words), "stream")
    for name, sign in (("copying", 1), ("negative_copying", -1)):
        for layer in range(3):
            logits = sign * circuit.logits(layer, torch.arange(reader.spec.d_vocab))
            hits = logits[:, words, words] > logits.topk(4).values[..., -1]
            np.testing.assert_allclose(both.scores[name].value[layer], hits.double().mean(-1).numpy(), atol=1e-6)
    cl.roles(reader, [Copying(words=words, top=4)])
    assert layers == [0, 1, 2] * 2, "another top is another table"
    with torch.no_grad():
        reader.root.model.layers[0].self_attn.v_proj.weight.mul_(-1)
    cl.roles(reader, [Copying(words=words, top=3)])
    assert layers == [0, 1, 2] * 3, "changed weights are another model"
