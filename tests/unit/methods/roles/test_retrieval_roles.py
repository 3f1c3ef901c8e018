"""Roles on needles: the counts equal hand-computed ones, the planted head tops them, and what is not answered is not counted."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, ModelError, TokenizationError
from circuitlab.methods.roles.contract import role_provenance
from circuitlab.methods.roles.decoded import Decoded, answers, copied, decode, first_line, looked_at
from circuitlab.methods.roles.evidence import QueryEvidence
from circuitlab.methods.roles.needles import NEEDLES, NeedleTest, control_spans, hidden_pairs, hidden_singly
from circuitlab.methods.roles.retrieval import Retrieval, SemanticRetrieval
from circuitlab.model import load_model
from circuitlab.model.generate import Generation
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.model.toy.planted import BACKGROUND
from circuitlab.model.toy.sequences import CONTENTS
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.testing.tiny import shared_tiny_model, tiny_hf, tiny_model


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of 46 characters, so that the tiny models can be given text."""
    characters = ["_", *"\n .,;:!'\"-()?0123", *string.ascii_lowercase]
    backend = Tokenizer(BPE(vocab={one: i for i, one in enumerate(characters)}, merges=[], unk_token="_"))
    backend.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="_")


def repeats(n: int, seed: int = 0, vocabulary: int = 8) -> tuple[NeedleTest, ...]:
    """``a b c d e f a``: the evidence is ``b c``, which an induction head copies, at one of three depths."""
    rng, tests = np.random.default_rng(seed), []
    for number in range(n):
        row, at = rng.choice(vocabulary, 7, replace=False).tolist(), 1 + number % 3
        evidence = (at + 1, at + 3)
        others = list(control_spans(2, evidence, (0, 7)))
        tests.append(NeedleTest((*row, row[at]), evidence, others[int(rng.integers(len(others)))], (7, 8)))
    return tuple(tests)


def balanced(n: int, seed: int = 0) -> tuple[NeedleTest, ...]:
    """``a b c d e f a`` and the same with ``d`` at the end: the evidence is what follows the last token."""
    rng, tests = np.random.default_rng(seed), []
    for _ in range(n):
        row = rng.choice(8, 6, replace=False).tolist()
        tests.append(NeedleTest((*row, row[0]), (1, 2), (4, 5), (6, 7)))
        tests.append(NeedleTest((*row, row[3]), (4, 5), (1, 2), (6, 7)))
    return tuple(tests)


def test_counts_on_a_scripted_tensor_equal_those_by_hand() -> None:
    # The prompt is 3 8 9 4 8, the needle 8 9; said are 8, 9, 8, 5. Two heads.
    tokens, said = np.array([3, 8, 9, 4, 8, 8, 9, 8]), np.array([8, 9, 8, 5])
    rows = np.zeros((4, 1, 2, 8))
    rows[:, 0, 0] = [
        [0.1, 0.6, 0.1, 0.1, 0.1, 0, 0, 0],  # looks at 8 in the needle, and 8 is said: one token
        [0.1, 0.6, 0.2, 0.1, 0, 0, 0, 0],  # looks at 8, and 9 is said
        [0, 0.7, 0, 0, 0.3, 0, 0, 0],  # 8 again: counted twice
        [0.9, 0.1, 0, 0, 0, 0, 0, 0],
    ]
    rows[:, 0, 1] = [
        [0, 0.1, 0, 0.2, 0.7, 0, 0, 0],  # looks at the 8 outside the needle
        [0, 0, 1, 0, 0, 0, 0, 0],  # 9 in the needle
        [0, 0, 0, 0, 0, 1, 0, 0],  # the 8 that it said itself
        [0, 0, 1, 0, 0, 0, 0, 0],  # looks into the needle while 5 is said
    ]
    decoded = Decoded(tokens, said, rows)
    np.testing.assert_allclose(copied(decoded, (1, 3), (1, 3)), [[2 / 2, 1 / 2]])
    # As if 8 9 stood at 4 and 5: the second head looks there at 4 while 8 is said, and at 5 while 8, not 9, is said.
    np.testing.assert_allclose(copied(decoded, (1, 3), (4, 6)), [[0, 1 / 2]])
    np.testing.assert_allclose(looked_at(decoded, (1, 3), (1, 3)), [[(0.7 + 0.8 + 0.7) / 2, (0.1 + 1) / 2]])
    np.testing.assert_allclose(looked_at(decoded, (1, 3), (3, 5)), [[(0.2 + 0.1 + 0.3) / 2, 0.9 / 2]])


def test_an_answer_is_counted_by_the_words_that_are_said() -> None:
    test = NeedleTest((1, 2, 3, 4), (1, 3), (3, 4), (3, 4), answer="Cold potato soup, cold")
    said = [Generation(text, (9,), (0.0,), "stop") for text in ("COLD soup!", "cold cold potato", "potato", "")]
    assert [answers(test, one, 0.5) for one in said] == [False, True, False, False]
    bare = NeedleTest((1, 2, 3, 4), (1, 3), (3, 4), (3, 4))
    tokens = [Generation(None, ids, (0.0,) * len(ids), "length") for ids in ((2, 9), (2, 3), (2, 2))]
    assert [answers(bare, one, 0.5) for one in tokens] == [False, True, False]


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_induction_head_tops_both_roles_and_earns_them_alone(form) -> None:
    model = build_planted(f"induction-{form}").model
    tests = repeats(16)
    for role in (Retrieval(tests=tests, max_new_tokens=2), SemanticRetrieval(tests=tests, max_new_tokens=2)):
        scores = role(model)
        assert np.argwhere(scores.earned()).tolist() == [[1, 2]]
        assert np.unravel_index(scores.value.argmax(), scores.value.shape) == (1, 2)
        assert scores.value[1, 2] > 0.7 and scores.n_samples >= 12


def test_an_induction_head_that_also_sees_the_copy_itself_tops_induction_echo_and_retrieval() -> None:
    """The planted induction head looks only behind the earlier copy, so that its echo is 0; this one looks at the copy too."""
    wiring = Wiring("gqa", 2, CONTENTS)
    token, before, out = (wiring.block(CONTENTS) for _ in range(3))
    for i in range(CONTENTS):
        wiring.embed[i, token[i]], wiring.unembed[i, out[i]] = 1.0, 4.0
    wiring.previous(0, 1, 30.0)
    wiring.carry(0, 1, token, before, 1.0)
    wiring.match(1, 2, token, before, 16.0)
    wiring.match(1, 2, token, token, 14.6)
    wiring.carry(1, 2, token, out, 1.0)
    wiring.background(BACKGROUND)
    model = serve(wiring, "induction-and-echo")
    plain = cl.roles(build_planted("induction-gqa").model, "echo").scores["echo"].value
    assert plain[1, 2] < 0.1, "by RazorAttention's definition"
    for scores in (*cl.roles(model, ["induction", "echo"]).scores.values(), Retrieval(tests=repeats(16), max_new_tokens=2)(model)):
        others = np.delete(scores.value.ravel(), 6)
        assert scores.value[1, 2] > 0.15 and scores.value[1, 2] > 1.4 * others.max(), (scores.value[1, 2], others.max())


@pytest.mark.some(2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_random_weights_answer_nothing_and_earn_nothing_where_every_answer_is_counted(family, monkeypatch) -> None:
    model = shared_tiny_model(family)
    with pytest.raises(ModelError, match=f"tiny-{family} answers 0 of 12 needles"):
        Retrieval(tests=repeats(12, vocabulary=48), max_new_tokens=2)(model)
    monkeypatch.setattr("circuitlab.methods.roles.retrieval.answers", lambda *_: True)
    for role in (Retrieval, SemanticRetrieval):
        scores = role(tests=repeats(24), max_new_tokens=12)(model)
        assert scores.n_samples == 24 and int(scores.earned().sum()) == 0
    scores = QueryEvidence(tests=balanced(24))(model)
    assert scores.n_samples == 24 and int(scores.earned().sum()) == 0


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
def test_rows_are_those_of_decoding_token_by_token(family) -> None:
    model = shared_tiny_model(family)
    every = ((test, *model.generate([list(test.tokens)], 4)) for test in repeats(60, vocabulary=48))
    test, generation = next((test, one) for test, one in every if len(one.ids) == 4)  # some end at once
    decoded = decode(model, test, generation)
    assert decoded.said.tolist() == list(generation.ids)
    for step in range(4):
        before = [*test.tokens, *generation.ids[:step]]
        pattern = model.capture(torch.tensor([before]), [Site.PATTERN])[Site.PATTERN][0, :, :, -1].double().numpy()
        np.testing.assert_allclose(decoded.rows[step][..., : len(before)], pattern, atol=1e-6)
        assert not decoded.rows[step][..., len(before) :].any()


def test_layers_in_pieces_and_lengths_by_themselves_give_the_same_rows(monkeypatch) -> None:
    model, (test,) = tiny_model("llama"), repeats(1)
    (generation,) = model.generate([list(test.tokens)], 5)
    whole = decode(model, test, generation)
    monkeypatch.setattr("circuitlab.methods.roles.decoded._MOST", 1)
    np.testing.assert_allclose(decode(model, test, generation).rows, whole.rows, atol=1e-9)
    monkeypatch.setattr(type(model), "length_dependent", True)
    np.testing.assert_allclose(decode(model, test, generation).rows, whole.rows, atol=1e-6)


def test_needles_stand_where_they_are_said_to_stand() -> None:
    tokenizer = letters()
    model = load_model(tiny_hf("llama"), tokenizer=tokenizer, name="reader")
    tests = hidden_singly(model, 400, (0.0, 1.0), seed=0)
    assert len(tests) == len(NEEDLES) and {len(test.tokens) > 300 for test in tests} == {True}
    for number, (test, needle) in enumerate(zip(tests, NEEDLES, strict=True)):
        assert tokenizer.decode(test.copied).replace(" ", "") == needle.answer.lower().replace(" ", "")
        asked = tokenizer.decode(test.tokens[slice(*test.question)])
        assert asked.replace(" ", "") == needle.question.lower().replace(" ", "")
        assert (test.evidence[0] < 80) == (number % 2 == 0), "at the beginning and at the end in turn"
        assert test.other[1] - test.other[0] == len(test.copied) and test.other[0] > 0
    pairs = hidden_pairs(model, 400, seed=0)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert (first.evidence, first.other) == (second.other, second.evidence)
        assert first.tokens[: first.question[0]] == second.tokens[: first.question[0]], "the same haystack"
    again = hidden_singly(model, 400, (0.0, 1.0), seed=1)
    assert [test.tokens for test in again] != [test.tokens for test in tests]


def test_where_there_is_a_chat_template_a_user_asks_and_the_assistant_answers() -> None:
    tokenizer = letters()
    plain = hidden_singly(load_model(tiny_hf("llama"), tokenizer=tokenizer, name="reader"), 400, (0.5,), seed=0)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}!{% endfor %}bot:"
    model = load_model(tiny_hf("llama"), tokenizer=tokenizer, name="chatter")
    for test, without, needle in zip(hidden_singly(model, 400, (0.5,), seed=0), plain, NEEDLES, strict=True):
        text = tokenizer.decode(test.tokens).replace(" ", "")
        assert text.startswith("user:") and text.endswith("answer:!bot:")
        assert tokenizer.decode(test.copied).replace(" ", "") == needle.answer.lower().replace(" ", "")
        assert tokenizer.decode(test.tokens[slice(*test.question)]).replace(" ", "") == needle.question.lower().replace(" ", "")
        moved = test.evidence[0] - without.evidence[0]
        assert moved > 0 and test.tokens[moved : moved + without.question[1]] == without.tokens[: without.question[1]]
        assert moved <= test.other[0] and test.other[1] <= test.question[0], "the other span lies in the haystack"
    said = [[test.tokens for test in Retrieval(chat=chat, length=400, depths=(0.5,)).prompts(model)] for chat in (True, False)]
    assert said == [[test.tokens for test in hidden_singly(model, 400, (0.5,), seed=0)], [test.tokens for test in plain]]
    assert role_provenance(Retrieval(chat=False), model) != role_provenance(Retrieval(), model), "the choice is part of the identity"
    tokenizer.chat_template = "{{ messages[0].content | upper }}"
    with pytest.raises(TokenizationError, match="chat template of chatter changes the text"):
        hidden_singly(load_model(tiny_hf("llama"), tokenizer=tokenizer, name="chatter"), 400, (0.5,), seed=0)


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_induction_head_looks_from_the_question_to_its_evidence(form) -> None:
    scores = QueryEvidence(tests=balanced(8))(build_planted(f"induction-{form}").model)
    assert np.argwhere(scores.earned()).tolist() == [[1, 2]] and scores.n_samples == 8
    assert scores.value[1, 2] > 0.6 and scores.chance()[1, 2] < 0.1


def test_attention_to_evidence_equals_a_slow_reading() -> None:
    model, tests = tiny_model("llama"), balanced(2)
    tests = tuple(NeedleTest(one.tokens, one.evidence, one.other, (5, 7)) for one in tests)
    scores = QueryEvidence(tests=tests)(model)
    for sample in range(2):
        value, control = np.zeros((3, 4)), np.zeros((3, 4))
        for test in tests[2 * sample : 2 * sample + 2]:
            pattern = model.capture(torch.tensor([test.tokens]), [Site.PATTERN])[Site.PATTERN][0].double().numpy()
            for layer, head in np.ndindex(3, 4):
                value[layer, head] += np.mean([pattern[layer, head, q, slice(*test.evidence)].sum() for q in (5, 6)]) / 2
                control[layer, head] += np.mean([pattern[layer, head, q, slice(*test.other)].sum() for q in (5, 6)]) / 2
        np.testing.assert_allclose(scores.values[sample], value, atol=1e-9)
        np.testing.assert_allclose(scores.reference[sample], control, atol=1e-9)


def test_pairs_that_are_not_balanced_are_refused() -> None:
    tests = balanced(2)
    with pytest.raises(BadParameterError, match="3 tests"):
        QueryEvidence(tests=tests[:3])
    with pytest.raises(BadParameterError, match=r"tests 0 and 1 .* \(1, 2\) and \(4, 5\), \(1, 2\) and \(4, 5\)"):
        QueryEvidence(tests=(tests[0], tests[0], *tests[2:]))


def test_what_cannot_be_measured_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match="retrieval cannot run on this model: tiny-llama has no tokenizer"):
        Retrieval()(tiny_model("llama"))
    table = cl.roles(tiny_model("llama"), "retrieval")
    assert "no tokenizer" in table.refused["retrieval"]
    with pytest.raises(ModelError, match="no site 'pattern'"):
        Retrieval(tests=repeats(2))(tiny_model("mamba"))
    small = load_model(tiny_hf("gpt2"), tokenizer=letters(), name="small")
    with pytest.raises(BadParameterError, match="small has 64 positions"):
        Retrieval()(small)
    wrong = ({"recall": 1.0}, "recall=1.0"), ({"depths": (1.5,)}, "depths=(1.5,)"), ({"max_new_tokens": 0}, "max_new_tokens=0")
    for params, said in wrong:
        with pytest.raises(BadParameterError) as error:
            Retrieval(**params)
        assert said in str(error.value)
    with pytest.raises(BadParameterError, match="One test has no interval"):
        Retrieval(tests=repeats(1))
    with pytest.raises(BadParameterError, match="have tokens in common"):
        NeedleTest((1, 2, 3), (0, 2), (1, 3), (2, 3))
    with pytest.raises(BadParameterError, match="is no span of a prompt of 3 tokens"):
        NeedleTest((1, 2, 3), (0, 2), (2, 4), (2, 3))
    with pytest.raises(BadParameterError, match="no other span of 3 tokens"):
        control_spans(3, (2, 5), (0, 7))


def test_roles_that_take_minutes_are_measured_only_where_they_are_named() -> None:
    planted = build_planted("induction-mha").model
    assert not {"query_evidence", "retrieval", "semantic_retrieval"} & (set(cl.roles(planted).scores) | set(cl.roles(planted).refused))
    stored = cl.roles(planted, Retrieval(tests=repeats(6), max_new_tokens=2))
    assert stored.earned_by("a1.h2") == ["retrieval"]


class _Letters:
    """A tokenizer whose tokens are the letters of a text."""

    TEXT = "\n take a walk\nin the park"

    def decode(self, ids, **_options) -> str:
        return "".join(self.TEXT[i] for i in ids)


class _Reader:
    tokenizer = _Letters()


def test_an_answer_ends_with_its_first_line_that_holds_a_word() -> None:
    ids = tuple(range(len(_Letters.TEXT)))
    said = Generation(text=_Letters.TEXT, ids=ids, logprobs=tuple(-0.1 for _ in ids), stopped="length")
    line = first_line(_Reader(), said)
    assert line.text == "\n take a walk" and line.stopped == "stop"
    assert len(line.ids) == len(line.logprobs) == len("\n take a walk\n")
    short = Generation(text="\n take", ids=ids[:6], logprobs=(0.0,) * 6, stopped="length")
    assert first_line(_Reader(), short) == short
