"""Ordered lists become pairs of single tokens, in four spellings; words are sampled from the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from circuitlab.core.errors import TokenizationError
from circuitlab.execute.single_tokens import sample_tokens, single_token
from circuitlab.methods.roles.succession import TASKS, succession
from circuitlab.model import load_model
from circuitlab.tasks.relations import list_relations, relation_pairs
from circuitlab.testing.tiny import tiny_hf, tiny_model


def _model(words: list[str]):
    """A tiny model whose tokens are these words, exactly as they stand, and nothing else."""
    vocabulary = {word: i for i, word in enumerate([*words, "[UNK]"])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")), unk_token="[UNK]")
    return load_model(tiny_hf("llama"), tokenizer=tokenizer, name="tiny")


def test_pairs_are_valid_if_both_items_are_single_tokens_of_one_spelling() -> None:
    words = [
        "Monday",
        "Tuesday",
        "Wednesday",
        " Monday",
        " Friday",
        " Saturday",
        " Sunday",
        "sunday",
        "monday",
        "1",
        "2",
        "3",
        "A",
        "B",
        "C",
    ]
    pairs = succession(_model(words), tuple(TASKS), ())
    named = [(task, words[a], words[b]) for task, a, b in zip(pairs.tasks, pairs.sources, pairs.targets, strict=True)]
    assert named == [
        ("numbers", "1", "2"),
        ("numbers", "2", "3"),
        ("days", "Monday", "Tuesday"),
        ("days", "Tuesday", "Wednesday"),
        ("days", " Friday", " Saturday"),
        ("days", " Saturday", " Sunday"),
        ("days", " Sunday", " Monday"),
        ("letters", "A", "B"),
        ("letters", "B", "C"),
    ], "'sunday', 'monday' is a single pair: nothing competes with its target"
    assert pairs.blocks.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    chance = pairs.chance()
    assert chance["days"] == pytest.approx((2 / 2 + 3 / 3) / 5) and chance["pooled"] == pytest.approx(4 / 9)


def test_tasks_are_those_of_the_paper() -> None:
    assert {task: len(items) for task, items in TASKS.items()} == {
        "numbers": 200, "number_words": 20, "ordinals": 10, "days": 8, "day_prefixes": 8, "months": 13, "month_prefixes": 13, "letters": 26,
    }  # fmt: skip
    assert TASKS["month_prefixes"][3:6] == ["Apr", "May", "Jun"] and TASKS["days"][-1] == "Monday"


def test_a_model_that_knows_no_list_is_refused() -> None:
    with pytest.raises(TokenizationError, match="No list of days has two pairs"):
        succession(_model(["a", "b", "c", "d", "e", "f"]), ("days",), ())
    with pytest.raises(TokenizationError, match="has no tokenizer"):
        succession(tiny_model("llama"), ("days",), ())


def test_words_of_the_vocabulary_have_a_leading_space_and_letters() -> None:
    words = ["Ġhouse", "Ġtree", "▁river", "Ġdog", "Ġcat", "Ġof", "tree", "Ġ12", "Ġa1b"]
    model = _model(words)
    assert sorted(sample_tokens(model, 64, 0)) == [0, 1, 2, 3, 4]
    assert sample_tokens(model, 64, 0) != sample_tokens(model, 64, 1) and len(sample_tokens(model, 5, 0)) == 5
    plain = tiny_model("llama")
    assert sorted(sample_tokens(plain, 48, 0)) == list(range(48)), "without a tokenizer any token is drawn"


def test_an_unknown_word_is_no_token() -> None:
    model = _model(["house"])
    assert single_token(model, "house") == 0 and single_token(model, "tree") is None


def test_relations_come_from_the_tables_of_tasks() -> None:
    assert {"capitals", "country_language", "country_continent"} <= set(list_relations())
    assert "ioi" not in list_relations()
    assert ("Japan", "Tokyo") in relation_pairs("capitals") and ("Japan", "Japanese") in relation_pairs("country_language")
    continents = [target for _, target in relation_pairs("country_continent")]
    assert len(np.unique(continents)) < len(continents) / 5
