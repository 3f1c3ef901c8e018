"""The card of a head: planted heads' cards say what they are, every number is that of its own call, and what is not known says why."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.execute.effective_ov import EffectiveOV
from circuitlab.methods.roles.copying import Copying
from circuitlab.methods.sae.counts import code_agreement
from circuitlab.metrics import LogitDiff
from circuitlab.model.interventions import Knockout, Scale
from circuitlab.model.toy import build_planted
from circuitlab.scores.intervals import mean_interval
from circuitlab.testing.surgery import kill_head
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model
from circuitlab.workflows.card_parts import Asked, attention_of, continuations_of, knockouts_of, why_of
from circuitlab.workflows.card_runs import CardRuns

KEYS = {"head", "kv_head", "model", "weights", "tasks", "causal", "roles", "tokens", "why", "attention", "knockout"}
KEYS |= {"continuations", "similar", "text"}
SECTIONS = KEYS - {"head", "kv_head", "model", "weights", "tasks"}


@pytest.fixture(scope="module")
def copying():
    return build_planted("copy-gqa")


@pytest.fixture(scope="module")
def card(copying):
    roles = ["previous_token", "induction", "duplicate_token", "sink"]
    return cl.head_card(copying.model, "a1.h1", [copying.batch(6)], roles=roles)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def test_the_card_of_a_planted_copy_head_says_so(copying, card) -> None:
    assert str(card.head) == "a1.h1" and str(card.kv_head) == "a1.kv0" and card.tasks == ("batch 1",)
    assert [(one.method, one.rank, one.heads) for one in card.causal.entries] == [
        ("activation_patching", 1, 8),
        ("logit_attribution", 1, 8),
    ]
    assert all(one.low > 0 and one.q < 0.001 and one.n_pairs == 6 for one in card.causal.entries)
    (knocked,) = card.knockout.entries
    assert knocked.change["high"] < 0 and knocked.without["mean"] < 0 < knocked.clean["low"]
    (text,) = card.continuations.entries
    content = text.prompt.split()[int(copying.batch(6).marks["CONTENT"][0])]
    assert set(text.with_head.split()) == {content} and not text.same
    read = card.tokens.entries[0]
    assert (read.token, read.promoted[0], read.rank) == (content, content, 1) and read.rank < read.null_low
    (looks,) = card.attention.entries
    assert looks.keys[0].clean_token == content and looks.keys[0].clean > 0.99 and looks.keys[0].corrupt_token != content


def test_the_head_that_writes_against_it_has_the_opposite_card(copying) -> None:
    card = cl.head_card(copying.model, "a1.h2", copying.batch(6), "logit_attribution", roles=[])
    (score,), (knocked,), read = card.causal.entries, card.knockout.entries, card.tokens.entries[0]
    assert score.high < 0 < knocked.change["low"] and score.rank == 2
    assert read.rank == read.vocabulary == 10 and read.suppressed[0] == read.token and read.rank > read.null_high


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_an_induction_heads_card_names_the_head_that_tells_it_where_to_look(form: str) -> None:
    planted = build_planted(f"induction-{form}")
    card = cl.head_card(planted.model, "a1.h2", planted.batch(6), "activation_patching", roles=["induction", "previous_token"])
    assert card.earned() == ["induction"]
    (why,) = card.why.entries
    assert (why.terms[0].query_writer, why.terms[0].key_writer) == ("embed", "a0.h1") and why.key == int(planted.batch(6).marks["AFTER"][0])


def test_scores_and_roles_are_those_of_their_own_calls(copying, card) -> None:
    batch, model = copying.batch(6), copying.model
    for one in card.causal.entries:
        scores = cl.score(model, batch, one.method)
        own = scores["a1.h1"]
        assert (one.mean, one.low, one.high, one.run_id) == (own.mean, own.low, own.high, scores.provenance.run_id())
        means = np.abs(scores.mean())
        assert one.rank == 1 + int((means > means[1, 1]).sum())
    table = cl.roles(model, ["previous_token", "induction", "duplicate_token", "sink"])
    rows = {role: next(one for one in table.entries(role) if str(one.node) == "a1.h1") for role in table.scores}
    assert {one.role for one in card.roles.entries} == set(rows) and set(card.roles.absent) == {"sink"}
    for one in card.roles.entries:
        own = rows[one.role]
        assert (one.value, one.low, one.high, one.chance, one.q, one.earned) == (
            own.value,
            own.low,
            own.high,
            own.chance,
            own.q,
            own.earned,
        )
        assert one.rank == 1 + sum(other.value > own.value for other in table.entries(one.role)) and one.heads == 8


def test_looking_and_knocking_out_are_those_of_their_own_calls(copying, card) -> None:
    batch, model = copying.batch(6), copying.model
    first = batch.select([0])
    clean = model.attention("a1.h1", first)[0].values[-1]
    corrupt = model.attention("a1.h1", dataclasses.replace(first, clean=first.corrupt))[0].values[-1]
    for key in card.attention.entries[0].keys:
        assert (key.clean, key.corrupt) == (clean[key.position], corrupt[key.position])
        assert key.difference == pytest.approx(key.clean - key.corrupt)
    (why,) = card.why.entries
    own = cl.why_attends(model, "a1.h1", first.clean[0].tolist(), query=-1, key=int(clean.argmax()), against="others")
    assert (why.score, why.weight, why.key) == (own.score, own.weight, own.key)
    assert [(one.query_writer, one.key_writer, one.term) for one in why.terms] == own.top(6)
    for found, shares in ((why.query_loadings, own.loadings("q")), (why.key_loadings, own.loadings("k"))):
        assert [one.share for one in found] == sorted(shares.values(), key=lambda share: -abs(share))[:6]
        assert all(shares[one.writer] == one.share for one in found)
    edited = model.edited(Knockout("a1.h1", "mean", batch=batch))
    values = [LogitDiff()(one.logits(batch.clean, batch.end), batch).double().numpy() for one in (model, edited)]
    (knocked,) = card.knockout.entries
    for found, wanted in zip((knocked.clean, knocked.without, knocked.change), (*values, values[1] - values[0]), strict=True):
        assert found == pytest.approx(mean_interval(wanted).as_dict(), abs=1e-5)


def test_ranks_through_the_weights_are_those_of_the_whole_vocabulary(llama) -> None:
    card = cl.head_card(llama, "a1.h2", tokens=[5, 11], methods=[], roles=[])
    vocabulary = torch.arange(llama.spec.d_vocab)
    logits = EffectiveOV.of(llama, vocabulary, "stream").logits(1, vocabulary)[2]
    for one in card.tokens.entries:
        row, token = logits[one.token_id], one.token_id
        order = row.argsort(descending=True).tolist()
        assert one.rank == order.index(token) + 1 and [int(name) for name in one.promoted] == order[:8]
        assert [int(name) for name in one.suppressed] == order[::-1][:8]
        others = [source for source in range(len(vocabulary)) if source not in {5, 11}]
        null = np.array([1 + int((logits[source] > logits[source, token]).sum()) for source in others])
        assert one.n_null == len(others) and one.null_median == np.median(null)
        tails = (null <= one.rank).sum() + 1, (null >= one.rank).sum() + 1
        assert one.p == pytest.approx(min(1, 2 * min(tails) / (len(null) + 1)))


def test_heads_like_it_go_by_cosine(llama) -> None:
    card = cl.head_card(llama, "a1.h2", methods=[], roles=["previous_token", "induction", "duplicate_token", "echo"])
    vocabulary = torch.arange(llama.spec.d_vocab)
    circuit = EffectiveOV.of(llama, vocabulary, "stream")
    written = torch.cat([circuit.written(layer) for layer in range(llama.spec.n_layers)])
    flat = (written - written.mean(1, keepdim=True)).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(flat, flat[1 * 4 + 2][None]).numpy()
    values = np.stack(
        [one.value.ravel() for one in cl.roles(llama, ["previous_token", "induction", "duplicate_token", "echo"]).scores.values()]
    )
    profile = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    by_role = profile.T @ profile[:, 6] / np.linalg.norm(profile, axis=0) / np.linalg.norm(profile[:, 6])
    for by, wanted in (("ov", cosines), ("roles", by_role)):
        found = [one for one in card.similar.entries if one.by == by]
        order = [at for at in np.argsort(-wanted) if at != 6][:5]
        assert [one.head for one in found] == [f"a{at // 4}.h{at % 4}" for at in order]
        assert [one.similarity for one in found] == pytest.approx([float(wanted[at]) for at in order], abs=1e-4)
        assert [one.rank for one in found] == [1, 2, 3, 4, 5] and {one.heads for one in found} == {11}


def test_heads_with_the_same_codes_are_alike_where_codes_are_learned(tmp_path, copying) -> None:
    """The copy of a head has its codes on every prompt; codes are learned once, for all heads, and only where they are asked for."""
    twins = twin_heads(copying)
    batch = copying.batch(6)
    before = cl.head_card(twins, "a1.h1", batch, [], roles=[], store=tmp_path)
    assert "--codes" in before.similar.absent["codes, batch 1"] and {one.by for one in before.similar.entries} == {"ov"}
    card = cl.head_card(twins, "a1.h1", batch, [], roles=[], codes=True, store=tmp_path)
    first, second = [one for one in card.similar.entries if one.by == "codes"][:2]
    assert (first.head, first.rank, first.similarity) == ("a1.h0", 1, 1.0) and second.similarity < 1
    assert set(card.similar.absent) == {"roles"} and ">codes<" in card.page()
    sample = cl.methods.CodeOverlap().sample(twins, batch)
    codes = np.concatenate([sample.positive, sample.negative], 1)[:, :, 0]
    assert first.similarity == pytest.approx(code_agreement(list(codes), 5)[4])
    again = cl.head_card(twins, "a1.h0", batch, [], roles=[], store=tmp_path)
    alike = [one.head for one in again.similar.entries if one.by == "codes"]
    assert alike[0] == "a1.h1", "stored codes need not be asked for"
    other = cl.head_card(twins, "a1.h1", copying.batch(5), [], roles=[], store=tmp_path)
    assert "codes, batch 1" in other.similar.absent, "codes of other prompts are not used"


def test_codes_that_cannot_be_compared_are_refused_with_the_reason(copying, monkeypatch) -> None:
    dead = cl.load_model(kill_head(copy.deepcopy(copying.model.root), 1, 3), name="dead")
    card = cl.head_card(dead, "a1.h3", copying.batch(4), [], roles=[], codes=True)
    assert card.similar.absent["codes"] == "a1.h3 has one code on all prompts, so that its codes sort nothing."
    monkeypatch.setattr("circuitlab.workflows.card_codes._LEAST_EXPLAINED", 1.1)
    card = cl.head_card(copying.model, "a1.h1", copying.batch(4), [], roles=[], codes=True)
    assert "their codes mean little" in card.similar.absent["codes, batch 1"]
    assert cl.head_card(copying.model, "a1.h1", [], [], roles=[]).similar.absent["codes"] == "No task was given."
    mamba = tiny_model("mamba")
    assert "attention" in cl.head_card(mamba, "a1.h0", tiny_batch(mamba, 3), [], roles=[]).similar.absent["codes, batch 1"]


def twin_heads(planted):
    """The planted model with the first head of layer 1 made the same as its copying head, whose keys and values it shares."""
    hf = copy.deepcopy(planted.model.root)
    attention, width = hf.model.layers[1].self_attn, planted.model.spec.d_head
    with torch.no_grad():
        attention.q_proj.weight[:width] = attention.q_proj.weight[width : 2 * width]
        attention.o_proj.weight[:, :width] = attention.o_proj.weight[:, width : 2 * width]
    return cl.load_model(hf, name="twins")


def test_what_is_not_known_says_why(llama) -> None:
    card = cl.head_card(llama, "a1.h2", roles=["sink"])
    for name in ("causal", "why", "attention", "knockout", "continuations"):
        section = getattr(card, name)
        assert section.entries == () and section.absent == {"tasks": "No task was given."}, name
    assert card.tokens.absent == {"tokens": "No task was given, and no token."}
    assert "has no tokenizer" in card.roles.absent["sink"] and "a profile needs 3" in card.similar.absent["roles"]
    assert {one.by for one in card.similar.entries} == {"ov"}


def test_a_model_that_cannot_be_taken_apart_has_the_rest_of_a_card() -> None:
    model = tiny_model("gptj")
    card = cl.head_card(model, "a1.h1", tiny_batch(model, 3), "logit_attribution", roles=[])
    assert card.causal.entries and card.attention.entries and card.knockout.entries
    assert card.why.entries == card.tokens.entries == ()
    for reason in (card.why.absent["batch 1"], card.tokens.absent["weights"], card.similar.absent["ov"]):
        assert "Layer 0 of tiny-gptj cannot be taken apart" in reason


def test_a_model_without_attention_has_a_card_of_reasons() -> None:
    model = tiny_model("mamba")
    card = cl.head_card(model, "a1.h0", tiny_batch(model, 3), roles=["previous_token"])
    for name in SECTIONS:
        section = getattr(card, name)
        assert section.entries == () and section.absent, name
    assert "no attention patterns" in card.attention.absent["batch 1"] and "<h3>Roles</h3>" in card._repr_html_()


def test_an_edited_model_has_no_weights_to_read() -> None:
    model = tiny_model("llama")
    card = cl.head_card(model.edited(Knockout("a0.h0")), "a1.h1", tiny_batch(model, 3), "activation_patching", roles=["copying"])
    assert card.causal.entries and card.attention.entries and card.knockout.entries and card.tokens.entries == ()
    for reason in (card.tokens.absent["weights"], card.similar.absent["ov"], card.roles.absent["copying"]):
        assert "is edited" in reason


def test_a_task_whose_words_the_model_lacks_is_absent_everywhere(llama) -> None:
    card = cl.head_card(llama, "a1.h1", ["ioi"], roles=[])
    assert card.tasks == ("ioi",)
    for name in SECTIONS - {"roles", "similar", "text"}:
        assert "has no tokenizer" in getattr(card, name).absent["ioi"], name


def test_heads_that_tie_share_their_ranks() -> None:
    model = tiny_model("llama")
    card = cl.head_card(model, "a1.h2", roles=[Copying(words=tuple(range(8)), top=1)], methods=[])
    values = cl.roles(model, [Copying(words=tuple(range(8)), top=1)]).scores["copying"].value
    (role,) = card.roles.entries
    assert role.rank == 1 + int((values > role.value).sum()) and role.tied == int((values == role.value).sum()) - 1 > 0
    assert f">{role.rank} to {role.rank + role.tied} of 12<" in card.page()


def test_natural_text_is_shown_where_it_is_stored(tmp_path, monkeypatch) -> None:
    few = cl.texts.load_texts(n=4)
    monkeypatch.setattr("circuitlab.execute.text_rows.load_texts", lambda: few)
    words = sorted({word for one in few for word in one.text.split()})[:47]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *words])}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    model = cl.load_model(tiny_hf("llama"), tokenizer=tokenizer, name="reader")
    before = cl.head_card(model, "a1.h2", methods=[], roles=[], store=tmp_path)
    assert before.text.entries == () and "circuitlab heads text a1.h2" in before.text.absent["natural text"]
    stored = cl.head_on_text(model, "a1.h2", store=tmp_path)
    card = cl.head_card(model, "a1.h2", methods=[], roles=[], store=tmp_path)
    assert card.text.entries == (stored,) and not card.text.absent
    page = card.page()
    assert all(f">decile {number}<" in page for number in range(1, 11)) and f"At {stored.wins} positions" in page
    assert card.to_dict()["text"]["entries"][0]["deciles"][9]["number"] == 10


def test_json_has_the_same_keys_whatever_is_known(card, llama) -> None:
    empty = cl.head_card(llama, "a1.h2", methods=[], roles=[])
    for one in (card, empty):
        plain = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert set(plain) == KEYS
        assert all(set(plain[name]) == {"entries", "absent"} for name in SECTIONS)
    first = {name: set(card.to_dict()[name]["entries"][0]) for name in ("knockout", "attention", "why", "similar", "continuations")}
    assert first == {
        "knockout": {"task", "how", "metric", "units", "n_pairs", "clean", "without", "change"},
        "attention": {"task", "pair", "query", "query_token", "keys"},
        "why": {"task", "pair", "query", "query_token", "key", "key_token", "against", "weight", "score", "residual"}
        | {"query_loadings", "key_loadings", "terms"},
        "similar": {"by", "head", "similarity", "rank", "heads"},
        "continuations": {"source", "how", "prompt", "with_head", "without", "same"},
    }


def test_a_score_from_weights_alone_has_no_interval_and_no_q() -> None:
    """And it is scored once, not for every task."""
    model, batch = spelled()
    card = cl.head_card(model, "a1.h1", [batch, tiny_batch(model, 2, seed=1)], "copying_score", roles=[])
    (one,) = card.causal.entries
    assert one.task == "weights alone" and one.n_pairs == 0 and np.isnan([one.low, one.high, one.q]).all()
    assert one.mean == cl.score(model, method="copying_score")["a1.h1"].mean
    assert card.to_dict()["causal"]["entries"][0]["q"] is None


def spelled():
    """A tiny model whose tokens are HTML, and a batch for it."""
    hf = tiny_hf("llama")
    words = ["?", *(f"<script>alert({number})</script>" for number in range(hf.config.vocab_size - 1))]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = cl.load_model(hf, tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?"), name="tiny<b>")
    return model, tiny_batch(model, 3)


def test_tokens_are_text_on_the_page() -> None:
    model, batch = spelled()
    card = cl.head_card(model, "a2.h1", batch, roles=["previous_token"])
    for text in (card._repr_html_(), card.page()):
        assert "<script" not in text and "tiny<b>" not in text
        assert "&lt;script&gt;alert(" in text and "tiny&lt;b&gt;" in text
    assert "<!doctype html>" in card.page() and "<!doctype" not in card._repr_html_()


def test_a_page_shows_every_part_and_is_saved(card, tmp_path) -> None:
    text = card.save(tmp_path / "card.html").read_text(encoding="utf-8")
    for heading in (
        "What it does to the answer",
        "Without it",
        "Roles",
        "What it looks at",
        "Why it looks there",
        "What it writes",
        "Heads like it",
    ):
        assert f"<h3>{heading}</h3>" in text
    assert "rank 1 of 8" in repr(card) and "earns none, of 3 roles measured" in repr(card)
    assert card.causal.entries[0].run_id in text and "has no tokenizer" in text


def test_stored_scores_and_roles_are_found(copying, tmp_path, monkeypatch) -> None:
    first = cl.head_card(copying.model, "a1.h1", copying.batch(4), "logit_attribution", roles=["echo"], store=tmp_path)

    def computed(*_anything) -> None:
        raise AssertionError

    monkeypatch.setattr(cl.methods.LogitAttribution, "__call__", computed)
    monkeypatch.setattr("circuitlab.workflows.roles.read_together", computed)
    again = cl.head_card(copying.model, "a1.h1", copying.batch(4), "logit_attribution", roles=["echo"], store=tmp_path)
    assert (again.causal, again.roles) == (first.causal, first.roles)


@pytest.mark.parametrize(
    ("head", "error", "said"),
    [
        ("m1", BadParameterError, "m1 is not an attention head"),
        ("a1.kv0", BadParameterError, "a1.kv0 is not an attention head"),
        ("a9.h0", BadParameterError, "has 2 layers of 4 heads, and no a9.h0"),
        ("head", BadParameterError, "head"),
    ],
)
def test_what_is_no_head_is_refused(copying, head: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        cl.head_card(copying.model, head, copying.batch(2))


def test_unknown_names_and_empty_cards_are_refused(copying) -> None:
    with pytest.raises(UnknownNameError, match="activation_patchin"):
        cl.head_card(copying.model, "a1.h1", copying.batch(2), "activation_patchin")
    with pytest.raises(UnknownNameError, match="inductoin"):
        cl.head_card(copying.model, "a1.h1", copying.batch(2), roles=["inductoin"])
    with pytest.raises(BadParameterError, match="n=0 and pairs=1"):
        cl.head_card(copying.model, "a1.h1", n=0)


def test_cards_that_share_their_runs_are_those_made_alone_and_prompts_are_run_once(monkeypatch) -> None:
    planted = build_planted("copy-gqa")
    batches, heads, written, seen = {"copy": planted.batch(6)}, (Head(0, 1), Head(1, 1), Head(1, 2)), [], []
    generate, capture = type(planted.model).generate, type(planted.model).capture
    monkeypatch.setattr(type(planted.model), "generate", lambda self, *given: written.append(self.spec.edits) or generate(self, *given))
    monkeypatch.setattr(
        type(planted.model), "capture", lambda self, *given, **named: seen.append(self.spec.edits) or capture(self, *given, **named)
    )
    together = CardRuns(planted.model, heads)
    shared = [_sections(Asked(planted.model, head, batches, {}, 2, together)) for head in heads]
    runs = written.count(""), seen.count("")
    alone = [_sections(Asked(planted.model, head, batches, {}, 2)) for head in heads]
    assert (written.count("") - runs[0], seen.count("") - runs[1]) == (3 * runs[0], 3 * runs[1])
    for one, other in zip(shared, alone, strict=True):
        assert one[:-1] == other[:-1]
        assert one[-1] == pytest.approx(other[-1], abs=1e-5) and one[-1]


def _sections(asked: Asked) -> tuple:
    """Knocked out last: many rows in one product may be rounded otherwise than one."""
    return why_of(asked), attention_of(asked), continuations_of(asked, [1, 2, 3]), continuations_of(asked, None), _flat(knockouts_of(asked))


def _flat(section) -> dict[str, float]:
    """Intervals as numbers by name, which can be compared but for rounding."""
    rows = {one.task: dataclasses.asdict(one) for one in section.entries}
    names = ("clean", "without", "change")
    return {f"{task} {name} {end}": row[name][end] for task, row in rows.items() for name in names for end in row[name]}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_text_that_is_tried_first_is_the_text_that_the_edited_model_writes(family: str) -> None:
    """Whether an edit changes all of it, some, or nothing; on an edited model, too."""
    model, ids, kept = tiny_model(family), [3, 1, 4, 1, 5], set()
    for base in (model, model.edited(Knockout("a0.h0"))):
        runs = CardRuns(base, (Head(1, 1),))
        for factor in (1.0, 1.02, 1.2, 3.0, -30.0):
            edited = base.edited(Scale("m2", factor))
            own = edited.generate(ids, 12).ids
            assert runs.continued_on(edited, ids, 12) == own
            tried = runs.continued(ids, 12)
            kept.add(next((at for at, both in enumerate(zip(tried, own, strict=True)) if len(set(both)) > 1), 12))
    assert 12 in kept and len(kept) > 1, kept
