"""Roles on attention patterns: planted heads earn theirs and random weights earn none; windows, sinks and refusals are exact."""

from __future__ import annotations

import string

import msgspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.methods.roles import get_role, patterns, role_classes
from circuitlab.methods.roles.natural import passages
from circuitlab.methods.roles.reading import ReadsPatterns, read_together
from circuitlab.methods.roles.repeats import Echo, Induction, PreviousToken, repeated_tokens
from circuitlab.model import load_model
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.testing.tiny import tiny_hf, tiny_model
from circuitlab.texts import load_texts

ON_REPEATS = ["duplicate_token", "echo", "induction", "previous_token"]
ON_TEXT = ["delimiter", "focus", "locality", "positional", "receiver", "sink", "span"]
FEW = tuple(one.text for one in load_texts(n=24))


def letters(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of 48 characters, so that the tiny models can be given text."""
    marks = "\n .,;:!'\"-()?0123"
    vocab = {one: i for i, one in enumerate(["_", "^", *marks, *string.ascii_lowercase])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[], unk_token="_"))
    backend.normalizer = normalizers.Lowercase()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="^ $A", special_tokens=[("^", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="_", **({"bos_token": "^"} if bos else {}))


def reading_model(family: str, seed: int = 0, *, bos: bool = False):
    return load_model(tiny_hf(family, seed=seed), tokenizer=letters(bos=bos), name=f"tiny-{family}")


def on_text(model, names=ON_TEXT):
    return {one.provenance.role: one for one in read_together(model, [get_role(name, {"texts": FEW}) for name in names])}


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_previous_token_head_and_the_planted_induction_head_earn_their_roles_alone(form) -> None:
    model = build_planted(f"induction-{form}").model
    for role, head in ((PreviousToken(length=4), (0, 1)), (Induction(length=4), (1, 2)), (Induction(length=4, copies=4), (1, 2))):
        scores = role(model)
        assert np.argwhere(scores.earned()).tolist() == [list(head)]
        assert np.unravel_index(scores.value.argmax(), scores.value.shape) == head
        assert scores.interval().low[head] > 0.5 > scores.chance()[head]
    echo = Echo(length=4)(model)
    assert not echo.earned().any(), "an induction head looks at the token after the copy, which is no echo"


def test_a_planted_echo_head_divides_its_attention_among_the_copies() -> None:
    wiring = Wiring("gqa", 1, 8)
    token, out = wiring.block(8), wiring.block(8)
    for i in range(8):
        wiring.embed[i, token[i]] = 1.0
        wiring.unembed[i, out[i]] = 1.0
    wiring.match(0, 2, token, token, 30.0)
    wiring.carry(0, 2, token, out, 1.0)
    scores = Echo(length=8, rows=4)(serve(wiring, "echo"))
    # In its second, third and fourth copy a token sees one, two and three earlier ones beside itself.
    assert scores.value[0, 2] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3, abs=1e-3)
    assert np.argwhere(scores.earned()).tolist() == [[0, 2]]


@pytest.mark.some(family=1, seed=2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_earn_no_role(family, seed) -> None:
    model = reading_model(family, seed, bos=bool(seed))
    found = on_text(model) | {name: get_role(name)(model) for name in ON_REPEATS}
    assert set(found) == {*ON_TEXT, *ON_REPEATS}
    earned = {name: int(scores.earned().sum()) for name, scores in found.items()}
    assert earned == dict.fromkeys(found, 0)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
def test_roles_equal_a_slow_reading_of_the_patterns(family) -> None:
    model = reading_model(family, bos=True)
    texts = FEW[:3]
    prompts = passages(model, texts, 20)
    assert (prompts.tokens[:, 0] == 1).all() and prompts.tokens.shape == (3, 20), "text begins with the tokenizer's own BOS"
    sink, span, local = (get_role(name, {"texts": texts, "length": 20})(model) for name in ("sink", "span", "locality"))
    for row, tokens in enumerate(prompts.tokens):
        pattern = model.capture(torch.tensor(tokens[None]), [Site.PATTERN])[Site.PATTERN][0].double().numpy()
        for layer, head in np.ndindex(3, 4):
            one = pattern[layer, head]
            assert sink.values[row, layer, head] == pytest.approx(one[:, 0].mean())
            far = sum(one[t, s] * (t - s) for t in range(20) for s in range(t + 1)) / sum(one[t].sum() * t for t in range(20))
            assert span.values[row, layer, head] == pytest.approx(far)
            near = sum(one[t, s] for t in range(10, 20) for s in range(t - 9, t + 1)) / one[10:].sum()
            assert local.values[row, layer, head] == pytest.approx(near)
        if family != "llama":  # the first layer sees four tokens
            assert (local.values[row, 0] == 1).all() and (local.reference[row, 0] == 1).all()
            assert (span.values[row, 0] <= sum(min(t, 3) for t in range(20)) / 190 * (1.3 if family == "gpt_oss" else 1)).all()
        if family == "gpt_oss":
            assert (pattern.sum(-1) < 0.999).mean() > 0.9, "a share of the softmax goes to no key"


def test_heads_behind_a_window_have_no_far_role() -> None:
    model = reading_model("gemma3")
    found = get_role("induction")(model)
    local = [layer for layer in range(3) if (found.values[:, layer] == 0).all()]
    assert local == [0, 2], "the copy lies outside a window of 4 tokens, the middle layer sees everything"
    assert (found.reference[:, local] == 0).all() and (found.p_values()[local] == 1).all()
    receives = on_text(model, ["receiver"])["receiver"]
    assert (receives.values[:, local] == 0).all()


def test_roles_read_together_are_those_read_alone() -> None:
    model = reading_model("llama")
    together = on_text(model)
    for name in ON_TEXT:
        alone = get_role(name, {"texts": FEW})(model)
        np.testing.assert_array_equal(alone.values, together[name].values)
        np.testing.assert_array_equal(alone.reference, together[name].reference)
        assert alone.provenance == together[name].provenance
    with pytest.raises(BadParameterError, match="different prompts"):
        read_together(model, [get_role("sink", {"texts": FEW}), get_role("span", {"texts": FEW[:9]})])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_patterns_kept_from_the_first_pass_are_those_of_a_second_and_prompts_are_run_once(family, monkeypatch) -> None:
    model, runs = reading_model(family), []
    capture = type(model).capture
    monkeypatch.setattr(type(model), "capture", lambda self, *given, **named: runs.append(given[0].shape) or capture(self, *given, **named))
    kept = on_text(model, ["positional", "sink"])
    once = len(runs)
    for off in ("_HELD", "triu"):
        with monkeypatch.context() as patch:
            runs.clear()
            if off == "_HELD":
                patch.setattr("circuitlab.methods.roles.reading._HELD", 0)
            else:  # a model that looks ahead
                patch.setattr(torch.Tensor, "triu", lambda self, _above: self)
            again = on_text(model, ["positional", "sink"])
        assert len(runs) == 2 * once, "what does not fit, or is more than the lower triangle, is run again"
        for name, one in kept.items():
            np.testing.assert_array_equal(one.values, again[name].values)


def test_pieces_do_not_change_what_is_measured(monkeypatch) -> None:
    model = reading_model("gemma3")
    whole = on_text(model)
    monkeypatch.setattr("circuitlab.methods.roles.reading._CHUNK", 1)
    for name, scores in on_text(model).items():
        np.testing.assert_allclose(scores.values, whole[name].values, atol=1e-9)


def test_repeated_tokens_differ_leave_special_ones_out_and_fit_the_model() -> None:
    prompts = repeated_tokens(reading_model("gpt2", bos=True), 40, 2, 5, seed=3)
    assert prompts.tokens.shape == (5, 63), "31 tokens twice and a BOS in 64 positions"
    assert (prompts.tokens[:, 0] == 1).all() and not np.isin(prompts.tokens[:, 1:], [0, 1]).any()
    np.testing.assert_array_equal(prompts.tokens[:, 1:32], prompts.tokens[:, 32:])
    assert all(len(set(row[1:32])) == 31 for row in prompts.tokens.tolist())
    assert (repeated_tokens(tiny_model("llama"), 60, 2, 2, seed=0).tokens < 48).all(), "the vocabulary holds 48"
    small = build_planted("induction-gqa").model
    assert repeated_tokens(small, 40, 2, 2, seed=0).tokens.shape == (2, 16), "and here 8"


def test_delimiters_are_told_by_the_tokenizer() -> None:
    model = reading_model("llama", bos=True)
    prompts = get_role("delimiter", {"texts": FEW}).prompts(model)
    texts = [[model.tokenizer.decode([token]) for token in row] for row in prompts.tokens.tolist()]
    marked = {text for row, marks in zip(texts, prompts.marked, strict=True) for text, mark in zip(row, marks, strict=True) if mark}
    assert marked <= set("\n.,;:!'\"-()?") and {".", ",", "\n"} <= marked
    plain = {text for row, marks in zip(texts, prompts.marked, strict=True) for text, mark in zip(row, marks, strict=True) if not mark}
    assert not plain & marked and {"^", " ", "a"} <= plain, "a special token is no delimiter"


def test_what_a_model_lacks_is_refused_before_anything_runs(monkeypatch) -> None:
    mute = tiny_model("llama")
    with pytest.raises(ModelError, match="sink cannot run on this model: tiny-llama has no tokenizer"):
        get_role("sink")(mute)
    blind = tiny_model("mamba")
    with pytest.raises(ModelError, match="no site 'pattern'"):
        get_role("induction")(blind)
    monkeypatch.setattr(type(mute), "capture", lambda *_a, **_k: pytest.fail("it ran"))
    with pytest.raises(ModelError, match="no tokenizer"):
        get_role("positional")(mute)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("induction", {"length": 3}, "length=3, copies=2, rows=16"),
        ("echo", {"copies": 1}, "copies=1"),
        ("previous_token", {"rows": 1}, "rows=1"),
        ("sink", {"length": 15}, "length=15"),
        ("locality", {"window": 64}, "window=64 of 64"),
    ],
)
def test_what_measures_nothing_is_refused(name, params, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        get_role(name, params)


def test_texts_that_are_too_short_are_left_out_and_said_if_none_is_left() -> None:
    model = reading_model("llama")
    assert passages(model, ("too short", *FEW[:2]), 30).tokens.shape == (2, 30)
    with pytest.raises(BadParameterError, match="1 of 3 texts have 30 tokens or more"):
        get_role("sink", {"texts": ("too short", "no", FEW[0]), "length": 30})(model)


def test_a_small_model_is_refused_with_its_numbers(monkeypatch) -> None:
    model = reading_model("gpt2")
    monkeypatch.setattr(type(model), "spec", msgspec.structs.replace(model.spec, n_ctx=7))
    with pytest.raises(BadParameterError, match="tiny-gpt2 has 7 positions"):
        get_role("sink", {"texts": FEW})(model)
    with pytest.raises(BadParameterError, match="47 tokens and 7 positions: too few to repeat 4 tokens 4 times"):
        Echo()(model)


def test_heads_of_even_attention_are_not_told_from_chance_by_rounding(monkeypatch) -> None:
    model = reading_model("llama")
    shared = np.random.default_rng(1).normal(size=(96, 96))

    def almost_even(_self, tokens, _sites):
        length = tokens.shape[1]
        pattern = patterns.triangle(length) / np.arange(1, length + 1)[:, None] * (1 + 1e-7 * shared[:length, :length])
        return {Site.PATTERN: torch.tensor(pattern).float().expand(len(tokens), 3, 4, -1, -1)}

    monkeypatch.setattr(type(model), "capture", almost_even)
    found = on_text(model) | {name: get_role(name)(model) for name in ON_REPEATS}
    for name, scores in found.items():
        assert (scores.values == scores.reference).all() and (scores.p_values() == 1).all(), name
    assert (found["positional"].values == 0).all() and found["span"].value == pytest.approx(0.5)


def test_every_role_on_patterns_says_what_it_needs() -> None:
    mine = {name: cls for name, cls in role_classes().items() if issubclass(cls, ReadsPatterns)}
    assert sorted(mine) == sorted([*ON_REPEATS, *ON_TEXT])
    for cls in mine.values():
        assert cls.sites == (Site.PATTERN,) and cls.kind == "attention"
