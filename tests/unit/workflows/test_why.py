"""Why a head looks and reads where it does: on planted heads, on edited models, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import AdditivityError, BadParameterError, ModelError, TokenizationError, UnknownNameError
from circuitlab.core.nodes import KVHead
from circuitlab.execute.upstream import Upstream
from circuitlab.methods import LogitAttribution
from circuitlab.metrics import LogitDiff
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.hooked import HookedModel
from circuitlab.model.interventions import Add, EditPattern, Knockout, Scale
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import shared_tiny_model, tiny_model

TOKENS = [3, 17, 5, 40, 22, 9, 30, 11]


@pytest.fixture(scope="module", params=["induction-gqa", "induction-mha"])
def planted(request):
    return build_planted(request.param)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def largest(shares: dict[str, float]) -> str:
    return max(shares, key=lambda name: abs(shares[name]))


def test_an_induction_heads_key_names_the_previous_token_head(planted) -> None:
    batch = planted.batch(6)
    for why in cl.why_attends(planted.model, "a1.h2", batch, query="END", key="AFTER"):
        assert why.weight > 0.9
        assert why.top(1)[0][:2] == ("embed", "a0.h1")
        assert largest(why.edge("a0.h1->a1.h2<k>")) == "embed"
    for why in cl.why_attends(planted.model, "a1.h2", batch, query="END", key="AFTER", against="others"):
        shares = why.loadings("k")
        assert largest(shares) == "a0.h1" and largest(why.loadings("q")) == "embed"
        assert shares["a0.h1"] > 0.9 * why.score > 5
    rival = cl.why_attends(planted.model, "a1.h2", batch, query="END", key="AFTER_RIVAL", against="AFTER")
    assert all(one.loadings("k")["a0.h1"] < -5 for one in rival)


def test_an_edge_is_a_row_or_a_column(llama) -> None:
    why = cl.why_attends(llama, "a2.h3", TOKENS, key=4)
    place = why.writers.index("a1.h0")
    assert list(why.edge("a1.h0->a2.h3<k>").values()) == why.matrix[:, place].tolist()
    assert why.edge("a1.h0->a2.kv1<k>") == why.edge("a1.h0->a2.h3<k>")
    assert list(why.edge("a1.h0->a2.h3<q>").values()) == why.matrix[place].tolist()
    assert sum(why.edge("a1.h0->a2.h3<k>").values()) == pytest.approx(why.loadings("k")["a1.h0"])
    assert why.kv_head == KVHead(2, 1)
    for wrong in ("a1.h0->a2.h3<v>", "a1.h0->a2.h2<k>", "a1.h0->a2.kv0<k>", "a1.h0->m2"):
        with pytest.raises(BadParameterError, match=r"does not end at the query or key of a2\.h3"):
            why.edge(wrong)
    with pytest.raises(UnknownNameError, match=r"Unknown writer 'a1\.h7'"):
        why.edge("a1.h7->a2.h3<k>")
    with pytest.raises(BadParameterError, match="no side of a score"):
        why.loadings("v")


def test_loadings_of_several_prompts_are_those_of_each(planted) -> None:
    batch = planted.batch(5)
    alone = cl.why_attends(planted.model, "a1.h2", batch, query="END", key="AFTER", against="others")
    found = cl.edge_loadings(planted.model, "a1.h2<k>", batch, query="END", key="AFTER", against="others")
    assert found.values.shape == (5, len(found.writers))
    np.testing.assert_allclose(found.values, [list(one.loadings("k").values()) for one in alone])
    np.testing.assert_allclose(found.values.sum(1), found.scores, atol=1e-4)
    name, mean, low, high = found.top(1)[0]
    assert name == "a0.h1" and low < mean < high and low > 5
    through = cl.edge_loadings(planted.model, "a0.h1->a1.h2<k>", batch, query="END", key="AFTER", against="others")
    np.testing.assert_allclose(through.values.sum(1), found.values[:, found.writers.index("a0.h1")])
    assert "a0.h1->a1.h2<k>" in repr(through) and "5 prompts" in repr(through) and "a0.h1" in found._repr_html_()
    for wrong in ("a1.kv0<k>", "a1.h2", "a1.h2<v>", "m1", "a0.h1->a1.h2<v>", "a0.h1->m1"):
        with pytest.raises(BadParameterError, match="is no query or key of a query head"):
            cl.edge_loadings(planted.model, wrong, batch, key=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2"])
def test_reads_of_all_keys_are_the_heads_direct_share(family: str) -> None:
    """Weight times value, summed over keys, is what logit attribution gives the head: two ways to one number."""
    model = shared_tiny_model(family)
    batch = ContrastBatch.from_tokens([TOKENS], [[*TOKENS[:3], 7, *TOKENS[4:]]], [[12]], [[31]])
    wanted = LogitAttribution()(model, batch, LogitDiff()).values("heads")[0, 2]
    for head in (0, 3):
        keys = (model.attention(f"a2.h{head}", TOKENS).values[7] > 0).nonzero()[0].tolist()
        reads = [cl.why_reads(model, f"a2.h{head}", TOKENS, key=key, along=(12, 31)) for key in keys]
        assert sum(read.weight * read.total for read in reads) == pytest.approx(wanted[head], abs=1e-4)
        assert reads[0].direction == "the logit of '12' minus '31'"
    assert np.abs(wanted).max() > 1e-2


def test_a_direction_of_the_stream_is_read_through_the_output_projection(llama) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    read = cl.why_reads(llama, "a1.h2", TOKENS, key=3, along=direction.numpy())
    value = llama.capture(torch.tensor([TOKENS]), [Site.V], layers=[1])[Site.V][0, 0, 3, 1]
    assert read.total == pytest.approx(float(value @ llama.weights.output(1)[2] @ direction), rel=1e-4)
    assert read.direction == "the direction given" and abs(read.residual) < 1e-4
    with pytest.raises(BadParameterError, match=r"shape \(5,\) was given; the residual stream has 32"):
        cl.why_reads(llama, "a1.h2", TOKENS, key=3, along=np.zeros(5))
    with pytest.raises(BadParameterError, match="along names 3 tokens"):
        cl.why_reads(llama, "a1.h2", TOKENS, key=3, along=[1, 2, 3])
    with pytest.raises(TokenizationError, match="has no tokenizer"):
        cl.why_reads(llama, "a1.h2", TOKENS, key=3, along=" Paris")


def test_a_read_names_who_put_it_there(planted) -> None:
    """An induction head copies the token that it looks at; what stands there of the token before, the previous-token head brought."""
    for read in cl.why_reads(planted.model, "a1.h2", planted.batch(3), query="END", key="AFTER"):
        assert read.top(1)[0][0] == "embed" and read.by_token()[read.key][2] > 0.9 * read.total > 0
    one = planted.batch(1)
    before = cl.why_reads(planted.model, "a0.h1", one, query="AFTER", key="FIRST")[0]
    assert before.top(1)[0][0] == "embed" and before.weight > 0.9


def test_sources_of_a_head_are_the_tokens_that_it_attends_to(llama) -> None:
    read = cl.why_reads(llama, "a2.h1", TOKENS, key=5)
    for name in ("a0.h0", "a1.h3"):
        row, looked = read.sources[read.writers.index(name)], llama.attention(name, TOKENS).values[5]
        assert (row[looked == 0] == 0).all() and (row[looked > 1e-3] != 0).all()
    cut = llama.edited(EditPattern("a0.h0", "block", keys=[2]))
    changed = cl.why_reads(cut, "a2.h1", TOKENS, key=5)
    assert changed.sources[changed.writers.index("a0.h0"), 2] == 0 and read.sources[read.writers.index("a0.h0"), 2] != 0
    np.testing.assert_allclose(changed.sources.sum(1), changed.shares, atol=1e-5)


def test_edits_are_followed_named_or_refused(llama) -> None:
    plain = cl.why_attends(llama, "a2.h1", TOKENS, key=5)
    louder = cl.why_attends(llama.edited(Scale("a2.h1", 2.0, site="q")), "a2.h1", TOKENS, key=5)
    assert louder.writers == (*plain.writers, "edit")
    assert louder.score == pytest.approx(2 * plain.score, rel=1e-4) and abs(louder.residual) < 1e-4
    np.testing.assert_allclose(louder.matrix[:-1, :-1], plain.matrix, atol=1e-5)
    assert louder.loadings("q")["edit"] == pytest.approx(plain.score, rel=1e-4)
    values = cl.why_reads(llama.edited(Scale("a2.kv0", 3.0, site="v")), "a2.h1", TOKENS, key=5)
    assert values.writers[-1] == "edit" and values.total == pytest.approx(3 * cl.why_reads(llama, "a2.h1", TOKENS, key=5).total, rel=1e-4)
    without = llama.edited(Knockout("a1.h0"))
    why = cl.why_attends(without, "a2.h1", TOKENS, key=5)
    assert abs(why.residual) < 1e-4 and why.loadings("k")["a1.h0"] == 0 and why.score != pytest.approx(plain.score)
    read = cl.why_reads(without, "a2.h1", TOKENS, key=5)
    assert read.sources is None and read.by_token() == []
    added = llama.edited(Add("r1.post", torch.ones(32)))
    with pytest.raises(ModelError, match="no longer the sum of what heads, MLPs and the embedding write"):
        cl.why_attends(added, "a2.h1", TOKENS, key=5)
    assert abs(cl.why_attends(added, "a1.h1", TOKENS, key=5).residual) < 1e-4  # below the edit the stream is a sum of writes


def test_what_cannot_be_split_is_refused_by_name(llama) -> None:
    with pytest.raises(ModelError, match="cannot be split: Layer 0 of tiny-gptj cannot be taken apart: its attention is of a kind"):
        cl.why_attends(tiny_model("gptj"), "a1.h0", TOKENS, key=0)
    with pytest.raises(ModelError, match="no site 'q'"):
        cl.why_reads(tiny_model("mamba"), "a1.h0", TOKENS, key=0)
    for head, said in (("m1", "not an attention head"), ("a3.h0", "no a3.h0"), ("a1.h4", "no a1.h4")):
        with pytest.raises(BadParameterError, match=said):
            cl.why_attends(llama, head, TOKENS, key=0)
    with pytest.raises(BadParameterError, match="position 3 at position 5, which comes later"):
        cl.why_attends(llama, "a1.h0", TOKENS, query=3, key=5)
    with pytest.raises(BadParameterError, match="lies outside what layer 0 sees"):
        cl.why_attends(tiny_model("gemma3"), "a0.h0", TOKENS, key=2)
    with pytest.raises(BadParameterError, match="Position 9 was asked for in a prompt of 8 tokens"):
        cl.why_attends(llama, "a1.h0", TOKENS, key=9)
    with pytest.raises(BadParameterError, match="have no marks"):
        cl.why_attends(llama, "a1.h0", TOKENS, key="END")
    with pytest.raises(BadParameterError, match="sees no key but 0"):
        cl.why_attends(llama, "a1.h0", TOKENS, query=0, key=0, against="others")


def test_a_wrong_sum_and_another_attention_are_noticed(llama, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        own = Upstream.writes
        patch.setattr(Upstream, "writes", lambda self, at: (some * 1.01 for some in own(self, at)))
        with pytest.raises(AdditivityError, match="its terms miss it by"):
            cl.why_attends(llama, "a2.h1", TOKENS, key=5)
        with pytest.raises(AdditivityError, match="The value of head 0 in layer 2"):
            cl.why_reads(llama, "a2.h1", TOKENS, key=5)
    read = HookedModel.capture
    monkeypatch.setattr(
        HookedModel,
        "capture",
        lambda self, tokens, sites, **named: {site: value + 0.1 for site, value in read(self, tokens, sites, **named).items()},
    )
    with pytest.raises(ModelError, match=r"is 0\.1 away from that of tiny-llama itself"):
        cl.why_attends(llama, "a2.h1", TOKENS, key=5)


def test_results_show_themselves_and_are_plain_data(llama) -> None:
    why = cl.why_attends(llama, "a2.h1", TOKENS, query=-2, key=-4, against=1)
    assert (why.query, why.key, why.against) == (6, 4, 1)
    text = repr(why)
    assert "Why a2.h1 looks from 6 '30' at 4 '22', against 1 '17'" in text and "norm at the query" in text
    assert f"{why.top(1)[0][2]:+.3f}" in text and why.top(1)[0][0] in why._repr_html_()
    data = json.loads(json.dumps(why.to_dict()))
    assert data["score"] == why.score and np.array(data["matrix"]).shape == (12, 12) and data["against"] == 1
    capped = cl.why_attends(tiny_model("gemma2"), "a1.h1", TOKENS, key=5)
    assert capped.softcap == 20 and "before the softcap of 20" in repr(capped)
    biased = cl.why_attends(tiny_model("bloom"), "a1.h1", TOKENS, key=5)
    assert biased.position and "a position bias of" in repr(biased) and "is no writer" in biased._repr_html_()
    read = cl.why_reads(llama, "a2.h1", TOKENS, key=4, along=7)
    assert "What a2.h1 reads at 4 '22', along the logit of '7'" in repr(read) and "one step back" in read._repr_html_()
    assert json.loads(json.dumps(read.to_dict()))["total"] == read.total
    several = cl.why_attends(llama, "a2.h1", [TOKENS, TOKENS[:6]], key=3)
    assert isinstance(several, tuple) and [len(one.tokens) for one in several] == [8, 6]
    assert dataclasses.replace(why, score=1.0).residual == pytest.approx(1.0 - why.matrix.sum())
